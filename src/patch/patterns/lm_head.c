/* SPDX-License-Identifier: MIT */
/* lm_head: the output projection and the greedy choice of the token in one operation. */
#include "patch/pattern.h"

zm_match zm_patch_lm_head_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_GREEDY_HEAD) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    const zm_greedy_head *head = (const zm_greedy_head *)module;
    return zm_patch_serves_linear(head->lm_head, 0, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

mlx_array zm_patch_lm_head_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_greedy_head *head = (const zm_greedy_head *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || mlx_array_ndim(x) != 3 ||
        !zm_patch_serves_linear(head->lm_head, 0, &reason))
        return zm_patch_original(self, scope, x, call);
    return zm_fused_lm_head(scope, x, &head->lm_head->weight, state->compute);
}
