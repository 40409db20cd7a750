/* SPDX-License-Identifier: MIT */
/* Rows of a quantised table as a node; MLX makes about twenty of them. */
#include <math.h>
#include <stdlib.h>

#include "fused/step.h"

enum { IDS = 0 }; /* input */

typedef struct embedding {
    zm_operand table;
    size_t n_ids;
} embedding;

static float read_scale(const unsigned char *scales, zm_storage storage, size_t i) {
    if (storage == ZM_STORAGE_FLOAT32) return ((const float *)(const void *)scales)[i];
    union { uint32_t bits; float value; } wide = {(uint32_t)((const uint16_t *)(const void *)scales)[i] << 16};
    return wide.value;
}

/* MLX rounds the product and the sum, so they are not one instruction. */
static void dequantize_row(float *y, const zm_matrix *table, size_t row) {
    size_t size = table->in_features, bits = (size_t)table->bits, row_bytes = zm_matrix_row_bytes(table);
    size_t group_size = (size_t)table->group_size, first_group = row * zm_matrix_groups(table);
    const unsigned char *codes = table->weight + row * row_bytes;
    for (size_t i = 0; i < size; i++) {
        size_t byte = i * bits / 8;
        unsigned pair = codes[byte] | (byte + 1 < row_bytes ? (unsigned)codes[byte + 1] << 8 : 0);
        y[i] = (float)(pair >> (i * bits % 8) & ((1u << bits) - 1)) *
               read_scale(table->scales, table->storage, first_group + i / group_size);
    }
    for (size_t i = 0; i < size; i++) y[i] += read_scale(table->biases, table->storage, first_group + i / group_size);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const embedding *self = state;
    zm_matrix table = zm_operand_matrix(&self->table, inputs);
    const int32_t *ids = inputs[IDS].data;
    float *y = outputs[0].data;
    for (size_t i = 0; i < self->n_ids; i++, y += table.in_features) {
        size_t rows = table.out_features, row = ids[i] < 0 ? rows - (size_t)-(int64_t)ids[i] : (size_t)ids[i];
        if (row < rows) dequantize_row(y, &table, row);
        else for (size_t j = 0; j < table.in_features; j++) y[j] = NAN;
    }
}

static const zm_node_class embedding_class = {
    .name = "zmlx.embedding", .evaluate_cpu = evaluate, .free_state = free};

bool zm_fused_embedding_supported(const zm_weight *table) {
    const char *reason;
    if (!zm_weight_is_quantized(table) || !zm_fused_weight_supported(table, &reason) || !zm_is_set(table->biases))
        return false;
    mlx_dtype dtype = mlx_array_dtype(table->scales);
    return dtype == MLX_FLOAT32 || dtype == MLX_BFLOAT16;
}

static zmlx_status set_up(embedding *self, zm_step *step, mlx_array ids, const zm_weight *table, zmlx_error *error) {
    if (!zm_is_set(ids) || mlx_array_dtype(ids) != MLX_INT32 || mlx_array_ndim(ids) >= ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, embedding_class.name, "the token ids are not int32");
    if (!zm_fused_embedding_supported(table))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, embedding_class.name,
                       "the table is not affine with scales in float32 or bfloat16");
    ZM_TRY(zm_operand_new(&self->table, &step->inputs, table, embedding_class.name, error));
    if (self->table.matrix.n_experts != 1)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, embedding_class.name, "the table is a stack of experts");
    zm_node_output y = {.n_dims = (int)mlx_array_ndim(ids) + 1, .dtype = MLX_FLOAT32};
    for (int i = 0; i + 1 < y.n_dims; i++) y.shape[i] = zm_dim(ids, i);
    y.shape[y.n_dims - 1] = table->in_features;
    self->n_ids = mlx_array_size(ids);
    zm_step_add_output(step, y);
    return ZMLX_OK;
}

mlx_array zm_fused_embedding(zm_scope *scope, mlx_array ids, const zm_weight *table) {
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    zmlx_error *error = &scope->failure;
    zm_step step;
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &embedding_class, sizeof(embedding), ids, error) &&
        !zm_step_end(&step, set_up(step.state, &step, ids, table, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
