/* SPDX-License-Identifier: MIT */
/* Arithmetic in bfloat16, each operation rounded as MLX's are, behind halves.cuh. float16.cuh has the same for
 * float16. */

/* MLX's sigmoid: its exponential is that of CUDA's bfloat16, 2^(x log2 e). The reciprocal of a bfloat16 between 1 and 2
 * is at least 2^-17 away from where rounding turns, so an approximate one is as good as MLX's division. */
ZM_FUNCTION float sigmoid(float x) {
    float power = fabsf(x) * __uint_as_float(0x3fb8aa3cu), y;
    asm("ex2.approx.f32 %0, %0;" : "+f"(power));
    asm("rcp.approx.f32 %0, %1;" : "=f"(y) : "f"(rounded(1.0f + rounded(power))));
    y = rounded(y);
    return x < 0.0f ? y : rounded(1.0f - y);
}

ZM_FUNCTION float divided(float a, float b) { return rounded(a / b); }

/* Weights of `bits` bits: pairs of codes * scale + bias, rounded once. Of 4 or 8 bits a code in the low bits of a
 * bfloat16 is exactly code * 2^-129 (in bits 4 to 7) or code * 2^-133, so the scale is made that much larger first.
 * Needs |scale| < 2^-2 or 2^-6. halves: which of the two words' halves they are, as __byte_perm takes it. */
template <int bits> ZM_FUNCTION uint factors_of(uint scale, uint bias, uint halves = 0x5410) {
    if (bits != 4 && bits != 8) return __byte_perm(scale, bias, halves);
    uint scaled = multiply2(multiply2(scale, 0x5f805f80u), bits == 4 ? 0x60006000u : 0x62006200u);
    return __byte_perm(scaled, bias, halves);
}
/* pair: up to 4 bits from bit 4 of each half on, more in its low ones. Other widths than 4 and 8 have room for the bits
 * of 128: behind them a code is exactly 128 + code. */
template <int bits> ZM_FUNCTION uint weights_of(uint pair, uint factors) {
    const uint one = 0x3f803f80u, sixteenth = 0x3d803d80u, minus_128 = 0xc300c300u, minus_8 = 0xc100c100u;
    if (bits == 4 || bits == 8) return fma2_by(pair, factors);
    uint codes = bits < 4 ? fma2(pair | 0x43004300u, sixteenth, minus_8) : fma2(pair | 0x43004300u, one, minus_128);
    return fma2_by(codes, factors);
}
