/* SPDX-License-Identifier: MIT */
/* deepseek_v3 (also kimi_k2 and joyai_llm_flash) and glm4_moe_lite: latent attention and grouped mixtures of experts.
 * Fields a config leaves out take mlx-lm's defaults. */
#include <math.h>
#include <string.h>

#include "model/arch/grouped_moe.h"
#include "model/arch/latent_weights.h"

typedef struct latent_config {
    zm_model_plan model;
    zm_latent_attention_plan attention;
    zm_grouped_moe mixture;
} latent_config;

typedef struct defaults {
    int hidden_size, n_layers, vocab_size, intermediate_size, n_heads, max_position_embeddings;
    int q_lora_rank, kv_lora_rank, qk_nope_head_dim, qk_rope_head_dim, v_head_dim;
    double rms_norm_eps, rope_theta;
    double latent_norm_eps; /* 0: rms_norm_eps */
    zm_grouped_moe_defaults mixture;
} defaults;

static const defaults deepseek_v3 = {
    .hidden_size = 4096,
    .n_layers = 30,
    .vocab_size = 102400,
    .intermediate_size = 11008,
    .n_heads = 32,
    .max_position_embeddings = 2048,
    .q_lora_rank = 1536,
    .kv_lora_rank = 512,
    .qk_nope_head_dim = 128,
    .qk_rope_head_dim = 64,
    .v_head_dim = 128,
    .rms_norm_eps = 1e-6,
    .rope_theta = 10000,
    .latent_norm_eps = 1e-6,
    .mixture = {0, 0, 1407, 1, 1, 1, 0, 1, false},
};

static const defaults glm4_moe_lite = {
    .hidden_size = 2048,
    .n_layers = 47,
    .vocab_size = 154880,
    .intermediate_size = 10240,
    .n_heads = 20,
    .max_position_embeddings = 202752,
    .q_lora_rank = 768,
    .kv_lora_rank = 512,
    .qk_nope_head_dim = 192,
    .qk_rope_head_dim = 64,
    .v_head_dim = 256,
    .rms_norm_eps = 1e-5,
    .rope_theta = 1e6,
    .mixture = {64, 1, 1536, 4, 1, 1, 1, 1.8, false},
};

static zmlx_status check_heads(const zm_latent_attention_plan *plan, const zm_builder *builder) {
    int64_t widest = (int64_t)plan->qk_nope_head_dim + plan->qk_rope_head_dim;
    if (widest < (int64_t)plan->qk_nope_head_dim + plan->v_head_dim)
        widest = (int64_t)plan->qk_nope_head_dim + plan->v_head_dim;
    if (plan->qk_rope_head_dim % 2)
        return zm_config_fail(builder, "qk_rope_head_dim", "%d is odd; rotary embeddings need pairs",
                              plan->qk_rope_head_dim);
    if (widest > ZM_MAX_SIZE / plan->n_heads)
        return zm_config_fail(builder, "num_attention_heads", "%d heads of %lld features are more than %d",
                              plan->n_heads, (long long)widest, (int)ZM_MAX_SIZE);
    return ZMLX_OK;
}

/* The scores' scale; with mscale_all_dim it grows with the factor by which positions are stretched. */
static zmlx_status read_scale(zm_latent_attention_plan *plan, const zm_builder *builder) {
    zm_json_object scaling = plan->rope.scaling;
    double mscale = 0, factor;
    plan->scale = pow(plan->qk_nope_head_dim + plan->qk_rope_head_dim, -0.5);
    if (!scaling.value) return ZMLX_OK;
    ZM_TRY(zm_json_number_or(&mscale, scaling, "mscale_all_dim", 0, builder->error));
    if (mscale == 0) return ZMLX_OK;
    ZM_TRY(zm_config_positive(&factor, scaling, "factor", NAN, builder->error));
    double growth = factor > 1 ? 0.1 * mscale * log(factor) + 1 : 1;
    plan->scale = plan->scale * growth * growth;
    if (isfinite((float)plan->scale)) return ZMLX_OK;
    return zm_fail(builder->error, ZMLX_ERROR_FORMAT, scaling.file, "mscale_all_dim gives no finite scale");
}

static zmlx_status read_attention(latent_config *config, const zm_builder *builder, const defaults *missing) {
    zm_json_object json = builder->config;
    zm_latent_attention_plan *plan = &config->attention;
    double norm_eps = missing->latent_norm_eps;
    *plan = (zm_latent_attention_plan){.hidden_size = config->model.hidden_size,
                                       .norm_eps = norm_eps > 0 ? norm_eps : config->model.norm_eps,
                                       .rope = {.traditional = true}};
    ZM_TRY(zm_config_int_or(&plan->n_heads, builder, "num_attention_heads", ZM_MAX_HEADS, missing->n_heads));
    /* null: no latent, which is not the same as leaving it out. */
    if (!json_is_null(json_object_get(json.value, "q_lora_rank")))
        ZM_TRY(zm_config_int_or(&plan->q_lora_rank, builder, "q_lora_rank", ZM_MAX_SIZE, missing->q_lora_rank));
    ZM_TRY(zm_config_int_or(&plan->kv_lora_rank, builder, "kv_lora_rank", ZM_MAX_SIZE, missing->kv_lora_rank));
    ZM_TRY(
        zm_config_int_or(&plan->qk_nope_head_dim, builder, "qk_nope_head_dim", ZM_MAX_SIZE, missing->qk_nope_head_dim));
    ZM_TRY(
        zm_config_int_or(&plan->qk_rope_head_dim, builder, "qk_rope_head_dim", ZM_MAX_SIZE, missing->qk_rope_head_dim));
    ZM_TRY(zm_config_int_or(&plan->v_head_dim, builder, "v_head_dim", ZM_MAX_SIZE, missing->v_head_dim));
    ZM_TRY(check_heads(plan, builder));
    ZM_TRY(zm_json_bool_or(&plan->has_bias, json, "attention_bias", false, builder->error));
    ZM_TRY(zm_config_positive(&plan->rope.base, json, "rope_theta", missing->rope_theta, builder->error));
    ZM_TRY(zm_config_positions(&plan->rope.max_position_embeddings, builder, missing->max_position_embeddings));
    ZM_TRY(zm_config_object(&plan->rope.scaling, builder, "rope_scaling"));
    return read_scale(plan, builder);
}

static zmlx_status read_config(latent_config *config, const zm_builder *builder, const defaults *missing) {
    zm_model_plan *model = &config->model;
    *config = (latent_config){
        .model = {.norm = "norm", .operator_norm = "input_layernorm", .feed_forward_norm = "post_attention_layernorm"}};
    ZM_TRY(zm_config_int_or(&model->hidden_size, builder, "hidden_size", ZM_MAX_SIZE, missing->hidden_size));
    ZM_TRY(zm_config_int_or(&model->n_layers, builder, "num_hidden_layers", ZM_MAX_LAYERS, missing->n_layers));
    ZM_TRY(zm_config_int_or(&model->vocab_size, builder, "vocab_size", ZM_MAX_SIZE, missing->vocab_size));
    ZM_TRY(zm_config_epsilon(&model->norm_eps, builder, "rms_norm_eps", missing->rms_norm_eps));
    ZM_TRY(zm_config_grouped_moe(&config->mixture, builder, model->hidden_size, &missing->mixture, true));
    if (missing == &glm4_moe_lite) config->mixture.moe.normalize_epsilon = 1e-20;
    ZM_TRY(zm_config_dense_size(&config->mixture.mlp.intermediate_size, builder,
                                zm_grouped_moe_has_dense(&config->mixture), missing->intermediate_size));
    return read_attention(config, builder, missing);
}

static zmlx_status check(const zm_builder *builder, const defaults *missing) {
    latent_config config;
    zm_rope_parameters rope;
    ZM_TRY(read_config(&config, builder, missing));
    zmlx_status status = zm_rope_init(&rope, builder, config.attention.qk_rope_head_dim, &config.attention.rope);
    mlx_array_free(rope.freqs);
    return status;
}

static zmlx_status build_block(zm_builder *builder, zm_block *block, int layer, const void *context) {
    const latent_config *config = context;
    ZM_TRY(zm_build_latent_attention(&block->operator, builder, &block->base, &config->attention));
    return zm_build_grouped_moe(&block->feed_forward, builder, &block->base, layer, &config->mixture);
}

static zmlx_status build(zm_causal_lm **root, zm_builder *builder, latent_config *config) {
    int n_layers = config->model.n_layers;
    ZM_TRY(zm_rewrite_grouped_moe(builder, n_layers, &config->mixture));
    ZM_TRY(zm_rewrite_kv_b_proj(builder, n_layers, &config->attention));
    config->model.build_block = build_block;
    config->model.config = config;
    return zm_build_model(root, builder, &config->model);
}

zmlx_status zm_check_deepseek_v3(const zm_builder *builder) { return check(builder, &deepseek_v3); }
zmlx_status zm_check_glm4_moe_lite(const zm_builder *builder) { return check(builder, &glm4_moe_lite); }

static void drop_frequencies(zm_checkpoint *checkpoint) {
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (strstr(name, "rotary_emb.inv_freq")) zm_checkpoint_remove(checkpoint, name);
    }
}

zmlx_status zm_build_deepseek_v3(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    latent_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder, &deepseek_v3));
    drop_frequencies(checkpoint);
    ZM_TRY(zm_rewrite_int4_packs(&builder));
    ZM_TRY(zm_rewrite_fp8_blocks(&builder));
    return build(root, &builder, &config);
}

zmlx_status zm_build_glm4_moe_lite(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    latent_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder, &glm4_moe_lite));
    return build(root, &builder, &config);
}
