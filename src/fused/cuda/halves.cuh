/* SPDX-License-Identifier: MIT */
/* Numbers of 16 bits, and pairs of them: float16 where the text before defines ZM_FLOAT16 as 1, else bfloat16.
 * Behind sizes.cuh. */
typedef unsigned short ushort;
typedef unsigned int uint;

#define ZM_FUNCTION __device__ __forceinline__

/* Of a pair of bfloat16, whichever type is computed with: they are floats' upper halves. */
ZM_FUNCTION float low_bfloat16(uint pair) { return __uint_as_float(pair << 16); }
ZM_FUNCTION float high_bfloat16(uint pair) { return __uint_as_float(pair & 0xffff0000u); }

#if ZM_FLOAT16
#define ZM_TYPE "f16" /* in instructions' names */
enum { MANTISSA_BITS = 10, EXPONENT_BIAS = 15 };
ZM_FUNCTION float widen(ushort value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value));
    return wide;
}
ZM_FUNCTION float low(uint pair) { return widen(ushort(pair)); }
ZM_FUNCTION float high(uint pair) { return widen(ushort(pair >> 16)); }
#else
#define ZM_TYPE "bf16"
enum { MANTISSA_BITS = 7, EXPONENT_BIAS = 127 };
ZM_FUNCTION float low(uint pair) { return low_bfloat16(pair); }
ZM_FUNCTION float high(uint pair) { return high_bfloat16(pair); }
ZM_FUNCTION float widen(ushort value) { return __uint_as_float(uint(value) << 16); }
#endif
ZM_FUNCTION uint pack(float a, float b) {
    uint pair;
    asm("cvt.rn." ZM_TYPE "x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}
ZM_FUNCTION ushort narrow(float value) { return ushort(pack(value, 0.0f)); }
ZM_FUNCTION float rounded(float value) { return low(pack(value, 0.0f)); }
ZM_FUNCTION uint fma2(uint a, uint b, uint c) {
    uint result;
    asm("fma.rn." ZM_TYPE "x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

/* fma2 with one number for both b, in the low half of `both`, and one for both c, in the high half. */
ZM_FUNCTION uint fma2_by(uint a, uint both) {
    uint result;
    asm("{ .reg .b16 l, h; .reg .b32 b, c; mov.b32 {l, h}, %2; mov.b32 b, {l, l}; mov.b32 c, {h, h};"
        "  fma.rn." ZM_TYPE "x2 %0, %1, b, c; }" : "=r"(result) : "r"(a), "r"(both));
    return result;
}
ZM_FUNCTION uint multiply2(uint a, uint b) {
    uint result;
    asm("mul.rn." ZM_TYPE "x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}
/* (a & mask) | bits, in one instruction. */
ZM_FUNCTION uint masked_or(uint a, uint mask, uint bits) {
    uint result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(mask), "r"(bits));
    return result;
}
/* 2^exponent twice. */
ZM_FUNCTION constexpr uint two_to(int exponent) { return (uint(exponent + EXPONENT_BIAS) << MANTISSA_BITS) * 0x10001u; }

/* The order of numbers. */
ZM_FUNCTION uint warp_max(uint value) {
    uint result;
    asm volatile("redux.sync.max.u32 %0, %1, 0xffffffff;" : "=r"(result) : "r"(value));
    return result;
}

/* Orders numbers: ascending, NaN last. Not 0. */
ZM_FUNCTION uint choice_key(float value) {
    uint bits = __float_as_uint(value + 0.0f); /* -0 and 0 are equal */
    if (value != value) return ~0u;
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
