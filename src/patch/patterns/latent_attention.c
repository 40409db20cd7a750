/* SPDX-License-Identifier: MIT */
/* attention, of the latent kind: projections, norms, the heads' maps and the attention over latents, an operation each.
 * Several tokens stay in the latent space, too, where single ones are. */
#include <limits.h>

#include "patch/patterns/parts.h"

static bool serves_multi(const zm_linear *linear, int n_heads, int in, int out, const char **reason) {
    *reason = "a map of its heads is missing or of another kind";
    if (!linear || linear->base.kind != ZM_MODULE_MULTI_LINEAR || !zm_patch_is_standard(&linear->base)) return false;
    const zm_weight *weight = &linear->weight;
    if (weight->n_experts != n_heads || weight->in_features != in || weight->out_features != out) return false;
    return zm_fused_weight_supported(weight, reason);
}

static bool serves_queries(const zm_latent_attention *module, const char **reason) {
    if (module->q_proj) return zm_patch_serves_linear(module->q_proj, 0, reason);
    return zm_patch_serves_linear(module->q_a_proj, 0, reason) && zm_patch_serves_norm(module->q_a_layernorm, reason) &&
           zm_patch_serves_linear(module->q_b_proj, 0, reason);
}

bool zm_patch_serves_latent_attention(const zm_latent_attention *module, const char **reason) {
    int n_heads = module->n_heads, rank = module->kv_lora_rank, nope = module->qk_nope_head_dim;
    if (!serves_queries(module, reason) || !zm_patch_serves_linear(module->kv_a_proj_with_mqa, 0, reason) ||
        !zm_patch_serves_linear(module->o_proj, 0, reason) || !zm_patch_serves_norm(module->kv_a_layernorm, reason) ||
        !serves_multi(module->embed_q, n_heads, nope, rank, reason) ||
        !serves_multi(module->unembed_out, n_heads, rank, module->v_head_dim, reason))
        return false;
    *reason = "its projections do not fit together";
    const zm_linear *to_queries = module->q_proj ? module->q_proj : module->q_b_proj;
    if (to_queries->weight.out_features != n_heads * (nope + module->qk_rope_head_dim) ||
        module->kv_a_proj_with_mqa->weight.out_features != rank + module->qk_rope_head_dim ||
        module->o_proj->weight.in_features != n_heads * module->v_head_dim)
        return false;
    *reason = "its latent and rotated features are together no multiple of 16";
    return (rank + module->qk_rope_head_dim) % ZM_HEAD_UNIT == 0;
}

static mlx_array apply(zm_scope *scope, mlx_array x, const zm_linear *linear, zm_compute compute) {
    return zm_fused_linear(scope, x, &linear->weight, compute);
}

static mlx_array rms_norm(zm_scope *scope, mlx_array x, const zm_norm *norm) {
    return zm_fused_rms_norm(scope, x, norm->weight, norm->eps);
}

static mlx_array features(zm_scope *scope, mlx_array x, int start, int stop) {
    return zm_slice_axis(scope, x, -1, start, stop, 1);
}

/* (1, length, heads * features) -> (1, heads, length, features) and back. */
static mlx_array split_heads(zm_scope *scope, mlx_array x, int n_heads, int size) {
    static const int heads_first[4] = {0, 2, 1, 3};
    return zm_transpose(scope, zm_reshape4(scope, x, 1, zm_dim(x, 1), n_heads, size), heads_first, 4);
}

static mlx_array join_heads(zm_scope *scope, mlx_array x) {
    static const int length_first[4] = {0, 2, 1, 3};
    return zm_reshape3(scope, zm_transpose(scope, x, length_first, 4), 1, zm_dim(x, 2), zm_dim(x, 1) * zm_dim(x, 3));
}

static mlx_array attend(const zm_latent_attention *module, zm_scope *scope, mlx_array x, zm_cache *cache,
                        zm_compute compute) {
    int nope = module->qk_nope_head_dim, rope = module->qk_rope_head_dim, rank = module->kv_lora_rank;
    int offset = cache->offset;
    mlx_array queries = x;
    if (!module->q_proj) queries = rms_norm(scope, apply(scope, x, module->q_a_proj, compute), module->q_a_layernorm);
    queries = apply(scope, queries, module->q_proj ? module->q_proj : module->q_b_proj, compute);
    queries = split_heads(scope, queries, module->n_heads, nope + rope);
    mlx_array compressed = apply(scope, x, module->kv_a_proj_with_mqa, compute);
    mlx_array k_rope = split_heads(scope, features(scope, compressed, rank, INT_MAX), 1, rope);
    mlx_array latent = rms_norm(scope, features(scope, compressed, 0, rank), module->kv_a_layernorm);
    latent = zm_expand_dims(scope, latent, 1);
    mlx_array q_rope = zm_rope_apply(scope, features(scope, queries, nope, INT_MAX), &module->rope, offset);
    k_rope = zm_rope_apply(scope, k_rope, &module->rope, offset);
    zm_cache_update(cache, scope, &latent, &k_rope);
    if (zm_scope_failed(scope)) return x;

    zm_latent_attention_arguments arguments = {.q_rope = q_rope,
                                               .latents = cache->keys,
                                               .k_rope = cache->values,
                                               .n_rows = cache->offset,
                                               .scale = (float)module->scale};
    queries = zm_fused_multi_linear(scope, features(scope, queries, 0, nope), &module->embed_q->weight, compute);
    mlx_array output = zm_fused_latent_attention(scope, queries, &arguments, compute);
    output = zm_fused_multi_linear(scope, output, &module->unembed_out->weight, compute);
    return apply(scope, join_heads(scope, output), module->o_proj, compute);
}

mlx_array zm_patch_latent_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_latent_attention *module = (const zm_latent_attention *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !call || !call->cache || call->cache->kind != ZM_CACHE_KV ||
        mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1 || !zm_patch_serves_latent_attention(module, &reason))
        return zm_patch_original(self, scope, x, call);
    return attend(module, scope, x, call->cache, state->compute);
}
