/* SPDX-License-Identifier: MIT */
/* Eight lanes, and products in integers: x86-64 processors with AVX-VNNI and perhaps no AVX-512 (Alder Lake and
 * later). */
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
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && /* the system saves the registers */
           __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C) &&
           __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & bit_AVXVNNI);
}

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,avxvnni"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avxvnni")
#endif

#include "fused/cpu/vectors_avx2.h"
#include "fused/cpu/bytes_avx2.h"

enum { SIGNED_CODES = 0, EIGHT_DIFFERS = 0 };

/* Lane i of sum, plus the four products of unsigned bytes of a and signed bytes of b there. */
static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight) {
    (void)eight;
    return (vector_int)_mm256_dpbusd_avx_epi32((__m256i)sum, (__m256i)a, (__m256i)b);
}

#define LIMBS 3
#define SYMBOL zm_level_avxvnni
#define NAME "avxvnni"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
