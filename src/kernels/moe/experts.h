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

/* x (..., M, K) by the transposed matrices of the experts, one for each batch position; weight: words, scales, biases, of any
 * layout. */
mlx_array zm_experts_multiply(zm_scope *scope, mlx_array x, const mlx_array *weight, mlx_array experts, zm_quantization packed);

/* a where is_inside (with dimensions of 1 behind it as needed), NaN elsewhere. */
mlx_array zm_experts_mark(zm_scope *scope, mlx_array a, mlx_array is_inside);

#endif
