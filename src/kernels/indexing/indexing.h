/* SPDX-License-Identifier: MIT */
/* The kernels of this family made of MLX's operations, for any device. */
#ifndef ZM_KERNELS_INDEXING_H
#define ZM_KERNELS_INDEXING_H

#include "kernels/compose.h"

void zm_gather_add_composed(zm_catalog_call *call);
/* The order of sums is MLX's: on a GPU that of its atomic additions. */
void zm_scatter_add_composed(zm_catalog_call *call);

#endif
