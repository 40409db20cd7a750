/* SPDX-License-Identifier: MIT */
/* A text under way from characters to tokens: cut into pieces, some of which are tokens already.
 * Each stage reads one zm_pieces and fills another. */
#ifndef ZM_MODEL_TOKENIZER_PIECES_H
#define ZM_MODEL_TOKENIZER_PIECES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/text.h"

enum { ZM_NO_TOKEN = -1 };

typedef struct zm_piece {
    size_t offset, size; /* bytes of zm_pieces.text */
    int32_t token;       /* an added token found here, or ZM_NO_TOKEN */
    bool at_origin;      /* begins where the caller's text begins */
} zm_piece;

/* As with zm_text, an allocation failure is sticky. */
typedef struct zm_pieces {
    zm_text text;
    zm_piece *items; /* owned */
    size_t count, capacity;
    bool failed;
} zm_pieces;

void zm_pieces_clear(zm_pieces *pieces); /* keeps the storage */
void zm_pieces_free(zm_pieces *pieces);
/* Adds [offset, offset + size) of the text; an empty piece without a token is left out. */
void zm_pieces_add(zm_pieces *pieces, zm_piece piece);

/* Where a pattern matches: parts that together cover a text, in order. */
typedef struct zm_span {
    size_t start, end;
    bool match;
} zm_span;

typedef struct zm_spans {
    zm_span *items; /* owned */
    size_t count, capacity;
    bool failed;
} zm_spans;

void zm_spans_free(zm_spans *spans);
void zm_spans_add(zm_spans *spans, size_t start, size_t end, bool match);

#endif
