/* SPDX-License-Identifier: MIT */
/* The parts of a decoder for one token, as links of a chain of CUDA kernels (mlx/chain.h), in bfloat16 or float16.
 * Every result has the bits of the MLX operations it stands for, as MLX's CUDA back end computes them for one token.
 *
 *     zm_decode decode;
 *     zm_decode_begin(&decode, scope, dtype, hidden_size, head_dim, top_k);
 *     zm_place h = zm_decode_embed(&decode, token, table);
 *     h = zm_decode_mlp(&decode, h, norm, gate, up, down);
 *     zm_decode_head(&decode, h, last_norm, lm_head, zm_decode_output(&decode, dtype, 1, &vocab_size));
 *     zm_decode_end(&decode, results);
 *
 * A place names an array on the device that one part writes and later ones read. The residual stream h has hidden_size
 * elements. Failures are the scope's. Weights are affine or mxfp4, evaluated, and must stay until the results have
 * been. What has a type (weights, norms, taps, sinks, caches) has that of the whole decode. */
#ifndef ZM_FUSED_CUDA_DECODE_H
#define ZM_FUSED_CUDA_DECODE_H

#include "fused/fused.h"
#include "mlx/chain.h"

typedef int zm_place;

typedef struct zm_decode {
    zm_scope *scope;
    zm_chain *chain; /* NULL after a failure */
    mlx_dtype dtype;
    int hidden_size, head_dim, top_k;
    int n_outputs;
    bool publishes;       /* zm_decode_publish */
    int last_bytes;       /* of a multiprocessor's shared memory: what a block of the last launch takes */
    int last_registers;   /* and of its first scheduler's registers */
    bool last_everywhere; /* it has a block on each multiprocessor */
    bool has_room;        /* attention behind the last qkv: beside qkv and what came before that */
} zm_decode;

typedef struct zm_decode_norm {
    mlx_array weight;
    float eps;
} zm_decode_norm;

typedef struct zm_decode_attention_arguments {
    const zm_decode_norm *q_norm, *k_norm; /* over a head, of one eps; NULL: none */
    mlx_array freqs;                       /* (head_dim / 2,) float32, or empty: those of base */
    float base, position_scale, scale;
    float input_scale;     /* of what is rotated; 1: nothing is done */
    mlx_array sinks;       /* (n_heads,), or empty */
    int offset, n_keys;    /* the token's position; how many rows of the caches attention sees, from row 0 */
    int row, n_rows;       /* the token's row in the caches, and how many rows their buffers have */
    zm_place keys, values; /* those buffers, (n_kv_heads, n_rows, head_dim): zm_decode_overwrite */
    int n_heads, n_kv_heads;
} zm_decode_attention_arguments;

/* The type that a weight which they serve is computed with: that of its scales, bfloat16 or float16; in mxfp4 that of
 * its bias, bfloat16 without one. */
mlx_dtype zm_decode_dtype(const zm_weight *weight);
/* Whether the kernels serve this weight; *reason (static text): why not. Reads the scales, so not for every token. */
bool zm_decode_serves_weight(const zm_weight *weight, const char **reason);
/* The same by declared fields alone. */
bool zm_decode_serves_layout(const zm_weight *weight, const char **reason);
/* Compiles the kernels for this weight in a model of those sizes, unless they are there. */
zmlx_status zm_decode_prepare(const zm_weight *weight, int hidden_size, int head_dim, int top_k, zmlx_error *error);
/* Whether count of its inputs fit a block's shared memory. */
bool zm_decode_fits(const zm_weight *weight, int count);
/* Whether there are kernels for a gated MLP of these sizes, or for top_k chosen experts. */
bool zm_decode_serves_experts(const zm_weight *gate, const zm_weight *down, zm_activation activation, int top_k,
                              const char **reason);

/* dtype: bfloat16 or float16; head_dim: 64 or 128; top_k: 1 where there are no experts. */
void zm_decode_begin(zm_decode *decode, zm_scope *scope, mlx_dtype dtype, int hidden_size, int head_dim, int top_k);
/* Results of the outputs in order, owned by the scope. */
void zm_decode_end(zm_decode *decode, mlx_array *results);

zm_place zm_decode_input(zm_decode *decode, mlx_array array);
zm_place zm_decode_output(zm_decode *decode, mlx_dtype dtype, int n_dims, const int *shape);

/* An array that parts write into (zm_chain_overwrite): the next output. */
zm_place zm_decode_overwrite(zm_decode *decode, mlx_array array);

/* The residual stream that the next part leaves becomes the next output, (1, 1, hidden_size). */
void zm_decode_publish(zm_decode *decode);

/* The table's row of token, an int32 or uint32 array of one; one that is negative as int32 counts from the end. */
zm_place zm_decode_embed(zm_decode *decode, mlx_array token, const zm_weight *table);
/* That row, an array of hidden_size which an earlier choice has left. */
zm_place zm_decode_embedded(zm_decode *decode, mlx_array row);
/* h + W x. */
zm_place zm_decode_linear_add(zm_decode *decode, zm_place x, const zm_weight *weight, zm_place h);
/* q, k and v of norm(h), one behind the other, for an attention that sees n_keys. */
zm_place zm_decode_qkv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *q, const zm_weight *k,
                       const zm_weight *v, int n_keys);
/* The first half of an attention whose rest is not a part: norms and rotary embedding of the heads, the queries to
 * `queries`, the token's keys and values into the caches. weight: any of the attention's. */
void zm_decode_heads(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                     const zm_weight *weight, zm_place queries);
/* h + o_proj of the attention: norms and rotary embedding of the heads, the token's keys and values into the caches,
 * and MLX's vector attention over all rows up to the token's. */
zm_place zm_decode_attention(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                             const zm_weight *o_proj, zm_place h);
/* c * conv(b * v), (b, c, v) = in_proj norm(h), of three taps. state: (2, size), the last b * v, moved on by one. */
zm_place zm_decode_conv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *in_proj, mlx_array taps,
                        zm_place state);
/* h + down(activation(gate n, up n)), n = norm(h). Activation: SWIGLU or SWIGLU_OAI. */
zm_place zm_decode_mlp(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *gate, const zm_weight *up,
                       const zm_weight *down, zm_activation activation);
/* h + the experts' weighted sum, with the top_k of zm_decode_begin. */
zm_place zm_decode_moe(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_moe_arguments *arguments);
/* The sum alone as a node of its own, for x (1, ..., 1, hidden_size) of one token. */
mlx_array zm_decode_moe_alone(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments);
/* to = W norm(h), for many rows. */
void zm_decode_head(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *weight, zm_place to);
/* Memory for the head's results where only the choice among them is wanted. */
zm_place zm_decode_logits(zm_decode *decode, const zm_weight *weight);
/* Where a choice goes, one int32 each. An output lies in the host's memory, for which the next kernel would have to
 * wait: so a choice that others follow in its chain goes to a zm_decode_kept_choice, and the next one copies it. */
typedef struct zm_decode_choice {
    zm_place to;
    bool has_last;
    zm_place last, last_to;
} zm_decode_choice;

zm_place zm_decode_kept_choice(zm_decode *decode);
/* The arg-max of logits - logsumexp(logits), ZM_NO_TOKEN where that is not finite. The result is its row of the table,
 * as zm_decode_embed has it; any row where there is no token. n: logits, up to 2^19 and the table's rows. */
zm_place zm_decode_choose(zm_decode *decode, zm_place logits, int n, const zm_weight *table,
                          const zm_decode_choice *choice);

#endif
