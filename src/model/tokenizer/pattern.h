/* SPDX-License-Identifier: MIT */
/* Patterns of tokenizer.json: a literal string, or a regular expression in Oniguruma's Ruby syntax, which
 * is what the `tokenizers` package compiles. Expressions are translated for PCRE2: what means the same
 * is passed on, what differs is rewritten (\s, \w, \d, \p{..} to the package's Unicode version, {n,m}+ to
 * a repeated group), anything else is refused by name. */
#ifndef ZM_MODEL_TOKENIZER_PATTERN_H
#define ZM_MODEL_TOKENIZER_PATTERN_H

#include "base/error.h"
#include "base/text.h"
#include "model/tokenizer/pieces.h"

typedef struct zm_pattern zm_pattern;

/* where names the field for errors. */
zmlx_status zm_pattern_literal(zm_pattern **pattern, const char *bytes, size_t size, zmlx_error *error);
zmlx_status zm_pattern_regex(zm_pattern **pattern, const char *bytes, size_t size, const char *where,
                             zmlx_error *error);
void zm_pattern_free(zm_pattern *pattern);

/* What one thread needs to match: reused over many texts. Zero-initialise. */
typedef struct zm_matcher {
    zm_spans spans;      /* the result of the last zm_pattern_find */
    void *match_data;    /* owned */
    void *match_context; /* owned */
    size_t last_position;
    uint64_t steps_left; /* work allowed: linear in the bytes searched, so no pattern can hang */
    size_t text_limit;   /* bytes a text may grow to by replacements and the like */
} zm_matcher;

void zm_matcher_free(zm_matcher *matcher);

/* Fills matcher->spans: the matches, found from left to right, and what lies between them. */
zmlx_status zm_pattern_find(const zm_pattern *pattern, zm_matcher *matcher, const char *text, size_t size,
                            zmlx_error *error);

/* ZMLX_ERROR_UNSUPPORTED when size is above the limit. */
zmlx_status zm_matcher_check_size(const zm_matcher *matcher, size_t size, zmlx_error *error);

/* Oniguruma to PCRE2: appends to result. */
zmlx_status zm_regex_translate(zm_text *result, const char *bytes, size_t size, const char *where,
                               zmlx_error *error);

#endif
