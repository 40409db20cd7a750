/* SPDX-License-Identifier: MIT */
/* A compiled kernel on a GPU, through MLX's custom kernels: they allocate the outputs, make inputs row-contiguous and
 * put the launch in order with MLX's own. */
#ifndef ZM_MLX_LAUNCH_HPP
#define ZM_MLX_LAUNCH_HPP

#include <vector>

#include "mlx/array.h"
#include "mlx/stream.h"

extern "C" {
#include "mlx/node.h"
}

namespace zm {

/* Fills outputs (shape and dtype set, no data yet). Called while MLX evaluates on stream. */
void launch_on_gpu(const zm_gpu_launch &launch, const std::vector<mlx::core::array> &inputs,
                   std::vector<mlx::core::array> &outputs, mlx::core::Stream stream);

/* The same without MLX's custom kernels, for CUDA (launch.often): in mlx/cuda/ or mlx/no_cuda/. */
bool can_launch_directly();
void launch_directly(const zm_gpu_launch &launch, const std::vector<mlx::core::array> &inputs,
                     std::vector<mlx::core::array> &outputs, mlx::core::Stream stream);

}  // namespace zm

#endif
