/* SPDX-License-Identifier: MIT */
/* Rows by their numbers on CUDA. */
#ifndef ZM_KERNELS_CUDA_ROWS_H
#define ZM_KERNELS_CUDA_ROWS_H

#include "mlx/scope.h"

/* How y = from[indices] + other is launched (inputs from, indices, other; n_rows of `from`, of columns elements). */
zmlx_status zm_cuda_launch_gather_add(zm_gpu_launch *launch, const zm_view *inputs, int n_rows, int columns,
                                      mlx_dtype dtype, zmlx_error *error);

/* [n, T] stored as dtype: updates [M, T] added up in float32 by flat indices [M], in their order; what is out of range
 * is not added. */
mlx_array zm_cuda_add_rows(zm_scope *scope, mlx_array indices, mlx_array updates, int n, mlx_dtype dtype);

#endif
