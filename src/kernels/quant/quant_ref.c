/* SPDX-License-Identifier: MIT */
#include "kernels/oracle.h"

typedef struct activation {
    double (*of)(double), (*slope)(double), (*slope_scale)(double), (*argument)(double);
} activation;

static double itself(double x) { return x; }
static double one(double x) { return (void)x, 1; }
static double none(double x) { return (void)x, 0; }
static const activation plain = {itself, one, one, none};
static const activation silu = {zm_ref_silu_of, zm_ref_silu_slope, zm_ref_silu_slope_scale, itself};
static const activation gelu = {zm_ref_gelu_of, zm_ref_gelu_slope, zm_ref_gelu_slope_scale, zm_ref_gelu_argument};

static double tail_of(double x) { return fabs(x) < 1e4 ? x : 0; }

/* y[i] = f(q * scale + bias), where scale and bias are inputs `scale` and `scale + 1` (where it has_bias) at place
 * `group`. */
static void put(zm_oracle *call, const activation *f, size_t i, double q, int scale, bool has_bias, size_t group) {
    double s = call->inputs[scale].values[group], b = has_bias ? call->inputs[scale + 1].values[group] : 0,
           v = q * s + b;
    double size = fabs(q * s) + fabs(b), tail = tail_of(f->argument(v));
    zm_put_tail(&call->outputs[0], i, f->of(v), fabs(f->of(v)) + size * f->slope_scale(v), tail < 0 ? tail : 0);
    if (!call->gradients) return;
    double g = call->cotangents[0].values[i] * f->slope(v);
    double g_size = fabs(call->cotangents[0].values[i]) * (f->slope_scale(v) + size) * (1 + fabs(tail) / 16);
    zm_put_more(&call->gradients[scale], group, g * q, g_size * fabs(q));
    if (has_bias) zm_put_more(&call->gradients[scale + 1], group, g, g_size);
}

static double signed_value(int code, int bits) { return code >= 1 << (bits - 1) ? code - (1 << bits) : code; }

/* Two codes a byte, or one. */
static int code_at(const zm_oracle *call, size_t i, int bits) {
    int byte = (int)call->inputs[0].values[bits == 4 ? i / 2 : i] & 255;
    return bits == 4 ? (byte >> (i % 2 ? 4 : 0)) & 15 : byte;
}

#define EACH(call) for (size_t i = 0; i < (call)->outputs[0].size; i++)

zm_oracle_function zm_ref_dequantize_int8, zm_ref_dequantize_silu_int8, zm_ref_dequantize_int4, zm_ref_dequantize_nf4,
    zm_ref_dequantize_fp8, zm_ref_dequantize_blockwise, zm_ref_fused_swiglu_quant;
void zm_ref_dequantize_int8(zm_oracle *call) {
    EACH(call) put(call, &plain, i, call->inputs[0].values[i], 1, false, 0);
}
void zm_ref_dequantize_silu_int8(zm_oracle *call) {
    EACH(call) put(call, &silu, i, call->inputs[0].values[i], 1, false, 0);
}
void zm_ref_dequantize_int4(zm_oracle *call) {
    EACH(call) {
        int code = code_at(call, i, 4);
        put(call, &plain, i, call->numbers[0].number != 0 ? signed_value(code, 4) : code, 1, false, 0);
    }
}

void zm_ref_dequantize_nf4(zm_oracle *call) {
    static const double table[16] = {-1, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
                                     -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0,
                                     0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
                                     0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1};
    EACH(call) put(call, &plain, i, table[code_at(call, i, 4)], 1, false, 0);
}

/* e4m3: 4 bits of exponent, bias 7; e5m2: 5 bits, bias 15. */
static double fp8_value(int code, bool is_e5m2) {
    int mantissa_bits = is_e5m2 ? 2 : 3, bias = is_e5m2 ? 15 : 7, exponent = (code & 127) >> mantissa_bits;
    int mantissa = code & ((1 << mantissa_bits) - 1);
    double sign = code & 128 ? -1 : 1;
    if (is_e5m2 && exponent == 31) return mantissa ? (double)NAN : sign * INFINITY;
    if (!is_e5m2 && (code & 127) == 127) return (double)NAN;
    double fraction = ldexp(mantissa, -mantissa_bits);
    return sign * (exponent ? ldexp(1 + fraction, exponent - bias) : ldexp(fraction, 1 - bias));
}

void zm_ref_dequantize_fp8(zm_oracle *call) {
    EACH(call)
    put(call, &plain, i, fp8_value((int)call->inputs[0].values[i], call->numbers[0].number == 1), 1, false, 0);
}

void zm_ref_dequantize_blockwise(zm_oracle *call) {
    int bits = (int)call->numbers[1].number;
    size_t block_size = (size_t)call->numbers[0].number;
    EACH(call)
    put(call, &plain, i, bits == 8 ? call->inputs[0].values[i] : code_at(call, i, 4), 1, false, i / block_size);
}

void zm_ref_fused_swiglu_quant(zm_oracle *call) {
    size_t block_size = (size_t)call->numbers[0].number;
    EACH(call) {
        size_t block = i / block_size;
        double a = call->inputs[0].values[i], b = call->inputs[2].values[i];
        double v = a * call->inputs[1].values[block], w = b * call->inputs[3].values[block];
        double y = zm_ref_silu_of(v), tail = tail_of(v);
        zm_put_tail(&call->outputs[0], i, y * w, fabs(y * w) + fabs(v * w) * zm_ref_silu_slope_scale(v),
                    tail < 0 ? tail : 0);
        if (!call->gradients) continue;
        double g = call->cotangents[0].values[i],
               size = fabs(g) * (zm_ref_silu_slope_scale(v) + fabs(v)) * (1 + fabs(tail) / 16);
        zm_put_more(&call->gradients[1], block, g * w * zm_ref_silu_slope(v) * a, size * fabs(w * a));
        zm_put_more(&call->gradients[3], block, g * y * b, size * fabs(b));
    }
}

/* Bit by bit, as the stream is defined. */
static void affine(zm_oracle *call, const activation *f) {
    int bits = (int)call->numbers[0].number, group_size = (int)call->numbers[1].number;
    size_t n_words = (size_t)zm_oracle_size(call, "W"),
           columns = (size_t)zm_oracle_size(call, "G") * (size_t)group_size;
    EACH(call) {
        const double *words = call->inputs[0].values + i / columns * n_words;
        int code = 0;
        for (int bit = 0; bit < bits; bit++) {
            size_t at = i % columns * (size_t)bits + (size_t)bit;
            code |= (int)((uint32_t)words[at / 32] >> at % 32 & 1) << bit;
        }
        put(call, f, i, code, 1, true, i / (size_t)group_size);
    }
}

zm_oracle_function zm_ref_dequantize_affine_packed, zm_ref_dequantize_affine_packed_silu,
    zm_ref_dequantize_affine_packed_gelu;
void zm_ref_dequantize_affine_packed(zm_oracle *call) { affine(call, &plain); }
void zm_ref_dequantize_affine_packed_silu(zm_oracle *call) { affine(call, &silu); }
void zm_ref_dequantize_affine_packed_gelu(zm_oracle *call) { affine(call, &gelu); }
