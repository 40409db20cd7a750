/* SPDX-License-Identifier: MIT */
/* rmsnorm: an RMS norm in one operation; on the CPU MLX makes about eight of it. */
#include "patch/patterns/parts.h"

bool zm_patch_serves_norm(const zm_norm *norm, const char **reason) {
    *reason = "a norm is missing or of another kind";
    return norm && norm->base.kind == ZM_MODULE_RMS_NORM && zm_patch_is_standard(&norm->base) &&
           zm_is_set(norm->weight);
}

zm_match zm_patch_rmsnorm_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_RMS_NORM) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    *reason = "it has no weight";
    return zm_is_set(((const zm_norm *)module)->weight) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

mlx_array zm_patch_rmsnorm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_norm *norm = (const zm_norm *)self;
    if (!zm_patch_serves_call(self, x) || !zm_is_set(norm->weight))
        return zm_patch_original(self, scope, x, call);
    return zm_fused_rms_norm(scope, x, norm->weight, norm->eps);
}
