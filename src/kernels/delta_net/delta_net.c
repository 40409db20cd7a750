/* SPDX-License-Identifier: MIT */
#include <limits.h>

#include "kernels/compose.h"

static mlx_array tap_weight(zm_catalog_call *call, mlx_array weight, int tap) {
    return zm_squeeze(call->scope, zm_slice_axis(call->scope, weight, 1, tap, tap + 1, 1), 1);
}

static void gated_rms_norm(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array weight = zm_astype(scope, call->inputs[2], call->data_type),
              gate = zm_astype(scope, call->inputs[1], MLX_FLOAT32);
    mlx_array normed = zm_rms_norm(scope, call->inputs[0], weight, (float)call->values[0].number);
    gate = zm_multiply(scope, gate, zm_sigmoid(scope, gate));
    mlx_array gated = zm_multiply(scope, gate, zm_astype(scope, normed, MLX_FLOAT32));
    call->outputs[0] = zm_astype(scope, gated, call->data_type);
}

void zm_compose_gated_rmsnorm_silu_mlx(zm_catalog_call *call) {
    if (zm_scope_is_on_cpu(call->scope))
        zm_call_part(call, call->outputs, "gated_rmsnorm_silu_in_order", call->inputs, call->values,
                     call->output_types);
    else
        zm_call_profile(call, gated_rms_norm);
}

/* How many steps come out; negative, and the scope fails, where there are fewer than a state has. */
static int find_length(zm_catalog_call *call) {
    int n_taps = zm_call_size(call, "KS"), length = zm_call_size(call, "T") - n_taps + 1;
    if (length < 0)
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                      "conv_input: expected at least KS - 1 = %d steps, got %d", n_taps - 1, length + n_taps - 1);
    return length;
}

/* Sums of products in float32; start: an array that the first product is added to, or empty. */
static mlx_array convolve(zm_catalog_call *call, mlx_array x, mlx_array weight, mlx_array start, int length) {
    mlx_array sum = start;
    for (int tap = 0; tap < zm_call_size(call, "KS"); tap++) {
        mlx_array window = zm_slice_axis(call->scope, x, 1, tap, tap + length, 1), w = tap_weight(call, weight, tap);
        if (tap || start.ctx)
            zm_call_part(call, &sum, "conv_next_tap", (mlx_array[]){window, sum, w}, NULL, NULL);
        else
            zm_call_part(call, &sum, "conv_tap", (mlx_array[]){window, w}, NULL, NULL);
    }
    return sum;
}

static mlx_array state_after(zm_catalog_call *call, mlx_array x, int length) {
    mlx_array state = zm_contiguous(call->scope, zm_slice_axis(call->scope, x, 1, length, INT_MAX, 1));
    return zm_astype(call->scope, state, call->data_type);
}

/* In float32 from the first product to the end, so that gradients are rounded once, too. */
void zm_compose_fused_conv1d_silu(zm_catalog_call *call) {
    int length = find_length(call);
    if (length < 0) return;
    mlx_array x = zm_astype(call->scope, call->inputs[0], MLX_FLOAT32);
    mlx_array weight = zm_astype(call->scope, call->inputs[1], MLX_FLOAT32);
    mlx_array sum = convolve(call, x, weight, (mlx_array){NULL}, length);
    zm_call_part(call, call->outputs, "conv_end", &sum, NULL, call->output_types);
    call->outputs[1] = state_after(call, x, length);
}

/* MLX's convolution on the CPU adds products to 0 in float32, tap by tap, and rounds the sum. */
static void convolve_in_order(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int length = find_length(call);
    if (length < 0) return;
    mlx_array x = zm_astype(scope, call->inputs[0], MLX_FLOAT32), sum;
    if (zm_scope_is_on_cpu(scope) || !length)
        sum = convolve(call, x, zm_astype(scope, call->inputs[1], MLX_FLOAT32), zm_scalar(scope, 0, MLX_FLOAT32),
                       length);
    else
        sum = zm_conv1d(scope, call->inputs[0], zm_expand_dims(scope, call->inputs[1], -1), zm_call_size(call, "C"));
    zm_call_part(call, call->outputs, "conv_end_mlx", &sum, NULL, call->output_types);
    call->outputs[1] = state_after(call, x, length);
}

void zm_compose_fused_conv1d_silu_mlx(zm_catalog_call *call) {
    if (zm_scope_is_on_cpu(call->scope)) convolve_in_order(call);
    else zm_call_profile(call, convolve_in_order);
}
