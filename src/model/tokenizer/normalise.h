/* SPDX-License-Identifier: MIT */
/* The stages that change a text's characters before it is split. */
#ifndef ZM_MODEL_TOKENIZER_NORMALISE_H
#define ZM_MODEL_TOKENIZER_NORMALISE_H

#include "base/error.h"
#include "base/text.h"
#include "model/tokenizer/pattern.h"

typedef enum zm_normaliser_kind {
    ZM_NORMALISE_NFC,
    ZM_NORMALISE_NFD,
    ZM_NORMALISE_NFKC,
    ZM_NORMALISE_NFKD,
    ZM_NORMALISE_PREPEND,
    ZM_NORMALISE_REPLACE
} zm_normaliser_kind;

typedef struct zm_normaliser {
    zm_normaliser_kind kind;
    zm_pattern *pattern; /* REPLACE; owned by the tokenizer */
    const char *content; /* PREPEND, REPLACE; borrowed */
    size_t content_size;
} zm_normaliser;

/* Appends the normalised text to result. *at_origin is cleared when the result's first character no
 * longer stands for the first character of the text. */
zmlx_status zm_normalise(const zm_normaliser *normaliser, zm_matcher *matcher, zm_text *result,
                         const char *text, size_t size, bool *at_origin, zmlx_error *error);

#endif
