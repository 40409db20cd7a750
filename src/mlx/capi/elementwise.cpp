/* SPDX-License-Identifier: MIT */
/* mlx-c subset: element-wise operations. */
#include "private.hpp"

using namespace zm::capi;

int mlx_negative(mlx_array *res, const mlx_array a, const mlx_stream s) {
    return assign(res, [&] { return mx::negative(get(a), get(s)); });
}

int mlx_exp(mlx_array *res, const mlx_array a, const mlx_stream s) {
    return assign(res, [&] { return mx::exp(get(a), get(s)); });
}

int mlx_sigmoid(mlx_array *res, const mlx_array a, const mlx_stream s) {
    return assign(res, [&] { return mx::sigmoid(get(a), get(s)); });
}

int mlx_tanh(mlx_array *res, const mlx_array a, const mlx_stream s) {
    return assign(res, [&] { return mx::tanh(get(a), get(s)); });
}

int mlx_add(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::add(get(a), get(b), get(s)); });
}

int mlx_subtract(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::subtract(get(a), get(b), get(s)); });
}

int mlx_multiply(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::multiply(get(a), get(b), get(s)); });
}

int mlx_divide(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::divide(get(a), get(b), get(s)); });
}

int mlx_floor_divide(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::floor_divide(get(a), get(b), get(s)); });
}

int mlx_power(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::power(get(a), get(b), get(s)); });
}

int mlx_minimum(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::minimum(get(a), get(b), get(s)); });
}

int mlx_maximum(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::maximum(get(a), get(b), get(s)); });
}

int mlx_less(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::less(get(a), get(b), get(s)); });
}

int mlx_greater_equal(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::greater_equal(get(a), get(b), get(s)); });
}

int mlx_logical_and(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {
    return assign(res, [&] { return mx::logical_and(get(a), get(b), get(s)); });
}

int mlx_where(mlx_array *res, const mlx_array condition, const mlx_array x, const mlx_array y,
              const mlx_stream s) {
    return assign(res, [&] { return mx::where(get(condition), get(x), get(y), get(s)); });
}

int mlx_astype(mlx_array *res, const mlx_array a, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::astype(get(a), to_cpp(dtype), get(s)); });
}

int mlx_view(mlx_array *res, const mlx_array a, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::view(get(a), to_cpp(dtype), get(s)); });
}
