/* SPDX-License-Identifier: MIT */
/* add_rms_norm: in a decoder block, the sum with the operator's result and the norm of that sum in one operation. */
#include "patch/patterns/parts.h"

static bool serves(const zm_block *block, const char **reason) {
    if (!zm_patch_serves_norm(block->feed_forward_norm, reason)) return false;
    *reason = "a part of it is missing";
    return block->operator_norm && block->operator && block->feed_forward;
}

zm_match zm_patch_add_rms_norm_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_BLOCK) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    return serves((const zm_block *)module, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

mlx_array zm_patch_add_rms_norm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_block *block = (const zm_block *)self;
    const zm_norm *norm = block->feed_forward_norm;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !serves(block, &reason)) return zm_patch_original(self, scope, x, call);
    mlx_array h, normed = zm_module_call(&block->operator_norm->base, scope, x, NULL);
    mlx_array result = zm_module_call(block->operator, scope, normed, call);
    normed = zm_fused_add_rms_norm(scope, &h, x, result, norm->weight, norm->eps);
    return zm_add(scope, h, zm_module_call(block->feed_forward, scope, normed, NULL));
}
