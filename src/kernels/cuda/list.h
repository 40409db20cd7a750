/* SPDX-License-Identifier: MIT */
#ifndef ZM_KERNELS_CUDA_LIST_H
#define ZM_KERNELS_CUDA_LIST_H

#include "mlx/node.h"
#include "runtime/kernel.h"

enum { ZM_CUDA_LIST = 16 };

/* The launch of a kernel of elements over ZM_CUDA_LIST sets of arrays of the same types; inputs and outputs: those of
 * the first set, then of the second and so on. storages: of one set's inputs, then outputs. */
zmlx_status zm_cuda_launch_list(zm_gpu_launch *launch, const zmlx_kernel *kernel, const zm_storage *storages,
                                const float *parameters, const zm_view *inputs, zmlx_error *error);

#endif
