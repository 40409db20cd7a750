/* SPDX-License-Identifier: MIT */
/* The tables of patterns.def, and the questions patterns share. */
#include "patch/pattern.h"

#include <string.h>

#include "zmlx/patch.h"

static const zm_patch_pattern patterns[] = {
#define ZM_PATTERN(name, place, device, summary) \
    {#name,                                      \
     summary,                                    \
     ZM_PATTERN_##place,                         \
     ZMLX_DEVICE_##device,                       \
     zm_patch_##name##_match,                    \
     zm_patch_##name##_forward},
#include "patch/patterns.def"
#undef ZM_PATTERN
};

typedef struct proof {
    int pattern;
    const char *model_type;
    zmlx_device device;
    mlx_dtype dtype;
    const char *test;
} proof;

static const proof proofs[] = {
#define ZM_PROVEN(pattern, model_type, device, dtype, test) \
    {ZM_PATTERN_INDEX_##pattern, #model_type, ZMLX_DEVICE_##device, MLX_##dtype, test},
#include "patch/patterns.def"
#undef ZM_PROVEN
};

const zm_patch_pattern *zm_patch_pattern_at(size_t index) { return &patterns[index]; }

const zm_patch_pattern *zm_patch_pattern_find(const char *name) {
    for (size_t i = 0; i < ZM_PATTERN_COUNT; i++)
        if (!strcmp(patterns[i].name, name)) return &patterns[i];
    return NULL;
}

const zmlx_pattern_info *zmlx_pattern_list(size_t *count) {
    static const zmlx_pattern_info infos[] = {
#define ZM_PATTERN(name, place, device, summary) {#name, summary},
#include "patch/patterns.def"
#undef ZM_PATTERN
    };
    *count = ZM_PATTERN_COUNT;
    return infos;
}

const char *zmlx_pattern_instead(const char *name) {
    static const zmlx_pattern_info others[] = {
#define ZM_NO_PATTERN(name, instead) {#name, instead},
#include "patch/patterns.def"
#undef ZM_NO_PATTERN
    };
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (name && !strcmp(others[i].name, name)) return others[i].summary;
    return NULL;
}

static bool is_same_family(const zm_family *family, const char *model_type) {
    if (!strcmp(family->model_type, model_type)) return true;
    const zm_family *named = zm_family_find(model_type);
    return named && named->build == family->build;
}

const char *zm_patch_pattern_proof(const zm_patch_pattern *pattern, const zm_family *family,
                                   zmlx_device device, mlx_dtype dtype) {
    for (size_t i = 0; i < sizeof proofs / sizeof *proofs; i++) {
        const proof *row = &proofs[i];
        if (&patterns[row->pattern] == pattern && row->device == device && row->dtype == dtype &&
            is_same_family(family, row->model_type))
            return row->test;
    }
    return NULL;
}

bool zm_patch_serves_call(const zm_module *self, mlx_array x) {
    const zm_patch_state *state = self->patch_state;
    /* An embedding in mxfp4 gives bfloat16 in a model of any type, and MLX then promotes step by step. */
    if (!zm_is_set(x) || mlx_array_dtype(x) != state->dtype) return false;
    /* (batch, length, ...): what follows belongs to one token; or (batch, heads, length, in). */
    int n_dims = (int)mlx_array_ndim(x), length_axis = self->kind == ZM_MODULE_MULTI_LINEAR ? 2 : 1;
    size_t tokens = n_dims > length_axis ? (size_t)zm_dim(x, 0) : 0;
    if (n_dims > length_axis + 1) tokens *= (size_t)zm_dim(x, length_axis);
    return tokens > 0 && state->max_fused_tokens > 0 && tokens <= (size_t)state->max_fused_tokens;
}

mlx_array zm_patch_original(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_patch_state *state = self->patch_state;
    return state->original(self, scope, x, call);
}

bool zm_patch_is_standard(const zm_module *module) {
    const zm_patch_state *state = module->patch_state;
    zm_forward forward = module->forward;
    if (state && forward == state->pattern->forward) forward = state->original;
    return forward == zm_standard_forward(module->kind);
}

bool zm_patch_serves_linear(const zm_linear *linear, int n_experts, const char **reason) {
    zm_module_kind kind = n_experts ? ZM_MODULE_SWITCH_LINEAR : ZM_MODULE_LINEAR;
    if (!linear || linear->base.kind != kind) {
        *reason = "a projection is missing or not a linear map";
        return false;
    }
    if (!zm_patch_is_standard(&linear->base)) {
        *reason = "a projection has a forward of its own";
        return false;
    }
    if (linear->weight.n_experts != n_experts) {
        *reason = "a projection has another number of experts";
        return false;
    }
    return zm_fused_weight_supported(&linear->weight, reason);
}
