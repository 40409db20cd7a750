/* SPDX-License-Identifier: MIT */
/* The structs of the module kinds: declared fields that forwards use and patches match on. All shapes
 * are (batch, length, features) unless said. Formulas: the mlx-lm module of the same name. */
#ifndef ZM_MODEL_LAYERS_H
#define ZM_MODEL_LAYERS_H

#include "fused/fused.h"
#include "model/module.h"

/* LINEAR, SWITCH_LINEAR, and MULTI_LINEAR: x (batch, heads, length, in) -> (batch, heads, length, out), n_experts being
 * the heads, each with a matrix of its own. */
typedef struct zm_linear {
    zm_module base;
    zm_weight weight;
} zm_linear;

typedef struct zm_embedding { /* x: token ids (batch, length) */
    zm_module base;
    zm_weight weight; /* in_features = hidden_size, out_features = vocab_size */
    mlx_dtype dtype;  /* of the rows, and of the scales as they were loaded */
} zm_embedding;

typedef struct zm_norm { /* RMS_NORM */
    zm_module base;
    mlx_array weight;
    float eps;
} zm_norm;

typedef struct zm_depthwise_conv { /* CONV1D */
    zm_module base;
    mlx_array weight, bias; /* (channels, taps, 1); (channels,) or empty */
    int channels, taps;
} zm_depthwise_conv;

/* Rotary embedding; freqs set: they replace base. */
typedef struct zm_rope_parameters {
    int dims;
    bool traditional;
    float base, scale;
    mlx_array freqs;   /* owned by the attention module, or empty */
    mlx_array inverse_freqs; /* likewise: 1 / freqs or base^(-2j / dims), as MLX computes them; empty while dynamic, and
                              * in latent attention */
    float input_scale; /* multiplies the rotated features first; 1: nothing is done */
    double dynamic_factor; /* > 0: dynamic NTK scaling */
    int max_position_embeddings;
} zm_rope_parameters;

typedef struct zm_attention {
    zm_module base;
    zm_linear *q_proj, *k_proj, *v_proj, *o_proj;
    zm_norm *q_norm, *k_norm; /* NULL where the family has none */
    mlx_array sinks;          /* (n_heads,), or empty */
    zm_rope_parameters rope;
    int n_heads, n_kv_heads, head_dim;
    float scale;
    bool has_output_gate; /* q_proj gives a gate behind each head's query: o_proj takes output * sigmoid(gate) */
} zm_attention;

/* Keys and values are maps of a latent, which is what the cache holds, with one rotated key for all heads:
 * score = scale (q_nope . embed_q(latent) + q_rope . k_rope); value = unembed_out(latent). */
typedef struct zm_latent_attention {
    zm_module base;
    zm_linear *q_proj;              /* or, through a latent too: q_b_proj(q_a_layernorm(q_a_proj(x))) */
    zm_linear *q_a_proj, *q_b_proj; /* NULL with q_proj */
    zm_norm *q_a_layernorm;
    zm_linear *kv_a_proj_with_mqa; /* [latent, k_rope] */
    zm_norm *kv_a_layernorm;
    zm_linear *embed_q;            /* (n_heads, kv_lora_rank, qk_nope_head_dim) */
    zm_linear *unembed_out;        /* (n_heads, v_head_dim, kv_lora_rank) */
    zm_linear *o_proj;
    zm_rope_parameters rope;
    int n_heads, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    double scale;
} zm_latent_attention;

typedef struct zm_short_conv {
    zm_module base;
    zm_linear *in_proj, *out_proj;
    zm_depthwise_conv *conv;
    int hidden_size;
} zm_short_conv;

/* The gated delta rule. Of each token, with a state S (head_v_dim, head_k_dim) a value head, whose key head is
 * head / (n_v_heads / n_k_heads):
 * S *= exp(-exp(A_log) softplus(a + dt_bias)); S += sigmoid(b) (v - S k) k^T; y = S q. */
typedef struct zm_delta_net {
    zm_module base;
    /* qwen3_next: in_proj[0] gives [q, k, v, z] of each key head and in_proj[1] [b, a]; qwen3_5: four maps give
     * [q, k, v], z, b and a. */
    zm_linear *in_proj[4], *out_proj;
    int n_in_proj;           /* 2 or 4 */
    zm_depthwise_conv *conv; /* of [q, k, v] */
    mlx_array A_log, dt_bias; /* (n_v_heads,); A_log in float32 */
    zm_norm *norm;            /* of each head's y, before it is multiplied by silu(z) */
    int n_k_heads, n_v_heads, head_k_dim, head_v_dim;
} zm_delta_net;

typedef struct zm_gated_mlp { /* down(h(gate(x), up(x))) */
    zm_module base;
    zm_linear *gate_proj, *up_proj, *down_proj;
    zm_activation activation;
} zm_gated_mlp;

typedef struct zm_switch_glu { /* the experts; called through zm_switch_glu_call */
    zm_module base;
    zm_linear *gate_proj, *up_proj, *down_proj;
    zm_activation activation;
} zm_switch_glu;

typedef struct zm_moe {
    zm_module base;
    zm_linear *router;
    zm_switch_glu *experts;
    mlx_array expert_bias; /* (n_experts,) float32, or empty */
    zm_gating gating;
    int n_experts, top_k;
    int n_groups, top_groups; /* SIGMOID_GROUPS: of experts, and how many of them a token chooses from; else 0 */
    bool normalize_top_k;
    float normalize_epsilon, routed_scaling_factor;
    zm_gated_mlp *shared_experts; /* of every token, added to the sum; NULL: none */
    zm_linear *shared_router;     /* one output, whose sigmoid multiplies what they give; NULL: none */
} zm_moe;

typedef struct zm_block { /* h = x + op(norm1(x)); h + feed_forward(norm2(h)) */
    zm_module base;
    zm_norm *operator_norm, *feed_forward_norm;
    zm_module *operator;     /* ATTENTION, LATENT_ATTENTION, SHORT_CONV or DELTA_NET */
    zm_module *feed_forward; /* GATED_MLP or MOE */
    int sliding_window;      /* 0: full attention */
} zm_block;

typedef struct zm_decoder { /* token ids -> normed hidden states */
    zm_module base;
    zm_embedding *embed_tokens;
    zm_block **blocks;
    int n_blocks;
    zm_norm *norm;
} zm_decoder;

typedef struct zm_greedy_head { /* normed hidden states -> the most likely tokens (batch, length), uint32 */
    zm_module base;
    zm_linear *lm_head; /* the model's */
} zm_greedy_head;

typedef struct zm_causal_lm { /* the root: token ids -> logits */
    zm_module base;
    zm_decoder *decoder;
    zm_linear *lm_head; /* tied: embed_tokens' child "as_linear", which shares the table's arrays */
    zm_greedy_head *greedy_head;
} zm_causal_lm;

/* h(gate, up) in MLX operations, as mlx-lm's activation functions. */
mlx_array zm_activation_apply(zm_scope *scope, zm_activation activation, mlx_array gate, mlx_array up);
/* The experts that a token's logits (..., n_experts) choose; dtype: x's, in which weights come but those of
 * SIGMOID_GROUPS, which are float32. */
typedef struct zm_routing {
    mlx_array indices, weights; /* (..., top_k) */
} zm_routing;
zm_routing zm_moe_route(const zm_moe *moe, zm_scope *scope, mlx_array logits, mlx_dtype dtype);
/* The experts' sum y for x, and what the shared experts add to it. */
mlx_array zm_moe_add_shared(const zm_moe *moe, zm_scope *scope, mlx_array y, mlx_array x);
/* SwitchGLU: x (..., in), indices (..., top_k) -> (..., top_k, in). */
mlx_array zm_switch_glu_call(zm_switch_glu *experts, zm_scope *scope, mlx_array x, mlx_array indices);
/* Rotates x (batch, heads, length, head_dim) from position offset. */
mlx_array zm_rope_apply(zm_scope *scope, mlx_array x, const zm_rope_parameters *rope, int offset);

/* (dims / 2,) float32: what position * scale is multiplied by, for a call that ends a sequence of that length. */
mlx_array zm_rope_inverse_freqs(zm_scope *scope, const zm_rope_parameters *rope, int sequence_length);

/* The standard forward of a kind, as the builder installs it. */
zm_forward zm_standard_forward(zm_module_kind kind);

#endif
