/* SPDX-License-Identifier: MIT */
/* Writing MLX graphs in C, one operation a line.
 *
 *     zm_scope scope;
 *     zm_scope_begin(&scope, stream);
 *     mlx_array y = zm_multiply(&scope, zm_sigmoid(&scope, gate), up);
 *     zm_scope_keep(&scope, &result, y);             // result outlives the scope
 *     return zm_scope_end(&scope, error);            // frees the rest, reports the first failure
 *
 * Every array an operation returns belongs to its scope and is freed by zm_scope_end, so models need no
 * clean-up code. The first failure is remembered; every later operation then does nothing and
 * returns an empty array, so one check at the end is enough. Operations have the meaning of the mlx-c
 * function of the same name. Not shared between threads; which thread may evaluate is the stream's rule,
 * see mlx/streams.h. */
#ifndef ZM_MLX_SCOPE_H
#define ZM_MLX_SCOPE_H

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "mlx/c/mlx.h"
#include "mlx/node.h"

typedef struct zm_scope {
    mlx_stream stream; /* borrowed */
    mlx_array *arrays; /* owned */
    size_t n_arrays, capacity;
    zmlx_error failure; /* code is ZMLX_OK while all is well */
} zm_scope;

/* How a quantised weight is packed: MLX's group_size, bits and mode ("affine", "mxfp4", ...). */
typedef struct zm_quantization {
    int group_size, bits;
    const char *mode; /* static storage */
} zm_quantization;

void zm_scope_begin(zm_scope *scope, mlx_stream stream);
/* Frees the scope's arrays and reports the first failure. */
zmlx_status zm_scope_end(zm_scope *scope, zmlx_error *error);
bool zm_scope_failed(const zm_scope *scope);
/* Whether its stream is the CPU's. */
bool zm_scope_is_on_cpu(const zm_scope *scope);
/* Records a failure found by the caller, unless there was one. Returns an empty array, so that an
 * operation can end with `return zm_scope_fail(...)`. */
mlx_array zm_scope_fail(zm_scope *scope, zmlx_status code, const char *where, const char *format, ...)
    ZM_PRINTF(4, 5);
/* Sets *kept (an array of the caller's, replaced if it was set) to array; it outlives the scope. */
void zm_scope_keep(zm_scope *scope, mlx_array *kept, mlx_array array);
/* Frees the scope's arrays from number first on (n_arrays of an earlier moment) but kept, for work that is evaluated
 * meanwhile. */
void zm_scope_release(zm_scope *scope, size_t first, mlx_array kept);
/* Gives an owned array to the scope: freed with it. Returns it. */
mlx_array zm_scope_own(zm_scope *scope, mlx_array array);

/* The last mlx-c error of this thread as a zmlx_error. */
zmlx_status zm_mlx_fail(zmlx_error *error, const char *where);
/* MLX's version as "1.2.3", cut where it is longer. */
zmlx_status zm_mlx_version(char *version, size_t size, zmlx_error *error);

/* Element-wise. */
mlx_array zm_add(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_subtract(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_multiply(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_divide(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_minimum(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_maximum(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_logaddexp(zm_scope *, mlx_array a, mlx_array b); /* log(e^a + e^b) */
mlx_array zm_less(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_greater_equal(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_logical_and(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_where(zm_scope *, mlx_array condition, mlx_array a, mlx_array b);
mlx_array zm_floor_divide(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_negative(zm_scope *, mlx_array a);
mlx_array zm_sigmoid(zm_scope *, mlx_array a);
mlx_array zm_tanh(zm_scope *, mlx_array a);
mlx_array zm_exp(zm_scope *, mlx_array a);
mlx_array zm_power(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_stop_gradient(zm_scope *, mlx_array a);
mlx_array zm_astype(zm_scope *, mlx_array a, mlx_dtype dtype);
/* A scalar of the array's dtype: a Python or C scalar takes the dtype of the array it meets. The value
 * must be in the dtype's range. */
mlx_array zm_scalar_like(zm_scope *, double value, mlx_array array);
mlx_array zm_scalar(zm_scope *, double value, mlx_dtype dtype);

/* Shapes. Negative axes count from the end. */
mlx_array zm_reshape(zm_scope *, mlx_array a, const int *shape, int n_dims);
mlx_array zm_reshape2(zm_scope *, mlx_array a, int d0, int d1);
mlx_array zm_reshape3(zm_scope *, mlx_array a, int d0, int d1, int d2);
mlx_array zm_reshape4(zm_scope *, mlx_array a, int d0, int d1, int d2, int d3);
mlx_array zm_transpose(zm_scope *, mlx_array a, const int *axes, int n_axes);
mlx_array zm_swapaxes(zm_scope *, mlx_array a, int axis1, int axis2);
mlx_array zm_expand_dims(zm_scope *, mlx_array a, int axis);
mlx_array zm_squeeze(zm_scope *, mlx_array a, int axis);
mlx_array zm_flatten(zm_scope *, mlx_array a, int start_axis, int end_axis);
mlx_array zm_contiguous(zm_scope *, mlx_array a);
mlx_array zm_broadcast_to(zm_scope *, mlx_array a, const int *shape, int n_dims);
mlx_array zm_view_as(zm_scope *, mlx_array a, mlx_dtype dtype);
/* Elements [start, stop) along one axis, every step-th. start and stop may be negative (from the
 * end); stop INT_MAX means the end. */
mlx_array zm_slice_axis(zm_scope *, mlx_array a, int axis, int start, int stop, int step);
/* a with rows [start, start + rows of update) along axis replaced. */
mlx_array zm_slice_update_axis(zm_scope *, mlx_array a, mlx_array update, int axis, int start);
mlx_array zm_concatenate(zm_scope *, mlx_array a, mlx_array b, int axis);
mlx_array zm_stack(zm_scope *, const mlx_array *arrays, size_t count, int axis);
mlx_array zm_zeros(zm_scope *, const int *shape, int n_dims, mlx_dtype dtype);
mlx_array zm_arange(zm_scope *, double start, double stop, double step, mlx_dtype dtype);
mlx_array zm_from_data(zm_scope *, const void *data, const int *shape, int n_dims, mlx_dtype dtype);

/* Reductions, selection. */
mlx_array zm_sum(zm_scope *, mlx_array a, int axis, bool keepdims);
mlx_array zm_max(zm_scope *, mlx_array a, int axis, bool keepdims);
mlx_array zm_argmax(zm_scope *, mlx_array a, int axis, bool keepdims);
mlx_array zm_logsumexp(zm_scope *, mlx_array a, int axis, bool keepdims);
mlx_array zm_softmax(zm_scope *, mlx_array a, int axis, bool precise);
mlx_array zm_cumsum(zm_scope *, mlx_array a, int axis, bool reverse, bool inclusive);
mlx_array zm_sort(zm_scope *, mlx_array a, int axis);
mlx_array zm_argsort(zm_scope *, mlx_array a, int axis);
mlx_array zm_argpartition(zm_scope *, mlx_array a, int kth, int axis);
mlx_array zm_take(zm_scope *, mlx_array a, mlx_array indices, int axis);
mlx_array zm_take_along_axis(zm_scope *, mlx_array a, mlx_array indices, int axis);
mlx_array zm_put_along_axis(zm_scope *, mlx_array a, mlx_array indices, mlx_array values, int axis);
/* rows [N, T] with updates [M, T] added to the rows that indices [M] name. */
mlx_array zm_scatter_add_rows(zm_scope *, mlx_array rows, mlx_array indices, mlx_array updates);

/* Products and layers. bias, biases, mask, sinks, freqs: an empty array (ctx NULL) where absent. */
mlx_array zm_matmul(zm_scope *, mlx_array a, mlx_array b);
mlx_array zm_addmm(zm_scope *, mlx_array c, mlx_array a, mlx_array b);
mlx_array zm_quantized_matmul(zm_scope *, mlx_array x, mlx_array weight, mlx_array scales, mlx_array biases,
                              zm_quantization quantization);
/* x W, where the above is x W^T. */
mlx_array zm_quantized_matmul_plain(zm_scope *, mlx_array x, mlx_array weight, mlx_array scales, mlx_array biases,
                                    zm_quantization quantization);
/* The values of e4m3 bytes (uint8). */
mlx_array zm_from_fp8(zm_scope *, mlx_array a, mlx_dtype dtype);
/* parts: weight, scales and, of the affine mode, biases. */
void zm_quantize(zm_scope *, mlx_array parts[3], mlx_array weight, zm_quantization quantization);
mlx_array zm_dequantize(zm_scope *, mlx_array weight, mlx_array scales, mlx_array biases,
                        zm_quantization quantization);
mlx_array zm_gather_qmm(zm_scope *, mlx_array x, mlx_array weight, mlx_array scales, mlx_array biases,
                        mlx_array rhs_indices, zm_quantization quantization, bool sorted_indices);
mlx_array zm_gather_mm(zm_scope *, mlx_array a, mlx_array b, mlx_array rhs_indices, bool sorted_indices);
mlx_array zm_conv1d(zm_scope *, mlx_array input, mlx_array weight, int groups);
mlx_array zm_rms_norm(zm_scope *, mlx_array x, mlx_array weight, float eps);
mlx_array zm_layer_norm(zm_scope *, mlx_array x, mlx_array weight, mlx_array bias, float eps);
/* base 0: freqs gives the frequencies instead. */
mlx_array zm_rope(zm_scope *, mlx_array x, int dims, bool traditional, float base, float scale, int offset,
                  mlx_array freqs);
/* mask_mode: "" (none, or mask_array given), "causal" or "array", as mlx-c. */
mlx_array zm_scaled_dot_product_attention(zm_scope *, mlx_array queries, mlx_array keys, mlx_array values,
                                          float scale, const char *mask_mode, mlx_array mask_array,
                                          mlx_array sinks);
mlx_array zm_categorical(zm_scope *, mlx_array logits, int axis, mlx_array key);

/* One output of a fused node. */
mlx_array zm_node(zm_scope *, const zm_node_output *spec, const zm_node_class *node_class, void *state,
                  const mlx_array *inputs, int n_inputs);

/* Shape questions; 0 for an empty array. */
int zm_dim(mlx_array a, int axis); /* negative axes count from the end */
bool zm_is_set(mlx_array a);       /* ctx is not NULL */
const char *zm_dtype_name(mlx_dtype dtype); /* "float32", "uint8", ...; "?" for what is none */

#endif
