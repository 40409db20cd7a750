/* SPDX-License-Identifier: MIT */
/* Building the module tree of a family: each function makes one module below parent, with its standard
 * forward and its arrays from the checkpoint. A tree that was begun is released with its root. */
#ifndef ZM_MODEL_ARCH_BUILD_H
#define ZM_MODEL_ARCH_BUILD_H

#include "model/arch/config.h"

typedef struct zm_linear_shape {
    int in_features, out_features;
    int n_experts; /* 0: one matrix */
    bool has_bias;
} zm_linear_shape;

typedef struct zm_attention_plan {
    const char *name;
    zm_heads heads;
    int hidden_size, rope_dims; /* rope_dims 0: all of head_dim */
    double norm_eps;
    const char *o_proj, *q_norm, *k_norm; /* names; norms NULL: none */
    bool has_bias, has_output_bias, has_sinks, has_output_gate;
    zm_rope_config rope;
} zm_attention_plan;

typedef struct zm_latent_attention_plan {
    int hidden_size, n_heads, q_lora_rank; /* q_lora_rank 0: queries have no latent */
    int kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    double norm_eps, scale;
    bool has_bias;
    zm_rope_config rope;
} zm_latent_attention_plan;

typedef struct zm_gated_plan { /* an MLP, or with n_experts a switch_glu */
    const char *name;
    const char *gate, *up, *down; /* names of the projections */
    int hidden_size, intermediate_size, n_experts;
    bool has_bias;
    zm_activation activation;
} zm_gated_plan;

typedef struct zm_moe_plan {
    const char *name, *router;
    zm_gated_plan experts;
    zm_gated_plan shared;    /* name NULL: none */
    const char *shared_router; /* name; NULL: none */
    zm_gating gating;
    int top_k, n_groups, top_groups;
    bool has_router_bias, has_expert_bias, normalize_top_k;
    double normalize_epsilon, routed_scaling_factor;
} zm_moe_plan;

typedef struct zm_delta_net_plan {
    const char *name;
    int hidden_size, n_k_heads, n_v_heads, head_k_dim, head_v_dim, taps;
    double norm_eps;
    bool is_interleaved; /* two projections in, by key head; else four */
} zm_delta_net_plan;

/* Everything of a model but its blocks. */
typedef struct zm_model_plan {
    const char *prefix; /* of all names but this one's: "language_model"; NULL: none */
    int n_layers, hidden_size, vocab_size;
    double norm_eps;
    const char *norm;                              /* the final norm's name */
    const char *operator_norm, *feed_forward_norm; /* the block norms' names */
    bool is_tied;
    /* Makes block->operator and block->feed_forward. */
    zmlx_status (*build_block)(zm_builder *builder, zm_block *block, int layer, const void *config);
    const void *config; /* the family's own, for build_block */
} zm_model_plan;

zm_builder zm_builder_make(zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error);

/* Fails where zm_build_attention would for want of a valid rotation. */
zmlx_status zm_check_attention(const zm_builder *builder, const zm_attention_plan *plan);

zmlx_status zm_build_linear(zm_linear **linear, zm_builder *builder, zm_module *parent, const char *name,
                            zm_linear_shape shape);
zmlx_status zm_build_norm(zm_norm **norm, zm_builder *builder, zm_module *parent, const char *name, int size,
                          double eps);
zmlx_status zm_build_attention(zm_module **attention, zm_builder *builder, zm_module *parent,
                               const zm_attention_plan *plan);
zmlx_status zm_build_latent_attention(zm_module **attention, zm_builder *builder, zm_module *parent,
                                      const zm_latent_attention_plan *plan);
zmlx_status zm_build_short_conv(zm_module **short_conv, zm_builder *builder, zm_module *parent,
                                int hidden_size, int taps, bool has_bias);
zmlx_status zm_build_delta_net(zm_module **delta_net, zm_builder *builder, zm_module *parent,
                               const zm_delta_net_plan *plan);
zmlx_status zm_build_gated_mlp(zm_module **mlp, zm_builder *builder, zm_module *parent,
                               const zm_gated_plan *plan);
zmlx_status zm_build_moe(zm_module **moe, zm_builder *builder, zm_module *parent, const zm_moe_plan *plan);

/* The whole tree. */
zmlx_status zm_build_model(zm_causal_lm **root, zm_builder *builder, const zm_model_plan *plan);

/* Where "<module>.experts.0.<source>" exists, the experts' tensors become one,
 * "<module>.switch_mlp.<target>". */
zmlx_status zm_build_stack_experts(zm_builder *builder, const char *module, const char *source,
                                   const char *target, int n_experts);
/* The same for the weights of gate_proj, up_proj and down_proj in module of every layer. */
zmlx_status zm_build_stack_layers(zm_builder *builder, const char *module, int n_layers, int n_experts);

#endif
