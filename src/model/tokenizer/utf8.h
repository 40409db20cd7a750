/* SPDX-License-Identifier: MIT */
/* UTF-8: reading, writing and repairing. */
#ifndef ZM_MODEL_TOKENIZER_UTF8_H
#define ZM_MODEL_TOKENIZER_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

/* Reads one character from size > 0 bytes and returns its length. Bytes that begin no character give
 * U+FFFD and the length of the longest prefix of a character there (at least 1), as Unicode recommends
 * and as Python and Rust do. *incomplete: the bytes end inside what may still become a character. */
size_t zm_utf8_read(const char *bytes, size_t size, uint32_t *code, bool *valid, bool *incomplete);

/* One character of text that is known to be UTF-8. */
size_t zm_utf8_next(const char *bytes, size_t size, uint32_t *code);
/* Start of the character before position at > 0 in such a text. */
size_t zm_utf8_before(const char *bytes, size_t at);

/* Writes a code point into 4 bytes; returns how many were used. */
size_t zm_utf8_write(char *bytes, uint32_t code);

/* Appends bytes with what is not UTF-8 replaced by U+FFFD. */
void zm_utf8_append_repaired(zm_text *text, const char *bytes, size_t size);
/* The same for bytes that may go on: returns how many were used; the rest is the beginning of a
 * character. */
size_t zm_utf8_append_complete(zm_text *text, const char *bytes, size_t size);

#endif
