/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"

void zm_compose_softmax_cross_entropy(zm_catalog_call *call) {
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_FLOAT32, MLX_FLOAT32};
    mlx_array results[3] = {{NULL}};
    zm_call_part(call, results, "cross_entropy_sums", call->inputs, NULL, types);
    call->outputs[0] = zm_astype(call->scope, results[0], call->output_types[0]);
}
