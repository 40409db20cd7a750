/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/bpe.h"

#include <stdio.h>
#include <stdlib.h>

#include "model/tokenizer/utf8.h"

enum { NONE = -1, MERGED_AWAY = -1 };

struct zm_symbol {
    int32_t id;             /* MERGED_AWAY: part of a symbol to its left */
    int32_t previous, next; /* indices, or NONE */
};

/* A merge to do: the lowest rank first, then the leftmost. */
struct zm_merge {
    uint32_t rank, position;
    int32_t merged;
};

void zm_bpe_free(zm_bpe *bpe) {
    zm_map_free(bpe->vocabulary);
    zm_table_free(&bpe->merges);
    *bpe = (zm_bpe){0};
}

void zm_bpe_scratch_free(zm_bpe_scratch *scratch) {
    free(scratch->symbols);
    free(scratch->queue);
    free(scratch->tokens);
    *scratch = (zm_bpe_scratch){0};
}

int32_t zm_bpe_find(const zm_bpe *bpe, const char *text, size_t size) {
    uint64_t id;
    return zm_map_get(bpe->vocabulary, text, size, &id) ? (int32_t)id : -1;
}

void zm_bpe_index(zm_bpe *bpe) {
    for (uint32_t code = 0; code < 2048; code++) {
        char bytes[4];
        bpe->short_ids[code] = zm_bpe_find(bpe, bytes, zm_utf8_write(bytes, code));
    }
    for (unsigned byte = 0; byte < 256; byte++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", byte);
        bpe->bytes[byte] = bpe->byte_fallback ? zm_bpe_find(bpe, name, 6) : -1;
    }
}

static bool grow(void **items, size_t needed, size_t *capacity, size_t item_size) {
    if (needed <= *capacity) return true;
    size_t larger = *capacity ? *capacity : 64;
    while (larger < needed) larger *= 2;
    if (larger > SIZE_MAX / 2 / item_size) return false;
    void *grown = realloc(*items, larger * item_size);
    if (!grown) return false;
    *items = grown;
    *capacity = larger;
    return true;
}

zmlx_status zm_bpe_add_token(zm_bpe_scratch *scratch, int32_t token, zmlx_error *error) {
    if (!grow((void **)&scratch->tokens, scratch->n_tokens + 1, &scratch->token_capacity,
              sizeof *scratch->tokens))
        return zm_fail_memory(error);
    scratch->tokens[scratch->n_tokens++] = token;
    return ZMLX_OK;
}

static void add_symbol(zm_bpe_scratch *scratch, int32_t id) {
    int32_t index = (int32_t)scratch->n_symbols++;
    scratch->symbols[index] = (zm_symbol){.id = id, .previous = index - 1, .next = NONE};
    if (index) scratch->symbols[index - 1].next = index;
}

/* Adds a character's bytes as tokens; false when one of them is missing. */
static bool add_bytes(const zm_bpe *bpe, zm_bpe_scratch *scratch, const char *text, size_t size) {
    for (size_t i = 0; i < size; i++)
        if (bpe->bytes[(unsigned char)text[i]] < 0) return false;
    for (size_t i = 0; i < size; i++) add_symbol(scratch, bpe->bytes[(unsigned char)text[i]]);
    return true;
}

static zmlx_status make_symbols(const zm_bpe *bpe, zm_bpe_scratch *scratch, const char *text, size_t size,
                                zmlx_error *error) {
    bool pending = false; /* an unknown token is due; bytes of later characters may go before it */
    scratch->n_symbols = 0;
    if (!grow((void **)&scratch->symbols, size, &scratch->symbol_capacity, sizeof *scratch->symbols))
        return zm_fail_memory(error);
    for (size_t at = 0; at < size;) {
        uint32_t code;
        size_t length = zm_utf8_next(text + at, size - at, &code);
        int32_t id = code < 2048 ? bpe->short_ids[code] : zm_bpe_find(bpe, text + at, length);
        if (id >= 0) {
            if (pending) add_symbol(scratch, bpe->unknown);
            pending = false;
            add_symbol(scratch, id);
        } else if (!add_bytes(bpe, scratch, text + at, length) && bpe->unknown != ZM_UNKNOWN_NONE) {
            if (bpe->unknown == ZM_UNKNOWN_MISSING)
                return zm_fail(error, ZMLX_ERROR_FORMAT, NULL,
                               "U+%04X is not in the vocabulary and neither is the unknown token",
                               (unsigned)code);
            if (pending && !bpe->fuse_unknown) add_symbol(scratch, bpe->unknown);
            pending = true;
        }
        at += length;
    }
    if (pending) add_symbol(scratch, bpe->unknown);
    return ZMLX_OK;
}

static bool before(zm_merge a, zm_merge b) {
    return a.rank != b.rank ? a.rank < b.rank : a.position < b.position;
}

static bool push(zm_bpe_scratch *scratch, zm_merge merge) {
    if (!grow((void **)&scratch->queue, scratch->n_queue + 1, &scratch->queue_capacity, sizeof merge))
        return false;
    zm_merge *queue = scratch->queue;
    size_t at = scratch->n_queue++;
    while (at && before(merge, queue[(at - 1) / 2])) {
        queue[at] = queue[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    queue[at] = merge;
    return true;
}

static zm_merge pop(zm_bpe_scratch *scratch) {
    zm_merge *queue = scratch->queue, top = queue[0], last = queue[--scratch->n_queue];
    size_t at = 0, count = scratch->n_queue;
    for (;;) {
        size_t child = 2 * at + 1;
        if (child >= count) break;
        if (child + 1 < count && before(queue[child + 1], queue[child])) child++;
        if (!before(queue[child], last)) break;
        queue[at] = queue[child];
        at = child;
    }
    if (count) queue[at] = last;
    return top;
}

static bool find_merge(const zm_bpe *bpe, int32_t left, int32_t right, uint64_t *value) {
    return zm_table_get(&bpe->merges, (uint64_t)(uint32_t)left << 32 | (uint32_t)right, value);
}

/* Queues the merge of the symbol at position with its right neighbour, if there is one. */
static bool queue_merge(const zm_bpe *bpe, zm_bpe_scratch *scratch, int32_t position) {
    uint64_t value;
    if (position == NONE || scratch->symbols[position].next == NONE) return true;
    const zm_symbol *symbol = &scratch->symbols[position];
    if (!find_merge(bpe, symbol->id, scratch->symbols[symbol->next].id, &value)) return true;
    return push(scratch, (zm_merge){.rank = (uint32_t)(value >> 32),
                                    .position = (uint32_t)position,
                                    .merged = (int32_t)(uint32_t)value});
}

static bool merge_all(const zm_bpe *bpe, zm_bpe_scratch *scratch) {
    zm_symbol *symbols = scratch->symbols;
    scratch->n_queue = 0;
    for (size_t i = 0; i + 1 < scratch->n_symbols; i++)
        if (!queue_merge(bpe, scratch, (int32_t)i)) return false;
    while (scratch->n_queue) {
        zm_merge merge = pop(scratch);
        zm_symbol *left = &symbols[merge.position];
        uint64_t value;
        if (left->id == MERGED_AWAY || left->next == NONE) continue;
        zm_symbol *right = &symbols[left->next];
        /* The pair may have changed since it was queued. */
        if (!find_merge(bpe, left->id, right->id, &value) || (int32_t)(uint32_t)value != merge.merged)
            continue;
        left->id = merge.merged;
        left->next = right->next;
        right->id = MERGED_AWAY;
        if (left->next != NONE) symbols[left->next].previous = (int32_t)merge.position;
        if (!queue_merge(bpe, scratch, left->previous) || !queue_merge(bpe, scratch, (int32_t)merge.position))
            return false;
    }
    return true;
}

zmlx_status zm_bpe_encode(const zm_bpe *bpe, zm_bpe_scratch *scratch, const char *text, size_t size,
                          zmlx_error *error) {
    if (bpe->ignore_merges) {
        int32_t id = zm_bpe_find(bpe, text, size);
        if (id >= 0) return zm_bpe_add_token(scratch, id, error);
    }
    ZM_TRY(make_symbols(bpe, scratch, text, size, error));
    if (!merge_all(bpe, scratch)) return zm_fail_memory(error);
    for (int32_t i = scratch->n_symbols ? 0 : NONE; i != NONE; i = scratch->symbols[i].next)
        ZM_TRY(zm_bpe_add_token(scratch, scratch->symbols[i].id, error));
    return ZMLX_OK;
}
