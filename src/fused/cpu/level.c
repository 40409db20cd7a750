/* SPDX-License-Identifier: MIT */
#include "fused/cpu/level.h"

extern const zm_level zm_level_baseline;
#if defined(__x86_64__)
extern const zm_level zm_level_avx2, zm_level_avx512;
#endif

static const zm_level *const levels[] = {
    &zm_level_baseline,
#if defined(__x86_64__)
    &zm_level_avx2,
    &zm_level_avx512,
#endif
    NULL,
};

const zm_level *const *zm_fused_levels(void) { return levels; }

const zm_level *zm_fused_best_level(void) {
    const zm_level *best = levels[0];
    for (const zm_level *const *level = levels; *level; level++)
        if ((*level)->supported()) best = *level;
    return best;
}
