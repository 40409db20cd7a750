/* SPDX-License-Identifier: MIT */
#include "fused/operand.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "runtime/shape.h"

bool zm_storage_of(zm_storage *storage, mlx_dtype dtype) {
    return zm_storage_from_dtype(storage, dtype) && zm_storage_type(*storage) == ZM_TYPE_FLOAT;
}

/* Fills everything but the pointers. Returns why the weight cannot be served, or NULL. */
static const char *describe_quantized(zm_matrix *matrix, const zm_weight *weight) {
    zm_quantization quantization = weight->quantization;
    int bits = quantization.bits, group_size = quantization.group_size;
    matrix->bits = bits;
    matrix->group_size = group_size;
    if (!strcmp(quantization.mode, "mxfp8")) return "mxfp8 weights have no CPU kernel";
    if (!strcmp(quantization.mode, "nvfp4")) return "nvfp4 weights have no CPU kernel";
    if (mlx_array_dtype(weight->weight) != MLX_UINT32) return "packed weights are not uint32";
    if (!zm_is_set(weight->scales)) return "the scales are missing";
    if (!strcmp(quantization.mode, "mxfp4")) {
        matrix->kind = ZM_MATRIX_MXFP4;
        if (bits != 4 || group_size != 32) return "mxfp4 has 4 bits and groups of 32";
        return mlx_array_dtype(weight->scales) == MLX_UINT8 ? NULL : "mxfp4 scales are not uint8";
    }
    if (strcmp(quantization.mode, "affine") != 0) return "the quantisation mode is not known";
    matrix->kind = ZM_MATRIX_AFFINE;
    if (bits != 2 && bits != 3 && bits != 4 && bits != 5 && bits != 6 && bits != 8)
        return "affine weights have 2, 3, 4, 5, 6 or 8 bits";
    if (group_size != 32 && group_size != 64 && group_size != 128)
        return "affine groups are of 32, 64 or 128";
    if (!zm_is_set(weight->biases)) return "the quantisation biases are missing";
    if (!zm_storage_of(&matrix->storage, mlx_array_dtype(weight->scales))) return "the scales are not floats";
    if (mlx_array_dtype(weight->biases) != mlx_array_dtype(weight->scales))
        return "scales and biases are of different types";
    return NULL;
}

static const char *describe(zm_matrix *matrix, const zm_weight *weight) {
    *matrix = (zm_matrix){.kind = ZM_MATRIX_DENSE, .n_experts = 1};
    if (!zm_is_set(weight->weight)) return "there is no weight";
    if (weight->in_features <= 0 || weight->out_features <= 0 || weight->n_experts < 0)
        return "the weight is empty";
    matrix->in_features = (size_t)weight->in_features;
    matrix->out_features = (size_t)weight->out_features;
    if (weight->n_experts) matrix->n_experts = (size_t)weight->n_experts;
    if (zm_weight_is_quantized(weight)) {
        const char *reason = describe_quantized(matrix, weight);
        if (reason) return reason;
        if (weight->in_features % weight->quantization.group_size != 0)
            return "the input size is not a multiple of the group size";
    } else if (!zm_storage_of(&matrix->storage, mlx_array_dtype(weight->weight))) {
        return "the weight is neither float32, float16 nor bfloat16";
    }
    if (weight->in_features % ZM_MATRIX_UNIT != 0) return "the input size is not a multiple of 32";
    if (zm_is_set(weight->bias) && !zm_storage_of(&matrix->bias_storage, mlx_array_dtype(weight->bias)))
        return "the bias is neither float32, float16 nor bfloat16";
    return NULL;
}

bool zm_fused_weight_supported(const zm_weight *weight, const char **reason) {
    zm_matrix matrix;
    *reason = describe(&matrix, weight);
    return *reason == NULL;
}

bool zm_fused_int8_supported(const char **reason) {
    bool supported = zm_fused_level_for(ZM_PRECISION_INT8)->int8;
    *reason = supported ? NULL : "int8 needs a processor with AVX2, or ARM's FEAT_DotProd";
    return *reason == NULL;
}

int zm_inputs_add(zm_inputs *inputs, mlx_array array) {
    inputs->arrays[inputs->count] = array;
    return inputs->count++;
}

/* Whether array is (rows, columns), with the experts in front where the weight is stacked; columns 0: a row
 * of numbers an expert. */
static bool has_shape(const zm_weight *weight, mlx_array array, size_t rows, size_t columns) {
    size_t n_dims = (columns ? 2u : 1u) + (weight->n_experts ? 1u : 0u), axis = 0;
    if (mlx_array_ndim(array) != n_dims) return false;
    const int *shape = mlx_array_shape(array);
    if (weight->n_experts && shape[axis++] != weight->n_experts) return false;
    if ((size_t)shape[axis++] != rows) return false;
    return !columns || (size_t)shape[axis] == columns;
}

static bool has_edges(const zm_matrix *matrix, const zm_weight *weight) {
    return matrix->kind == ZM_MATRIX_AFFINE && matrix->storage == ZM_STORAGE_BFLOAT16 &&
           matrix->bits <= ZM_EDGE_MAX_BITS && mlx_array_dtype(weight->edges) == MLX_UINT16 &&
           has_shape(weight, weight->edges, matrix->out_features, zm_matrix_groups(matrix));
}

zmlx_status zm_operand_new(zm_operand *operand, zm_inputs *inputs, const zm_weight *weight, const char *name,
                           zmlx_error *error) {
    *operand = (zm_operand){.weight = -1, .scales = -1, .biases = -1, .bias = -1, .edges = -1};
    zm_matrix *matrix = &operand->matrix;
    const char *reason = describe(matrix, weight);
    if (reason) return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "%s", reason);
    size_t rows = matrix->out_features, groups = zm_matrix_groups(matrix);
    size_t columns = matrix->in_features;
    if (matrix->kind != ZM_MATRIX_DENSE) columns = zm_matrix_row_bytes(matrix) / 4;
    bool fits = has_shape(weight, weight->weight, rows, columns);
    if (matrix->kind != ZM_MATRIX_DENSE) fits = fits && has_shape(weight, weight->scales, rows, groups);
    if (matrix->kind == ZM_MATRIX_AFFINE) fits = fits && has_shape(weight, weight->biases, rows, groups);
    if (zm_is_set(weight->bias)) fits = fits && has_shape(weight, weight->bias, rows, 0);
    if (zm_is_set(weight->edges)) fits = fits && has_edges(matrix, weight);
    if (!fits) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "the arrays do not have the weight's shape");
    operand->weight = zm_inputs_add(inputs, weight->weight);
    if (matrix->kind != ZM_MATRIX_DENSE) operand->scales = zm_inputs_add(inputs, weight->scales);
    if (matrix->kind == ZM_MATRIX_AFFINE) operand->biases = zm_inputs_add(inputs, weight->biases);
    if (zm_is_set(weight->bias)) operand->bias = zm_inputs_add(inputs, weight->bias);
    if (zm_is_set(weight->edges)) operand->edges = zm_inputs_add(inputs, weight->edges);
    matrix->first_exponent = weight->first_exponent;
    return ZMLX_OK;
}

zm_matrix zm_operand_matrix(const zm_operand *operand, const zm_view *inputs) {
    zm_matrix matrix = operand->matrix;
    matrix.weight = inputs[operand->weight].data;
    if (operand->scales >= 0) matrix.scales = inputs[operand->scales].data;
    if (operand->biases >= 0) matrix.biases = inputs[operand->biases].data;
    if (operand->bias >= 0) matrix.bias = inputs[operand->bias].data;
    if (operand->edges >= 0) matrix.edges = inputs[operand->edges].data;
    return matrix;
}

zmlx_status zm_check_activations(mlx_array x, size_t in_features, const char *name, zmlx_error *error) {
    zm_storage storage;
    if (!zm_is_set(x)) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "there is no input");
    if (!zm_storage_of(&storage, mlx_array_dtype(x)))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name,
                       "the input is neither float32, float16 nor bfloat16");
    size_t n_dims = mlx_array_ndim(x);
    if (n_dims < 1 || n_dims > ZM_NODE_MAX_DIMS ||
        (size_t)mlx_array_shape(x)[n_dims - 1] != in_features)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "the input's last dimension is not %zu",
                       in_features);
    return ZMLX_OK;
}

zm_node_output zm_output_like(mlx_array x, size_t out_features) {
    zm_node_output output = {.n_dims = (int)mlx_array_ndim(x), .dtype = mlx_array_dtype(x)};
    memcpy(output.shape, mlx_array_shape(x), (size_t)output.n_dims * sizeof output.shape[0]);
    output.shape[output.n_dims - 1] = (int)out_features;
    return output;
}

const float *zm_read_floats(const zm_cpu_level *level, const zm_view *view, float *scratch) {
    if (view->dtype == MLX_FLOAT32) return view->data;
    zm_storage storage;
    zm_storage_of(&storage, view->dtype);
    level->widen(scratch, view->data, storage, view->size);
    return scratch;
}

void zm_copy_floats(const zm_cpu_level *level, const zm_view *view, float *copy) {
    const float *values = zm_read_floats(level, view, copy);
    if (values != copy) memcpy(copy, values, view->size * sizeof *copy);
}

float *zm_result_floats(const zm_view *output, float *scratch) {
    return output->dtype == MLX_FLOAT32 ? output->data : scratch;
}

void zm_round_floats(const zm_view *output, const float *values) {
    uint16_t *halves = output->data;
    if (output->dtype == MLX_FLOAT16)
        for (size_t i = 0; i < output->size; i++) halves[i] = zm_float16_from_float(values[i]);
    else if (output->dtype == MLX_BFLOAT16)
        for (size_t i = 0; i < output->size; i++) halves[i] = zm_bfloat16_from_float(values[i]);
}

void zm_store_floats(const zm_view *output, const float *values) {
    if (output->dtype == MLX_FLOAT32) memcpy(output->data, values, output->size * sizeof *values);
    else zm_round_floats(output, values);
}

enum { ALIGNED_FLOATS = 16 };

size_t zm_workspace_add(zm_workspace *workspace, size_t count, size_t size) {
    size_t place = workspace->size;
    size_t limit = SIZE_MAX / 16 - place; /* leaves room to count bytes */
    if (size && count > limit / size) workspace->overflow = true;
    else workspace->size += (count * size + ALIGNED_FLOATS - 1) / ALIGNED_FLOATS * ALIGNED_FLOATS;
    return place;
}

zmlx_status zm_workspace_reserve(zm_workspace *workspace, zm_pool *pool, zmlx_error *error) {
    if (workspace->overflow) return zm_fail_memory(error);
    workspace->scratch = zm_pool_scratch(pool);
    return zm_scratch_reserve(workspace->scratch, workspace->size * sizeof(float), error);
}

float *zm_workspace_open(const zm_workspace *workspace) {
    return zm_scratch_take(workspace->scratch, workspace->size * sizeof(float));
}

void zm_workspace_close(const zm_workspace *workspace) {
    zm_scratch_give(workspace->scratch, workspace->size * sizeof(float));
}
