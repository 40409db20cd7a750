/* SPDX-License-Identifier: MIT */
/* What the batches of nodes have in common. */
#ifndef ZM_KERNELS_BATCH_H
#define ZM_KERNELS_BATCH_H

#include "mlx/scope.h"

/* a with dimension axis, the batch, in front; repeated `batch` times where axis is negative. */
mlx_array zm_batch_first(zm_scope *scope, mlx_array a, int axis, int batch);

/* Indices [batch, ...] into n rows each, as flat ones into those of all, one behind the other; what is out of range
 * stays so. */
mlx_array zm_index_in_batch(zm_scope *scope, mlx_array indices, int batch, int n);

#endif
