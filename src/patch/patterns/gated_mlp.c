/* SPDX-License-Identifier: MIT */
/* swiglu_mlp and geglu_mlp: down(h(gate(x), up(x))) in one node. */
#include "patch/patterns/parts.h"

bool zm_patch_serves_gated_mlp(const zm_gated_mlp *mlp, const char **reason) {
    const zm_linear *gate = mlp->gate_proj, *up = mlp->up_proj, *down = mlp->down_proj;
    if (!zm_patch_serves_linear(gate, 0, reason) || !zm_patch_serves_linear(up, 0, reason) ||
        !zm_patch_serves_linear(down, 0, reason))
        return false;
    *reason = "its projections do not fit together";
    return gate->weight.in_features == up->weight.in_features &&
           gate->weight.out_features == up->weight.out_features &&
           gate->weight.out_features == down->weight.in_features;
}

zm_gated_mlp_arguments zm_patch_gated_mlp_arguments(const zm_gated_mlp *mlp) {
    return (zm_gated_mlp_arguments){.gate = &mlp->gate_proj->weight,
                                    .up = &mlp->up_proj->weight,
                                    .down = &mlp->down_proj->weight,
                                    .activation = mlp->activation};
}

static zm_match match(const zm_module *module, zm_activation activation, const char **reason) {
    if (module->kind != ZM_MODULE_GATED_MLP) return ZM_MATCH_NO;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)module;
    if (mlp->activation != activation) {
        /* What neither serves is listed once, by swiglu_mlp. */
        bool listed = mlp->activation == ZM_ACTIVATION_GEGLU || activation == ZM_ACTIVATION_GEGLU;
        *reason = "no pattern serves its activation";
        return listed ? ZM_MATCH_NO : ZM_MATCH_REFUSED;
    }
    if (!zm_patch_is_standard(module)) {
        *reason = "it has a forward of its own";
        return ZM_MATCH_REFUSED;
    }
    return zm_patch_serves_gated_mlp(mlp, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

static mlx_array forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call,
                         zm_activation activation) {
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || mlp->activation != activation || !zm_patch_serves_gated_mlp(mlp, &reason))
        return zm_patch_original(self, scope, x, call);
    zm_gated_mlp_arguments arguments = zm_patch_gated_mlp_arguments(mlp);
    return zm_fused_gated_mlp(scope, x, &arguments, state->compute);
}

zm_match zm_patch_swiglu_mlp_match(const zm_module *module, const char **reason) {
    return match(module, ZM_ACTIVATION_SWIGLU, reason);
}

mlx_array zm_patch_swiglu_mlp_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    return forward(self, scope, x, call, ZM_ACTIVATION_SWIGLU);
}

zm_match zm_patch_geglu_mlp_match(const zm_module *module, const char **reason) {
    return match(module, ZM_ACTIVATION_GEGLU, reason);
}

mlx_array zm_patch_geglu_mlp_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    return forward(self, scope, x, call, ZM_ACTIVATION_GEGLU);
}
