/* SPDX-License-Identifier: MIT */
#include "kernels/moe/experts_ref.h"

zm_oracle_function zm_ref_has_gather_qmm_swiglu;
void zm_ref_has_gather_qmm_swiglu(zm_oracle *call) { zm_put(&call->outputs[0], 0, 1, 0); }

typedef struct expert_product {
    double value, size;
} expert_product;

static expert_product multiply(const zm_ref_packed *packed, size_t row, const double *x) {
    expert_product sum = {0, 0};
    for (size_t i = 0; i < packed->columns; i++) {
        sum.value += x[i] * zm_ref_weight(packed, row, i);
        sum.size += fabs(x[i]) * zm_ref_weight_size(packed, row, i);
    }
    return sum;
}

static zm_ref_packed packed_of(const zm_oracle *call, int input) {
    return (zm_ref_packed){&call->inputs[input],
                           &call->inputs[input + 1],
                           &call->inputs[input + 2],
                           (size_t)zm_oracle_size(call, "K"),
                           (size_t)call->numbers[2].number,
                           (size_t)call->numbers[1].number};
}

static void put_element(zm_oracle *call, size_t to, size_t x_at, size_t row) {
    zm_ref_packed gate = packed_of(call, 1), up = packed_of(call, 4);
    const double *x = call->inputs[0].values + x_at;
    expert_product g = multiply(&gate, row, x), u = multiply(&up, row, x);
    zm_put(&call->outputs[0], to, zm_ref_silu_of(g.value) * u.value,
           1.2 * g.size * fabs(u.value) + fabs(zm_ref_silu_of(g.value)) * u.size);
    if (!call->gradients) return;
    double c = call->cotangents[0].values[to], dg = c * u.value * zm_ref_silu_slope(g.value),
           du = c * zm_ref_silu_of(g.value);
    double dg_size = fabs(c) * 1.2 * (u.size + fabs(u.value) * g.size), du_size = fabs(c) * 1.2 * g.size;
    for (size_t i = 0; i < gate.columns; i++)
        zm_put_more(&call->gradients[0], x_at + i, dg * zm_ref_weight(&gate, row, i) + du * zm_ref_weight(&up, row, i),
                    dg_size * zm_ref_weight_size(&gate, row, i) + du_size * zm_ref_weight_size(&up, row, i));
}

zm_oracle_function zm_ref_gather_qmm_swiglu;
void zm_ref_gather_qmm_swiglu(zm_oracle *call) {
    size_t m = (size_t)zm_oracle_size(call, "M"), n = (size_t)zm_oracle_size(call, "N"),
           k = (size_t)zm_oracle_size(call, "K");
    size_t rows = m && k ? call->inputs[0].size / (m * k) : 0;
    for (size_t to = 0; to < call->outputs[0].size; to++) {
        size_t place = to / (m * n);
        double lhs = call->inputs[7].values ? call->inputs[7].values[place] : (double)(place % rows);
        double rhs = call->inputs[8].values ? call->inputs[8].values[place] : (double)place;
        bool inside = lhs >= 0 && lhs < (double)rows && rhs >= 0 && rhs < zm_oracle_size(call, "E");
        if (inside)
            put_element(call, to, ((size_t)lhs * m + to / n % m) * k, (size_t)rhs * n + to % n);
        else
            zm_put(&call->outputs[0], to, NAN, 0);
    }
}
