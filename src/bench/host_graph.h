/* SPDX-License-Identifier: MIT */
/* A kernel in MLX's own operations, one each: what it is compared with. */
#ifndef ZM_BENCH_HOST_GRAPH_H
#define ZM_BENCH_HOST_GRAPH_H

#include "mlx/scope.h"
#include "runtime/kernel.h"

/* Sets outputs (owned by scope) from inputs, in the type of the first floats as a program would write it, each
 * operation rounded. An operation that MLX has not is a failure of the scope that names it (ZMLX_ERROR_UNSUPPORTED). */
void zm_host_graph(zm_scope *scope, mlx_array *outputs, const zmlx_kernel *kernel, const mlx_array *inputs,
                   const zm_numbers *numbers);

#endif
