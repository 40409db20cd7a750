/* SPDX-License-Identifier: MIT */
#include "model/cache.h"

#include <limits.h>

enum { ROW_AXIS = 2, GROWTH = 256 };

void zm_cache_init(zm_cache *cache, zm_cache_kind kind, int max_size) {
    *cache = (zm_cache){.kind = kind, .max_size = max_size};
}

void zm_cache_release(zm_cache *cache) {
    mlx_array_free(cache->keys);
    mlx_array_free(cache->values);
    mlx_array_free(cache->state);
    mlx_array_free(cache->memory);
    zm_cache_init(cache, cache->kind, cache->max_size);
}

static int minimum(int a, int b) { return a < b ? a : b; }

static mlx_array rows(zm_scope *scope, mlx_array a, int start, int stop) {
    return zm_slice_axis(scope, a, ROW_AXIS, start, stop, 1);
}

/* count zero rows for keys, or for values. */
static mlx_array zero_rows(zm_scope *scope, const zm_cache_tokens *tokens, bool of_values, int count) {
    int dim = of_values ? tokens->value_dim : tokens->key_dim;
    int shape[4] = {tokens->batch, tokens->n_heads, count, dim};
    return zm_zeros(scope, shape, 4, tokens->dtype);
}

/* The filled part of a buffer. */
static mlx_array filled(zm_scope *scope, mlx_array buffer, int n_rows) {
    return n_rows < zm_dim(buffer, ROW_AXIS) ? rows(scope, buffer, 0, n_rows) : buffer;
}

/* How a buffer (keys or values) gets room; *first becomes the first new row. */
typedef mlx_array (*make_room)(const zm_cache *cache, zm_scope *scope, mlx_array buffer,
                               const zm_cache_tokens *tokens, bool of_values, int *first);

static mlx_array room_kv(const zm_cache *cache, zm_scope *scope, mlx_array buffer, const zm_cache_tokens *tokens,
                         bool of_values, int *first) {
    int offset = cache->offset;
    *first = offset;
    if (zm_is_set(buffer) && tokens->length <= zm_dim(buffer, ROW_AXIS) - offset) return buffer;
    int steps = (GROWTH + tokens->length - 1) / GROWTH;
    mlx_array zeros = zero_rows(scope, tokens, of_values, steps * GROWTH);
    if (!zm_is_set(buffer)) return zeros;
    if (offset % GROWTH) buffer = rows(scope, buffer, 0, offset);
    return zm_concatenate(scope, buffer, zeros, ROW_AXIS);
}

/* The buffer from the oldest row to the newest. */
static mlx_array temporal_order(zm_scope *scope, mlx_array buffer, const zm_cache *cache) {
    if (cache->next_row == zm_dim(buffer, ROW_AXIS)) return buffer;
    mlx_array newest = rows(scope, buffer, 0, cache->next_row);
    if (cache->next_row >= cache->offset) return newest;
    return zm_concatenate(scope, rows(scope, buffer, cache->next_row, INT_MAX), newest, ROW_AXIS);
}

/* Several tokens: the last max_size - 1 rows in temporal order, then all the new ones. */
static mlx_array room_rotating_several(const zm_cache *cache, zm_scope *scope, mlx_array buffer,
                                       const zm_cache_tokens *tokens, bool of_values, int *first) {
    mlx_array zeros = zero_rows(scope, tokens, of_values, tokens->length);
    *first = 0;
    if (!zm_is_set(buffer)) return zeros;
    buffer = temporal_order(scope, buffer, cache);
    int surplus = zm_dim(buffer, ROW_AXIS) - cache->max_size + 1;
    if (surplus > 0) buffer = rows(scope, buffer, surplus, INT_MAX);
    *first = zm_dim(buffer, ROW_AXIS);
    return *first ? zm_concatenate(scope, buffer, zeros, ROW_AXIS) : zeros;
}

/* One token: grows up to max_size, then takes the place of the oldest row. */
static mlx_array room_rotating_one(const zm_cache *cache, zm_scope *scope, mlx_array buffer,
                                   const zm_cache_tokens *tokens, bool of_values, int *first) {
    int offset = cache->offset, n_rows = zm_dim(buffer, ROW_AXIS);
    *first = cache->next_row;
    if (!zm_is_set(buffer) || (offset >= n_rows && n_rows < cache->max_size)) {
        mlx_array zeros = zero_rows(scope, tokens, of_values, minimum(GROWTH, cache->max_size - offset));
        buffer = zm_is_set(buffer) ? zm_concatenate(scope, buffer, zeros, ROW_AXIS) : zeros;
        n_rows = zm_dim(buffer, ROW_AXIS);
        *first = offset;
    }
    if (n_rows > cache->max_size) {
        buffer = rows(scope, buffer, n_rows - cache->max_size, INT_MAX);
        *first = cache->max_size;
    }
    if (*first == cache->max_size) *first = 0;
    return buffer;
}

zm_cache_rows zm_cache_reserve(const zm_cache *cache, zm_scope *scope, const zm_cache_tokens *tokens) {
    zm_cache_rows result = {.first = 0};
    if (zm_scope_failed(scope)) return result;
    if (tokens->length > INT_MAX / 2 - cache->offset) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, NULL, "the sequence is too long");
        return result;
    }
    make_room room = room_kv;
    if (cache->kind == ZM_CACHE_ROTATING) room = tokens->length == 1 ? room_rotating_one : room_rotating_several;
    result.keys = room(cache, scope, cache->keys, tokens, false, &result.first);
    result.values = room(cache, scope, cache->values, tokens, true, &result.first);
    result.n_rows = cache->offset + tokens->length;
    if (cache->kind == ZM_CACHE_ROTATING) result.n_rows = minimum(result.n_rows, zm_dim(result.keys, ROW_AXIS));
    return result;
}

void zm_cache_accept(zm_cache *cache, zm_scope *scope, const zm_cache_rows *written, int length) {
    zm_scope_keep(scope, &cache->keys, written->keys);
    zm_scope_keep(scope, &cache->values, written->values);
    if (zm_scope_failed(scope)) return;
    cache->offset += length;
    cache->next_row = written->first + length;
}

int zm_cache_room(const zm_cache *cache) {
    if (cache->kind == ZM_CACHE_ARRAY) return INT_MAX;
    if (!zm_is_set(cache->keys)) return 0;
    int n_rows = zm_dim(cache->keys, ROW_AXIS);
    if (cache->kind == ZM_CACHE_ROTATING && n_rows == cache->max_size) return INT_MAX;
    return n_rows > cache->offset ? n_rows - cache->offset : 0;
}

void zm_cache_advance(const zm_cache *cache, zm_cache_rows *rows) {
    int n_rows = zm_dim(rows->keys, ROW_AXIS);
    rows->first++;
    if (cache->kind == ZM_CACHE_ROTATING && rows->first == cache->max_size) rows->first = 0;
    rows->n_rows = minimum(rows->n_rows + 1, n_rows);
}

void zm_cache_update(zm_cache *cache, zm_scope *scope, mlx_array *keys, mlx_array *values) {
    if (zm_scope_failed(scope)) return;
    zm_cache_tokens tokens = {.batch = zm_dim(*keys, 0),
                              .n_heads = zm_dim(*keys, 1),
                              .length = zm_dim(*keys, ROW_AXIS),
                              .key_dim = zm_dim(*keys, 3),
                              .value_dim = zm_dim(*values, 3),
                              .dtype = mlx_array_dtype(*keys)};
    zm_cache_rows written = zm_cache_reserve(cache, scope, &tokens);
    written.keys = zm_slice_update_axis(scope, written.keys, *keys, ROW_AXIS, written.first);
    written.values = zm_slice_update_axis(scope, written.values, *values, ROW_AXIS, written.first);
    zm_cache_accept(cache, scope, &written, tokens.length);
    *keys = filled(scope, written.keys, written.n_rows);
    *values = filled(scope, written.values, written.n_rows);
}

/* (length, offset + length) bool: a position sees itself and the window - 1 before it; window 0: all before it. */
static zm_mask array_mask(zm_scope *scope, int length, int offset, int window) {
    mlx_array columns = zm_arange(scope, 0, offset + length, 1, MLX_INT32);
    mlx_array lines = offset ? zm_arange(scope, offset, offset + length, 1, MLX_INT32) : columns;
    lines = zm_expand_dims(scope, lines, 1);
    columns = zm_expand_dims(scope, columns, 0);
    mlx_array seen = zm_greater_equal(scope, lines, columns);
    if (!window) return (zm_mask){"array", seen};
    mlx_array end = zm_add(scope, columns, zm_scalar(scope, window, MLX_INT32));
    return (zm_mask){"array", zm_logical_and(scope, seen, zm_less(scope, lines, end))};
}

zm_mask zm_cache_mask(const zm_cache *cache, zm_scope *scope, int length, int window) {
    zm_mask none = {.mode = ""}, causal = {.mode = "causal"};
    if (length == 1 || (cache && cache->kind == ZM_CACHE_ARRAY)) return none;
    if (!window) return causal;
    int offset = cache ? minimum(window - 1, cache->offset) : 0;
    return length > window - offset ? array_mask(scope, length, offset, window) : causal;
}

zm_mask zm_cache_array_mask(const zm_cache *cache, zm_scope *scope, int length) {
    return length == 1 ? (zm_mask){.mode = ""} : array_mask(scope, length, cache ? cache->offset : 0, 0);
}

int zm_cache_arrays(const zm_cache *cache, mlx_array arrays[2]) {
    int count = 0;
    if (zm_is_set(cache->state)) arrays[count++] = cache->state;
    if (zm_is_set(cache->memory)) arrays[count++] = cache->memory;
    if (zm_is_set(cache->keys)) {
        arrays[count++] = cache->keys;
        arrays[count++] = cache->values;
    }
    return count;
}
