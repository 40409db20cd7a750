/* SPDX-License-Identifier: MIT */
#include "kernels/select_rows.h"

#include <string.h>

#include "base/half.h"
#include "runtime/prebuilt.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum {
    MAX_BEST = 2 * ZM_SELECT_ROWS_MAX,
    BLOCK = 1024, /* columns, after each of which the list is looked at */
    MAX_KEPT = ZM_SELECT_ROWS_MAX + 128,
    MAX_FOUND = MAX_KEPT + BLOCK + 16,
    FEW = 8,
    TOGETHER = 4, /* rows */
    MANY_COLUMNS = 2048,
    AHEAD = 2048,
    NO_KEY = INT32_MIN + 1 /* less than those of all numbers, and one less is still a number */
};

#define ALWAYS static inline __attribute__((always_inline))
#ifdef __clang__
#define UNROLL /* unrolls short loops unasked, and fails where told to unroll a long one */
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif

/* In the order of their columns. */
typedef struct found {
    uint32_t places[MAX_FOUND];
    int count;
} found;

/* Keys are larger for larger numbers, the largest for NaN, the same for both zeros. The float of a key, of which none
 * above the key is less. */
static float number_of(int32_t key) {
    if (key < -0x7f800000 || key > 0x7f800000) return key < 0 ? -__builtin_inff() : __builtin_inff();
    return zm_float_from_bits(key < 0 ? (uint32_t)-key | 0x80000000u : (uint32_t)key);
}

/* Sorts the k largest, descending, equal ones by place, and drops the others. A later number must be above the
 * result. */
static int32_t keep_largest(found *list, int32_t *keys, int k) {
    int n = 0;
    for (int i = 0; i < list->count; i++) {
        int32_t key = keys[i];
        uint32_t at = list->places[i];
        if (n == k && key <= keys[k - 1]) continue;
        int place = n < k ? n++ : n - 1;
        for (; place > 0 && keys[place - 1] < key; place--) {
            keys[place] = keys[place - 1];
            list->places[place] = list->places[place - 1];
        }
        keys[place] = key;
        list->places[place] = at;
    }
    list->count = n;
    return n == k ? keys[k - 1] : INT32_MIN;
}

/* As 32 bits, halves as their upper half: their order is that of the bits. */
ALWAYS int32_t bits_at(const char *row, zm_storage storage, uint32_t place) {
    uint32_t bits;
    uint16_t half;
    if (storage == ZM_STORAGE_FLOAT32) {
        memcpy(&bits, row + (size_t)place * 4, sizeof bits);
    } else {
        memcpy(&half, row + (size_t)place * 2, sizeof half);
        bits = (uint32_t)half << 16;
    }
    return (int32_t)bits;
}

ALWAYS float float_at(const char *row, zm_storage storage, uint32_t place) {
    uint32_t bits = (uint32_t)bits_at(row, storage, place);
    return storage == ZM_STORAGE_FLOAT16 ? zm_float16_to_float((uint16_t)(bits >> 16)) : zm_float_from_bits(bits);
}

ALWAYS void put_row(const zm_select_rows_task *task, int64_t row, zm_storage storage, const char *x,
                    const uint32_t *places) {
    const int k = task->k;
    memcpy(task->indices + row * k, places, (size_t)k * sizeof *places);
    if (task->below_largest) {
        float *to = task->below_largest + row * k, largest = float_at(x, storage, places[0]);
        for (int i = 0; i < k; i++)
            to[i] = largest == -__builtin_inff() ? largest : float_at(x, storage, places[i]) - largest;
        return;
    }
    const size_t bytes = storage == ZM_STORAGE_FLOAT32 ? 4 : 2;
    char *to = (char *)task->values + (size_t)(row * k) * bytes;
    for (int i = 0; i < k; i++) memcpy(to + (size_t)i * bytes, x + places[i] * bytes, bytes);
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
