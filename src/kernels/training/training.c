/* SPDX-License-Identifier: MIT */
/* Loss of a language model's last layer without its logits: rows are taken in chunks, whose logits go again. */
#include <limits.h>

#include "kernels/compose.h"

typedef struct chunks {
    int rows, columns, size; /* of x flattened; rows a chunk */
} chunks;

static int chunk_end(const chunks *all, int begin) {
    return all->rows - begin > all->size ? begin + all->size : all->rows;
}

static mlx_array take_rows(zm_scope *scope, mlx_array a, int begin, int end) {
    return zm_slice_axis(scope, a, 0, begin, end, 1);
}

/* Rows [begin, end) in float32, not before the chunk before them is done: MLX would else evaluate several at a time. */
static mlx_array chunk_rows(zm_scope *scope, mlx_array x, int begin, int end, mlx_array previous) {
    mlx_array rows = mlx_array_new();
    zm_scope_keep(scope, &rows, zm_astype(scope, take_rows(scope, x, begin, end), MLX_FLOAT32));
    if (!zm_scope_failed(scope)) zm_evaluate_after(&rows, previous, &scope->failure);
    return zm_scope_own(scope, rows);
}

static mlx_array chunk_logits(zm_scope *scope, mlx_array rows, mlx_array weight) {
    return zm_matmul(scope, rows, zm_swapaxes(scope, weight, 0, 1));
}

static mlx_array part(zm_scope *scope, const char *name, mlx_array *inputs) {
    zm_catalog_call call = {.scope = scope, .where = "zmlx_linear_cross_entropy"};
    mlx_array result = {NULL};
    zm_call_part(&call, &result, name, inputs, NULL, (const mlx_dtype[]){MLX_FLOAT32});
    return result;
}

/* Pieces of the chunks, one behind the other. */
typedef struct pieces {
    mlx_vector_array list;
} pieces;

static void add_piece(zm_scope *scope, pieces *self, mlx_array piece) {
    if (!self->list.ctx) self->list = mlx_vector_array_new();
    if (!zm_scope_failed(scope) && mlx_vector_array_append_value(self->list, piece))
        zm_mlx_fail(&scope->failure, "zmlx_linear_cross_entropy");
}

static mlx_array join(zm_scope *scope, pieces *self) {
    mlx_array joined = mlx_array_new();
    if (!zm_scope_failed(scope) && mlx_concatenate_axis(&joined, self->list, 0, scope->stream))
        zm_mlx_fail(&scope->failure, "zmlx_linear_cross_entropy");
    mlx_vector_array_free(self->list);
    return zm_scope_own(scope, joined);
}

/* dz = (softmax(z) - one) g; dx = dz w; dw = sum of dz^T x. inputs: x, weight, targets. */
static zmlx_status differentiate(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                 const mlx_array *cotangents, int n_outputs, mlx_stream stream, zmlx_error *error) {
    (void)n_inputs, (void)n_outputs;
    const chunks *all = context;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_reshape2(&scope, inputs[0], all->rows, all->columns),
              weight = zm_astype(&scope, inputs[1], MLX_FLOAT32);
    mlx_array targets = zm_reshape(&scope, inputs[2], &all->rows, 1),
              g = zm_reshape(&scope, cotangents[0], &all->rows, 1);
    pieces dx = {{NULL}};
    add_piece(&scope, &dx, zm_zeros(&scope, (const int[]){0, all->columns}, 2, mlx_array_dtype(inputs[0])));
    mlx_array last = {NULL}, dw = zm_zeros(&scope, mlx_array_shape(inputs[1]), 2, MLX_FLOAT32);
    for (int begin = 0, end; begin < all->rows; begin = end) {
        end = chunk_end(all, begin);
        /* After both products of the chunk before, whose dz is then free. */
        mlx_array rows = chunk_rows(&scope, x, begin, end, begin ? dw : last);
        if (!zm_scope_failed(&scope)) zm_evaluate_after(&rows, last, &scope.failure);
        mlx_array z = chunk_logits(&scope, rows, weight);
        mlx_array dz = part(&scope, "chunk_cross_entropy_grad",
                            (mlx_array[]){z, take_rows(&scope, targets, begin, end), take_rows(&scope, g, begin, end)});
        last = zm_astype(&scope, zm_matmul(&scope, dz, weight), mlx_array_dtype(inputs[0]));
        add_piece(&scope, &dx, last);
        dw = zm_add(&scope, dw, zm_matmul(&scope, zm_swapaxes(&scope, dz, 0, 1), rows));
    }
    mlx_array whole = join(&scope, &dx);
    zm_scope_keep(&scope, &gradients[0],
                  zm_reshape(&scope, whole, mlx_array_shape(inputs[0]), (int)mlx_array_ndim(inputs[0])));
    zm_scope_keep(&scope, &gradients[1], zm_astype(&scope, dw, mlx_array_dtype(inputs[1])));
    zm_scope_keep(&scope, &gradients[2], inputs[2]); /* integers: nobody asks */
    return zm_scope_end(&scope, error);
}

void zm_compose_linear_cross_entropy(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    double chunk = call->values[0].number;
    chunks all = {1, zm_call_size(call, "K"), chunk < INT_MAX ? (int)chunk : INT_MAX};
    for (int i = 0; i < call->sizes.n_rest; i++) all.rows *= call->sizes.rest[i];
    mlx_array x = zm_reshape2(scope, call->inputs[0], all.rows, all.columns);
    mlx_array weight = zm_astype(scope, call->inputs[1], MLX_FLOAT32),
              targets = zm_reshape(scope, call->inputs[2], &all.rows, 1);
    pieces loss = {{NULL}};
    add_piece(scope, &loss, zm_zeros(scope, (const int[]){0}, 1, MLX_FLOAT32));
    mlx_array rows = {NULL};
    for (int begin = 0, end; begin < all.rows; begin = end) {
        end = chunk_end(&all, begin);
        mlx_array logits = chunk_logits(scope, chunk_rows(scope, x, begin, end, rows), weight);
        rows = part(scope, "chunk_cross_entropy", (mlx_array[]){logits, take_rows(scope, targets, begin, end)});
        add_piece(scope, &loss, rows);
    }
    call->outputs[0] = zm_reshape(scope, join(scope, &loss), call->sizes.rest, call->sizes.n_rest);
    zm_call_set_gradient(call, call->inputs, 3, differentiate, NULL, &all, sizeof all);
}
