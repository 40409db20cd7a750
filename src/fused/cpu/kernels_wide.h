/* SPDX-License-Identifier: MIT */
/* Products of many tokens in integers, a row a lane; part of kernels_limbs.h. A group's codes are unpacked once for
 * WIDE_ROWS rows and a slice of the tokens. */

/* Rows and tokens of one step. */
typedef struct wide {
    const zm_matrix *matrix;
    const unsigned char *codes[WIDE_ROWS];
    group_row groups[WIDE_ROWS]; /* without edges: many tokens share what is read */
    const unsigned char *x[WIDE_SLICE]; /* prepared */
    size_t n_tokens, n_values, padded_groups;
    /* Of LANES groups: the first index counts them. */
    vector scales[LANES][WIDE_VECTORS], biases[LANES][WIDE_VECTORS];
    vector_word words[2 * MAX_GROUP_WORDS * WIDE_VECTORS]; /* of the groups unpacked together, each run by run */
    vector sums[LANES * WIDE_SLICE][WIDE_VECTORS]; /* lane by lane, n_tokens of each */
} wide;

/* How a group's words lie among the limbs: runs of neighbours, one a vector and plane. */
typedef struct limb_runs {
    int n_runs, run_words;
    size_t stride;
} limb_runs;

INLINE limb_runs runs_of(limb_form of) {
    int words = group_words(of), run_words = words < LANES ? words : LANES;
    return (limb_runs){.n_runs = words / run_words * code_planes(of.bits), .run_words = run_words,
                       .stride = (size_t)of.limbs * VECTOR_BYTES};
}

/* Adds the products of DOT_WORDS words of the group; place: of their limbs in a prepared token. */
INLINE void dot_words(vector_int (*dots)[WIDE_VECTORS], const vector_word *words, const unsigned char *const *tokens,
                      size_t place, int n_tokens, bool eight) {
    UNROLL
    for (int w = 0; w < DOT_WORDS; w++) {
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int v = 0; v < WIDE_VECTORS; v++)
                dots[t][v] = dot_word(dots[t][v], words[w * WIDE_VECTORS + v], tokens[t] + place, w, eight);
        }
    }
}

/* A group: its words, the sums of its lane, its place among those of a row and of the block, that of its limbs in a
 * prepared token. */
typedef struct wide_group {
    const vector_word *words;
    vector (*sums)[WIDE_VECTORS];
    size_t number, lane, x;
} wide_group;

/* Adds one group to the sums of n_tokens tokens. */
INLINE void add_group(wide *of, wide_group group, size_t token, limb_runs runs, int n_tokens, int limbs, bool eight) {
    vector high[WIDE_TOKENS][WIDE_VECTORS];
    vector_int dots[WIDE_TOKENS][WIDE_VECTORS];
    const unsigned char *tokens[WIDE_TOKENS];
    UNROLL
    for (int t = 0; t < n_tokens; t++) tokens[t] = of->x[token + (size_t)t];
    UNROLL
    for (int limb = 0; limb < limbs; limb++) {
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int v = 0; v < WIDE_VECTORS; v++) dots[t][v] = limb < 2 ? (vector_int){0} : dots[t][v] << 8;
        }
        const vector_word *words = group.words;
        for (int run = 0; run < runs.n_runs; run++) {
            size_t place = group.x + (size_t)limb * VECTOR_BYTES + (size_t)run * runs.stride;
            for (int w = 0; w < runs.run_words;
                 w += DOT_WORDS, words += DOT_WORDS * WIDE_VECTORS, place += 4 * DOT_WORDS)
                dot_words(dots, words, tokens, place, n_tokens, eight);
        }
        if (limb || limbs == 1) continue;
        UNROLL
        for (int t = 0; t < n_tokens; t++) {
            UNROLL
            for (int v = 0; v < WIDE_VECTORS; v++) high[t][v] = codes_to_float((vector_word)dots[t][v]);
        }
    }
    UNROLL
    for (int t = 0; t < n_tokens; t++) {
        const float *scale = (const float *)(const void *)(tokens[t] + of->n_values) + group.number;
        UNROLL
        for (int v = 0; v < WIDE_VECTORS; v++) {
            vector *sum = &group.sums[token + (size_t)t][v],
                   value = join_limbs(high[t][v], dots[t][v], limbs);
            vector before = group.number < LANES ? (vector){0} : *sum;
            vector biased = multiply_add(of->biases[group.lane][v], splat(scale[of->padded_groups]), before);
            *sum = multiply_add(value, of->scales[group.lane][v] * splat(*scale), biased);
        }
    }
}

/* A step of few tokens takes as long as one of some more, for a sum waits for itself: where few would be left, the last
 * two steps are even. */
INLINE void add_group_tokens(wide *of, wide_group group, limb_runs runs, int limbs, bool eight) {
    size_t token = 0, left = of->n_tokens;
    for (; left == WIDE_TOKENS || left >= WIDE_TOKENS + WIDE_TOKENS / 2; token += WIDE_TOKENS, left -= WIDE_TOKENS)
        add_group(of, group, token, runs, WIDE_TOKENS, limbs, eight);
    size_t step = left > WIDE_TOKENS ? (left + 1) / 2 : left;
    for (; left; token += step, left -= step) {
        if (step > left) step = left;
        UNROLL
        for (int n = 1; n < WIDE_TOKENS; n++)
            if (step == (size_t)n) add_group(of, group, token, runs, n, limbs, eight);
    }
}

static void add_group_three_limbs(wide *of, wide_group group, limb_runs runs) {
    add_group_tokens(of, group, runs, 3, false);
}

/* With one limb the loops over words are short: their lengths are best constants. */
INLINE void add_whole_group(wide *of, wide_group group, limb_form form) {
    if (form.limbs == 3) add_group_three_limbs(of, group, runs_of(form));
    else add_group_tokens(of, group, runs_of(form), 1, form.bits == 8);
}

/* Groups that are unpacked together: they share vectors of words. */
INLINE size_t batch_groups(limb_form form) {
    return group_words(form) < LANES ? (size_t)(LANES / group_words(form)) : 1;
}

/* Unpacks the batch of groups that begins at word `first` of n_words, a row a lane. */
INLINE void unpack_batch(wide *of, size_t first, size_t n_words, limb_form form) {
    int words = group_words(form), planes = code_planes(form.bits), run_words = runs_of(form).run_words;
    for (int w = 0; w < words || w < LANES; w += LANES) {
        size_t left = n_words - first - (size_t)w, offset = (first + (size_t)w) / LANES * (size_t)code_bytes(form);
        for (int v = 0; v < WIDE_VECTORS; v++) {
            vector_word some[LANES];
            UNROLL
            for (int r = 0; r < LANES; r++)
                some[r] = load_codes(of->codes[v * LANES + r] + offset, form.bits, left < LANES ? (int)left : LANES);
            turn_words(some);
            UNROLL
            for (int i = 0; i < LANES; i++) {
                int run = (w + i) / run_words * planes;
                UNROLL
                for (int plane = 0; plane < planes; plane++)
                    of->words[((run + plane) * run_words + (w + i) % run_words) * WIDE_VECTORS + v] =
                        plane_codes(some[i], plane, form);
            }
        }
    }
}

/* The scales and biases of the block's groups, a row a lane. */
INLINE void unpack_scales(wide *of, size_t first, size_t n_groups, limb_form form) {
    for (int v = 0; v < WIDE_VECTORS; v++) {
        vector_word scales[LANES], biases[LANES];
        UNROLL
        for (int r = 0; r < LANES; r++) {
            vector scale, bias;
            load_groups(&scale, &bias, &of->groups[v * LANES + r], first, n_groups, of->matrix, form);
            scales[r] = (vector_word)scale;
            biases[r] = (vector_word)bias;
        }
        turn_words(scales);
        turn_words(biases);
        UNROLL
        for (int lane = 0; lane < LANES; lane++) {
            of->scales[lane][v] = (vector)scales[lane];
            of->biases[lane][v] = (vector)biases[lane];
        }
    }
}

/* Fetches what the next rows have where the batch that begins at word `first` has its codes, where a line of them
 * begins. Into the second cache: rows a power of two apart share few lines of the first. */
INLINE void fetch_codes(const wide *of, size_t first, size_t row_bytes, limb_form form) {
    size_t bytes = batch_groups(form) * (size_t)form.group_size / 8 * (size_t)form.bits;
    size_t begin = first / LANES * (size_t)code_bytes(form);
    if (begin % 64 >= bytes) return;
    for (int r = 0; r < WIDE_ROWS; r++) __builtin_prefetch(of->codes[r] + WIDE_ROWS * row_bytes + begin, 0, 2);
}

/* The same for the scales and biases of a block that begins at group `first`. */
INLINE void fetch_scales(const wide *of, size_t first, size_t n_groups, limb_form form) {
    size_t size = form.kind == ZM_MATRIX_MXFP4 ? 1 : zm_storage_size(of->matrix->storage);
    size_t place = (WIDE_ROWS * n_groups + first) * size;
    for (int r = 0; r < WIDE_ROWS; r++) {
        __builtin_prefetch(of->groups[r].scales + place, 0, 2);
        if (form.kind == ZM_MATRIX_AFFINE) __builtin_prefetch(of->groups[r].biases + place, 0, 2);
    }
}

INLINE void sum_wide(wide *of, bool first_slice, limb_form form) {
    size_t n_groups = of->matrix->in_features / (size_t)form.group_size, row_bytes = zm_matrix_row_bytes(of->matrix);
    size_t words = (size_t)group_words(form), bytes = (size_t)limb_bytes(form), batch = batch_groups(form);
    if (n_groups < LANES)
        memset(of->sums[n_groups * of->n_tokens], 0, (LANES - n_groups) * of->n_tokens * sizeof of->sums[0]);
    for (size_t first = 0; first < n_groups; first += LANES) {
        unpack_scales(of, first, n_groups, form);
        if (first_slice) fetch_scales(of, first, n_groups, form);
        for (size_t lane = 0; lane < LANES && first + lane < n_groups; lane++) {
            size_t number = first + lane, word = number * words;
            if (number % batch == 0) {
                unpack_batch(of, word, n_groups * words, form);
                if (first_slice) fetch_codes(of, word, row_bytes, form);
            }
            wide_group group = {.words = of->words +
                                         number % batch * words * (size_t)code_planes(form.bits) * WIDE_VECTORS,
                                .sums = of->sums + lane * of->n_tokens,
                                .number = number,
                                .lane = lane,
                                .x = word / LANES * bytes + word % LANES * 4};
            add_whole_group(of, group, form);
        }
    }
}

/* Adds the lanes up as sum_lanes does. */
INLINE vector sum_wide_lanes(wide *of, size_t t, int v) {
    vector sums[LANES / 2];
    size_t n = of->n_tokens;
    UNROLL
    for (size_t i = 0; i < LANES / 2; i++) sums[i] = of->sums[i * n + t][v] + of->sums[(i + LANES / 2) * n + t][v];
    UNROLL
    for (int half = LANES / 4; half; half /= 2) {
        UNROLL
        for (int i = 0; i < LANES / 4; i++)
            if (i < half) sums[i] += sums[i + half];
    }
    return sums[0];
}

/* Writes the results of the rows that exist. */
static void store_wide(const zm_product *product, wide *of, size_t token, size_t row, size_t row_begin, size_t n_rows) {
    const zm_matrix *matrix = product->matrix;
    float biases[WIDE_ROWS];
    for (size_t r = 0; matrix->bias && r < n_rows; r++)
        biases[r] = row_bias(matrix, product->expert * matrix->out_features + row + r);
    for (size_t t = 0; t < of->n_tokens; t++) {
        float results[WIDE_ROWS], *y = product->y + (token + t) * product->y_stride + row - row_begin;
        UNROLL
        for (int v = 0; v < WIDE_VECTORS; v++) store_vector(results + v * LANES, sum_wide_lanes(of, t, v));
        for (size_t r = 0; matrix->bias && r < n_rows; r++) results[r] += biases[r];
        memcpy(y, results, n_rows * sizeof *y);
    }
}

INLINE void place_wide_rows(wide *of, const zm_product *product, size_t row, size_t n_rows) {
    const zm_matrix *matrix = product->matrix;
    size_t row_bytes = zm_matrix_row_bytes(matrix), scale_bytes = zm_matrix_scale_row_bytes(matrix);
    for (size_t r = 0; r < WIDE_ROWS; r++) {
        size_t place = product->expert * matrix->out_features + row + (r < n_rows ? r : n_rows - 1);
        of->codes[r] = matrix->weight + place * row_bytes;
        of->groups[r] = (group_row){.scales = matrix->scales + place * scale_bytes};
        if (matrix->biases) of->groups[r].biases = matrix->biases + place * scale_bytes;
    }
}

INLINE void multiply_many(const zm_product *product, size_t row_begin, size_t row_end, limb_form form) {
    const zm_matrix *matrix = product->matrix;
    zm_order order;
    wide of;
    order_limbs(&order, matrix, form.limbs);
    of.matrix = matrix;
    of.n_values = order.n_values * sizeof(float);
    of.padded_groups = order.n_group_values / 2;
    for (size_t row = row_begin; row < row_end; row += WIDE_ROWS) {
        size_t n_rows = row_end - row < WIDE_ROWS ? row_end - row : WIDE_ROWS;
        place_wide_rows(&of, product, row, n_rows);
        for (size_t token = 0; token < product->n_tokens; token += WIDE_SLICE) {
            of.n_tokens = product->n_tokens - token < WIDE_SLICE ? product->n_tokens - token : WIDE_SLICE;
            for (size_t t = 0; t < of.n_tokens; t++) {
                size_t place = product->tokens ? product->tokens[token + t] : token + t;
                of.x[t] = (const unsigned char *)(product->prepared + place * product->prepared_stride);
            }
            sum_wide(&of, !token, form);
            store_wide(product, &of, token, row, row_begin, n_rows);
        }
    }
}
