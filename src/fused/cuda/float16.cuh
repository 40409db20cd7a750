/* SPDX-License-Identifier: MIT */
/* Arithmetic in float16, each operation rounded as MLX's are, behind halves.cuh: what bfloat16.cuh has for
 * bfloat16. */

/* MLX's sigmoid: one over (one plus the exponential) in float, rounded at each step. The exponential is that of CUDA's
 * half, which moves two results by a place. */
ZM_FUNCTION float sigmoid(float x) {
    float size = fabsf(x), power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(size * __uint_as_float(0x3fb8aa3bu)));
    power = rounded(power);
    ushort bits = narrow(size);
    if (bits == 0x1f79 || bits == 0x25cf) power = rounded(power - 0x1p-10f);
    float y = rounded(1.0f / rounded(1.0f + power));
    return x < 0.0f ? y : rounded(1.0f - y);
}

/* CUDA's division of halves. */
ZM_FUNCTION float divided(float a, float b) {
    float reciprocal;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(b));
    float quotient = reciprocal * a, y = rounded(quotient);
    if (y != 0.0f && fabsf(y) < 0x8fp-24f) y = rounded(fmaf(reciprocal, fmaf(-b, quotient, a), quotient));
    return y;
}

/* Weights of `bits` bits: pairs of codes * scale + bias, rounded once. Behind the bits of 1024 a code is
 * exactly 1024 + code. */
template <int bits> ZM_FUNCTION uint factors_of(uint scale, uint bias, uint halves = 0x5410) {
    return __byte_perm(scale, bias, halves);
}
/* pair: up to 4 bits from bit 4 of each half on, more in its low ones. */
template <int bits> ZM_FUNCTION uint weights_of(uint pair, uint factors) {
    const uint one = 0x3c003c00u, sixteenth = 0x2c002c00u, minus_1024 = 0xe400e400u, minus_64 = 0xd400d400u;
    uint codes = bits <= 4 ? fma2(pair | 0x64006400u, sixteenth, minus_64) : fma2(pair | 0x64006400u, one, minus_1024);
    return fma2_by(codes, factors);
}
