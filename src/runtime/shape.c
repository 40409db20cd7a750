/* SPDX-License-Identifier: MIT */
#include "runtime/shape.h"

#include <stdio.h>
#include <string.h>

static const struct {
    zm_storage storage;
    mlx_dtype dtype;
} storage_types[] = {
    {ZM_STORAGE_FLOAT32, MLX_FLOAT32}, {ZM_STORAGE_FLOAT16, MLX_FLOAT16}, {ZM_STORAGE_BFLOAT16, MLX_BFLOAT16},
    {ZM_STORAGE_UINT32, MLX_UINT32},   {ZM_STORAGE_INT32, MLX_INT32},     {ZM_STORAGE_UINT8, MLX_UINT8},
    {ZM_STORAGE_UINT8, MLX_BOOL},
};

bool zm_storage_from_dtype(zm_storage *storage, mlx_dtype dtype) {
    for (size_t i = 0; i < sizeof storage_types / sizeof *storage_types; i++)
        if (storage_types[i].dtype == dtype) {
            *storage = storage_types[i].storage;
            return true;
        }
    return false;
}

mlx_dtype zm_dtype_from_storage(zm_storage storage) {
    size_t i = 0;
    while (storage_types[i].storage != storage) i++;
    return storage_types[i].dtype;
}

static void shape_text(char text[128], const int *dims, int n_dims) {
    size_t length = 0;
    for (int i = 0; i < n_dims && length < 100; i++)
        length += (size_t)snprintf(text + length, 128 - length, i ? ", %d" : "%d", dims[i]);
    if (!n_dims) text[0] = '\0';
}

/* Broadcasts dims into the first n_dims of shape, aligned at their ends. */
static zmlx_status merge(zm_shape *shape, int n_shape, const int *dims, int n_dims, const char *name,
                         zmlx_error *error) {
    for (int i = 0; i < n_dims; i++) {
        int *whole = &shape->dims[n_shape - n_dims + i];
        if (*whole == 1) *whole = dims[i];
        if (dims[i] == 1 || dims[i] == *whole) continue;
        char ours[128], theirs[128];
        shape_text(ours, dims, n_dims);
        shape_text(theirs, shape->dims, n_shape);
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "shape (%s) does not broadcast with (%s)", ours, theirs);
    }
    return ZMLX_OK;
}

zmlx_status zm_shape_broadcast(zm_shape *shape, const zm_ir *ir, const mlx_array *inputs, zmlx_error *error) {
    *shape = (zm_shape){0};
    bool has_elements = false;
    for (int i = 0; i < ir->n_inputs; i++) {
        bool is_row = ir->inputs[i].level == ZM_LEVEL_ROW;
        int n_dims = (int)mlx_array_ndim(inputs[i]) + is_row;
        has_elements |= !is_row;
        if (n_dims > ZM_NODE_MAX_DIMS)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, ir->inputs[i].name, "more than %d dimensions",
                           ZM_NODE_MAX_DIMS);
        if (n_dims > shape->n_dims) shape->n_dims = n_dims;
    }
    if (!has_elements && zm_ir_has_rows(ir))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, ir->name, "no input tells the length of a row");
    for (int i = 0; i < shape->n_dims; i++) shape->dims[i] = 1;
    for (int i = 0; i < ir->n_inputs; i++) {
        bool is_row = ir->inputs[i].level == ZM_LEVEL_ROW;
        ZM_TRY(merge(shape, shape->n_dims - is_row, mlx_array_shape(inputs[i]), (int)mlx_array_ndim(inputs[i]),
                     ir->inputs[i].name, error));
    }
    if (!shape->n_dims && zm_ir_has_rows(ir)) *shape = (zm_shape){{1}, 1, true};
    return ZMLX_OK;
}

zmlx_status zm_shape_check_size(const zm_shape *shape, const char *name, zmlx_error *error) {
    int64_t size = 1;
    for (int i = 0; i < shape->n_dims; i++) {
        if (shape->dims[i] <= 1) continue;
        if (size > INT64_MAX / 16 / shape->dims[i]) {
            char text[128];
            shape_text(text, shape->dims, shape->n_dims);
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "shape (%s) is too large", text);
        }
        size *= shape->dims[i];
    }
    return ZMLX_OK;
}

/* dims of an input, aligned with the shape's: leading ones, and a last one where a ROW input or a scalar has none. */
static void align(int aligned[ZM_NODE_MAX_DIMS], const zm_shape *shape, mlx_array input, bool is_row) {
    int n_dims = (int)mlx_array_ndim(input), end = shape->n_dims - (is_row || shape->is_scalar);
    for (int i = 0; i < shape->n_dims; i++) aligned[i] = 1;
    for (int i = 0; i < n_dims; i++) aligned[end - n_dims + i] = mlx_array_dim(input, i);
}

/* Whether dims [begin, end) are all the shape's (sets *varies) or all 1. */
static bool is_whole(bool *varies, const int *dims, const int *shape, int begin, int end) {
    bool full = true, one = true;
    for (int i = begin; i < end; i++) {
        full &= dims[i] == shape[i];
        one &= dims[i] == 1;
    }
    *varies = full && !one;
    return full || one;
}

static bool fits(int32_t *layout, const int *dims, const zm_shape *shape, int cut, bool is_row) {
    bool by_row, by_column;
    bool fit = is_whole(&by_row, dims, shape->dims, 0, cut);
    fit &= is_whole(&by_column, dims, shape->dims, cut, shape->n_dims);
    *layout = (by_row ? ZM_LAYOUT_ROW : 0) | (by_column && !is_row ? ZM_LAYOUT_COLUMN : 0);
    return fit;
}

static int count_misfits(const zm_ir *ir, const zm_shape *shape, const mlx_array *inputs, int cut) {
    int n_misfits = 0;
    for (int i = 0; i < ir->n_inputs; i++) {
        int dims[ZM_NODE_MAX_DIMS];
        int32_t layout;
        bool is_row = ir->inputs[i].level == ZM_LEVEL_ROW;
        align(dims, shape, inputs[i], is_row);
        n_misfits += !fits(&layout, dims, shape, cut, is_row);
    }
    return n_misfits;
}

static int choose_cut(const zm_ir *ir, const zm_shape *shape, const mlx_array *inputs) {
    if (zm_ir_has_rows(ir)) return shape->n_dims - 1;
    int best = 0, fewest = count_misfits(ir, shape, inputs, 0);
    for (int cut = 1; cut < shape->n_dims && fewest; cut++) {
        int n_misfits = count_misfits(ir, shape, inputs, cut);
        if (n_misfits < fewest) {
            fewest = n_misfits;
            best = cut;
        }
    }
    return best;
}

void zm_shape_lay_out(zm_extent *extent, zm_scope *scope, const zm_ir *ir, const zm_shape *shape, mlx_array *inputs,
                      const int32_t *halves, bool keeps_rows) {
    int cut = keeps_rows ? shape->n_dims - 1 : choose_cut(ir, shape, inputs);
    *extent = (zm_extent){.rows = 1, .columns = 1};
    for (int i = 0; i < cut; i++) extent->rows *= shape->dims[i];
    for (int i = cut; i < shape->n_dims; i++) extent->columns *= shape->dims[i];
    for (int i = 0; i < ir->n_inputs; i++) {
        int dims[ZM_NODE_MAX_DIMS];
        bool is_row = ir->inputs[i].level == ZM_LEVEL_ROW;
        align(dims, shape, inputs[i], is_row);
        if (halves && halves[i]) dims[shape->n_dims - 1] /= 2;
        bool fit = fits(&extent->layouts[i], dims, shape, cut, is_row);
        if (halves && halves[i]) extent->layouts[i] |= halves[i] | ZM_LAYOUT_COLUMN; /* also a single one */
        if (fit) continue;
        zm_node_output whole = zm_shape_output(shape, ir->inputs[i].level, MLX_FLOAT32);
        inputs[i] = zm_broadcast_to(scope, inputs[i], whole.shape, whole.n_dims);
        extent->layouts[i] = ZM_LAYOUT_ROW | (is_row ? 0 : ZM_LAYOUT_COLUMN);
    }
}

zm_node_output zm_shape_output(const zm_shape *shape, zm_level level, mlx_dtype dtype) {
    zm_node_output output = {.dtype = dtype,
                             .n_dims = shape->n_dims - (level == ZM_LEVEL_ROW || shape->is_scalar)};
    memcpy(output.shape, shape->dims, sizeof output.shape);
    return output;
}

bool zm_shape_is_output(const zm_shape *shape, zm_level level, mlx_array array) {
    zm_node_output whole = zm_shape_output(shape, level, MLX_FLOAT32);
    if ((int)mlx_array_ndim(array) != whole.n_dims) return false;
    for (int i = 0; i < whole.n_dims; i++)
        if (mlx_array_dim(array, i) != whole.shape[i]) return false;
    return true;
}

mlx_array zm_shape_sum_to(zm_scope *scope, mlx_array gradient, mlx_array primal) {
    int n_dims = (int)mlx_array_ndim(primal), extra = (int)mlx_array_ndim(gradient) - n_dims;
    for (int axis = 0; axis < extra; axis++) gradient = zm_sum(scope, gradient, 0, false);
    for (int axis = 0; axis < n_dims; axis++)
        if (mlx_array_dim(primal, axis) == 1 && zm_dim(gradient, axis) != 1)
            gradient = zm_sum(scope, gradient, axis, true);
    return zm_astype(scope, gradient, mlx_array_dtype(primal));
}
