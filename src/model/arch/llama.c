/* SPDX-License-Identifier: MIT */
/* llama and the model types that are the same model under another name. */
#include <math.h>
#include <string.h>

#include "model/arch/build.h"

typedef struct llama_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_gated_plan mlp;
    bool *is_sliding; /* a layer; NULL: none */
    int sliding_window;
} llama_config;

static zmlx_status read_layer_types(llama_config *config, const zm_builder *builder) {
    int n_layers = config->model.n_layers, n_sliding = 0;
    ZM_TRY(zm_config_layer_types(&config->is_sliding, builder, n_layers, "sliding_attention",
                                 "full_attention"));
    for (int i = 0; config->is_sliding && i < n_layers; i++) n_sliding += config->is_sliding[i];
    if (n_sliding == n_layers)
        return zm_config_fail(builder, "layer_types", "no layer has full_attention");
    if (n_sliding) return zm_config_int(&config->sliding_window, builder, "sliding_window", ZM_MAX_SIZE);
    return ZMLX_OK;
}

static zmlx_status read_attention(llama_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){.name = "self_attn",
                                .hidden_size = config->model.hidden_size,
                                .norm_eps = config->model.norm_eps,
                                .o_proj = "o_proj"};
    ZM_TRY(zm_config_heads(&plan->heads, builder, config->model.hidden_size, (zm_heads){0}, true));
    ZM_TRY(zm_json_bool_or(&plan->has_bias, json, "attention_bias", false, builder->error));
    plan->has_output_bias = plan->has_bias;
    ZM_TRY(zm_config_traditional(&plan->rope.traditional, builder));
    ZM_TRY(zm_config_positive(&plan->rope.base, json, "rope_theta", 10000, builder->error));
    ZM_TRY(zm_config_positions(&plan->rope.max_position_embeddings, builder, 0));
    return zm_config_object(&plan->rope.scaling, builder, "rope_scaling");
}

static zmlx_status read_config(llama_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_model_plan *model = &config->model;
    *config = (llama_config){0};
    ZM_TRY(zm_config_int(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS));
    ZM_TRY(zm_config_int(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", NAN));
    ZM_TRY(zm_json_bool_or(&model->is_tied, json, "tie_word_embeddings", true, builder->error));
    config->mlp = (zm_gated_plan){"mlp", "gate_proj", "up_proj", "down_proj", model->hidden_size, 0, 0, false,
                                  ZM_ACTIVATION_SWIGLU};
    ZM_TRY(zm_config_int(&config->mlp.intermediate_size, builder, "intermediate_size", ZM_MAX_SIZE));
    ZM_TRY(zm_json_bool_or(&config->mlp.has_bias, json, "mlp_bias", false, builder->error));
    ZM_TRY(read_attention(config, builder));
    return read_layer_types(config, builder);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const llama_config *config = context;
    if (config->is_sliding && config->is_sliding[layer]) block->sliding_window = config->sliding_window;
    ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    return zm_build_gated_mlp(&block->feed_forward, builder, &block->base, &config->mlp);
}

/* Drops stored rotary frequencies and, with tied embeddings, a stored head. */
static void sanitize(zm_checkpoint *checkpoint, bool is_tied) {
    for (size_t i = zm_checkpoint_count(checkpoint); i-- > 0;) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (strstr(name, "self_attn.rotary_emb.inv_freq")) zm_checkpoint_remove(checkpoint, name);
    }
    if (is_tied) zm_checkpoint_remove(checkpoint, "lm_head.weight");
}

zmlx_status zm_check_llama(const zm_builder *builder) {
    llama_config config;
    ZM_TRY(read_config(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_llama(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                           zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    llama_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder));
    sanitize(checkpoint, config.model.is_tied);
    config.model.norm = "norm";
    config.model.operator_norm = "input_layernorm";
    config.model.feed_forward_norm = "post_attention_layernorm";
    config.model.build_block = build_block;
    config.model.config = &config;
    return zm_build_model(root, &builder, &config.model);
}
