/* SPDX-License-Identifier: MIT */
/* What a 64-bit ARM processor has beyond NEON. */
#ifndef ZM_FUSED_CPU_FEATURES_ARM_H
#define ZM_FUSED_CPU_FEATURES_ARM_H

#include <stdbool.h>

/* Levels with products of bytes. The intrinsics of an older clang need the whole file to be compiled for them. */
#if defined(__aarch64__) && (!defined(__clang__) || __clang_major__ >= 16 - defined(__apple_build_version__))
#define ZM_ARM_BYTES
#endif

#if defined(__APPLE__)
#include <sys/sysctl.h>

static inline bool zm_arm_has(const char *feature) {
    int value = 0;
    size_t size = sizeof value;
    return !sysctlbyname(feature, &value, &size, NULL, 0) && value;
}

static inline bool zm_arm_has_dotprod(void) { return zm_arm_has("hw.optional.arm.FEAT_DotProd"); }
static inline bool zm_arm_has_i8mm(void) { return zm_arm_has("hw.optional.arm.FEAT_I8MM"); }
#elif defined(__linux__)
#include <sys/auxv.h>

/* HWCAP_ASIMDDP and HWCAP2_I8MM, which older headers lack. */
static inline bool zm_arm_has_dotprod(void) { return getauxval(AT_HWCAP) >> 20 & 1; }
static inline bool zm_arm_has_i8mm(void) { return getauxval(AT_HWCAP2) >> 13 & 1; }
#else
static inline bool zm_arm_has_dotprod(void) { return false; }
static inline bool zm_arm_has_i8mm(void) { return false; }
#endif

#endif
