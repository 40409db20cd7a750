/* SPDX-License-Identifier: MIT */
/* Attention of many tokens over some rows of a cache; part of kernels.h. The keys are turned once, so that a row is a
 * lane; the numbers of a query and row are added in the order of kernels_attend.h: LANES sums, then those as sum_lanes
 * does. */

enum {
    ROW_VECTORS = LANES == 8 ? 2 : 4, /* of rows whose scores are computed together */
    VALUE_VECTORS = LANES == 8 ? 2 : 4, /* of a value row that are summed at a time */
    TREE_LEVELS = LANES == 16 ? 4 : LANES == 8 ? 3 : 2
};

/* Queries that are computed together: one behind the other, of one token or of neighbours. */
typedef struct query_tile {
    const float *queries[QUERIES];
    size_t n_rows[QUERIES], parts[QUERIES];
    int count; /* the last one stands for those that are not there */
} query_tile;

/* turned[i][row] = number i of the row; rows from n_rows on repeat the last. */
INLINE void turn_keys(float (*turned)[ZM_ATTEND_ROWS], const zm_attend_tokens *part, size_t n_rows,
                      zm_storage storage) {
    size_t element = zm_storage_size(storage), stride = part->head_dim * element;
    for (size_t row = 0; row < n_rows; row += LANES) {
        for (size_t i = 0; i < part->head_dim; i += LANES) {
            vector_word some[LANES];
            UNROLL
            for (size_t r = 0; r < LANES; r++) {
                size_t place = row + r < n_rows ? row + r : n_rows - 1;
                some[r] = (vector_word)load_stored(part->keys + place * stride + i * element, storage, LANES);
            }
            turn_words(some);
            UNROLL
            for (size_t r = 0; r < LANES; r++) store_vector(turned[i + r] + row, (vector)some[r]);
        }
    }
}

/* The lane at this position of the tree of sum_lanes, where neighbours are added up first: its bits the other way
 * round. */
INLINE size_t tree_lane(size_t position) {
    size_t lane = 0;
    for (size_t bit = 1; bit < LANES; bit *= 2) lane = 2 * lane + (position & bit ? 1 : 0);
    return lane;
}

/* Scores of n_vectors vectors of rows from `row` on. Sums that wait for their neighbour in the tree: of one lane, of
 * two, ... */
INLINE void score_vectors(float (*scores)[ZM_ATTEND_ROWS], float (*turned)[ZM_ATTEND_ROWS], const query_tile *together,
                          size_t head_dim, size_t row, int n_vectors) {
    vector waiting[TREE_LEVELS + 1][QUERIES][ROW_VECTORS];
    for (size_t position = 0; position < LANES; position++) {
        vector sums[QUERIES][ROW_VECTORS] = {{{0}}};
        for (size_t i = tree_lane(position); i < head_dim; i += LANES) {
            vector keys[ROW_VECTORS];
            UNROLL
            for (int v = 0; v < n_vectors; v++) keys[v] = load_vector(turned[i] + row + v * LANES);
            UNROLL
            for (int q = 0; q < QUERIES; q++) {
                vector query = splat(together->queries[q][i]);
                UNROLL
                for (int v = 0; v < n_vectors; v++) sums[q][v] = multiply_add(keys[v], query, sums[q][v]);
            }
        }
        int level = 0;
        for (; position >> level & 1; level++) {
            UNROLL
            for (int q = 0; q < QUERIES; q++) {
                UNROLL
                for (int v = 0; v < n_vectors; v++) sums[q][v] += waiting[level][q][v];
            }
        }
        UNROLL
        for (int q = 0; q < QUERIES; q++) {
            UNROLL
            for (int v = 0; v < n_vectors; v++) waiting[level][q][v] = sums[q][v];
        }
    }
    UNROLL
    for (int q = 0; q < QUERIES; q++) {
        UNROLL
        for (int v = 0; v < n_vectors; v++) store_vector(scores[q] + row + v * LANES, waiting[TREE_LEVELS][q][v]);
    }
}

static void score_tile(float (*scores)[ZM_ATTEND_ROWS], float (*turned)[ZM_ATTEND_ROWS], const query_tile *together,
                       size_t head_dim, size_t n_rows) {
    size_t row = 0;
    for (; row + (ROW_VECTORS - 1) * LANES < n_rows; row += ROW_VECTORS * LANES)
        score_vectors(scores, turned, together, head_dim, row, ROW_VECTORS);
    if (ROW_VECTORS == 4 && row + LANES < n_rows)
        score_vectors(scores, turned, together, head_dim, row, 2), row += 2 * LANES;
    if (row < n_rows) score_vectors(scores, turned, together, head_dim, row, 1);
}

/* Adds rows [begin, end) of n_vectors vectors of the values to the sums of some queries. */
INLINE void add_rows_of(vector (*sums)[VALUE_VECTORS], const unsigned char *values, size_t stride,
                        const float (*weights)[ZM_ATTEND_ROWS], size_t begin, size_t end, int n_queries, int n_vectors,
                        zm_storage storage) {
    for (size_t row = begin; row < end; row++) {
        vector value[VALUE_VECTORS];
        UNROLL
        for (int v = 0; v < n_vectors; v++)
            value[v] = load_stored(values + row * stride + (size_t)(v * LANES) * zm_storage_size(storage), storage,
                                   LANES);
        UNROLL
        for (int q = 0; q < n_queries; q++) {
            vector weight = splat(weights[q][row]);
            UNROLL
            for (int v = 0; v < n_vectors; v++) sums[q][v] = multiply_add(weight, value[v], sums[q][v]);
        }
    }
}

/* n_vectors vectors of the outputs from number `first` on: rows that all queries have, then those of each. */
INLINE void add_tile_values(const zm_attend_tokens *part, const query_tile *together,
                            const float (*weights)[ZM_ATTEND_ROWS], size_t first, int n_vectors, zm_storage storage) {
    size_t element = zm_storage_size(storage), stride = part->head_dim * element, least = together->n_rows[0];
    const unsigned char *values = part->values + first * element;
    vector sums[QUERIES][VALUE_VECTORS] = {{{0}}};
    add_rows_of(sums, values, stride, weights, 0, least, QUERIES, n_vectors, storage);
    for (int q = 0; q < together->count; q++) {
        float *outputs = part->outputs + together->parts[q] * part->head_dim + first;
        add_rows_of(sums + q, values, stride, weights + q, least, together->n_rows[q], 1, n_vectors, storage);
        UNROLL
        for (int v = 0; v < n_vectors; v++) store_vector(outputs + v * LANES, sums[q][v]);
    }
}

INLINE void attend_tile(const zm_attend_tokens *part, float (*turned)[ZM_ATTEND_ROWS], const query_tile *together,
                        zm_storage storage) {
    _Alignas(64) float scores[QUERIES][ZM_ATTEND_ROWS];
    score_tile(scores, turned, together, part->head_dim, together->n_rows[QUERIES - 1]);
    float most[QUERIES], sums[QUERIES];
    exponentiate(scores, together->n_rows, QUERIES, most, sums);
    for (int q = 0; q < together->count; q++) {
        part->largest[together->parts[q]] = most[q];
        part->sums[together->parts[q]] = sums[q];
    }
    const float(*weights)[ZM_ATTEND_ROWS] = (const float(*)[ZM_ATTEND_ROWS])scores;
    size_t i = 0;
    for (; i + VALUE_VECTORS * LANES <= part->head_dim; i += VALUE_VECTORS * LANES)
        add_tile_values(part, together, weights, i, VALUE_VECTORS, storage);
    for (; i < part->head_dim; i += LANES) add_tile_values(part, together, weights, i, 1, storage);
}

/* The rows of a token. */
INLINE size_t token_rows(const zm_attend_tokens *part, size_t token) {
    size_t rows = part->first_rows + token;
    return rows < ZM_ATTEND_ROWS ? rows : ZM_ATTEND_ROWS;
}

INLINE void attend_tokens_stored(const zm_attend_tokens *part, zm_storage storage) {
    _Alignas(64) float turned[ZM_ATTEND_TOKENS_DIM][ZM_ATTEND_ROWS];
    size_t count = part->n_tokens * part->n_queries;
    turn_keys(turned, part, token_rows(part, part->n_tokens - 1), storage);
    for (size_t first = 0; first < count; first += QUERIES) {
        query_tile some = {.count = count - first < QUERIES ? (int)(count - first) : QUERIES};
        for (int q = 0; q < QUERIES; q++) {
            size_t number = first + (size_t)(q < some.count ? q : some.count - 1);
            size_t token = number / part->n_queries, query = number % part->n_queries;
            some.queries[q] = part->queries + token * part->query_stride + query * part->head_dim;
            some.n_rows[q] = token_rows(part, token);
            some.parts[q] = token * part->part_stride + query;
        }
        attend_tile(part, turned, &some, storage);
    }
}

static void attend_tokens(const zm_attend_tokens *part) {
    if (part->storage == ZM_STORAGE_FLOAT32) attend_tokens_stored(part, ZM_STORAGE_FLOAT32);
    else if (part->storage == ZM_STORAGE_FLOAT16) attend_tokens_stored(part, ZM_STORAGE_FLOAT16);
    else attend_tokens_stored(part, ZM_STORAGE_BFLOAT16);
}
