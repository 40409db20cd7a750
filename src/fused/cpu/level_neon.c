/* SPDX-License-Identifier: MIT */
/* Four lanes: 64-bit ARM processors. */
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static bool supported(void) { return true; }

#include "fused/cpu/vectors_neon.h"

#define SYMBOL zm_level_neon
#define NAME "neon"
#include "fused/cpu/kernels.h"
#endif
