/* SPDX-License-Identifier: MIT */
/* mlx_dtype and MLX's Dtype. */
#ifndef ZM_MLX_DTYPES_HPP
#define ZM_MLX_DTYPES_HPP

#include <stdexcept>

#include "mlx/c/mlx.h"
#include "mlx/dtype.h"

namespace zm {

/* mlx_dtype's values are the indices of this table. */
inline const mlx::core::Dtype dtypes[] = {
    mlx::core::bool_,  mlx::core::uint8,   mlx::core::uint16,  mlx::core::uint32,   mlx::core::uint64,
    mlx::core::int8,   mlx::core::int16,   mlx::core::int32,   mlx::core::int64,    mlx::core::float16,
    mlx::core::float32, mlx::core::float64, mlx::core::bfloat16, mlx::core::complex64,
};
inline constexpr size_t n_dtypes = sizeof dtypes / sizeof *dtypes;
static_assert(n_dtypes == MLX_COMPLEX64 + 1);

inline bool is_dtype(mlx_dtype dtype) { return static_cast<size_t>(dtype) < n_dtypes; }

inline mlx::core::Dtype to_cpp(mlx_dtype dtype) {
    if (!is_dtype(dtype)) throw std::invalid_argument("unknown dtype");
    return dtypes[dtype];
}

inline mlx_dtype to_c(mlx::core::Dtype dtype) {
    for (size_t i = 0; i < n_dtypes; i++)
        if (dtypes[i] == dtype) return static_cast<mlx_dtype>(i);
    throw std::invalid_argument("dtype without a C name");
}

}  // namespace zm

#endif
