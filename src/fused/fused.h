/* SPDX-License-Identifier: MIT */
/* The fused operations as graph nodes: one call, one node.
 *
 * x: (..., in) in float32, float16 or bfloat16; the result has x's dtype. Arithmetic is float32 and is
 * rounded once at the node's output; scales, biases and dense weights may have any of the three types.
 * A row's bits do not depend on the number of rows, of threads or on the run. Weights are read in place
 * in MLX's own layout: nothing is copied or repacked. Gradients are refused by name. */
#ifndef ZM_FUSED_FUSED_H
#define ZM_FUSED_FUSED_H

#include <stdbool.h>

#include "base/threads.h"
#include "mlx/scope.h"
#include "mlx/weight.h"

/* h(gate, up) of a gated unit. */
typedef enum zm_activation {
    ZM_ACTIVATION_SWIGLU,    /* silu(gate) * up */
    ZM_ACTIVATION_GEGLU,     /* gelu_tanh(gate) * up */
    ZM_ACTIVATION_SWIGLU_OAI /* gate = min(gate, 7), up = clip(up, -7, 7): (up + 1) * gate * sigmoid(1.702 gate) */
} zm_activation;

/* How a router turns logits into chosen experts and weights: the rules G1 to G4 of the families. */
typedef enum zm_gating {
    ZM_GATING_SIGMOID_BIAS,        /* lfm2_moe: sigmoid; the expert bias takes part in the choice alone */
    ZM_GATING_SOFTMAX_THEN_TOP_K,  /* qwen3_moe */
    ZM_GATING_TOP_K_THEN_SOFTMAX_LOW,  /* mixtral: equal logits take the lower index */
    ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, /* gpt_oss: equal logits take the higher index */
} zm_gating;

typedef struct zm_moe_arguments {
    const zm_weight *router;           /* (n_experts, in) */
    mlx_array expert_bias;             /* (n_experts,) float32, or empty */
    const zm_weight *gate, *up, *down; /* stacked */
    zm_activation activation;
    zm_gating gating;
    int top_k;
    bool normalize_top_k;    /* divide the weights by their sum */
    float normalize_epsilon; /* added to that sum (lfm2_moe: 1e-6) */
    float routed_scaling_factor;
} zm_moe_arguments;

/* Whether the node can serve this weight on the CPU; otherwise *reason (static text) says why not. */
bool zm_fused_weight_supported(const zm_weight *weight, const char **reason);

/* y = x W^T (+ bias). */
mlx_array zm_fused_linear(zm_scope *, mlx_array x, const zm_weight *weight, zm_pool *pool);
/* y = down(h(gate(x), up(x))): the whole MLP in one node. */
mlx_array zm_fused_gated_mlp(zm_scope *, mlx_array x, const zm_weight *gate, const zm_weight *up,
                             const zm_weight *down, zm_activation activation, zm_pool *pool);
/* y = sum over the chosen experts of weight * down(h(gate(x), up(x))): router, choice, experts and combine
 * in one node. */
mlx_array zm_fused_moe(zm_scope *, mlx_array x, const zm_moe_arguments *arguments, zm_pool *pool);

#endif
