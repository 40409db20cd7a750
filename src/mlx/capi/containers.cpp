/* SPDX-License-Identifier: MIT */
/* mlx-c subset: vectors of arrays. */
#include "private.hpp"

using namespace zm::capi;

namespace {

Arrays arrays_of(const mlx_array *data, size_t size) {
    Arrays arrays;
    arrays.reserve(size);
    for (size_t i = 0; i < size; i++) arrays.push_back(get(data[i]));
    return arrays;
}

}  // namespace

mlx_vector_array mlx_vector_array_new(void) {
    return make<mlx_vector_array>([] { return Arrays(); });
}

int mlx_vector_array_set(mlx_vector_array *vec, const mlx_vector_array src) {
    return assign(vec, [&] { return get(src); });
}

int mlx_vector_array_free(mlx_vector_array vec) { return release<Arrays>(vec); }

mlx_vector_array mlx_vector_array_new_data(const mlx_array *data, size_t size) {
    return make<mlx_vector_array>([&] { return arrays_of(data, size); });
}

mlx_vector_array mlx_vector_array_new_value(const mlx_array val) {
    return mlx_vector_array_new_data(&val, 1);
}

int mlx_vector_array_set_value(mlx_vector_array *vec, const mlx_array val) {
    return assign(vec, [&] { return arrays_of(&val, 1); });
}

int mlx_vector_array_append_value(mlx_vector_array vec, const mlx_array val) {
    return attempt([&] { get(vec).push_back(get(val)); });
}

size_t mlx_vector_array_size(mlx_vector_array vec) {
    return value_or<size_t>(0, [&] { return get(vec).size(); });
}

int mlx_vector_array_get(mlx_array *res, const mlx_vector_array vec, size_t idx) {
    return assign(res, [&] { return get(vec).at(idx); });
}
