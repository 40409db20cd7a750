/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "kernels/compose.h"

void zm_compose_attention_tile_proto(zm_catalog_call *call) {
    mlx_array q = zm_astype(call->scope, call->inputs[0], MLX_FLOAT32),
              k = zm_astype(call->scope, call->inputs[1], MLX_FLOAT32);
    call->outputs[0] = zm_matmul(call->scope, q, zm_swapaxes(call->scope, k, -1, -2));
}

typedef struct paged {
    int batch, heads, kv_heads, size, block_size, blocks, n_blocks;
    double scale;
} paged;

enum { QUERIES, KEYS, VALUES, TABLE, LENGTHS, N_INPUTS };

/* Places (B, T) that are below the lengths, blocks (B, MB) in range, and sequences (B,) for which something is not. */
typedef struct places {
    mlx_array is_used, table, is_bad;
} places;

static mlx_array word(zm_scope *scope, int64_t value) { return zm_scalar(scope, (double)value, MLX_UINT32); }

static places find_places(zm_scope *scope, const paged *self, const mlx_array *inputs) {
    int total = self->blocks * self->block_size;
    mlx_array lengths = zm_expand_dims(scope, inputs[LENGTHS], 1), blocks = inputs[TABLE];
    mlx_array begins = zm_arange(scope, 0, total, self->block_size, MLX_UINT32);
    mlx_array is_wrong = zm_greater_equal(scope, blocks, word(scope, self->n_blocks));
    is_wrong = zm_logical_and(scope, is_wrong, zm_less(scope, begins, lengths));
    mlx_array n_wrong = zm_sum(scope, zm_astype(scope, is_wrong, MLX_UINT32), 1, false);
    mlx_array too_long = zm_astype(scope, zm_less(scope, word(scope, total), inputs[LENGTHS]), MLX_UINT32);
    mlx_array is_bad = zm_less(scope, word(scope, 0), zm_add(scope, n_wrong, too_long));
    mlx_array read =
        zm_where(scope, zm_expand_dims(scope, is_bad, 1), word(scope, 0), lengths); /* nothing of a bad one */
    return (places){.is_used = zm_less(scope, zm_arange(scope, 0, total, 1, MLX_UINT32), read),
                    .table = zm_minimum(scope, blocks, word(scope, self->n_blocks - 1)),
                    .is_bad = is_bad};
}

/* The rows of each sequence, (B, HKV, T, K) in float32; zeros behind the length, for what is there may be NaN. */
static mlx_array gather(zm_scope *scope, const paged *self, const places *at, mlx_array cache) {
    int total = self->blocks * self->block_size;
    mlx_array taken = zm_take(scope, cache, at->table, 0);
    taken = zm_reshape4(scope, taken, self->batch, total, self->kv_heads, self->size);
    zm_catalog_call call = {.scope = scope, .where = "zmlx_paged_attention"};
    mlx_array inputs[2] = {taken, zm_reshape3(scope, at->is_used, self->batch, total, 1)}, kept = {NULL};
    zm_call_part(&call, &kept, "keep_rows", inputs, NULL, (const mlx_dtype[]){MLX_FLOAT32});
    return zm_swapaxes(scope, kept, 1, 2);
}

/* (B, H, K) in float32. */
static mlx_array attend(zm_scope *scope, const paged *self, const mlx_array *inputs) {
    if (zm_scope_failed(scope)) return inputs[QUERIES];
    int queries = self->heads / self->kv_heads, total = self->blocks * self->block_size;
    zm_catalog_call call = {.scope = scope, .where = "zmlx_paged_attention"};
    zmlx_catalog_value scale = {.number = self->scale};
    places at = find_places(scope, self, inputs);
    mlx_array q = zm_reshape4(scope, zm_astype(scope, inputs[QUERIES], MLX_FLOAT32), self->batch,
                              self->kv_heads, queries, self->size);
    mlx_array keys = gather(scope, self, &at, inputs[KEYS]),
              values = gather(scope, self, &at, inputs[VALUES]), weights = {NULL};
    mlx_array scores[2] = {zm_matmul(scope, q, zm_swapaxes(scope, keys, -1, -2)),
                           zm_reshape4(scope, at.is_used, self->batch, 1, 1, total)};
    zm_call_part(&call, &weights, "scale_mask_softmax", scores, &scale, NULL);
    mlx_array y = zm_reshape3(scope, zm_matmul(scope, weights, values), self->batch, self->heads, self->size);
    mlx_array nan = zm_scalar(scope, (double)NAN, MLX_FLOAT32);
    return zm_where(scope, zm_reshape3(scope, at.is_bad, self->batch, 1, 1), nan, y);
}

typedef struct differentiated {
    const paged *self;
    const mlx_array *inputs;
    mlx_stream stream;
    zmlx_error error;
} differentiated;

/* The result as a function of queries, keys and values. */
static int attend_again(mlx_vector_array *results, const mlx_vector_array primals, void *payload) {
    differentiated *given = payload;
    mlx_array inputs[N_INPUTS] = {{NULL}, {NULL}, {NULL}, given->inputs[TABLE], given->inputs[LENGTHS]}, y = {NULL};
    int failed = 0;
    for (int i = 0; i < TABLE && !failed; i++) failed = mlx_vector_array_get(&inputs[i], primals, (size_t)i);
    zm_scope scope;
    zm_scope_begin(&scope, given->stream);
    if (!failed) zm_scope_keep(&scope, &y, attend(&scope, given->self, inputs));
    failed |= zm_scope_end(&scope, &given->error) != ZMLX_OK;
    if (!failed) failed = mlx_vector_array_set_value(results, y);
    for (int i = 0; i < TABLE; i++) mlx_array_free(inputs[i]);
    mlx_array_free(y);
    return failed;
}

/* In float32: MLX would add what sequences contribute to a place of a half cache in halves. */
static zmlx_status differentiate(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                 const mlx_array *cotangents, int n_outputs, mlx_stream stream, zmlx_error *error) {
    (void)n_inputs, (void)n_outputs;
    differentiated given = {.self = context, .inputs = inputs, .stream = stream};
    mlx_vector_array primals = mlx_vector_array_new(), results = mlx_vector_array_new(), found = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(attend_again, &given, NULL);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < TABLE; i++) {
        mlx_array wide = zm_astype(&scope, inputs[i], MLX_FLOAT32);
        if (!zm_scope_failed(&scope)) mlx_vector_array_append_value(primals, wide);
    }
    mlx_array cotangent = zm_astype(&scope, cotangents[0], MLX_FLOAT32);
    mlx_vector_array list = mlx_vector_array_new();
    if (!zm_scope_failed(&scope)) mlx_vector_array_append_value(list, cotangent);
    if (!zm_scope_failed(&scope) && mlx_vjp(&results, &found, function, primals, list)) {
        if (given.error.code) scope.failure = given.error;
        else zm_mlx_fail(&scope.failure, "zmlx_paged_attention");
    }
    for (int i = 0; i < N_INPUTS && !zm_scope_failed(&scope); i++) {
        mlx_array gradient = inputs[i];
        if (i < TABLE) {
            gradient = mlx_array_new();
            mlx_vector_array_get(&gradient, found, (size_t)i);
            gradient = zm_astype(&scope, zm_scope_own(&scope, gradient), mlx_array_dtype(inputs[i]));
        }
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    mlx_closure_free(function);
    mlx_vector_array_free(list);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(results);
    mlx_vector_array_free(found);
    return zm_scope_end(&scope, error);
}

/* Without places only length 0 is right: its result is zeros. */
static mlx_array attend_nothing(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array is_empty = zm_less(scope, call->inputs[LENGTHS], word(scope, 1)),
              zero = zm_scalar(scope, 0, call->data_type);
    mlx_array y = zm_where(scope, is_empty, zero, zm_scalar(scope, (double)NAN, call->data_type));
    y = zm_reshape3(scope, y, zm_call_size(call, "B"), 1, 1);
    return zm_broadcast_to(scope, y, mlx_array_shape(call->inputs[QUERIES]), 3);
}

void zm_compose_paged_attention(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    double scale = call->values[0].number;
    paged self = {.batch = zm_call_size(call, "B"),
                  .heads = zm_call_size(call, "H"),
                  .kv_heads = zm_call_size(call, "HKV"),
                  .size = zm_call_size(call, "K"),
                  .block_size = zm_call_size(call, "BS"),
                  .blocks = zm_call_size(call, "MB"),
                  .n_blocks = zm_call_size(call, "NB")};
    self.scale = scale > 0 ? scale : 1 / sqrt((double)self.size);
    if (self.heads % self.kv_heads)
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "k_cache: HKV is %d; it must divide H (%d)",
                      self.kv_heads, self.heads);
    if (zm_scope_failed(scope)) return;
    if (!mlx_array_size(call->inputs[QUERIES])) {
        call->outputs[0] = call->inputs[QUERIES];
    } else if (!self.blocks || !self.block_size || !self.n_blocks) {
        call->outputs[0] = attend_nothing(call);
    } else {
        call->outputs[0] = zm_astype(scope, attend(scope, &self, call->inputs), call->data_type);
        if (call->data_type != MLX_FLOAT32)
            zm_call_set_gradient(call, call->inputs, N_INPUTS, differentiate, NULL, &self, sizeof self);
    }
}
