/* SPDX-License-Identifier: MIT */
/* The gated delta net: mlx-lm's plain operations, which it takes wherever it has no Metal kernel. */
#include <limits.h>
#include <math.h>
#include <stdlib.h>

#include "model/layers/forward.h"

/* What the projections give, (batch, length, ...). */
typedef struct projections {
    mlx_array qkv;  /* 2 * n_k_heads * head_k_dim + n_v_heads * head_v_dim */
    mlx_array z;    /* n_v_heads, head_v_dim */
    mlx_array b, a; /* n_v_heads */
} projections;

static mlx_array last_axis(zm_scope *scope, mlx_array x, int start, int stop) {
    return zm_slice_axis(scope, x, -1, start, stop, 1);
}

/* (batch, length, features) -> (batch, length, heads, features / heads). */
static mlx_array split_heads(zm_scope *scope, mlx_array x, int n_heads) {
    if (zm_scope_failed(scope)) return x;
    return zm_reshape4(scope, x, zm_dim(x, 0), zm_dim(x, 1), n_heads, zm_dim(x, 2) / n_heads);
}

/* The opposite. */
static mlx_array join_heads(zm_scope *scope, mlx_array x) {
    return zm_reshape3(scope, x, zm_dim(x, 0), zm_dim(x, 1), zm_dim(x, 2) * zm_dim(x, 3));
}

static mlx_array call(const zm_linear *linear, zm_scope *scope, mlx_array x) {
    return zm_module_call((zm_module *)&linear->base, scope, x, NULL);
}

/* qwen3_next: [q, k, v, z] and [b, a] of one key head behind those of another. */
static projections project_interleaved(const zm_delta_net *net, zm_scope *scope, mlx_array x) {
    int group = net->n_v_heads / net->n_k_heads, dk = net->head_k_dim, dv = group * net->head_v_dim;
    mlx_array qkvz = split_heads(scope, call(net->in_proj[0], scope, x), net->n_k_heads);
    mlx_array ba = split_heads(scope, call(net->in_proj[1], scope, x), net->n_k_heads);
    mlx_array q = join_heads(scope, last_axis(scope, qkvz, 0, dk));
    mlx_array k = join_heads(scope, last_axis(scope, qkvz, dk, 2 * dk));
    mlx_array v = join_heads(scope, last_axis(scope, qkvz, 2 * dk, 2 * dk + dv));
    mlx_array z = join_heads(scope, last_axis(scope, qkvz, 2 * dk + dv, INT_MAX));
    return (projections){.qkv = zm_concatenate(scope, zm_concatenate(scope, q, k, -1), v, -1),
                         .z = split_heads(scope, z, net->n_v_heads),
                         .b = join_heads(scope, last_axis(scope, ba, 0, group)),
                         .a = join_heads(scope, last_axis(scope, ba, group, INT_MAX))};
}

static projections project(const zm_delta_net *net, zm_scope *scope, mlx_array x) {
    if (net->n_in_proj == 2) return project_interleaved(net, scope, x);
    return (projections){.qkv = call(net->in_proj[0], scope, x),
                         .z = split_heads(scope, call(net->in_proj[1], scope, x), net->n_v_heads),
                         .b = call(net->in_proj[2], scope, x),
                         .a = call(net->in_proj[3], scope, x)};
}

/* Queries or keys, one a value head: factor times their RMS norm. */
static mlx_array normalise(const zm_delta_net *net, zm_scope *scope, mlx_array x, double factor, double eps) {
    x = zm_rms_norm(scope, x, (mlx_array){NULL}, (float)eps);
    x = zm_multiply(scope, zm_scalar_like(scope, factor, x), x);
    int group = net->n_v_heads / net->n_k_heads;
    if (group == 1 || zm_scope_failed(scope)) return x;
    int shape[5] = {zm_dim(x, 0), zm_dim(x, 1), net->n_k_heads, group, net->head_k_dim};
    return zm_flatten(scope, zm_broadcast_to(scope, zm_expand_dims(scope, x, 3), shape, 5), 2, 3);
}

/* exp(-exp(A_log) softplus(a + dt_bias)) */
static mlx_array decay(const zm_delta_net *net, zm_scope *scope, mlx_array a) {
    mlx_array rate = zm_negative(scope, zm_exp(scope, zm_astype(scope, net->A_log, MLX_FLOAT32)));
    a = zm_add(scope, a, net->dt_bias);
    a = zm_logaddexp(scope, a, zm_scalar_like(scope, 0, a));
    return zm_exp(scope, zm_multiply(scope, rate, a));
}

/* Token t of x (batch, length, ...). */
static mlx_array token(zm_scope *scope, mlx_array x, int t) {
    return zm_squeeze(scope, zm_slice_axis(scope, x, 1, t, t + 1, 1), 1);
}

typedef struct delta_input {
    mlx_array q, k;           /* (batch, length, n_v_heads, head_k_dim) */
    mlx_array v;              /* (batch, length, n_v_heads, head_v_dim) */
    mlx_array decay, beta;    /* (batch, length, n_v_heads) */
} delta_input;

/* (..., n) -> (..., 1, n) */
static mlx_array as_row(zm_scope *scope, mlx_array x) { return zm_expand_dims(scope, x, -2); }

/* One token: advances *memory and returns y (batch, n_v_heads, head_v_dim). */
static mlx_array step(zm_scope *scope, mlx_array *memory, const delta_input *input, int t) {
    mlx_array q = token(scope, input->q, t), k = as_row(scope, token(scope, input->k, t));
    mlx_array kept = token(scope, input->decay, t);
    kept = zm_expand_dims(scope, zm_expand_dims(scope, kept, -1), -1);
    mlx_array state = zm_multiply(scope, *memory, kept);
    mlx_array recalled = zm_sum(scope, zm_multiply(scope, state, k), -1, false);
    mlx_array delta = zm_subtract(scope, token(scope, input->v, t), recalled);
    delta = zm_multiply(scope, delta, zm_expand_dims(scope, token(scope, input->beta, t), -1));
    state = zm_add(scope, state, zm_multiply(scope, k, zm_expand_dims(scope, delta, -1)));
    mlx_array y = zm_sum(scope, zm_multiply(scope, state, as_row(scope, q)), -1, false);
    *memory = state;
    return zm_scope_failed(scope) ? y : zm_astype(scope, y, mlx_array_dtype(q));
}

/* Every token in turn; the cache, if any, keeps the state. */
static mlx_array recur(const zm_delta_net *net, zm_scope *scope, const delta_input *input, zm_cache *cache) {
    if (zm_scope_failed(scope)) return input->v;
    int shape[4] = {zm_dim(input->v, 0), net->n_v_heads, net->head_v_dim, net->head_k_dim};
    int length = zm_dim(input->v, 1);
    bool has_state = cache && zm_is_set(cache->memory);
    mlx_array memory = has_state ? cache->memory : zm_zeros(scope, shape, 4, MLX_FLOAT32);
    mlx_array *outputs = calloc((size_t)length, sizeof *outputs);
    if (!outputs) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, net->base.path, "out of memory");
    for (int t = 0; t < length; t++) outputs[t] = step(scope, &memory, input, t);
    mlx_array y = zm_stack(scope, outputs, (size_t)length, 1);
    free(outputs);
    if (cache) zm_scope_keep(scope, &cache->memory, memory);
    return y;
}

/* silu(z) * norm(y) in float32, rounded once. */
static mlx_array gate_output(const zm_delta_net *net, zm_scope *scope, mlx_array y, mlx_array z) {
    if (zm_scope_failed(scope)) return y;
    mlx_dtype dtype = mlx_array_dtype(y);
    mlx_array normed = zm_module_call(&net->norm->base, scope, y, NULL);
    z = zm_astype(scope, z, MLX_FLOAT32);
    z = zm_multiply(scope, z, zm_sigmoid(scope, z));
    return zm_astype(scope, zm_multiply(scope, z, zm_astype(scope, normed, MLX_FLOAT32)), dtype);
}

mlx_array zm_delta_net_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *of) {
    const zm_delta_net *net = (const zm_delta_net *)self;
    int key_dim = net->n_k_heads * net->head_k_dim;
    projections made = project(net, scope, x);
    mlx_array mixed = zm_join_state(scope, made.qkv, of->cache, net->conv->taps - 1);
    mixed = zm_module_call(&net->conv->base, scope, mixed, NULL);
    mixed = zm_multiply(scope, mixed, zm_sigmoid(scope, mixed));

    mlx_array q = split_heads(scope, last_axis(scope, mixed, 0, key_dim), net->n_k_heads);
    mlx_array k = split_heads(scope, last_axis(scope, mixed, key_dim, 2 * key_dim), net->n_k_heads);
    double inverse = pow(net->head_k_dim, -0.5), eps = 1e-6 * (inverse * inverse); /* |k| becomes 1, |q| inverse */
    delta_input input = {.q = normalise(net, scope, q, inverse * inverse, eps),
                         .k = normalise(net, scope, k, inverse, eps),
                         .v = split_heads(scope, last_axis(scope, mixed, 2 * key_dim, INT_MAX), net->n_v_heads),
                         .decay = decay(net, scope, made.a),
                         .beta = zm_sigmoid(scope, made.b)};
    mlx_array y = recur(net, scope, &input, of->cache);
    return call(net->out_proj, scope, join_heads(scope, gate_output(net, scope, y, made.z)));
}
