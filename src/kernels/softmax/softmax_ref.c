/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

/* NaN if any is. */
static double largest(const double *x, size_t n) {
    double m = -INFINITY;
    for (size_t i = 0; i < n; i++)
        if (isnan(x[i]) || isnan(m)) m = NAN;
        else if (x[i] > m) m = x[i];
    return m;
}

static double sum_exp(const double *x, size_t n, double m) {
    double sum = 0;
    for (size_t i = 0; i < n; i++) sum += exp(x[i] - m);
    return sum;
}

zm_oracle_function zm_ref_softmax_lastdim;
void zm_ref_softmax_lastdim(zm_oracle *call) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        double m = largest(x, n), sum = sum_exp(x, n, m), dot = 0, dot_scale = 0;
        double *y = call->outputs[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            double value = m == -INFINITY ? 0 : exp(x[i] - m) / sum;
            zm_put(&call->outputs[0], row * n + i, value,
                   fabs(value) * (1 + fabs(isfinite(m - x[i]) ? m - x[i] : 0) / 16));
        }
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            dot += g[i] * y[i];
            dot_scale += fabs(g[i] * y[i]);
        }
        for (size_t i = 0; i < n; i++) {
            double spread = 1 + fabs(isfinite(m - x[i]) ? m - x[i] : 0) / 16;
            zm_put(&call->gradients[0], row * n + i, m == -INFINITY ? 0 : y[i] * (g[i] - dot),
                   spread * y[i] * (fabs(g[i]) + dot_scale));
        }
    }
}

zm_oracle_function zm_ref_log_softmax_lastdim;
void zm_ref_log_softmax_lastdim(zm_oracle *call) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        const double *x = call->inputs[0].values + row * n;
        double m = largest(x, n), sum = sum_exp(x, n, m), total = 0, total_scale = 0;
        for (size_t i = 0; i < n; i++)
            zm_put(&call->outputs[0], row * n + i, m == -INFINITY ? -INFINITY : x[i] - m - log(sum),
                   fabs(x[i]) + fabs(m) + fabs(log(sum)));
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            total += g[i];
            total_scale += fabs(g[i]);
        }
        for (size_t i = 0; i < n; i++) {
            double p = exp(x[i] - m) / sum;
            zm_put(&call->gradients[0], row * n + i, m == -INFINITY ? 0 : g[i] - p * total,
                   fabs(g[i]) + p * total_scale);
        }
    }
}

zm_oracle_function zm_ref_softmax_grad;
void zm_ref_softmax_grad(zm_oracle *call) {
    size_t n = call->columns;
    for (size_t row = 0; row < call->rows; row++) {
        const double *y = call->inputs[0].values + row * n, *c = call->inputs[1].values + row * n;
        double dot = 0, dot_scale = 0, weighted = 0, weighted_scale = 0;
        for (size_t i = 0; i < n; i++) {
            dot += c[i] * y[i];
            dot_scale += fabs(c[i] * y[i]);
        }
        for (size_t i = 0; i < n; i++)
            zm_put(&call->outputs[0], row * n + i, y[i] * (c[i] - dot), fabs(y[i]) * (fabs(c[i]) + dot_scale));
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            weighted += g[i] * y[i];
            weighted_scale += fabs(g[i] * y[i]);
        }
        for (size_t i = 0; i < n; i++) {
            zm_put(&call->gradients[0], row * n + i, g[i] * (c[i] - dot) - weighted * c[i],
                   fabs(g[i]) * (fabs(c[i]) + dot_scale) + weighted_scale * fabs(c[i]));
            zm_put(&call->gradients[1], row * n + i, y[i] * (g[i] - weighted),
                   fabs(y[i]) * (fabs(g[i]) + weighted_scale));
        }
    }
}
