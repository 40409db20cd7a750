/* SPDX-License-Identifier: MIT */
/* The k largest of rows; select_rows.c includes this once for each instruction set, with vectors of
 * SELECT_LANES numbers and SELECT(name) for its own names.
 *
 * Two passes over a row. The first keeps the largest number of each of n lanes, n >= 2 k: the k-th largest of those is
 * a bound that at least k numbers reach, and of random ones hardly more (1.4 k where n = 2 k). The second collects the
 * numbers above the bound in their order; where too many come together, all but the k largest are dropped. */

typedef int32_t SELECT(lanes) __attribute__((vector_size(4 * SELECT_LANES)));
typedef uint32_t SELECT(words) __attribute__((vector_size(4 * SELECT_LANES)));
typedef float SELECT(floats) __attribute__((vector_size(4 * SELECT_LANES)));
typedef uint16_t SELECT(half_lanes) __attribute__((vector_size(2 * SELECT_LANES)));
#if SELECT_LANES == 16
static const SELECT(lanes) SELECT(first) = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif SELECT_LANES == 8
static const SELECT(lanes) SELECT(first) = {0, 1, 2, 3, 4, 5, 6, 7};
#else
static const SELECT(lanes) SELECT(first) = {0, 1, 2, 3};
#endif

/* Keys of a vector of numbers from column on, the least where there is none. */
ALWAYS void SELECT(load)(SELECT(lanes) *keys, const char *row, zm_storage storage, int column, int columns) {
    int count = columns - column < SELECT_LANES ? columns - column : SELECT_LANES;
    SELECT(lanes) bits = {0};
    SELECT(half_lanes) halves = {0};
    if (storage == ZM_STORAGE_FLOAT32) {
        if (count == SELECT_LANES) memcpy(&bits, row + (size_t)column * 4, sizeof bits);
        else memcpy(&bits, row + (size_t)column * 4, (size_t)count * 4);
    } else {
        if (count == SELECT_LANES) memcpy(&halves, row + (size_t)column * 2, sizeof halves);
        else memcpy(&halves, row + (size_t)column * 2, (size_t)count * 2);
        bits = (SELECT(lanes))(__builtin_convertvector(halves, SELECT(words)) << 16);
    }
    SELECT(lanes)
    magnitude = bits & INT32_MAX,
    sign = bits >> 31, is_nan = magnitude > (storage == ZM_STORAGE_FLOAT16 ? 0x7c000000 : 0x7f800000);
    *keys = (((magnitude ^ sign) - sign) & ~is_nan) | (is_nan & INT32_MAX);
    if (count < SELECT_LANES) {
        SELECT(lanes) is_there = SELECT(first) < count;
        *keys = (*keys & is_there) | (~is_there & INT32_MIN);
    }
}

/* Bit i: lane i is above the bound. */
ALWAYS uint32_t SELECT(above)(const SELECT(lanes) *keys, int32_t bound) {
    SELECT(lanes) is_above = *keys > bound;
    uint32_t mask = 0;
#if SELECT_LANES == 16
    mask = _mm512_test_epi32_mask((__m512i)is_above, (__m512i)is_above);
#elif SELECT_LANES == 8
    mask = (uint32_t)_mm256_movemask_ps((__m256)is_above);
#elif defined(__x86_64__)
    mask = (uint32_t)_mm_movemask_ps((__m128)is_above);
#else
    for (int i = 0; i < SELECT_LANES; i++) mask |= (uint32_t)(is_above[i] & 1) << i;
#endif
    return mask;
}

ALWAYS void SELECT(collect)(found *list, const SELECT(lanes) *keys, int column, uint32_t mask) {
#if SELECT_LANES == 16
    _mm512_storeu_si512(list->keys + list->count, _mm512_maskz_compress_epi32((__mmask16)mask, (__m512i)*keys));
    _mm512_storeu_si512(list->places + list->count,
                        _mm512_maskz_compress_epi32((__mmask16)mask, (__m512i)(SELECT(first) + column)));
    list->count += __builtin_popcount(mask);
#else
    for (; mask; mask &= mask - 1) {
        int lane = __builtin_ctz(mask);
        list->keys[list->count] = ((const int32_t *)keys)[lane];
        list->places[list->count++] = (uint32_t)(column + lane);
    }
#endif
}

/* A vector of float32 or bfloat16 as floats, which compare faster than keys; a NaN is unordered. */
ALWAYS void SELECT(load_floats)(SELECT(floats) *x, const char *row, zm_storage storage, int column) {
    SELECT(half_lanes) halves;
    if (storage == ZM_STORAGE_FLOAT32) {
        memcpy(x, row + (size_t)column * 4, sizeof *x);
    } else {
        memcpy(&halves, row + (size_t)column * 2, sizeof halves);
        *x = (SELECT(floats))(__builtin_convertvector(halves, SELECT(words)) << 16);
    }
}

/* Bit i: lane i is not less than the least. */
ALWAYS uint32_t SELECT(reaching)(const SELECT(floats) *x, float least) {
#if SELECT_LANES == 16
    return _mm512_cmp_ps_mask((__m512)*x, _mm512_set1_ps(least), _CMP_NLT_UQ);
#else
    SELECT(lanes) is_less = *x < least;
    return SELECT(above)(&is_less, -1);
#endif
}

ALWAYS int32_t SELECT(max)(const SELECT(lanes) *values) {
#if SELECT_LANES == 16
    return _mm512_reduce_max_epi32((__m512i)*values);
#else
    int32_t largest = INT32_MIN;
    for (int lane = 0; lane < SELECT_LANES; lane++) largest = (*values)[lane] > largest ? (*values)[lane] : largest;
    return largest;
#endif
}

/* The key that the k-th largest of the lanes' best has: as many are at least as large. */
ALWAYS int32_t SELECT(kth_largest)(const SELECT(lanes) *best, int n, int k) {
    int32_t all[MAX_BEST], kth = INT32_MIN;
    memcpy(all, best, (size_t)n * sizeof *best);
    for (int i = 0; i < n; i++) {
        SELECT(lanes) count = {0};
        for (int j = 0; j < n * SELECT_LANES; j++) count -= all[j] >= best[i];
        SELECT(lanes) is_low = count >= k, candidate = (best[i] & is_low) | (~is_low & INT32_MIN);
        int32_t largest = SELECT(max)(&candidate);
        kth = largest > kth ? largest : kth;
    }
    return kth;
}

ALWAYS void SELECT(keep_better)(SELECT(floats) *best, const SELECT(floats) *x) {
#if SELECT_LANES == 16
    *best = (SELECT(floats))_mm512_max_ps((__m512)*x, (__m512)*best); /* the second where one is NaN */
#else
    SELECT(lanes) is_better = *x > *best;
    *best = (SELECT(floats))(((SELECT(lanes))*x & is_better) | ((SELECT(lanes))*best & ~is_better));
#endif
}

/* Keys of the best of each lane, of whole vectors alone: NaN apart where floats are compared. */
ALWAYS void SELECT(best)(SELECT(lanes) *best, const char *row, zm_storage storage, int columns, int n) {
    const int bytes = storage == ZM_STORAGE_FLOAT32 ? 4 : 2;
    SELECT(floats) top[MAX_BEST / SELECT_LANES], x;
    SELECT(lanes) keys;
    for (int i = 0; i < n; i++)
        top[i] = (SELECT(floats)){0} - __builtin_inff(), best[i] = (SELECT(lanes)){0} + INT32_MIN;
    for (int column = 0; column + SELECT_LANES <= columns; column += n * SELECT_LANES)
        for (int i = 0; i < n && column + (i + 1) * SELECT_LANES <= columns; i++) {
            __builtin_prefetch(row + (column + i * SELECT_LANES) * bytes + AHEAD);
            if (storage == ZM_STORAGE_FLOAT16) {
                SELECT(load)(&keys, row, storage, column + i * SELECT_LANES, columns);
                SELECT(lanes) is_better = keys > best[i];
                best[i] = (keys & is_better) | (best[i] & ~is_better);
            } else {
                SELECT(load_floats)(&x, row, storage, column + i * SELECT_LANES);
                SELECT(keep_better)(&top[i], &x);
            }
        }
    for (int i = 0; i < n && storage != ZM_STORAGE_FLOAT16; i++) {
        SELECT(lanes) bits = (SELECT(lanes))top[i], sign = bits >> 31;
        best[i] = ((bits & INT32_MAX) ^ sign) - sign;
    }
}

/* The first k of at most a vector, descending: each goes to the place that as many are before. */
ALWAYS void SELECT(rank)(found *list, int k) {
    int32_t keys[SELECT_LANES], ranks[SELECT_LANES];
    uint32_t places[SELECT_LANES];
    SELECT(lanes) own, rank = {0};
    memcpy(&own, list->keys, sizeof own);
    memcpy(keys, list->keys, sizeof keys);
    memcpy(places, list->places, sizeof places);
    for (int i = 0; i < list->count; i++) rank -= keys[i] > own + (SELECT(first) > i); /* of equals the first */
    memcpy(ranks, &rank, sizeof ranks);
    for (int i = 0; i < list->count; i++) {
        list->keys[ranks[i]] = keys[i];
        list->places[ranks[i]] = places[i];
    }
    if (list->count > k) list->count = k;
}

ALWAYS void SELECT(row)(const zm_select_rows_task *task, int64_t row, zm_storage storage, int n) {
    const int k = task->k, columns = task->columns;
    const size_t bytes = storage == ZM_STORAGE_FLOAT32 ? 4 : 2;
    const char *x = (const char *)task->x + (size_t)row * (size_t)columns * bytes;
    found list;
    list.count = 0;
    int32_t bound = INT32_MIN;
    if (columns > 2 * n * SELECT_LANES) {
        SELECT(lanes) best[MAX_BEST / SELECT_LANES];
        SELECT(best)(best, x, storage, columns, n);
        bound = SELECT(kth_largest)(best, n, k) - 1;
    }
    float least = number_of(bound + 1);
    for (int column = 0; column < columns; column += SELECT_LANES) {
        SELECT(floats) numbers;
        SELECT(lanes) keys;
        if (storage != ZM_STORAGE_FLOAT16 && column + SELECT_LANES <= columns) {
            SELECT(load_floats)(&numbers, x, storage, column);
            if (!SELECT(reaching)(&numbers, least)) continue;
        }
        SELECT(load)(&keys, x, storage, column, columns);
        uint32_t mask = SELECT(above)(&keys, bound);
        if (!mask) continue;
        if (list.count > MAX_FOUND - 2 * SELECT_LANES) {
            bound = keep_largest(&list, k);
            least = number_of(bound);
            mask = SELECT(above)(&keys, bound);
        }
        SELECT(collect)(&list, &keys, column, mask);
    }
    if (list.count <= SELECT_LANES) SELECT(rank)(&list, k);
    else keep_largest(&list, k);
    char *values = (char *)task->values + (size_t)row * (size_t)k * bytes;
    for (int i = 0; i < k; i++) memcpy(values + (size_t)i * bytes, x + list.places[i] * bytes, bytes);
    memcpy(task->indices + row * k, list.places, (size_t)k * sizeof *list.places);
}

#define ROWS(storage) \
    if (task->k <= FEW) \
        for (; row < end; row++) SELECT(row)(task, row, storage, 2 * FEW / SELECT_LANES); \
    else \
        for (; row < end; row++) SELECT(row)(task, row, storage, (2 * task->k + SELECT_LANES - 1) / SELECT_LANES)
static void SELECT(rows)(const zm_select_rows_task *task, int64_t row, int64_t end) {
    switch (task->storage) {
    case ZM_STORAGE_FLOAT32: ROWS(ZM_STORAGE_FLOAT32); break;
    case ZM_STORAGE_FLOAT16: ROWS(ZM_STORAGE_FLOAT16); break;
    default: ROWS(ZM_STORAGE_BFLOAT16);
    }
}
#undef ROWS
