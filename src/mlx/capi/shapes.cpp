/* SPDX-License-Identifier: MIT */
/* mlx-c subset: shapes. */
#include "private.hpp"

using namespace zm::capi;

int mlx_reshape(mlx_array *res, const mlx_array a, const int *shape, size_t shape_num,
                const mlx_stream s) {
    return assign(res, [&] { return mx::reshape(get(a), shape_of(shape, shape_num), get(s)); });
}

int mlx_transpose_axes(mlx_array *res, const mlx_array a, const int *axes, size_t axes_num,
                       const mlx_stream s) {
    return assign(res, [&] { return mx::transpose(get(a), ints_of(axes, axes_num), get(s)); });
}

int mlx_swapaxes(mlx_array *res, const mlx_array a, int axis1, int axis2, const mlx_stream s) {
    return assign(res, [&] { return mx::swapaxes(get(a), axis1, axis2, get(s)); });
}

int mlx_expand_dims(mlx_array *res, const mlx_array a, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::expand_dims(get(a), axis, get(s)); });
}

int mlx_squeeze_axis(mlx_array *res, const mlx_array a, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::squeeze(get(a), axis, get(s)); });
}

int mlx_flatten(mlx_array *res, const mlx_array a, int start_axis, int end_axis, const mlx_stream s) {
    return assign(res, [&] { return mx::flatten(get(a), start_axis, end_axis, get(s)); });
}

int mlx_broadcast_to(mlx_array *res, const mlx_array a, const int *shape, size_t shape_num,
                     const mlx_stream s) {
    return assign(res, [&] { return mx::broadcast_to(get(a), shape_of(shape, shape_num), get(s)); });
}

int mlx_contiguous(mlx_array *res, const mlx_array a, bool allow_col_major, const mlx_stream s) {
    return assign(res, [&] { return mx::contiguous(get(a), allow_col_major, get(s)); });
}

int mlx_slice(mlx_array *res, const mlx_array a, const int *start, size_t start_num, const int *stop,
              size_t stop_num, const int *strides, size_t strides_num, const mlx_stream s) {
    return assign(res, [&] {
        return mx::slice(get(a), shape_of(start, start_num), shape_of(stop, stop_num),
                         shape_of(strides, strides_num), get(s));
    });
}

int mlx_slice_update(mlx_array *res, const mlx_array src, const mlx_array update, const int *start,
                     size_t start_num, const int *stop, size_t stop_num, const int *strides,
                     size_t strides_num, const mlx_stream s) {
    return assign(res, [&] {
        return mx::slice_update(get(src), get(update), shape_of(start, start_num),
                                shape_of(stop, stop_num), shape_of(strides, strides_num), get(s));
    });
}

int mlx_concatenate_axis(mlx_array *res, const mlx_vector_array arrays, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::concatenate(get(arrays), axis, get(s)); });
}

int mlx_stack_axis(mlx_array *res, const mlx_vector_array arrays, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::stack(get(arrays), axis, get(s)); });
}

int mlx_zeros(mlx_array *res, const int *shape, size_t shape_num, mlx_dtype dtype, const mlx_stream s) {
    return assign(res, [&] { return mx::zeros(shape_of(shape, shape_num), to_cpp(dtype), get(s)); });
}

int mlx_arange(mlx_array *res, double start, double stop, double step, mlx_dtype dtype,
               const mlx_stream s) {
    return assign(res, [&] { return mx::arange(start, stop, step, to_cpp(dtype), get(s)); });
}
