/* SPDX-License-Identifier: MIT */
/* moe_mlp: router, choice of experts, experts and weighted sum in one node. */
#include "patch/patterns/parts.h"

static bool serves_experts(const zm_moe *moe, const char **reason) {
    const zm_switch_glu *experts = moe->experts;
    *reason = "its experts are missing or of another kind";
    if (!experts || experts->base.kind != ZM_MODULE_SWITCH_GLU) return false;
    if (experts->activation != ZM_ACTIVATION_SWIGLU && experts->activation != ZM_ACTIVATION_GEGLU &&
        experts->activation != ZM_ACTIVATION_SWIGLU_OAI) {
        *reason = "its experts' activation is not known";
        return false;
    }
    const zm_linear *gate = experts->gate_proj, *up = experts->up_proj, *down = experts->down_proj;
    if (!zm_patch_serves_linear(gate, moe->n_experts, reason) ||
        !zm_patch_serves_linear(up, moe->n_experts, reason) ||
        !zm_patch_serves_linear(down, moe->n_experts, reason))
        return false;
    *reason = "its projections do not fit together";
    int hidden_size = moe->router->weight.in_features;
    return gate->weight.in_features == hidden_size && up->weight.in_features == hidden_size &&
           down->weight.out_features == hidden_size && gate->weight.out_features == up->weight.out_features &&
           gate->weight.out_features == down->weight.in_features;
}

/* A field that the gating does not use must hold the value that changes nothing: another value says that
 * the module means something this pattern does not know. */
static bool serves_gating(const zm_moe *moe, const char **reason) {
    bool groups = moe->gating == ZM_GATING_SIGMOID_GROUPS;
    bool sigmoid = groups || moe->gating == ZM_GATING_SIGMOID_BIAS;
    bool softmax_first = moe->gating == ZM_GATING_SOFTMAX_THEN_TOP_K;
    *reason = "its gating is not known";
    if (!sigmoid && !softmax_first && moe->gating != ZM_GATING_TOP_K_THEN_SOFTMAX_LOW &&
        moe->gating != ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH)
        return false;
    *reason = "an expert bias does not belong to its gating";
    if (!sigmoid && zm_is_set(moe->expert_bias)) return false;
    *reason = "a scaling factor or an epsilon does not belong to its gating";
    if (!sigmoid && (moe->routed_scaling_factor != 1.0f || moe->normalize_epsilon != 0.0f)) return false;
    *reason = "its groups of experts do not fit its gating";
    if (!groups && (moe->n_groups || moe->top_groups)) return false;
    if (groups && (moe->n_groups < 1 || moe->n_experts % moe->n_groups || moe->top_groups < 1 ||
                   moe->top_groups > moe->n_groups || (moe->n_groups > 1 && moe->n_experts / moe->n_groups < 2)))
        return false;
    *reason = "its number of experts per token is out of range";
    return moe->n_experts > 0 && moe->top_k > 0 && moe->top_k <= moe->n_experts;
}

static bool serves_shared(const zm_moe *moe, const char **reason) {
    const zm_gated_mlp *shared = moe->shared_experts;
    if (!shared) return true;
    *reason = "its shared experts are of another kind or have another activation";
    if (shared->base.kind != ZM_MODULE_GATED_MLP || !zm_patch_is_standard(&shared->base) ||
        shared->activation != moe->experts->activation)
        return false;
    if (!zm_patch_serves_gated_mlp(shared, reason)) return false;
    *reason = "its shared experts do not fit its router";
    int hidden_size = moe->router->weight.in_features;
    if (shared->gate_proj->weight.in_features != hidden_size || shared->down_proj->weight.out_features != hidden_size)
        return false;
    const zm_linear *router = moe->shared_router;
    if (!router) return true;
    if (!zm_patch_serves_linear(router, 0, reason)) return false;
    *reason = "its shared experts have another router";
    return router->weight.in_features == hidden_size && router->weight.out_features == 1;
}

bool zm_patch_serves_moe(const zm_moe *moe, const char **reason) {
    if (!serves_gating(moe, reason) || !zm_patch_serves_linear(moe->router, 0, reason)) return false;
    *reason = "its router has another number of experts";
    if (moe->router->weight.out_features != moe->n_experts) return false;
    return serves_experts(moe, reason) && serves_shared(moe, reason);
}

zm_moe_arguments zm_patch_moe_arguments(const zm_moe *moe) {
    const zm_switch_glu *experts = moe->experts;
    const zm_gated_mlp *shared = moe->shared_experts;
    return (zm_moe_arguments){
        .router = &moe->router->weight,
        .expert_bias = moe->expert_bias,
        .gate = &experts->gate_proj->weight,
        .up = &experts->up_proj->weight,
        .down = &experts->down_proj->weight,
        .shared_gate = shared ? &shared->gate_proj->weight : NULL,
        .shared_up = shared ? &shared->up_proj->weight : NULL,
        .shared_down = shared ? &shared->down_proj->weight : NULL,
        .shared_router = shared && moe->shared_router ? &moe->shared_router->weight : NULL,
        .activation = experts->activation,
        .gating = moe->gating,
        .top_k = moe->top_k,
        .n_groups = moe->n_groups,
        .top_groups = moe->top_groups,
        .normalize_top_k = moe->normalize_top_k,
        .normalize_epsilon = moe->normalize_epsilon,
        .routed_scaling_factor = moe->routed_scaling_factor,
    };
}

zm_match zm_patch_moe_mlp_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_MOE) return ZM_MATCH_NO;
    if (!zm_patch_is_standard(module)) {
        *reason = "it has a forward of its own";
        return ZM_MATCH_REFUSED;
    }
    return zm_patch_serves_moe((const zm_moe *)module, reason) ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

mlx_array zm_patch_moe_mlp_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_moe *moe = (const zm_moe *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !zm_patch_serves_moe(moe, &reason))
        return zm_patch_original(self, scope, x, call);
    zm_moe_arguments arguments = zm_patch_moe_arguments(moe);
    return zm_fused_moe(scope, x, &arguments, state->compute);
}
