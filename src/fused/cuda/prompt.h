/* SPDX-License-Identifier: MIT */
/* Products of many rows on a CUDA device, on tensor cores, with the bits of MLX's own operations on affine weights in
 * bfloat16 or float16 (prompt.cuh says which order of sums that is), and what stands between them. Each function is one
 * or a few nodes of MLX's graph.
 *
 * Experts in mxfp4 keep the order of MLX's vector kernel instead, which it has for them at any number of rows
 * (decode_sorted.cuh).
 *
 * MLX itself takes the others from ZM_PROMPT_LEAST_ROWS rows on; for fewer its sums have another order, which only
 * zm_prompt_linear has. Rows are those of x, or of all experts chosen for them. */
#ifndef ZM_FUSED_CUDA_PROMPT_H
#define ZM_FUSED_CUDA_PROMPT_H

#include "fused/fused.h"

enum { ZM_PROMPT_LEAST_FEW = 2, ZM_PROMPT_LEAST_ROWS = 8, ZM_PROMPT_MOST_SORTED = 65535 };

/* Whether MLX here runs on a GPU that can run the kernels: CUDA, compute capability 9.0 (their instructions are
 * Hopper's). */
bool zm_prompt_available(void);
/* Whether the kernels serve this weight, by its declared fields; *reason (static text): why not. */
bool zm_prompt_serves(const zm_weight *weight, const char **reason);
/* Whether zm_prompt_linear is faster than MLX's operation for so many rows of x, where it serves them: measured on an
 * H100 (bench/results/prefill-h100.txt). */
bool zm_prompt_gains(const zm_weight *weight, size_t rows);
/* Compiles a kernel for this weight, which they or zm_prompt_serves_few serve, so that one that does not compile is
 * found early. */
zmlx_status zm_prompt_prepare(const zm_weight *weight, zmlx_error *error);

/* Whether zm_prompt_linear serves so few rows of x, 2 to 7, of affine weights of any width: there it reads the weights
 * once and keeps the order of sums of MLX's vector kernel for each row. */
bool zm_prompt_serves_few(const zm_weight *weight, size_t rows, const char **reason);
/* x W^T (+ bias): x (..., in). */
mlx_array zm_prompt_linear(zm_scope *scope, mlx_array x, const zm_weight *weight);
/* silu(x G^T) * (x U^T), of weights packed alike. */
mlx_array zm_prompt_gated(zm_scope *scope, mlx_array x, const zm_weight *gate, const zm_weight *up);
typedef struct zm_gating_arguments {
    mlx_array expert_bias; /* (n_experts,) float32, or empty */
    zm_gating gating;
    int n_experts, top_k;
    bool normalize_top_k;
    float normalize_epsilon, routed_scaling_factor;
} zm_gating_arguments;
/* Whether zm_prompt_route has this gating, for logits in bfloat16 or float16. */
bool zm_prompt_serves_gating(const zm_gating_arguments *gating, const char **reason);
/* The experts that logits (..., n_experts) choose, in MLX's order, and their weights: (..., top_k), uint32 and the
 * logits' type. */
void zm_prompt_route(zm_scope *scope, mlx_array *chosen, mlx_array *weights, mlx_array logits,
                     const zm_gating_arguments *gating);
/* Rows of a table (rows, hidden_size) for tokens (...) int32: (..., hidden_size). Its weights are as zm_prompt_serves
 * says. */
mlx_array zm_prompt_embed(zm_scope *scope, mlx_array tokens, const zm_weight *table);
/* c * conv(b * v) with three taps (size, 3, 1): projected (1, length, 3 * size), at least two rows, is b, c and v.
 * before (1, 2, size): the last b * v of earlier tokens, or empty: zeros; *last: those behind these. size: a multiple
 * of 8. */
mlx_array zm_prompt_convolve(zm_scope *scope, mlx_array *last, mlx_array projected, mlx_array taps, mlx_array before);
/* Sum over i, in order, of weights[..., i] * down(activation(gate x, up x)) of expert chosen[..., i]: affine with
 * SWIGLU and without biases, or mxfp4 (up to ZM_PROMPT_MOST_SORTED rows) with that or SWIGLU_OAI and with biases or
 * without. x (..., in), chosen uint32 and weights (..., top_k). Of arguments only gate, up, down and activation
 * count. */
mlx_array zm_prompt_experts(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, mlx_array chosen,
                            mlx_array weights);

#endif
