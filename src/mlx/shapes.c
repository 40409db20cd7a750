/* SPDX-License-Identifier: MIT */
/* Operations on shapes, and new arrays. */
#include "base/half.h"
#include "mlx/operation.h"

/* MLX has no fixed limit; more dimensions than this are no model's. */
enum { MAX_DIMS = 16 };

mlx_array zm_reshape(zm_scope *scope, mlx_array a, const int *shape, int n_dims) {
    ZM_OPERATION(scope, reshape, a, shape, (size_t)n_dims);
}

mlx_array zm_reshape2(zm_scope *scope, mlx_array a, int d0, int d1) {
    return zm_reshape(scope, a, (const int[]){d0, d1}, 2);
}

mlx_array zm_reshape3(zm_scope *scope, mlx_array a, int d0, int d1, int d2) {
    return zm_reshape(scope, a, (const int[]){d0, d1, d2}, 3);
}

mlx_array zm_reshape4(zm_scope *scope, mlx_array a, int d0, int d1, int d2, int d3) {
    return zm_reshape(scope, a, (const int[]){d0, d1, d2, d3}, 4);
}

mlx_array zm_transpose(zm_scope *scope, mlx_array a, const int *axes, int n_axes) {
    ZM_OPERATION(scope, transpose_axes, a, axes, (size_t)n_axes);
}

mlx_array zm_swapaxes(zm_scope *scope, mlx_array a, int axis1, int axis2) {
    ZM_OPERATION(scope, swapaxes, a, axis1, axis2);
}

mlx_array zm_expand_dims(zm_scope *scope, mlx_array a, int axis) {
    ZM_OPERATION(scope, expand_dims, a, axis);
}

mlx_array zm_squeeze(zm_scope *scope, mlx_array a, int axis) { ZM_OPERATION(scope, squeeze_axis, a, axis); }

mlx_array zm_flatten(zm_scope *scope, mlx_array a, int start_axis, int end_axis) {
    ZM_OPERATION(scope, flatten, a, start_axis, end_axis);
}

mlx_array zm_broadcast_to(zm_scope *scope, mlx_array a, const int *shape, int n_dims) {
    ZM_OPERATION(scope, broadcast_to, a, shape, (size_t)n_dims);
}

mlx_array zm_contiguous(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, contiguous, a, false); }
mlx_array zm_view_as(zm_scope *scope, mlx_array a, mlx_dtype dtype) { ZM_OPERATION(scope, view, a, dtype); }

/* The whole of an array as a slice, for one axis of which other bounds are then set. */
typedef struct bounds {
    int start[MAX_DIMS], stop[MAX_DIMS], step[MAX_DIMS];
    size_t n_dims;
} bounds;

/* Sets *axis to its value from the front, or records why it cannot be. */
static bool whole_array(zm_scope *scope, bounds *whole, mlx_array a, int *axis, const char *operation) {
    if (zm_scope_failed(scope)) return false;
    size_t n_dims = a.ctx ? mlx_array_ndim(a) : 0;
    int positive = *axis < 0 ? *axis + (int)n_dims : *axis;
    if (n_dims > MAX_DIMS || positive < 0 || positive >= (int)n_dims) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, operation, "no axis %d in an array of %zu dimensions",
                      *axis, n_dims);
        return false;
    }
    whole->n_dims = n_dims;
    const int *shape = mlx_array_shape(a);
    for (size_t i = 0; i < n_dims; i++) {
        whole->start[i] = 0;
        whole->stop[i] = shape[i];
        whole->step[i] = 1;
    }
    *axis = positive;
    return true;
}

mlx_array zm_slice_axis(zm_scope *scope, mlx_array a, int axis, int start, int stop, int step) {
    bounds slice;
    if (!whole_array(scope, &slice, a, &axis, "slice")) return (mlx_array){NULL};
    if (step < 1) return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, "slice", "step %d is not positive", step);
    slice.start[axis] = start;
    slice.stop[axis] = stop; /* MLX takes a stop past the end as the end */
    slice.step[axis] = step;
    ZM_OPERATION(scope, slice, a, slice.start, slice.n_dims, slice.stop, slice.n_dims, slice.step,
                 slice.n_dims);
}

mlx_array zm_slice_update_axis(zm_scope *scope, mlx_array a, mlx_array update, int axis, int start) {
    bounds slice;
    if (!whole_array(scope, &slice, a, &axis, "slice_update")) return (mlx_array){NULL};
    int rows = zm_dim(update, axis), length = slice.stop[axis];
    if (start < 0 || start > length || rows > length - start)
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, "slice_update",
                             "%d rows from %d are not inside an axis of length %d", rows, start, length);
    slice.start[axis] = start;
    slice.stop[axis] = start + rows;
    ZM_OPERATION(scope, slice_update, a, update, slice.start, slice.n_dims, slice.stop, slice.n_dims,
                 slice.step, slice.n_dims);
}

mlx_array zm_stack(zm_scope *scope, const mlx_array *arrays, size_t count, int axis) {
    mlx_array result = {NULL};
    if (zm_scope_failed(scope)) return result;
    mlx_vector_array vector = mlx_vector_array_new_data(arrays, count);
    int status = !vector.ctx || mlx_stack_axis(&result, vector, axis, scope->stream);
    mlx_vector_array_free(vector);
    return zm_scope_take(scope, "stack", status, result);
}

mlx_array zm_concatenate(zm_scope *scope, mlx_array a, mlx_array b, int axis) {
    mlx_array result = {NULL};
    if (zm_scope_failed(scope)) return result;
    mlx_vector_array vector = mlx_vector_array_new_data((const mlx_array[]){a, b}, 2);
    int status = !vector.ctx || mlx_concatenate_axis(&result, vector, axis, scope->stream);
    mlx_vector_array_free(vector);
    return zm_scope_take(scope, "concatenate", status, result);
}

mlx_array zm_zeros(zm_scope *scope, const int *shape, int n_dims, mlx_dtype dtype) {
    ZM_OPERATION(scope, zeros, shape, (size_t)n_dims, dtype);
}

mlx_array zm_arange(zm_scope *scope, double start, double stop, double step, mlx_dtype dtype) {
    ZM_OPERATION(scope, arange, start, stop, step, dtype);
}

mlx_array zm_from_data(zm_scope *scope, const void *data, const int *shape, int n_dims, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return (mlx_array){NULL};
    mlx_array result = mlx_array_new_data(data, shape, n_dims, dtype);
    return zm_scope_take(scope, "from_data", !result.ctx, result);
}

/* A value of any dtype; half types are held as their bits. */
typedef union scalar {
    bool boolean;
    uint8_t u8;
    uint16_t u16;
    uint32_t u32;
    uint64_t u64;
    int8_t i8;
    int16_t i16;
    int32_t i32;
    int64_t i64;
    float f32;
    double f64;
} scalar;

static bool convert(scalar *result, double value, mlx_dtype dtype) {
    switch (dtype) {
    case MLX_BOOL: result->boolean = value != 0; return true;
    case MLX_UINT8: result->u8 = (uint8_t)value; return true;
    case MLX_UINT16: result->u16 = (uint16_t)value; return true;
    case MLX_UINT32: result->u32 = (uint32_t)value; return true;
    case MLX_UINT64: result->u64 = (uint64_t)value; return true;
    case MLX_INT8: result->i8 = (int8_t)value; return true;
    case MLX_INT16: result->i16 = (int16_t)value; return true;
    case MLX_INT32: result->i32 = (int32_t)value; return true;
    case MLX_INT64: result->i64 = (int64_t)value; return true;
    case MLX_FLOAT16: result->u16 = zm_float16_from_float((float)value); return true;
    case MLX_BFLOAT16: result->u16 = zm_bfloat16_from_float((float)value); return true;
    case MLX_FLOAT32: result->f32 = (float)value; return true;
    case MLX_FLOAT64: result->f64 = value; return true;
    default: return false;
    }
}

mlx_array zm_scalar(zm_scope *scope, double value, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return (mlx_array){NULL};
    scalar converted;
    if (!convert(&converted, value, dtype))
        return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, "scalar", "no scalar of dtype %d", (int)dtype);
    return zm_from_data(scope, &converted, NULL, 0, dtype);
}

mlx_array zm_scalar_like(zm_scope *scope, double value, mlx_array array) {
    if (zm_scope_failed(scope)) return (mlx_array){NULL};
    if (!array.ctx) return zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, "scalar_like", "the array is empty");
    return zm_scalar(scope, value, mlx_array_dtype(array));
}
