/* SPDX-License-Identifier: MIT */
/* mlx-c subset: random numbers. */
#include "private.hpp"

using namespace zm::capi;

int mlx_random_key(mlx_array *res, uint64_t seed) {
    return assign(res, [&] { return mx::random::key(seed); });
}

int mlx_random_categorical(mlx_array *res, const mlx_array logits, int axis, const mlx_array key,
                           const mlx_stream s) {
    return assign(res, [&] { return mx::random::categorical(get(logits), axis, optional(key), get(s)); });
}
