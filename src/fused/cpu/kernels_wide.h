/* SPDX-License-Identifier: MIT */
/* Products of many tokens in integers, a row a lane; part of kernels_limbs.h. A group's codes are unpacked once for
 * WIDE_ROWS rows and a slice of the tokens. */

/* Rows and tokens of one step. */
typedef struct wide {
    const zm_matrix *matrix;
    const unsigned char *codes[WIDE_ROWS], *scale_rows[WIDE_ROWS], *bias_rows[WIDE_ROWS];
    const unsigned char *x[WIDE_SLICE]; /* prepared */
    size_t n_tokens, n_values, padded_groups;
    /* Of LANES groups: the first index counts them. */
    vector scales[LANES][WIDE_VECTORS], biases[LANES][WIDE_VECTORS];
    vector_word words[2 * MAX_GROUP_WORDS * WIDE_VECTORS]; /* of a group, run by run */
    vector sums[WIDE_SLICE][LANES][WIDE_VECTORS];
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

/* Adds one group to the sums of n_tokens tokens; x: the place of its limbs in a prepared token; group: its place there,
 * lane: in the block. */
INLINE void add_group(wide *of, size_t token, size_t x, size_t group, size_t lane, limb_runs runs, int n_tokens,
                      int limbs, bool eight) {
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
        const vector_word *words = of->words;
        for (int run = 0; run < runs.n_runs; run++) {
            size_t place = x + (size_t)limb * VECTOR_BYTES + (size_t)run * runs.stride;
            for (int w = 0; w < runs.run_words; w += DOT_WORDS, words += DOT_WORDS * WIDE_VECTORS, place += 4 * DOT_WORDS)
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
        const float *scale = (const float *)(const void *)(tokens[t] + of->n_values) + group;
        UNROLL
        for (int v = 0; v < WIDE_VECTORS; v++) {
            vector *sum = &of->sums[token + (size_t)t][lane][v], value = join_limbs(high[t][v], dots[t][v], limbs);
            vector before = group < LANES ? (vector){0} : *sum;
            vector biased = multiply_add(of->biases[lane][v], splat(scale[of->padded_groups]), before);
            *sum = multiply_add(value, of->scales[lane][v] * splat(*scale), biased);
        }
    }
}

INLINE void add_group_tokens(wide *of, size_t x, size_t group, size_t lane, limb_runs runs, int limbs,
                             bool eight) {
    size_t token = 0;
    for (; token + WIDE_TOKENS <= of->n_tokens; token += WIDE_TOKENS)
        add_group(of, token, x, group, lane, runs, WIDE_TOKENS, limbs, eight);
    if (WIDE_TOKENS > 4 && of->n_tokens - token >= 4)
        add_group(of, token, x, group, lane, runs, 4, limbs, eight), token += 4;
    if (of->n_tokens - token >= 2) add_group(of, token, x, group, lane, runs, 2, limbs, eight), token += 2;
    if (of->n_tokens - token >= 1) add_group(of, token, x, group, lane, runs, 1, limbs, eight);
}

static void add_group_one_limb(wide *of, size_t x, size_t group, size_t lane, limb_runs runs) {
    add_group_tokens(of, x, group, lane, runs, 1, false);
}

static void add_group_of_eight(wide *of, size_t x, size_t group, size_t lane, limb_runs runs) {
    add_group_tokens(of, x, group, lane, runs, 1, true);
}

static void add_group_three_limbs(wide *of, size_t x, size_t group, size_t lane, limb_runs runs) {
    add_group_tokens(of, x, group, lane, runs, 3, false);
}

/* Turns the words at `offset` of the rows so that a row is a lane. */
INLINE void turn_group(wide *of, const unsigned char *const *rows, size_t offset, limb_form form) {
    int words = group_words(form), planes = code_planes(form.bits), run_words = runs_of(form).run_words;
    UNROLL
    for (int v = 0; v < WIDE_VECTORS; v++) {
        for (int w = 0; w < words; w += 4) {
            vector_word some[4], *turned = of->words + (w / run_words * planes * run_words + w % run_words) * WIDE_VECTORS;
            transpose_words(some, rows + v * LANES, offset + 4 * (size_t)w);
            UNROLL
            for (int i = 0; i < 4; i++) {
                UNROLL
                for (int plane = 0; plane < planes; plane++)
                    turned[(plane * run_words + i) * WIDE_VECTORS + v] = plane_codes(some[i], plane, form);
            }
        }
    }
}

/* Codes of 4 and 8 bits are words as they are stored, others are unpacked first. */
INLINE void unpack_group(wide *of, size_t group, limb_form form) {
    int words = group_words(form);
    size_t bytes = (size_t)form.group_size / 8 * (size_t)form.bits, offset = group * bytes;
    if (form.bits == 4 || form.bits == 8) {
        turn_group(of, of->codes, offset, form);
        return;
    }
    unsigned char unpacked[WIDE_ROWS][4 * MAX_GROUP_WORDS];
    const unsigned char *rows[WIDE_ROWS];
    for (int r = 0; r < WIDE_ROWS; r++) {
        for (int w = 0; w < words; w += LANES) {
            const unsigned char *source = of->codes[r] + offset + w / LANES * code_bytes(form);
            vector_word codes = load_codes(source, form.bits, words - w);
            memcpy(unpacked[r] + 4 * w, &codes, sizeof codes);
        }
        rows[r] = unpacked[r];
    }
    turn_group(of, rows, 0, form);
}

/* The scales and biases of the block's groups, a row a lane. */
INLINE void unpack_scales(wide *of, size_t first, size_t n_groups, limb_form form) {
    float scales[WIDE_ROWS][LANES], biases[WIDE_ROWS][LANES];
    const unsigned char *scale_rows[WIDE_ROWS], *bias_rows[WIDE_ROWS];
    for (int r = 0; r < WIDE_ROWS; r++) {
        vector scale, bias;
        load_groups(&scale, &bias, of->scale_rows[r], of->bias_rows[r], first, n_groups, of->matrix, form);
        store_vector(scales[r], scale);
        store_vector(biases[r], bias);
        scale_rows[r] = (const unsigned char *)scales[r];
        bias_rows[r] = (const unsigned char *)biases[r];
    }
    for (int v = 0; v < WIDE_VECTORS; v++) {
        for (int lane = 0; lane < LANES; lane += 4) {
            vector_word some[4];
            transpose_words(some, scale_rows + v * LANES, 4 * (size_t)lane);
            UNROLL
            for (int i = 0; i < 4; i++) of->scales[lane + i][v] = (vector)some[i];
            transpose_words(some, bias_rows + v * LANES, 4 * (size_t)lane);
            UNROLL
            for (int i = 0; i < 4; i++) of->biases[lane + i][v] = (vector)some[i];
        }
    }
}

/* Fetches what the next rows have at this group, where a line of it begins. */
INLINE void fetch_ahead(const wide *of, size_t group, size_t row_bytes, limb_form form) {
    size_t bytes = (size_t)form.group_size / 8 * (size_t)form.bits, begin = group * bytes;
    if (begin % 64 >= bytes) return;
    for (int r = 0; r < WIDE_ROWS; r++) __builtin_prefetch(of->codes[r] + WIDE_ROWS * row_bytes + begin);
}

INLINE void sum_wide(wide *of, bool first_slice, limb_form form) {
    size_t n_groups = of->matrix->in_features / (size_t)form.group_size, row_bytes = zm_matrix_row_bytes(of->matrix);
    size_t words = (size_t)group_words(form), bytes = (size_t)limb_bytes(form);
    for (size_t t = 0; t < of->n_tokens && n_groups < LANES; t++) memset(of->sums[t], 0, sizeof of->sums[t]);
    for (size_t first = 0; first < n_groups; first += LANES) {
        unpack_scales(of, first, n_groups, form);
        for (size_t lane = 0; lane < LANES && first + lane < n_groups; lane++) {
            size_t group = first + lane, word = group * words;
            size_t x = word / LANES * bytes + word % LANES * 4;
            unpack_group(of, group, form);
            if (first_slice) fetch_ahead(of, group, row_bytes, form);
            if (EIGHT_DIFFERS && form.bits == 8) add_group_of_eight(of, x, group, lane, runs_of(form));
            else if (form.limbs == 1) add_group_one_limb(of, x, group, lane, runs_of(form));
            else add_group_three_limbs(of, x, group, lane, runs_of(form));
        }
    }
}

/* Adds the lanes up as sum_lanes does. */
INLINE vector sum_wide_lanes(vector (*lanes)[WIDE_VECTORS], int v) {
    vector sums[LANES / 2];
    UNROLL
    for (int i = 0; i < LANES / 2; i++) sums[i] = lanes[i][v] + lanes[i + LANES / 2][v];
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
        for (int v = 0; v < WIDE_VECTORS; v++) store_vector(results + v * LANES, sum_wide_lanes(of->sums[t], v));
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
        of->scale_rows[r] = matrix->scales + place * scale_bytes;
        of->bias_rows[r] = matrix->biases ? matrix->biases + place * scale_bytes : NULL;
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
