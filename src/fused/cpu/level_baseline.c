/* SPDX-License-Identifier: MIT */
/* Four lanes, on any architecture. */
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
#elif defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "base/half.h"
#include "fused/cpu/level.h"

enum { LANES = 4, ONE_TOKEN_ROWS = 4, TOKEN_ROWS = 1, UNSIGNED_CODES = 0 };

typedef float vector __attribute__((vector_size(16)));
typedef int32_t vector_int __attribute__((vector_size(16)));
typedef uint32_t vector_word __attribute__((vector_size(16)));
typedef uint64_t vector_pair __attribute__((vector_size(16)));
typedef uint16_t vector_half __attribute__((vector_size(8)));
typedef uint8_t vector_byte __attribute__((vector_size(4)));

static inline vector multiply_add(vector a, vector b, vector c) {
#if defined(__ARM_FEATURE_FMA)
    return (vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) {
    return __builtin_convertvector((vector_int)codes, vector);
}

/* The first n_words words, repeated to fill the lanes. */
static inline vector_word load_words(const unsigned char *words, int n_words) {
    vector_word result;
    if (n_words >= LANES) {
        memcpy(&result, words, sizeof result);
    } else {
        uint64_t pair;
        memcpy(&pair, words, sizeof pair);
        result = (vector_word)(vector_pair){pair, pair};
    }
    return result;
}

/* LANES bytes, one a lane. */
static inline vector_word load_bytes(const unsigned char *bytes) {
#if defined(__SSE2__)
    uint32_t packed;
    memcpy(&packed, bytes, sizeof packed);
    __m128i zero = _mm_setzero_si128();
    __m128i halves = _mm_unpacklo_epi8(_mm_cvtsi32_si128((int)packed), zero);
    return (vector_word)_mm_unpacklo_epi16(halves, zero);
#else
    vector_byte packed;
    memcpy(&packed, bytes, sizeof packed);
    return __builtin_convertvector(packed, vector_word);
#endif
}

/* The values of the e2m1 codes in the low four bits of each lane. With t = 2^e (1 + m/2), twice the
 * magnitude is t, or 2 t - 2 where e = 0. */
static inline vector mxfp4_values(vector_word codes) {
    vector t = (vector)(((codes & 7) << 22) + 0x3f800000u);
    vector_word small = (vector_word)((codes & 6) == 0);
    vector magnitude = (t + (vector)((vector_word)(t - 2.0f) & small)) * 0.5f;
    return (vector)((vector_word)magnitude | ((codes & 8) << 28));
}

static inline vector float16_to_float(vector_half halves) {
    vector_word wide = __builtin_convertvector(halves, vector_word);
    vector_word sign = (wide & 0x8000u) << 16, magnitude = (wide & 0x7fffu) << 13;
    vector_word special = (vector_word)(magnitude >= 0x0f800000u); /* infinity, NaN */
    vector_word finite = (vector_word)((vector)magnitude * 0x1p112f);
    return (vector)(sign | (special & (magnitude | 0x70000000u)) | (~special & finite));
}

/* The first count < LANES values; the other lanes are 0. */
static __attribute__((noinline)) vector_half load_some_halves(const unsigned char *values, size_t count) {
    vector_half result = {0};
    memcpy(&result, values, 2 * count);
    return result;
}

static __attribute__((noinline)) vector load_some_floats(const unsigned char *values, size_t count) {
    vector result = {0};
    memcpy(&result, values, 4 * count);
    return result;
}

static inline float sum_lanes(vector v) { return (v[0] + v[2]) + (v[1] + v[3]); }

#define SYMBOL zm_level_baseline
#define NAME "baseline"
static bool supported(void) { return true; }

#include "fused/cpu/kernels.h"
