// SPDX-License-Identifier: MIT
// Arithmetic of the device that the host's compiler has no operation for: halves, and the tensor cores' products.
//
// Halves are rounded and multiplied as there. exp2 and reciprocals are the host's, of which the device's are
// approximations. mma is a model: exact products, aligned to the largest exponent, cut 2^-25 below it, summed, cut to
// float's 24 bits. The order of the 16 products of one instruction makes no difference to it; which products those
// are, and in which order instructions add to a sum, does. Results are comparable with each other alone.
#pragma once

#include <math.h>
#include <stdint.h>
#include <string.h>

namespace host {

template <bool is_float16> struct half {
    enum { FRACTION = is_float16 ? 10 : 7, BIAS = is_float16 ? 15 : 127, LARGEST = is_float16 ? 31 : 255 };
};

inline float float_of(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}
inline uint32_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

inline float widen_float16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 1023;
    if (exponent == 31) return float_of(sign | 0x7f800000 | fraction << 13);
    if (exponent) return float_of(sign | (exponent + 112) << 23 | fraction << 13);
    float value = (float)fraction * 0x1p-24f;
    return sign ? -value : value;
}
template <bool is_float16> double widen(uint16_t bits) {
    return is_float16 ? widen_float16(bits) : float_of((uint32_t)bits << 16);
}

// To the nearest, ties to even. Where value is not exact itself, its last bit must say so.
template <bool is_float16> uint16_t round(double value) {
    enum { FRACTION = half<is_float16>::FRACTION, LARGEST = half<is_float16>::LARGEST, SHIFT = 52 - FRACTION };
    const double least = is_float16 ? 0x1p-14 : 0x1p-126, unit = is_float16 ? 0x1p-24 : 0x1p-133;
    uint64_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 63 << 15);
    if (value != value) return 0x7fff;
    double magnitude = fabs(value);
    if (isinf(magnitude)) return (uint16_t)(sign | LARGEST << FRACTION);
    if (magnitude < least) {
        volatile double sum = magnitude + unit * 0x1p52; // one rounding, to a multiple of unit
        return (uint16_t)(sign | (uint16_t)((sum - unit * 0x1p52) / unit));
    }
    memcpy(&bits, &magnitude, sizeof bits);
    bits += ((1ull << (SHIFT - 1)) - 1) + (bits >> SHIFT & 1);
    int64_t exponent = (int64_t)(bits >> 52) - 1023 + half<is_float16>::BIAS;
    if (exponent >= LARGEST) return (uint16_t)(sign | LARGEST << FRACTION);
    return (uint16_t)(sign | exponent << FRACTION | (int64_t)(bits >> SHIFT & ((1 << FRACTION) - 1)));
}

// a b is exact in double; the sum is rounded to odd there, so that the rounding to a half is the only one.
template <bool is_float16> uint16_t multiply_add(uint16_t a, uint16_t b, uint16_t c) {
    double product = widen<is_float16>(a) * widen<is_float16>(b), d = widen<is_float16>(c), sum = product + d;
    if (!__builtin_isfinite(sum)) return round<is_float16>(sum);
    double part = sum - product, error = (product - (sum - part)) + (d - part);
    uint64_t bits;
    memcpy(&bits, &sum, sizeof bits);
    if (error != 0.0 && !(bits & 1)) {
        bits += (error > 0) == (sum > 0) ? 1 : -1;
        memcpy(&sum, &bits, sizeof bits);
    }
    return round<is_float16>(sum);
}
template <bool is_float16> uint32_t multiply_add_2(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t low = multiply_add<is_float16>((uint16_t)a, (uint16_t)b, (uint16_t)c);
    return low | (uint32_t)multiply_add<is_float16>(a >> 16, b >> 16, c >> 16) << 16;
}
template <bool is_float16> uint32_t multiply_2(uint32_t a, uint32_t b) {
    uint32_t low = round<is_float16>(widen<is_float16>((uint16_t)a) * widen<is_float16>((uint16_t)b));
    return low | (uint32_t)round<is_float16>(widen<is_float16>(a >> 16) * widen<is_float16>(b >> 16)) << 16;
}
template <bool is_float16> uint32_t pack(float high, float low) {
    return (uint32_t)round<is_float16>(high) << 16 | round<is_float16>(low);
}

// A product or the sum so far: mantissa * 2^(exponent - 30).
struct term {
    int64_t mantissa;
    int exponent;
};

template <bool is_float16> term split(uint16_t bits) {
    enum { FRACTION = half<is_float16>::FRACTION };
    int exponent = bits >> FRACTION & half<is_float16>::LARGEST, mantissa = bits & ((1 << FRACTION) - 1);
    if (exponent) mantissa |= 1 << FRACTION;
    else exponent = 1;
    return {bits & 0x8000 ? -mantissa : mantissa, exponent - half<is_float16>::BIAS};
}
template <bool is_float16> bool is_special(uint16_t bits) {
    return (bits >> half<is_float16>::FRACTION & half<is_float16>::LARGEST) == half<is_float16>::LARGEST;
}
inline term split_float(float value) {
    uint32_t bits = bits_of(value);
    int exponent = bits >> 23 & 255;
    int64_t mantissa = bits & 0x7fffff;
    if (exponent) mantissa |= 0x800000;
    else exponent = 1;
    return {(bits >> 31 ? -mantissa : mantissa) * 128, exponent - 127};
}

inline float sum_of(const term *terms, int n) {
    int most = INT32_MIN;
    for (int i = 0; i < n; i++)
        if (terms[i].mantissa && terms[i].exponent > most) most = terms[i].exponent;
    int64_t sum = 0; // of which 25 bits are behind the point
    for (int i = 0; i < n; i++) {
        if (!terms[i].mantissa) continue;
        int64_t mantissa = terms[i].mantissa, less = (int64_t)most - terms[i].exponent + 5;
        if (less > 62) continue;
        sum += mantissa < 0 ? -(-mantissa >> less) : mantissa >> less;
    }
    if (!sum) return 0.0f;
    uint64_t magnitude = (uint64_t)(sum < 0 ? -sum : sum);
    int bits = 64 - __builtin_clzll(magnitude);
    if (bits > 24) magnitude = magnitude >> (bits - 24) << (bits - 24);
    double exact = ldexp((double)magnitude, most - 25);
    float value = (float)exact;
    if (value > exact && !isinf(value)) value = nextafterf(value, 0);
    return sum < 0 ? -value : value;
}

// c + the 16 products of a and b.
template <bool is_float16> float dot(const uint16_t *a, const uint16_t *b, float c) {
    enum { N = 16 };
    term terms[N + 1];
    bool special = !__builtin_isfinite(c);
    float plain = c;
    for (int i = 0; i < N; i++) {
        term x = split<is_float16>(a[i]), y = split<is_float16>(b[i]);
        special |= is_special<is_float16>(a[i]) || is_special<is_float16>(b[i]);
        terms[i].mantissa = x.mantissa * y.mantissa * ((int64_t)1 << (30 - 2 * half<is_float16>::FRACTION));
        terms[i].exponent = x.exponent + y.exponent;
        if (special) plain += (float)(widen<is_float16>(a[i]) * widen<is_float16>(b[i]));
    }
    if (special) return plain; // an infinity or NaN, whichever
    terms[N] = split_float(c);
    return sum_of(terms, N + 1);
}

} // namespace host
