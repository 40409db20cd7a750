/* SPDX-License-Identifier: MIT */
/* A place in a JSON document, with its path for errors: "tokenizer.json: model.merges[17]". */
#ifndef ZM_MODEL_TOKENIZER_FIELD_H
#define ZM_MODEL_TOKENIZER_FIELD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

typedef struct zm_field {
    json_t *value;    /* borrowed; NULL when absent or null */
    const char *file; /* borrowed */
    char path[120];   /* "" for the document */
} zm_field;

zm_field zm_field_get(const zm_field *object, const char *key);
zm_field zm_field_at(const zm_field *array, size_t index);

/* Fails at this place. */
zmlx_status zm_field_fail(const zm_field *field, zmlx_error *error, zmlx_status code, const char *format, ...)
    ZM_PRINTF(4, 5);

/* Fail with ZMLX_ERROR_FORMAT when the place holds something else, or nothing. */
zmlx_status zm_field_object(const zm_field *field, zmlx_error *error);
zmlx_status zm_field_array(const zm_field *field, zmlx_error *error);
/* Borrowed; may hold NUL bytes. */
zmlx_status zm_field_string(const zm_field *field, const char **text, size_t *size, zmlx_error *error);
zmlx_status zm_field_integer(const zm_field *field, int64_t *value, int64_t low, int64_t high,
                             zmlx_error *error);
/* fallback when absent. */
zmlx_status zm_field_bool(const zm_field *field, bool *value, bool fallback, zmlx_error *error);
/* Whether the place holds this string. */
bool zm_field_is(const zm_field *field, const char *text);

/* "file: path" for functions that take a place as text. */
const char *zm_field_where(const zm_field *field, char *buffer, size_t size);

#endif
