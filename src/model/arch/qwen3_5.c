/* SPDX-License-Identifier: MIT */
/* qwen3_5 and qwen3_5_moe: qwen3_next with four projections into a delta net and names below "language_model"; what
 * sees images is left out. The config may be that of both, with the language model's in text_config. */
#include <string.h>

#include "base/text.h"
#include "model/arch/qwen3_next.h"

enum { DEFAULT_ROPE_THETA = 100000 };
static const double default_rotated = 0.25;

static zmlx_status text_builder(zm_builder *text, const zm_builder *builder) {
    zm_json_object nested;
    *text = *builder;
    if (json_is_null(json_object_get(builder->config.value, "text_config")))
        return zm_config_fail(builder, "text_config", "expected an object, got null");
    ZM_TRY(zm_config_object(&nested, builder, "text_config"));
    if (nested.value) text->config = nested;
    return ZMLX_OK;
}

/* From rope_parameters, or where that is null or empty from the fields beside it. */
static zmlx_status read_rotation(zm_qwen3_next_config *config, const zm_builder *builder) {
    zm_rope_config *rope = &config->attention.rope;
    zm_json_object source;
    ZM_TRY(zm_config_object(&source, builder, "rope_parameters"));
    if (!source.value) source.file = builder->config.file;
    if (source.value && json_object_size(source.value)) {
        /* A null rope_type is none, here alone. */
        if (json_object_get(source.value, "type") || !json_is_null(json_object_get(source.value, "rope_type")))
            rope->scaling = source;
    } else if (json_object_get(builder->config.value, "rope_parameters")) {
        source = builder->config;
        ZM_TRY(zm_config_object(&rope->scaling, builder, "rope_scaling"));
    }
    ZM_TRY(zm_config_positive(&rope->base, source, "rope_theta", DEFAULT_ROPE_THETA, builder->error));
    return zm_qwen3_next_rotate(config, builder, source, default_rotated);
}

static zmlx_status read_config(zm_qwen3_next_config *config, const zm_builder *builder) {
    zm_builder text;
    int64_t n_experts = 0;
    ZM_TRY(text_builder(&text, builder));
    ZM_TRY(zm_qwen3_next_read(config, &text, true));
    config->model.prefix = "language_model";
    ZM_TRY(read_rotation(config, &text));
    if (json_object_get(text.config.value, "num_experts"))
        ZM_TRY(zm_json_int(&n_experts, text.config, "num_experts", 0, ZM_MAX_EXPERTS, builder->error));
    ZM_TRY(zm_config_dense_size(&config->mlp.intermediate_size, &text, !n_experts, 14336));
    if (!n_experts) return ZMLX_OK;
    size_t n_layers = (size_t)config->model.n_layers;
    config->is_moe = zm_arena_alloc(builder->arena, n_layers, sizeof *config->is_moe);
    if (!config->is_moe) return zm_fail_memory(builder->error);
    for (size_t i = 0; i < n_layers; i++) config->is_moe[i] = true;
    return zm_qwen3_next_read_moe(config, &text, (int)n_experts, true);
}

/* Published names become those of the tree; what sees images, and what looks further on than a token, goes. */
static zmlx_status rename_tensors(zm_builder *builder) {
    static const char published[] = "model.language_model";
    zm_checkpoint *checkpoint = builder->checkpoint;
    size_t count = zm_checkpoint_count(checkpoint); /* renamed ones come behind */
    for (size_t i = 0; i < count; i++) {
        const char *name = zm_checkpoint_name(checkpoint, i), *new_name = name;
        if (!*name) continue;
        if (zm_starts_with(name, "vision_tower") || zm_starts_with(name, "model.visual") || strstr(name, "mtp.")) {
            zm_checkpoint_remove(checkpoint, name);
            continue;
        }
        if (zm_starts_with(name, published))
            new_name = zm_arena_printf(builder->arena, "language_model.model%s", name + strlen(published));
        else if (!zm_starts_with(name, "language_model."))
            new_name = zm_arena_printf(builder->arena, "language_model.%s", name);
        if (!new_name) return zm_fail_memory(builder->error);
        ZM_TRY(zm_checkpoint_move(checkpoint, name, new_name, builder->error));
    }
    return ZMLX_OK;
}

/* Half of the rows of all experts, [0, rows / 2) or the rest, as "<module>.switch_mlp.<target>". */
static zmlx_status put_half(zm_builder *builder, const char *module, const char *target, mlx_array both, bool second) {
    const char *name = zm_arena_printf(builder->arena, "%s.switch_mlp.%s", module, target);
    if (!name) return zm_fail_memory(builder->error);
    int rows = zm_dim(both, -2), middle = rows / 2;
    mlx_array half = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, builder->stream);
    mlx_array slice = zm_slice_axis(&scope, both, -2, second ? middle : 0, second ? rows : middle, 1);
    zm_scope_keep(&scope, &half, zm_contiguous(&scope, slice));
    ZM_TRY(zm_scope_end(&scope, builder->error));
    return zm_checkpoint_put(builder->checkpoint, name, half, builder->error);
}

/* Published experts stand in two tensors a layer, gate above up in one of them. */
static zmlx_status split_experts(zm_builder *builder, int layer) {
    zm_checkpoint *checkpoint = builder->checkpoint;
    const char *module = zm_arena_printf(builder->arena, "language_model.model.layers.%d.mlp", layer);
    if (!module) return zm_fail_memory(builder->error);
    const char *gate_up = zm_arena_printf(builder->arena, "%s.experts.gate_up_proj", module);
    const char *down = zm_arena_printf(builder->arena, "%s.experts.down_proj", module);
    const char *new_down = zm_arena_printf(builder->arena, "%s.switch_mlp.down_proj.weight", module);
    if (!gate_up || !down || !new_down) return zm_fail_memory(builder->error);
    mlx_array both = zm_checkpoint_get(checkpoint, gate_up);
    if (!zm_is_set(both)) return ZMLX_OK;
    if (mlx_array_ndim(both) != 3)
        return zm_fail(builder->error, ZMLX_ERROR_FORMAT, gate_up, "expected (experts, rows, columns)");
    ZM_TRY(put_half(builder, module, "gate_proj.weight", both, false));
    ZM_TRY(put_half(builder, module, "up_proj.weight", both, true));
    zm_checkpoint_remove(checkpoint, gate_up);
    return zm_checkpoint_move(checkpoint, down, new_down, builder->error);
}

/* A checkpoint whose convolutions have their taps last is a published one, and its norms are stored without 1. */
static bool is_published(const zm_checkpoint *checkpoint) {
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (strstr(name, "conv1d.weight") && zm_dim(zm_checkpoint_get(checkpoint, name), -1) != 1) return true;
    }
    return false;
}

static zmlx_status sanitize(zm_builder *builder, const zm_qwen3_next_config *config, bool splits_experts) {
    ZM_TRY(rename_tensors(builder));
    for (int i = 0; splits_experts && i < config->model.n_layers; i++) ZM_TRY(split_experts(builder, i));
    if (config->model.is_tied) zm_checkpoint_remove(builder->checkpoint, "language_model.lm_head.weight");
    return is_published(builder->checkpoint) ? zm_qwen3_next_sanitize(builder) : ZMLX_OK;
}

static zmlx_status build(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, bool splits_experts,
                         zmlx_error *error) {
    zm_builder builder = zm_builder_make(checkpoint, arena, error);
    zm_qwen3_next_config config;
    *root = NULL;
    ZM_TRY(read_config(&config, &builder));
    ZM_TRY(sanitize(&builder, &config, splits_experts));
    return zm_qwen3_next_build(root, &builder, &config);
}

zmlx_status zm_check_qwen3_5(const zm_builder *builder) {
    zm_qwen3_next_config config;
    ZM_TRY(read_config(&config, builder));
    return zm_check_attention(builder, &config.attention);
}

zmlx_status zm_check_qwen3_5_moe(const zm_builder *builder) { return zm_check_qwen3_5(builder); }

zmlx_status zm_build_qwen3_5(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    return build(root, checkpoint, arena, false, error);
}

zmlx_status zm_build_qwen3_5_moe(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error) {
    return build(root, checkpoint, arena, true, error);
}
