/* SPDX-License-Identifier: MIT */
/* What a pattern is: which modules it serves, and the forward it gives them. patterns.def lists them. */
#ifndef ZM_PATCH_PATTERN_H
#define ZM_PATCH_PATTERN_H

#include "model/family.h"
#include "zmlx/model.h"

typedef enum zm_match {
    ZM_MATCH_NO, /* not this pattern's business: not listed */
    ZM_MATCH_YES,
    ZM_MATCH_REFUSED, /* its business, but a declared field is not served: listed with the reason */
} zm_match;

typedef enum zm_patch_pattern_place {
    ZM_PATTERN_ANYWHERE,
    ZM_PATTERN_OUTSIDE, /* not inside a patched module, which reaches its parts only above the guard */
} zm_patch_pattern_place;

typedef struct zm_patch_pattern {
    const char *name, *summary;
    zm_patch_pattern_place place;
    zmlx_device device; /* that it has kernels for */
    /* By declared kind and fields alone. *reason (static text) is set when refused. */
    zm_match (*match)(const zm_module *module, const char **reason);
    /* Reads the module's current arrays and parts at every call; state is self->patch_state. */
    zm_forward forward;
} zm_patch_pattern;

/* The patch_state of a patched module. */
typedef struct zm_patch_state {
    const zm_patch_pattern *pattern;
    zm_module *module;
    zm_forward original;
    zm_compute compute;
    mlx_dtype dtype; /* the model's: activations of another type take the original path */
    int max_fused_tokens;
    bool vector_attention;
    zm_blocks_plan *plan; /* decoder_block's, of a decoder */
} zm_patch_state;

enum {
#define ZM_PATTERN(name, place, device, summary) ZM_PATTERN_INDEX_##name,
#include "patch/patterns.def"
#undef ZM_PATTERN
    ZM_PATTERN_COUNT
};

#define ZM_PATTERN(name, place, device, summary)                                    \
    zm_match zm_patch_##name##_match(const zm_module *module, const char **reason); \
    mlx_array zm_patch_##name##_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
#include "patch/patterns.def"
#undef ZM_PATTERN

/* The known patterns, in the order of application. */
const zm_patch_pattern *zm_patch_pattern_at(size_t index);
const zm_patch_pattern *zm_patch_pattern_find(const char *name); /* NULL: unknown */
/* The test that proves the pattern for this family (or one with the same builder), device and type; NULL:
 * nothing does. */
const char *zm_patch_pattern_proof(const zm_patch_pattern *pattern, const zm_family *family,
                                   zmlx_device device, mlx_dtype dtype);

/* For patterns: whether this call may take the fused path, by its type and number of tokens. */
bool zm_patch_serves_call(const zm_module *self, mlx_array x);
/* The call as it was before patching. */
mlx_array zm_patch_original(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
/* Whether module computes its kind's standard forward, patched or not. */
bool zm_patch_is_standard(const zm_module *module);
/* Whether a fused node can stand in for linear, of n_experts matrices (0: one). *reason: why not. */
bool zm_patch_serves_linear(const zm_linear *linear, int n_experts, const char **reason);

#endif
