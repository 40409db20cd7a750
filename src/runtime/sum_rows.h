/* SPDX-License-Identifier: MIT */
#ifndef ZM_RUNTIME_SUM_ROWS_H
#define ZM_RUNTIME_SUM_ROWS_H

#include "mlx/scope.h"

/* (columns) of dtype: float32 rows (n, columns) added up, in float32. The same rows give the same bits. */
mlx_array zm_sum_rows(zm_scope *scope, mlx_array rows, mlx_dtype dtype);

#endif
