/* SPDX-License-Identifier: MIT */
/* qwen3 and qwen3_moe: attention with normed queries and keys; an MLP or a mixture of experts. */
#include <math.h>

#include "model/arch/build.h"

typedef struct qwen3_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_gated_plan mlp;
    bool *is_moe; /* a layer; NULL: none */
    zm_moe_plan moe;
} qwen3_config;

static zmlx_status read_attention(qwen3_config *config, const zm_builder *builder) {
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){.name = "self_attn",
                                .hidden_size = config->model.hidden_size,
                                .norm_eps = config->model.norm_eps,
                                .o_proj = "o_proj",
                                .q_norm = "q_norm",
                                .k_norm = "k_norm"};
    int required;
    ZM_TRY(zm_config_int(&required, builder, "num_key_value_heads", ZM_MAX_HEADS));
    ZM_TRY(zm_config_int(&required, builder, "head_dim", ZM_MAX_SIZE));
    return zm_config_heads(&plan->heads, builder, config->model.hidden_size, (zm_heads){0}, true);
}

/* qwen3: rope_theta and the scaling may sit in rope_parameters. */
static zmlx_status read_nested_rope(qwen3_config *config, const zm_builder *builder) {
    zm_rope_config *rope = &config->attention.rope;
    zm_json_object parameters;
    ZM_TRY(zm_config_positions(&rope->max_position_embeddings, builder, 0));
    ZM_TRY(zm_config_object(&rope->scaling, builder, "rope_scaling"));
    ZM_TRY(zm_config_object(&parameters, builder, "rope_parameters"));
    bool is_nested = parameters.value && !zm_json_get(builder->config, "rope_theta");
    if (parameters.value && json_object_size(parameters.value) && !rope->scaling.value)
        rope->scaling = parameters;
    return zm_config_positive(&rope->base, is_nested ? parameters : builder->config, "rope_theta", NAN,
                              builder->error);
}

static zmlx_status read_common(qwen3_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_model_plan *model = &config->model;
    *config = (qwen3_config){.model = {.norm = "norm",
                                       .operator_norm = "input_layernorm",
                                       .feed_forward_norm = "post_attention_layernorm"}};
    ZM_TRY(zm_config_int(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS));
    ZM_TRY(zm_config_int(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", NAN));
    ZM_TRY(zm_json_bool(&model->is_tied, json, "tie_word_embeddings", builder->error));
    config->mlp = (zm_gated_plan){"mlp", "gate_proj", "up_proj", "down_proj", model->hidden_size, 0, 0, false,
                                  ZM_ACTIVATION_SWIGLU};
    return read_attention(config, builder);
}

static zmlx_status read_moe(qwen3_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_moe_plan *moe = &config->moe;
    int64_t n_experts;
    bool has_dense = true;
    ZM_TRY(zm_config_positive(&config->attention.rope.base, json, "rope_theta", NAN, builder->error));
    *moe = (zm_moe_plan){.name = "mlp",
                         .router = "gate",
                         .experts = config->mlp,
                         .gating = ZM_GATING_SOFTMAX_THEN_TOP_K,
                         .routed_scaling_factor = 1};
    moe->experts.name = "switch_mlp";
    ZM_TRY(zm_json_int(&n_experts, json, "num_experts", 0, ZM_MAX_EXPERTS, builder->error));
    moe->experts.n_experts = (int)n_experts;
    if (n_experts) {
        ZM_TRY(zm_config_int(&moe->top_k, builder, "num_experts_per_tok", moe->experts.n_experts));
        ZM_TRY(zm_config_int(&moe->experts.intermediate_size, builder, "moe_intermediate_size", ZM_MAX_SIZE));
        ZM_TRY(zm_json_bool(&moe->normalize_top_k, json, "norm_topk_prob", builder->error));
        ZM_TRY(zm_config_moe_layers(&config->is_moe, &has_dense, builder, config->model.n_layers));
    }
    return zm_config_dense_size(&config->mlp.intermediate_size, builder, has_dense, 0);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const qwen3_config *config = context;
    ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    if (config->is_moe && config->is_moe[layer])
        return zm_build_moe(&block->feed_forward, builder, &block->base, &config->moe);
    return zm_build_gated_mlp(&block->feed_forward, builder, &block->base, &config->mlp);
}

static zmlx_status build(zm_causal_lm **root, zm_builder *builder, qwen3_config *config) {
    if (config->model.is_tied) zm_checkpoint_remove(builder->checkpoint, "lm_head.weight");
    config->model.build_block = build_block;
    config->model.config = config;
    return zm_build_model(root, builder, &config->model);
}

static zmlx_status read_qwen3(qwen3_config *config, const zm_builder *builder) {
    ZM_TRY(read_common(config, builder));
    ZM_TRY(zm_config_dense_size(&config->mlp.intermediate_size, builder, true, 0));
    return read_nested_rope(config, builder);
}

static zmlx_status read_qwen3_moe(qwen3_config *config, const zm_builder *builder) {
    ZM_TRY(read_common(config, builder));
    return read_moe(config, builder);
}

zmlx_status zm_check_qwen3(const zm_builder *builder) {
    qwen3_config config;
    ZM_TRY(read_qwen3(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_check_qwen3_moe(const zm_builder *builder) {
    qwen3_config config;
    ZM_TRY(read_qwen3_moe(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_qwen3(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                           zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    qwen3_config config;
    *root = NULL;
    ZM_TRY(read_qwen3(&config, &builder));
    return build(root, &builder, &config);
}

zmlx_status zm_build_qwen3_moe(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                               zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    qwen3_config config;
    *root = NULL;
    ZM_TRY(read_qwen3_moe(&config, &builder));
    if (config.is_moe)
        ZM_TRY(zm_build_stack_layers(&builder, "mlp", config.model.n_layers, config.moe.experts.n_experts));
    return build(root, &builder, &config);
}
