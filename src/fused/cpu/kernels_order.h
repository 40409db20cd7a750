/* SPDX-License-Identifier: MIT */
/* The order of prepared activations; part of kernels.h.
 *
 * A row of codes is read as words, one a lane, of n_codes consecutive codes each: 32 bits where codes do not
 * straddle MLX's own words, else as many as fill whole bytes for two neighbours. n_codes masks bring out all
 * codes of a vector of words, each time one code a lane. A code stays at its place in the word: the
 * activation it meets has been scaled by 2^-place. */

typedef struct packing {
    int n_codes, word_bits;
    int n_bytes; /* of a vector of words */
} packing;

INLINE packing packing_of(int bits) {
    int n_codes = bits == 3 ? 8 : bits == 5 || bits == 6 ? 4 : 32 / bits;
    return (packing){.n_codes = n_codes, .word_bits = n_codes * bits, .n_bytes = LANES * n_codes * bits / 8};
}

/* Where a lane's first code begins in its word: words of 20 bits begin inside a byte. */
INLINE int first_place(packing pack, int lane) { return lane * pack.word_bits % 8; }

/* Floats before the sums of prepared activations. */
INLINE size_t value_count(size_t in_features, packing pack) {
    size_t vector_codes = (size_t)(LANES * pack.n_codes);
    return (in_features + vector_codes - 1) / vector_codes * vector_codes;
}

/* Whether a code is shifted down and looked up instead of masked and converted: of the two sequences the processor
 * runs parts side by side. */
INLINE bool is_looked_up(int bits, int code) { return bits <= LOOKUP_BITS && code % 2 == 0; }

INLINE void order_floats(zm_order *result, const zm_matrix *matrix) {
    size_t in_features = matrix->in_features;
    *result = (zm_order){.in_features = in_features,
                         .group_size = matrix->group_size ? (size_t)matrix->group_size : ZM_MATRIX_UNIT,
                         .n_values = in_features,
                         .sums = matrix->kind == ZM_MATRIX_AFFINE};
    if (result->sums) result->n_group_values = zm_matrix_groups(matrix);
    if (matrix->kind == ZM_MATRIX_DENSE) return;
    packing pack = packing_of(matrix->bits);
    result->n_codes = (size_t)pack.n_codes;
    result->n_values = value_count(in_features, pack);
    for (int code = 0; code < pack.n_codes; code++) {
        for (int lane = 0; lane < LANES; lane++) {
            int place = first_place(pack, lane) + code * matrix->bits;
            bool shifted = place + matrix->bits == 32 || is_looked_up(matrix->bits, code);
            if (shifted || matrix->kind == ZM_MATRIX_MXFP4) place = 0;
            result->factor[code][lane] = 1.0f / (float)(1u << place);
        }
    }
}

/* One vector of words, of which n_words are in the row. */
INLINE void prepare_words(float *prepared, const float *x, size_t n_words, const zm_order *plan, size_t n_codes) {
    for (size_t code = 0; code < n_codes; code++)
        for (size_t lane = 0; lane < LANES; lane++)
            prepared[code * LANES + lane] =
                lane < n_words ? x[lane * n_codes + code] * plan->factor[code][lane] : 0;
}

INLINE void prepare_codes(float *prepared, const float *x, const zm_order *plan, size_t n_codes) {
    size_t n_words = plan->in_features / n_codes, whole = n_words / LANES * LANES;
    for (size_t word = 0; word < whole; word += LANES)
        prepare_words(prepared + word * n_codes, x + word * n_codes, LANES, plan, n_codes);
    if (whole < n_words)
        prepare_words(prepared + whole * n_codes, x + whole * n_codes, n_words - whole, plan, n_codes);
}

INLINE void prepare_floats(float *prepared, const float *x, const zm_order *plan) {
    size_t size = plan->group_size, n_groups = plan->in_features / size;
    if (!plan->n_codes) memcpy(prepared, x, plan->in_features * sizeof *x);
    else if (plan->n_codes == 4) prepare_codes(prepared, x, plan, 4);
    else if (plan->n_codes == 8) prepare_codes(prepared, x, plan, 8);
    else prepare_codes(prepared, x, plan, 16);
    if (!plan->sums) return;
    float *sums = prepared + plan->n_values;
    for (size_t g = 0; g < n_groups; g++) {
        vector sum = {0};
        for (size_t i = 0; i < size; i += LANES) sum += load_vector(x + g * size + i);
        sums[g] = sum_lanes(sum);
    }
    for (size_t i = n_groups; i < zm_order_size(plan) - plan->n_values; i++) sums[i] = 0;
}
