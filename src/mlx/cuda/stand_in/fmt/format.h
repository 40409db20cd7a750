/* SPDX-License-Identifier: MIT */
/* MLX's CUDA headers use {fmt} in one message that is never printed here, and its wheel does not bring it. */
#ifndef ZM_MLX_CUDA_STAND_IN_FMT_FORMAT_H
#define ZM_MLX_CUDA_STAND_IN_FMT_FORMAT_H

#include <string>

namespace fmt {

template <typename... Arguments>
std::string format(const char *text, const Arguments &...) {
    return text;
}

}  // namespace fmt

#endif
