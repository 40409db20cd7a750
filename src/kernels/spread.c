/* SPDX-License-Identifier: MIT */
#include "kernels/spread.h"

#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/batch.h"
#include "mlx/node.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { PIECE_ELEMENTS = 1 << 15 };

typedef struct spread {
    int columns, k;
    size_t bytes; /* of an element */
} spread;

typedef struct run {
    const spread *self;
    const char *values;
    const uint32_t *places;
    char *to;
} run;

static void spread_rows(void *context, size_t begin, size_t end) {
    const run *work = context;
    const size_t columns = (size_t)work->self->columns, k = (size_t)work->self->k, bytes = work->self->bytes;
    for (size_t row = begin; row < end; row++) {
        char *to = work->to + row * columns * bytes;
        memset(to, 0, columns * bytes);
        for (size_t i = row * k; i < (row + 1) * k; i++) {
            if (work->places[i] >= columns) continue;
            if (bytes == 4) memcpy(to + work->places[i] * 4, work->values + i * 4, 4);
            else memcpy(to + work->places[i] * 2, work->values + i * 2, 2);
        }
    }
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const spread *self = state;
    if (!outputs[0].size) return;
    run work = {self, inputs[0].data, inputs[1].data, outputs[0].data};
    zm_want_large_pages(work.to, outputs[0].size * self->bytes);
    zm_pool_run(zm_workers(), outputs[0].size / (size_t)self->columns, (size_t)(PIECE_ELEMENTS / self->columns + 1),
                spread_rows, &work);
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    const spread *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array is_inside = zm_less(&scope, primals[1], zm_scalar(&scope, self->columns, MLX_UINT32));
        mlx_array place = zm_minimum(&scope, primals[1], zm_scalar(&scope, self->columns - 1, MLX_UINT32));
        mlx_array taken = zm_take_along_axis(&scope, cotangents[0], place, -1);
        taken = zm_where(&scope, is_inside, taken, zm_scalar_like(&scope, 0, taken));
        zm_scope_keep(&scope, &gradients[i], argument_numbers[i] ? primals[1] : taken);
    }
    return zm_scope_end(&scope, error);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_primals;
    const spread *self = state;
    mlx_array made = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++)
        if (argument_numbers[i] == 0) made = zm_spread(&scope, tangents[i], primals[1], self->columns);
    if (!made.ctx && !zm_scope_failed(&scope)) {
        int n_dims = (int)mlx_array_ndim(primals[0]), shape[ZM_NODE_MAX_DIMS];
        memcpy(shape, mlx_array_shape(primals[0]), (size_t)n_dims * sizeof *shape);
        shape[n_dims - 1] = self->columns;
        made = zm_zeros(&scope, shape, n_dims, mlx_array_dtype(primals[0]));
    }
    zm_scope_keep(&scope, &result_tangents[0], made);
    return zm_scope_end(&scope, error);
}

static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_inputs;
    const spread *self = state;
    int batch = mlx_array_dim(inputs[axes[0] >= 0 ? 0 : 1], axes[0] >= 0 ? axes[0] : axes[1]);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array values = zm_batch_first(&scope, inputs[0], axes[0], batch),
              indices = zm_batch_first(&scope, inputs[1], axes[1], batch);
    zm_scope_keep(&scope, &results[0], zm_spread(&scope, values, indices, self->columns));
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class spread_class = {
    .name = "zmlx.spread", .evaluate_cpu = evaluate, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

mlx_array zm_spread(zm_scope *scope, mlx_array values, mlx_array indices, int columns) {
    if (zm_scope_failed(scope)) return values;
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(values), .dtype = mlx_array_dtype(values)};
    if (spec.n_dims > ZM_NODE_MAX_DIMS) /* in a batch */
        return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, "spread", "more than %d dimensions", ZM_NODE_MAX_DIMS);
    memcpy(spec.shape, mlx_array_shape(values), (size_t)spec.n_dims * sizeof(int));
    int k = spec.shape[spec.n_dims - 1];
    spec.shape[spec.n_dims - 1] = columns;
    if (!zm_scope_is_on_cpu(scope)) {
        mlx_array zeros = zm_zeros(scope, spec.shape, spec.n_dims, spec.dtype);
        return zm_put_along_axis(scope, zeros, indices, values, -1);
    }
    spread *self = malloc(sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "spread", "out of memory");
    *self = (spread){columns, k, zm_float_bytes(spec.dtype)};
    return zm_node(scope, &spec, &spread_class, self, (mlx_array[]){values, indices}, 2);
}
