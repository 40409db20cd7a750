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
    zm_cache_init(cache, cache->kind, cache->max_size);
}

static int minimum(int a, int b) { return a < b ? a : b; }

static mlx_array rows(zm_scope *scope, mlx_array a, int start, int stop) {
    return zm_slice_axis(scope, a, ROW_AXIS, start, stop, 1);
}

/* Zero rows of the shape and type of like. */
static mlx_array zero_rows(zm_scope *scope, mlx_array like, int count) {
    int shape[4] = {zm_dim(like, 0), zm_dim(like, 1), count, zm_dim(like, 3)};
    if (!zm_is_set(like)) return like;
    return zm_zeros(scope, shape, 4, mlx_array_dtype(like));
}

/* The filled part of a buffer. */
static mlx_array filled(zm_scope *scope, mlx_array buffer, int offset) {
    return offset < zm_dim(buffer, ROW_AXIS) ? rows(scope, buffer, 0, offset) : buffer;
}

static mlx_array grow_kv(zm_scope *scope, mlx_array buffer, mlx_array added, int offset) {
    int steps = (GROWTH + zm_dim(added, ROW_AXIS) - 1) / GROWTH;
    mlx_array zeros = zero_rows(scope, added, steps * GROWTH);
    if (!zm_is_set(buffer)) return zeros;
    if (offset % GROWTH) buffer = rows(scope, buffer, 0, offset);
    return zm_concatenate(scope, buffer, zeros, ROW_AXIS);
}

static mlx_array update_kv(zm_scope *scope, mlx_array *kept, mlx_array added, int offset) {
    int length = zm_dim(added, ROW_AXIS);
    mlx_array buffer = *kept;
    if (!zm_is_set(buffer) || length > zm_dim(buffer, ROW_AXIS) - offset)
        buffer = grow_kv(scope, buffer, added, offset);
    buffer = zm_slice_update_axis(scope, buffer, added, ROW_AXIS, offset);
    zm_scope_keep(scope, kept, buffer);
    return filled(scope, buffer, offset + length);
}

/* The buffer from the oldest row to the newest. */
static mlx_array temporal_order(zm_scope *scope, mlx_array buffer, const zm_cache *cache) {
    if (cache->next_row == zm_dim(buffer, ROW_AXIS)) return buffer;
    mlx_array newest = rows(scope, buffer, 0, cache->next_row);
    if (cache->next_row >= cache->offset) return newest;
    return zm_concatenate(scope, rows(scope, buffer, cache->next_row, INT_MAX), newest, ROW_AXIS);
}

/* Several tokens: the last max_size - 1 rows in temporal order, then all the new ones. */
static mlx_array append_rotating(zm_scope *scope, const zm_cache *cache, mlx_array *kept, mlx_array added) {
    mlx_array buffer = added;
    if (zm_is_set(*kept)) {
        buffer = temporal_order(scope, *kept, cache);
        int surplus = zm_dim(buffer, ROW_AXIS) - cache->max_size + 1;
        if (surplus > 0) buffer = rows(scope, buffer, surplus, INT_MAX);
        buffer = zm_concatenate(scope, buffer, added, ROW_AXIS);
    }
    zm_scope_keep(scope, kept, buffer);
    return buffer;
}

/* One token: grows up to max_size, then overwrites the oldest row. *next_row becomes the row written. */
static mlx_array write_rotating(zm_scope *scope, const zm_cache *cache, mlx_array *kept, mlx_array added,
                                int *next_row) {
    mlx_array buffer = *kept;
    int offset = cache->offset, n_rows = zm_dim(buffer, ROW_AXIS), row = cache->next_row;
    if (!zm_is_set(buffer) || (offset >= n_rows && n_rows < cache->max_size)) {
        mlx_array zeros = zero_rows(scope, added, minimum(GROWTH, cache->max_size - offset));
        buffer = zm_is_set(buffer) ? zm_concatenate(scope, buffer, zeros, ROW_AXIS) : zeros;
        n_rows = zm_dim(buffer, ROW_AXIS);
        row = offset;
    }
    if (n_rows > cache->max_size) {
        buffer = rows(scope, buffer, n_rows - cache->max_size, INT_MAX);
        row = cache->max_size;
    }
    if (row == cache->max_size) row = 0;
    buffer = zm_slice_update_axis(scope, buffer, added, ROW_AXIS, row);
    zm_scope_keep(scope, kept, buffer);
    *next_row = row;
    return filled(scope, buffer, offset + 1);
}

static void update_rotating(zm_cache *cache, zm_scope *scope, mlx_array *keys, mlx_array *values) {
    if (zm_dim(*keys, ROW_AXIS) == 1) {
        int row = 0;
        *keys = write_rotating(scope, cache, &cache->keys, *keys, &row);
        *values = write_rotating(scope, cache, &cache->values, *values, &row);
        cache->next_row = row + 1;
    } else {
        *keys = append_rotating(scope, cache, &cache->keys, *keys);
        *values = append_rotating(scope, cache, &cache->values, *values);
        cache->next_row = zm_dim(*keys, ROW_AXIS);
    }
}

void zm_cache_update(zm_cache *cache, zm_scope *scope, mlx_array *keys, mlx_array *values) {
    if (zm_scope_failed(scope)) return;
    int length = zm_dim(*keys, ROW_AXIS);
    if (length > INT_MAX / 2 - cache->offset) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, NULL, "the sequence is too long");
        return;
    }
    if (cache->kind == ZM_CACHE_ROTATING) {
        update_rotating(cache, scope, keys, values);
    } else {
        *keys = update_kv(scope, &cache->keys, *keys, cache->offset);
        *values = update_kv(scope, &cache->values, *values, cache->offset);
    }
    if (!zm_scope_failed(scope)) cache->offset += length;
}

/* (length, offset + length) bool: a position sees itself and the window - 1 before it. */
static zm_mask window_mask(zm_scope *scope, int length, int offset, int window) {
    mlx_array columns = zm_arange(scope, 0, offset + length, 1, MLX_INT32);
    mlx_array lines = offset ? zm_arange(scope, offset, offset + length, 1, MLX_INT32) : columns;
    lines = zm_expand_dims(scope, lines, 1);
    columns = zm_expand_dims(scope, columns, 0);
    mlx_array seen = zm_greater_equal(scope, lines, columns);
    mlx_array end = zm_add(scope, columns, zm_scalar(scope, window, MLX_INT32));
    return (zm_mask){"array", zm_logical_and(scope, seen, zm_less(scope, lines, end))};
}

zm_mask zm_cache_mask(const zm_cache *cache, zm_scope *scope, int length, int window) {
    zm_mask none = {.mode = ""}, causal = {.mode = "causal"};
    if (length == 1 || (cache && cache->kind == ZM_CACHE_ARRAY)) return none;
    if (!window) return causal;
    int offset = cache ? minimum(window - 1, cache->offset) : 0;
    return length > window - offset ? window_mask(scope, length, offset, window) : causal;
}

int zm_cache_arrays(const zm_cache *cache, mlx_array arrays[2]) {
    int count = 0;
    if (zm_is_set(cache->state)) arrays[count++] = cache->state;
    if (zm_is_set(cache->keys)) {
        arrays[count++] = cache->keys;
        arrays[count++] = cache->values;
    }
    return count;
}
