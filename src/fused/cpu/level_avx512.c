/* SPDX-License-Identifier: MIT */
/* Sixteen lanes: x86-64 processors with AVX-512 F, BW, DQ and VL. */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")
#endif

enum { LANES = 16, ONE_TOKEN_ROWS = 1, TOKEN_ROWS = 2, UNSIGNED_CODES = 1 };

typedef float vector __attribute__((vector_size(64)));
typedef int32_t vector_int __attribute__((vector_size(64)));
typedef uint32_t vector_word __attribute__((vector_size(64)));
typedef uint16_t vector_half __attribute__((vector_size(32)));

static inline vector multiply_add(vector a, vector b, vector c) {
    return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

/* Codes below 2^32 as floats. */
static inline vector codes_to_float(vector_word codes) { return (vector)_mm512_cvtepu32_ps((__m512i)codes); }

/* The first n_words words, repeated to fill the lanes. */
static inline vector_word load_words(const unsigned char *words, int n_words) {
    if (n_words >= LANES) return (vector_word)_mm512_loadu_si512(words);
    if (n_words == 8)
        return (vector_word)_mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(const void *)words));
    if (n_words == 4)
        return (vector_word)_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(const void *)words));
    long long pair;
    memcpy(&pair, words, sizeof pair);
    return (vector_word)_mm512_set1_epi64(pair);
}

/* LANES bytes, one a lane. */
static inline vector_word load_bytes(const unsigned char *bytes) {
    return (vector_word)_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)(const void *)bytes));
}

/* The values of the e2m1 codes in the low four bits of each lane. */
static inline vector mxfp4_values(vector_word codes) {
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f,
                                         -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    return (vector)_mm512_permutexvar_ps((__m512i)codes, values);
}

static inline vector float16_to_float(vector_half halves) {
    return (vector)_mm512_cvtph_ps((__m256i)halves);
}

/* The first count < LANES values; the other lanes are 0. */
static inline vector_half load_some_halves(const unsigned char *values, size_t count) {
    return (vector_half)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), values);
}

static inline vector load_some_floats(const unsigned char *values, size_t count) {
    return (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), values);
}

static inline float sum_lanes(vector v) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#define SYMBOL zm_level_avx512
#define NAME "avx512"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
