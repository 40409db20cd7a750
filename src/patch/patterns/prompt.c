/* SPDX-License-Identifier: MIT */
/* prompt: products of many tokens with quantised weights on a CUDA device, with the bits of MLX's matrix kernels
 * (fused/cuda/prompt.h). A gated MLP's gate, up and activation are one product; so are those of all experts, whose rows
 * are sorted on the way, in mxfp4 in the order of MLX's vector kernel (decode_sorted.cuh); a short convolution between
 * its projections is one kernel. Of so few rows that MLX takes its vector kernel only a linear map with two or more is
 * served (decode_few.cuh), and a mixture of experts for one token, by decode's kernels; the rest runs the standard
 * operations. */
#include <string.h>

#include "fused/cuda/decode.h"
#include "fused/cuda/prompt.h"
#include "model/layers/forward.h"
#include "patch/patterns/parts.h"

static bool serves_linear(const zm_linear *linear, int n_experts, const char **reason) {
    *reason = "a projection is missing, of another kind or has a forward of its own";
    if (!linear || !zm_patch_is_standard(&linear->base) || linear->weight.n_experts != n_experts) return false;
    if (linear->base.kind != (n_experts ? ZM_MODULE_SWITCH_LINEAR : ZM_MODULE_LINEAR)) return false;
    return zm_prompt_serves(&linear->weight, reason);
}

/* n_experts: 0 without experts. */
static bool serves_gated(const zm_linear *gate, const zm_linear *up, const zm_linear *down, zm_activation activation,
                         int n_experts, const char **reason) {
    if (!serves_linear(gate, n_experts, reason) || !serves_linear(up, n_experts, reason) ||
        !serves_linear(down, n_experts, reason))
        return false;
    bool is_mxfp4 = !strcmp(gate->weight.quantization.mode, "mxfp4");
    *reason = "its activation is not SiLU gating";
    if (activation != ZM_ACTIVATION_SWIGLU && !(is_mxfp4 && activation == ZM_ACTIVATION_SWIGLU_OAI)) return false;
    *reason = "a projection has a bias";
    if (!is_mxfp4 && (zm_is_set(gate->weight.bias) || (n_experts && zm_is_set(down->weight.bias)))) return false;
    if (zm_is_set(gate->weight.bias) != zm_is_set(up->weight.bias)) return false;
    *reason = "its projections do not fit together";
    return !strcmp(gate->weight.quantization.mode, up->weight.quantization.mode) &&
           (!n_experts || !strcmp(gate->weight.quantization.mode, down->weight.quantization.mode)) &&
           zm_decode_dtype(&gate->weight) == zm_decode_dtype(&up->weight) &&
           zm_decode_dtype(&gate->weight) == zm_decode_dtype(&down->weight) &&
           gate->weight.quantization.bits == up->weight.quantization.bits &&
           gate->weight.quantization.group_size == up->weight.quantization.group_size &&
           gate->weight.in_features == up->weight.in_features && gate->weight.out_features == up->weight.out_features &&
           gate->weight.out_features == down->weight.in_features;
}

static bool serves_moe(const zm_moe *moe, const char **reason) {
    const zm_switch_glu *experts = moe->experts;
    *reason = "its gating is not known, or it has experts for every token";
    if (moe->gating == ZM_GATING_SIGMOID_GROUPS || moe->shared_experts) return false;
    *reason = "its experts are missing or of another kind";
    if (!experts || experts->base.kind != ZM_MODULE_SWITCH_GLU) return false;
    if (!serves_gated(experts->gate_proj, experts->up_proj, experts->down_proj, experts->activation, moe->n_experts,
                      reason))
        return false;
    /* MLX's sum over more experts, or of odd rows, has another order. */
    enum { MOST_CHOSEN = 32, ROW_UNIT = 8 };
    *reason = "it has too many experts a token, or rows that are no multiple of 8";
    return moe->top_k <= MOST_CHOSEN && experts->down_proj->weight.out_features % ROW_UNIT == 0;
}

static bool serves_conv(const zm_short_conv *module, const char **reason) {
    const zm_depthwise_conv *conv = module->conv;
    *reason = "its projections are missing";
    if (!module->in_proj || !module->out_proj) return false;
    *reason = "its convolution is not one of three bfloat16 or float16 taps without a bias";
    if (!conv || conv->base.kind != ZM_MODULE_CONV1D || !zm_patch_is_standard(&conv->base) || conv->taps != 3 ||
        zm_is_set(conv->bias))
        return false;
    mlx_dtype dtype = mlx_array_dtype(conv->weight);
    if (dtype != MLX_BFLOAT16 && dtype != MLX_FLOAT16) return false;
    enum { UNIT = 8 };
    *reason = "its projections do not fit together";
    return conv->channels == module->hidden_size && module->hidden_size % UNIT == 0 &&
           module->in_proj->weight.out_features == 3 * module->hidden_size;
}

static bool serves_embedding(const zm_embedding *table, const char **reason) {
    if (!zm_prompt_serves(&table->weight, reason)) return false;
    *reason = "its rows are not of its scales' type";
    return table->dtype == zm_decode_dtype(&table->weight);
}

static bool serves(const zm_module *module, const char **reason) {
    if (module->kind == ZM_MODULE_EMBEDDING) return serves_embedding((const zm_embedding *)module, reason);
    if (module->kind == ZM_MODULE_SHORT_CONV) return serves_conv((const zm_short_conv *)module, reason);
    if (module->kind == ZM_MODULE_LINEAR) {
        const zm_linear *linear = (const zm_linear *)module;
        const char *other;
        return serves_linear(linear, 0, reason) ||
               (!linear->weight.n_experts && zm_prompt_serves_few(&linear->weight, ZM_PROMPT_LEAST_FEW, &other));
    }
    if (module->kind == ZM_MODULE_MOE) return serves_moe((const zm_moe *)module, reason);
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)module;
    return serves_gated(mlp->gate_proj, mlp->up_proj, mlp->down_proj, mlp->activation, 0, reason);
}

static const zm_weight *weight_of(const zm_module *module) {
    if (module->kind == ZM_MODULE_EMBEDDING) return &((const zm_embedding *)module)->weight;
    if (module->kind == ZM_MODULE_LINEAR) return &((const zm_linear *)module)->weight;
    if (module->kind == ZM_MODULE_MOE) return &((const zm_moe *)module)->experts->gate_proj->weight;
    return &((const zm_gated_mlp *)module)->gate_proj->weight;
}

/* Of the rows that it serves. */
static mlx_dtype dtype_of(const zm_module *module) {
    if (module->kind == ZM_MODULE_SHORT_CONV) return mlx_array_dtype(((const zm_short_conv *)module)->conv->weight);
    return zm_decode_dtype(weight_of(module));
}

/* Calls of another type run MLX's operations. A model's type is that of its norms. */
static bool serves_dtype(const zm_module *module, const char **reason) {
    const zm_module *root = module;
    while (root->parent) root = root->parent;
    const zm_decoder *decoder = root->kind == ZM_MODULE_CAUSAL_LM ? ((const zm_causal_lm *)root)->decoder : NULL;
    *reason = "its weights are not of the model's type, or mxfp4 without a bias in another than bfloat16";
    return !decoder || !decoder->norm || mlx_array_dtype(decoder->norm->weight) == dtype_of(module);
}

/* The products' arithmetic bounds scales; reads them. */
static bool serves_scales(const zm_module *module, const char **reason) {
    if (module->kind == ZM_MODULE_LINEAR) return zm_decode_serves_weight(weight_of(module), reason);
    if (module->kind == ZM_MODULE_MOE) {
        const zm_moe *moe = (const zm_moe *)module;
        const zm_switch_glu *experts = moe->experts;
        bool alone = zm_patch_serves_one_token_moe(moe, reason); /* then its router goes through decode's kernels too */
        return (!alone || zm_decode_serves_weight(&moe->router->weight, reason)) &&
               zm_decode_serves_weight(&experts->gate_proj->weight, reason) &&
               zm_decode_serves_weight(&experts->up_proj->weight, reason) &&
               zm_decode_serves_weight(&experts->down_proj->weight, reason);
    }
    if (module->kind != ZM_MODULE_GATED_MLP) return true;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)module; /* down_proj is asked itself */
    return zm_decode_serves_weight(&mlp->gate_proj->weight, reason) &&
           zm_decode_serves_weight(&mlp->up_proj->weight, reason);
}

zm_match zm_patch_prompt_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_LINEAR && module->kind != ZM_MODULE_MOE && module->kind != ZM_MODULE_GATED_MLP &&
        module->kind != ZM_MODULE_SHORT_CONV && module->kind != ZM_MODULE_EMBEDDING)
        return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    if (!serves(module, reason) || !serves_dtype(module, reason)) return ZM_MATCH_REFUSED;
    *reason = "needs an MLX with CUDA and a GPU of compute capability 9.0";
    if (!zm_prompt_available() || !serves_scales(module, reason)) return ZM_MATCH_REFUSED;
    *reason = "its kernels cannot be compiled for this GPU, or it cannot load them";
    if (module->kind == ZM_MODULE_SHORT_CONV) return ZM_MATCH_YES; /* its projections are asked themselves */
    return zm_prompt_prepare(weight_of(module), NULL) ? ZM_MATCH_REFUSED : ZM_MATCH_YES;
}

/* dtype: of the rows. */
static zm_routing route(const zm_moe *moe, zm_scope *scope, mlx_array logits, mlx_dtype dtype) {
    zm_gating_arguments gating = {
        .expert_bias = moe->expert_bias,
        .gating = moe->gating,
        .n_experts = moe->n_experts,
        .top_k = moe->top_k,
        .normalize_top_k = moe->normalize_top_k,
        .normalize_epsilon = moe->normalize_epsilon,
        .routed_scaling_factor = moe->routed_scaling_factor,
    };
    const char *reason;
    if (zm_scope_failed(scope) || mlx_array_dtype(logits) != dtype || !zm_prompt_serves_gating(&gating, &reason))
        return zm_moe_route(moe, scope, logits, dtype);
    zm_routing chosen;
    zm_prompt_route(scope, &chosen.indices, &chosen.weights, logits, &gating);
    return chosen;
}

static mlx_array apply_moe(const zm_moe *moe, zm_scope *scope, mlx_array x) {
    zm_moe_arguments arguments = zm_patch_moe_arguments(moe);
    mlx_array logits = zm_module_call(&moe->router->base, scope, x, NULL);
    zm_routing chosen = route(moe, scope, logits, mlx_array_dtype(x));
    if (zm_scope_failed(scope) || mlx_array_dtype(chosen.weights) == mlx_array_dtype(x))
        return zm_prompt_experts(scope, x, &arguments, chosen.indices, chosen.weights);
    return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, moe->base.path,
                         "weights of experts that are not of its rows' type");
}

static mlx_array apply_conv(const zm_short_conv *module, zm_scope *scope, mlx_array x, const zm_call *call) {
    zm_cache *cache = call ? call->cache : NULL;
    mlx_array projected = zm_module_call(&module->in_proj->base, scope, x, NULL), last;
    mlx_array before = cache ? cache->state : (mlx_array){NULL};
    mlx_array y = zm_prompt_convolve(scope, &last, projected, module->conv->weight, before);
    zm_patch_short_conv_accept(cache, scope, last, zm_dim(x, 1));
    return zm_module_call(&module->out_proj->base, scope, y, NULL);
}

static mlx_array apply_mlp(const zm_gated_mlp *mlp, zm_scope *scope, mlx_array x) {
    mlx_array hidden = zm_prompt_gated(scope, x, &mlp->gate_proj->weight, &mlp->up_proj->weight);
    return zm_module_call(&mlp->down_proj->base, scope, hidden, NULL);
}

/* x: tokens. */
static mlx_array apply_embedding(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    size_t n_tokens = zm_is_set(x) ? mlx_array_size(x) : 0;
    if (zm_scope_failed(scope) || mlx_array_dtype(x) != MLX_INT32 || n_tokens < ZM_PROMPT_LEAST_ROWS ||
        n_tokens > (size_t)state->max_fused_tokens || !serves(self, &reason))
        return zm_patch_original(self, scope, x, call);
    return zm_prompt_embed(scope, x, &((const zm_embedding *)self)->weight);
}

mlx_array zm_patch_prompt_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (self->kind == ZM_MODULE_EMBEDDING) return apply_embedding(self, scope, x, call);
    if (!zm_patch_serves_call(self, x) || !serves(self, &reason) || state->dtype != dtype_of(self))
        return zm_patch_original(self, scope, x, call);
    if (self->kind == ZM_MODULE_MOE && mlx_array_size(x) == (size_t)zm_dim(x, -1) &&
        zm_patch_serves_one_token_moe((const zm_moe *)self, &reason)) {
        zm_moe_arguments arguments = zm_patch_moe_arguments((const zm_moe *)self);
        return zm_decode_moe_alone(scope, x, &arguments);
    }
    size_t rows = mlx_array_size(x) / (size_t)zm_dim(x, -1);
    if (self->kind == ZM_MODULE_MOE) rows *= (size_t)((const zm_moe *)self)->top_k;
    bool serves_rows = rows >= ZM_PROMPT_LEAST_ROWS;
    if (self->kind == ZM_MODULE_LINEAR)
        serves_rows = zm_prompt_gains(weight_of(self), rows) &&
                      (serves_rows ? zm_prompt_serves(weight_of(self), &reason)
                                   : zm_prompt_serves_few(weight_of(self), rows, &reason));
    if (!serves_rows || (self->kind == ZM_MODULE_MOE && rows > ZM_PROMPT_MOST_SORTED))
        return zm_patch_original(self, scope, x, call);
    if (self->kind == ZM_MODULE_LINEAR) return zm_prompt_linear(scope, x, &((const zm_linear *)self)->weight);
    if (self->kind == ZM_MODULE_MOE) return apply_moe((const zm_moe *)self, scope, x);
    if (self->kind == ZM_MODULE_GATED_MLP) return apply_mlp((const zm_gated_mlp *)self, scope, x);
    if (!zm_patch_short_conv_serves_call(x)) return zm_patch_original(self, scope, x, call);
    return apply_conv((const zm_short_conv *)self, scope, x, call);
}
