/* SPDX-License-Identifier: MIT */
/* The k largest of rows; select_rows.c includes this once for each instruction set, with vectors of
 * SELECT_LANES numbers and SELECT(name) for its own names.
 *
 * Two passes over a row. The first keeps the largest number of each of n lanes, n >= 2 k: the k-th largest of those is
 * a bound that at least k numbers reach, and of random ones hardly more (1.4 k where n = 2 k). The second collects the
 * places of the numbers above the bound in their order; where too many come together, all but the k largest are
 * dropped. Which numbers those are nobody can foresee, so with 16 lanes nothing branches on it. */

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

ALWAYS void SELECT(make_keys)(SELECT(lanes) *keys, const SELECT(lanes) *bits, zm_storage storage) {
    SELECT(lanes) magnitude = *bits & INT32_MAX, sign = *bits >> 31;
    SELECT(lanes) is_nan = magnitude > (storage == ZM_STORAGE_FLOAT16 ? 0x7c000000 : 0x7f800000);
    *keys = (((magnitude ^ sign) - sign) & ~is_nan) | (is_nan & INT32_MAX);
}

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
    SELECT(make_keys)(keys, &bits, storage);
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

/* Puts the places that the mask has; their number. */
ALWAYS int SELECT(collect)(uint32_t *places, int column, uint32_t mask) {
#if SELECT_LANES == 16
    _mm512_storeu_si512(places, _mm512_maskz_compress_epi32((__mmask16)mask, (__m512i)(SELECT(first) + column)));
    return __builtin_popcount(mask);
#else
    int count = 0;
    for (; mask; mask &= mask - 1) places[count++] = (uint32_t)(column + __builtin_ctz(mask));
    return count;
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

/* One vector more, at column `at`. */
ALWAYS void SELECT(see)(SELECT(floats) *top, SELECT(lanes) *best, const char *row, zm_storage storage, int at) {
    __builtin_prefetch(row + at * (storage == ZM_STORAGE_FLOAT32 ? 4 : 2) + AHEAD);
    if (storage == ZM_STORAGE_FLOAT16) {
        SELECT(lanes) keys;
        SELECT(load)(&keys, row, storage, at, at + SELECT_LANES);
        SELECT(lanes) is_better = keys > *best;
        *best = (keys & is_better) | (*best & ~is_better);
    } else {
        SELECT(floats) x;
        SELECT(load_floats)(&x, row, storage, at);
        SELECT(keep_better)(top, &x);
    }
}

/* Keys of the best of each lane, of whole vectors alone: NaN apart where floats are compared. */
ALWAYS void SELECT(best)(SELECT(lanes) *best, const char *row, zm_storage storage, int columns, int n) {
    enum { CHAINS = 4 }; /* a comparison waits for the one before it in its own chain alone */
    const int n_tops = n < CHAINS ? CHAINS / n * n : n, step = n_tops * SELECT_LANES;
    SELECT(floats) top[MAX_BEST / SELECT_LANES];
    int column = 0;
    for (int i = 0; i < n_tops; i++) top[i] = (SELECT(floats)){0} - __builtin_inff();
    for (int i = 0; i < n; i++) best[i] = (SELECT(lanes)){0} + NO_KEY;
    for (; column + step <= columns; column += step) {
        UNROLL
        for (int i = 0; i < n_tops; i++)
            SELECT(see)(&top[i], &best[i % n], row, storage, column + i * SELECT_LANES);
    }
    for (int i = 0; column + SELECT_LANES <= columns; i++, column += SELECT_LANES)
        SELECT(see)(&top[i], &best[i % n], row, storage, column);
    for (int i = n; i < n_tops; i++) SELECT(keep_better)(&top[i % n], &top[i]);
    for (int i = 0; i < n && storage != ZM_STORAGE_FLOAT16; i++) {
        SELECT(lanes) bits = (SELECT(lanes))top[i], sign = bits >> 31;
        best[i] = ((bits & INT32_MAX) ^ sign) - sign;
    }
}

/* Keys of the numbers at a vector of places, of which count are there. */
ALWAYS void SELECT(keys_at)(SELECT(lanes) *keys, const char *row, zm_storage storage, const uint32_t *places,
                            int count) {
    SELECT(lanes) bits, at, is_there = SELECT(first) < count;
    memcpy(&at, places, sizeof at);
    at &= is_there;
#if SELECT_LANES == 16
    if (storage == ZM_STORAGE_FLOAT32)
        bits = (SELECT(lanes))_mm512_i32gather_epi32((__m512i)at, row, 4);
    else
#endif
        for (int lane = 0; lane < SELECT_LANES; lane++) bits[lane] = bits_at(row, storage, (uint32_t)at[lane]);
    SELECT(make_keys)(keys, &bits, storage);
    *keys = (*keys & is_there) | (~is_there & NO_KEY);
}

/* The first k of at most a vector, descending: each goes to the place that as many are before. */
ALWAYS void SELECT(rank)(found *list, const char *row, zm_storage storage) {
    int32_t keys[SELECT_LANES], ranks[SELECT_LANES];
    uint32_t places[SELECT_LANES];
    SELECT(lanes) own, even = {0}, odd = {0};
    SELECT(keys_at)(&own, row, storage, list->places, list->count);
    memcpy(keys, &own, sizeof keys);
    memcpy(places, list->places, sizeof places);
    UNROLL
    for (int i = 0; i < SELECT_LANES; i += 2) { /* of equals the first */
        even -= keys[i] > own + (SELECT(first) > i);
        odd -= keys[i + 1] > own + (SELECT(first) > i + 1);
    }
    even += odd;
    memcpy(ranks, &even, sizeof ranks);
    for (int i = 0; i < SELECT_LANES; i++) list->places[ranks[i]] = places[i];
}

/* All but the k largest dropped; the bound that later ones must be above. */
ALWAYS int32_t SELECT(drop)(found *list, const char *row, zm_storage storage, int k) {
    int32_t keys[MAX_FOUND];
    for (int i = 0; i < list->count; i += SELECT_LANES) {
        SELECT(lanes) some;
        SELECT(keys_at)(&some, row, storage, list->places + i, list->count - i);
        memcpy(keys + i, &some, sizeof some);
    }
    return keep_largest(list, keys, k);
}

/* Collects columns [column, end) above the bound; only the last vector of a row may be a part of one. What lies ahead,
 * if that many bytes are not 0, is fetched. */
ALWAYS void SELECT(collect_block)(found *list, const char *row, zm_storage storage, int32_t bound, int column,
                                  int end, int columns, int64_t ahead) {
    const int bytes = storage == ZM_STORAGE_FLOAT32 ? 4 : 2;
    const float least = number_of(bound < INT32_MAX ? bound + 1 : bound);
    SELECT(lanes) keys;
    int count = list->count;
    for (; column + SELECT_LANES <= end; column += SELECT_LANES) {
        uint32_t mask;
        if (ahead) __builtin_prefetch(row + column * bytes + ahead);
        if (storage == ZM_STORAGE_FLOAT16) {
            SELECT(load)(&keys, row, storage, column, columns);
            mask = SELECT(above)(&keys, bound);
        } else {
            SELECT(floats) numbers;
            SELECT(load_floats)(&numbers, row, storage, column);
            mask = SELECT(reaching)(&numbers, least);
        }
        count += SELECT(collect)(list->places + count, column, mask);
    }
    if (column < end) {
        SELECT(load)(&keys, row, storage, column, columns);
        count += SELECT(collect)(list->places + count, column, SELECT(above)(&keys, bound));
    }
    list->count = count;
}

ALWAYS void SELECT(collect_row)(found *list, const char *row, zm_storage storage, int32_t bound, int columns, int k,
                                int64_t ahead) {
    list->count = 0;
    for (int column = 0; column < columns; column += BLOCK) {
        if (list->count > MAX_KEPT) bound = SELECT(drop)(list, row, storage, k);
        SELECT(collect_block)(list, row, storage, bound, column, columns - column < BLOCK ? columns : column + BLOCK,
                              columns, ahead);
    }
}

/* Rows side by side: each waits for the results of one step before the next, and nothing for another row's. */
ALWAYS void SELECT(group)(const zm_select_rows_task *task, int64_t row, int n_rows, zm_storage storage, int n) {
    const int k = task->k, columns = task->columns;
    const int64_t bytes = (int64_t)columns * (storage == ZM_STORAGE_FLOAT32 ? 4 : 2);
    const char *x = (const char *)task->x + row * bytes;
    SELECT(lanes) best[TOGETHER][MAX_BEST / SELECT_LANES];
    int32_t bounds[TOGETHER];
    found lists[TOGETHER];
    for (int i = 0; i < n_rows && columns > n * SELECT_LANES; i++)
        SELECT(best)(best[i], x + i * bytes, storage, columns, n);
    for (int i = 0; i < n_rows; i++)
        bounds[i] = columns > n * SELECT_LANES ? SELECT(kth_largest)(best[i], n, k) - 1 : INT32_MIN;
    for (int i = 0; i < n_rows; i++)
        SELECT(collect_row)(&lists[i], x + i * bytes, storage, bounds[i], columns, k, n_rows > 1 ? n_rows * bytes : 0);
    for (int i = 0; i < n_rows; i++) {
        if (lists[i].count <= SELECT_LANES) SELECT(rank)(&lists[i], x + i * bytes, storage);
        else SELECT(drop)(&lists[i], x + i * bytes, storage, k);
    }
    for (int i = 0; i < n_rows; i++) put_row(task, row + i, storage, x + i * bytes, lists[i].places);
}

ALWAYS void SELECT(groups)(const zm_select_rows_task *task, int64_t row, int64_t end, zm_storage storage, int n) {
    const bool is_long = task->columns > MANY_COLUMNS; /* then the second pass would not find them in the first cache */
    for (; end - row >= TOGETHER && !is_long; row += TOGETHER) SELECT(group)(task, row, TOGETHER, storage, n);
    for (; row < end; row++) SELECT(group)(task, row, 1, storage, n);
}

#define ROWS(storage) \
    if (task->k <= FEW) SELECT(groups)(task, row, end, storage, 2 * FEW / SELECT_LANES); \
    else SELECT(groups)(task, row, end, storage, (2 * task->k + SELECT_LANES - 1) / SELECT_LANES)
static void SELECT(rows)(const zm_select_rows_task *task, int64_t row, int64_t end) {
    switch (task->storage) {
    case ZM_STORAGE_FLOAT32: ROWS(ZM_STORAGE_FLOAT32); break;
    case ZM_STORAGE_FLOAT16: ROWS(ZM_STORAGE_FLOAT16); break;
    default: ROWS(ZM_STORAGE_BFLOAT16);
    }
}
#undef ROWS
