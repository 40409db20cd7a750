/* SPDX-License-Identifier: MIT */
/* The model: byte-pair merges over a vocabulary. */
#ifndef ZM_MODEL_TOKENIZER_BPE_H
#define ZM_MODEL_TOKENIZER_BPE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/map.h"
#include "model/tokenizer/table.h"

enum { ZM_UNKNOWN_NONE = -1, ZM_UNKNOWN_MISSING = -2 };

typedef struct zm_bpe {
    zm_map *vocabulary;      /* owned; token string -> id; the strings are borrowed */
    zm_table merges;         /* left id << 32 | right id -> rank << 32 | merged id */
    int32_t unknown;         /* the unknown token's id, or one of the above */
    int32_t bytes[256];      /* ids of <0x00> to <0xFF> where byte_fallback is set, else -1 */
    int32_t short_ids[2048]; /* ids of single characters below U+0800, or -1 */
    bool fuse_unknown, byte_fallback, ignore_merges;
} zm_bpe;

void zm_bpe_free(zm_bpe *bpe);
/* Fills the tables of single characters and bytes from the vocabulary. */
void zm_bpe_index(zm_bpe *bpe);
/* The id of a string of the vocabulary, or -1. */
int32_t zm_bpe_find(const zm_bpe *bpe, const char *text, size_t size);

typedef struct zm_symbol zm_symbol;
typedef struct zm_merge zm_merge;

/* What one thread needs to tokenise: reused over many pieces. Zero-initialise. */
typedef struct zm_bpe_scratch {
    zm_symbol *symbols; /* owned */
    size_t n_symbols, symbol_capacity;
    zm_merge *queue; /* owned; a heap, the next merge first */
    size_t n_queue, queue_capacity;
    int32_t *tokens; /* owned; the result grows here */
    size_t n_tokens, token_capacity;
} zm_bpe_scratch;

void zm_bpe_scratch_free(zm_bpe_scratch *scratch);
zmlx_status zm_bpe_add_token(zm_bpe_scratch *scratch, int32_t token, zmlx_error *error);

/* Adds the tokens of one piece of text (valid UTF-8) to scratch->tokens. Time n log n. */
zmlx_status zm_bpe_encode(const zm_bpe *bpe, zm_bpe_scratch *scratch, const char *text, size_t size,
                          zmlx_error *error);

#endif
