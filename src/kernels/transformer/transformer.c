/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"

static mlx_array half(zm_catalog_call *call, int input, int number) {
    int size = zm_call_size(call, "D");
    return zm_slice_axis(call->scope, call->inputs[input], -1, number * size, (number + 1) * size, 1);
}

static void split(zm_catalog_call *call, const char *part, bool has_bias) {
    mlx_array inputs[4] = {half(call, 0, 0), half(call, 0, 1)};
    if (has_bias) {
        inputs[2] = half(call, 1, 0);
        inputs[3] = half(call, 1, 1);
        mlx_dtype dtype = zm_parameters_are_float32(call) ? MLX_FLOAT32 : call->data_type;
        for (int i = 2; i < 4; i++) inputs[i] = zm_astype(call->scope, inputs[i], dtype);
    }
    zm_call_part(call, call->outputs, part, inputs, NULL, call->output_types);
}

void zm_compose_swiglu(zm_catalog_call *call) { split(call, "swiglu2", false); }
void zm_compose_geglu(zm_catalog_call *call) { split(call, "geglu2", false); }
void zm_compose_bias_swiglu(zm_catalog_call *call) { split(call, "biased_swiglu", true); }
void zm_compose_bias_geglu(zm_catalog_call *call) { split(call, "biased_geglu", true); }
