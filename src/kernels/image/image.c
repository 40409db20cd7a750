/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/compose.h"

/* For each place o of an axis: between pixels low and high, with weights of both; each repeated `repeats` times. */
typedef struct axis {
    int32_t *low, *high;
    float *low_weight, *high_weight;
} axis;

static bool axis_new(axis *self, int size, int from) {
    size_t count = (size_t)size;
    *self = (axis){malloc(count * sizeof(int32_t)), malloc(count * sizeof(int32_t)), malloc(count * sizeof(float)),
                   malloc(count * sizeof(float))};
    if (!self->low || !self->high || !self->low_weight || !self->high_weight) return false;
    for (int o = 0; o < size; o++) {
        double s = (o + 0.5) * from / size - 0.5, below = floor(s);
        self->low[o] = (int32_t)fmax(below, 0);
        self->high[o] = (int32_t)fmin(below + 1, from - 1);
        self->low_weight[o] = (float)(1 - (s - below));
        self->high_weight[o] = (float)(s - below);
    }
    return true;
}

static void axis_free(axis *self) {
    free(self->low);
    free(self->high);
    free(self->low_weight);
    free(self->high_weight);
}

/* A weight for each place: [n, size, inner] of them, as rows [n * size, 1] or columns [size * inner]. */
static mlx_array spread(zm_scope *scope, const float *weights, int n, int size, int inner) {
    mlx_array each = zm_reshape3(scope, zm_from_data(scope, weights, &size, 1, MLX_FLOAT32), 1, size, 1);
    each = zm_broadcast_to(scope, each, (const int[]){n, size, inner}, 3);
    return inner == 1 ? zm_reshape2(scope, each, n * size, 1) : zm_reshape2(scope, each, 1, size * inner);
}

/* x [outer, from, inner] -> [outer, size, inner]; columns: weights vary along a row of size * inner, else along
 * rows. */
static mlx_array resize_axis(zm_catalog_call *call, mlx_array x, int size, bool columns) {
    zm_scope *scope = call->scope;
    axis self = {0};
    mlx_array y = {NULL};
    if (zm_scope_failed(scope)) return y;
    int outer = zm_dim(x, 0), inner = zm_dim(x, 2);
    if (!axis_new(&self, size, zm_dim(x, 1))) {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, call->where, "out of memory");
    } else {
        int rows = columns ? outer : outer * size, width = columns ? size * inner : inner;
        int n = columns ? 1 : outer, repeats = columns ? inner : 1;
        mlx_array inputs[] = {zm_take(scope, x, zm_from_data(scope, self.low, &size, 1, MLX_INT32), 1),
                              zm_take(scope, x, zm_from_data(scope, self.high, &size, 1, MLX_INT32), 1),
                              spread(scope, self.low_weight, n, size, repeats),
                              spread(scope, self.high_weight, n, size, repeats)};
        for (int i = 0; i < 2; i++) inputs[i] = zm_reshape2(scope, inputs[i], rows, width);
        if (columns)
            for (int i = 2; i < 4; i++) inputs[i] = zm_reshape2(scope, inputs[i], 1, width);
        zm_call_part(call, &y, "mixed", inputs, NULL, (mlx_dtype[]){MLX_FLOAT32});
        y = zm_reshape3(scope, y, outer, size, inner);
    }
    axis_free(&self);
    return y;
}

void zm_compose_resize_bilinear(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int n = zm_call_size(call, "N"), h = zm_call_size(call, "H"), w = zm_call_size(call, "W"),
        c = zm_call_size(call, "C");
    int oh = zm_call_size(call, "out_height"), ow = zm_call_size(call, "out_width");
    if (fmax(call->values[0].number, call->values[1].number) > INT32_MAX || (double)n * oh > INT32_MAX ||
        (double)ow * c > INT32_MAX || (double)w * c > INT32_MAX) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "out_height, out_width: the result is too large");
        return;
    }
    /* In float32 both neighbours of each place and their sum, and what each place of an axis has of its own. */
    const double bytes = 12.0 * n * oh * ow * c + 32.0 * ((double)oh + ow);
    zmlx_error error;
    if (zm_call_check_memory(call, "out_height, out_width", bytes, &error)) {
        zm_scope_fail(scope, error.code, error.where, "%s", error.message);
        return;
    }
    if (!n || !c) {
        call->outputs[0] = zm_zeros(scope, (const int[]){n, oh, ow, c}, 4, call->data_type);
        return;
    }
    mlx_array y = zm_reshape3(scope, zm_astype(scope, call->inputs[0], MLX_FLOAT32), n, h, w * c);
    y = zm_reshape3(scope, resize_axis(call, y, oh, false), n * oh, w, c);
    y = zm_reshape4(scope, resize_axis(call, y, ow, true), n, oh, ow, c);
    call->outputs[0] = zm_astype(scope, y, call->data_type);
}

/* x with zeros around height and width. */
static mlx_array pad(zm_scope *scope, mlx_array x, int n, int h, int w, int c) {
    mlx_array wider = zm_zeros(scope, (const int[]){n, h, w + 2, c}, 4, MLX_FLOAT32);
    mlx_array larger = zm_zeros(scope, (const int[]){n, h + 2, w + 2, c}, 4, MLX_FLOAT32);
    return zm_slice_update_axis(scope, larger, zm_slice_update_axis(scope, wider, x, 2, 1), 1, 1);
}

void zm_compose_depthwise_conv_3x3(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int n = zm_call_size(call, "N"), h = zm_call_size(call, "H"), w = zm_call_size(call, "W"),
        c = zm_call_size(call, "C");
    mlx_array x = zm_astype(scope, call->inputs[0], MLX_FLOAT32),
              weights = zm_astype(scope, call->inputs[1], MLX_FLOAT32);
    mlx_array sum = zm_scalar(scope, 0, MLX_FLOAT32), padded = x;
    if (n && h && w && c) padded = pad(scope, x, n, h, w, c);
    for (int i = 0; i < 3 && n && h && w && c; i++) {
        mlx_array inputs[7] = {sum}, rows = zm_slice_axis(scope, padded, 1, i, i + h, 1);
        mlx_array of_row = zm_squeeze(scope, zm_slice_axis(scope, weights, 0, i, i + 1, 1), 0);
        for (int j = 0; j < 3; j++) {
            inputs[1 + j] = zm_slice_axis(scope, rows, 2, j, j + w, 1);
            inputs[4 + j] = zm_squeeze(scope, zm_slice_axis(scope, of_row, 0, j, j + 1, 1), 0);
        }
        zm_call_part(call, &sum, "three_taps", inputs, NULL, (mlx_dtype[]){MLX_FLOAT32});
    }
    call->outputs[0] = zm_astype(scope, n && h && w && c ? sum : x, call->data_type);
}
