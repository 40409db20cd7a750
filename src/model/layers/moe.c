/* SPDX-License-Identifier: MIT */
/* Mixtures of experts: the five gating rules, and the weighted sum. */
#include <limits.h>

#include "model/layers/forward.h"

/* The indices of the top_k largest, in argpartition's order. */
static mlx_array largest(zm_scope *scope, mlx_array scores, int top_k) {
    mlx_array order = zm_argpartition(scope, scores, -top_k, -1);
    return zm_slice_axis(scope, order, -1, -top_k, INT_MAX, 1);
}

static zm_routing route_sigmoid(const zm_moe *moe, zm_scope *scope, mlx_array logits, mlx_dtype dtype) {
    mlx_array scores = zm_sigmoid(scope, logits), choice = scores;
    if (zm_is_set(moe->expert_bias))
        choice = zm_add(scope, zm_astype(scope, scores, MLX_FLOAT32), moe->expert_bias);
    zm_routing result = {.indices = largest(scope, choice, moe->top_k)};
    mlx_array weights = zm_take_along_axis(scope, scores, result.indices, -1);
    if (moe->normalize_top_k) {
        mlx_array sum = zm_sum(scope, weights, -1, true);
        sum = zm_add(scope, sum, zm_scalar_like(scope, moe->normalize_epsilon, sum));
        weights = zm_divide(scope, weights, sum);
    }
    if (moe->routed_scaling_factor != 1.0f)
        weights = zm_multiply(scope, weights, zm_scalar_like(scope, moe->routed_scaling_factor, weights));
    result.weights = zm_astype(scope, weights, dtype);
    return result;
}

static zm_routing route_softmax_first(const zm_moe *moe, zm_scope *scope, mlx_array logits) {
    mlx_array scores = zm_softmax(scope, logits, -1, true);
    zm_routing result = {.indices = largest(scope, scores, moe->top_k)};
    result.weights = zm_take_along_axis(scope, scores, result.indices, -1);
    if (moe->normalize_top_k)
        result.weights = zm_divide(scope, result.weights, zm_sum(scope, result.weights, -1, true));
    return result;
}

static zm_routing route_softmax_last(const zm_moe *moe, zm_scope *scope, mlx_array logits) {
    zm_routing result;
    if (moe->gating == ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH) {
        result.indices = largest(scope, logits, moe->top_k);
    } else {
        mlx_array order = zm_argpartition(scope, zm_negative(scope, logits), moe->top_k - 1, -1);
        result.indices = zm_slice_axis(scope, order, -1, 0, moe->top_k, 1);
    }
    mlx_array chosen = zm_take_along_axis(scope, logits, result.indices, -1);
    result.weights = zm_softmax(scope, chosen, -1, true);
    return result;
}

/* The scores with 0 for all experts outside the top_groups groups with the largest sums of two scores. */
static mlx_array keep_groups(const zm_moe *moe, zm_scope *scope, mlx_array scores) {
    int n_others = moe->n_groups - moe->top_groups, n_dims = (int)mlx_array_ndim(scores), shape[ZM_NODE_MAX_DIMS];
    if (n_dims >= ZM_NODE_MAX_DIMS)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, moe->base.path, "too many dimensions");
    for (int i = 0; i < n_dims; i++) shape[i] = zm_dim(scores, i);
    shape[n_dims - 1] = moe->n_groups;
    shape[n_dims] = moe->n_experts / moe->n_groups;
    mlx_array grouped = zm_reshape(scope, scores, shape, n_dims + 1);
    mlx_array two = zm_take_along_axis(scope, grouped, largest(scope, grouped, 2), -1);
    mlx_array order = zm_argpartition(scope, zm_sum(scope, two, -1, true), n_others - 1, -2);
    mlx_array others = zm_slice_axis(scope, order, -2, 0, n_others, 1);
    grouped = zm_put_along_axis(scope, grouped, others, zm_scalar_like(scope, 0, grouped), -2);
    return zm_flatten(scope, grouped, -2, -1);
}

/* In float32, the weights too. */
static zm_routing route_groups(const zm_moe *moe, zm_scope *scope, mlx_array logits) {
    mlx_array scores = zm_sigmoid(scope, zm_astype(scope, logits, MLX_FLOAT32));
    mlx_array choice = zm_add(scope, scores, moe->expert_bias);
    if (!zm_scope_failed(scope) && moe->top_groups < moe->n_groups) choice = keep_groups(moe, scope, choice);
    mlx_array order = zm_argpartition(scope, zm_negative(scope, choice), moe->top_k - 1, -1);
    zm_routing result = {.indices = zm_slice_axis(scope, order, -1, 0, moe->top_k, 1)};
    mlx_array weights = zm_take_along_axis(scope, scores, result.indices, -1);
    if (moe->normalize_top_k) {
        mlx_array sum = zm_sum(scope, weights, -1, true);
        if (moe->normalize_epsilon > 0)
            sum = zm_add(scope, sum, zm_scalar_like(scope, moe->normalize_epsilon, sum));
        weights = zm_divide(scope, weights, sum);
    }
    result.weights = zm_multiply(scope, weights, zm_scalar_like(scope, moe->routed_scaling_factor, weights));
    return result;
}

zm_routing zm_moe_route(const zm_moe *moe, zm_scope *scope, mlx_array logits, mlx_dtype dtype) {
    switch (moe->gating) {
    case ZM_GATING_SIGMOID_BIAS: return route_sigmoid(moe, scope, logits, dtype);
    case ZM_GATING_SOFTMAX_THEN_TOP_K: return route_softmax_first(moe, scope, logits);
    case ZM_GATING_TOP_K_THEN_SOFTMAX_LOW:
    case ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH: return route_softmax_last(moe, scope, logits);
    case ZM_GATING_SIGMOID_GROUPS: return route_groups(moe, scope, logits);
    }
    mlx_array none =
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, moe->base.path, "unknown gating %d", (int)moe->gating);
    return (zm_routing){none, none};
}

mlx_array zm_moe_add_shared(const zm_moe *moe, zm_scope *scope, mlx_array y, mlx_array x) {
    if (!moe->shared_experts) return y;
    mlx_array shared = zm_module_call(&moe->shared_experts->base, scope, x, NULL);
    if (moe->shared_router) {
        mlx_array gate = zm_module_call(&moe->shared_router->base, scope, x, NULL);
        shared = zm_multiply(scope, zm_sigmoid(scope, gate), shared);
    }
    return zm_add(scope, y, shared);
}

mlx_array zm_moe_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    const zm_moe *moe = (const zm_moe *)self;
    if (zm_scope_failed(scope)) return x;
    mlx_array logits = zm_module_call(&moe->router->base, scope, x, NULL);
    zm_routing chosen = zm_moe_route(moe, scope, logits, mlx_array_dtype(x));
    mlx_array y = zm_switch_glu_call(moe->experts, scope, x, chosen.indices);
    mlx_dtype dtype = mlx_array_dtype(x);
    y = zm_multiply(scope, y, zm_expand_dims(scope, chosen.weights, -1));
    y = zm_sum(scope, y, -2, false);
    if (moe->gating == ZM_GATING_SIGMOID_GROUPS) y = zm_astype(scope, y, dtype); /* its weights made it float32 */
    return zm_moe_add_shared(moe, scope, y, x);
}
