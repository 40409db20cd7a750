/* SPDX-License-Identifier: MIT */
/* The inverse of taking along the last dimension. */
#ifndef ZM_KERNELS_SPREAD_H
#define ZM_KERNELS_SPREAD_H

#include "mlx/scope.h"

/* (..., columns) of values' type: values (..., k) at the places indices (..., k), uint32, of the last dimension,
 * different ones in each row; zeros elsewhere. A place out of range has none. */
mlx_array zm_spread(zm_scope *scope, mlx_array values, mlx_array indices, int columns);

#endif
