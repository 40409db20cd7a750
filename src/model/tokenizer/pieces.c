/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/pieces.h"

#include <stdlib.h>

void zm_pieces_clear(zm_pieces *pieces) {
    zm_text_clear(&pieces->text);
    pieces->count = 0;
}

void zm_pieces_free(zm_pieces *pieces) {
    zm_text_free(&pieces->text);
    free(pieces->items);
    *pieces = (zm_pieces){0};
}

/* Room for one more item in an array of items of item_size bytes. */
static bool grow(void **items, size_t count, size_t *capacity, size_t item_size) {
    if (count < *capacity) return true;
    size_t larger = *capacity ? *capacity * 2 : 64;
    if (larger > SIZE_MAX / 2 / item_size) return false;
    void *grown = realloc(*items, larger * item_size);
    if (!grown) return false;
    *items = grown;
    *capacity = larger;
    return true;
}

void zm_pieces_add(zm_pieces *pieces, zm_piece piece) {
    if (!piece.size && piece.token == ZM_NO_TOKEN) return;
    if (pieces->failed || !grow((void **)&pieces->items, pieces->count, &pieces->capacity, sizeof piece)) {
        pieces->failed = true;
        return;
    }
    pieces->items[pieces->count++] = piece;
}

void zm_spans_free(zm_spans *spans) {
    free(spans->items);
    *spans = (zm_spans){0};
}

void zm_spans_add(zm_spans *spans, size_t start, size_t end, bool match) {
    zm_span span = {.start = start, .end = end, .match = match};
    if (spans->failed || !grow((void **)&spans->items, spans->count, &spans->capacity, sizeof span)) {
        spans->failed = true;
        return;
    }
    spans->items[spans->count++] = span;
}
