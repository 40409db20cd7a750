/* SPDX-License-Identifier: MIT */
/* mlx-c subset: random numbers. */
#include "private.hpp"

using namespace zm::capi;

int mlx_random_seed(uint64_t seed) {
    return attempt([&] { mx::random::seed(seed); });
}

int mlx_random_key(mlx_array *res, uint64_t seed) {
    return assign(res, [&] { return mx::random::key(seed); });
}

int mlx_random_split(mlx_array *res_0, mlx_array *res_1, const mlx_array key, const mlx_stream s) {
    return attempt([&] {
        auto [first, second] = mx::random::split(get(key), get(s));
        put(*res_0, std::move(first));
        put(*res_1, std::move(second));
    });
}

int mlx_random_split_num(mlx_array *res, const mlx_array key, int num, const mlx_stream s) {
    return assign(res, [&] { return mx::random::split(get(key), num, get(s)); });
}

int mlx_random_bits(mlx_array *res, const int *shape, size_t shape_num, int width, const mlx_array key,
                    const mlx_stream s) {
    return assign(res, [&] {
        return mx::random::bits(shape_of(shape, shape_num), width, optional(key), get(s));
    });
}

int mlx_random_uniform(mlx_array *res, const mlx_array low, const mlx_array high, const int *shape,
                       size_t shape_num, mlx_dtype dtype, const mlx_array key, const mlx_stream s) {
    return assign(res, [&] {
        return mx::random::uniform(get(low), get(high), shape_of(shape, shape_num), to_cpp(dtype),
                                   optional(key), get(s));
    });
}

int mlx_random_normal(mlx_array *res, const int *shape, size_t shape_num, mlx_dtype dtype, float loc,
                      float scale, const mlx_array key, const mlx_stream s) {
    return assign(res, [&] {
        return mx::random::normal(shape_of(shape, shape_num), to_cpp(dtype), loc, scale, optional(key),
                                  get(s));
    });
}

int mlx_random_categorical(mlx_array *res, const mlx_array logits, int axis, const mlx_array key,
                           const mlx_stream s) {
    return assign(res, [&] { return mx::random::categorical(get(logits), axis, optional(key), get(s)); });
}
