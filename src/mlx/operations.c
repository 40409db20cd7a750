/* SPDX-License-Identifier: MIT */
/* Element-wise operations, reductions, selection, products, layers. */
#include "mlx/operation.h"

mlx_array zm_add(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, add, a, b); }
mlx_array zm_subtract(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, subtract, a, b); }
mlx_array zm_multiply(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, multiply, a, b); }
mlx_array zm_divide(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, divide, a, b); }
mlx_array zm_minimum(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, minimum, a, b); }
mlx_array zm_maximum(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, maximum, a, b); }
mlx_array zm_logaddexp(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, logaddexp, a, b); }
mlx_array zm_less(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, less, a, b); }
mlx_array zm_power(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, power, a, b); }

mlx_array zm_greater_equal(zm_scope *scope, mlx_array a, mlx_array b) {
    ZM_OPERATION(scope, greater_equal, a, b);
}

mlx_array zm_logical_and(zm_scope *scope, mlx_array a, mlx_array b) {
    ZM_OPERATION(scope, logical_and, a, b);
}

mlx_array zm_where(zm_scope *scope, mlx_array condition, mlx_array a, mlx_array b) {
    ZM_OPERATION(scope, where, condition, a, b);
}

mlx_array zm_floor_divide(zm_scope *scope, mlx_array a, mlx_array b) {
    ZM_OPERATION(scope, floor_divide, a, b);
}

mlx_array zm_negative(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, negative, a); }

mlx_array zm_sigmoid(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, sigmoid, a); }
mlx_array zm_tanh(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, tanh, a); }
mlx_array zm_exp(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, exp, a); }
mlx_array zm_stop_gradient(zm_scope *scope, mlx_array a) { ZM_OPERATION(scope, stop_gradient, a); }
mlx_array zm_astype(zm_scope *scope, mlx_array a, mlx_dtype dtype) { ZM_OPERATION(scope, astype, a, dtype); }

mlx_array zm_sum(zm_scope *scope, mlx_array a, int axis, bool keepdims) {
    ZM_OPERATION(scope, sum_axis, a, axis, keepdims);
}

mlx_array zm_max(zm_scope *scope, mlx_array a, int axis, bool keepdims) {
    ZM_OPERATION(scope, max_axis, a, axis, keepdims);
}

mlx_array zm_argmax(zm_scope *scope, mlx_array a, int axis, bool keepdims) {
    ZM_OPERATION(scope, argmax_axis, a, axis, keepdims);
}

mlx_array zm_logsumexp(zm_scope *scope, mlx_array a, int axis, bool keepdims) {
    ZM_OPERATION(scope, logsumexp_axis, a, axis, keepdims);
}

mlx_array zm_softmax(zm_scope *scope, mlx_array a, int axis, bool precise) {
    ZM_OPERATION(scope, softmax_axis, a, axis, precise);
}

mlx_array zm_cumsum(zm_scope *scope, mlx_array a, int axis, bool reverse, bool inclusive) {
    ZM_OPERATION(scope, cumsum, a, axis, reverse, inclusive);
}

mlx_array zm_sort(zm_scope *scope, mlx_array a, int axis) { ZM_OPERATION(scope, sort_axis, a, axis); }
mlx_array zm_argsort(zm_scope *scope, mlx_array a, int axis) { ZM_OPERATION(scope, argsort_axis, a, axis); }

mlx_array zm_argpartition(zm_scope *scope, mlx_array a, int kth, int axis) {
    ZM_OPERATION(scope, argpartition_axis, a, kth, axis);
}

static bool is_empty(mlx_array a) { return a.ctx && !mlx_array_size(a); }

/* What is gathered from nothing depends on nothing: zeros instead of a graph. MLX divides by zero in products over
 * nothing and in the gradient of a gather, a scatter of nothing. */
static mlx_array zeros_like(zm_scope *scope, mlx_array result) {
    return zm_zeros(scope, mlx_array_shape(result), (int)mlx_array_ndim(result), mlx_array_dtype(result));
}

static mlx_array take(zm_scope *scope, mlx_array a, mlx_array indices, int axis) {
    ZM_OPERATION(scope, take_axis, a, indices, axis);
}

static mlx_array take_along_axis(zm_scope *scope, mlx_array a, mlx_array indices, int axis) {
    ZM_OPERATION(scope, take_along_axis, a, indices, axis);
}

mlx_array zm_take(zm_scope *scope, mlx_array a, mlx_array indices, int axis) {
    mlx_array result = take(scope, a, indices, axis);
    return is_empty(result) ? zeros_like(scope, result) : result;
}

mlx_array zm_take_along_axis(zm_scope *scope, mlx_array a, mlx_array indices, int axis) {
    mlx_array result = take_along_axis(scope, a, indices, axis);
    return is_empty(result) ? zeros_like(scope, result) : result;
}

mlx_array zm_put_along_axis(zm_scope *scope, mlx_array a, mlx_array indices, mlx_array values, int axis) {
    ZM_OPERATION(scope, put_along_axis, a, indices, values, axis);
}

mlx_array zm_scatter_add_rows(zm_scope *scope, mlx_array rows, mlx_array indices, mlx_array updates) {
    mlx_array each = zm_expand_dims(scope, updates, 1), result = {NULL};
    if (zm_scope_failed(scope)) return result;
    mlx_vector_array list = mlx_vector_array_new_value(indices);
    int status = !list.ctx || mlx_scatter_add(&result, rows, list, each, (const int[]){0}, 1, scope->stream);
    mlx_vector_array_free(list);
    return zm_scope_take(scope, "scatter_add", status, result);
}

mlx_array zm_matmul(zm_scope *scope, mlx_array a, mlx_array b) { ZM_OPERATION(scope, matmul, a, b); }

mlx_array zm_addmm(zm_scope *scope, mlx_array c, mlx_array a, mlx_array b) {
    ZM_OPERATION(scope, addmm, c, a, b, 1.0f, 1.0f);
}

static mlx_optional_int set_int(int value) { return (mlx_optional_int){value, true}; }

mlx_array zm_quantized_matmul(zm_scope *scope, mlx_array x, mlx_array weight, mlx_array scales,
                              mlx_array biases, zm_quantization quantization) {
    ZM_OPERATION(scope, quantized_matmul, x, weight, scales, biases, true, set_int(quantization.group_size),
                 set_int(quantization.bits), quantization.mode);
}

mlx_array zm_quantized_matmul_plain(zm_scope *scope, mlx_array x, mlx_array weight, mlx_array scales,
                                    mlx_array biases, zm_quantization quantization) {
    ZM_OPERATION(scope, quantized_matmul, x, weight, scales, biases, false, set_int(quantization.group_size),
                 set_int(quantization.bits), quantization.mode);
}

mlx_array zm_from_fp8(zm_scope *scope, mlx_array a, mlx_dtype dtype) { ZM_OPERATION(scope, from_fp8, a, dtype); }

void zm_quantize(zm_scope *scope, mlx_array parts[3], mlx_array weight, zm_quantization quantization) {
    mlx_array no_global_scale = {NULL};
    for (int i = 0; i < 3; i++) parts[i] = (mlx_array){NULL};
    if (zm_scope_failed(scope)) return;
    mlx_vector_array made = {NULL};
    int status = mlx_quantize(&made, weight, set_int(quantization.group_size), set_int(quantization.bits),
                              quantization.mode, no_global_scale, scope->stream);
    for (size_t i = 0; !status && i < 3 && i < mlx_vector_array_size(made); i++) {
        mlx_array part = {NULL};
        status = mlx_vector_array_get(&part, made, i);
        parts[i] = zm_scope_take(scope, "quantize", status, part);
    }
    if (status && !zm_scope_failed(scope)) zm_mlx_fail(&scope->failure, "quantize");
    mlx_vector_array_free(made);
}

mlx_array zm_dequantize(zm_scope *scope, mlx_array weight, mlx_array scales, mlx_array biases,
                        zm_quantization quantization) {
    mlx_array no_global_scale = {NULL};
    mlx_optional_dtype dtype_of_scales = {MLX_FLOAT32, false};
    ZM_OPERATION(scope, dequantize, weight, scales, biases, set_int(quantization.group_size),
                 set_int(quantization.bits), quantization.mode, no_global_scale, dtype_of_scales);
}

static mlx_array gather_qmm(zm_scope *scope, mlx_array x, mlx_array weight, mlx_array scales, mlx_array biases,
                            mlx_array rhs_indices, zm_quantization quantization, bool sorted_indices) {
    mlx_array no_lhs_indices = {NULL};
    ZM_OPERATION(scope, gather_qmm, x, weight, scales, biases, no_lhs_indices, rhs_indices, true,
                 set_int(quantization.group_size), set_int(quantization.bits), quantization.mode,
                 sorted_indices);
}

mlx_array zm_gather_qmm(zm_scope *scope, mlx_array x, mlx_array weight, mlx_array scales, mlx_array biases,
                        mlx_array rhs_indices, zm_quantization quantization, bool sorted_indices) {
    mlx_array result = gather_qmm(scope, x, weight, scales, biases, rhs_indices, quantization, sorted_indices);
    return result.ctx && (is_empty(x) || is_empty(weight)) ? zeros_like(scope, result) : result;
}

static mlx_array gather_mm(zm_scope *scope, mlx_array a, mlx_array b, mlx_array rhs_indices, bool sorted_indices) {
    mlx_array no_lhs_indices = {NULL};
    ZM_OPERATION(scope, gather_mm, a, b, no_lhs_indices, rhs_indices, sorted_indices);
}

mlx_array zm_gather_mm(zm_scope *scope, mlx_array a, mlx_array b, mlx_array rhs_indices, bool sorted_indices) {
    mlx_array result = gather_mm(scope, a, b, rhs_indices, sorted_indices);
    return result.ctx && (is_empty(a) || is_empty(b)) ? zeros_like(scope, result) : result;
}

mlx_array zm_conv1d(zm_scope *scope, mlx_array input, mlx_array weight, int groups) {
    ZM_OPERATION(scope, conv1d, input, weight, 1, 0, 1, groups);
}

mlx_array zm_rms_norm(zm_scope *scope, mlx_array x, mlx_array weight, float eps) {
    ZM_OPERATION(scope, fast_rms_norm, x, weight, eps);
}

mlx_array zm_layer_norm(zm_scope *scope, mlx_array x, mlx_array weight, mlx_array bias, float eps) {
    ZM_OPERATION(scope, fast_layer_norm, x, weight, bias, eps);
}

mlx_array zm_rope(zm_scope *scope, mlx_array x, int dims, bool traditional, float base, float scale,
                  int offset, mlx_array freqs) {
    mlx_optional_float given_base = {base, base != 0.0f};
    ZM_OPERATION(scope, fast_rope, x, dims, traditional, given_base, scale, offset, freqs);
}

mlx_array zm_scaled_dot_product_attention(zm_scope *scope, mlx_array queries, mlx_array keys,
                                          mlx_array values, float scale, const char *mask_mode,
                                          mlx_array mask_array, mlx_array sinks) {
    ZM_OPERATION(scope, fast_scaled_dot_product_attention, queries, keys, values, scale, mask_mode,
                 mask_array, sinks);
}

mlx_array zm_categorical(zm_scope *scope, mlx_array logits, int axis, mlx_array key) {
    ZM_OPERATION(scope, random_categorical, logits, axis, key);
}
