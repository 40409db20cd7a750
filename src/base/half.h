/* SPDX-License-Identifier: MIT */
/* float16 and bfloat16 storage: conversions to and from float32, rounding to nearest even. */
#ifndef ZM_BASE_HALF_H
#define ZM_BASE_HALF_H

#include <stdint.h>
#include <string.h>

static inline float zm_float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t zm_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float zm_bfloat16_to_float(uint16_t half) { return zm_float_from_bits((uint32_t)half << 16); }

static inline uint16_t zm_bfloat16_from_float(float value) {
    uint32_t bits = zm_float_bits(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return (uint16_t)((bits >> 16) | 0x40u); /* stay NaN */
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

static inline float zm_float16_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t magnitude = (uint32_t)(half & 0x7fffu) << 13;
    if (magnitude >= 0x0f800000u) return zm_float_from_bits(sign | 0x70000000u | magnitude); /* inf, NaN */
    /* Multiplying by 2^112 re-biases normal numbers and makes subnormal ones normal, exactly. */
    float value = zm_float_from_bits(magnitude) * 0x1p112f;
    return zm_float_from_bits(sign | zm_float_bits(value));
}

static inline uint16_t zm_float16_from_float(float value) {
    uint32_t bits = zm_float_bits(value);
    uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u);
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u); /* rounds past 65504 */
    if (bits < 0x38800000u) { /* subnormal: the sum with 0.5 rounds at 2^-24 */
        float shifted = zm_float_from_bits(bits) + 0.5f;
        return (uint16_t)(sign | (zm_float_bits(shifted) - 0x3f000000u));
    }
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
}

#endif
