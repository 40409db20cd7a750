/* SPDX-License-Identifier: MIT */
/* mlx-c subset: reductions, order, selection. */
#include "private.hpp"

using namespace zm::capi;

int mlx_sum_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::sum(get(a), axis, keepdims, get(s)); });
}

int mlx_max_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::max(get(a), axis, keepdims, get(s)); });
}

int mlx_prod_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::prod(get(a), axis, keepdims, get(s)); });
}

int mlx_min_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::min(get(a), axis, keepdims, get(s)); });
}

int mlx_argmax_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::argmax(get(a), axis, keepdims, get(s)); });
}

int mlx_logsumexp_axis(mlx_array *res, const mlx_array a, int axis, bool keepdims, const mlx_stream s) {
    return assign(res, [&] { return mx::logsumexp(get(a), axis, keepdims, get(s)); });
}

int mlx_softmax_axis(mlx_array *res, const mlx_array a, int axis, bool precise, const mlx_stream s) {
    return assign(res, [&] { return mx::softmax(get(a), axis, precise, get(s)); });
}

int mlx_cumsum(mlx_array *res, const mlx_array a, int axis, bool reverse, bool inclusive,
               const mlx_stream s) {
    return assign(res, [&] { return mx::cumsum(get(a), axis, reverse, inclusive, get(s)); });
}

int mlx_sort_axis(mlx_array *res, const mlx_array a, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::sort(get(a), axis, get(s)); });
}

int mlx_argsort_axis(mlx_array *res, const mlx_array a, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::argsort(get(a), axis, get(s)); });
}

int mlx_argpartition_axis(mlx_array *res, const mlx_array a, int kth, int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::argpartition(get(a), kth, axis, get(s)); });
}

int mlx_take_axis(mlx_array *res, const mlx_array a, const mlx_array indices, int axis,
                  const mlx_stream s) {
    return assign(res, [&] { return mx::take(get(a), get(indices), axis, get(s)); });
}

int mlx_take_along_axis(mlx_array *res, const mlx_array a, const mlx_array indices, int axis,
                        const mlx_stream s) {
    return assign(res, [&] { return mx::take_along_axis(get(a), get(indices), axis, get(s)); });
}

int mlx_put_along_axis(mlx_array *res, const mlx_array a, const mlx_array indices, const mlx_array values,
                       int axis, const mlx_stream s) {
    return assign(res, [&] { return mx::put_along_axis(get(a), get(indices), get(values), axis, get(s)); });
}

int mlx_scatter_add(mlx_array *res, const mlx_array a, const mlx_vector_array indices, const mlx_array updates,
                    const int *axes, size_t axes_num, const mlx_stream s) {
    return assign(res, [&] {
        return mx::scatter_add(get(a), get(indices), get(updates), std::vector<int>(axes, axes + axes_num), get(s));
    });
}
