/* SPDX-License-Identifier: MIT */
/* Eight lanes: x86-64 processors with AVX2, FMA and F16C. */
#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) {
    unsigned eax, ebx, ecx, edx;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

enum { LANES = 8, ONE_TOKEN_ROWS = 2, TOKEN_ROWS = 1, UNSIGNED_CODES = 0 };

typedef float vector __attribute__((vector_size(32)));
typedef int32_t vector_int __attribute__((vector_size(32)));
typedef uint32_t vector_word __attribute__((vector_size(32)));
typedef uint16_t vector_half __attribute__((vector_size(16)));

static inline vector multiply_add(vector a, vector b, vector c) {
    return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) {
    return __builtin_convertvector((vector_int)codes, vector);
}

/* The first n_words words, repeated to fill the lanes. */
static inline vector_word load_words(const unsigned char *words, int n_words) {
    if (n_words >= LANES) return (vector_word)_mm256_loadu_si256((const __m256i *)(const void *)words);
    if (n_words == 4)
        return (vector_word)_mm256_broadcastsi128_si256(
            _mm_loadu_si128((const __m128i *)(const void *)words));
    long long pair;
    memcpy(&pair, words, sizeof pair);
    return (vector_word)_mm256_set1_epi64x(pair);
}

/* LANES bytes, one a lane. */
static inline vector_word load_bytes(const unsigned char *bytes) {
    return (vector_word)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)bytes));
}

/* The values of the e2m1 codes in the low four bits of each lane. */
static inline vector mxfp4_values(vector_word codes) {
    const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    vector_word magnitude = (vector_word)_mm256_permutevar8x32_ps(magnitudes, (__m256i)codes);
    return (vector)(magnitude | ((codes & 8) << 28));
}

static inline vector float16_to_float(vector_half halves) {
    return (vector)_mm256_cvtph_ps((__m128i)halves);
}

/* The first count < LANES values; the other lanes are 0. */
static __attribute__((noinline)) vector_half load_some_halves(const unsigned char *values, size_t count) {
    uint64_t parts[2] = {0, 0};
    size_t done = count & 4;
    if (done) memcpy(&parts[0], values, sizeof parts[0]);
    for (size_t i = done; i < count; i++) {
        uint16_t half;
        memcpy(&half, values + 2 * i, sizeof half);
        parts[i / 4] |= (uint64_t)half << (16 * (i % 4));
    }
    return (vector_half)_mm_set_epi64x((long long)parts[1], (long long)parts[0]);
}

static inline vector load_some_floats(const unsigned char *values, size_t count) {
    __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), lanes);
    return (vector)_mm256_maskload_ps((const float *)(const void *)values, mask);
}

static inline float sum_lanes(vector v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#define SYMBOL zm_level_avx2
#define NAME "avx2"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
