/* SPDX-License-Identifier: MIT */
/* Character properties as the `tokenizers` package sees them, whatever version of Unicode the system's
 * PCRE2 and utf8proc know: its patterns follow Unicode 16, its normalisers an older version. */
#ifndef ZM_MODEL_TOKENIZER_UNICODE_H
#define ZM_MODEL_TOKENIZER_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The code points assigned after Unicode 14, up to 16, in order. */
typedef struct zm_later_range {
    uint32_t first, last;
    char category[3]; /* general category: "Lu", "Nd", ... */
} zm_later_range;
extern const zm_later_range zm_later_ranges[];
extern const size_t zm_later_range_count;

bool zm_unicode_space(uint32_t code);  /* White_Space */
bool zm_unicode_number(uint32_t code); /* general category N */
bool zm_unicode_word(uint32_t code);   /* Alphabetic, M, Nd, Pc or Join_Control */

/* The package's normalisers leave the code point as it is and never join it with another, although
 * a newer Unicode decomposes, composes or reorders it. */
bool zm_unicode_inert(uint32_t code);

#endif
