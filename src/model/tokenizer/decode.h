/* SPDX-License-Identifier: MIT */
/* From token strings back to text: a chain of steps, each working on a list of strings as it comes. */
#ifndef ZM_MODEL_TOKENIZER_DECODE_H
#define ZM_MODEL_TOKENIZER_DECODE_H

#include "base/error.h"
#include "base/text.h"
#include "model/tokenizer/pattern.h"
#include "model/tokenizer/split.h"

typedef enum zm_decode_kind {
    ZM_DECODE_REPLACE,
    ZM_DECODE_BYTE_FALLBACK, /* runs of <0x..> become their text, or one U+FFFD a byte */
    ZM_DECODE_FUSE,          /* all strings become one */
    ZM_DECODE_STRIP,         /* takes content away at both ends of each string */
    ZM_DECODE_BYTE_LEVEL,    /* GPT-2's alphabet back to bytes; fuses */
    ZM_DECODE_METASPACE
} zm_decode_kind;

typedef struct zm_decode_step {
    zm_decode_kind kind;
    zm_pattern *pattern; /* REPLACE; owned by the tokenizer */
    const char *content; /* REPLACE: the replacement; STRIP, METASPACE: one character; borrowed */
    size_t content_size;
    uint64_t start, stop; /* STRIP: how many at most at each end */
    bool drop_first;      /* METASPACE: the marks of the first string go away */
    bool fused;           /* comes after a step that made one string of all */
} zm_decode_step;

typedef struct zm_decode_state {
    zm_text held;    /* BYTE_FALLBACK, BYTE_LEVEL: bytes not yet decided; else the whole fused string */
    zm_text scratch; /* what is handed to the next step */
    uint64_t seen;   /* METASPACE: strings; STRIP after fusing: characters taken away */
    bool done;       /* STRIP after fusing: nothing more to take away */
} zm_decode_state;

typedef struct zm_decode_chain {
    const zm_decode_step *steps; /* borrowed; count 0: strings joined by spaces */
    size_t count;
    zm_decode_state *states; /* owned */
    zm_matcher matcher;
    zm_text output;  /* what has become certain; the reader clears it */
    size_t n_tokens; /* pushed so far */
    bool join_with_spaces;
} zm_decode_chain;

zmlx_status zm_decode_chain_init(zm_decode_chain *chain, const zm_decode_step *steps, size_t count,
                                 bool join_with_spaces, zmlx_error *error);
void zm_decode_chain_free(zm_decode_chain *chain);
zmlx_status zm_decode_push(zm_decode_chain *chain, const char *text, size_t size, zmlx_error *error);
zmlx_status zm_decode_finish(zm_decode_chain *chain, zmlx_error *error);

#endif
