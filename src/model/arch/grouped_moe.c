/* SPDX-License-Identifier: MIT */
#include "model/arch/grouped_moe.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct field {
    const char *key;
    int *value;
    int minimum, maximum, fallback; /* fallback below 0: required */
} field;

static zmlx_status read_fields(const field *fields, int count, const zm_builder *builder) {
    for (int i = 0; i < count; i++) {
        const field *of = &fields[i];
        int64_t value = of->fallback;
        if (of->fallback < 0 || json_object_get(builder->config.value, of->key))
            ZM_TRY(zm_json_int(&value, builder->config, of->key, of->minimum, of->maximum, builder->error));
        *of->value = (int)value;
    }
    return ZMLX_OK;
}

/* null: none, which is not the same as leaving it out. */
static zmlx_status read_experts(int *count, const zm_builder *builder, const char *key, int fallback) {
    *count = 0;
    if (json_is_null(json_object_get(builder->config.value, key))) return ZMLX_OK;
    const field of = {key, count, 1, ZM_MAX_EXPERTS, fallback};
    return read_fields(&of, 1, builder);
}

static zmlx_status expect_text(const zm_builder *builder, const char *key, const char *known) {
    const char *text = known;
    if (json_object_get(builder->config.value, key))
        ZM_TRY(zm_json_string(&text, builder->config, key, builder->error));
    if (!strcmp(text, known)) return ZMLX_OK;
    return zm_config_fail(builder, key, "\"%.60s\" is not supported, only \"%s\"", text, known);
}

static zmlx_status check_groups(const zm_moe_plan *moe, const zm_builder *builder) {
    int n_experts = moe->experts.n_experts;
    if (n_experts % moe->n_groups)
        return zm_config_fail(builder, "n_group", "%d does not divide n_routed_experts %d", moe->n_groups, n_experts);
    if (moe->n_groups > 1 && n_experts / moe->n_groups < 2)
        return zm_config_fail(builder, "n_group", "%d leaves fewer than two of %d experts in a group", moe->n_groups,
                              n_experts);
    if (moe->top_groups > moe->n_groups)
        return zm_config_fail(builder, "topk_group", "%d of %d groups", moe->top_groups, moe->n_groups);
    if (moe->top_k > n_experts)
        return zm_config_fail(builder, "num_experts_per_tok", "%d of %d experts", moe->top_k, n_experts);
    return ZMLX_OK;
}

static zmlx_status read_router(zm_grouped_moe *result, const zm_builder *builder,
                               const zm_grouped_moe_defaults *defaults) {
    zm_moe_plan *moe = &result->moe;
    const field fields[] = {
        {"moe_intermediate_size", &moe->experts.intermediate_size, 1, ZM_MAX_SIZE, defaults->moe_intermediate_size},
        {"num_experts_per_tok", &moe->top_k, 1, ZM_MAX_EXPERTS, defaults->num_experts_per_tok},
        {"n_group", &moe->n_groups, 1, ZM_MAX_EXPERTS, defaults->n_group},
        {"first_k_dense_replace", &result->first, 0, ZM_MAX_LAYERS, defaults->first_k_dense_replace},
    };
    const field top_groups = {"topk_group", &moe->top_groups, 1, ZM_MAX_EXPERTS, defaults->topk_group};
    ZM_TRY(read_fields(fields, sizeof fields / sizeof fields[0], builder));
    /* Of one group none is chosen, so null does. */
    if (moe->n_groups == 1 && json_is_null(json_object_get(builder->config.value, top_groups.key)))
        moe->top_groups = 1;
    else
        ZM_TRY(read_fields(&top_groups, 1, builder));
    ZM_TRY(check_groups(moe, builder));
    ZM_TRY(expect_text(builder, "topk_method", "noaux_tc"));
    if (zm_json_get(builder->config, "scoring_func")) ZM_TRY(expect_text(builder, "scoring_func", "sigmoid"));
    double scaling = defaults->routed_scaling_factor;
    ZM_TRY(zm_config_positive(&moe->routed_scaling_factor, builder->config, "routed_scaling_factor",
                              scaling < 0 ? NAN : scaling, builder->error));
    if (defaults->needs_norm_topk_prob)
        ZM_TRY(zm_json_bool(&moe->normalize_top_k, builder->config, "norm_topk_prob", builder->error));
    else
        ZM_TRY(zm_json_bool_or(&moe->normalize_top_k, builder->config, "norm_topk_prob", true, builder->error));
    moe->normalize_top_k = moe->normalize_top_k && moe->top_k > 1;
    return ZMLX_OK;
}

zmlx_status zm_config_grouped_moe(zm_grouped_moe *result, const zm_builder *builder, int hidden_size,
                                  const zm_grouped_moe_defaults *defaults, bool has_layer_freq) {
    zm_gated_plan mlp = {"mlp", "gate_proj", "up_proj", "down_proj", hidden_size, 0, 0, false, ZM_ACTIVATION_SWIGLU};
    *result = (zm_grouped_moe){
        .mlp = mlp,
        .moe = {.name = "mlp", .router = "gate", .experts = mlp, .gating = ZM_GATING_SIGMOID_GROUPS},
        .every = 1,
    };
    zm_moe_plan *moe = &result->moe;
    int n_shared;
    moe->experts.name = "switch_mlp";
    ZM_TRY(read_experts(&moe->experts.n_experts, builder, "n_routed_experts", defaults->n_routed_experts));
    ZM_TRY(read_experts(&n_shared, builder, "n_shared_experts", defaults->n_shared_experts));
    if (has_layer_freq) ZM_TRY(zm_config_int_or(&result->every, builder, "moe_layer_freq", ZM_MAX_LAYERS, 1));
    if (!moe->experts.n_experts) return ZMLX_OK;
    ZM_TRY(read_router(result, builder, defaults));
    if (!n_shared) return ZMLX_OK;
    int width = moe->experts.intermediate_size;
    if (n_shared > ZM_MAX_SIZE / width)
        return zm_config_fail(builder, "n_shared_experts", "%d times %d is more than %d", n_shared, width,
                              (int)ZM_MAX_SIZE);
    moe->shared = mlp;
    moe->shared.name = "shared_experts";
    moe->shared.intermediate_size = n_shared * width;
    return ZMLX_OK;
}

bool zm_grouped_moe_has_dense(const zm_grouped_moe *plan) {
    return !plan->moe.experts.n_experts || plan->first > 0 || plan->every > 1;
}

static bool has_experts(const zm_grouped_moe *plan, int layer) {
    return plan->moe.experts.n_experts && layer >= plan->first && layer % plan->every == 0;
}

zmlx_status zm_build_grouped_moe(zm_module **module, zm_builder *builder, zm_module *parent, int layer,
                                 const zm_grouped_moe *plan) {
    if (has_experts(plan, layer)) return zm_build_moe(module, builder, parent, &plan->moe);
    return zm_build_gated_mlp(module, builder, parent, &plan->mlp);
}

/* The layer that a tensor is of, or -1. */
static long layer_of(const char *name) {
    static const char prefix[] = "model.layers.";
    const size_t size = sizeof prefix - 1;
    if (strncmp(name, prefix, size) != 0 || name[size] < '0' || name[size] > '9') return -1;
    return strtol(name + size, NULL, 10);
}

static void drop_layer(zm_checkpoint *checkpoint, long layer) {
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (layer_of(name) == layer) zm_checkpoint_remove(checkpoint, name);
    }
}

/* A layer that predicts further tokens is known by its projection of a token and a hidden row: one without it is the
 * model's own, of which the config knows nothing. */
static void drop_layers(zm_checkpoint *checkpoint, int n_layers) {
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        long layer = layer_of(name);
        if (layer >= n_layers && strstr(name, ".eh_proj.")) drop_layer(checkpoint, layer);
    }
}

zmlx_status zm_rewrite_grouped_moe(zm_builder *builder, int n_layers, const zm_grouped_moe *plan) {
    static const char *const projections[] = {"gate_proj", "up_proj", "down_proj"};
    static const char *const parts[] = {"weight", "scales", "biases"};
    drop_layers(builder->checkpoint, n_layers);
    for (int i = 0; i < 9 * n_layers; i++) {
        const char *module = zm_arena_printf(builder->arena, "model.layers.%d.mlp", i / 9);
        const char *name = zm_arena_printf(builder->arena, "%s.%s", projections[i / 3 % 3], parts[i % 3]);
        if (!module || !name) return zm_fail_memory(builder->error);
        ZM_TRY(zm_build_stack_experts(builder, module, name, name, plan->moe.experts.n_experts));
    }
    return ZMLX_OK;
}
