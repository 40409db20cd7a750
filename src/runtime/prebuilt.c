/* SPDX-License-Identifier: MIT */
#include "runtime/prebuilt.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

static const zm_prebuilts *used = &zm_prebuilt_table;
static int highest = ZM_PREBUILT_LEVELS - 1;

void zm_prebuilt_use(const zm_prebuilts *table, int highest_level) {
    used = table ? table : &zm_prebuilt_table;
    highest = highest_level;
}

static int ask_processor(void) {
    int level = 0;
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
        (ecx & bit_F16C))
        level = 1;
    if (level && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        level = 2;
#endif
    return level;
}

/* Asked once: the instruction that asks the processor is slow in a virtual machine. */
int zm_prebuilt_level(void) {
    static atomic_int found = -1;
    int level = atomic_load_explicit(&found, memory_order_relaxed);
    if (level < 0) {
        level = ask_processor();
        atomic_store_explicit(&found, level, memory_order_relaxed);
    }
    return level < highest ? level : highest;
}

static int compare(const void *key, const void *item) {
    uint64_t hash = *(const uint64_t *)key, other = ((const zm_prebuilt *)item)->hash;
    return hash < other ? -1 : hash > other;
}

bool zm_prebuilt_find(void **symbol, int *scratch_rows, const char *source, size_t size) {
    if (!used->count) return false;
    uint64_t hash = zm_hash(source, size);
    const zm_prebuilt *found = bsearch(&hash, used->items, used->count, sizeof *used->items, compare);
    if (!found || found->size != size) return false;
    int level = zm_prebuilt_level();
    while (level > 0 && !found->functions[level]) level--;
    if (!found->functions[level]) return false;
    memcpy(symbol, &found->functions[level], sizeof *symbol);
    *scratch_rows = found->scratch_rows;
    return true;
}
