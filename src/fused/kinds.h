/* SPDX-License-Identifier: MIT */
/* The kinds of gated units and of routers. */
#ifndef ZM_FUSED_KINDS_H
#define ZM_FUSED_KINDS_H

/* h(gate, up) of a gated unit. */
typedef enum zm_activation {
    ZM_ACTIVATION_SWIGLU, /* silu(gate) * up */
    ZM_ACTIVATION_GEGLU,  /* gelu_tanh(gate) * up */
    /* gate = min(gate, 7), up = clip(up, -7, 7): (up + 1) * gate * sigmoid(1.702 gate) */
    ZM_ACTIVATION_SWIGLU_OAI
} zm_activation;

/* How a router turns logits into chosen experts and weights: the rules G1 to G5 of the families. */
typedef enum zm_gating {
    ZM_GATING_SIGMOID_BIAS,        /* lfm2_moe: sigmoid; the expert bias takes part in the choice alone */
    ZM_GATING_SOFTMAX_THEN_TOP_K,  /* qwen3_moe */
    ZM_GATING_TOP_K_THEN_SOFTMAX_LOW,  /* mixtral: equal logits take the lower index */
    ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, /* gpt_oss: equal logits take the higher index */
    /* glm4_moe, deepseek_v3: sigmoid and bias in float32; the best groups of experts are chosen first */
    ZM_GATING_SIGMOID_GROUPS,
} zm_gating;

/* How products take their activations. */
typedef enum zm_precision {
    ZM_PRECISION_FLOAT32, /* with float32's accuracy */
    ZM_PRECISION_INT8     /* as signed bytes, scaled by the largest magnitude of each group of the weight */
} zm_precision;

/* Head sizes that attention serves: multiples of the unit. */
enum { ZM_HEAD_UNIT = 16, ZM_MAX_HEAD_DIM = 1024 };

#endif
