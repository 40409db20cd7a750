/* SPDX-License-Identifier: MIT */
/* Four lanes, and products in integers: 64-bit ARM processors with FEAT_I8MM (Neoverse V1, Apple M2 and later). */
#include "fused/cpu/features_arm.h"

#if defined(ZM_ARM_BYTES)
#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) { return zm_arm_has_i8mm(); }

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("i8mm"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("arch=armv8.2-a+i8mm")
#endif

#include "fused/cpu/vectors_neon.h"
#include "fused/cpu/bytes_neon.h"

enum { SIGNED_CODES = 0, EIGHT_DIFFERS = 0, DOT_WORDS = 4, WIDE_TOKENS = 8 };

/* Lane i of sum, plus the four products of unsigned bytes of a and signed bytes of b there. */
static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight) {
    (void)eight;
    return (vector_int)vusdotq_s32((int32x4_t)sum, (uint8x16_t)a, (int8x16_t)b);
}

DEFINE_DOT_WORD(vusdotq_laneq_s32, uint8x16_t)

#define LIMBS 3
#define SYMBOL zm_level_neon_i8mm
#define NAME "neon_i8mm"
#include "fused/cpu/kernels.h"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif
