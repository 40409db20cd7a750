/* SPDX-License-Identifier: MIT */
/* Scales and biases as they are stored, or from edges (edges.h); part of kernels.h. */

/* Of one row; edges NULL: none. */
typedef struct group_row {
    const unsigned char *scales, *biases, *edges;
} group_row;

/* LANES scales of a row from group `first` on, the missing ones 0. */
INLINE vector load_scales(const unsigned char *row, size_t first, size_t n_groups, zm_matrix_kind kind,
                          zm_storage storage) {
    size_t count = n_groups - first;
    if (kind == ZM_MATRIX_MXFP4) return exponents_to_float(load_exponents(row + first, count));
    const unsigned char *values = row + first * zm_storage_size(storage);
    if (storage == ZM_STORAGE_FLOAT32) return load_stored(values, ZM_STORAGE_FLOAT32, count);
    if (storage == ZM_STORAGE_FLOAT16) return load_stored(values, ZM_STORAGE_FLOAT16, count);
    return load_stored(values, ZM_STORAGE_BFLOAT16, count);
}

/* -1 / n of LANES edges, whose words are the upper halves of the lanes; looked up where a vector holds all of them. */
INLINE vector edge_factors(vector_word words, int bits) {
    vector_word steps = words >> (32 - bits); /* and the sign, which does not count */
    int n_steps = 1 << (bits - 1);
    if (n_steps > LANES) return -1.0f / codes_to_float((steps & (uint32_t)(n_steps - 1)) + zm_edge_first(bits));
    float factors[LANES];
    vector table;
    for (int i = 0; i < LANES; i++) factors[i] = -1.0f / (float)(zm_edge_first(bits) + (uint32_t)(i % n_steps));
    memcpy(&table, factors, sizeof table);
    /* Eight lanes and more are picked by the low bits alone. */
    return pick_lanes(table, LANES > 4 ? steps : steps & (uint32_t)(n_steps - 1));
}

/* The scales and biases of LANES edges, false where a group has none. Missing ones give any finite numbers. A quotient
 * of a number of 8 bits and one of 6 is at least 2^-15 of itself away from the middle between two bfloat16: neither the
 * errors of the product nor rounding halves up ever matter; and edges.c has compared them all. */
INLINE bool load_edges(vector *scales, vector *biases, const unsigned char *edges, size_t count, int first_exponent,
                       int bits) {
    vector_word words = (vector_word)load_stored(edges, ZM_STORAGE_BFLOAT16, count);
    uint32_t none = zm_edge_none(bits) << 16, kept = 0x80000000u | zm_edge_low_bits(bits) << 16;
    if (any_lane_is(words & none, none)) return false;
    *biases = (vector)((words & kept) + ((uint32_t)first_exponent << 23));
    *scales = (vector)(((vector_word)(*biases * edge_factors(words, bits)) + 0x8000u) & 0xffff0000u);
    return true;
}

/* Fetches what comes SCALES_AHEAD bytes behind group `first`. */
INLINE void fetch_groups(const group_row *row, size_t first, zm_matrix_kind kind) {
    __builtin_prefetch((row->edges ? row->edges : row->scales) + 2 * first + SCALES_AHEAD);
    if (kind == ZM_MATRIX_AFFINE && !row->edges) __builtin_prefetch(row->biases + 2 * first + SCALES_AHEAD);
}

/* LANES scales and biases of an affine row from group `first` on. */
INLINE void load_affine(vector *scales, vector *biases, const group_row *row, size_t first, size_t n_groups,
                        const zm_matrix *matrix, int bits) {
    if (row->edges && bits <= ZM_EDGE_MAX_BITS &&
        load_edges(scales, biases, row->edges + 2 * first, n_groups - first, matrix->first_exponent, bits))
        return;
    *scales = load_scales(row->scales, first, n_groups, ZM_MATRIX_AFFINE, matrix->storage);
    *biases = load_scales(row->biases, first, n_groups, ZM_MATRIX_AFFINE, matrix->storage);
}
