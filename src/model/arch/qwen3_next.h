/* SPDX-License-Identifier: MIT */
/* What qwen3_next and qwen3_5 share: attention with an output gate in every full_attention_interval-th block, gated
 * delta nets in the others; an MLP, or experts with a shared one. */
#ifndef ZM_MODEL_ARCH_QWEN3_NEXT_H
#define ZM_MODEL_ARCH_QWEN3_NEXT_H

#include "model/arch/build.h"

typedef struct zm_qwen3_next_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_delta_net_plan delta_net;
    zm_gated_plan mlp;
    zm_moe_plan moe;
    bool *is_moe; /* a layer; NULL: none */
    int full_attention_interval;
} zm_qwen3_next_config;

/* All but the rotation, the experts and the size of an MLP. with_defaults: what config leaves out takes qwen3_5's
 * default; else it is an error, as in mlx-lm. */
zmlx_status zm_qwen3_next_read(zm_qwen3_next_config *config, const zm_builder *builder, bool with_defaults);
/* num_experts experts, more than 0. */
zmlx_status zm_qwen3_next_read_moe(zm_qwen3_next_config *config, const zm_builder *builder, int n_experts,
                                   bool normalize_by_default);
/* attention.rope_dims from head_dim and factor; object: where that was found. */
zmlx_status zm_qwen3_next_rotate(zm_qwen3_next_config *config, const zm_builder *builder, zm_json_object object,
                                 double fallback);
/* Of a published checkpoint: weights of convolutions stored as (channels, 1, taps) become (channels, taps, 1), and 1 is
 * added to the norms, which are stored without it. */
zmlx_status zm_qwen3_next_sanitize(zm_builder *builder);
zmlx_status zm_qwen3_next_build(zm_causal_lm **root, zm_builder *builder, zm_qwen3_next_config *config);

#endif
