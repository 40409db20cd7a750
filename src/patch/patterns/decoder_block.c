/* SPDX-License-Identifier: MIT */
/* decoder_block: norms, operator, feed-forward part and both sums in one operation. */
#include "patch/patterns/parts.h"

static bool serves_operator(const zm_module *operator, const char **reason) {
    *reason = "its operator is missing or of another kind";
    if (!operator || !zm_patch_is_standard(operator)) return false;
    if (operator->kind == ZM_MODULE_ATTENTION)
        return zm_patch_serves_attention((const zm_attention *)operator, reason);
    return operator->kind == ZM_MODULE_SHORT_CONV &&
           zm_patch_serves_short_conv((const zm_short_conv *)operator, reason);
}

static bool serves_feed_forward(const zm_module *module, const char **reason) {
    *reason = "its feed-forward part is missing or of another kind";
    if (!module || !zm_patch_is_standard(module)) return false;
    if (module->kind == ZM_MODULE_MOE) return zm_patch_serves_moe((const zm_moe *)module, reason);
    if (module->kind != ZM_MODULE_GATED_MLP) return false;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)module;
    if (mlp->activation == ZM_ACTIVATION_SWIGLU || mlp->activation == ZM_ACTIVATION_GEGLU)
        return zm_patch_serves_gated_mlp(mlp, reason);
    *reason = "no pattern serves its activation";
    return false;
}

static bool serves(const zm_block *block, const char **reason) {
    return zm_patch_serves_norm(block->operator_norm, reason) &&
           zm_patch_serves_norm(block->feed_forward_norm, reason) && serves_operator(block->operator, reason) &&
           serves_feed_forward(block->feed_forward, reason);
}

zm_match zm_patch_decoder_block_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_BLOCK) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    return serves((const zm_block *)module, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

static bool serves_call(const zm_block *block, mlx_array x, const zm_call *call) {
    const char *reason;
    if (!zm_patch_serves_call(&block->base, x) || !serves(block, &reason)) return false;
    if (block->operator->kind == ZM_MODULE_ATTENTION) return zm_patch_attention_serves_call(x, call);
    return zm_patch_short_conv_serves_call(x);
}

/* Adds the feed-forward part to arguments and makes the node. */
static mlx_array apply(const zm_block *block, zm_scope *scope, mlx_array kept[2], mlx_array x,
                       zm_block_arguments arguments) {
    const zm_patch_state *state = block->base.patch_state;
    zm_moe_arguments moe;
    zm_gated_mlp_arguments gated_mlp;
    arguments.operator_norm = block->operator_norm->weight;
    arguments.operator_eps = block->operator_norm->eps;
    arguments.feed_forward_norm = block->feed_forward_norm->weight;
    arguments.feed_forward_eps = block->feed_forward_norm->eps;
    if (block->feed_forward->kind == ZM_MODULE_MOE) {
        moe = zm_patch_moe_arguments((const zm_moe *)block->feed_forward);
        arguments.moe = &moe;
    } else {
        gated_mlp = zm_patch_gated_mlp_arguments((const zm_gated_mlp *)block->feed_forward);
        arguments.gated_mlp = &gated_mlp;
    }
    return zm_fused_block(scope, kept, x, &arguments, state->compute);
}

static mlx_array apply_attention(const zm_block *block, zm_scope *scope, mlx_array x, zm_cache *cache) {
    mlx_array kept[2];
    zm_cache_rows rows;
    zm_attention_arguments attention =
        zm_patch_attention_arguments(&rows, (const zm_attention *)block->operator, scope, cache, x);
    mlx_array y = apply(block, scope, kept, x, (zm_block_arguments){.attention = &attention});
    rows.keys = kept[0];
    rows.values = kept[1];
    zm_cache_accept(cache, scope, &rows, zm_dim(x, 1));
    return y;
}

static mlx_array apply_short_conv(const zm_block *block, zm_scope *scope, mlx_array x, zm_cache *cache) {
    mlx_array kept[2];
    zm_short_conv_arguments short_conv =
        zm_patch_short_conv_arguments((const zm_short_conv *)block->operator, cache);
    mlx_array y = apply(block, scope, kept, x, (zm_block_arguments){.short_conv = &short_conv});
    zm_patch_short_conv_accept(cache, scope, kept[0], zm_dim(x, 1));
    return y;
}

mlx_array zm_patch_decoder_block_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_block *block = (const zm_block *)self;
    if (!serves_call(block, x, call)) return zm_patch_original(self, scope, x, call);
    zm_cache *cache = call ? call->cache : NULL;
    if (block->operator->kind == ZM_MODULE_ATTENTION) return apply_attention(block, scope, x, cache);
    return apply_short_conv(block, scope, x, cache);
}
