/* SPDX-License-Identifier: MIT */
#ifndef ZM_MLX_ALLOCATE_HPP
#define ZM_MLX_ALLOCATE_HPP

#include <stdexcept>
#include <string>

#include "mlx/allocator.h"

namespace zm {

/* MLX's memory. Where there is none MLX's allocator on the CPU gives NULL; this throws. */
inline mlx::core::allocator::Data allocate(size_t bytes) {
    auto data = mlx::core::allocator::malloc(bytes);
    if (bytes && !data.buffer().ptr())
        throw std::runtime_error("out of memory: no " + std::to_string(bytes) + " bytes for an array");
    return data;
}

}  // namespace zm

#endif
