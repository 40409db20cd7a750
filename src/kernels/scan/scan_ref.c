/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

/* Sums from one end of each row. */
static void sum_from(zm_oracle_output *to, const double *x, size_t rows, size_t n, bool from_end) {
    for (size_t row = 0; row < rows; row++) {
        double sum = 0, size = 0;
        for (size_t i = 0; i < n; i++) {
            size_t at = row * n + (from_end ? n - 1 - i : i);
            sum += x[at];
            size += fabs(x[at]);
            zm_put(to, at, sum, size);
        }
    }
}

static void scan(zm_oracle *call, bool from_end) {
    sum_from(&call->outputs[0], call->inputs[0].values, call->rows, call->columns, from_end);
    if (call->gradients)
        sum_from(&call->gradients[0], call->cotangents[0].values, call->rows, call->columns, !from_end);
}

zm_oracle_function zm_ref_cumsum_lastdim, zm_ref_cumsum_grad;
void zm_ref_cumsum_lastdim(zm_oracle *call) { scan(call, false); }
void zm_ref_cumsum_grad(zm_oracle *call) { scan(call, true); }
