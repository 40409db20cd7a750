/* SPDX-License-Identifier: MIT */
/* The state a layer keeps between calls: mlx-lm's KVCache, RotatingKVCache and ArraysCache(1). Buffers
 * have the same lengths and the same order of rows as mlx-lm's. */
#ifndef ZM_MODEL_CACHE_H
#define ZM_MODEL_CACHE_H

#include "model/module.h"

typedef enum zm_cache_kind { ZM_CACHE_KV, ZM_CACHE_ROTATING, ZM_CACHE_ARRAY } zm_cache_kind;

struct zm_cache {
    zm_cache_kind kind;
    mlx_array keys, values; /* (batch, n_kv_heads, rows, head_dim); buffers, may exceed what is filled */
    mlx_array state;        /* ARRAY: the convolution's last inputs, or empty */
    int offset;             /* tokens seen */
    int max_size;           /* ROTATING: the window */
    int next_row;           /* ROTATING: where the next single token goes */
};

void zm_cache_init(zm_cache *cache, zm_cache_kind kind, int max_size);
void zm_cache_release(zm_cache *cache);

/* Appends keys and values (batch, heads, length, dim); the result is everything attention reads. The
 * cache's arrays are replaced by the updated (lazy) ones. */
void zm_cache_update(zm_cache *cache, zm_scope *scope, mlx_array *keys, mlx_array *values);

/* The mask for length new tokens. window: the max_size of a rotating cache, 0 for the others (full
 * attention). cache may be NULL. */
zm_mask zm_cache_mask(const zm_cache *cache, zm_scope *scope, int length, int window);

/* The arrays to evaluate after a step: at most 2, stored in arrays; returns their number. */
int zm_cache_arrays(const zm_cache *cache, mlx_array arrays[2]);

#endif
