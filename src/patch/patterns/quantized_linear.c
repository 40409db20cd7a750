/* SPDX-License-Identifier: MIT */
/* quantized_linear: x W^T (+ bias) with a quantised W, the output projection and maps with a W for each head included.
 */
#include "patch/pattern.h"

zm_match zm_patch_quantized_linear_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_LINEAR && module->kind != ZM_MODULE_MULTI_LINEAR) return ZM_MATCH_NO;
    const zm_linear *linear = (const zm_linear *)module;
    if (!zm_weight_is_quantized(&linear->weight)) return ZM_MATCH_NO;
    if (!zm_patch_is_standard(module)) {
        *reason = "it has a forward of its own";
        return ZM_MATCH_REFUSED;
    }
    return zm_fused_weight_supported(&linear->weight, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

mlx_array zm_patch_quantized_linear_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_patch_state *state = self->patch_state;
    const zm_weight *weight = &((const zm_linear *)self)->weight;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !zm_fused_weight_supported(weight, &reason))
        return zm_patch_original(self, scope, x, call);
    if (self->kind == ZM_MODULE_LINEAR) return zm_fused_linear(scope, x, weight, state->compute);
    bool is_one_sequence = mlx_array_ndim(x) == 4 && zm_dim(x, 0) == 1;
    bool fits = is_one_sequence && (zm_dim(x, 1) == weight->n_experts || zm_dim(x, 1) == 1);
    return fits ? zm_fused_multi_linear(scope, x, weight, state->compute) : zm_patch_original(self, scope, x, call);
}
