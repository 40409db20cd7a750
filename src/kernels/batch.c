/* SPDX-License-Identifier: MIT */
#include "kernels/batch.h"

#include "mlx/node.h"

mlx_array zm_batch_first(zm_scope *scope, mlx_array a, int axis, int batch) {
    int n_dims = (int)mlx_array_ndim(a), order[ZM_NODE_MAX_DIMS + 1] = {axis}, shape[ZM_NODE_MAX_DIMS + 1] = {batch};
    for (int i = 0; i < n_dims && axis < 0; i++) shape[i + 1] = mlx_array_dim(a, i);
    if (axis < 0) return zm_broadcast_to(scope, a, shape, n_dims + 1);
    for (int i = 0, place = 1; i < n_dims; i++)
        if (i != axis) order[place++] = i;
    return zm_transpose(scope, a, order, n_dims);
}

mlx_array zm_index_in_batch(zm_scope *scope, mlx_array indices, int batch, int n) {
    if (zm_scope_failed(scope) || !batch) return zm_reshape(scope, indices, (const int[]){0}, 1);
    mlx_array first = zm_multiply(scope, zm_arange(scope, 0, batch, 1, MLX_UINT32), zm_scalar(scope, n, MLX_UINT32));
    int size = (int)mlx_array_size(indices) / batch;
    indices = zm_reshape2(scope, indices, batch, size);
    mlx_array is_inside = zm_less(scope, indices, zm_scalar(scope, n, MLX_UINT32));
    mlx_array moved = zm_add(scope, indices, zm_expand_dims(scope, first, 1));
    return zm_flatten(scope, zm_where(scope, is_inside, moved, zm_scalar(scope, UINT32_MAX, MLX_UINT32)), 0, -1);
}
