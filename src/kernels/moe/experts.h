/* SPDX-License-Identifier: MIT */
/* Products with experts chosen by indices, for moe and fused_moe. */
#ifndef ZM_KERNELS_MOE_EXPERTS_H
#define ZM_KERNELS_MOE_EXPERTS_H

#include "kernels/compose.h"

/* group_size 32, 64 or 128 that divides in_features, bits 2, 3, 4, 5, 6 or 8; else the scope fails.
 * group_size and bits are numbers of the call, by their places. */
bool zm_experts_check(zm_catalog_call *call, int group_size, int bits, int in_features);

/* indices as they are where below size, else size - 1; sets is_inside. */
mlx_array zm_experts_clamp(zm_scope *scope, mlx_array indices, int size, mlx_array *is_inside);

/* x in float32, zeros in the rows that are not inside, whose gradient is zero even where x is infinite. */
mlx_array zm_experts_keep(zm_scope *scope, mlx_array x, mlx_array is_inside);

/* x (..., M, K) by the transposed matrices of the experts, one for each batch position; weight: words, scales, biases,
 * of any layout. */
mlx_array zm_experts_multiply(zm_scope *scope, mlx_array x, const mlx_array *weight, mlx_array experts,
                              zm_quantization packed);

/* The sum over k of gate[k] * (act[k] times the matrix of indices[k]) in float32: act (..., K, in), gate and indices
 * (..., K), K > 0; NaN for an index out of range. weight: as above, unbatched. */
mlx_array zm_experts_combine(zm_scope *scope, mlx_array act, const mlx_array *weight, mlx_array gate, mlx_array indices,
                             zm_quantization packed);
/* The same of MLX's operations, for any device. */
mlx_array zm_experts_combine_composed(zm_scope *scope, mlx_array act, const mlx_array *weight, mlx_array gate,
                                      mlx_array indices, zm_quantization packed);
/* products (..., K, 1, out), gated and summed over K; NaN where one is not inside, without touching gradients of the
 * others. */
mlx_array zm_experts_sum(zm_scope *scope, mlx_array products, mlx_array is_inside, mlx_array gate);

/* a where is_inside (with dimensions of 1 behind it as needed), NaN elsewhere. */
mlx_array zm_experts_mark(zm_scope *scope, mlx_array a, mlx_array is_inside);

#endif
