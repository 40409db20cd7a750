/* SPDX-License-Identifier: MIT */
/* glm4_moe: attention that turns a part of each head; grouped mixtures of experts behind the first layers. */
#include <math.h>

#include "model/arch/grouped_moe.h"

typedef struct glm4_moe_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_grouped_moe mixture;
} glm4_moe_config;

static zmlx_status read_attention(glm4_moe_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){.name = "self_attn",
                                .hidden_size = config->model.hidden_size,
                                .norm_eps = config->model.norm_eps,
                                .o_proj = "o_proj"};
    int required;
    bool has_norms;
    double part;
    ZM_TRY(zm_config_int(&required, builder, "num_key_value_heads", ZM_MAX_HEADS));
    ZM_TRY(zm_config_int(&required, builder, "head_dim", ZM_MAX_SIZE));
    ZM_TRY(zm_config_heads(&plan->heads, builder, config->model.hidden_size, (zm_heads){0}, true));
    ZM_TRY(zm_json_bool(&plan->has_bias, json, "attention_bias", builder->error));
    ZM_TRY(zm_json_bool(&has_norms, json, "use_qk_norm", builder->error));
    if (has_norms) plan->q_norm = "q_norm", plan->k_norm = "k_norm";
    ZM_TRY(zm_config_positive(&plan->rope.base, json, "rope_theta", NAN, builder->error));
    ZM_TRY(zm_config_positive(&part, json, "partial_rotary_factor", NAN, builder->error));
    plan->rope_dims = part <= 1 ? (int)(plan->heads.head_dim * part) : 0;
    if (plan->rope_dims > 0 && plan->rope_dims % 2 == 0) return ZMLX_OK;
    return zm_config_fail(builder, "partial_rotary_factor", "%g gives no even number of %d features", part,
                          plan->heads.head_dim);
}

static zmlx_status read_config(glm4_moe_config *config, const zm_builder *builder) {
    static const zm_grouped_moe_defaults required = {-1, -1, -1, -1, -1, -1, -1, -1, true};
    zm_model_plan *model = &config->model;
    *config = (glm4_moe_config){
        .model = {.norm = "norm", .operator_norm = "input_layernorm", .feed_forward_norm = "post_attention_layernorm"}};
    ZM_TRY(zm_config_int(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS));
    ZM_TRY(zm_config_int(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", NAN));
    ZM_TRY(zm_config_grouped_moe(&config->mixture, builder, model->hidden_size, &required, false));
    ZM_TRY(zm_config_dense_size(&config->mixture.mlp.intermediate_size, builder,
                                zm_grouped_moe_has_dense(&config->mixture), 0));
    return read_attention(config, builder);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const glm4_moe_config *config = context;
    ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    return zm_build_grouped_moe(&block->feed_forward, builder, &block->base, layer, &config->mixture);
}

zmlx_status zm_check_glm4_moe(const zm_builder *builder) {
    glm4_moe_config config;
    ZM_TRY(read_config(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_glm4_moe(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    glm4_moe_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder));
    ZM_TRY(zm_rewrite_grouped_moe(&builder, config.model.n_layers, &config.mixture));
    config.model.build_block = build_block;
    config.model.config = &config;
    return zm_build_model(root, &builder, &config.model);
}
