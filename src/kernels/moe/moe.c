/* SPDX-License-Identifier: MIT */
#include "kernels/moe/experts.h"

#include <math.h>
#include <string.h>

#include "kernels/cuda/topk.h"
#include "kernels/select.h"
#include "runtime/cuda_text.h"

static mlx_array widen(zm_catalog_call *call, mlx_array a) { return zm_astype(call->scope, a, MLX_FLOAT32); }

static mlx_array apply(zm_catalog_call *call, const char *part, mlx_array x) {
    mlx_array y = {NULL};
    zm_call_part(call, &y, part, &x, NULL, NULL);
    return y;
}

static void set_weights(zm_catalog_call *call, mlx_array weights) {
    call->outputs[0] = zm_astype(call->scope, weights, call->output_types[0]);
}

/* The softmax of the k largest. */
static void gate_chosen(zm_catalog_call *call, int k) {
    mlx_array chosen;
    if (zm_scope_failed(call->scope)) return;
    if (k <= ZM_CUDA_TOPK_MAX && zm_scope_is_on_cuda(call->scope)) {
        zm_cuda_select(call->scope, call->inputs[0], k, true, call->output_types[0], &call->outputs[0],
                       &call->outputs[1]);
        return;
    }
    if (zm_select_gates(call->scope, call->inputs[0], k, &chosen, &call->outputs[1])) {
        if (!zm_scope_failed(call->scope)) set_weights(call, chosen);
        return;
    }
    zm_select_topk(call->scope, call->inputs[0], k, &chosen, &call->outputs[1]);
    set_weights(call, apply(call, "softmax_lastdim", widen(call, chosen)));
}

void zm_compose_top2_gating_softmax(zm_catalog_call *call) { gate_chosen(call, 2); }

/* Weights that are all 0 stay so without eps, too, and have a gradient. */
static mlx_array divide_by_sum(zm_scope *scope, mlx_array weights, double eps) {
    mlx_array zero = zm_scalar(scope, 0, MLX_FLOAT32), one = zm_scalar(scope, 1, MLX_FLOAT32);
    mlx_array sum = zm_add(scope, zm_sum(scope, weights, -1, true), zm_scalar(scope, eps, MLX_FLOAT32));
    mlx_array is_none = zm_logical_and(scope, zm_greater_equal(scope, sum, zero), zm_greater_equal(scope, zero, sum));
    return zm_divide(scope, weights, zm_where(scope, is_none, one, sum));
}

void zm_compose_topk_gating_softmax(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int k = (int)call->values[0].number;
    bool normalises = call->values[1].number != 0, bias_in_weights = call->values[2].number != 0;
    mlx_array bias = call->inputs[1];
    if (!bias.ctx && normalises) {
        gate_chosen(call, k);
        return;
    }
    mlx_array p = apply(call, "softmax_lastdim", widen(call, call->inputs[0])), weights;
    mlx_array scores = bias.ctx ? zm_add(scope, p, widen(call, bias)) : p;
    zm_select_topk(scope, scores, k, &weights, &call->outputs[1]);
    if (bias.ctx && !bias_in_weights)
        weights = zm_take_along_axis(scope, p, zm_stop_gradient(scope, call->outputs[1]), -1);
    if (normalises) weights = divide_by_sum(scope, weights, 1e-20);
    mlx_array zero = zm_scalar(scope, 0, MLX_FLOAT32);
    mlx_array has_none = zm_greater_equal(scope, zero, zm_sum(scope, p, -1, true)); /* false for NaN */
    set_weights(call, zm_where(scope, has_none, zero, weights));
}

/* scores (..., D) with 0 in all but the best groups. */
static mlx_array keep_groups(zm_catalog_call *call, mlx_array scores, int n_group, int topk_group) {
    zm_scope *scope = call->scope;
    if (zm_scope_failed(scope)) return scores;
    int n_dims = (int)mlx_array_ndim(scores), size = zm_dim(scores, -1) / n_group, shape[ZM_NODE_MAX_DIMS + 1];
    if (n_dims == ZM_NODE_MAX_DIMS)
        return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, call->where,
                             "logits: too many dimensions for groups");
    for (int i = 0; i < n_dims; i++) shape[i] = mlx_array_dim(scores, i);
    shape[n_dims - 1] = n_group;
    shape[n_dims] = size;
    mlx_array groups = zm_reshape(scope, scores, shape, n_dims + 1), best, unused, places;
    zm_select_topk(scope, groups, size < 2 ? size : 2, &best, &unused);
    zm_select_topk(scope, zm_sum(scope, best, -1, false), topk_group, &unused, &places);
    mlx_array kept = zm_zeros(scope, shape, n_dims, MLX_FLOAT32);
    kept = zm_put_along_axis(scope, kept, places, zm_scalar(scope, 1, MLX_FLOAT32), -1);
    mlx_array is_kept = zm_expand_dims(scope, zm_less(scope, zm_scalar(scope, 0, MLX_FLOAT32), kept), -1);
    groups = zm_where(scope, is_kept, groups, zm_scalar(scope, 0, MLX_FLOAT32));
    return zm_reshape(scope, groups, mlx_array_shape(scores), n_dims);
}

void zm_compose_deepseek_router_topk_sigmoid(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int k = (int)call->values[0].number, n_group = (int)call->values[1].number,
        topk_group = (int)call->values[2].number;
    if (zm_call_size(call, "D") % n_group) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where,
                      "n_group: expected a divisor of D (%d), got %d", zm_call_size(call, "D"), n_group);
        return;
    }
    mlx_array a = apply(call, "sigmoid", widen(call, call->inputs[0])), unused;
    mlx_array scores = zm_stop_gradient(scope, zm_add(scope, a, widen(call, call->inputs[1])));
    if (n_group > 1) scores = keep_groups(call, scores, n_group, topk_group);
    zm_select_topk(scope, scores, k, &unused, &call->outputs[1]);
    mlx_array weights = zm_take_along_axis(scope, a, call->outputs[1], -1);
    if (call->values[3].number != 0) weights = divide_by_sum(scope, weights, call->values[4].number);
    set_weights(call, zm_multiply(scope, weights, zm_scalar(scope, call->values[5].number, MLX_FLOAT32)));
}

/* The last dimension from its end to its begin. */
static mlx_array reverse(zm_scope *scope, mlx_array a) {
    int n = zm_dim(a, -1);
    return zm_take(scope, a, zm_astype(scope, zm_arange(scope, n - 1, -1, -1, MLX_INT32), MLX_UINT32), -1);
}

/* Descending with the lower index first, of the reversed row, is ascending with the higher index preferred
 * once reversed. */
void zm_compose_router_argpartition_logits_topk(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    mlx_array chosen, places;
    zm_select_topk(scope, reverse(scope, call->inputs[0]), (int)call->values[0].number, &chosen, &places);
    mlx_array last = zm_scalar(scope, zm_call_size(call, "D") - 1, MLX_UINT32);
    call->outputs[1] = reverse(scope, zm_subtract(scope, last, places));
    set_weights(call, apply(call, "softmax_lastdim", widen(call, reverse(scope, chosen))));
}

/* Without experts: zeros. MLX does not come back from a sum over an empty dimension that is not the last. */
static bool has_no_experts(zm_catalog_call *call) {
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
    if (zm_call_size(call, "K")) return false;
    if (zm_pattern_shape(shape, &n_dims, &call->entry->signature.output_patterns[0], &call->sizes))
        call->outputs[0] = zm_zeros(call->scope, shape, n_dims, call->output_types[0]);
    return true;
}

void zm_compose_moe_dispatch(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
    if (has_no_experts(call)) return;
    if (!zm_pattern_shape(shape, &n_dims, &call->entry->signature.output_patterns[0], &call->sizes)) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "x: too many dimensions");
        return;
    }
    mlx_array x = zm_expand_dims(scope, widen(call, call->inputs[0]), -2); /* so that gradients are summed in float32 */
    call->outputs[0] = zm_astype(scope, zm_broadcast_to(scope, x, shape, n_dims), call->data_type);
}

/* y (..., K, D) weighed by w (..., K), summed over K. */
static mlx_array combine(zm_catalog_call *call, mlx_array y, mlx_array w) {
    mlx_array weighed = {NULL}, inputs[2] = {y, w};
    zm_call_part(call, &weighed, "weigh", inputs, NULL, (const mlx_dtype[]){MLX_FLOAT32});
    return zm_sum(call->scope, weighed, -2, false);
}

void zm_compose_moe_combine(zm_catalog_call *call) {
    if (has_no_experts(call)) return;
    mlx_array sum = combine(call, widen(call, call->inputs[0]), widen(call, call->inputs[1]));
    call->outputs[0] = zm_astype(call->scope, sum, call->output_types[0]);
}

/* Column k of dimension axis. */
static mlx_array pick(zm_scope *scope, mlx_array a, int axis, int k) {
    return zm_squeeze(scope, zm_slice_axis(scope, a, axis, k, k + 1, 1), axis);
}

/* w rounded to the type: as that type where w is not wider, else in float32, where the rounding has the
 * gradient of w. */
static mlx_array round_weights(zm_catalog_call *call, mlx_array w) {
    zm_scope *scope = call->scope;
    if (mlx_array_dtype(w) == call->data_type) return w;
    mlx_array wide = zm_astype(scope, w, MLX_FLOAT32);
    mlx_array rounded = zm_astype(scope, zm_astype(scope, wide, call->data_type), MLX_FLOAT32);
    /* The difference of numbers so close is exact, and so is the sum. */
    return zm_add(scope, wide, zm_stop_gradient(scope, zm_subtract(scope, rounded, wide)));
}

void zm_compose_moe_combine_exact(zm_catalog_call *call) {
    zm_scope *scope = call->scope;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
    mlx_array w = round_weights(call, call->inputs[1]);
    if (!zm_pattern_shape(shape, &n_dims, &call->entry->signature.output_patterns[0], &call->sizes)) return;
    mlx_array sum = zm_zeros(scope, shape, n_dims, call->data_type);
    for (int k = 0; k < zm_call_size(call, "K") && !zm_scope_failed(scope); k++) {
        mlx_array product = {NULL}, inputs[2] = {pick(scope, call->inputs[0], -2, k), pick(scope, w, -1, k)};
        zm_call_part(call, &product, "weigh", inputs, NULL, NULL);
        mlx_array terms[2] = {sum, product};
        sum = (mlx_array){NULL};
        zm_call_part(call, &sum, "add", terms, NULL, NULL);
    }
    call->outputs[0] = sum;
}

bool zm_experts_check(zm_catalog_call *call, int group_size, int bits, int in_features) {
    int group = (int)call->values[group_size].number, width = (int)call->values[bits].number;
    const char *what = width == 7 ? "bits: expected 2, 3, 4, 5, 6 or 8, got %d"
                                  : "group_size: expected 32, 64 or 128, a divisor of the "
                                    "input features, got %d";
    if (width != 7 && (group == 32 || group == 64 || group == 128) && in_features % group == 0) return true;
    zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where, what, width == 7 ? width : group);
    return false;
}

mlx_array zm_experts_clamp(zm_scope *scope, mlx_array indices, int size, mlx_array *is_inside) {
    *is_inside = zm_less(scope, indices, zm_scalar(scope, size, MLX_UINT32));
    return zm_minimum(scope, indices, zm_scalar(scope, size - 1, MLX_UINT32));
}

mlx_array zm_experts_keep(zm_scope *scope, mlx_array x, mlx_array is_inside) {
    zm_catalog_call call = {.scope = scope, .where = "zmlx_experts"};
    mlx_array kept = {NULL}, inputs[2] = {x, is_inside};
    zm_call_part(&call, &kept, "keep_rows", inputs, NULL, (const mlx_dtype[]){MLX_FLOAT32});
    return kept;
}

mlx_array zm_experts_mark(zm_scope *scope, mlx_array a, mlx_array is_inside) {
    while (!zm_scope_failed(scope) && mlx_array_ndim(is_inside) < mlx_array_ndim(a))
        is_inside = zm_expand_dims(scope, is_inside, -1);
    return zm_where(scope, is_inside, a, zm_scalar_like(scope, (double)NAN, a));
}

mlx_array zm_experts_sum(zm_scope *scope, mlx_array products, mlx_array is_inside, mlx_array gate) {
    zm_catalog_call call = {.scope = scope, .where = "zmlx_experts"};
    mlx_array zero = zm_scalar(scope, 0, MLX_FLOAT32), nan = zm_scalar(scope, (double)NAN, MLX_FLOAT32);
    mlx_array y = zm_where(scope, zm_expand_dims(scope, is_inside, -1), zm_squeeze(scope, products, -2), zero);
    /* NaN is added behind all, so that the gradients of the other experts do not see it. */
    mlx_array n_outside = zm_sum(scope, zm_where(scope, is_inside, zero, zm_scalar(scope, 1, MLX_FLOAT32)), -1, true);
    mlx_array mark = zm_where(scope, zm_less(scope, zero, n_outside), nan, zero);
    return zm_add(scope, combine(&call, y, zm_astype(scope, gate, MLX_FLOAT32)), mark);
}

/* act (..., K, 1, DI) by the matrices of its experts. With CUDA MLX has products of many rows with sorted experts
 * ready, others it compiles for minutes when first used. */
static mlx_array multiply_experts(zm_scope *scope, mlx_array act, mlx_array weights, mlx_array experts) {
    if (zm_scope_failed(scope) || !zm_scope_is_on_cuda(scope)) return zm_gather_mm(scope, act, weights, experts, false);
    int count = (int)mlx_array_size(experts), n_dims = (int)mlx_array_ndim(experts), shape[ZM_NODE_MAX_DIMS + 2];
    memcpy(shape, mlx_array_shape(experts), (size_t)n_dims * sizeof *shape);
    shape[n_dims] = 1;
    shape[n_dims + 1] = zm_dim(weights, -1);
    mlx_array flat = zm_reshape(scope, experts, &count, 1), order = zm_argsort(scope, flat, 0);
    mlx_array rows = zm_take(scope, zm_reshape3(scope, act, count, 1, zm_dim(act, -1)), order, 0);
    mlx_array products = zm_gather_mm(scope, rows, weights, zm_take(scope, flat, order, 0), true);
    products = zm_take(scope, products, zm_argsort(scope, order, 0), 0);
    return zm_reshape(scope, products, shape, n_dims + 2);
}

void zm_compose_gather_qmm_combine(zm_catalog_call *call) {
    if (has_no_experts(call)) return;
    zm_scope *scope = call->scope;
    mlx_array is_inside, experts = zm_experts_clamp(scope, call->inputs[3], zm_call_size(call, "E"), &is_inside);
    mlx_array act = zm_expand_dims(scope, zm_experts_keep(scope, call->inputs[0], is_inside), -2);
    mlx_array products = multiply_experts(scope, act, widen(call, call->inputs[1]), experts);
    mlx_array sum = zm_experts_sum(scope, products, is_inside, call->inputs[2]);
    call->outputs[0] = zm_astype(scope, sum, call->output_types[0]);
}

void zm_compose_gather_qmm_combine_quantized(zm_catalog_call *call) {
    if (has_no_experts(call)) return;
    zm_scope *scope = call->scope;
    if (!zm_experts_check(call, 0, 1, zm_call_size(call, "DI"))) return;
    zm_quantization packed = {(int)call->values[0].number, (int)call->values[1].number, "affine"};
    mlx_array sum = zm_experts_combine(scope, call->inputs[0], call->inputs + 1, call->inputs[4], call->inputs[5],
                                       packed);
    call->outputs[0] = zm_astype(scope, sum, call->output_types[0]);
}
