/* SPDX-License-Identifier: MIT */
/* delta_net: the gated delta net of qwen3_next in one operation. */
#include "model/cache.h"
#include "patch/patterns/parts.h"

static bool serves_arrays(const zm_delta_net *module, const char **reason) {
    const zm_depthwise_conv *conv = module->conv;
    *reason = "its convolution is of another kind";
    if (!conv || conv->base.kind != ZM_MODULE_CONV1D || !zm_patch_is_standard(&conv->base) || conv->taps < 2 ||
        zm_is_set(conv->bias))
        return false;
    *reason = "the norm of its heads is of another kind";
    const char *other;
    if (!zm_patch_serves_norm(module->norm, &other)) return false;
    *reason = "its decay is missing";
    if (!zm_is_set(module->A_log) || !zm_is_set(module->dt_bias)) return false;
    *reason = "the size of its key heads is no multiple of 16";
    if (module->head_k_dim < 1 || module->head_k_dim % ZM_HEAD_UNIT) return false;
    *reason = "its heads do not fit together";
    return module->n_k_heads > 0 && module->n_v_heads > 0 && module->n_v_heads % module->n_k_heads == 0;
}

bool zm_patch_serves_delta_net(const zm_delta_net *module, const char **reason) {
    *reason = "its projections are of another kind";
    if (module->n_in_proj != 2 && module->n_in_proj != 4) return false;
    for (int i = 0; i < module->n_in_proj; i++)
        if (!zm_patch_serves_linear(module->in_proj[i], 0, reason)) return false;
    if (!zm_patch_serves_linear(module->out_proj, 0, reason) || !serves_arrays(module, reason)) return false;
    *reason = "its projections do not fit together";
    int values = module->n_v_heads * module->head_v_dim, heads = module->n_v_heads;
    int channels = 2 * module->n_k_heads * module->head_k_dim + values;
    const int joint[4] = {channels + values, 2 * heads}, separate[4] = {channels, values, heads, heads};
    for (int i = 0; i < module->n_in_proj; i++)
        if (module->in_proj[i]->weight.out_features != (module->n_in_proj == 2 ? joint : separate)[i]) return false;
    return module->conv->channels == channels && module->out_proj->weight.in_features == values;
}

zm_match zm_patch_delta_net_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_DELTA_NET) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    return zm_patch_serves_delta_net((const zm_delta_net *)module, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

bool zm_patch_delta_net_serves_call(mlx_array x) { return mlx_array_ndim(x) == 3 && zm_dim(x, 0) == 1; }

zm_delta_net_arguments zm_patch_delta_net_arguments(const zm_delta_net *module, const zm_cache *cache) {
    zm_delta_net_arguments arguments = {
        .n_in_proj = module->n_in_proj,
        .out_proj = &module->out_proj->weight,
        .conv_weight = module->conv->weight,
        .A_log = module->A_log,
        .dt_bias = module->dt_bias,
        .norm = module->norm->weight,
        .norm_eps = module->norm->eps,
        .n_k_heads = module->n_k_heads,
        .n_v_heads = module->n_v_heads,
        .head_k_dim = module->head_k_dim,
        .head_v_dim = module->head_v_dim,
        .taps = module->conv->taps,
        .last = cache ? cache->state : (mlx_array){NULL},
        .memory = cache ? cache->memory : (mlx_array){NULL},
    };
    for (int i = 0; i < module->n_in_proj; i++) arguments.in_proj[i] = &module->in_proj[i]->weight;
    return arguments;
}

void zm_patch_delta_net_accept(zm_cache *cache, zm_scope *scope, const mlx_array kept[2], int length) {
    if (!cache || zm_scope_failed(scope)) return;
    zm_scope_keep(scope, &cache->state, kept[0]);
    zm_scope_keep(scope, &cache->memory, kept[1]);
    cache->offset += length;
}

mlx_array zm_patch_delta_net_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_delta_net *module = (const zm_delta_net *)self;
    const zm_patch_state *state = self->patch_state;
    zm_cache *cache = call ? call->cache : NULL;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !zm_patch_delta_net_serves_call(x) ||
        !zm_patch_serves_delta_net(module, &reason))
        return zm_patch_original(self, scope, x, call);
    zm_delta_net_arguments arguments = zm_patch_delta_net_arguments(module, cache);
    mlx_array kept[2];
    mlx_array y = zm_fused_delta_net(scope, &kept[0], &kept[1], x, &arguments, state->compute);
    zm_patch_delta_net_accept(cache, scope, kept, zm_dim(x, 1));
    return y;
}
