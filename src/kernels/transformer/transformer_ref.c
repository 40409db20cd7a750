/* SPDX-License-Identifier: MIT */
#include "kernels/norms/norms_ref.h"

#define GATED(name, of, slope, slope_scale, argument)                                             \
    zm_oracle_function zm_ref_##name;                                                             \
    void zm_ref_##name(zm_oracle *call) {                                                         \
        for (size_t i = 0; i < call->inputs[0].size; i++) {                                       \
            double a = call->inputs[0].values[i], b = call->inputs[1].values[i];                  \
            zm_put_tail(&call->outputs[0], i, of(a) * b, fabs(of(a) * b), zm_ref_tail(argument)); \
            if (!call->gradients) continue;                                                       \
            double g = call->cotangents[0].values[i];                                             \
            zm_put_tail(&call->gradients[0], i, g *b *slope(a), fabs(g *b) * slope_scale(a),      \
                        fabs(argument) < 1e4 ? argument : 0);                                     \
            zm_put_tail(&call->gradients[1], i, g *of(a), fabs(g *of(a)), zm_ref_tail(argument)); \
        }                                                                                         \
    }
GATED(swiglu2, zm_ref_silu_of, zm_ref_silu_slope, zm_ref_silu_slope_scale, a)
GATED(geglu2, zm_ref_gelu_of, zm_ref_gelu_slope, zm_ref_gelu_slope_scale, zm_ref_gelu_argument(a))

typedef double real_function(double);
typedef struct unit {
    real_function *of, *slope, *slope_scale, *argument;
} unit;

/* What is below float32's range meets an infinity as 0. */
static double flush(double x) { return fabs(x) < 0x1p-126 ? 0 : x; }

/* h(a) b of the halves of x, with a bias where there is a second input. */
static void split(zm_oracle *call, const unit *gate) {
    size_t n = call->columns / 2;
    const double *bias = call->inputs[1].values;
    for (size_t row = 0; row < call->rows; row++)
        for (size_t i = 0; i < n; i++) {
            size_t at = row * 2 * n + i;
            double xa = call->inputs[0].values[at], xb = call->inputs[0].values[at + n];
            double a = xa + (bias ? bias[i] : 0), b = xb + (bias ? bias[n + i] : 0);
            double y = gate->of(a), slope = gate->slope(a);
            if (isinf(b)) y = flush(y), slope = flush(slope);
            double a_size = bias && isfinite(a) ? fabs(xa) + fabs(bias[i]) : 0,
                   b_size = bias && isfinite(b) ? fabs(xb) + fabs(bias[n + i]) : 0;
            double tail = isfinite(gate->argument(a)) ? gate->argument(a) : 0;
            zm_put_tail(&call->outputs[0], row * n + i, y * b,
                        fabs(y * b) + gate->slope_scale(a) * a_size * fabs(b) + fabs(y) * b_size, tail < 0 ? tail : 0);
            if (!call->gradients) continue;
            double g = call->cotangents[0].values[row * n + i], da = slope == 0 ? 0 : g * b * slope, db = g * y;
            double da_scale = fabs(g) * (fabs(b) + b_size) * (gate->slope_scale(a) + a_size);
            double db_scale = fabs(g) * (fabs(y) + gate->slope_scale(a) * a_size);
            zm_put_tail(&call->gradients[0], at, da, da_scale, tail);
            zm_put_tail(&call->gradients[0], at + n, db, db_scale, tail);
            if (!bias) continue;
            zm_put_more(&call->gradients[1], i, da, da_scale * (1 + fabs(tail) / 16));
            zm_put_more(&call->gradients[1], n + i, db, db_scale * (1 + fabs(tail) / 16));
        }
}
static double itself(double x) { return x; }
static const unit silu = {zm_ref_silu_of, zm_ref_silu_slope, zm_ref_silu_slope_scale, itself};
static const unit gelu = {zm_ref_gelu_of, zm_ref_gelu_slope, zm_ref_gelu_slope_scale, zm_ref_gelu_argument};
zm_oracle_function zm_ref_swiglu, zm_ref_geglu, zm_ref_bias_swiglu, zm_ref_bias_geglu;
void zm_ref_swiglu(zm_oracle *call) { split(call, &silu); }
void zm_ref_geglu(zm_oracle *call) { split(call, &gelu); }
void zm_ref_bias_swiglu(zm_oracle *call) { split(call, &silu); }
void zm_ref_bias_geglu(zm_oracle *call) { split(call, &gelu); }

#define NORM(name, ...)                                                   \
    zm_oracle_function zm_ref_##name;                                     \
    void zm_ref_##name(zm_oracle *call) {                                 \
        static const zm_ref_norm norm = {__VA_ARGS__};                    \
        zm_ref_apply_norm(call, &norm);                                   \
    }
/*                        centred  weight bias residual sum eps   p seed */
NORM(layernorm_residual,  true,    2,     3,   1,       1,  0,   -1, -1)
NORM(fused_add_layernorm, true,    2,     3,   1,       -1, 0,   -1, -1)
NORM(rms_norm_dropout,    false,   1,     -1,  -1,      -1, 2,   0,  1)

static uint32_t high(uint32_t a, uint32_t b) { return (uint32_t)((uint64_t)a * b >> 32); }

double zm_ref_random(uint64_t seed, uint64_t i) {
    uint32_t c[4] = {(uint32_t)(i / 4), (uint32_t)(i / 4 >> 32), 0, 0}, k[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint32_t a = high(0xd2511f53u, c[0]), b = 0xd2511f53u * c[0], p = high(0xcd9e8d57u, c[2]),
                 q = 0xcd9e8d57u * c[2];
        c[0] = p ^ c[1] ^ k[0];
        c[1] = q;
        c[2] = a ^ c[3] ^ k[1];
        c[3] = b;
        k[0] += 0x9e3779b9u;
        k[1] += 0xbb67ae85u;
    }
    return (double)(c[i % 4] >> 8) * 0x1p-24;
}

zm_oracle_function zm_ref_dropout;
void zm_ref_dropout(zm_oracle *call) {
    double p = (double)(float)call->numbers[0].number;
    for (size_t i = 0; i < call->inputs[0].size; i++) {
        double keep = zm_ref_random(call->numbers[1].seed, i) < p ? 0 : 1 / (1 - p), x = call->inputs[0].values[i];
        zm_put(&call->outputs[0], i, keep != 0 ? keep * x : 0, 0);
        if (call->gradients) zm_put(&call->gradients[0], i, keep * call->cotangents[0].values[i], 0);
    }
}
