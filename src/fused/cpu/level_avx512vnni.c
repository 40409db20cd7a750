/* SPDX-License-Identifier: MIT */
/* Sixteen lanes, and products in integers: x86-64 processors with AVX-512 VNNI and VBMI (Ice Lake, Zen 4 and later). */
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi");
}

#if defined(__clang__)
#pragma clang attribute push(                                                                              \
    __attribute__((target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi"))),    \
    apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512vbmi")
#endif

#include "fused/cpu/vectors_avx512.h"
#include "fused/cpu/bytes_avx512.h"

#define LIMBS 3
#define SYMBOL zm_level_avx512vnni
#define NAME "avx512vnni"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
