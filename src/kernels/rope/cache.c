/* SPDX-License-Identifier: MIT */
#include "kernels/rope/cache.h"

#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/batch.h"
#include "mlx/node.h"
#include "runtime/workers.h"

enum { COPIED_AT_ONCE = 1 << 18 }; /* bytes */

typedef struct store {
    size_t row_bytes;
    int columns;
} store;

typedef struct copy {
    char *to;
    const char *from;
    size_t bytes;
} copy;

static void copy_pieces(void *context, size_t begin, size_t end) {
    const copy *self = context;
    size_t first = begin * COPIED_AT_ONCE, last = end * COPIED_AT_ONCE;
    if (last > self->bytes) last = self->bytes;
    memcpy(self->to + first, self->from + first, last - first);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const store *self = state;
    const uint32_t *slots = inputs[2].data;
    size_t n_rows = outputs[0].size / (size_t)(self->columns ? self->columns : 1);
    copy whole = {outputs[0].data, inputs[0].data, n_rows * self->row_bytes};
    if (!whole.bytes) return;
    if (whole.to != whole.from) {
        zm_want_large_pages(whole.to, whole.bytes);
        zm_pool_run(zm_workers(), (whole.bytes - 1) / COPIED_AT_ONCE + 1, 1, copy_pieces, &whole);
    }
    for (size_t i = 0; i < inputs[2].size; i++)
        if (slots[i] < n_rows)
            memcpy(whole.to + slots[i] * self->row_bytes, (const char *)inputs[1].data + i * self->row_bytes,
                   self->row_bytes);
}

static mlx_array zeros_like(zm_scope *scope, mlx_array a) {
    return zm_zeros(scope, mlx_array_shape(a), (int)mlx_array_ndim(a), mlx_array_dtype(a));
}

/* Of slots (B,) whether no later one is the same. */
static mlx_array is_last(zm_scope *scope, mlx_array slots) {
    if (zm_scope_failed(scope)) return slots;
    mlx_array number = zm_arange(scope, 0, zm_dim(slots, 0), 1, MLX_UINT32);
    mlx_array own = zm_expand_dims(scope, slots, 1), other = zm_expand_dims(scope, slots, 0);
    mlx_array is_same = zm_logical_and(scope, zm_greater_equal(scope, own, other), zm_greater_equal(scope, other, own));
    mlx_array is_later = zm_less(scope, zm_expand_dims(scope, number, 1), zm_expand_dims(scope, number, 0));
    mlx_array n_later =
        zm_sum(scope, zm_astype(scope, zm_logical_and(scope, is_same, is_later), MLX_UINT32), -1, false);
    return zm_less(scope, n_later, zm_scalar(scope, 1, MLX_UINT32));
}

/* The cotangents of the places where rows were stored; zeros for the others. */
static mlx_array gradient_of_rows(zm_scope *scope, const store *self, mlx_array cotangent, mlx_array rows,
                                  mlx_array slots) {
    if (zm_scope_failed(scope) || !mlx_array_size(rows)) return rows;
    int n_rows = (int)(mlx_array_size(cotangent) / (size_t)self->columns);
    if (!n_rows) return zeros_like(scope, rows);
    mlx_array safe = zm_minimum(scope, slots, zm_scalar(scope, n_rows - 1, MLX_UINT32));
    mlx_array taken = zm_take(scope, zm_reshape2(scope, cotangent, n_rows, self->columns), safe, 0);
    mlx_array is_stored =
        zm_logical_and(scope, zm_less(scope, slots, zm_scalar(scope, n_rows, MLX_UINT32)), is_last(scope, slots));
    taken = zm_where(scope, zm_expand_dims(scope, is_stored, 1), taken, zm_scalar_like(scope, 0, taken));
    return zm_reshape(scope, taken, mlx_array_shape(rows), (int)mlx_array_ndim(rows));
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array gradient = primals[2];
        if (argument_numbers[i] == 0)
            gradient = zm_store_rows(&scope, cotangents[0], zeros_like(&scope, primals[1]), primals[2]);
        if (argument_numbers[i] == 1) gradient = gradient_of_rows(&scope, state, cotangents[0], primals[1], primals[2]);
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    return zm_scope_end(&scope, error);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)state, (void)n_results, (void)n_primals;
    mlx_array of[3] = {{NULL}, {NULL}, {NULL}};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) of[argument_numbers[i]] = tangents[i];
    for (int i = 0; i < 2; i++)
        if (!of[i].ctx) of[i] = zeros_like(&scope, primals[i]);
    zm_scope_keep(&scope, &result_tangents[0], zm_store_rows(&scope, of[0], of[1], primals[2]));
    return zm_scope_end(&scope, error);
}

/* The caches of a batch behind each other. */
static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results;
    const store *self = state;
    int batch = 0;
    mlx_array first[3];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_inputs; i++)
        if (axes[i] >= 0) batch = mlx_array_dim(inputs[i], axes[i]);
    for (int i = 0; i < 3; i++) first[i] = zm_batch_first(&scope, inputs[i], axes[i], batch);
    if (!zm_scope_failed(&scope) && batch && self->columns) {
        size_t n_rows = mlx_array_size(first[0]) / (size_t)batch / (size_t)self->columns;
        if (n_rows * (size_t)batch >= INT32_MAX)
            zm_scope_fail(&scope, ZMLX_ERROR_UNSUPPORTED, "store_rows", "a batch of %d times %zu rows is too large",
                          batch, n_rows);
        first[2] = zm_index_in_batch(&scope, first[2], batch, (int)n_rows);
        first[1] = zm_reshape2(&scope, first[1], zm_dim(first[2], 0), self->columns);
        first[0] = zm_store_rows(&scope, first[0], first[1], first[2]);
    }
    zm_scope_keep(&scope, &results[0], first[0]);
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class store_class = {
    .name = "zmlx.store_rows", .evaluate_cpu = evaluate, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

mlx_array zm_store_rows(zm_scope *scope, mlx_array cache, mlx_array rows, mlx_array slots) {
    if (zm_scope_failed(scope) || !mlx_array_size(rows)) return cache;
    store *self = malloc(sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "store_rows", "out of memory");
    size_t n_rows = mlx_array_size(slots);
    self->columns = (int)(mlx_array_size(rows) / n_rows);
    self->row_bytes = mlx_array_nbytes(rows) / n_rows;
    zm_node_output spec = zm_output_as(cache);
    spec.replaces = 1;
    return zm_node(scope, &spec, &store_class, self, (mlx_array[]){cache, rows, slots}, 3);
}
