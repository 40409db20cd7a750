/* SPDX-License-Identifier: MIT */
#include "kernels/select_rows.h"

#include <string.h>

#include "base/half.h"
#include "runtime/prebuilt.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { MAX_BEST = 2 * ZM_SELECT_ROWS_MAX, MAX_FOUND = ZM_SELECT_ROWS_MAX + 128, FEW = 8, AHEAD = 2048 };

#define ALWAYS static inline __attribute__((always_inline))

/* In the order of their columns. Keys are larger for larger numbers, the largest for NaN, the same for both zeros. */
typedef struct found {
    int32_t keys[MAX_FOUND];
    uint32_t places[MAX_FOUND];
    int count;
} found;

/* The float of a key, of which none above the key is less. */
static float number_of(int32_t key) {
    if (key < -0x7f800000 || key > 0x7f800000) return key < 0 ? -__builtin_inff() : __builtin_inff();
    return zm_float_from_bits(key < 0 ? (uint32_t)-key | 0x80000000u : (uint32_t)key);
}

/* Sorts the k largest, descending, equal ones by place, and drops the others. A later number must be above the
 * result. */
static int32_t keep_largest(found *list, int k) {
    int n = 0;
    for (int i = 0; i < list->count; i++) {
        int32_t key = list->keys[i];
        uint32_t at = list->places[i];
        if (n == k && key <= list->keys[k - 1]) continue;
        int place = n < k ? n++ : n - 1;
        for (; place > 0 && list->keys[place - 1] < key; place--) {
            list->keys[place] = list->keys[place - 1];
            list->places[place] = list->places[place - 1];
        }
        list->keys[place] = key;
        list->places[place] = at;
    }
    list->count = n;
    return n == k ? list->keys[k - 1] : INT32_MIN;
}

#define SELECT_LANES 4
#define SELECT(name) baseline_##name
#include "kernels/select_lanes.h"
#undef SELECT
#undef SELECT_LANES

#if defined(__x86_64__)
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2")
#endif
#define SELECT_LANES 8
#define SELECT(name) avx2_##name
#include "kernels/select_lanes.h"
#undef SELECT
#undef SELECT_LANES
#if defined(__clang__)
#pragma clang attribute pop
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl"))), apply_to = function)
#else
#pragma GCC pop_options
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl")
#endif
#define SELECT_LANES 16
#define SELECT(name) avx512_##name
#include "kernels/select_lanes.h"
#undef SELECT
#undef SELECT_LANES
#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif
#endif

void zm_select_rows(const zm_select_rows_task *task, int64_t begin, int64_t end) {
    switch (zm_prebuilt_level()) {
#if defined(__x86_64__)
    case 2: avx512_rows(task, begin, end); break;
    case 1: avx2_rows(task, begin, end); break;
#endif
    default: baseline_rows(task, begin, end);
    }
}
