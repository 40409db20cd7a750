/* SPDX-License-Identifier: MIT */
/* From MLX's shapes to rows, columns and layouts. */
#ifndef ZM_RUNTIME_SHAPE_H
#define ZM_RUNTIME_SHAPE_H

#include "emit/emit.h"
#include "mlx/scope.h"

/* What all inputs broadcast to. A kernel with row operations takes a 0-d array as one row of one element: then
 * `is_scalar` is set and dims has a last dimension that the arrays do not have. */
typedef struct zm_shape {
    int dims[ZM_NODE_MAX_DIMS];
    int n_dims;
    bool is_scalar;
} zm_shape;

typedef struct zm_extent {
    int64_t rows, columns;
    int32_t layouts[ZM_IR_MAX_INPUTS]; /* ZM_LAYOUT_ masks */
} zm_extent;

/* The storage of a dtype; false for one that kernels do not take. */
bool zm_storage_from_dtype(zm_storage *storage, mlx_dtype dtype);
mlx_dtype zm_dtype_from_storage(zm_storage storage);

/* The broadcast of the inputs. ROW inputs broadcast with all dimensions but the last. */
zmlx_status zm_shape_broadcast(zm_shape *shape, const zm_ir *ir, const mlx_array *inputs, zmlx_error *error);

/* Refuses a shape whose elements, counted without zeros, are more than any array can have. */
zmlx_status zm_shape_check_size(const zm_shape *shape, const char *name, zmlx_error *error);

/* Cuts shape into rows and columns such that as many inputs as possible need no copy; the others are replaced in
 * `inputs` by their broadcast (owned by scope). The last dimension is the columns of a kernel with row operations, and
 * where keeps_rows. halves: as in zm_call. */
void zm_shape_lay_out(zm_extent *extent, zm_scope *scope, const zm_ir *ir, const zm_shape *shape, mlx_array *inputs,
                      const int32_t *halves, bool keeps_rows);

/* The shape of an output or a ROW input: without the last dimension at ROW, as the caller's arrays have it. */
zm_node_output zm_shape_output(const zm_shape *shape, zm_level level, mlx_dtype dtype);

/* Whether array has that shape. */
bool zm_shape_is_output(const zm_shape *shape, zm_level level, mlx_array array);

/* gradient, of the shape's dims at level, summed over what primal was broadcast along, in primal's shape and dtype. */
mlx_array zm_shape_sum_to(zm_scope *scope, mlx_array gradient, mlx_array primal);

/* Bytes of a number of float32, float16 or bfloat16. */
static inline size_t zm_float_bytes(mlx_dtype dtype) { return dtype == MLX_FLOAT32 ? 4 : 2; }

#endif
