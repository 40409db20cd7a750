/* SPDX-License-Identifier: MIT */
#include "kernels/select.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/topk.h"
#include "kernels/row_function.h"
#include "kernels/select_rows.h"
#include "kernels/spread.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { PIECE_ELEMENTS = 1 << 15 };

typedef struct topk {
    int k, columns;
    mlx_dtype dtype; /* of x */
    bool gates;      /* the softmax of the values instead of them, in float32; k <= ZM_SELECT_ROWS_MAX */
    zm_row_function exp;
} topk;

/* Larger for larger numbers; NaN the largest, -0 as 0. */
static inline uint32_t order_key(uint32_t bits, uint32_t infinity) {
    uint32_t magnitude = bits & 0x7fffffff;
    if (magnitude > infinity) return UINT32_MAX;
    return bits >> 31 ? UINT32_C(0x80000000) - magnitude : bits | 0x80000000u;
}

/* Halves as the upper half of 32 bits: their order is that of the bits. */
static inline uint32_t key_at(const void *row, mlx_dtype dtype, int column) {
    static const uint32_t infinity = 0x7f800000, infinity_of_half = 0x7c000000;
    if (dtype == MLX_FLOAT32) return order_key(((const uint32_t *)row)[column], infinity);
    return order_key((uint32_t)((const uint16_t *)row)[column] << 16,
                     dtype == MLX_FLOAT16 ? infinity_of_half : infinity);
}

typedef struct run {
    const topk *self;
    const zm_view *x;
    zm_view *values, *indices;
} run;

static const void *row_of(const run *work, int64_t row) {
    return (const char *)work->x->data + (size_t)row * (size_t)work->self->columns * zm_float_bytes(work->self->dtype);
}

typedef struct keyed {
    uint32_t key, place;
} keyed;

static int compare_keyed(const void *a, const void *b) {
    const keyed *left = a, *right = b;
    if (left->key != right->key) return left->key > right->key ? -1 : 1;
    return left->place < right->place ? -1 : 1;
}

/* Where many are wanted, insertion would be slow. */
static void sort_row(const run *work, int64_t row, keyed *items) {
    const topk *self = work->self;
    uint32_t *places = (uint32_t *)work->indices->data + row * self->k;
    for (int column = 0; column < self->columns; column++)
        items[column] = (keyed){key_at(row_of(work, row), self->dtype, column), (uint32_t)column};
    qsort(items, (size_t)self->columns, sizeof *items, compare_keyed);
    for (int i = 0; i < self->k; i++) places[i] = items[i].place;
}

static void copy_values(const run *work, int64_t row) {
    const topk *self = work->self;
    size_t size = zm_float_bytes(self->dtype);
    const uint32_t *places = (const uint32_t *)work->indices->data + row * self->k;
    for (int i = 0; i < self->k; i++)
        memcpy((char *)work->values->data + (size_t)(row * self->k + i) * size,
               (const char *)work->x->data + (size_t)(row * self->columns + places[i]) * size, size);
}

/* From e^(value - largest): each row's sum is at least 1, or 0 where all are -inf. */
static void normalise(float *weights, size_t rows, size_t k) {
    for (size_t row = 0; row < rows; row++, weights += k) {
        float sum = 0;
        for (size_t i = 0; i < k; i++) sum += weights[i];
        float scale = sum == 0 ? 0 : 1 / sum;
        for (size_t i = 0; i < k; i++) weights[i] *= scale;
    }
}

static void gate_rows(const run *work, int64_t begin, int64_t end, zm_select_rows_task *task) {
    const topk *self = work->self;
    float *weights = (float *)work->values->data + begin * self->k;
    task->below_largest = work->values->data;
    zm_select_rows(task, begin, end);
    zm_row_apply(&self->exp, weights, (const void *const[]){weights}, 0, (end - begin) * self->k, false);
    normalise(weights, (size_t)(end - begin), (size_t)self->k);
}

static void select_rows(void *context, size_t begin, size_t end) {
    const run *work = context;
    const topk *self = work->self;
    if (self->k <= ZM_SELECT_ROWS_MAX) {
        zm_select_rows_task task = {.x = work->x->data,
                                    .columns = self->columns,
                                    .k = self->k,
                                    .values = work->values->data,
                                    .indices = work->indices->data};
        zm_storage_from_dtype(&task.storage, self->dtype);
        if (self->gates) gate_rows(work, (int64_t)begin, (int64_t)end, &task);
        else zm_select_rows(&task, (int64_t)begin, (int64_t)end);
        return;
    }
    keyed *items = malloc((size_t)self->columns * sizeof *items);
    if (!items) { /* what cannot be told from here: indices that are out of range, and values whose bits are a NaN's */
        size_t first = begin * (size_t)self->k, count = (end - begin) * (size_t)self->k,
               size = zm_float_bytes(self->dtype);
        memset((uint32_t *)work->indices->data + first, 0xff, count * sizeof(uint32_t));
        memset((char *)work->values->data + first * size, 0xff, count * size);
        return;
    }
    for (size_t row = begin; row < end; row++) {
        sort_row(work, (int64_t)row, items);
        copy_values(work, (int64_t)row);
    }
    free(items);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const topk *self = state;
    run work = {self, &inputs[0], &outputs[0], &outputs[1]};
    size_t rows = inputs[0].size / (size_t)self->columns;
    if (rows) zm_pool_run(zm_workers(), rows, (size_t)(PIECE_ELEMENTS / self->columns + 1), select_rows, &work);
}

static void select_on_cpu(zm_scope *scope, mlx_array x, int k, bool gates, mlx_array *values, mlx_array *indices);

/* Of w = softmax of the chosen, in both directions: w (t - sum w t), in x's type. */
static mlx_array gate_tangent(zm_scope *scope, const topk *self, mlx_array weights, mlx_array tangent) {
    zm_catalog_call call = {.scope = scope, .where = "zmlx_topk_gating_softmax"};
    mlx_array made = {NULL}, inputs[2] = {weights, zm_astype(scope, tangent, MLX_FLOAT32)};
    zm_call_part(&call, &made, "softmax_grad", inputs, NULL, NULL);
    return zm_astype(scope, made, self->dtype);
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)argument_numbers, (void)n_arguments, (void)primals, (void)n_primals, (void)n_results;
    const topk *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array given = self->gates ? gate_tangent(&scope, self, results[0], cotangents[0]) : cotangents[0];
    zm_scope_keep(&scope, &gradients[0], zm_spread(&scope, given, results[1], self->columns));
    return zm_scope_end(&scope, error);
}

void zm_select_tangents(zm_scope *scope, mlx_array tangent, mlx_array indices, mlx_array *of_values,
                        mlx_array *of_indices) {
    *of_values = zm_take_along_axis(scope, tangent, indices, -1);
    if (!zm_scope_failed(scope))
        *of_indices = zm_zeros(scope, mlx_array_shape(indices), (int)mlx_array_ndim(indices), MLX_UINT32);
}

mlx_array zm_select_batch_first(zm_scope *scope, mlx_array x, int axis) {
    int axes[ZM_NODE_MAX_DIMS + 1], n_dims = (int)mlx_array_ndim(x), n = 0;
    if (axis <= 0) return x;
    axes[n++] = axis;
    for (int i = 0; i < n_dims; i++)
        if (i != axis) axes[n++] = i;
    return zm_transpose(scope, x, axes, n_dims);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)argument_numbers, (void)n_arguments, (void)n_primals;
    const topk *self = state;
    mlx_array values, indices, made[2] = {{NULL}, {NULL}};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    select_on_cpu(&scope, primals[0], self->k, self->gates, &values, &indices);
    if (!zm_scope_failed(&scope)) zm_select_tangents(&scope, tangents[0], indices, &made[0], &made[1]);
    if (!zm_scope_failed(&scope) && self->gates)
        made[0] = zm_astype(&scope, gate_tangent(&scope, self, values, made[0]), MLX_FLOAT32);
    for (int i = 0; i < 2; i++) zm_scope_keep(&scope, &result_tangents[i], made[i]);
    return zm_scope_end(&scope, error);
}

static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_inputs;
    const topk *self = state;
    mlx_array made[2] = {{NULL}, {NULL}};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_select_batch_first(&scope, inputs[0], axes[0]);
    if (!zm_scope_failed(&scope)) select_on_cpu(&scope, x, self->k, self->gates, &made[0], &made[1]);
    for (int i = 0; i < 2; i++) {
        zm_scope_keep(&scope, &results[i], made[i]);
        result_axes[i] = axes[0] < 0 ? -1 : 0;
    }
    return zm_scope_end(&scope, error);
}

static const zm_node_class topk_class =
    {.name = "zmlx.topk", .evaluate_cpu = evaluate, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

void zm_select_apply(zm_scope *scope, mlx_array *values, mlx_array *indices, const zm_node_class *node_class,
                     void *state, mlx_array x, int k, mlx_dtype dtype) {
    zm_node_output specs[2] = {{.n_dims = (int)mlx_array_ndim(x), .dtype = dtype}};
    if (specs[0].n_dims > ZM_NODE_MAX_DIMS) { /* in a batch */
        node_class->free_state(state);
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, node_class->name, "more than %d dimensions", ZM_NODE_MAX_DIMS);
        return;
    }
    memcpy(specs[0].shape, mlx_array_shape(x), (size_t)specs[0].n_dims * sizeof(int));
    specs[0].shape[specs[0].n_dims - 1] = k;
    specs[1] = specs[0];
    specs[1].dtype = MLX_UINT32;
    mlx_array made[2] = {{NULL}, {NULL}};
    zmlx_error error;
    if (zm_node_apply(made, specs, 2, node_class, state, &x, 1, scope->stream, &error)) {
        zm_scope_fail(scope, error.code, error.where, "%s", error.message);
        return;
    }
    *values = zm_scope_own(scope, made[0]);
    *indices = zm_scope_own(scope, made[1]);
}

static void select_on_cpu(zm_scope *scope, mlx_array x, int k, bool gates, mlx_array *values, mlx_array *indices) {
    zm_row_function exp = {NULL, 0};
    zmlx_error error;
    if (gates && zm_row_function_get(&exp, "exp", (zm_storage[]){ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT32}, &error)) {
        zm_scope_fail(scope, error.code, error.where, "%s", error.message);
        return;
    }
    topk *self = malloc(sizeof *self);
    if (!self) {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "topk", "out of memory");
        return;
    }
    mlx_dtype dtype = mlx_array_dtype(x);
    *self = (topk){k, zm_dim(x, -1), dtype, gates, exp};
    zm_select_apply(scope, values, indices, &topk_class, self, x, k, gates ? MLX_FLOAT32 : dtype);
}

bool zm_select_gates(zm_scope *scope, mlx_array x, int k, mlx_array *weights, mlx_array *indices) {
    if (zm_scope_failed(scope) || k > ZM_SELECT_ROWS_MAX || !zm_scope_is_on_cpu(scope)) return false;
    select_on_cpu(scope, x, k, true, weights, indices);
    return true;
}

/* MLX's sort on CUDA has a block of a grid's second dimension for each row: of those there are 65535. */
static mlx_array sort_rows(zm_scope *scope, mlx_array keys) {
    enum { MOST = 65535 };
    if (zm_scope_failed(scope)) return keys;
    int columns = zm_dim(keys, -1), n_dims = (int)mlx_array_ndim(keys);
    size_t rows = columns ? mlx_array_size(keys) / (size_t)columns : 0;
    if (rows <= MOST || rows > INT_MAX) return zm_sort(scope, keys, -1);
    mlx_array flat = zm_reshape(scope, keys, (const int[]){(int)rows, columns}, 2), sorted = {NULL};
    for (int row = 0; row < (int)rows && !zm_scope_failed(scope); row += MOST) {
        int end = (int)rows - row < MOST ? (int)rows : row + MOST;
        mlx_array piece = zm_sort(scope, zm_contiguous(scope, zm_slice_axis(scope, flat, 0, row, end, 1)), -1);
        sorted = row ? zm_concatenate(scope, sorted, piece, 0) : piece;
    }
    return zm_reshape(scope, sorted, mlx_array_shape(keys), n_dims);
}

/* Keys that rise as numbers fall, times 2^32, plus the column: all different, so any sort gives the order. */
void zm_select_topk_sorted(zm_scope *scope, mlx_array x, int k, mlx_array *values, mlx_array *indices) {
    int columns = zm_dim(x, -1), n_dims = (int)mlx_array_ndim(x), shape[ZM_NODE_MAX_DIMS];
    mlx_array zero = zm_scalar(scope, 0, MLX_FLOAT32);
    mlx_array bits = zm_view_as(scope, zm_add(scope, zm_astype(scope, x, MLX_FLOAT32), zero), MLX_UINT32);
    mlx_array sign = zm_scalar(scope, 0x1p31, MLX_UINT32);
    mlx_array is_negative = zm_greater_equal(scope, bits, sign);
    mlx_array magnitude = zm_where(scope, is_negative, zm_subtract(scope, bits, sign), bits);
    mlx_array key = zm_where(scope, is_negative, bits,
                             zm_subtract(scope, zm_scalar(scope, 0x7fffffff, MLX_UINT32), bits));
    mlx_array is_nan = zm_less(scope, zm_scalar(scope, 0x7f800000, MLX_UINT32), magnitude);
    key = zm_astype(scope, zm_where(scope, is_nan, zm_scalar(scope, 0, MLX_UINT32), key), MLX_UINT64);
    key = zm_add(scope, zm_multiply(scope, key, zm_scalar(scope, 0x1p32, MLX_UINT64)),
                 zm_arange(scope, 0, columns, 1, MLX_UINT64));
    mlx_array first = zm_contiguous(scope, zm_slice_axis(scope, sort_rows(scope, key), -1, 0, k, 1));
    if (zm_scope_failed(scope)) return;
    memcpy(shape, mlx_array_shape(first), (size_t)n_dims * sizeof *shape);
    mlx_array words = zm_view_as(scope, first,
                                 MLX_UINT32); /* little-endian: the column is the first word of each two */
    *indices = zm_contiguous(scope, zm_slice_axis(scope, words, -1, 0, 2 * k, 2));
    *values = zm_take_along_axis(scope, x, zm_stop_gradient(scope, *indices), -1);
}

void zm_select_topk(zm_scope *scope, mlx_array x, int k, mlx_array *values, mlx_array *indices) {
    if (zm_scope_failed(scope)) return;
    if (zm_scope_is_on_cpu(scope))
        select_on_cpu(scope, x, k, false, values, indices);
    else if (k <= ZM_CUDA_TOPK_MAX && zm_scope_is_on_cuda(scope))
        zm_cuda_select(scope, x, k, false, mlx_array_dtype(x), values, indices);
    else
        zm_select_topk_sorted(scope, x, k, values, indices);
}
