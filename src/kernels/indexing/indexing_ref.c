/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

zm_oracle_function zm_ref_fused_gather_add, zm_ref_fused_scatter_add;
void zm_ref_fused_gather_add(zm_oracle *call) {
    size_t n_indices = call->inputs[1].size, columns = n_indices ? call->inputs[2].size / n_indices : 0;
    double n = zm_oracle_size(call, "N");
    if (call->gradients) call->gradients[0].terms = (double)n_indices;
    for (size_t i = 0; i < call->inputs[2].size; i++) {
        double index = call->inputs[1].values[i / columns];
        bool is_inside = index >= 0 && index < n;
        size_t from = is_inside ? (size_t)index * columns + i % columns : 0;
        zm_put(&call->outputs[0], i, is_inside ? call->inputs[0].values[from] + call->inputs[2].values[i] : (double)NAN,
               0);
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i];
        if (is_inside) zm_put_more(&call->gradients[0], from, g, fabs(g));
        zm_put(&call->gradients[2], i, g, 0);
    }
}
void zm_ref_fused_scatter_add(zm_oracle *call) {
    size_t n_indices = call->inputs[0].size, columns = n_indices ? call->inputs[1].size / n_indices : 0;
    double n = zm_oracle_size(call, "n_rows");
    call->outputs[0].terms = (double)n_indices;
    for (size_t i = 0; i < call->inputs[1].size; i++) {
        double index = call->inputs[0].values[i / columns], x = call->inputs[1].values[i];
        if (index < 0 || index >= n) continue;
        size_t to = (size_t)index * columns + i % columns;
        zm_put_more(&call->outputs[0], to, x, fabs(x));
        if (call->gradients) zm_put(&call->gradients[1], i, call->cotangents[0].values[to], 0);
    }
}
