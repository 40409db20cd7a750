/* SPDX-License-Identifier: MIT */
/* mlx-c subset: element-wise operations. */
#include "private.hpp"

using namespace zm::capi;

#define UNARY(name)                                                           \
    int mlx_##name(mlx_array *res, const mlx_array a, const mlx_stream s) {   \
        return assign(res, [&] { return mx::name(get(a), get(s)); });         \
    }
#define BINARY(name)                                                                              \
    int mlx_##name(mlx_array *res, const mlx_array a, const mlx_array b, const mlx_stream s) {    \
        return assign(res, [&] { return mx::name(get(a), get(b), get(s)); });                     \
    }

UNARY(negative)
UNARY(exp)
UNARY(sigmoid)
UNARY(tanh)
UNARY(abs)
UNARY(floor)
UNARY(ceil)
UNARY(sqrt)
UNARY(rsqrt)
UNARY(expm1)
UNARY(log)
UNARY(log2)
UNARY(log10)
UNARY(log1p)
UNARY(sin)
UNARY(cos)
UNARY(tan)
UNARY(arcsin)
UNARY(arccos)
UNARY(arctan)
UNARY(sinh)
UNARY(cosh)
UNARY(arcsinh)
UNARY(arccosh)
UNARY(arctanh)
UNARY(erf)
UNARY(isnan)
UNARY(isinf)
UNARY(isfinite)
UNARY(logical_not)

BINARY(add)
BINARY(subtract)
BINARY(multiply)
BINARY(divide)
BINARY(floor_divide)
BINARY(power)
BINARY(minimum)
BINARY(maximum)
BINARY(logaddexp)
BINARY(less)
BINARY(greater_equal)
BINARY(logical_and)
BINARY(equal)
BINARY(not_equal)
BINARY(less_equal)
BINARY(logical_or)
BINARY(arctan2)

int mlx_round(mlx_array *res, const mlx_array a, int decimals, const mlx_stream s) {
    return assign(res, [&] { return mx::round(get(a), decimals, get(s)); });
}

int mlx_where(mlx_array *res, const mlx_array condition, const mlx_array x, const mlx_array y,
              const mlx_stream s) {
    return assign(res, [&] { return mx::where(get(condition), get(x), get(y), get(s)); });
}

int mlx_stop_gradient(mlx_array *res, const mlx_array arr, const mlx_stream s) {
    return assign(res, [&] { return mx::stop_gradient(get(arr), get(s)); });
}

int mlx_astype(mlx_array *res, const mlx_array a, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::astype(get(a), to_cpp(dtype), get(s)); });
}

int mlx_view(mlx_array *res, const mlx_array a, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::view(get(a), to_cpp(dtype), get(s)); });
}
