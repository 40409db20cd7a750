/* SPDX-License-Identifier: MIT */
/* The order of prepared activations; part of kernels.h.
 *
 * A group of codes of 2, 4 or 8 bits is n_words words. They are loaded as n_vectors vectors, or, where
 * they fill only a part of one, repeated n_copies times; then n_steps masks bring out all codes of
 * such a vector, each time one code a lane. The codes stay at their places in the word: the activation they
 * meet has been scaled by 2^-place. Copy c of the words yields the codes c * n_steps ... of each word. */

typedef struct packing {
    int n_words, n_vectors, n_copies, n_steps;
} packing;

INLINE packing packing_of(int bits, int group_size) {
    packing result = {.n_words = group_size * bits / 32};
    result.n_vectors = result.n_words > LANES ? result.n_words / LANES : 1;
    result.n_copies = result.n_words < LANES ? LANES / result.n_words : 1;
    result.n_steps = 32 / bits / result.n_copies;
    return result;
}

/* The place of the code that lane's copy yields in a step, after the shift that keeps the sign bit clear
 * where codes_to_float is signed (affine_codes). */
INLINE int place_of(int bits, packing pack, int copy, int step) {
    int place = bits * (copy * pack.n_steps + step);
    if (UNSIGNED_CODES || step < pack.n_steps - 1) return place;
    return pack.n_copies == 1 ? 0 : place - 1;
}

static bool is_packed(const zm_matrix *matrix) {
    return matrix->kind == ZM_MATRIX_MXFP4 ||
           (matrix->kind == ZM_MATRIX_AFFINE && 32 % matrix->bits == 0);
}

static void order(zm_order *result, const zm_matrix *matrix) {
    *result = (zm_order){.in_features = matrix->in_features,
                         .group_size = matrix->group_size ? (size_t)matrix->group_size : ZM_MATRIX_UNIT,
                         .permuted = is_packed(matrix),
                         .sums = matrix->kind == ZM_MATRIX_AFFINE};
    if (!result->permuted) return;
    packing pack = packing_of(matrix->bits, matrix->group_size);
    int per_word = 32 / matrix->bits;
    for (int v = 0; v < pack.n_vectors; v++) {
        for (int step = 0; step < pack.n_steps; step++) {
            for (int lane = 0; lane < LANES; lane++) {
                int copy = pack.n_copies > 1 ? lane / pack.n_words : 0;
                int word = v * LANES + (pack.n_copies > 1 ? lane % pack.n_words : lane);
                int i = (v * pack.n_steps + step) * LANES + lane;
                int place = matrix->kind == ZM_MATRIX_MXFP4 ? 0 : place_of(matrix->bits, pack, copy, step);
                result->source[i] = (uint8_t)(word * per_word + copy * pack.n_steps + step);
                result->factor[i] = 1.0f / (float)(1u << place);
            }
        }
    }
}

static void prepare(float *prepared, const float *x, const zm_order *plan) {
    size_t size = plan->group_size, n_groups = plan->in_features / size;
    if (!plan->permuted) {
        memcpy(prepared, x, plan->in_features * sizeof *x);
    } else {
        for (size_t g = 0; g < n_groups; g++)
            for (size_t i = 0; i < size; i++)
                prepared[g * size + i] = x[g * size + plan->source[i]] * plan->factor[i];
    }
    if (!plan->sums) return;
    float *sums = prepared + plan->in_features;
    for (size_t g = 0; g < n_groups; g++) {
        vector sum = {0};
        for (size_t i = 0; i < size; i += LANES) sum += load_vector(x + g * size + i);
        sums[g] = sum_lanes(sum);
    }
    for (size_t i = n_groups; i < zm_order_size(plan) - plan->in_features; i++) sums[i] = 0;
}
