/* SPDX-License-Identifier: MIT */
/* gpt_oss: sliding and full attention with sinks and biases; experts with biases in every block. Fields a
 * config leaves out take mlx-lm's defaults. */
#include <limits.h>
#include <string.h>

#include "model/arch/build.h"

typedef struct gpt_oss_config {
    zm_model_plan model;
    zm_attention_plan attention;
    zm_moe_plan moe;
    bool *is_sliding; /* a layer */
    int sliding_window;
} gpt_oss_config;

/* Sliding and full attention in turn, unless layer_types says otherwise. */
static zmlx_status read_layer_types(gpt_oss_config *config, const zm_builder *builder) {
    int n_layers = config->model.n_layers, n_sliding = 0;
    ZM_TRY(zm_config_layer_types(&config->is_sliding, builder, n_layers, "sliding_attention",
                                 "full_attention"));
    if (!config->is_sliding) {
        if (n_layers % 2)
            return zm_config_fail(builder, "layer_types", "missing, for an odd number of layers");
        config->is_sliding = zm_arena_alloc(builder->arena, (size_t)n_layers, sizeof(bool));
        if (!config->is_sliding) return zm_fail_memory(builder->error);
        for (int i = 0; i < n_layers; i += 2) config->is_sliding[i] = true;
    }
    for (int i = 0; i < n_layers; i++) n_sliding += config->is_sliding[i];
    if (n_sliding == 0 || n_sliding == n_layers)
        return zm_config_fail(builder, "layer_types", "needs both sliding_attention and full_attention");
    return zm_config_int_or(&config->sliding_window, builder, "sliding_window", ZM_MAX_SIZE, 128);
}

static zmlx_status read_attention(gpt_oss_config *config, const zm_builder *builder) {
    zm_attention_plan *plan = &config->attention;
    *plan = (zm_attention_plan){.name = "self_attn",
                                .hidden_size = config->model.hidden_size,
                                .o_proj = "o_proj",
                                .has_bias = true,
                                .has_output_bias = true,
                                .has_sinks = true};
    zm_heads defaults = {64, 8, 64};
    ZM_TRY(zm_config_heads(&plan->heads, builder, config->model.hidden_size, defaults, true));
    ZM_TRY(zm_config_positive(&plan->rope.base, builder->config, "rope_theta", 150000, builder->error));
    return zm_config_object(&plan->rope.scaling, builder, "rope_scaling");
}

static zmlx_status read_config(gpt_oss_config *config, const zm_builder *builder) {
    zm_model_plan *model = &config->model;
    zm_moe_plan *moe = &config->moe;
    *config = (gpt_oss_config){.model = {.norm = "norm",
                                         .operator_norm = "input_layernorm",
                                         .feed_forward_norm = "post_attention_layernorm"}};
    ZM_TRY(zm_config_int_or(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE, 2880));
    ZM_TRY(zm_config_int_or(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS, 36));
    ZM_TRY(zm_config_int_or(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE, 201088));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", 1e-5));
    *moe = (zm_moe_plan){.name = "mlp",
                         .router = "router",
                         .experts = {"experts", "gate_proj", "up_proj", "down_proj", model->hidden_size, 0, 0,
                                     true, ZM_ACTIVATION_SWIGLU_OAI},
                         .gating = ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH,
                         .has_router_bias = true,
                         .routed_scaling_factor = 1};
    zm_gated_plan *experts = &moe->experts;
    ZM_TRY(zm_config_int_or(&experts->intermediate_size, builder, "intermediate_size", ZM_MAX_SIZE, 2880));
    ZM_TRY(zm_config_int_or(&experts->n_experts, builder, "num_local_experts", ZM_MAX_EXPERTS, 128));
    ZM_TRY(zm_config_int_or(&moe->top_k, builder, "num_experts_per_tok", experts->n_experts, 4));
    if (moe->top_k > experts->n_experts)
        return zm_config_fail(builder, "num_local_experts", "fewer than the 4 experts of a token");
    ZM_TRY(read_attention(config, builder));
    return read_layer_types(config, builder);
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const gpt_oss_config *config = context;
    if (config->is_sliding[layer]) block->sliding_window = config->sliding_window;
    ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    return zm_build_moe(&block->feed_forward, builder, &block->base, &config->moe);
}

/* How one stored tensor of the experts becomes one or two of the module tree. */
typedef struct rewrite {
    const char *source;
    const char *even, *odd; /* targets: even and odd elements along axis; odd NULL: everything to even */
    int axis;
    bool is_blocks; /* uint8 (..., groups, 16): read as uint32, last two axes joined */
} rewrite;

static mlx_array every_other(zm_scope *scope, mlx_array a, int axis, int start) {
    return zm_contiguous(scope, zm_slice_axis(scope, a, axis, start, INT_MAX, 2));
}

static zmlx_status put(zm_builder *builder, const char *module, const char *target, mlx_array array) {
    const char *name = zm_arena_printf(builder->arena, "%s.%s", module, target);
    if (name) return zm_checkpoint_put(builder->checkpoint, name, array, builder->error);
    mlx_array_free(array);
    return zm_fail_memory(builder->error);
}

static zmlx_status apply_rewrite(zm_builder *builder, const char *module, const rewrite *rule) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    const char *source = zm_arena_printf(builder->arena, "%s.%s", module, rule->source);
    if (!source) return zm_fail_memory(builder->error);
    mlx_array stored = zm_checkpoint_get(checkpoint, source), even = {0}, odd = {0};
    if (!zm_is_set(stored)) return ZMLX_OK;
    size_t n_dims = mlx_array_ndim(stored);
    if (n_dims < 2 || (rule->is_blocks && (n_dims < 3 || mlx_array_dtype(stored) != MLX_UINT8)))
        return zm_fail(builder->error, ZMLX_ERROR_FORMAT, source, "unexpected shape or type");
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    if (rule->is_blocks) stored = zm_flatten(&scope, zm_view_as(&scope, stored, MLX_UINT32), -2, -1);
    if (rule->odd) {
        zm_scope_keep(&scope, &odd, every_other(&scope, stored, rule->axis, 1));
        stored = every_other(&scope, stored, rule->axis, 0);
    }
    zm_scope_keep(&scope, &even, stored);
    zmlx_status status = zm_scope_end(&scope, builder->error);
    zm_checkpoint_remove(checkpoint, source);
    if (status == ZMLX_OK) {
        status = put(builder, module, rule->even, even);
        even = (mlx_array){0};
    }
    if (status == ZMLX_OK && rule->odd) {
        status = put(builder, module, rule->odd, odd);
        odd = (mlx_array){0};
    }
    mlx_array_free(even);
    mlx_array_free(odd);
    return status;
}

/* The published checkpoints interleave the rows of gate and up. */
static zmlx_status sanitize(zm_builder *builder, int n_layers) {
    static const rewrite rules[] = {
        {"gate_up_proj_blocks", "gate_proj.weight", "up_proj.weight", -2, true},
        {"gate_up_proj_scales", "gate_proj.scales", "up_proj.scales", -2, false},
        {"gate_up_proj.weight", "gate_proj.weight", "up_proj.weight", -2, false},
        {"gate_up_proj.scales", "gate_proj.scales", "up_proj.scales", -2, false},
        {"gate_up_proj_bias", "gate_proj.bias", "up_proj.bias", -1, false},
        {"down_proj_blocks", "down_proj.weight", NULL, 0, true},
        {"down_proj_scales", "down_proj.scales", NULL, 0, false},
        {"down_proj_bias", "down_proj.bias", NULL, 0, false},
    };
    for (size_t i = 0; i < zm_checkpoint_count(builder->checkpoint); i++)
        if (strstr(zm_checkpoint_name(builder->checkpoint, i), "gate_proj.weight")) return ZMLX_OK;
    for (int layer = 0; layer < n_layers; layer++) {
        const char *module = zm_arena_printf(builder->arena, "model.layers.%d.mlp.experts", layer);
        if (!module) return zm_fail_memory(builder->error);
        for (size_t r = 0; r < sizeof rules / sizeof rules[0]; r++)
            ZM_TRY(apply_rewrite(builder, module, &rules[r]));
    }
    return ZMLX_OK;
}

zmlx_status zm_check_gpt_oss(const zm_builder *builder) {
    gpt_oss_config config;
    ZM_TRY(read_config(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_build_gpt_oss(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena,
                             zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    gpt_oss_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder));
    ZM_TRY(sanitize(&builder, config.model.n_layers));
    config.model.build_block = build_block;
    config.model.config = &config;
    return zm_build_model(root, &builder, &config.model);
}
