/* SPDX-License-Identifier: MIT */
/* Latent attention. A single token stays in the latent space, where one key and value serve all heads; several tokens
 * make the keys and values of each head. */
#include <float.h>
#include <limits.h>

#include "model/layers/forward.h"

static mlx_array heads_first(zm_scope *scope, mlx_array x, int n_heads, int head_dim) {
    static const int axes[4] = {0, 2, 1, 3};
    return zm_transpose(scope, zm_reshape4(scope, x, zm_dim(x, 0), zm_dim(x, 1), n_heads, head_dim), axes, 4);
}

static mlx_array last_axis(zm_scope *scope, mlx_array x, int start, int stop) {
    return zm_slice_axis(scope, x, -1, start, stop, 1);
}

static mlx_array project_queries(const zm_latent_attention *attention, zm_scope *scope, mlx_array x) {
    if (attention->q_proj) return zm_module_call(&attention->q_proj->base, scope, x, NULL);
    x = zm_module_call(&attention->q_a_proj->base, scope, x, NULL);
    x = zm_module_call(&attention->q_a_layernorm->base, scope, x, NULL);
    return zm_module_call(&attention->q_b_proj->base, scope, x, NULL);
}

/* The dtype's most negative finite value. */
static mlx_array lowest_like(zm_scope *scope, mlx_array x) {
    const double largest_bfloat16 = 0x1.fep127, largest_float16 = 65504;
    if (zm_scope_failed(scope)) return x;
    mlx_dtype dtype = mlx_array_dtype(x);
    double largest = dtype == MLX_BFLOAT16 ? largest_bfloat16 : dtype == MLX_FLOAT16 ? largest_float16 : FLT_MAX;
    return zm_scalar(scope, -largest, dtype);
}

/* The rotated part of the scores, which attention takes as its mask. */
static mlx_array rotated_scores(const zm_latent_attention *attention, zm_scope *scope, mlx_array queries,
                                mlx_array keys, const zm_mask *mask) {
    queries = zm_multiply(scope, queries, zm_scalar_like(scope, attention->scale, queries));
    mlx_array scores = zm_matmul(scope, queries, zm_swapaxes(scope, keys, -1, -2));
    return zm_is_set(mask->array) ? zm_where(scope, mask->array, scores, lowest_like(scope, scores)) : scores;
}

mlx_array zm_latent_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    static const int length_first[4] = {0, 2, 1, 3};
    const zm_latent_attention *attention = (const zm_latent_attention *)self;
    int nope = attention->qk_nope_head_dim, rope = attention->qk_rope_head_dim, rank = attention->kv_lora_rank;
    mlx_array queries = heads_first(scope, project_queries(attention, scope, x), attention->n_heads, nope + rope);
    mlx_array compressed = zm_module_call(&attention->kv_a_proj_with_mqa->base, scope, x, NULL);
    mlx_array q_rope = last_axis(scope, queries, nope, INT_MAX);
    mlx_array k_rope = heads_first(scope, last_axis(scope, compressed, rank, INT_MAX), 1, rope);
    mlx_array latent =
        zm_module_call(&attention->kv_a_layernorm->base, scope, last_axis(scope, compressed, 0, rank), NULL);
    int offset = call->cache ? call->cache->offset : 0;
    queries = last_axis(scope, queries, 0, nope);
    q_rope = zm_rope_apply(scope, q_rope, &attention->rope, offset);
    k_rope = zm_rope_apply(scope, k_rope, &attention->rope, offset);
    latent = zm_expand_dims(scope, latent, 1);
    if (call->cache) zm_cache_update(call->cache, scope, &latent, &k_rope);

    mlx_array scores = rotated_scores(attention, scope, q_rope, k_rope, &call->mask), keys = latent, values = latent;
    bool is_single = zm_dim(x, 1) == 1;
    if (is_single) {
        queries = zm_module_call(&attention->embed_q->base, scope, queries, NULL);
    } else {
        keys = zm_heads_apply(scope, latent, &attention->embed_q->weight, false);
        values = zm_module_call(&attention->unembed_out->base, scope, latent, NULL);
    }
    mlx_array output = zm_scaled_dot_product_attention(scope, queries, keys, values, (float)attention->scale, "array",
                                                       scores, (mlx_array){NULL});
    if (is_single) output = zm_module_call(&attention->unembed_out->base, scope, output, NULL);
    output = zm_transpose(scope, output, length_first, 4);
    output = zm_reshape3(scope, output, zm_dim(x, 0), zm_dim(x, 1), attention->n_heads * attention->v_head_dim);
    return zm_module_call(&attention->o_proj->base, scope, output, NULL);
}
