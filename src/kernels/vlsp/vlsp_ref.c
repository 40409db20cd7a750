/* SPDX-License-Identifier: MIT */
#include "kernels/norms/norms_ref.h"

zm_oracle_function zm_ref_depth_gate_sigmoid, zm_ref_grpo_advantage_norm, zm_ref_silu_mul_residual,
    zm_ref_fused_recurrent_step;

void zm_ref_depth_gate_sigmoid(zm_oracle *call) {
    double k = call->numbers[0].number;
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double x = call->inputs[0].values[i], y = zm_ref_logistic(x), slope = y * zm_ref_logistic(-x);
        zm_put_tail(&call->outputs[0], i, y * k, y * k, zm_ref_tail(x));
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i];
        zm_put_tail(&call->gradients[0], i, g * k * slope, fabs(g) * k * slope, isfinite(x) ? x : 0);
    }
}

void zm_ref_grpo_advantage_norm(zm_oracle *call) {
    static const zm_ref_norm norm = {true, -1, -1, -1, -1, 0, -1, -1};
    zm_ref_apply_norm(call, &norm);
}

void zm_ref_silu_mul_residual(zm_oracle *call) {
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double a = call->inputs[0].values[i], b = call->inputs[1].values[i], r = call->inputs[2].values[i],
               y = zm_ref_silu_of(a);
        double tail = isfinite(a) ? a : 0;
        zm_put_tail(&call->outputs[0], i, y * b + r, (fabs(y * b) * (4 + fabs(zm_ref_tail(a))) + fabs(r)), 0);
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i];
        zm_put_tail(&call->gradients[0], i, g * b * zm_ref_silu_slope(a), fabs(g * b) * zm_ref_silu_slope_scale(a),
                    tail);
        zm_put_tail(&call->gradients[1], i, g * y, fabs(g * y), tail);
        zm_put(&call->gradients[2], i, g, fabs(g));
    }
}

/* n = h r w, y = h + alpha silu(n) gate; dn = alpha g gate silu'(n). */
void zm_ref_fused_recurrent_step(zm_oracle *call) {
    size_t n = call->columns;
    const double *w = call->inputs[1].values;
    double alpha = call->inputs[3].values[0], eps = call->numbers[0].number, d = (double)n;
    for (size_t row = 0; row < call->rows; row++) {
        const double *h = call->inputs[0].values + row * n, *gate = call->inputs[2].values + row * n;
        double square = 0, dot = 0, dot_scale = 0;
        for (size_t i = 0; i < n; i++) square += h[i] * h[i] / d;
        double r = 1 / sqrt(square + eps);
        for (size_t i = 0; i < n; i++) {
            double v = h[i] * r * w[i], s = zm_ref_silu_of(v);
            zm_put(&call->outputs[0], row * n + i, h[i] + alpha * s * gate[i],
                   fabs(h[i]) + fabs(alpha * gate[i]) * (fabs(s) + zm_ref_silu_slope_scale(v) * fabs(v)));
        }
        if (!call->gradients) continue;
        const double *g = call->cotangents[0].values + row * n;
        for (size_t i = 0; i < n; i++) {
            double v = h[i] * r * w[i], s = zm_ref_silu_of(v), c = alpha * g[i] * gate[i];
            double dn = c * zm_ref_silu_slope(v), dn_scale = fabs(c) * (zm_ref_silu_slope_scale(v) + fabs(v)),
                   hat = h[i] * r;
            double s_scale = fabs(s) + fabs(v) * zm_ref_silu_slope_scale(v);
            dot += dn * w[i] * hat / d;
            dot_scale += dn_scale * fabs(w[i] * hat) / d;
            zm_put_more(&call->gradients[1], i, dn * hat, dn_scale * fabs(hat));
            zm_put(&call->gradients[2], row * n + i, alpha * g[i] * s, fabs(alpha * g[i]) * s_scale);
            zm_put_more(&call->gradients[3], 0, g[i] * s * gate[i], fabs(g[i] * gate[i]) * s_scale);
        }
        for (size_t i = 0; i < n; i++) {
            double v = h[i] * r * w[i], c = alpha * g[i] * gate[i], dn = c * zm_ref_silu_slope(v), hat = h[i] * r;
            double dn_scale = fabs(c) * (zm_ref_silu_slope_scale(v) + fabs(v));
            zm_put(&call->gradients[0], row * n + i, g[i] + r * (dn * w[i] - hat * dot),
                   fabs(g[i]) + r * (dn_scale * fabs(w[i]) + fabs(hat) * dot_scale));
        }
    }
}
