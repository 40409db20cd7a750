/* SPDX-License-Identifier: MIT */
/* The gated delta rule on rows of a state; part of kernels.h. LANES rows go side by side, and stay in the first cache
 * while the tokens pass; the operations of one row are always the same. */

/* One token on n_rows <= LANES rows: from is what state holds before, and may be state. */
INLINE void delta_token(const zm_delta *of, size_t token, const float *from, float *state, size_t first_row,
                        size_t n_rows) {
    const float *q = of->q + token * of->key_stride, *k = of->k + token * of->key_stride;
    const float *v = of->v + token * of->value_stride + first_row;
    float *y = of->y + token * of->result_stride + first_row;
    vector decay = splat(of->decay[token * of->factor_stride]), beta = splat(of->beta[token * of->factor_stride]);
    vector sums[LANES] = {{0}};
    float deltas[LANES], results[LANES];
    for (size_t row = 0; row < n_rows; row++)
        for (size_t i = 0; i < of->size; i += LANES)
            sums[row] = multiply_add(load_vector(from + row * of->size + i) * decay, load_vector(k + i), sums[row]);
    vector values = n_rows < LANES ? load_some_floats((const unsigned char *)v, n_rows) : load_vector(v);
    store_vector(deltas, (values - sum_rows(sums)) * beta);
    for (size_t row = 0; row < n_rows; row++) {
        vector delta = splat(deltas[row]), sum = {0};
        for (size_t i = 0; i < of->size; i += LANES) {
            vector kept = load_vector(from + row * of->size + i) * decay;
            kept = multiply_add(load_vector(k + i), delta, kept);
            store_vector(state + row * of->size + i, kept);
            sum = multiply_add(kept, load_vector(q + i), sum);
        }
        sums[row] = sum;
    }
    store_vector(results, sum_rows(sums));
    memcpy(y, results, n_rows * sizeof *results);
}

static void delta(const zm_delta *of) {
    for (size_t row = 0; row < of->n_rows; row += LANES) {
        size_t n_rows = of->n_rows - row < LANES ? of->n_rows - row : LANES;
        float *state = of->state + row * of->size;
        const float *from = of->from ? of->from + row * of->size : state;
        if (!of->from) memset(state, 0, n_rows * of->size * sizeof *state);
        for (size_t token = 0; token < of->n_tokens; token++)
            delta_token(of, token, token ? state : from, state, row, n_rows);
    }
}
