/* SPDX-License-Identifier: MIT */
#include <limits.h>

#include "model/layers/forward.h"

/* (batch, length, heads * width) -> (batch, length, heads, width). */
static mlx_array split_heads(zm_scope *scope, mlx_array x, int n_heads, int width) {
    return zm_reshape4(scope, x, zm_dim(x, 0), zm_dim(x, 1), n_heads, width);
}

/* (batch, length, heads, head_dim) -> (batch, heads, length, head_dim), normed per head. */
static mlx_array heads_first(zm_scope *scope, mlx_array x, zm_norm *norm) {
    static const int order[4] = {0, 2, 1, 3};
    if (norm) x = zm_module_call(&norm->base, scope, x, NULL);
    return zm_transpose(scope, x, order, 4);
}

mlx_array zm_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    static const int length_first[4] = {0, 2, 1, 3};
    const zm_attention *attention = (const zm_attention *)self;
    mlx_array queries = zm_module_call(&attention->q_proj->base, scope, x, NULL);
    mlx_array keys = zm_module_call(&attention->k_proj->base, scope, x, NULL);
    mlx_array values = zm_module_call(&attention->v_proj->base, scope, x, NULL);
    int head_dim = attention->head_dim, n_kv_heads = attention->n_kv_heads;
    mlx_array gate = {NULL};
    queries = split_heads(scope, queries, attention->n_heads, attention->has_output_gate ? 2 * head_dim : head_dim);
    if (attention->has_output_gate) {
        gate = zm_slice_axis(scope, queries, -1, head_dim, INT_MAX, 1);
        gate = zm_reshape3(scope, gate, zm_dim(x, 0), zm_dim(x, 1), attention->n_heads * head_dim);
        queries = zm_slice_axis(scope, queries, -1, 0, head_dim, 1);
    }
    queries = heads_first(scope, queries, attention->q_norm);
    keys = heads_first(scope, split_heads(scope, keys, n_kv_heads, head_dim), attention->k_norm);
    values = heads_first(scope, split_heads(scope, values, n_kv_heads, head_dim), NULL);

    int offset = call->cache ? call->cache->offset : 0;
    queries = zm_rope_apply(scope, queries, &attention->rope, offset);
    keys = zm_rope_apply(scope, keys, &attention->rope, offset);
    if (call->cache) zm_cache_update(call->cache, scope, &keys, &values);

    mlx_array output =
        zm_scaled_dot_product_attention(scope, queries, keys, values, attention->scale, call->mask.mode,
                                        call->mask.array, attention->sinks);
    output = zm_transpose(scope, output, length_first, 4);
    output = zm_reshape3(scope, output, zm_dim(output, 0), zm_dim(output, 1), attention->n_heads * head_dim);
    if (attention->has_output_gate) output = zm_multiply(scope, output, zm_sigmoid(scope, gate));
    return zm_module_call(&attention->o_proj->base, scope, output, NULL);
}
