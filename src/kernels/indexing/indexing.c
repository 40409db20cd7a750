/* SPDX-License-Identifier: MIT */
/* On the CPU and with CUDA nodes that read and write each row once; elsewhere operations of MLX. */
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/pages.h"
#include "kernels/batch.h"
#include "kernels/cuda/rows.h"
#include "kernels/indexing/indexing.h"
#include "kernels/indexing/scatter.h"
#include "kernels/row_function.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { PIECE_ELEMENTS = 1 << 15 };

typedef struct indexed {
    zm_row_function function;
    int n_rows, columns; /* of what the indices name */
    int shape[ZM_NODE_MAX_DIMS], n_dims; /* of that */
    mlx_dtype dtype;
} indexed;

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

mlx_array zm_rows_at(zm_scope *scope, mlx_array rows, mlx_array index, float missing) {
    if (zm_scope_failed(scope)) return rows;
    mlx_array other = zm_scalar_like(scope, (double)missing, rows);
    int n = zm_dim(rows, 0), shape[] = {zm_dim(index, 0), zm_dim(rows, 1)};
    if (!n || !shape[0] || !shape[1]) return zm_broadcast_to(scope, other, shape, 2);
    mlx_array safe = zm_minimum(scope, index, zm_scalar(scope, n - 1, MLX_UINT32));
    return zm_where(scope, is_inside(scope, index, n), zm_take(scope, rows, safe, 0), other);
}

/* [n, T] of dtype: updates [M, T] added up in float32 by flat indices, with MLX's operations: what is out of range goes
 * to a row more, which is dropped. */
static mlx_array add_rows_composed(zm_scope *scope, mlx_array index, mlx_array updates, int n, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return updates;
    int shape[] = {n + 1, zm_dim(updates, 1)};
    mlx_array zeros = zm_zeros(scope, shape, 2, MLX_FLOAT32);
    if (mlx_array_size(updates)) {
        mlx_array safe = zm_minimum(scope, index, zm_scalar(scope, n, MLX_UINT32));
        zeros = zm_scatter_add_rows(scope, zeros, safe, zm_astype(scope, updates, MLX_FLOAT32));
    }
    return zm_astype(scope, zm_slice_axis(scope, zeros, 0, 0, n, 1), dtype);
}

static mlx_array add_rows(zm_scope *scope, mlx_array index, mlx_array updates, int n, mlx_dtype dtype) {
    if (zm_scope_is_on_cuda(scope)) return zm_cuda_add_rows(scope, index, updates, n, dtype);
    if (zm_scope_is_on_cpu(scope)) return zm_astype(scope, zm_add_rows_on_cpu(scope, index, updates, n), dtype);
    return add_rows_composed(scope, index, updates, n, dtype);
}

typedef struct run {
    const indexed *self;
    const zm_view *inputs, *output;
    bool streams;
} run;

static void fill_nan(void *row, mlx_dtype dtype, int columns) {
    uint16_t half = dtype == MLX_FLOAT16 ? 0x7e00 : 0x7fc0;
    float nan = zm_float_from_bits(0x7fc00000);
    for (int i = 0; i < columns; i++) {
        if (dtype == MLX_FLOAT32) ((float *)row)[i] = nan;
        else ((uint16_t *)row)[i] = half;
    }
}

/* The beginning of a row that is read next; the rest is fetched while it is read. */
static void fetch_row(const void *row, size_t bytes) {
    enum { LINE = 64, MOST = 3072 };
    for (size_t at = 0; at < bytes && at < MOST; at += LINE) __builtin_prefetch((const char *)row + at, 0, 2);
}

static void gather_piece(void *context, size_t begin, size_t end) {
    const run *work = context;
    const indexed *self = work->self;
    const uint32_t *indices = work->inputs[1].data;
    size_t stride = (size_t)self->columns * zm_float_bytes(self->dtype);
    for (size_t i = begin; i < end; i++) {
        void *to = (char *)work->output->data + i * stride;
        if (indices[i] >= (uint32_t)self->n_rows) {
            fill_nan(to, self->dtype, self->columns);
            continue;
        }
        const void *in[] = {(const char *)work->inputs[0].data + indices[i] * stride,
                            (const char *)work->inputs[2].data + i * stride};
        if (i + 1 < end && indices[i + 1] < (uint32_t)self->n_rows)
            fetch_row((const char *)work->inputs[0].data + indices[i + 1] * stride, stride);
        zm_row_apply(&self->function, to, in, 0, self->columns, work->streams);
    }
    if (work->streams) zm_row_fence();
}

static void gather_add(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    size_t bytes = outputs[0].size * zm_float_bytes(outputs[0].dtype);
    run work = {.self = state, .inputs = inputs, .output = &outputs[0], .streams = zm_row_streams(bytes)};
    zm_want_large_pages(outputs[0].data, bytes);
    size_t grain = (size_t)(PIECE_ELEMENTS / (work.self->columns ? work.self->columns : 1) + 1);
    if (outputs[0].size) zm_pool_run(zm_workers(), inputs[1].size, grain, gather_piece, &work);
}

/* Gradients of src (0) and other (2). */
static zmlx_status gather_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                              const mlx_array *primals, int n_primals, const mlx_array *cotangents,
                              const mlx_array *results, int n_results, mlx_stream stream, zmlx_error *error) {
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

static mlx_array gather(zm_scope *scope, const indexed *self, const mlx_array *inputs);

/* It is linear in both. */
static zmlx_status gather_jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                              int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                              mlx_stream stream, zmlx_error *error) {
    (void)n_results;
    const indexed *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array of[3] = {{NULL}, primals[1], {NULL}};
    for (int i = 0; i < n_arguments; i++) of[argument_numbers[i]] = tangents[i];
    of[1] = primals[1];
    for (int i = 0; i < n_primals; i += 2)
        if (!of[i].ctx)
            of[i] = zm_zeros(&scope, mlx_array_shape(primals[i]), (int)mlx_array_ndim(primals[i]),
                             mlx_array_dtype(primals[i]));
    zm_scope_keep(&scope, &result_tangents[0], gather(&scope, self, of));
    return zm_scope_end(&scope, error);
}

/* The rows of all sources of a batch behind each other. */
static zmlx_status gather_vmap(const void *state, mlx_array *results, int *result_axes, int n_results,
                               const mlx_array *inputs, const int *axes, int n_inputs, mlx_stream stream,
                               zmlx_error *error) {
    (void)n_results;
    const indexed *self = state;
    int batch = 0, n_rows = self->n_rows, shape[ZM_NODE_MAX_DIMS + 1];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_inputs; i++)
        if (axes[i] >= 0) batch = mlx_array_dim(inputs[i], axes[i]);
    mlx_array src = inputs[0], index = zm_batch_first(&scope, inputs[1], axes[1], batch),
              other = zm_batch_first(&scope, inputs[2], axes[2], batch);
    if (axes[0] >= 0) {
        if ((int64_t)batch * n_rows >= INT32_MAX)
            zm_scope_fail(&scope, ZMLX_ERROR_UNSUPPORTED, "gather_add", "a batch of %d times %d rows is too large",
                          batch, n_rows);
        src = zm_batch_first(&scope, src, axes[0], batch);
        index = zm_index_in_batch(&scope, index, batch, n_rows);
        n_rows *= batch;
    } else {
        index = flat(&scope, index);
    }
    if (!zm_scope_failed(&scope)) {
        int n_dims = (int)mlx_array_ndim(other);
        memcpy(shape, mlx_array_shape(other), (size_t)n_dims * sizeof *shape);
        indexed flat_self = *self;
        flat_self.n_rows = flat_self.shape[0] = n_rows;
        flat_self.shape[1] = self->columns;
        flat_self.n_dims = 2;
        mlx_array of[3] = {zm_reshape2(&scope, src, n_rows, self->columns), index,
                           zm_reshape2(&scope, other, zm_dim(index, 0), self->columns)};
        zm_scope_keep(&scope, &results[0], zm_reshape(&scope, gather(&scope, &flat_self, of), shape, n_dims));
    }
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static zmlx_status launch_gather_add(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                                     const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const indexed *self = state;
    return zm_cuda_launch_gather_add(launch, inputs, self->n_rows, self->columns, self->dtype, error);
}

static const zm_node_class gather_class = {.name = "zmlx.gather_add", .evaluate_cpu = gather_add,
                                           .launch_gpu = launch_gather_add, .vjp = gather_vjp, .jvp = gather_jvp,
                                           .vmap = gather_vmap, .free_state = free};

/* inputs: src, indices, other. */
static mlx_array gather(zm_scope *scope, const indexed *self, const mlx_array *inputs) {
    if (zm_scope_failed(scope)) return inputs[0];
    indexed *state = malloc(sizeof *state);
    if (!state) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "gather_add", "out of memory");
    *state = *self;
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(inputs[2]), .dtype = self->dtype};
    memcpy(spec.shape, mlx_array_shape(inputs[2]), (size_t)spec.n_dims * sizeof(int));
    return zm_node(scope, &spec, &gather_class, state, inputs, 3);
}

void zm_gather_add_composed(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array src = call->inputs[0], other = call->inputs[2];
    /* In float32, so that its gradient is summed in it. */
    mlx_array wide = zm_astype(scope, src, MLX_FLOAT32), index = flat(scope, call->inputs[1]);
    if (zm_scope_failed(scope)) return;
    wide = zm_reshape2(scope, wide, zm_dim(src, 0), columns_of(mlx_array_shape(src), (int)mlx_array_ndim(src)));
    mlx_array rows = zm_rows_at(scope, wide, index, zm_float_from_bits(0x7fc00000));
    rows = zm_reshape(scope, rows, mlx_array_shape(other), (int)mlx_array_ndim(other));
    mlx_array inputs[] = {zm_astype(scope, rows, call->data_type), other};
    zm_call_part(call, call->outputs, "add", inputs, NULL, call->output_types);
}

void zm_compose_fused_gather_add(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array src = call->inputs[0];
    if (zm_scope_failed(scope)) return;
    if (columns_of(mlx_array_shape(src), (int)mlx_array_ndim(src)) < 0) {
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, call->where, "src: a row has more than 2^31 - 1 elements");
        return;
    }
    if (!zm_scope_is_on_cpu(scope) && !zm_scope_is_on_cuda(scope)) {
        zm_gather_add_composed(call);
        return;
    }
    zm_storage storage;
    zmlx_error error;
    zm_storage_from_dtype(&storage, call->data_type);
    indexed self = {.n_rows = zm_dim(src, 0), .columns = columns_of(mlx_array_shape(src), (int)mlx_array_ndim(src)),
                    .n_dims = (int)mlx_array_ndim(src), .dtype = call->data_type};
    memcpy(self.shape, mlx_array_shape(src), (size_t)self.n_dims * sizeof(int));
    if (zm_scope_is_on_cpu(scope) &&
        zm_row_function_get(&self.function, "add", (zm_storage[]){storage, storage, storage}, &error))
        zm_scope_fail(scope, error.code, error.where, "%s", error.message);
    call->outputs[0] = gather(scope, &self, call->inputs);
}

typedef mlx_array row_adder(zm_scope *scope, mlx_array index, mlx_array updates, int n, mlx_dtype dtype);

static void scatter_add(zm_catalog_call *call, row_adder *adder) {
    zm_scope *scope = call->scope;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims = 0, columns = -1;
    mlx_array index = flat(scope, call->inputs[0]);
    if (zm_scope_failed(scope)) return;
    if (zm_call_size(call, "n_rows") < INT32_MAX &&
        zm_pattern_shape(shape, &n_dims, &call->entry->signature.output_patterns[0], &call->sizes))
        columns = columns_of(shape, n_dims);
    if (columns < 0) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "n_rows: the result is too large");
        return;
    }
    mlx_array updates = zm_reshape2(scope, call->inputs[1], zm_dim(index, 0), columns);
    mlx_array sums = zm_astype(scope, adder(scope, index, updates, shape[0], MLX_FLOAT32), call->output_types[0]);
    call->outputs[0] = zm_reshape(scope, sums, shape, n_dims);
}

void zm_scatter_add_composed(zm_catalog_call *call) { scatter_add(call, add_rows_composed); }

void zm_compose_fused_scatter_add(zm_catalog_call *call) { scatter_add(call, add_rows); }
