/* SPDX-License-Identifier: MIT */
/* qwen3_next, and what qwen3_5 has in common with it. */
#include "model/arch/qwen3_next.h"

#include <math.h>
#include <string.h>

typedef struct size_field {
    int *value;
    const char *key;
    int maximum, fallback;
} size_field;

static zmlx_status read_sizes(const size_field *fields, size_t count, const zm_builder *builder, bool with_defaults) {
    for (size_t i = 0; i < count; i++) {
        const size_field *field = &fields[i];
        if (with_defaults)
            ZM_TRY(zm_config_int_or(field->value, builder, field->key, field->maximum, field->fallback));
        else
            ZM_TRY(zm_config_int(field->value, builder, field->key, field->maximum));
    }
    return ZMLX_OK;
}

static zmlx_status read_delta_net(zm_delta_net_plan *plan, const zm_builder *builder, bool with_defaults) {
    const size_field fields[] = {
        {&plan->n_v_heads, "linear_num_value_heads", ZM_MAX_HEADS, 64},
        {&plan->n_k_heads, "linear_num_key_heads", ZM_MAX_HEADS, 16},
        {&plan->head_k_dim, "linear_key_head_dim", ZM_MAX_SIZE, 192},
        {&plan->head_v_dim, "linear_value_head_dim", ZM_MAX_SIZE, 128},
        {&plan->taps, "linear_conv_kernel_dim", 1024, 4},
    };
    ZM_TRY(read_sizes(fields, sizeof fields / sizeof fields[0], builder, with_defaults));
    if (plan->n_v_heads % plan->n_k_heads)
        return zm_config_fail(builder, "linear_num_value_heads", "%d is no multiple of linear_num_key_heads %d",
                              plan->n_v_heads, plan->n_k_heads);
    if (plan->head_k_dim > ZM_MAX_SIZE / plan->n_k_heads)
        return zm_config_fail(builder, "linear_key_head_dim", "%d times %d heads is more than %d", plan->head_k_dim,
                              plan->n_k_heads, (int)ZM_MAX_SIZE);
    if (plan->head_v_dim > ZM_MAX_SIZE / plan->n_v_heads)
        return zm_config_fail(builder, "linear_value_head_dim", "%d times %d heads is more than %d", plan->head_v_dim,
                              plan->n_v_heads, (int)ZM_MAX_SIZE);
    if (plan->taps < 2) return zm_config_fail(builder, "linear_conv_kernel_dim", "a convolution of one tap");
    return ZMLX_OK;
}

static zmlx_status read_heads(zm_attention_plan *plan, const zm_builder *builder, bool with_defaults) {
    static const char *const required[] = {"num_attention_heads", "num_key_value_heads", "head_dim"};
    zm_heads defaults = {0};
    if (with_defaults) defaults = (zm_heads){32, 8, 0};
    for (int i = 0; !with_defaults && i < 3; i++) {
        int value;
        ZM_TRY(zm_config_int(&value, builder, required[i], ZM_MAX_SIZE));
    }
    ZM_TRY(zm_json_bool_or(&plan->has_bias, builder->config, "attention_bias", false, builder->error));
    plan->has_output_bias = plan->has_bias;
    return zm_config_heads(&plan->heads, builder, plan->hidden_size, defaults, true);
}

zmlx_status zm_qwen3_next_read(zm_qwen3_next_config *config, const zm_builder *builder, bool with_defaults) {
    zm_model_plan *model = &config->model;
    *config = (zm_qwen3_next_config){.model = {.norm = "norm",
                                               .operator_norm = "input_layernorm",
                                               .feed_forward_norm = "post_attention_layernorm"}};
    const size_field fields[] = {
        {&model->hidden_size, "hidden_size", ZM_MAX_SIZE, 4096},
        {&model->n_layers, "num_hidden_layers", ZM_MAX_LAYERS, 32},
        {&model->vocab_size, "vocab_size", ZM_MAX_SIZE, 151936},
    };
    ZM_TRY(read_sizes(fields, sizeof fields / sizeof fields[0], builder, with_defaults));
    ZM_TRY(zm_config_int_or(&config->full_attention_interval, builder, "full_attention_interval", ZM_MAX_LAYERS, 4));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", with_defaults ? 1e-6 : NAN));
    ZM_TRY(zm_json_bool_or(&model->is_tied, builder->config, "tie_word_embeddings", false, builder->error));
    int positions;
    ZM_TRY(zm_config_positions(&positions, builder, with_defaults ? 131072 : 0));
    config->attention = (zm_attention_plan){.name = "self_attn",
                                            .hidden_size = model->hidden_size,
                                            .norm_eps = model->norm_eps,
                                            .o_proj = "o_proj",
                                            .q_norm = "q_norm",
                                            .k_norm = "k_norm",
                                            .has_output_gate = true,
                                            .rope = {.max_position_embeddings = positions}};
    config->delta_net = (zm_delta_net_plan){
        .name = "linear_attn", .hidden_size = model->hidden_size, .norm_eps = model->norm_eps};
    config->mlp = (zm_gated_plan){"mlp", "gate_proj", "up_proj", "down_proj", model->hidden_size, 0, 0, false,
                                  ZM_ACTIVATION_SWIGLU};
    ZM_TRY(read_delta_net(&config->delta_net, builder, with_defaults));
    return read_heads(&config->attention, builder, with_defaults);
}

zmlx_status zm_qwen3_next_read_moe(zm_qwen3_next_config *config, const zm_builder *builder, int n_experts,
                                   bool normalize_by_default) {
    zm_moe_plan *moe = &config->moe;
    *moe = (zm_moe_plan){.name = "mlp",
                         .router = "gate",
                         .experts = config->mlp,
                         .shared = config->mlp,
                         .shared_router = "shared_expert_gate",
                         .gating = ZM_GATING_SOFTMAX_THEN_TOP_K,
                         .routed_scaling_factor = 1};
    moe->experts.name = "switch_mlp";
    moe->experts.n_experts = n_experts;
    moe->shared.name = "shared_expert";
    ZM_TRY(zm_config_int(&moe->top_k, builder, "num_experts_per_tok", n_experts));
    ZM_TRY(zm_config_int(&moe->experts.intermediate_size, builder, "moe_intermediate_size", ZM_MAX_SIZE));
    ZM_TRY(zm_config_int(&moe->shared.intermediate_size, builder, "shared_expert_intermediate_size", ZM_MAX_SIZE));
    return zm_json_bool_or(&moe->normalize_top_k, builder->config, "norm_topk_prob", normalize_by_default,
                           builder->error);
}

zmlx_status zm_qwen3_next_rotate(zm_qwen3_next_config *config, const zm_builder *builder, zm_json_object object,
                                 double fallback) {
    static const char key[] = "partial_rotary_factor";
    int head_dim = config->attention.heads.head_dim;
    double factor;
    ZM_TRY(zm_config_positive(&factor, object, key, fallback, builder->error));
    config->attention.rope_dims = factor <= 1 ? (int)(head_dim * factor) : 0;
    if (config->attention.rope_dims >= 2 && config->attention.rope_dims % 2 == 0) return ZMLX_OK;
    zm_builder at = *builder;
    at.config = object;
    return zm_config_fail(&at, key, "%g of %d features are no even number of them", factor, head_dim);
}

static bool ends_with(const char *name, const char *ending) {
    size_t size = strlen(name), tail = strlen(ending);
    return size >= tail && !strcmp(name + size - tail, ending);
}

static bool is_shifted_norm(const char *name) {
    static const char *const endings[] = {".input_layernorm.weight", ".post_attention_layernorm.weight",
                                          "model.norm.weight", ".q_norm.weight", ".k_norm.weight"};
    for (size_t i = 0; i < sizeof endings / sizeof endings[0]; i++)
        if (ends_with(name, endings[i])) return true;
    return false;
}

zmlx_status zm_qwen3_next_sanitize(zm_builder *builder) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        mlx_array stored = zm_checkpoint_get(checkpoint, name), changed = {0};
        bool is_conv = strstr(name, "conv1d.weight") && mlx_array_ndim(stored) == 3 && zm_dim(stored, -1) != 1;
        bool is_norm = is_shifted_norm(name) && mlx_array_ndim(stored) == 1;
        if (!is_conv && !is_norm) continue;
        zm_scope scope;
        zm_scope_begin(&scope, builder->stream);
        /* In the stored type. */
        if (is_norm) changed = zm_add(&scope, stored, zm_scalar_like(&scope, 1, stored));
        else changed = zm_contiguous(&scope, zm_swapaxes(&scope, stored, 1, 2));
        mlx_array kept = {0};
        zm_scope_keep(&scope, &kept, changed);
        ZM_TRY(zm_scope_end(&scope, builder->error));
        ZM_TRY(zm_checkpoint_put(checkpoint, name, kept, builder->error));
    }
    return ZMLX_OK;
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const zm_qwen3_next_config *config = context;
    if ((layer + 1) % config->full_attention_interval)
        ZM_TRY(zm_build_delta_net(&block->operator, builder, &block->base, &config->delta_net));
    else
        ZM_TRY(zm_build_attention(&block->operator, builder, &block->base, &config->attention));
    if (config->is_moe && config->is_moe[layer])
        return zm_build_moe(&block->feed_forward, builder, &block->base, &config->moe);
    return zm_build_gated_mlp(&block->feed_forward, builder, &block->base, &config->mlp);
}

zmlx_status zm_qwen3_next_build(zm_causal_lm **root, zm_builder *builder, zm_qwen3_next_config *config) {
    config->model.build_block = build_block;
    config->model.config = config;
    return zm_build_model(root, builder, &config->model);
}

static zmlx_status read_qwen3_next(zm_qwen3_next_config *config, const zm_builder *builder) {
    zm_json_object json = builder->config;
    int64_t n_experts;
    bool has_dense = true;
    ZM_TRY(zm_qwen3_next_read(config, builder, false));
    config->delta_net.is_interleaved = true;
    ZM_TRY(zm_config_positive(&config->attention.rope.base, json, "rope_theta", NAN, builder->error));
    ZM_TRY(zm_config_object(&config->attention.rope.scaling, builder, "rope_scaling"));
    ZM_TRY(zm_qwen3_next_rotate(config, builder, json, NAN));
    ZM_TRY(zm_json_int(&n_experts, json, "num_experts", 0, ZM_MAX_EXPERTS, builder->error));
    if (n_experts) {
        ZM_TRY(zm_config_moe_layers(&config->is_moe, &has_dense, builder, config->model.n_layers));
        ZM_TRY(zm_qwen3_next_read_moe(config, builder, (int)n_experts, false));
    }
    return zm_config_dense_size(&config->mlp.intermediate_size, builder, has_dense, 0);
}

zmlx_status zm_check_qwen3_next(const zm_builder *builder) {
    zm_qwen3_next_config config;
    ZM_TRY(read_qwen3_next(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

/* Published checkpoints have a tensor an expert; converted ones are left as they are. */
static bool is_published(const zm_checkpoint *checkpoint) {
    static const char beginning[] = "model.layers.", ending[] = ".mlp.experts.0.up_proj.weight";
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (!strncmp(name, beginning, strlen(beginning)) && ends_with(name, ending)) return true;
    }
    return false;
}

zmlx_status zm_build_qwen3_next(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    zm_qwen3_next_config config;
    *root = NULL;
    ZM_TRY(read_qwen3_next(&config, &builder));
    if (config.model.is_tied) zm_checkpoint_remove(checkpoint, "lm_head.weight");
    if (config.is_moe && is_published(checkpoint)) {
        for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) { /* what looks further on than a token */
            const char *name = zm_checkpoint_name(checkpoint, i);
            if (strstr(name, "mtp.")) zm_checkpoint_remove(checkpoint, name);
        }
        ZM_TRY(zm_build_stack_layers(&builder, "mlp", config.model.n_layers, config.moe.experts.n_experts));
        ZM_TRY(zm_qwen3_next_sanitize(&builder));
    }
    return zm_qwen3_next_build(root, &builder, &config);
}
