/* SPDX-License-Identifier: MIT */
/* Linear maps, embeddings, norms and the depthwise convolution. */
#include "model/layers/forward.h"

static mlx_array widen(zm_scope *scope, mlx_array scales, mlx_dtype dtype) {
    bool narrow = zm_is_set(scales) && mlx_array_dtype(scales) == MLX_BFLOAT16 && dtype == MLX_FLOAT32;
    return narrow ? zm_astype(scope, scales, MLX_FLOAT32) : scales;
}

mlx_array zm_scales_for(zm_scope *scope, mlx_array scales, mlx_array x) {
    return widen(scope, scales, mlx_array_dtype(x));
}

mlx_array zm_weight_apply(zm_scope *scope, mlx_array x, const zm_weight *weight) {
    if (zm_weight_is_quantized(weight)) {
        mlx_array scales = zm_scales_for(scope, weight->scales, x), biases = zm_scales_for(scope, weight->biases, x);
        x = zm_quantized_matmul(scope, x, weight->weight, scales, biases, weight->quantization);
        return zm_is_set(weight->bias) ? zm_add(scope, x, weight->bias) : x;
    }
    mlx_array transposed = zm_swapaxes(scope, weight->weight, 0, 1);
    if (zm_is_set(weight->bias)) return zm_addmm(scope, weight->bias, x, transposed);
    return zm_matmul(scope, x, transposed);
}

mlx_array zm_heads_apply(zm_scope *scope, mlx_array x, const zm_weight *weight, bool transpose) {
    if (!zm_weight_is_quantized(weight))
        return zm_matmul(scope, x, transpose ? zm_swapaxes(scope, weight->weight, -1, -2) : weight->weight);
    mlx_array scales = zm_scales_for(scope, weight->scales, x), biases = zm_scales_for(scope, weight->biases, x);
    if (transpose) return zm_quantized_matmul(scope, x, weight->weight, scales, biases, weight->quantization);
    return zm_quantized_matmul_plain(scope, x, weight->weight, scales, biases, weight->quantization);
}

mlx_array zm_multi_linear_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    return zm_heads_apply(scope, x, &((zm_linear *)self)->weight, true);
}

mlx_array zm_linear_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    return zm_weight_apply(scope, x, &((zm_linear *)self)->weight);
}

mlx_array zm_embedding_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    const zm_embedding *embedding = (const zm_embedding *)self;
    const zm_weight *table = &embedding->weight;
    mlx_array gathered = zm_take(scope, table->weight, x, 0);
    if (!zm_weight_is_quantized(table)) return gathered;
    mlx_array scales = widen(scope, zm_take(scope, table->scales, x, 0), embedding->dtype), biases = table->biases;
    if (zm_is_set(biases)) biases = widen(scope, zm_take(scope, biases, x, 0), embedding->dtype);
    return zm_dequantize(scope, gathered, scales, biases, table->quantization);
}

mlx_array zm_rms_norm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    const zm_norm *norm = (const zm_norm *)self;
    return zm_rms_norm(scope, x, norm->weight, norm->eps);
}

mlx_array zm_conv1d_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    const zm_depthwise_conv *conv = (const zm_depthwise_conv *)self;
    x = zm_conv1d(scope, x, conv->weight, conv->channels);
    return zm_is_set(conv->bias) ? zm_add(scope, x, conv->bias) : x;
}
