/* SPDX-License-Identifier: MIT */
/* Gated MLPs, dense and per expert. */
#include "model/layers/forward.h"

enum { SORT_FROM = 64 }; /* indices: from here on tokens are sorted by expert */

static mlx_array swiglu(zm_scope *scope, mlx_array gate, mlx_array up) {
    return zm_multiply(scope, zm_multiply(scope, gate, zm_sigmoid(scope, gate)), up);
}

/* 0.5 gate (1 + tanh(sqrt(2 / pi) (gate + 0.044715 gate^3))) up */
static mlx_array geglu(zm_scope *scope, mlx_array gate, mlx_array up) {
    mlx_array cube = zm_power(scope, gate, zm_scalar_like(scope, 3, gate));
    mlx_array inner = zm_multiply(scope, zm_scalar_like(scope, 0.044715, gate), cube);
    inner = zm_add(scope, gate, inner);
    inner = zm_multiply(scope, zm_scalar_like(scope, 0.7978845608028654, gate), inner);
    mlx_array factor = zm_add(scope, zm_scalar_like(scope, 1, gate), zm_tanh(scope, inner));
    mlx_array half = zm_multiply(scope, zm_scalar_like(scope, 0.5, gate), gate);
    return zm_multiply(scope, zm_multiply(scope, half, factor), up);
}

static mlx_array swiglu_oai(zm_scope *scope, mlx_array gate, mlx_array up) {
    gate = zm_minimum(scope, gate, zm_scalar_like(scope, 7, gate));
    up = zm_maximum(scope, up, zm_scalar_like(scope, -7, up));
    up = zm_minimum(scope, up, zm_scalar_like(scope, 7, up));
    mlx_array sigmoid = zm_sigmoid(scope, zm_multiply(scope, zm_scalar_like(scope, 1.702, gate), gate));
    up = zm_add(scope, up, zm_scalar_like(scope, 1, up));
    return zm_multiply(scope, up, zm_multiply(scope, gate, sigmoid));
}

mlx_array zm_activation_apply(zm_scope *scope, zm_activation activation, mlx_array gate, mlx_array up) {
    switch (activation) {
    case ZM_ACTIVATION_SWIGLU: return swiglu(scope, gate, up);
    case ZM_ACTIVATION_GEGLU: return geglu(scope, gate, up);
    case ZM_ACTIVATION_SWIGLU_OAI: return swiglu_oai(scope, gate, up);
    }
    return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, NULL, "unknown activation %d", (int)activation);
}

mlx_array zm_gated_mlp_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)self;
    mlx_array gate = zm_module_call(&mlp->gate_proj->base, scope, x, NULL);
    mlx_array up = zm_module_call(&mlp->up_proj->base, scope, x, NULL);
    return zm_module_call(&mlp->down_proj->base, scope,
                          zm_activation_apply(scope, mlp->activation, gate, up), NULL);
}

static mlx_array switch_linear(zm_scope *scope, const zm_linear *linear, mlx_array x, mlx_array indices,
                               bool sorted) {
    const zm_weight *weight = &linear->weight;
    if (zm_weight_is_quantized(weight))
        x = zm_gather_qmm(scope, x, weight->weight, zm_scales_for(scope, weight->scales, x),
                          zm_scales_for(scope, weight->biases, x), indices, weight->quantization, sorted);
    else
        x = zm_gather_mm(scope, x, zm_swapaxes(scope, weight->weight, -1, -2), indices, sorted);
    if (!zm_is_set(weight->bias)) return x;
    return zm_add(scope, x, zm_expand_dims(scope, zm_take(scope, weight->bias, indices, 0), -2));
}

static mlx_array experts_apply(zm_switch_glu *experts, zm_scope *scope, mlx_array x, mlx_array indices,
                               bool sorted) {
    mlx_array up = switch_linear(scope, experts->up_proj, x, indices, sorted);
    mlx_array gate = switch_linear(scope, experts->gate_proj, x, indices, sorted);
    mlx_array hidden = zm_activation_apply(scope, experts->activation, gate, up);
    return switch_linear(scope, experts->down_proj, hidden, indices, sorted);
}

mlx_array zm_switch_glu_call(zm_switch_glu *experts, zm_scope *scope, mlx_array x, mlx_array indices) {
    x = zm_expand_dims(scope, zm_expand_dims(scope, x, -2), -3);
    if (zm_scope_failed(scope) || mlx_array_size(indices) < SORT_FROM)
        return zm_squeeze(scope, experts_apply(experts, scope, x, indices, false), -2);

    const int *shape = mlx_array_shape(indices);
    int n_dims = (int)mlx_array_ndim(indices), top_k = shape[n_dims - 1];
    mlx_array flat = zm_flatten(scope, indices, 0, -1);
    mlx_array order = zm_argsort(scope, flat, 0);
    mlx_array inverse = zm_argsort(scope, order, 0);
    mlx_array row = zm_floor_divide(scope, order, zm_scalar_like(scope, top_k, order));
    x = zm_take(scope, zm_flatten(scope, x, 0, -3), row, 0);
    x = experts_apply(experts, scope, x, zm_take(scope, flat, order, 0), true);
    x = zm_squeeze(scope, zm_take(scope, x, inverse, 0), -2);

    int full_shape[ZM_NODE_MAX_DIMS] = {0};
    if (n_dims >= ZM_NODE_MAX_DIMS)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, experts->base.path, "too many dimensions");
    for (int i = 0; i < n_dims; i++) full_shape[i] = shape[i];
    full_shape[n_dims] = zm_dim(x, -1);
    return zm_reshape(scope, x, full_shape, n_dims + 1);
}
