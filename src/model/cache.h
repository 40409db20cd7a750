/* SPDX-License-Identifier: MIT */
/* The state a layer keeps between calls: mlx-lm's KVCache, RotatingKVCache and ArraysCache. Buffers
 * have the same lengths and the same order of rows as mlx-lm's. */
#ifndef ZM_MODEL_CACHE_H
#define ZM_MODEL_CACHE_H

#include "model/module.h"

typedef enum zm_cache_kind { ZM_CACHE_KV, ZM_CACHE_ROTATING, ZM_CACHE_ARRAY } zm_cache_kind;

struct zm_cache {
    zm_cache_kind kind;
    mlx_array keys, values; /* (batch, n_kv_heads, rows, head_dim); buffers, may exceed what is filled */
    mlx_array state;        /* ARRAY: the convolution's last inputs, or empty */
    mlx_array memory;       /* ARRAY of a delta net: (batch, n_v_heads, head_v_dim, head_k_dim) float32, or empty */
    int offset;             /* tokens seen */
    int max_size;           /* ROTATING: the window */
    int next_row;           /* ROTATING: where the next single token goes */
};

/* What new tokens bring: keys (batch, n_heads, length, key_dim), values likewise. */
typedef struct zm_cache_tokens {
    int batch, n_heads, length, key_dim, value_dim;
    mlx_dtype dtype;
} zm_cache_tokens;

/* Where the rows of new tokens go. */
typedef struct zm_cache_rows {
    mlx_array keys, values; /* buffers of the scope with room for them */
    int first;              /* row of the first new token; the others follow */
    int n_rows;             /* filled afterwards, from row 0: what attention reads */
} zm_cache_rows;

void zm_cache_init(zm_cache *cache, zm_cache_kind kind, int max_size);
void zm_cache_release(zm_cache *cache);

/* Appends keys and values (batch, heads, length, dim); the result is everything attention reads. The
 * cache's arrays are replaced by the updated (lazy) ones. */
void zm_cache_update(zm_cache *cache, zm_scope *scope, mlx_array *keys, mlx_array *values);

/* zm_cache_update in two halves, for an operation that writes the rows itself: makes room, and takes the buffers with
 * the rows written. */
zm_cache_rows zm_cache_reserve(const zm_cache *cache, zm_scope *scope, const zm_cache_tokens *tokens);
void zm_cache_accept(zm_cache *cache, zm_scope *scope, const zm_cache_rows *written, int length);

/* How many single tokens, one after the other, have room in the buffers as they are. */
int zm_cache_room(const zm_cache *cache);
/* The rows of the token behind that one, which has room, too: where it goes, and what attention then reads. */
void zm_cache_advance(const zm_cache *cache, zm_cache_rows *rows);

/* The mask for length new tokens. window: the max_size of a rotating cache, 0 for the others (full
 * attention). cache may be NULL. */
zm_mask zm_cache_mask(const zm_cache *cache, zm_scope *scope, int length, int window);

/* The same as an array, for full attention whatever the cache: (length, offset + length) bool. */
zm_mask zm_cache_array_mask(const zm_cache *cache, zm_scope *scope, int length);

/* The arrays to evaluate after a step: at most 2, stored in arrays; returns their number. */
int zm_cache_arrays(const zm_cache *cache, mlx_array arrays[2]);

#endif
