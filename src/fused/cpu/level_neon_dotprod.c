/* SPDX-License-Identifier: MIT */
/* Four lanes, and products in integers: 64-bit ARM processors with FEAT_DotProd (Cortex-A76, Apple M1 and later). */
#include "fused/cpu/features_arm.h"

#if defined(ZM_ARM_BYTES)
#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) { return zm_arm_has_dotprod(); }

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("dotprod"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif

#include "fused/cpu/vectors_neon.h"
#include "fused/cpu/bytes_neon.h"

/* Codes of eight bits are signed ones, less 128. */
enum { SIGNED_CODES = 1, EIGHT_DIFFERS = 0, DOT_WORDS = 4, WIDE_TOKENS = 8 };

/* Lane i of sum, plus the four products of signed bytes of a and b there. */
static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight) {
    (void)eight;
    return (vector_int)vdotq_s32((int32x4_t)sum, (int8x16_t)a, (int8x16_t)b);
}

DEFINE_DOT_WORD(vdotq_laneq_s32, int8x16_t)

#define LIMBS 3
#define SYMBOL zm_level_neon_dotprod
#define NAME "neon_dotprod"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
