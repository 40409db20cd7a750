/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "kernels/compose.h"
#include "kernels/rope/cache.h"
#include "kernels/rope/rotate.h"

/* Cosines and sines that broadcast with the pairs of what is rotated. */
typedef struct table {
    mlx_array cos, sin;
} table;

static table table_of(zm_catalog_call *call, int cos) {
    mlx_dtype dtype = zm_parameters_are_float32(call) ? MLX_FLOAT32 : call->data_type;
    return (table){zm_astype(call->scope, call->inputs[cos], dtype),
                   zm_astype(call->scope, call->inputs[cos + 1], dtype)};
}

/* Angles (..., N) beside x (..., 2 N): after dimensions that x alone has those of positions, then again such of x. */
static bool find_rows(int *inner, int *positions, mlx_array x, mlx_array angles) {
    int axis = (int)mlx_array_ndim(x) - 2, extra = (int)(mlx_array_ndim(x) - mlx_array_ndim(angles));
    *inner = *positions = 1;
    for (; axis >= extra && mlx_array_dim(angles, axis - extra) == 1; axis--) *inner *= mlx_array_dim(x, axis);
    for (; axis >= extra && mlx_array_dim(angles, axis - extra) == mlx_array_dim(x, axis); axis--)
        *positions *= mlx_array_dim(x, axis);
    while (axis >= extra && mlx_array_dim(angles, axis - extra) == 1) axis--;
    return axis < extra;
}

/* By the kernel `part`, on the pairs taken apart. */
static mlx_array rotate_by(zm_catalog_call *call, const char *part, mlx_array x, table angles, zm_pairing pairs) {
    zm_scope *scope = call->scope;
    if (zm_scope_failed(scope)) return x;
    int n = zm_dim(x, -1) / 2;
    mlx_dtype types[2] = {call->data_type, call->data_type};
    mlx_array results[2] = {{NULL}, {NULL}}, inputs[4] = {{NULL}, {NULL}, angles.cos, angles.sin};
    for (int i = 0; i < 2; i++)
        inputs[i] = pairs == ZM_PAIRS_HALVES ? zm_slice_axis(scope, x, -1, i * n, (i + 1) * n, 1)
                                             : zm_slice_axis(scope, x, -1, i, 2 * n, 2);
    zm_call_part(call, results, part, inputs, NULL, types);
    if (pairs == ZM_PAIRS_HALVES) return zm_concatenate(scope, results[0], results[1], -1);
    mlx_array both = zm_stack(scope, results, 2, (int)mlx_array_ndim(x));
    return zm_reshape(scope, both, mlx_array_shape(x), (int)mlx_array_ndim(x));
}

static mlx_array rotate(zm_catalog_call *call, mlx_array x, table angles, zm_pairing pairs) {
    int inner, positions;
    mlx_array y;
    if (!zm_scope_failed(call->scope) && find_rows(&inner, &positions, x, angles.cos) &&
        zm_rotate_rows(call->scope, &y, x, angles.cos, angles.sin, inner, positions, pairs))
        return y;
    return rotate_by(call, "rotate", x, angles, pairs);
}

/* On a GPU MLX computes in float32 and rounds once, as rotate does. */
static void rotate_as_mlx(zm_catalog_call *call, zm_pairing pairs) {
    call->outputs[0] = zm_scope_is_on_cpu(call->scope)
                           ? rotate_by(call, "rotate_mlx", call->inputs[0], table_of(call, 1), pairs)
                           : rotate(call, call->inputs[0], table_of(call, 1), pairs);
}

void zm_compose_apply_rope_mlx(zm_catalog_call *call) { rotate_as_mlx(call, ZM_PAIRS_HALVES); }
void zm_compose_apply_rope_interleaved_mlx(zm_catalog_call *call) { rotate_as_mlx(call, ZM_PAIRS_NEIGHBOURS); }

void zm_compose_apply_rope(zm_catalog_call *call) {
    call->outputs[0] = rotate(call, call->inputs[0], table_of(call, 1), ZM_PAIRS_HALVES);
}

void zm_compose_apply_rope_interleaved(zm_catalog_call *call) {
    call->outputs[0] = rotate(call, call->inputs[0], table_of(call, 1), ZM_PAIRS_NEIGHBOURS);
}

void zm_compose_apply_gqa_rope(zm_catalog_call *call) {
    int heads = zm_call_size(call, "H"), n_kv_heads = (int)call->values[0].number;
    if (heads % n_kv_heads) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                      "n_kv_heads: expected a divisor of H (%d), got %d", heads, n_kv_heads);
        return;
    }
    table angles = table_of(call, 1);
    angles.cos = zm_expand_dims(call->scope, angles.cos, 1);
    angles.sin = zm_expand_dims(call->scope, angles.sin, 1);
    call->outputs[0] = rotate(call, call->inputs[0], angles, ZM_PAIRS_HALVES);
}

/* Rows of the table at positions (B,), for arrays (B, heads, K). */
static table take_rows(zm_scope *scope, table whole, mlx_array positions) {
    table taken = {zm_take(scope, whole.cos, positions, 0), zm_take(scope, whole.sin, positions, 0)};
    return (table){zm_expand_dims(scope, taken.cos, 1), zm_expand_dims(scope, taken.sin, 1)};
}

static mlx_array word(zm_scope *scope, int64_t value) { return zm_scalar(scope, (double)value, MLX_UINT32); }

/* (B,) as (B, 1, ...) with n_dims dimensions. */
static mlx_array column(zm_scope *scope, mlx_array a, int n_dims) {
    for (int i = 1; i < n_dims; i++) a = zm_expand_dims(scope, a, -1);
    return a;
}

static mlx_array nan_like(zm_scope *scope, mlx_array a) { return zm_scalar_like(scope, (double)NAN, a); }

/* Both forms: inputs q, k, v, cos, sin, two caches, and offset as the last. */
typedef struct update {
    mlx_array offset, is_inside; /* (B,): clamped; whether it was in range */
    mlx_array rotated_k;
} update;

static update begin_update(zm_catalog_call *call, int offset) {
    zm_scope *scope = call->scope;
    int length = zm_call_size(call, "MAX");
    mlx_array given = call->inputs[offset];
    update self = {.offset = zm_minimum(scope, given, word(scope, length - 1)),
                   .is_inside = zm_less(scope, given, word(scope, length))};
    table angles = take_rows(scope, table_of(call, 3), self.offset);
    mlx_array q = rotate(call, call->inputs[0], angles, ZM_PAIRS_HALVES);
    call->outputs[0] = zm_where(scope, column(scope, self.is_inside, 3), q, nan_like(scope, q));
    self.rotated_k = rotate(call, call->inputs[1], angles, ZM_PAIRS_HALVES);
    return self;
}

/* Where an update goes in the rows of its cache: given where it is in range, else behind the last. */
static mlx_array slot_or_none(zm_scope *scope, mlx_array slot, mlx_array is_inside) {
    return zm_where(scope, is_inside, slot, word(scope, UINT32_MAX));
}

/* cache (B, MAX, HKV, K) with row (B, HKV, K) at its offset; what was there stays where the offset is out of range. */
static mlx_array store(zm_scope *scope, const update *self, mlx_array cache, mlx_array row) {
    if (zm_scope_failed(scope)) return cache;
    if (zm_scope_is_on_cpu(scope)) {
        mlx_array first = zm_arange(scope, 0, zm_dim(cache, 0), 1, MLX_UINT32);
        first = zm_multiply(scope, first, word(scope, zm_dim(cache, 1)));
        return zm_store_rows(scope, cache, row,
                             slot_or_none(scope, zm_add(scope, first, self->offset), self->is_inside));
    }
    int shape[4] = {zm_dim(cache, 0), 1, zm_dim(cache, 2), zm_dim(cache, 3)};
    mlx_array at = zm_broadcast_to(scope, column(scope, self->offset, 4), shape, 4);
    mlx_array kept = zm_take_along_axis(scope, cache, at, 1);
    mlx_array stored = zm_where(scope, column(scope, self->is_inside, 4), zm_expand_dims(scope, row, 1), kept);
    return zm_put_along_axis(scope, cache, at, stored, 1);
}

/* Without sequences nothing is stored. */
static bool has_none(zm_catalog_call *call) {
    if (zm_call_size(call, "B")) return false;
    static const int of_inputs[3] = {0, 5, 6};
    for (int i = 0; i < 3; i++) call->outputs[i] = call->inputs[of_inputs[i]];
    return true;
}

void zm_compose_rope_and_cache_update(zm_catalog_call *call) {
    if (has_none(call)) return;
    update self = begin_update(call, 7);
    call->outputs[1] = store(call->scope, &self, call->inputs[5], self.rotated_k);
    call->outputs[2] = store(call->scope, &self, call->inputs[6], call->inputs[2]);
}

/* The row of a paged cache where each sequence stores, or 2^32 - 1. */
static mlx_array find_slots(zm_catalog_call *call, const update *self) {
    zm_scope *scope = call->scope;
    int blocks = zm_call_size(call, "MB");
    mlx_array size = word(scope, zm_call_size(call, "BS"));
    if (!blocks) return zm_broadcast_to(scope, word(scope, UINT32_MAX), (const int[]){zm_call_size(call, "B")}, 1);
    mlx_array number = zm_floor_divide(scope, self->offset, size);
    mlx_array in_block = zm_subtract(scope, self->offset, zm_multiply(scope, number, size));
    mlx_array at = zm_minimum(scope, number, word(scope, blocks - 1));
    mlx_array block = zm_squeeze(scope, zm_take_along_axis(scope, call->inputs[7], zm_expand_dims(scope, at, 1), 1), 1);
    mlx_array is_valid = zm_logical_and(scope, zm_less(scope, number, word(scope, blocks)), self->is_inside);
    is_valid = zm_logical_and(scope, is_valid, zm_less(scope, block, word(scope, zm_call_size(call, "NB"))));
    return slot_or_none(scope, zm_add(scope, zm_multiply(scope, block, size), in_block), is_valid);
}

/* For each of the n rows of a paged cache the sequence that stores in it, or B. */
static mlx_array find_writers(zm_catalog_call *call, mlx_array slots, int n) {
    zm_scope *scope = call->scope;
    int batch = zm_call_size(call, "B");
    mlx_array none = zm_broadcast_to(scope, word(scope, batch), (const int[]){n + 1}, 1);
    slots = zm_minimum(scope, slots, word(scope, n)); /* behind the last row */
    mlx_array writers = zm_put_along_axis(scope, none, slots, zm_arange(scope, 0, batch, 1, MLX_UINT32), 0);
    return zm_slice_axis(scope, writers, 0, 0, n, 1);
}

static mlx_array store_by_writers(zm_catalog_call *call, mlx_array cache, mlx_array rows, mlx_array writers) {
    zm_scope *scope = call->scope;
    if (zm_scope_failed(scope)) return cache;
    int batch = zm_call_size(call, "B"),
        shape[3] = {zm_dim(cache, 0) * zm_dim(cache, 1), zm_dim(cache, 2), zm_dim(cache, 3)};
    mlx_array taken = zm_take(scope, rows, zm_minimum(scope, writers, word(scope, batch - 1)), 0);
    mlx_array is_written = column(scope, zm_less(scope, writers, word(scope, batch)), 3);
    mlx_array all = zm_where(scope, is_written, taken, zm_reshape(scope, cache, shape, 3));
    return zm_reshape(scope, all, mlx_array_shape(cache), 4);
}

void zm_compose_paged_rope_and_cache_update(zm_catalog_call *call) {
    int n = zm_call_size(call, "NB") * zm_call_size(call, "BS");
    if (has_none(call)) return;
    update self = begin_update(call, 8);
    mlx_array slots = find_slots(call, &self);
    if (zm_scope_is_on_cpu(call->scope)) {
        call->outputs[1] = zm_store_rows(call->scope, call->inputs[5], self.rotated_k, slots);
        call->outputs[2] = zm_store_rows(call->scope, call->inputs[6], call->inputs[2], slots);
        return;
    }
    mlx_array writers = find_writers(call, slots, n);
    call->outputs[1] = store_by_writers(call, call->inputs[5], self.rotated_k, writers);
    call->outputs[2] = store_by_writers(call, call->inputs[6], call->inputs[2], writers);
}

/* The rows at |offset|, turned back where it is negative: (1 or B, 1, 1, N). Sets is_inside, of the same shape. */
static table decode_table(zm_catalog_call *call, mlx_array *is_inside) {
    zm_scope *scope = call->scope;
    table whole = table_of(call, 4);
    mlx_array offset = call->inputs[6];
    *is_inside = (mlx_array){NULL};
    if (zm_scope_failed(scope) || mlx_array_ndim(whole.cos) == 1) return whole;
    if (!offset.ctx) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "offset: must be given where cos has rows of positions");
        return whole;
    }
    int length = zm_call_size(call, "S");
    mlx_array most = zm_scalar(scope, length - 1, MLX_INT32), zero = zm_scalar(scope, 0, MLX_INT32);
    if (!mlx_array_ndim(offset)) offset = zm_reshape(scope, offset, (const int[]){1}, 1);
    mlx_array size = zm_maximum(scope, offset, zm_negative(scope, offset));
    *is_inside = column(scope, zm_less(scope, size, zm_scalar(scope, length, MLX_INT32)), 4);
    mlx_array at = zm_astype(scope, zm_minimum(scope, size, most), MLX_UINT32);
    table rows = take_rows(scope, whole, at);
    rows.cos = zm_expand_dims(scope, rows.cos, 1);
    rows.sin = zm_expand_dims(scope, rows.sin, 1);
    mlx_array is_back = column(scope, zm_less(scope, offset, zero), 4);
    rows.sin = zm_where(scope, is_back, zm_negative(scope, rows.sin), rows.sin);
    return rows;
}

void zm_compose_rope_concat_qk_decode(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array is_inside;
    if (mlx_array_ndim(call->inputs[4]) != mlx_array_ndim(call->inputs[5])) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "sin: expected as many dimensions as cos");
        return;
    }
    if (mlx_array_ndim(call->inputs[4]) == 2 && !zm_call_size(call, "S")) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "cos: S is 0; it must be at least 1");
        return;
    }
    table angles = decode_table(call, &is_inside);
    for (int i = 0; i < 2; i++) {
        mlx_array turned = rotate(call, call->inputs[2 * i + 1], angles, ZM_PAIRS_NEIGHBOURS);
        if (is_inside.ctx) turned = zm_where(scope, is_inside, turned, nan_like(scope, turned));
        call->outputs[i] = zm_concatenate(scope, call->inputs[2 * i], turned, -1);
    }
}
