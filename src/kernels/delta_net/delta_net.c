/* SPDX-License-Identifier: MIT */
#include <limits.h>

#include "kernels/compose.h"

static mlx_array tap_weight(zm_catalog_call *call, mlx_array weight, int tap) {
    return zm_squeeze(call->scope, zm_slice_axis(call->scope, weight, 1, tap, tap + 1, 1), 1);
}

/* In float32 from the first product to the end, so that gradients are rounded once, too. */
void zm_compose_fused_conv1d_silu(zm_catalog_call *call) {
    int n_taps = zm_call_size(call, "KS"), length = zm_call_size(call, "T") - n_taps + 1;
    if (length < 0) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where, "conv_input: expected at least KS = %d steps, got %d", n_taps,
                      length + n_taps - 1);
        return;
    }
    mlx_array x = zm_astype(call->scope, call->inputs[0], MLX_FLOAT32);
    mlx_array weight = zm_astype(call->scope, call->inputs[1], MLX_FLOAT32), sum = {NULL};
    for (int tap = 0; tap < n_taps; tap++) {
        mlx_array window = zm_slice_axis(call->scope, x, 1, tap, tap + length, 1), w = tap_weight(call, weight, tap);
        if (tap)
            zm_call_part(call, &sum, "conv_next_tap", (mlx_array[]){window, sum, w}, NULL, NULL);
        else
            zm_call_part(call, &sum, "conv_tap", (mlx_array[]){window, w}, NULL, NULL);
    }
    zm_call_part(call, call->outputs, "conv_end", &sum, NULL, call->output_types);
    mlx_array state = zm_contiguous(call->scope, zm_slice_axis(call->scope, x, 1, length, INT_MAX, 1));
    call->outputs[1] = zm_astype(call->scope, state, call->data_type);
}
