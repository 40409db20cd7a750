/* SPDX-License-Identifier: MIT */
/* attention: projections, norms, rotation, cache and heads in one operation. */
#include <string.h>

#include "patch/patterns/parts.h"

static bool serves_head_norm(const zm_norm *norm, const char **reason) {
    if (!norm || zm_patch_serves_norm(norm, reason)) return true;
    *reason = "a norm of its heads is of another kind";
    return false;
}

bool zm_patch_serves_attention(const zm_attention *module, const char **reason) {
    const zm_linear *q = module->q_proj, *k = module->k_proj, *v = module->v_proj, *o = module->o_proj;
    if (!zm_patch_serves_linear(q, 0, reason) || !zm_patch_serves_linear(k, 0, reason) ||
        !zm_patch_serves_linear(v, 0, reason) || !zm_patch_serves_linear(o, 0, reason))
        return false;
    if (!serves_head_norm(module->q_norm, reason) || !serves_head_norm(module->k_norm, reason)) return false;
    *reason = "its head size is not a multiple of 16 up to 1024";
    if (module->head_dim < 1 || module->head_dim > ZM_MAX_HEAD_DIM || module->head_dim % ZM_HEAD_UNIT) return false;
    *reason = "its heads do not fit together";
    if (module->n_kv_heads < 1 || module->n_heads < 1 || module->n_heads % module->n_kv_heads) return false;
    *reason = "its projections do not fit together";
    int values = module->n_heads * module->head_dim, keys = module->n_kv_heads * module->head_dim;
    int queries = module->has_output_gate ? 2 * values : values;
    if (q->weight.out_features != queries || o->weight.in_features != values || k->weight.out_features != keys ||
        v->weight.out_features != keys)
        return false;
    *reason = "its rotation is not known";
    return module->rope.dims > 0 && module->rope.dims % 2 == 0 && module->rope.dims <= module->head_dim;
}

zm_match zm_patch_attention_match(const zm_module *module, const char **reason) {
    bool is_latent = module->kind == ZM_MODULE_LATENT_ATTENTION;
    if (module->kind != ZM_MODULE_ATTENTION && !is_latent) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    bool serves = is_latent ? zm_patch_serves_latent_attention((const zm_latent_attention *)module, reason)
                            : zm_patch_serves_attention((const zm_attention *)module, reason);
    return serves ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

bool zm_patch_attention_serves_call(mlx_array x, const zm_call *call) {
    if (!call || !call->cache || mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1) return false;
    if (call->cache->kind != ZM_CACHE_KV && call->cache->kind != ZM_CACHE_ROTATING) return false;
    if (zm_dim(x, 1) == 1) return !call->mask.mode[0];
    return !strcmp(call->mask.mode, "causal") ||
           (call->cache->kind == ZM_CACHE_ROTATING && !strcmp(call->mask.mode, "array"));
}

zm_attention_arguments zm_patch_attention_arguments(zm_cache_rows *rows, const zm_attention *module, zm_scope *scope,
                                                    const zm_cache *cache, mlx_array x) {
    const zm_rope_parameters *rope = &module->rope;
    const zm_norm *q_norm = module->q_norm, *k_norm = module->k_norm;
    zm_cache_tokens tokens = {.batch = 1,
                              .n_heads = module->n_kv_heads,
                              .length = zm_dim(x, 1),
                              .key_dim = module->head_dim,
                              .value_dim = module->head_dim,
                              .dtype = mlx_array_dtype(x)};
    *rows = zm_cache_reserve(cache, scope, &tokens);
    zm_attention_arguments arguments = {
        .q_proj = &module->q_proj->weight,
        .k_proj = &module->k_proj->weight,
        .v_proj = &module->v_proj->weight,
        .o_proj = &module->o_proj->weight,
        .has_output_gate = module->has_output_gate,
        .rotation = {.inverse_freqs = zm_rope_inverse_freqs(scope, rope, cache->offset + tokens.length),
                     .traditional = rope->traditional,
                     .position_scale = rope->scale,
                     .input_scale = rope->input_scale},
        .sinks = module->sinks,
        .n_heads = module->n_heads,
        .n_kv_heads = module->n_kv_heads,
        .head_dim = module->head_dim,
        .scale = module->scale,
        .keys = rows->keys,
        .values = rows->values,
        .offset = cache->offset,
        .first_row = rows->first,
        .n_rows = rows->n_rows,
        .window = cache->kind == ZM_CACHE_ROTATING ? cache->max_size : 0,
    };
    if (q_norm) arguments.q_norm = q_norm->weight, arguments.q_norm_eps = q_norm->eps;
    if (k_norm) arguments.k_norm = k_norm->weight, arguments.k_norm_eps = k_norm->eps;
    return arguments;
}

mlx_array zm_patch_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_attention *module = (const zm_attention *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (self->kind == ZM_MODULE_LATENT_ATTENTION) return zm_patch_latent_attention_forward(self, scope, x, call);
    if (!zm_patch_serves_call(self, x) || !zm_patch_attention_serves_call(x, call) ||
        !zm_patch_serves_attention(module, &reason))
        return zm_patch_original(self, scope, x, call);
    zm_cache_rows rows;
    zm_attention_arguments arguments = zm_patch_attention_arguments(&rows, module, scope, call->cache, x);
    mlx_array y = zm_fused_attention(scope, &rows.keys, &rows.values, x, &arguments, state->compute);
    zm_cache_accept(call->cache, scope, &rows, zm_dim(x, 1));
    return y;
}
