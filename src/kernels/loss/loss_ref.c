/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

typedef struct row_sums {
    double m, sum;
    const double *x;
    size_t n;
} row_sums;

static row_sums sum_row(const zm_oracle *call, size_t row) {
    row_sums self = {-INFINITY, 0, call->inputs[0].values + row * call->columns, call->columns};
    for (size_t i = 0; i < self.n; i++)
        if (isnan(self.x[i]) || self.x[i] > self.m) self.m = isnan(self.m) ? self.m : self.x[i];
    for (size_t i = 0; i < self.n; i++) self.sum += exp(self.x[i] - self.m);
    return self;
}

static bool is_inside(const zm_oracle *call, double target) { return target >= 0 && target < (double)call->columns; }

/* (softmax - one at the target) times g. */
static void put_gradient(zm_oracle_output *to, const zm_oracle *call, const row_sums *sums, size_t row, double g) {
    double target = call->inputs[1].values[row];
    bool none = sums->m == -INFINITY || !is_inside(call, target);
    for (size_t i = 0; i < sums->n; i++) {
        double p = exp(sums->x[i] - sums->m) / sums->sum, one = (double)i == target;
        double spread = 1 + fabs(isfinite(sums->m - sums->x[i]) ? sums->m - sums->x[i] : 0) / 16;
        zm_put(to, row * sums->n + i, none ? 0 : (p - one) * g, none ? 0 : (p * spread + one) * fabs(g));
    }
}

zm_oracle_function zm_ref_softmax_cross_entropy, zm_ref_softmax_cross_entropy_grad;
void zm_ref_softmax_cross_entropy(zm_oracle *call) {
    for (size_t row = 0; row < call->rows; row++) {
        row_sums sums = sum_row(call, row);
        double target = call->inputs[1].values[row], loss = NAN, scale = 0;
        if (is_inside(call, target)) {
            double t = sums.x[(size_t)target];
            loss = sums.m == -INFINITY ? (isnan(t) ? t : INFINITY) : sums.m + log(sums.sum) - t;
            scale = fabs(sums.m) + fabs(log(sums.sum)) + fabs(t);
        }
        zm_put(&call->outputs[0], row, loss, scale);
        if (call->gradients) put_gradient(&call->gradients[0], call, &sums, row, call->cotangents[0].values[row]);
    }
}

void zm_ref_softmax_cross_entropy_grad(zm_oracle *call) {
    for (size_t row = 0; row < call->rows; row++) {
        row_sums sums = sum_row(call, row);
        put_gradient(&call->outputs[0], call, &sums, row, call->inputs[2].values[row]);
    }
}
