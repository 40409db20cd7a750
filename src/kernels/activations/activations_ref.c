/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

typedef struct point {
    double value, slope, exponent, slope_scale, slope_exponent;
} point;

static void apply(zm_oracle *call, point (*function)(double x, double parameter)) {
    double parameter = call->numbers ? call->numbers[0].number : 0;
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        point at = function(call->inputs[0].values[i], parameter);
        zm_put_tail(&call->outputs[0], i, at.value, fabs(at.value), at.exponent);
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i];
        zm_put_tail(&call->gradients[0], i, g * at.slope, fabs(g) * at.slope_scale, at.slope_exponent);
    }
}

#define UNARY(name, ...)                                         \
    static point name##_point(double x, double parameter) {      \
        (void)parameter;                                         \
        __VA_ARGS__                                              \
    }                                                            \
    zm_oracle_function zm_ref_##name;                            \
    void zm_ref_##name(zm_oracle *call) { apply(call, name##_point); }

UNARY(exp, return (point){exp(x), exp(x), x, exp(x), x};)
UNARY(log, return (point){log(x), 1 / x, 0, fabs(1 / x), 0};)
UNARY(tanh, double y = tanh(x); return (point){y, 1 - y * y, 0, 1 + y * y, 0};)
UNARY(sigmoid, double y = zm_ref_logistic(x), s = y * zm_ref_logistic(-x);
      return (point){y, s, zm_ref_tail(x), s, -fabs(x)};)
UNARY(relu, return (point){isnan(x) ? x : x > 0 ? x : 0, x > 0, 0, 0, 0};)
UNARY(relu2, return (point){isnan(x) ? x : x > 0 ? x * x : 0, x > 0 ? 2 * x : 0, 0, 0, 0};)
UNARY(silu,
      return (point){zm_ref_silu_of(x), zm_ref_silu_slope(x), zm_ref_tail(x), zm_ref_silu_slope_scale(x), -fabs(x)};)
UNARY(gelu_tanh, double u = zm_ref_gelu_argument(x);
      return (point){zm_ref_gelu_of(x), zm_ref_gelu_slope(x), zm_ref_tail(u), zm_ref_gelu_slope_scale(x),
                     fabs(u) < 1e4 ? u : 0};)
UNARY(softplus, double y = isnan(x) ? x : fmax(x, 0) + log1p(exp(-fabs(x)));
      return (point){y, zm_ref_logistic(x), zm_ref_tail(x), zm_ref_logistic(x), zm_ref_tail(x)};)
UNARY(mish, double t = x > 30 ? 1 : tanh(log1p(exp(x))), s = zm_ref_logistic(x);
      double slope = x == -INFINITY ? 0
                     : x > 30       ? 1
                                    : t + x * s * (1 - t * t);
      return (point){x == -INFINITY ? 0 : x * t, slope, zm_ref_tail(x),
                     isinf(x) ? 1 : fabs(t) + fabs(x *s *(1 - t * t)), x};)
UNARY(elu, return (point){isnan(x) ? x : x > 0 ? x : parameter * expm1(x), x > 0 ? 1 : parameter * exp(x), 0,
                          x > 0 ? 1 : fabs(parameter) * exp(x), zm_ref_tail(x)};)
