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

/* Asked once: the instruction that asks the processor is slow in a virtual machine. */
const zm_cpu_level *zm_fused_best_level(void) {
    static _Atomic(const zm_cpu_level *) found;
    const zm_cpu_level *best = atomic_load_explicit(&found, memory_order_relaxed);
    if (best) return best;
    for (const zm_cpu_level *const *level = levels; *level; level++)
        if ((*level)->supported()) best = *level;
    atomic_store_explicit(&found, best, memory_order_relaxed);
    return best;
}
