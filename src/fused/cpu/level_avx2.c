/* SPDX-License-Identifier: MIT */
/* Eight lanes: x86-64 processors with AVX2, FMA and F16C. Products in integers with one limb alone: three cost more
 * instructions than floats. */
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

#include "fused/cpu/vectors_avx2.h"
#include "fused/cpu/bytes_avx2.h"

/* Lane i of sum, plus the four products of unsigned bytes of a, less 128 each where eight says so, and bytes of b
 * there. Two products are added in 16 bits first, which saturate: but b has one limb, at most 127 in size, and a codes
 * of at most 63 (24 with mxfp4), 2 * 63 * 127 = 16002; or of eight bits, at most 128 in size, 2 * 128 * 127 = 32512,
 * and the change of b's sign below is exact. */
static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight) {
    __m256i codes = (__m256i)a, numbers = (__m256i)b;
    if (eight) {
        numbers = _mm256_sign_epi8(numbers, codes);
        codes = _mm256_abs_epi8(codes);
    }
    __m256i pairs = _mm256_maddubs_epi16(codes, numbers);
    return sum + (vector_int)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

enum { SIGNED_CODES = 1, EIGHT_DIFFERS = 1 };

#define LIMBS 1
#define SYMBOL zm_level_avx2
#define NAME "avx2"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
