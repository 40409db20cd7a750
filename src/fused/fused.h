/* SPDX-License-Identifier: MIT */
/* The fused operations as graph nodes: one call, one node.
 *
 * x: (..., in) in float32, float16 or bfloat16; the result has x's dtype. Arithmetic is float32 and is
 * rounded once at the node's output; scales, biases and dense weights may have any of the three types.
 * A row's bits do not depend on the number of rows, of threads or on the run. Weights are read in place
 * in MLX's own layout: nothing is copied or repacked, only edges stand beside it. Gradients are refused by
 * name. A pool must live until the nodes made with it have run and been freed. */
#ifndef ZM_FUSED_FUSED_H
#define ZM_FUSED_FUSED_H

#include <stdbool.h>

#include "fused/compute.h"
#include "mlx/scope.h"
#include "mlx/weight.h"

typedef struct zm_gated_mlp_arguments {
    const zm_weight *gate, *up, *down;
    zm_activation activation;
} zm_gated_mlp_arguments;

typedef struct zm_moe_arguments {
    const zm_weight *router;           /* (n_experts, in) */
    mlx_array expert_bias;             /* (n_experts,) float32, or empty */
    const zm_weight *gate, *up, *down; /* stacked */
    const zm_weight *shared_gate, *shared_up, *shared_down; /* an MLP for every token, added to the sum; or NULL */
    const zm_weight *shared_router; /* (1, in): its sigmoid multiplies that MLP's result; or NULL */
    zm_activation activation;                               /* of both */
    zm_gating gating;
    int top_k;
    int n_groups, top_groups; /* ZM_GATING_SIGMOID_GROUPS: of the experts, and those to choose from */
    bool normalize_top_k;    /* divide the weights by their sum */
    float normalize_epsilon; /* added to that sum (lfm2_moe: 1e-6) */
    float routed_scaling_factor;
} zm_moe_arguments;

typedef struct zm_short_conv_arguments {
    const zm_weight *in_proj, *out_proj; /* (3 * size, in), (out, size) */
    mlx_array conv_weight, conv_bias;    /* (size, taps, 1); (size,) or empty */
    mlx_array last;                      /* (1, taps - 1, size) earlier gated inputs; empty: zeros */
    int taps;                            /* at least 2 */
} zm_short_conv_arguments;

typedef struct zm_delta_net_arguments {
    const zm_weight *in_proj[4]; /* two: [q, k, v, z] of each key head, [b, a]; four: [q, k, v], z, b, a */
    int n_in_proj;
    const zm_weight *out_proj; /* (out, n_v_heads * head_v_dim) */
    mlx_array conv_weight;     /* (channels, taps, 1), of all [q, k, v] */
    mlx_array A_log, dt_bias;  /* (n_v_heads,) */
    mlx_array norm;            /* (head_v_dim,): RMS norm of each head's result */
    float norm_eps;
    int n_k_heads, n_v_heads, head_k_dim, head_v_dim; /* n_v_heads: a multiple; head_k_dim: of ZM_HEAD_UNIT */
    int taps;                                         /* at least 2 */
    mlx_array last;   /* (1, taps - 1, channels) earlier inputs of the convolution; empty: zeros */
    mlx_array memory; /* (1, n_v_heads, head_v_dim, head_k_dim) float32, the state; empty: zeros */
} zm_delta_net_arguments;

/* Rotary embedding of the first 2 * n_freqs features of a head: pairs (i, i + n_freqs), or (2i, 2i + 1) when
 * traditional, turn by inverse_freqs[i] * (position * position_scale). */
typedef struct zm_rotation {
    mlx_array inverse_freqs; /* (n_freqs,) float32 */
    bool traditional;
    float position_scale;
    float input_scale; /* multiplies the rotated features first */
} zm_rotation;

typedef struct zm_attention_arguments {
    const zm_weight *q_proj, *k_proj, *v_proj; /* (heads * head_dim, in) */
    bool has_output_gate; /* q_proj has a gate behind each head's query: o_proj takes heads * sigmoid(gate) */
    const zm_weight *o_proj;                   /* (out, n_heads * head_dim) */
    mlx_array q_norm, k_norm;                  /* (head_dim,): RMS norms of each head, or empty */
    float q_norm_eps, k_norm_eps;
    zm_rotation rotation;
    mlx_array sinks; /* (n_heads,), one more score a head that has no value; or empty */
    int n_heads, n_kv_heads, head_dim;
    float scale; /* of the scores */
    /* The cache: (1, n_kv_heads, rows, head_dim) in x's type. Token t is at position offset + t and goes to row
     * first_row + t; then n_rows rows are filled. It attends to the rows up to its own, at most window of them
     * (0: all); a single token to all n_rows rows. */
    mlx_array keys, values;
    int offset, first_row, n_rows, window;
} zm_attention_arguments;

/* Latents and rotated keys of n_rows tokens, (1, 1, rows, features), the last of which are those of the queries; all
 * heads share them. The sum of both parts' features is a multiple of ZM_HEAD_UNIT. */
typedef struct zm_latent_attention_arguments {
    mlx_array q_rope; /* (1, heads, length, rope features) */
    mlx_array latents, k_rope;
    int n_rows; /* filled; there may be more in the arrays */
    float scale;
} zm_latent_attention_arguments;

/* A decoder block: one operator and one feed-forward part, the other pointers NULL. */
typedef struct zm_block_arguments {
    mlx_array operator_norm, feed_forward_norm; /* (in,): weights of the RMS norms */
    float operator_eps, feed_forward_eps;
    const zm_attention_arguments *attention;
    const zm_short_conv_arguments *short_conv;
    const zm_delta_net_arguments *delta_net;
    const zm_gated_mlp_arguments *gated_mlp;
    const zm_moe_arguments *moe;
} zm_block_arguments;

/* Whether the node can serve this weight on the CPU; otherwise *reason (static text) says why not. */
bool zm_fused_weight_supported(const zm_weight *weight, const char **reason);

/* *edges and *first_exponent are those of the weight's evaluated scales and biases (cpu/edges.h), from which one to
 * three tokens' products then read them: the same numbers, half the bytes. *edges is the caller's; empty where the
 * scales are not bfloat16, have no such form or are not those that MLX's quantiser makes. */
zmlx_status zm_fused_edges(mlx_array *edges, int *first_exponent, const zm_weight *weight, zm_pool *pool,
                           zmlx_error *error);

/* Whether ZM_PRECISION_INT8 has kernels on this processor; without, it means ZM_PRECISION_FLOAT32. */
bool zm_fused_int8_supported(const char **reason);

/* The rows of an affine table for int32 ids (...), in float32: the bits of MLX's take and dequantize of scales in
 * float32 or, without loss, in bfloat16. Negative ids count from the end; where there is no such row, the result is not
 * a number. */
bool zm_fused_embedding_supported(const zm_weight *table);
mlx_array zm_fused_embedding(zm_scope *, mlx_array ids, const zm_weight *table);
/* y = x W^T (+ bias). */
mlx_array zm_fused_linear(zm_scope *, mlx_array x, const zm_weight *weight, zm_compute compute);
/* The same with a matrix for each head: x (1, heads, length, in) or, one for all heads, (1, 1, length, in) to
 * (1, heads, length, out), weight->n_experts being the heads. */
mlx_array zm_fused_multi_linear(zm_scope *, mlx_array x, const zm_weight *weight, zm_compute compute);
/* The greedy token of each position of x (batch, length, in), uint32 (batch, length): the lowest index of the largest
 * of l - log(sum(e^l)), l = x W^T (+ bias), with l and the difference rounded to x's type as MLX's operations do.
 * ZM_NO_TOKEN where that sum is not finite; as an int32 it is -1, of which an embedding takes its last row. */
#define ZM_NO_TOKEN UINT32_MAX
mlx_array zm_fused_lm_head(zm_scope *, mlx_array x, const zm_weight *weight, zm_compute compute);
/* y = down(h(gate(x), up(x))): the whole MLP in one node. */
mlx_array zm_fused_gated_mlp(zm_scope *, mlx_array x, const zm_gated_mlp_arguments *arguments, zm_compute compute);
/* y = sum over the chosen experts of weight * down(h(gate(x), up(x))), and the shared MLP's result: router, choice,
 * experts and combine in one node. */
mlx_array zm_fused_moe(zm_scope *, mlx_array x, const zm_moe_arguments *arguments, zm_compute compute);
/* y = x * (mean(x^2) + eps)^(-1/2) * weight over the last dimension: mlx.fast.rms_norm. */
mlx_array zm_fused_rms_norm(zm_scope *, mlx_array x, mlx_array weight, float eps);
/* *h = x + residual; the result is the RMS norm of *h as it is stored. */
mlx_array zm_fused_add_rms_norm(zm_scope *, mlx_array *h, mlx_array x, mlx_array residual, mlx_array weight,
                                float eps);
/* The gated short convolution of lfm2: b, c, v = in_proj(x); y = out_proj(c * conv(b * v)). x is one
 * sequence (1, length, in); *last becomes the last gated inputs, for the next call. */
mlx_array zm_fused_short_conv(zm_scope *, mlx_array *last, mlx_array x,
                              const zm_short_conv_arguments *arguments, zm_compute compute);

/* The gated delta net of qwen3_next (model/layers.h has the formula). x is one sequence (1, length, in); *last and
 * *memory are for the next call. */
mlx_array zm_fused_delta_net(zm_scope *, mlx_array *last, mlx_array *memory, mlx_array x,
                             const zm_delta_net_arguments *arguments, zm_compute compute);

/* y = o_proj(attention(rope(norm(q_proj(x))), keys, values)). x is one sequence (1, length, in). *keys and
 * *values become the arguments' with the new rows written: in the same buffers, so the arguments' rows at and
 * after first_row must not be read any more. */
mlx_array zm_fused_attention(zm_scope *, mlx_array *keys, mlx_array *values, mlx_array x,
                             const zm_attention_arguments *arguments, zm_compute compute);

/* softmax(scale (x . latents + q_rope . k_rope)) latents: x (1, heads, length, latent features), of which each token
 * sees the rows up to its own; the result has x's shape. */
mlx_array zm_fused_latent_attention(zm_scope *, mlx_array x, const zm_latent_attention_arguments *arguments,
                                    zm_compute compute);

/* h = x + operator(rms_norm(x)); y = h + feed_forward(rms_norm(h)): a whole block. kept becomes the operator's further
 * results: keys and values, or the last inputs and a state or nothing. For several tokens h and y are nodes of their
 * own: of the last block of a prompt only the cache may be wanted. */
mlx_array zm_fused_block(zm_scope *, mlx_array kept[2], mlx_array x, const zm_block_arguments *arguments,
                         zm_compute compute);

/* What nodes of several blocks have in common. It keeps the weights' arrays. */
typedef struct zm_blocks_plan zm_blocks_plan;
void zm_blocks_plan_free(zm_blocks_plan *plan); /* nodes made with it live on; NULL is fine */

/* n_blocks >= 1 of them, one behind the other, in one node: the same bits. kept[i] are the further results of block i.
 * *plan: NULL or that of an earlier call, to be freed by the caller; with the same weights a call is then made
 * faster. */
mlx_array zm_fused_blocks(zm_scope *, mlx_array (*kept)[2], mlx_array x, const zm_block_arguments *arguments,
                          int n_blocks, zm_compute compute, zm_blocks_plan **plan);

#endif
