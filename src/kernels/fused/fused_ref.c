/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

zm_oracle_function zm_ref_add, zm_ref_mul, zm_ref_silu_mul_grad;
void zm_ref_add(zm_oracle *call) {
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        zm_put(&call->outputs[0], i, call->inputs[0].values[i] + call->inputs[1].values[i], 0);
        for (int j = 0; j < 2 && call->gradients; j++) zm_put(&call->gradients[j], i, call->cotangents[0].values[i], 0);
    }
}
void zm_ref_mul(zm_oracle *call) {
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double a = call->inputs[0].values[i], b = call->inputs[1].values[i];
        zm_put(&call->outputs[0], i, a * b, 0);
        if (!call->gradients) continue;
        zm_put(&call->gradients[0], i, call->cotangents[0].values[i] * b, 0);
        zm_put(&call->gradients[1], i, call->cotangents[0].values[i] * a, 0);
    }
}
void zm_ref_silu_mul_grad(zm_oracle *call) {
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double a = call->inputs[0].values[i], b = call->inputs[1].values[i], y = zm_ref_silu_of(a);
        zm_put_tail(&call->outputs[0], i, y * b, fabs(y * b), zm_ref_tail(a));
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i];
        zm_put_tail(&call->gradients[0], i, g * b * zm_ref_silu_slope(a), fabs(g * b) * zm_ref_silu_slope_scale(a), a);
        zm_put_tail(&call->gradients[1], i, g * y, fabs(g * y), zm_ref_tail(a));
    }
}

/* f(x + bias); dbias sums dx over the rows. z_scale: the terms of z, which a slope of f carries on. */
static void biased(zm_oracle *call, double (*of)(double), double (*slope)(double), double (*slope_scale)(double),
                   double (*tail)(double)) {
    size_t n = call->columns;
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double x = call->inputs[0].values[i], b = call->inputs[1].values[i % n], z = x + b;
        double terms = isfinite(z) ? fabs(x) + fabs(b) : 0;
        zm_put_tail(&call->outputs[0], i, of(z), fabs(of(z)) + terms * slope_scale(z), tail(z));
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i], scale = fabs(g) * (slope_scale(z) + terms);
        zm_put_tail(&call->gradients[0], i, g * slope(z), scale, tail(z));
        zm_put_more(&call->gradients[1], i % n, g * slope(z), scale);
    }
}
static double same(double z) { return z; }
static double one(double z) { return (void)z, 1; }
static double no_tail(double z) { return (void)z, 0; }
static double silu_tail(double z) { return fabs(z) < 1e4 ? z : 0; }
static double gelu_tail(double z) { return silu_tail(zm_ref_gelu_argument(z)); }

zm_oracle_function zm_ref_add_bias, zm_ref_bias_gelu_tanh, zm_ref_bias_silu;
void zm_ref_add_bias(zm_oracle *call) { biased(call, same, one, one, no_tail); }
void zm_ref_bias_gelu_tanh(zm_oracle *call) {
    biased(call, zm_ref_gelu_of, zm_ref_gelu_slope, zm_ref_gelu_slope_scale, gelu_tail);
}
void zm_ref_bias_silu(zm_oracle *call) {
    biased(call, zm_ref_silu_of, zm_ref_silu_slope, zm_ref_silu_slope_scale, silu_tail);
}
