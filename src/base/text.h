/* SPDX-License-Identifier: MIT */
/* A growable byte string. data is always NUL-terminated once something was appended, so it can be
 * read as a C string; it may hold NUL bytes itself. An allocation failure is sticky: `failed` is
 * set and later appends do nothing, so a chain of appends needs one check at its end. */
#ifndef ZM_BASE_TEXT_H
#define ZM_BASE_TEXT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "base/error.h"

typedef struct zm_text {
    char *data; /* owned; NULL while empty */
    size_t size;
    size_t capacity;
    bool failed;
} zm_text;

void zm_text_append(zm_text *text, const char *bytes, size_t size);
void zm_text_append_string(zm_text *text, const char *string);
void zm_text_printf(zm_text *text, const char *format, ...) ZM_PRINTF(2, 3);
void zm_text_clear(zm_text *text); /* keeps the storage */
void zm_text_free(zm_text *text);  /* leaves an empty, usable text */
/* Hands the storage to the caller (free with free()) and empties text; NULL after a failure. */
char *zm_text_take(zm_text *text);
/* The bytes as a C string; "" while empty. */
const char *zm_text_string(const zm_text *text);

static inline bool zm_starts_with(const char *string, const char *beginning) {
    return !strncmp(string, beginning, strlen(beginning));
}

#endif
