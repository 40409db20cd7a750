/* SPDX-License-Identifier: MIT */
/* mixtral: a mixture of experts in every block. Fields a config leaves out take mlx-lm's defaults. */
#include "model/arch/build.h"

typedef struct mixtral_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_moe_plan moe;
} mixtral_config;

static zmlx_status read_attention(mixtral_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){
        .name = "self_attn", .hidden_size = config->model.hidden_size, .o_proj = "o_proj"};
    /* num_key_value_heads: absent means 8, null as many as there are heads. */
    zm_heads defaults = {32, json_object_get(json.value, "num_key_value_heads") ? 0 : 8, 0};
    ZM_TRY(zm_config_heads(&plan->heads, builder, config->model.hidden_size, defaults, false));
    ZM_TRY(zm_config_traditional(&plan->rope.traditional, builder));
    return zm_config_positive(&plan->rope.base, json, "rope_theta", 1e6, builder->error);
}

static zmlx_status read_config(mixtral_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_model_plan *model = &config->model;
    zm_moe_plan *moe = &config->moe;
    *config = (mixtral_config){.model = {.norm = "norm",
                                         .operator_norm = "input_layernorm",
                                         .feed_forward_norm = "post_attention_layernorm"}};
    ZM_TRY(zm_config_int_or(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE, 4096));
    ZM_TRY(zm_config_int_or(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS, 32));
    ZM_TRY(zm_config_int_or(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE, 32000));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", 1e-5));
    ZM_TRY(zm_json_bool_or(&model->is_tied, json, "tie_word_embeddings", false, builder->error));
    *moe = (zm_moe_plan){.name = "block_sparse_moe",
                         .router = "gate",
                         .experts = {"switch_mlp", "gate_proj", "up_proj", "down_proj", model->hidden_size, 0,
                                     0, false, ZM_ACTIVATION_SWIGLU},
                         .gating = ZM_GATING_TOP_K_THEN_SOFTMAX_LOW,
                         .routed_scaling_factor = 1};
    zm_gated_plan *experts = &moe->experts;
    ZM_TRY(zm_config_int_or(&experts->intermediate_size, builder, "intermediate_size", ZM_MAX_SIZE, 14336));
    ZM_TRY(zm_config_int_or(&experts->n_experts, builder, "num_local_experts", ZM_MAX_EXPERTS, 8));
    ZM_TRY(zm_config_int_or(&moe->top_k, builder, "num_experts_per_tok", experts->n_experts, 2));
    if (moe->top_k > experts->n_experts)
        return zm_config_fail(builder, "num_local_experts", "fewer than the 2 experts of a token");
    return read_attention(config, builder);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const mixtral_config *config = context;
    (void)layer;
    ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    return zm_build_moe(&block->feed_forward, builder, &block->base, &config->moe);
}

static zmlx_status sanitize_layer(zm_builder *builder, int layer, int n_experts) {
    static const char *const names[3][2] = {{"w1", "gate_proj"}, {"w2", "down_proj"}, {"w3", "up_proj"}};
    static const char *const arrays[3] = {"weight", "scales", "biases"};
    const char *module = zm_arena_printf(builder->arena, "model.layers.%d.block_sparse_moe", layer);
    if (!module) return zm_fail_memory(builder->error);
    for (int n = 0; n < 3; n++)
        for (int a = 0; a < 3; a++) {
            const char *source = zm_arena_printf(builder->arena, "%s.%s", names[n][0], arrays[a]);
            const char *target = zm_arena_printf(builder->arena, "%s.%s", names[n][1], arrays[a]);
            if (!source || !target) return zm_fail_memory(builder->error);
            ZM_TRY(zm_build_stack_experts(builder, module, source, target, n_experts));
        }
    return ZMLX_OK;
}

zmlx_status zm_check_mixtral(const zm_builder *builder) {
    mixtral_config config;
    ZM_TRY(read_config(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_mixtral(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                             zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    mixtral_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder));
    if (config.model.is_tied) zm_checkpoint_remove(checkpoint, "lm_head.weight");
    for (int i = 0; i < config.model.n_layers; i++)
        ZM_TRY(sanitize_layer(&builder, i, config.moe.experts.n_experts));
    config.model.build_block = build_block;
    config.model.config = &config;
    return zm_build_model(root, &builder, &config.model);
}
