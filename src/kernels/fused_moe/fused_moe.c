/* SPDX-License-Identifier: MIT */
#include "kernels/moe/experts.h"

void zm_compose_has_gather_qmm_swiglu(zm_catalog_call *call) {
    call->outputs[0] = zm_scalar(call->scope, 1, MLX_UINT8);
}

enum { LHS = 7, RHS = 8 };

/* Positions of x's batch in order, in its shape. */
static mlx_array positions_of(zm_catalog_call *call, int count) {
    mlx_array all = zm_arange(call->scope, 0, count, 1, MLX_UINT32);
    return zm_reshape(call->scope, all, call->sizes.rest, call->sizes.n_rest);
}

/* x, rounded already for the profile of MLX, by the gate or up matrices. */
static mlx_array product(zm_catalog_call *call, mlx_array x, int weight, mlx_array experts, bool as_mlx) {
    zm_quantization packed = {(int)call->values[1].number, (int)call->values[2].number, "affine"};
    const mlx_array *parts = call->inputs + weight;
    if (!as_mlx) return zm_experts_multiply(call->scope, x, parts, experts, packed);
    mlx_array scales = zm_astype(call->scope, parts[1], call->data_type),
              biases = zm_astype(call->scope, parts[2], call->data_type);
    return zm_gather_qmm(call->scope, x, parts[0], scales, biases, experts, packed, false);
}

static bool indices_broadcast(zm_catalog_call *call, mlx_array rows, mlx_array experts) {
    if (zm_scope_failed(call->scope)) return false;
    int n_rows = (int)mlx_array_ndim(rows), n_experts = (int)mlx_array_ndim(experts), n_both = n_rows;
    int both[ZM_SIGNATURE_MAX_DIMS];
    for (int i = 0; i < n_rows; i++) both[i] = mlx_array_dim(rows, i);
    if (zm_dims_broadcast(both, &n_both, mlx_array_shape(experts), n_experts)) return true;
    char left[128], right[128];
    zm_shape_describe(left, mlx_array_shape(rows), n_rows);
    zm_shape_describe(right, mlx_array_shape(experts), n_experts);
    zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where,
                  "indices: lhs_indices %s and rhs_indices %s do not broadcast (left out they are the positions of x "
                  "and all experts)",
                  left, right);
    return false;
}

/* MLX has no gradient of products whose indices have no dimension. */
static mlx_array at_least_1d(zm_scope *scope, mlx_array a) {
    return mlx_array_ndim(a) ? a : zm_reshape(scope, a, (const int[]){1}, 1);
}

static void compose(zm_catalog_call *call, bool as_mlx) {
    zm_scope *scope = call->scope;
    int m = zm_call_size(call, "M"), k = zm_call_size(call, "K"), count = 1;
    if (call->values[0].number != 1) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "transpose: expected 1, got 0");
        return;
    }
    if (!zm_experts_check(call, 1, 2, k)) return;
    for (int i = 0; i < call->sizes.n_rest; i++) count *= call->sizes.rest[i];
    if (!count) {
        zm_scope_fail(scope, ZMLX_ERROR_ARGUMENT, call->where, "x: expected at least one batch position, got 0");
        return;
    }
    bool has_lhs = call->inputs[LHS].ctx != NULL, has_rhs = call->inputs[RHS].ctx != NULL;
    mlx_array rows = has_lhs ? call->inputs[LHS] : positions_of(call, count), row_inside, expert_inside;
    mlx_array experts = has_rhs ? call->inputs[RHS] : zm_arange(scope, 0, zm_call_size(call, "E"), 1, MLX_UINT32);
    if (!indices_broadcast(call, rows, experts)) return;
    bool is_single = !mlx_array_ndim(rows) && !mlx_array_ndim(experts);
    rows = at_least_1d(scope, rows);
    mlx_array none = zm_scalar(scope, 0, MLX_UINT32);
    mlx_array both = zm_add(scope, rows, zm_multiply(scope, experts, none)); /* the rows, broadcast */
    experts = zm_add(scope, experts, zm_multiply(scope, rows, none));
    rows = zm_experts_clamp(scope, both, count, &row_inside);
    experts = zm_experts_clamp(scope, experts, zm_call_size(call, "E"), &expert_inside);
    /* Gathered in float32: then gradients of a row gathered twice are added in float32. */
    mlx_array x = zm_reshape3(scope, zm_astype(scope, call->inputs[0], MLX_FLOAT32), count, m, k);
    mlx_array is_inside = zm_logical_and(scope, row_inside, expert_inside);
    x = zm_experts_keep(scope, zm_take(scope, x, rows, 0), zm_expand_dims(scope, is_inside, -1));
    if (as_mlx) x = zm_astype(scope, x, call->data_type);
    mlx_array inputs[2] = {product(call, x, 1, experts, as_mlx), product(call, x, 4, experts, as_mlx)}, y = {NULL};
    zm_call_part(call, &y, as_mlx ? "swiglu2_mlx" : "swiglu2", inputs, NULL, call->output_types);
    y = zm_experts_mark(scope, y, is_inside);
    call->outputs[0] = is_single ? zm_squeeze(scope, y, 0) : y;
}

void zm_compose_gather_qmm_swiglu(zm_catalog_call *call) { compose(call, false); }
void zm_compose_gather_qmm_swiglu_mlx(zm_catalog_call *call) { compose(call, true); }
