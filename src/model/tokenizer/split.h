/* SPDX-License-Identifier: MIT */
/* Pre-tokenisation: cutting pieces into smaller ones, and the byte-level alphabet. */
#ifndef ZM_MODEL_TOKENIZER_SPLIT_H
#define ZM_MODEL_TOKENIZER_SPLIT_H

#include "base/error.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/pieces.h"

typedef enum zm_splitter_kind {
    ZM_SPLIT_PATTERN,
    ZM_SPLIT_DIGITS,
    ZM_SPLIT_BYTE_LEVEL,
    ZM_SPLIT_METASPACE
} zm_splitter_kind;

/* What becomes of the parts that match. */
typedef enum zm_split_behaviour {
    ZM_SPLIT_ISOLATED,
    ZM_SPLIT_REMOVED,
    ZM_SPLIT_MERGED_WITH_PREVIOUS,
    ZM_SPLIT_MERGED_WITH_NEXT,
    ZM_SPLIT_CONTIGUOUS
} zm_split_behaviour;

typedef enum zm_prepend_scheme { ZM_PREPEND_NEVER, ZM_PREPEND_FIRST, ZM_PREPEND_ALWAYS } zm_prepend_scheme;

typedef struct zm_splitter {
    zm_splitter_kind kind;
    zm_pattern *pattern; /* PATTERN; BYTE_LEVEL with its expression; owned by the tokenizer */
    zm_split_behaviour behaviour;
    bool invert;               /* PATTERN: what does not match counts as the match */
    bool add_prefix_space;     /* BYTE_LEVEL */
    bool split;                /* METASPACE: cut before each replacement */
    zm_prepend_scheme prepend; /* METASPACE */
    char replacement[4];       /* METASPACE: one character */
    size_t replacement_size;
} zm_splitter;

/* Fills out from the pieces of in. */
zmlx_status zm_split(const zm_splitter *splitter, zm_matcher *matcher, const zm_pieces *in, zm_pieces *out,
                     zmlx_error *error);

/* GPT-2's visible stand-in for a byte, and the way back: -1 for a character outside the alphabet. */
uint32_t zm_byte_to_character(unsigned char byte);
int zm_character_to_byte(uint32_t code);

#endif
