/* SPDX-License-Identifier: MIT */
/* lfm2 and lfm2_moe: attention or a short convolution, then an MLP or a mixture of experts. */
#include <math.h>

#include "model/arch/build.h"

typedef struct lfm2_config {
    int hidden_size, n_layers, vocab_size, taps;
    double norm_eps;
    bool has_conv_bias;
    bool *is_attention; /* a layer */
    zm_attention_plan attention;
    zm_gated_plan mlp;
    int n_dense_layers; /* lfm2: all */
    zm_moe_plan moe;
} lfm2_config;

/* full_attn_idxs names the attention layers; without it layer_types does. */
static zmlx_status read_attention_layers(lfm2_config *config, const zm_builder *builder) {
    json_t *indices = zm_json_get(builder->config, "full_attn_idxs");
    if (!indices) {
        ZM_TRY(zm_config_layer_types(&config->is_attention, builder, config->n_layers, "full_attention",
                                     "conv"));
        if (!config->is_attention)
            return zm_config_fail(builder, "layer_types", "missing, as is full_attn_idxs");
    } else {
        if (!json_is_array(indices))
            return zm_config_fail(builder, "full_attn_idxs", "expected an array of layer numbers");
        config->is_attention = zm_arena_alloc(builder->arena, (size_t)config->n_layers, sizeof(bool));
        if (!config->is_attention) return zm_fail_memory(builder->error);
        for (size_t i = 0; i < json_array_size(indices); i++) {
            json_t *index = json_array_get(indices, i);
            json_int_t layer = json_integer_value(index);
            if (!json_is_integer(index) || layer < 0 || layer >= config->n_layers)
                return zm_config_fail(builder, "full_attn_idxs", "entry %zu is not a layer number", i);
            config->is_attention[layer] = true;
        }
    }
    for (int i = 0; i < config->n_layers; i++)
        if (config->is_attention[i]) return ZMLX_OK;
    return zm_config_fail(builder, "layer_types", "no layer has attention");
}

static zmlx_status read_attention(lfm2_config *config, const zm_builder *builder) {
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){.name = "self_attn",
                                .hidden_size = config->hidden_size,
                                .norm_eps = config->norm_eps,
                                .o_proj = "out_proj",
                                .q_norm = "q_layernorm",
                                .k_norm = "k_layernorm"};
    ZM_TRY(zm_config_heads(&plan->heads, builder, config->hidden_size, (zm_heads){0}, false));
    zm_json_object parameters;
    ZM_TRY(zm_config_object(&parameters, builder, "rope_parameters"));
    bool is_nested = json_object_get(parameters.value, "rope_theta");
    return zm_config_positive(&plan->rope.base, is_nested ? parameters : builder->config, "rope_theta", 1000000,
                              builder->error);
}

static zmlx_status read_common(lfm2_config *config, const zm_builder *builder) {
    *config = (lfm2_config){0};
    ZM_TRY(zm_config_int(&config->hidden_size, builder, "hidden_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&config->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS));
    ZM_TRY(zm_config_int(&config->vocab_size, builder, "vocab_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&config->taps, builder, "conv_L_cache", 65536));
    ZM_TRY(zm_config_epsilon(&config->norm_eps, builder, "norm_eps", NAN));
    ZM_TRY(zm_json_bool(&config->has_conv_bias, builder->config, "conv_bias", builder->error));
    ZM_TRY(read_attention_layers(config, builder));
    return read_attention(config, builder);
}

static zmlx_status read_moe(lfm2_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    zm_gated_plan *mlp = &config->mlp;
    zm_moe_plan *moe = &config->moe;
    *mlp = (zm_gated_plan){"feed_forward", "gate_proj", "up_proj", "down_proj", config->hidden_size, 0, 0,
                           false, ZM_ACTIVATION_SWIGLU};
    *moe = (zm_moe_plan){.name = "feed_forward",
                         .router = "gate",
                         .experts = *mlp,
                         .gating = ZM_GATING_SIGMOID_BIAS,
                         .normalize_epsilon = 1e-6};
    moe->experts.name = "switch_mlp";
    int64_t n_dense;
    int required; /* here alone, of what zm_config_heads reads */
    ZM_TRY(zm_config_int(&required, builder, "num_key_value_heads", ZM_MAX_HEADS));
    ZM_TRY(zm_config_int(&moe->experts.intermediate_size, builder, "moe_intermediate_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&moe->experts.n_experts, builder, "num_experts", ZM_MAX_EXPERTS));
    ZM_TRY(zm_config_int(&moe->top_k, builder, "num_experts_per_tok", moe->experts.n_experts));
    ZM_TRY(zm_json_bool(&moe->normalize_top_k, json, "norm_topk_prob", builder->error));
    ZM_TRY(zm_json_bool(&moe->has_expert_bias, json, "use_expert_bias", builder->error));
    ZM_TRY(zm_config_number_or(&moe->routed_scaling_factor, json, "routed_scaling_factor", 1, builder->error));
    ZM_TRY(zm_json_int(&n_dense, json, "num_dense_layers", 0, ZM_MAX_LAYERS, builder->error));
    if (!(fabs(moe->routed_scaling_factor) <= 1e30))
        return zm_config_fail(builder, "routed_scaling_factor", "expected at most 1e30, got %g",
                              moe->routed_scaling_factor);
    config->n_dense_layers = (int)n_dense;
    return zm_config_dense_size(&mlp->intermediate_size, builder, n_dense > 0, 0);
}

static zmlx_status read_dense(lfm2_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    int block_dim, multiple, size;
    bool adjusts;
    double multiplier = 1; /* null, too */
    const char *size_key = zm_json_get(json, "block_ff_dim") ? "block_ff_dim" : "intermediate_size";
    ZM_TRY(zm_config_int(&block_dim, builder, "block_dim", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&multiple, builder, "block_multiple_of", ZM_MAX_SIZE));
    if (zm_json_get(json, "block_ffn_dim_multiplier"))
        ZM_TRY(zm_config_positive(&multiplier, json, "block_ffn_dim_multiplier", NAN, builder->error));
    ZM_TRY(zm_json_bool(&adjusts, json, "block_auto_adjust_ff_dim", builder->error));
    ZM_TRY(zm_config_int(&size, builder, size_key, ZM_MAX_SIZE));
    if (block_dim != config->hidden_size)
        return zm_config_fail(builder, "block_dim", "%d differs from hidden_size %d", block_dim,
                              config->hidden_size);
    if (adjusts) {
        double adjusted = floor(multiplier * floor(2.0 * size / 3));
        adjusted = multiple * ceil(adjusted / multiple);
        if (adjusted < 1 || adjusted > ZM_MAX_SIZE)
            return zm_config_fail(builder, "block_ffn_dim_multiplier", "gives a width of %g", adjusted);
        size = (int)adjusted;
    }
    config->mlp = (zm_gated_plan){"feed_forward", "w1", "w3", "w2", block_dim, size, 0, false,
                                  ZM_ACTIVATION_SWIGLU};
    config->n_dense_layers = config->n_layers;
    return ZMLX_OK;
}

/* A convolution's weight stored as (channels, 1, taps) becomes (channels, taps, 1). */
static zmlx_status sanitize_conv(zm_builder *builder, int layer) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    const char *name = zm_arena_printf(builder->arena, "model.layers.%d.conv.conv.weight", layer);
    if (!name) return zm_fail_memory(builder->error);
    mlx_array stored = zm_checkpoint_get(checkpoint, name), swapped = {0};
    if (!zm_is_set(stored) || mlx_array_ndim(stored) != 3 || zm_dim(stored, -1) <= zm_dim(stored, 1))
        return ZMLX_OK;
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    zm_scope_keep(&scope, &swapped, zm_contiguous(&scope, zm_swapaxes(&scope, stored, 1, 2)));
    ZM_TRY(zm_scope_end(&scope, builder->error));
    return zm_checkpoint_put(checkpoint, name, swapped, builder->error);
}

static zmlx_status sanitize_moe(zm_builder *builder, const lfm2_config *config) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    ZM_TRY(zm_checkpoint_rename(checkpoint, "w1.weight", "gate_proj.weight", builder->error));
    ZM_TRY(zm_checkpoint_rename(checkpoint, "w2.weight", "down_proj.weight", builder->error));
    ZM_TRY(zm_checkpoint_rename(checkpoint, "w3.weight", "up_proj.weight", builder->error));
    return zm_build_stack_layers(builder, "feed_forward", config->n_layers, config->moe.experts.n_experts);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const lfm2_config *config = context;
    if (config->is_attention[layer])
        ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    else
        ZM_TRY(zm_build_short_conv(&block->operator, builder, &block->base, config->hidden_size, config->taps,
                                   config->has_conv_bias));
    if (layer < config->n_dense_layers)
        return zm_build_gated_mlp(&block->feed_forward, builder, &block->base, &config->mlp);
    return zm_build_moe(&block->feed_forward, builder, &block->base, &config->moe);
}

static zmlx_status build(zm_causal_lm **root, zm_builder *builder, const lfm2_config *config) {
    for (int i = 0; i < config->n_layers; i++)
        if (!config->is_attention[i]) ZM_TRY(sanitize_conv(builder, i));
    zm_model_plan plan = {.n_layers = config->n_layers,
                          .hidden_size = config->hidden_size,
                          .vocab_size = config->vocab_size,
                          .norm_eps = config->norm_eps,
                          .norm = "embedding_norm",
                          .operator_norm = "operator_norm",
                          .feed_forward_norm = "ffn_norm",
                          .is_tied = true,
                          .build_block = build_block,
                          .config = config};
    return zm_build_model(root, builder, &plan);
}

static zmlx_status read_lfm2_moe(lfm2_config *config, const zm_builder *builder) {
    ZM_TRY(read_common(config, builder));
    return read_moe(config, builder);
}

static zmlx_status read_lfm2(lfm2_config *config, const zm_builder *builder) {
    ZM_TRY(read_common(config, builder));
    return read_dense(config, builder);
}

zmlx_status zm_check_lfm2_moe(const zm_builder *builder) {
    lfm2_config config;
    ZM_TRY(read_lfm2_moe(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_check_lfm2(const zm_builder *builder) {
    lfm2_config config;
    ZM_TRY(read_lfm2(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_lfm2_moe(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                              zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    lfm2_config config;
    *root = NULL;
    ZM_TRY(read_lfm2_moe(&config, &builder));
    ZM_TRY(sanitize_moe(&builder, &config));
    return build(root, &builder, &config);
}

zmlx_status zm_build_lfm2(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                          zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    lfm2_config config;
    *root = NULL;
    ZM_TRY(read_lfm2(&config, &builder));
    return build(root, &builder, &config);
}
