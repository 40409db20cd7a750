/* SPDX-License-Identifier: MIT */
/* The k largest of each row, for several families. */
#ifndef ZM_KERNELS_SELECT_H
#define ZM_KERNELS_SELECT_H

#include "mlx/node.h"
#include "mlx/scope.h"

/* values (..., k) of x's type, indices (..., k) uint32: descending, equal values by ascending index, NaN larger than
 * all; 1 <= k <= the last dimension of x. The gradient of values goes to the elements chosen, their tangents come from
 * there. On the CPU and, for k up to 32, with CUDA one pass over the row; else a sort by MLX of unique keys. */
void zm_select_topk(zm_scope *scope, mlx_array x, int k, mlx_array *values, mlx_array *indices);
/* On the CPU, for k up to 64: weights is the softmax of the values instead, in float32 (0 for a row of -inf). Elsewhere
 * false, and nothing is done. */
bool zm_select_gates(zm_scope *scope, mlx_array x, int k, mlx_array *weights, mlx_array *indices);
/* The second way of zm_select_topk, on any device. */
void zm_select_topk_sorted(zm_scope *scope, mlx_array x, int k, mlx_array *values, mlx_array *indices);

/* Applies a node that gives the k values of each row, of type dtype, and their indices. state is the node's. */
void zm_select_apply(zm_scope *scope, mlx_array *values, mlx_array *indices, const zm_node_class *node_class,
                     void *state, mlx_array x, int k, mlx_dtype dtype);

/* For the derivatives and batches of such a node: the tangents of both results from that of x; x with dimension axis in
 * front
 * (-1: as it is), so that its rows stay rows. */
void zm_select_tangents(zm_scope *scope, mlx_array tangent, mlx_array indices, mlx_array *of_values,
                        mlx_array *of_indices);
mlx_array zm_select_batch_first(zm_scope *scope, mlx_array x, int axis);

#endif
