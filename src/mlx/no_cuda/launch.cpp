/* SPDX-License-Identifier: MIT */
/* Where MLX has no CUDA headers, all kernels are launched through MLX's custom kernels. */
#include <stdexcept>

#include "mlx/launch.hpp"

bool zm::can_launch_directly() { return false; }

void zm::launch_directly(const zm_gpu_launch &, const std::vector<mlx::core::array> &, std::vector<mlx::core::array> &,
                         mlx::core::Stream) {
    throw std::logic_error("no direct launches in this build");
}
