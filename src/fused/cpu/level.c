/* SPDX-License-Identifier: MIT */
#include <stdatomic.h>

#include "fused/cpu/features_arm.h"
#include "fused/cpu/level.h"

extern const zm_cpu_level zm_level_baseline;
#if defined(__x86_64__)
extern const zm_cpu_level zm_level_avx2, zm_level_avxvnni, zm_level_avx512, zm_level_avx512vnni;
#elif defined(__aarch64__)
extern const zm_cpu_level zm_level_neon, zm_level_neon_dotprod, zm_level_neon_i8mm;
#endif

static const zm_cpu_level *const levels[] = {
    &zm_level_baseline,
#if defined(__x86_64__)
    &zm_level_avx2,
    &zm_level_avxvnni,
    &zm_level_avx512,
    &zm_level_avx512vnni,
#elif defined(__aarch64__)
    &zm_level_neon,
#if defined(ZM_ARM_BYTES)
    &zm_level_neon_dotprod,
    &zm_level_neon_i8mm,
#endif
#endif
    NULL,
};

const zm_cpu_level *const *zm_fused_levels(void) { return levels; }

const zm_cpu_level *zm_fused_level_among(const zm_cpu_level *const *among, zm_precision precision) {
    const zm_cpu_level *best = NULL;
    for (; *among; among++) {
        bool loses_int8 = precision == ZM_PRECISION_INT8 && best && best->int8 && !(*among)->int8;
        if (!loses_int8 && (*among)->supported()) best = *among;
    }
    return best;
}

/* Asked once: the instruction that asks the processor is slow in a virtual machine. */
const zm_cpu_level *zm_fused_level_for(zm_precision precision) {
    static _Atomic(const zm_cpu_level *) found[2];
    _Atomic(const zm_cpu_level *) *place = &found[precision == ZM_PRECISION_INT8];
    const zm_cpu_level *best = atomic_load_explicit(place, memory_order_relaxed);
    if (best) return best;
    best = zm_fused_level_among(levels, precision);
    atomic_store_explicit(place, best, memory_order_relaxed);
    return best;
}

const zm_cpu_level *zm_fused_best_level(void) { return zm_fused_level_for(ZM_PRECISION_FLOAT32); }
