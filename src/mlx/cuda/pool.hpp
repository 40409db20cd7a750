/* SPDX-License-Identifier: MIT */
/* Device memory for what our kernels write. MLX's allocator of device memory is not among its exported functions, so
 * buffers come from arrays that MLX made, and are taken again once nothing refers to them. */
#ifndef ZM_MLX_CUDA_POOL_HPP
#define ZM_MLX_CUDA_POOL_HPP

#include <cstdint>

#include "mlx/array.h"
#include "mlx/stream.h"

namespace zm {

/* Gives array (shape and dtype set, no data yet) a buffer in row order that nobody else holds. */
void give_buffer(mlx::core::array &array, mlx::core::Stream stream);
/* The same for arrays of many sizes, which MLX's graph alone refers to: buffers are shared by arrays of nearly the same
 * size, and what is not in use goes back to MLX when it becomes much. */
void give_shared_buffer(mlx::core::array &array, mlx::core::Stream stream);

/* The address of memory for what the kernels of one chain leave for each other. Chains of a stream run one behind the
 * other and have the same, so that most arguments stay as the executable graph has them. */
uint64_t workspace(size_t bytes, mlx::core::Stream stream);

/* A copy in row order, which MLX makes now. */
mlx::core::array copy_in_rows(const mlx::core::array &input, mlx::core::Stream stream);
/* input itself where its elements lie so already. */
mlx::core::array in_rows(const mlx::core::array &input, mlx::core::Stream stream);

}  // namespace zm

#endif
