/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

zm_oracle_function zm_ref_gated_rmsnorm_silu, zm_ref_fused_conv1d_silu;

void zm_ref_gated_rmsnorm_silu(zm_oracle *call) {
    size_t n = call->columns;
    const double *w = call->inputs[2].values;
    double eps = call->numbers[0].number, d = (double)n;
    for (size_t row = 0; row < call->rows; row++) {
        const double *y = call->inputs[0].values + row * n, *z = call->inputs[1].values + row * n;
        double square = 0, dot = 0, dot_scale = 0;
        for (size_t i = 0; i < n; i++) square += y[i] * y[i] / d;
        double r = 1 / sqrt(square + eps);
        for (size_t i = 0; i < n; i++) {
            double s = zm_ref_silu_of(z[i]), v = y[i] * r * w[i] * s;
            zm_put(&call->outputs[0], row * n + i, v, fabs(v) * (1 + fabs(zm_ref_tail(z[i])) / 16));
        }
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            double s = zm_ref_silu_of(z[i]), hat = y[i] * r, spread = 1 + (isfinite(z[i]) ? fabs(z[i]) / 16 : 0);
            dot += g[i] * s * w[i] * hat / d;
            dot_scale += fabs(g[i] * s * w[i] * hat) / d * spread;
            zm_put(&call->gradients[1], row * n + i, g[i] * hat * w[i] * zm_ref_silu_slope(z[i]),
                   fabs(g[i] * hat * w[i]) * zm_ref_silu_slope_scale(z[i]) * spread);
            zm_put_more(&call->gradients[2], i, g[i] * s * hat, fabs(g[i] * s * hat) * spread);
        }
        for (size_t i = 0; i < n; i++) {
            double a = g[i] * zm_ref_silu_of(z[i]) * w[i], hat = y[i] * r,
                   spread = 1 + (isfinite(z[i]) ? fabs(z[i]) / 16 : 0);
            zm_put(&call->gradients[0], row * n + i, r * (a - hat * dot),
                   r * (fabs(a) * spread + fabs(hat) * dot_scale));
        }
    }
}

/* acc = sum over k of x[b, t + k, c] w[c, k]; out = silu(acc); dacc = g silu'(acc). */
void zm_ref_fused_conv1d_silu(zm_oracle *call) {
    size_t b_size = (size_t)zm_oracle_size(call, "B"), t_size = (size_t)zm_oracle_size(call, "T");
    size_t c_size = (size_t)zm_oracle_size(call, "C"), k_size = (size_t)zm_oracle_size(call, "KS");
    const double *x = call->inputs[0].values, *w = call->inputs[1].values;
    size_t length = t_size + 1 - k_size;
    for (size_t i = 0; i < 2; i++) call->outputs[i].terms = (double)k_size;
    for (size_t b = 0; b < b_size; b++)
        for (size_t c = 0; c < c_size; c++) {
            for (size_t t = 0; t < length; t++) {
                double sum = 0, size = 0;
                for (size_t k = 0; k < k_size; k++) {
                    double term = x[(b * t_size + t + k) * c_size + c] * w[c * k_size + k];
                    sum += term;
                    size += fabs(term);
                }
                size_t at = (b * length + t) * c_size + c;
                if (!isfinite(sum)) size = 0;
                zm_put(&call->outputs[0], at, zm_ref_silu_of(sum),
                       size * zm_ref_silu_slope_scale(sum) +
                           fabs(zm_ref_silu_of(sum)) * (1 + fabs(zm_ref_tail(sum)) / 16));
                if (!call->gradients) continue;
                double g = call->cotangents[0].values[at], da = g * zm_ref_silu_slope(sum);
                double scale = fabs(g) *
                               (zm_ref_silu_slope_scale(sum) * (1 + (isfinite(sum) ? fabs(sum) / 16 : 0)) + size);
                for (size_t k = 0; k < k_size; k++) {
                    size_t from = (b * t_size + t + k) * c_size + c;
                    zm_put_more(&call->gradients[0], from, da * w[c * k_size + k], scale * fabs(w[c * k_size + k]));
                    zm_put_more(&call->gradients[1], c * k_size + k, da * x[from], scale * fabs(x[from]));
                }
            }
            for (size_t k = 0; k + 1 < k_size; k++) {
                size_t from = (b * t_size + length + k) * c_size + c, at = (b * (k_size - 1) + k) * c_size + c;
                zm_put(&call->outputs[1], at, x[from], 0);
                if (call->gradients) {
                    double g = call->cotangents[1].values[at];
                    zm_put_more(&call->gradients[0], from, g, fabs(g));
                }
            }
        }
}
