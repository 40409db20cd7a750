/* SPDX-License-Identifier: MIT */
/* mlx-c subset: arrays. */
#include <cstring>

#include "mlx/allocate.hpp"
#include "private.hpp"

using namespace zm::capi;

namespace {

template <typename Type>
const Type *data_of(mlx_array arr) noexcept {
    return value_or<const Type *>(nullptr, [&]() -> const Type * {
        mx::array &array = get(arr);
        if (!array.is_available() || !array.data_shared_ptr()) return nullptr;
        return array.data<Type>();
    });
}

template <typename Type>
int item_of(Type *res, mlx_array arr) noexcept {
    return attempt([&] { *res = get(arr).template item<Type>(); });
}

/* Copies size elements of the array's own type out of data. */
mx::array copy_of(const void *data, const mx::Shape &shape, mx::Dtype dtype) {
    size_t count = 1;
    for (int length : shape) {
        if (length < 0) throw std::invalid_argument("negative length in a shape");
        if (__builtin_mul_overflow(count, static_cast<size_t>(length), &count))
            throw std::invalid_argument("shape too large");
    }
    size_t bytes;
    if (__builtin_mul_overflow(count, mx::size_of(dtype), &bytes))
        throw std::invalid_argument("shape too large");
    auto buffer = zm::allocate(bytes);
    if (bytes) std::memcpy(mx::allocator::Buffer(buffer.buffer()).raw_ptr(), data, bytes);
    return mx::array(std::move(buffer), shape, dtype);
}

}  // namespace

mlx_array mlx_array_new(void) { return mlx_array{}; }

int mlx_array_free(mlx_array arr) { return release<mx::array>(arr); }

mlx_array mlx_array_new_int(int val) {
    return make<mlx_array>([&] { return mx::array(val); });
}

mlx_array mlx_array_new_float32(float val) {
    return make<mlx_array>([&] { return mx::array(val); });
}

mlx_array mlx_array_new_data(const void *data, const int *shape, int dim, mlx_dtype dtype) {
    return make<mlx_array>(
        [&] { return copy_of(data, shape_of(shape, static_cast<size_t>(dim)), to_cpp(dtype)); });
}

int mlx_array_set(mlx_array *arr, const mlx_array src) {
    return assign(arr, [&] { return get(src); });
}

size_t mlx_array_size(const mlx_array arr) {
    return value_or<size_t>(0, [&] { return get(arr).size(); });
}

size_t mlx_array_nbytes(const mlx_array arr) {
    return value_or<size_t>(0, [&] { return get(arr).nbytes(); });
}

size_t mlx_array_ndim(const mlx_array arr) {
    return value_or<size_t>(0, [&] { return get(arr).ndim(); });
}

const int *mlx_array_shape(const mlx_array arr) {
    return value_or<const int *>(nullptr, [&] { return get(arr).shape().data(); });
}

int mlx_array_dim(const mlx_array arr, int dim) {
    return value_or<int>(0, [&] { return get(arr).shape(dim); });
}

mlx_dtype mlx_array_dtype(const mlx_array arr) {
    return value_or(MLX_BOOL, [&] { return to_c(get(arr).dtype()); });
}

int mlx_array_eval(mlx_array arr) {
    return attempt([&] { get(arr).eval(); });
}

int mlx_array_item_uint32(uint32_t *res, const mlx_array arr) { return item_of(res, arr); }
int mlx_array_item_float32(float *res, const mlx_array arr) { return item_of(res, arr); }

const uint8_t *mlx_array_data_uint8(const mlx_array arr) { return data_of<uint8_t>(arr); }
const uint16_t *mlx_array_data_uint16(const mlx_array arr) { return data_of<uint16_t>(arr); }
const uint32_t *mlx_array_data_uint32(const mlx_array arr) { return data_of<uint32_t>(arr); }
const float *mlx_array_data_float32(const mlx_array arr) { return data_of<float>(arr); }
const double *mlx_array_data_float64(const mlx_array arr) { return data_of<double>(arr); }
