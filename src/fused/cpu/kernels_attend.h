/* SPDX-License-Identifier: MIT */
/* Attention over some rows of a cache; part of kernels.h. Several queries are computed together only to share
 * loads: the operations of one query are always the same. */

enum {
    QUERIES = 4, /* computed together */
    KEYS = LANES < 16 ? 2 : 4, /* rows whose scores are computed together */
    PIECES = 2   /* vectors of a value row that are summed at a time */
};

/* Products of LANES rows with each query, lane by lane; the rows from n_rows on repeat the last. Some rows at a time
 * share the loads of the queries. */
INLINE void dot_rows(vector (*dots)[LANES], const unsigned char *keys, const float *queries, size_t size, size_t n_rows,
                     int n_queries, zm_storage storage) {
    size_t element = zm_storage_size(storage), stride = size * element;
    for (size_t row = 0; row < LANES; row += KEYS) {
        vector sums[QUERIES][KEYS] = {{{0}}};
        const unsigned char *places[KEYS];
        UNROLL
        for (size_t r = 0; r < KEYS; r++) places[r] = keys + (row + r < n_rows ? row + r : n_rows - 1) * stride;
        for (size_t i = 0; i < size; i += LANES) {
            vector values[KEYS];
            UNROLL
            for (int r = 0; r < KEYS; r++) values[r] = load_stored(places[r] + i * element, storage, LANES);
            UNROLL
            for (int q = 0; q < n_queries; q++) {
                vector query = load_vector(queries + (size_t)q * size + i);
                UNROLL
                for (int r = 0; r < KEYS; r++) sums[q][r] = multiply_add(values[r], query, sums[q][r]);
            }
        }
        UNROLL
        for (int q = 0; q < n_queries; q++) {
            UNROLL
            for (int r = 0; r < KEYS; r++) dots[q][row + (size_t)r] = sums[q][r];
        }
    }
}

/* One score a query and row; what follows the last one up to a full vector means nothing. */
INLINE void score_rows(float (*scores)[ZM_ATTEND_ROWS], const zm_attend *part, size_t first_query, int n_queries,
                       zm_storage storage) {
    size_t size = part->head_dim, stride = size * zm_storage_size(storage);
    const float *queries = part->queries + first_query * size;
    for (size_t row = 0; row < part->n_rows; row += LANES) {
        vector dots[QUERIES][LANES];
        dot_rows(dots, part->keys + row * stride, queries, size, part->n_rows - row, n_queries, storage);
        UNROLL
        for (int q = 0; q < n_queries; q++) store_vector(scores[q] + row, sum_rows(dots[q]));
    }
}

INLINE float largest_lane(vector v) {
    float lanes[LANES];
    store_vector(lanes, v);
    UNROLL
    for (int half = LANES / 2; half; half /= 2) {
        UNROLL
        for (int lane = 0; lane < LANES / 2; lane++)
            if (lane < half) lanes[lane] = lanes[lane + half] > lanes[lane] ? lanes[lane + half] : lanes[lane];
    }
    return lanes[0];
}

/* Turns the scores of some queries into e^(score - largest); the rows that fill the last vector give 0. Each query is a
 * long chain of operations: they go side by side. */
INLINE void exponentiate(float (*scores)[ZM_ATTEND_ROWS], const size_t *n_rows, int n_queries, float *most,
                         float *sums) {
    vector largest_of[QUERIES], totals[QUERIES];
    size_t end = 0;
    for (int q = 0; q < n_queries; q++) end = n_rows[q] > end ? n_rows[q] : end;
    end = (end + LANES - 1) / LANES * LANES;
    UNROLL
    for (int q = 0; q < n_queries; q++) {
        for (size_t row = n_rows[q]; row < end; row++) scores[q][row] = -INFINITY;
        largest_of[q] = splat(scores[q][0]);
        totals[q] = (vector){0};
    }
    for (size_t row = 0; row < end; row += LANES) {
        UNROLL
        for (int q = 0; q < n_queries; q++) {
            vector values = load_vector(scores[q] + row);
            largest_of[q] = choose(values > largest_of[q], values, largest_of[q]);
        }
    }
    UNROLL
    for (int q = 0; q < n_queries; q++) most[q] = largest_lane(largest_of[q]);
    for (size_t row = 0; row < end; row += LANES) {
        UNROLL
        for (int q = 0; q < n_queries; q++) {
            vector e = exponential(load_vector(scores[q] + row) - most[q]);
            store_vector(scores[q] + row, e);
            totals[q] += e;
        }
    }
    UNROLL
    for (int q = 0; q < n_queries; q++) sums[q] = sum_lanes(totals[q]);
}

INLINE void add_values(const zm_attend *part, const float (*weights)[ZM_ATTEND_ROWS], size_t first_query,
                       int n_queries, size_t first, int n_pieces, zm_storage storage) {
    size_t element = zm_storage_size(storage), stride = part->head_dim * element;
    const unsigned char *values = part->values + first * element;
    vector sums[QUERIES][PIECES] = {{{0}}};
    for (size_t row = 0; row < part->n_rows; row++) {
        UNROLL
        for (int p = 0; p < n_pieces; p++) {
            const unsigned char *piece = values + row * stride + (size_t)p * LANES * element;
            vector value = load_stored(piece, storage, LANES);
            UNROLL
            for (int q = 0; q < n_queries; q++)
                sums[q][p] = multiply_add(splat(weights[q][row]), value, sums[q][p]);
        }
    }
    for (int q = 0; q < n_queries; q++)
        for (int p = 0; p < n_pieces; p++)
            store_vector(part->outputs + (first_query + (size_t)q) * part->head_dim + first + (size_t)p * LANES,
                         sums[q][p]);
}

INLINE void attend_queries(const zm_attend *part, size_t first_query, int n_queries, zm_storage storage) {
    _Alignas(64) float scores[QUERIES][ZM_ATTEND_ROWS];
    const size_t n_rows[QUERIES] = {part->n_rows, part->n_rows, part->n_rows, part->n_rows};
    score_rows(scores, part, first_query, n_queries, storage);
    exponentiate(scores, n_rows, n_queries, part->largest + first_query, part->sums + first_query);
    const float(*weights)[ZM_ATTEND_ROWS] = (const float(*)[ZM_ATTEND_ROWS])scores;
    size_t i = 0;
    for (; i + PIECES * LANES <= part->head_dim; i += PIECES * LANES)
        add_values(part, weights, first_query, n_queries, i, PIECES, storage);
    if (i < part->head_dim) add_values(part, weights, first_query, n_queries, i, 1, storage);
}

INLINE void attend_stored(const zm_attend *part, zm_storage storage) {
    size_t q = 0;
    for (; q + QUERIES <= part->n_queries; q += QUERIES) attend_queries(part, q, QUERIES, storage);
    for (; q + 2 <= part->n_queries; q += 2) attend_queries(part, q, 2, storage);
    if (q < part->n_queries) attend_queries(part, q, 1, storage);
}

static void attend(const zm_attend *part) {
    if (part->storage == ZM_STORAGE_FLOAT32) attend_stored(part, ZM_STORAGE_FLOAT32);
    else if (part->storage == ZM_STORAGE_FLOAT16) attend_stored(part, ZM_STORAGE_FLOAT16);
    else attend_stored(part, ZM_STORAGE_BFLOAT16);
}
