/* SPDX-License-Identifier: MIT */
/* On the CPU and with CUDA nodes that read and write each row once; elsewhere operations of MLX. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "kernels/cuda/rows.h"
#include "kernels/cuda/text.h"
#include "kernels/indexing/indexing.h"
#include "kernels/row_function.h"
#include "runtime/workers.h"

enum { PIECE_ELEMENTS = 1 << 15, MIN_COLUMNS = 256, COLUMN_ALIGNMENT = 64 };

typedef struct indexed {
    zm_row_function function;
    int n_rows, columns; /* of what the indices name */
    int shape[ZM_NODE_MAX_DIMS], n_dims; /* of that */
    mlx_dtype dtype;
} indexed;

static size_t bytes_of(mlx_dtype dtype) { return dtype == MLX_FLOAT32 ? 4 : 2; }

/* Of all dimensions but the first; negative where an int does not hold it. */
static int columns_of(const int *shape, int n_dims) {
    int64_t size = 1;
    for (int i = 1; i < n_dims && size <= INT32_MAX; i++) size *= shape[i];
    return size <= INT32_MAX ? (int)size : -1;
}

static mlx_array flat(zm_scope *scope, mlx_array indices) {
    if (zm_scope_failed(scope)) return indices;
    int size = (int)mlx_array_size(indices);
    return zm_reshape(scope, indices, &size, 1);
}

/* Of a flat index whether it is below n, as a column. */
static mlx_array is_inside(zm_scope *scope, mlx_array index, int n) {
    return zm_expand_dims(scope, zm_less(scope, index, zm_scalar(scope, n, MLX_UINT32)), 1);
}

/* rows [N, T] at flat indices; where one is out of range, `missing`. */
static mlx_array take_rows(zm_scope *scope, mlx_array rows, mlx_array index, float missing) {
    mlx_array other = zm_scalar(scope, 0, MLX_FLOAT32);
    if (zm_scope_failed(scope)) return rows;
    other = zm_astype(scope, zm_scope_own(scope, mlx_array_new_float32(missing)), mlx_array_dtype(rows));
    int n = zm_dim(rows, 0), shape[] = {zm_dim(index, 0), zm_dim(rows, 1)};
    if (!n || !shape[0] || !shape[1]) return zm_broadcast_to(scope, other, shape, 2);
    mlx_array safe = zm_minimum(scope, index, zm_scalar(scope, n - 1, MLX_UINT32));
    return zm_where(scope, is_inside(scope, index, n), zm_take(scope, rows, safe, 0), other);
}

/* [n, T] of dtype: updates [M, T] added up in float32 by flat indices. With MLX's operations, what is out of range goes to a
 * row more, which is dropped. */
static mlx_array add_rows(zm_scope *scope, mlx_array index, mlx_array updates, int n, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return updates;
    if (zm_scope_is_on_cuda(scope)) return zm_cuda_add_rows(scope, index, updates, n, dtype);
    int shape[] = {n + 1, zm_dim(updates, 1)};
    mlx_array zeros = zm_zeros(scope, shape, 2, MLX_FLOAT32);
    if (mlx_array_size(updates)) {
        mlx_array safe = zm_minimum(scope, index, zm_scalar(scope, n, MLX_UINT32));
        zeros = zm_scatter_add_rows(scope, zeros, safe, zm_astype(scope, updates, MLX_FLOAT32));
    }
    return zm_astype(scope, zm_slice_axis(scope, zeros, 0, 0, n, 1), dtype);
}

typedef struct run {
    const indexed *self;
    const zm_view *inputs, *output;
    size_t n_updates;
    bool by_columns;
} run;

static void fill_nan(void *row, mlx_dtype dtype, int columns) {
    uint16_t half = dtype == MLX_FLOAT16 ? 0x7e00 : 0x7fc0;
    float nan = zm_float_from_bits(0x7fc00000);
    for (int i = 0; i < columns; i++) {
        if (dtype == MLX_FLOAT32) ((float *)row)[i] = nan;
        else ((uint16_t *)row)[i] = half;
    }
}

static void gather_piece(void *context, size_t begin, size_t end) {
    const run *work = context;
    const indexed *self = work->self;
    const uint32_t *indices = work->inputs[1].data;
    size_t stride = (size_t)self->columns * bytes_of(self->dtype);
    for (size_t i = begin; i < end; i++) {
        void *to = (char *)work->output->data + i * stride;
        if (indices[i] >= (uint32_t)self->n_rows) {
            fill_nan(to, self->dtype, self->columns);
            continue;
        }
        const void *in[] = {(const char *)work->inputs[0].data + indices[i] * stride,
                            (const char *)work->inputs[2].data + i * stride};
        zm_row_apply(&self->function, to, in, self->columns);
    }
}

static void gather_add(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    run work = {.self = state, .inputs = inputs, .output = &outputs[0]};
    size_t grain = (size_t)(PIECE_ELEMENTS / (work.self->columns ? work.self->columns : 1) + 1);
    if (outputs[0].size) zm_pool_run(zm_workers(), inputs[1].size, grain, gather_piece, &work);
}

/* Columns [begin, end) of all rows, or rows [begin, end): each element has one thread, which adds in order. */
static void scatter_piece(void *context, size_t begin, size_t end) {
    const run *work = context;
    const indexed *self = work->self;
    const uint32_t *indices = work->inputs[0].data;
    size_t columns = (size_t)self->columns, first = 0, count = columns;
    float *sums = work->output->data;
    if (work->by_columns) {
        first = begin * COLUMN_ALIGNMENT;
        count = (end * COLUMN_ALIGNMENT < columns ? end * COLUMN_ALIGNMENT : columns) - first;
        begin = 0;
        end = (size_t)self->n_rows;
    }
    for (size_t row = begin; row < end; row++) memset(sums + row * columns + first, 0, count * sizeof *sums);
    for (size_t i = 0; i < work->n_updates; i++) {
        if (indices[i] < begin || indices[i] >= end) continue;
        float *to = sums + indices[i] * columns + first;
        const void *in[] = {to, (const char *)work->inputs[1].data + (i * columns + first) * bytes_of(self->dtype)};
        zm_row_apply(&self->function, to, in, (int64_t)count);
    }
}

static void scatter_add(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    run work = {.self = state, .inputs = inputs, .output = &outputs[0], .n_updates = inputs[0].size};
    size_t n_threads = (size_t)(zm_workers() ? zm_pool_threads(zm_workers()) : 1), columns = (size_t)work.self->columns;
    if (!outputs[0].size) return;
    work.by_columns = columns >= n_threads * MIN_COLUMNS;
    size_t count = work.by_columns ? (columns + COLUMN_ALIGNMENT - 1) / COLUMN_ALIGNMENT : (size_t)work.self->n_rows;
    bool is_small = outputs[0].size + inputs[1].size < PIECE_ELEMENTS;
    zm_pool_run(is_small ? NULL : zm_workers(), count, (count + n_threads - 1) / n_threads, scatter_piece, &work);
}

/* Gradients of src (0) and other (2). */
static zmlx_status gather_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                              const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                              int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    const indexed *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array gradient = cotangents[0];
        if (argument_numbers[i] == 0) {
            mlx_array rows = zm_reshape2(&scope, gradient, (int)mlx_array_size(primals[1]), self->columns);
            rows = add_rows(&scope, flat(&scope, primals[1]), rows, self->n_rows, self->dtype);
            gradient = zm_reshape(&scope, rows, self->shape, self->n_dims);
        }
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    return zm_scope_end(&scope, error);
}

/* Of updates (1). */
static zmlx_status scatter_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                               int n_results, mlx_stream stream, zmlx_error *error) {
    (void)argument_numbers, (void)n_arguments, (void)n_primals, (void)results, (void)n_results;
    const indexed *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array sums = zm_reshape2(&scope, cotangents[0], self->n_rows, self->columns);
    mlx_array rows = zm_astype(&scope, take_rows(&scope, sums, flat(&scope, primals[0]), 0), self->dtype);
    rows = zm_reshape(&scope, rows, mlx_array_shape(primals[1]), (int)mlx_array_ndim(primals[1]));
    zm_scope_keep(&scope, &gradients[0], rows);
    return zm_scope_end(&scope, error);
}

static zmlx_status launch_gather_add(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                                     const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const indexed *self = state;
    return zm_cuda_launch_gather_add(launch, inputs, self->n_rows, self->columns, self->dtype, error);
}

static const zm_node_class gather_class = {.name = "zmlx.gather_add", .evaluate_cpu = gather_add,
                                           .launch_gpu = launch_gather_add, .vjp = gather_vjp, .free_state = free};
static const zm_node_class scatter_class = {.name = "zmlx.scatter_add", .evaluate_cpu = scatter_add, .vjp = scatter_vjp,
                                            .free_state = free};

static indexed *new_state(zm_catalog_call *call, const char *part, mlx_dtype dtype, const zm_storage *storages, const int *shape,
                          int n_dims) {
    zmlx_error error;
    indexed *self = zm_scope_failed(call->scope) ? NULL : calloc(1, sizeof *self);
    if (!self) {
        zm_scope_fail(call->scope, ZMLX_ERROR_MEMORY, call->where, "out of memory");
        return NULL;
    }
    *self = (indexed){.n_rows = shape[0], .columns = columns_of(shape, n_dims), .n_dims = n_dims, .dtype = dtype};
    memcpy(self->shape, shape, (size_t)n_dims * sizeof *shape);
    if (!zm_scope_is_on_cpu(call->scope) || !zm_row_function_get(&self->function, part, storages, &error)) return self;
    zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
    free(self);
    return NULL;
}

void zm_gather_add_composed(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array src = call->inputs[0], other = call->inputs[2];
    /* In float32, so that its gradient is summed in it. */
    mlx_array wide = zm_astype(scope, src, MLX_FLOAT32), index = flat(scope, call->inputs[1]);
    if (zm_scope_failed(scope)) return;
    wide = zm_reshape2(scope, wide, zm_dim(src, 0), columns_of(mlx_array_shape(src), (int)mlx_array_ndim(src)));
    mlx_array rows = take_rows(scope, wide, index, zm_float_from_bits(0x7fc00000));
    rows = zm_reshape(scope, rows, mlx_array_shape(other), (int)mlx_array_ndim(other));
    mlx_array inputs[] = {zm_astype(scope, rows, call->data_type), other};
    zm_call_part(call, call->outputs, "add", inputs, NULL, call->output_types);
}

void zm_compose_fused_gather_add(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array src = call->inputs[0], other = call->inputs[2];
    if (zm_scope_failed(scope)) return;
    if (columns_of(mlx_array_shape(src), (int)mlx_array_ndim(src)) < 0) {
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, call->where, "src: a row has more than 2^31 - 1 elements");
        return;
    }
    if (!zm_scope_is_on_cpu(scope) && !zm_scope_is_on_cuda(scope)) {
        zm_gather_add_composed(call);
        return;
    }
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(other), .dtype = call->data_type};
    memcpy(spec.shape, mlx_array_shape(other), (size_t)spec.n_dims * sizeof(int));
    zm_storage storage;
    zm_storage_from_dtype(&storage, call->data_type);
    indexed *self = new_state(call, "add", call->data_type, (zm_storage[]){storage, storage, storage}, mlx_array_shape(src),
                              (int)mlx_array_ndim(src));
    if (self) call->outputs[0] = zm_node(scope, &spec, &gather_class, self, call->inputs, 3);
}

static bool sum_shape(zm_node_output *spec, const zm_catalog_call *call) {
    *spec = (zm_node_output){.dtype = MLX_FLOAT32};
    return zm_call_size(call, "n_rows") < INT32_MAX &&
           zm_pattern_shape(spec->shape, &spec->n_dims, &call->entry->signature.output_patterns[0], &call->sizes) &&
           columns_of(spec->shape, spec->n_dims) >= 0;
}

void zm_scatter_add_composed(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    zm_node_output spec;
    mlx_array index = flat(scope, call->inputs[0]);
    if (zm_scope_failed(scope) || !sum_shape(&spec, call)) return;
    mlx_array updates = zm_reshape2(scope, call->inputs[1], zm_dim(index, 0), columns_of(spec.shape, spec.n_dims));
    call->outputs[0] = zm_reshape(scope, add_rows(scope, index, updates, spec.shape[0], MLX_FLOAT32), spec.shape, spec.n_dims);
}

void zm_compose_fused_scatter_add(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    zm_node_output spec;
    if (zm_scope_failed(scope)) return;
    if (!sum_shape(&spec, call)) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "n_rows: the result is too large");
        return;
    }
    if (!zm_scope_is_on_cpu(scope)) {
        zm_scatter_add_composed(call);
        return;
    }
    zm_storage storage;
    zm_storage_from_dtype(&storage, call->data_type);
    indexed *self = new_state(call, "accumulated", call->data_type, (zm_storage[]){ZM_STORAGE_FLOAT32, storage, ZM_STORAGE_FLOAT32},
                              spec.shape, spec.n_dims);
    if (self) call->outputs[0] = zm_node(scope, &spec, &scatter_class, self, call->inputs, 2);
}
