/* SPDX-License-Identifier: MIT */
#ifndef ZM_KERNELS_CUDA_TOPK_H
#define ZM_KERNELS_CUDA_TOPK_H

#include "mlx/scope.h"

enum { ZM_CUDA_TOPK_MAX = 32 };

/* zm_select_topk on CUDA for k up to the above. gates: *values is the softmax of the values instead, in float32 stored
 * as dtype (0 for a row of -inf); else dtype is that of x. */
void zm_cuda_select(zm_scope *scope, mlx_array x, int k, bool gates, mlx_dtype dtype, mlx_array *values,
                    mlx_array *indices);

#endif
