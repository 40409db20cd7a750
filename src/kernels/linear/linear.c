/* SPDX-License-Identifier: MIT */
#include "kernels/compose.h"

/* The part takes the float32 product and a vector as wide as it, and rounds once. */
static void multiply_then(zm_catalog_call *call, const char *part) {
    zm_scope *scope = call->scope;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
    if (zm_scope_failed(scope)) return;
    mlx_array x = zm_astype(scope, call->inputs[0], MLX_FLOAT32), w = zm_astype(scope, call->inputs[1], MLX_FLOAT32),
              product;
    bool is_empty = !mlx_array_size(call->inputs[0]) || !mlx_array_size(call->inputs[1]);
    /* MLX's empty products have no buffer with CUDA, which what comes behind would read. */
    if (is_empty && zm_pattern_shape(shape, &n_dims, &call->entry->signature.output_patterns[0], &call->sizes)) {
        product = zm_zeros(scope, shape, n_dims, MLX_FLOAT32);
        if (zm_scope_failed(scope)) return;
        if (!mlx_array_size(product)) {
            call->outputs[0] = zm_astype(scope, product, call->output_types[0]);
            return;
        }
    } else {
        product = zm_matmul(scope, x, zm_swapaxes(scope, w, -1, -2));
    }
    mlx_array inputs[2] = {product, zm_astype(scope, call->inputs[2], MLX_FLOAT32)};
    zm_call_part(call, call->outputs, part, inputs, call->entry->signature.n_numbers ? call->values : NULL,
                 call->output_types);
}

void zm_compose_fused_linear_bias_silu(zm_catalog_call *call) { multiply_then(call, "bias_silu"); }
void zm_compose_fused_linear_bias_gelu(zm_catalog_call *call) { multiply_then(call, "bias_gelu_tanh"); }
void zm_compose_fused_linear_rmsnorm(zm_catalog_call *call) { multiply_then(call, "rmsnorm"); }
