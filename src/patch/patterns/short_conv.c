/* SPDX-License-Identifier: MIT */
/* short_conv: the gated short convolution of lfm2 in one operation. */
#include "model/cache.h"
#include "patch/patterns/parts.h"

bool zm_patch_serves_short_conv(const zm_short_conv *module, const char **reason) {
    const zm_linear *in_proj = module->in_proj, *out_proj = module->out_proj;
    if (!zm_patch_serves_linear(in_proj, 0, reason) || !zm_patch_serves_linear(out_proj, 0, reason))
        return false;
    *reason = "its convolution is of another kind";
    const zm_depthwise_conv *conv = module->conv;
    if (!conv || conv->base.kind != ZM_MODULE_CONV1D || !zm_patch_is_standard(&conv->base) || conv->taps < 2)
        return false;
    *reason = "its projections do not fit together";
    int size = module->hidden_size;
    return conv->channels == size && in_proj->weight.out_features == 3 * size &&
           out_proj->weight.in_features == size;
}

zm_match zm_patch_short_conv_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_SHORT_CONV) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    return zm_patch_serves_short_conv((const zm_short_conv *)module, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

bool zm_patch_short_conv_serves_call(mlx_array x) { return mlx_array_ndim(x) == 3 && zm_dim(x, 0) == 1; }

zm_short_conv_arguments zm_patch_short_conv_arguments(const zm_short_conv *module, const zm_cache *cache) {
    return (zm_short_conv_arguments){
        .in_proj = &module->in_proj->weight,
        .out_proj = &module->out_proj->weight,
        .conv_weight = module->conv->weight,
        .conv_bias = module->conv->bias,
        .last = cache ? cache->state : (mlx_array){NULL},
        .taps = module->conv->taps,
    };
}

void zm_patch_short_conv_accept(zm_cache *cache, zm_scope *scope, mlx_array last, int length) {
    if (!cache || zm_scope_failed(scope)) return;
    zm_scope_keep(scope, &cache->state, last);
    cache->offset += length;
}

mlx_array zm_patch_short_conv_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_short_conv *module = (const zm_short_conv *)self;
    const zm_patch_state *state = self->patch_state;
    zm_cache *cache = call ? call->cache : NULL;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !zm_patch_short_conv_serves_call(x) ||
        !zm_patch_serves_short_conv(module, &reason))
        return zm_patch_original(self, scope, x, call);
    zm_short_conv_arguments arguments = zm_patch_short_conv_arguments(module, cache);
    mlx_array last;
    mlx_array y = zm_fused_short_conv(scope, &last, x, &arguments, state->compute);
    zm_patch_short_conv_accept(cache, scope, last, zm_dim(x, 1));
    return y;
}
