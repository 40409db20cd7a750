/* SPDX-License-Identifier: MIT */
/* Rows stored in a cache. */
#ifndef ZM_KERNELS_CACHE_H
#define ZM_KERNELS_CACHE_H

#include "mlx/scope.h"

/* On the CPU: the cache, rows of n elements each, of any shape, with row i of rows (B rows of n elements, of the same
 * type) at the place slots[i], uint32 (B,); of several at one place the last; none where the place is behind the last
 * row. In the cache's own buffer where nobody else needs that. */
mlx_array zm_store_rows(zm_scope *scope, mlx_array cache, mlx_array rows, mlx_array slots);

#endif
