/* SPDX-License-Identifier: MIT */
/* The mixtures of glm4_moe, glm4_moe_lite and deepseek_v3: sigmoid routers over groups of experts, and experts that
 * serve every token. */
#ifndef ZM_MODEL_ARCH_GROUPED_MOE_H
#define ZM_MODEL_ARCH_GROUPED_MOE_H

#include "model/arch/build.h"

/* What a config may leave out. A number below 0: it may not. */
typedef struct zm_grouped_moe_defaults {
    int n_routed_experts, n_shared_experts, moe_intermediate_size, num_experts_per_tok, n_group, topk_group;
    int first_k_dense_replace;
    double routed_scaling_factor;
    bool needs_norm_topk_prob; /* else true */
} zm_grouped_moe_defaults;

typedef struct zm_grouped_moe {
    zm_gated_plan mlp; /* of the other layers */
    zm_moe_plan moe;   /* without experts no layer has any */
    int first, every;  /* layers >= first that every divides have experts */
} zm_grouped_moe;

/* Reads everything but mlp's intermediate_size. moe_layer_freq counts with has_layer_freq alone. */
zmlx_status zm_config_grouped_moe(zm_grouped_moe *result, const zm_builder *builder, int hidden_size,
                                  const zm_grouped_moe_defaults *defaults, bool has_layer_freq);
/* Whether some layer has no experts. */
bool zm_grouped_moe_has_dense(const zm_grouped_moe *plan);
zmlx_status zm_build_grouped_moe(zm_module **module, zm_builder *builder, zm_module *parent, int layer,
                                 const zm_grouped_moe *plan);
/* Stacks tensors of single experts, and drops those of layers from n_layers on that predict further tokens. */
zmlx_status zm_rewrite_grouped_moe(zm_builder *builder, int n_layers, const zm_grouped_moe *plan);

#endif
