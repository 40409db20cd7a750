/* SPDX-License-Identifier: MIT */
/* Rows by their numbers, for this family's nodes. */
#ifndef ZM_KERNELS_SCATTER_H
#define ZM_KERNELS_SCATTER_H

#include "mlx/scope.h"

/* [n_rows, T] float32 on the CPU: updates [M, T] added up by flat indices [M], in their order; what is out of range is
 * not added. */
mlx_array zm_add_rows_on_cpu(zm_scope *scope, mlx_array indices, mlx_array updates, int n_rows);

/* rows [N, T] at flat indices [M], with MLX's operations; where one is out of range, `missing`. */
mlx_array zm_rows_at(zm_scope *scope, mlx_array rows, mlx_array indices, float missing);

#endif
