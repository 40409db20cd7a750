/* SPDX-License-Identifier: MIT */
/* The products; part of kernels.h.
 *
 * A row's product is kept as one vector of partial sums. A vector of words adds scale * (sum of code * x), its
 * codes taken in a fixed order, and the biases add bias * (sum of the group's x). Several rows and tokens
 * are computed together only to share loads: the operations of one row and token are always the same. */

enum { TOKENS = 4 };

/* Up to ZM_ROW_BLOCK rows and TOKENS tokens. Missing ones repeat the last. */
typedef struct block {
    const zm_matrix *matrix;
    const unsigned char *codes[ZM_ROW_BLOCK];
    group_row groups[ZM_ROW_BLOCK];
    const float *x[TOKENS], *group_sums[TOKENS];
} block;

/* What a kernel is made for: always constants. */
typedef struct tile {
    zm_matrix_kind kind;
    zm_storage storage; /* of a dense matrix */
    int bits, group_size;
    int n_rows, n_tokens;
} tile;

/* Reads the scales of LANES groups and adds the share of their biases to the sums. */
INLINE void start_groups(vector *scales, vector (*sums)[TOKENS], const block *rows, size_t first, size_t n_groups,
                         tile of) {
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        const group_row *row = &rows->groups[r];
        if (of.kind == ZM_MATRIX_MXFP4) {
            scales[r] = load_scales(row->scales, first, n_groups, of.kind, rows->matrix->storage);
            continue;
        }
        vector bias;
        fetch_groups(row, first, of.kind);
        load_affine(&scales[r], &bias, row, first, n_groups, rows->matrix, of.bits);
        UNROLL
        for (int t = 0; t < of.n_tokens; t++)
            sums[r][t] = multiply_add(bias, load_vector(rows->group_sums[t] + first), sums[r][t]);
    }
}

INLINE vector_word lane_numbers(void) {
    uint32_t lanes[LANES];
    for (uint32_t lane = 0; lane < LANES; lane++) lanes[lane] = lane;
    vector_word result;
    memcpy(&result, lanes, sizeof result);
    return result;
}

/* The first code of each lane as a mask. */
INLINE vector_word code_mask(packing pack, int bits) {
    uint32_t lanes[LANES];
    for (int lane = 0; lane < LANES; lane++) lanes[lane] = ((1u << bits) - 1) << first_place(pack, lane);
    vector_word result;
    memcpy(&result, lanes, sizeof result);
    return result;
}

/* One code a lane, times 2^place; the code itself where it is looked up or that would take the sign bit. */
INLINE vector affine_codes(vector_word words, vector_word mask, int bits, packing pack, int code) {
    if (is_looked_up(bits, code)) return look_up_codes(words >> (bits * code), bits);
    if (pack.word_bits == 32 && code == pack.n_codes - 1) return codes_to_float(words >> (32 - bits));
    return codes_to_float(words & (mask << (bits * code)));
}

/* Adds the sums of scale * code * x of a vector of words, of which n_bytes are in the row. word: its first; groups:
 * whose scale each lane takes. */
INLINE void add_words(vector (*sums)[TOKENS], const vector *scales, const block *rows, size_t word, size_t n_bytes,
                      vector_word mask, vector_word groups, tile of) {
    packing pack = packing_of(of.bits);
    vector_word words[ZM_ROW_BLOCK];
    vector dots[ZM_ROW_BLOCK][TOKENS];
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        const unsigned char *source = rows->codes[r] + word * (size_t)pack.word_bits / 8;
        words[r] = n_bytes >= (size_t)pack.n_bytes ? load_words(source, pack.word_bits)
                                                   : load_some_words(source, pack.word_bits, n_bytes);
        __builtin_prefetch(source + AHEAD);
    }
    UNROLL
    for (int code = 0; code < pack.n_codes; code++) {
        size_t place = word * (size_t)pack.n_codes + (size_t)(code * LANES);
        vector values[ZM_ROW_BLOCK];
        UNROLL
        for (int r = 0; r < of.n_rows; r++)
            values[r] = of.kind == ZM_MATRIX_MXFP4 ? mxfp4_values(words[r] >> (of.bits * code))
                                                   : affine_codes(words[r], mask, of.bits, pack, code);
        UNROLL
        for (int t = 0; t < of.n_tokens; t++) {
            vector x = load_vector(rows->x[t] + place);
            UNROLL
            for (int r = 0; r < of.n_rows; r++)
                dots[r][t] = code ? multiply_add(values[r], x, dots[r][t]) : values[r] * x;
        }
    }
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        vector scale = pick_lanes(scales[r], groups);
        UNROLL
        for (int t = 0; t < of.n_tokens; t++) sums[r][t] = multiply_add(scale, dots[r][t], sums[r][t]);
    }
}

INLINE void quantized_block(vector (*sums)[TOKENS], const block *rows, tile of) {
    packing pack = packing_of(of.bits);
    vector_word mask = code_mask(pack, of.bits), lanes = lane_numbers();
    int group_words = of.group_size / pack.n_codes;
    size_t n_groups = rows->matrix->in_features / (size_t)of.group_size;
    vector scales[ZM_ROW_BLOCK];
    for (size_t first = 0; first < n_groups; first += LANES) {
        start_groups(scales, sums, rows, first, n_groups, of);
        size_t word = first * (size_t)group_words, last = first + LANES < n_groups ? first + LANES : n_groups;
        size_t end = last * (size_t)group_words;
        vector_word place = lanes; /* of each lane's word in these groups */
        for (; word + LANES <= end; word += LANES, place += LANES)
            add_words(sums, scales, rows, word, (size_t)pack.n_bytes, mask, place / (uint32_t)group_words, of);
        if (word < end)
            add_words(sums, scales, rows, word, (end - word) * (size_t)pack.word_bits / 8, mask,
                      place / (uint32_t)group_words, of);
    }
}

INLINE void dense_block(vector (*sums)[TOKENS], const block *rows, tile of) {
    size_t size = zm_storage_size(of.storage);
    for (size_t i = 0; i < rows->matrix->in_features; i += LANES) {
        UNROLL
        for (int r = 0; r < of.n_rows; r++) {
            vector values = load_stored(rows->codes[r] + i * size, of.storage, LANES);
            UNROLL
            for (int t = 0; t < of.n_tokens; t++)
                sums[r][t] = multiply_add(values, load_vector(rows->x[t] + i), sums[r][t]);
        }
    }
}

/* The bias of a row of the whole stack. */
static float row_bias(const zm_matrix *matrix, size_t row) {
    const unsigned char *bias = matrix->bias + row * zm_storage_size(matrix->bias_storage);
    if (matrix->bias_storage == ZM_STORAGE_FLOAT32) {
        float value;
        memcpy(&value, bias, sizeof value);
        return value;
    }
    uint16_t half;
    memcpy(&half, bias, sizeof half);
    if (matrix->bias_storage == ZM_STORAGE_FLOAT16) return zm_float16_to_float(half);
    return zm_bfloat16_to_float(half);
}

/* The rows of a tile, of which n_rows exist, starting at `row`; y: their place in the result. */
INLINE void multiply_tile(float *y, const zm_product *product, const block *rows, size_t row, size_t n_rows,
                          size_t n_tokens, tile of) {
    const zm_matrix *matrix = product->matrix;
    vector sums[ZM_ROW_BLOCK][TOKENS] = {0};
    if (of.kind == ZM_MATRIX_DENSE) dense_block(sums, rows, of);
    else quantized_block(sums, rows, of);
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        size_t place = product->expert * matrix->out_features + row + (size_t)r;
        float bias = matrix->bias && (size_t)r < n_rows ? row_bias(matrix, place) : 0;
        UNROLL
        for (int t = 0; t < of.n_tokens; t++) {
            float sum = sum_lanes(sums[r][t]);
            if ((size_t)r >= n_rows || (size_t)t >= n_tokens) continue;
            y[(size_t)t * product->y_stride + (size_t)r] = matrix->bias ? sum + bias : sum;
        }
    }
}

/* Sets the places of rows [row, row + ZM_ROW_BLOCK) of the matrix's expert, those from n_rows on repeating the last. */
INLINE void place_rows(block *rows, const zm_product *product, size_t row, size_t n_rows, int count, tile of) {
    const zm_matrix *matrix = product->matrix;
    size_t row_bytes = zm_matrix_row_bytes(matrix), scale_bytes = 0; /* computed here: no division by a constant */
    if (of.bits) {
        row_bytes = matrix->in_features / 8 * (size_t)of.bits;
        scale_bytes = matrix->in_features / (size_t)of.group_size;
        if (of.kind == ZM_MATRIX_AFFINE) scale_bytes *= zm_storage_size(matrix->storage);
    }
    UNROLL
    for (int r = 0; r < count; r++) {
        size_t place = product->expert * matrix->out_features + row + ((size_t)r < n_rows ? (size_t)r : n_rows - 1);
        rows->codes[r] = matrix->weight + place * row_bytes;
        if (of.kind != ZM_MATRIX_DENSE) rows->groups[r].scales = matrix->scales + place * scale_bytes;
        if (of.kind == ZM_MATRIX_AFFINE) rows->groups[r].biases = matrix->biases + place * scale_bytes;
        if (matrix->edges) rows->groups[r].edges = matrix->edges + place * 2 * zm_matrix_groups(matrix);
    }
}

/* Sets the activations of the tokens from `token` on, of which n_tokens exist. */
INLINE void place_tokens(block *rows, const zm_product *product, size_t token, size_t n_tokens, tile of) {
    size_t n_values = of.bits ? value_count(product->matrix->in_features, packing_of(of.bits)) : 0;
    UNROLL
    for (int t = 0; t < of.n_tokens; t++) {
        size_t place = token + ((size_t)t < n_tokens ? (size_t)t : n_tokens - 1);
        if (product->tokens) place = product->tokens[place];
        rows->x[t] = product->prepared + place * product->prepared_stride;
        rows->group_sums[t] = rows->x[t] + n_values;
    }
}

INLINE void one_token_rows(const zm_product *product, size_t row_begin, size_t row_end, tile of) {
    block rows = {.matrix = product->matrix};
    of.n_rows = ONE_TOKEN_ROWS, of.n_tokens = 1;
    place_tokens(&rows, product, 0, 1, of);
    for (size_t row = row_begin; row < row_end; row += ONE_TOKEN_ROWS) {
        place_rows(&rows, product, row, row_end - row, ONE_TOKEN_ROWS, of);
        multiply_tile(product->y + row - row_begin, product, &rows, row, row_end - row, 1, of);
    }
}

INLINE void multiply_rows(const zm_product *product, size_t row_begin, size_t row_end, tile of) {
    block rows = {.matrix = product->matrix};
    of.n_rows = TOKEN_ROWS, of.n_tokens = TOKENS;
    for (size_t token = 0; token < product->n_tokens; token += TOKENS) {
        size_t left = product->n_tokens - token;
        float *y = product->y + token * product->y_stride;
        place_tokens(&rows, product, token, left, of);
        for (size_t row = row_begin; row < row_end; row += TOKEN_ROWS) {
            place_rows(&rows, product, row, row_end - row, TOKEN_ROWS, of);
            multiply_tile(y + row - row_begin, product, &rows, row, row_end - row, left, of);
        }
    }
}

/* Two functions a format: for one token and for several. */
#define ROWS(name, ...)                                                                         \
    static void name##_one(const zm_product *product, size_t row_begin, size_t row_end) {       \
        one_token_rows(product, row_begin, row_end, (tile){__VA_ARGS__});                       \
    }                                                                                           \
    static void name##_some(const zm_product *product, size_t row_begin, size_t row_end) {      \
        multiply_rows(product, row_begin, row_end, (tile){__VA_ARGS__});                        \
    }
#define AFFINE_ROWS(n_bits)                                                                     \
    ROWS(affine_##n_bits##_32, .kind = ZM_MATRIX_AFFINE, .bits = n_bits, .group_size = 32)      \
    ROWS(affine_##n_bits##_64, .kind = ZM_MATRIX_AFFINE, .bits = n_bits, .group_size = 64)      \
    ROWS(affine_##n_bits##_128, .kind = ZM_MATRIX_AFFINE, .bits = n_bits, .group_size = 128)

ROWS(dense_float32, .kind = ZM_MATRIX_DENSE, .storage = ZM_STORAGE_FLOAT32)
ROWS(dense_float16, .kind = ZM_MATRIX_DENSE, .storage = ZM_STORAGE_FLOAT16)
ROWS(dense_bfloat16, .kind = ZM_MATRIX_DENSE, .storage = ZM_STORAGE_BFLOAT16)
ROWS(mxfp4, .kind = ZM_MATRIX_MXFP4, .bits = 4, .group_size = 32)
AFFINE_ROWS(2)
AFFINE_ROWS(3)
AFFINE_ROWS(4)
AFFINE_ROWS(5)
AFFINE_ROWS(6)
AFFINE_ROWS(8)

typedef struct rows_functions {
    void (*one)(const zm_product *product, size_t row_begin, size_t row_end);
    void (*some)(const zm_product *product, size_t row_begin, size_t row_end);
} rows_functions;

#define FUNCTIONS(name) {name##_one, name##_some}
#define AFFINE_ROW(n_bits) \
    [n_bits] = {FUNCTIONS(affine_##n_bits##_32), FUNCTIONS(affine_##n_bits##_64), FUNCTIONS(affine_##n_bits##_128)}
static const rows_functions affine_functions[9][3] = {AFFINE_ROW(2), AFFINE_ROW(3), AFFINE_ROW(4),
                                                      AFFINE_ROW(5), AFFINE_ROW(6), AFFINE_ROW(8)};
static const rows_functions mxfp4_functions = FUNCTIONS(mxfp4);
static const rows_functions dense_functions[] = {[ZM_STORAGE_FLOAT32] = FUNCTIONS(dense_float32),
                                                 [ZM_STORAGE_FLOAT16] = FUNCTIONS(dense_float16),
                                                 [ZM_STORAGE_BFLOAT16] = FUNCTIONS(dense_bfloat16)};

INLINE void multiply_floats(const zm_product *product, size_t row_begin, size_t row_end) {
    const zm_matrix *matrix = product->matrix;
    const rows_functions *functions = &mxfp4_functions;
    if (matrix->kind == ZM_MATRIX_DENSE) functions = &dense_functions[matrix->storage];
    if (matrix->kind == ZM_MATRIX_AFFINE) functions = &affine_functions[matrix->bits][matrix->group_size / 64];
    (product->n_tokens == 1 ? functions->one : functions->some)(product, row_begin, row_end);
}
