/* SPDX-License-Identifier: MIT */
/* The products; part of kernels.h.
 *
 * A row's product is kept as one vector of partial sums. A group adds scale * (sum of code * x), its codes
 * taken in a fixed order, and the biases add bias * (sum of the group's x). Several rows and tokens
 * are computed together only to share loads: the operations of one row and token are always the same. */

enum {
    TOKENS = 4,
    CHUNK = 64, /* groups whose scales are widened at a time */
    AHEAD = 4096, SCALES_AHEAD = 512 /* bytes fetched early: rows are short for the processor's own streams */
};

/* Up to ZM_ROW_BLOCK rows and TOKENS tokens. Missing ones repeat the last. */
typedef struct block {
    const zm_matrix *matrix;
    const unsigned char *codes[ZM_ROW_BLOCK], *scales[ZM_ROW_BLOCK], *biases[ZM_ROW_BLOCK];
    const float *x[TOKENS];
} block;

/* What a kernel is made for: always constants. Rows [first_row, first_row + n_rows) of a block. */
typedef struct tile {
    zm_matrix_kind kind;
    zm_storage storage; /* of a dense matrix */
    int bits, group_size;
    int first_row, n_rows, n_tokens;
} tile;

/* Scales of the mxfp4 kind; 2^-127 is subnormal. */
INLINE void widen_exponents(float *result, const unsigned char *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        result[i] = zm_float_from_bits(values[i] ? (uint32_t)values[i] << 23 : 0x00400000u);
}

INLINE void widen_scales(float *result, const zm_matrix *matrix, const unsigned char *row, size_t first,
                         size_t count) {
    const unsigned char *values = row + first * zm_storage_size(matrix->storage);
    if (matrix->storage == ZM_STORAGE_FLOAT32) widen_padded(result, values, ZM_STORAGE_FLOAT32, count);
    else if (matrix->storage == ZM_STORAGE_FLOAT16) widen_padded(result, values, ZM_STORAGE_FLOAT16, count);
    else widen_padded(result, values, ZM_STORAGE_BFLOAT16, count);
}

/* Reads the scales of a chunk of groups and adds the share of their biases to the sums. */
INLINE void start_chunk(float (*scales)[CHUNK], vector (*sums)[TOKENS], const block *rows, size_t first,
                        size_t count, tile of) {
    const zm_matrix *matrix = rows->matrix;
    _Alignas(64) float biases[ZM_ROW_BLOCK][CHUNK];
    for (int r = 0; r < of.n_rows; r++) {
        const unsigned char *row = rows->scales[of.first_row + r];
        if (of.kind == ZM_MATRIX_MXFP4) {
            widen_exponents(scales[r], row + first, count);
            continue;
        }
        __builtin_prefetch(row + SCALES_AHEAD);
        __builtin_prefetch(rows->biases[of.first_row + r] + SCALES_AHEAD);
        widen_scales(scales[r], matrix, row, first, count);
        widen_scales(biases[r], matrix, rows->biases[of.first_row + r], first, count);
    }
    if (of.kind == ZM_MATRIX_MXFP4) return;
    for (size_t g = 0; g < count; g += LANES) {
        UNROLL
        for (int r = 0; r < of.n_rows; r++) {
            vector bias = load_vector(biases[r] + g);
            UNROLL
            for (int t = 0; t < of.n_tokens; t++) {
                const float *group_sums = rows->x[t] + matrix->in_features + first;
                sums[r][t] = multiply_add(bias, load_vector(group_sums + g), sums[r][t]);
            }
        }
    }
}

/* One code a lane, times 2^place_of. mask: the lowest code of each lane's copy. */
INLINE vector affine_codes(vector_word words, vector_word mask, int bits, packing pack, int step) {
    if (UNSIGNED_CODES || step < pack.n_steps - 1) return codes_to_float(words & (mask << (bits * step)));
    if (pack.n_copies == 1) return codes_to_float(words >> (32 - bits));
    return codes_to_float((words >> 1) & ((mask << (bits * step)) >> 1));
}

/* The constant of each lane's copy: affine, its lowest code as a mask; mxfp4, that code's place. */
INLINE vector_word lane_constant(tile of) {
    packing pack = packing_of(of.bits, of.group_size);
    uint32_t lanes[LANES];
    for (int lane = 0; lane < LANES; lane++) {
        int copy = pack.n_copies > 1 ? lane / pack.n_words : 0;
        int place = of.bits * pack.n_steps * copy;
        lanes[lane] = of.kind == ZM_MATRIX_MXFP4 ? (uint32_t)place : ((1u << of.bits) - 1) << place;
    }
    vector_word result;
    memcpy(&result, lanes, sizeof result);
    return result;
}

/* Adds a group's sums of code * x to dots. */
INLINE void packed_group(vector (*dots)[TOKENS], const block *rows, size_t group, vector_word constant,
                         tile of) {
    packing pack = packing_of(of.bits, of.group_size);
    size_t byte = group * (size_t)(of.group_size * of.bits / 8), value = group * (size_t)of.group_size;
    UNROLL
    for (int v = 0; v < pack.n_vectors; v++) {
        vector_word words[ZM_ROW_BLOCK];
        UNROLL
        for (int r = 0; r < of.n_rows; r++) {
            const unsigned char *source = rows->codes[of.first_row + r] + byte + (size_t)v * sizeof(vector);
            words[r] = load_words(source, pack.n_words);
            __builtin_prefetch(source + AHEAD);
            if (of.kind == ZM_MATRIX_MXFP4 && pack.n_copies > 1) words[r] = words[r] >> constant;
        }
        UNROLL
        for (int step = 0; step < pack.n_steps; step++) {
            size_t place = value + (size_t)((v * pack.n_steps + step) * LANES);
            UNROLL
            for (int r = 0; r < of.n_rows; r++) {
                vector codes = of.kind == ZM_MATRIX_MXFP4
                                   ? mxfp4_values(words[r] >> (of.bits * step))
                                   : affine_codes(words[r], constant, of.bits, pack, step);
                UNROLL
                for (int t = 0; t < of.n_tokens; t++)
                    dots[r][t] = multiply_add(codes, load_vector(rows->x[t] + place), dots[r][t]);
            }
        }
    }
}

/* Eight codes of 3, 5 or 6 bits, one a byte of the result. */
INLINE uint64_t spread_codes(const unsigned char *pack, int bits) {
    uint16_t half;
    uint32_t word = 0;
    uint64_t codes = 0;
    if (bits == 3) {
        memcpy(&half, pack, 2);
        codes = half | (uint32_t)pack[2] << 16;
    } else {
        memcpy(&word, pack, 4);
        if (bits == 6) memcpy(&half, pack + 4, 2);
        else half = pack[4];
        codes = word | (uint64_t)half << 32;
    }
    uint64_t one = (1u << bits) - 1, two = (1u << 2 * bits) - 1, four = (1u << 4 * bits) - 1;
    codes = (codes & four) | (codes & ~four) << (32 - 4 * bits);
    two *= 0x0000000100000001u;
    codes = (codes & two) | (codes & ~two) << (16 - 2 * bits);
    one *= 0x0001000100010001u;
    return (codes & one) | (codes & ~one) << (8 - bits);
}

/* The same for codes that straddle words. */
INLINE void stream_group(vector (*dots)[TOKENS], const block *rows, size_t group, tile of) {
    size_t byte = group * (size_t)(of.group_size * of.bits / 8), value = group * (size_t)of.group_size;
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        uint64_t codes[ZM_MATRIX_MAX_GROUP / 8];
        const unsigned char *row = rows->codes[of.first_row + r] + byte;
        for (int i = 0; i < of.group_size / 8; i++) codes[i] = spread_codes(row + i * of.bits, of.bits);
        for (int i = 0; i < of.group_size; i += LANES) {
            vector floats = codes_to_float(load_bytes((const unsigned char *)codes + i));
            UNROLL
            for (int t = 0; t < of.n_tokens; t++)
                dots[r][t] = multiply_add(floats, load_vector(rows->x[t] + value + i), dots[r][t]);
        }
    }
}

INLINE void quantized_block(vector (*sums)[TOKENS], const block *rows, tile of) {
    bool packed = of.bits == 2 || of.bits == 4 || of.bits == 8;
    vector_word constant = packed ? lane_constant(of) : (vector_word){0};
    size_t n_groups = rows->matrix->in_features / (size_t)of.group_size;
    _Alignas(64) float scales[ZM_ROW_BLOCK][CHUNK];
    for (size_t first = 0; first < n_groups; first += CHUNK) {
        size_t count = n_groups - first < CHUNK ? n_groups - first : CHUNK;
        start_chunk(scales, sums, rows, first, count, of);
        for (size_t g = 0; g < count; g++) {
            vector dots[ZM_ROW_BLOCK][TOKENS] = {0};
            if (packed) packed_group(dots, rows, first + g, constant, of);
            else stream_group(dots, rows, first + g, of);
            UNROLL
            for (int r = 0; r < of.n_rows; r++)
                UNROLL
                for (int t = 0; t < of.n_tokens; t++)
                    sums[r][t] = multiply_add(splat(scales[r][g]), dots[r][t], sums[r][t]);
        }
    }
}

INLINE void dense_block(vector (*sums)[TOKENS], const block *rows, tile of) {
    size_t size = zm_storage_size(of.storage);
    for (size_t i = 0; i < rows->matrix->in_features; i += LANES) {
        UNROLL
        for (int r = 0; r < of.n_rows; r++) {
            vector values = load_stored(rows->codes[of.first_row + r] + i * size, of.storage, LANES);
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
INLINE void multiply_tile(float *y, const zm_product *product, const block *rows, size_t row, int n_rows,
                          int n_tokens, tile of) {
    const zm_matrix *matrix = product->matrix;
    vector sums[ZM_ROW_BLOCK][TOKENS] = {0};
    if (of.kind == ZM_MATRIX_DENSE) dense_block(sums, rows, of);
    else quantized_block(sums, rows, of);
    UNROLL
    for (int r = 0; r < of.n_rows; r++) {
        size_t place = product->expert * matrix->out_features + row + (size_t)r;
        float bias = matrix->bias && r < n_rows ? row_bias(matrix, place) : 0;
        UNROLL
        for (int t = 0; t < of.n_tokens; t++) {
            float sum = sum_lanes(sums[r][t]);
            if (r >= n_rows || t >= n_tokens) continue;
            y[(size_t)t * product->y_stride + (size_t)r] = matrix->bias ? sum + bias : sum;
        }
    }
}

/* The n_rows rows of a block for all tokens, with as many tokens at a time as there are. */
INLINE void multiply_tokens(const zm_product *product, block *rows, size_t row, size_t row_begin, int n_rows,
                            tile of) {
    for (size_t token = 0; token < product->n_tokens; token += TOKENS) {
        size_t left = product->n_tokens - token;
        int n_tokens = left < TOKENS ? (int)left : TOKENS;
        for (size_t t = 0; t < TOKENS; t++)
            rows->x[t] = product->prepared + (token + (t < left ? t : left - 1)) * product->prepared_stride;
        float *y = product->y + token * product->y_stride + row - row_begin;
        if (left == 1) {
            of.n_rows = ONE_TOKEN_ROWS, of.n_tokens = 1;
            for (int r = 0; r < n_rows; r += ONE_TOKEN_ROWS) {
                of.first_row = r;
                multiply_tile(y + r, product, rows, row + (size_t)r, n_rows - r, 1, of);
            }
            continue;
        }
        of.n_rows = TOKEN_ROWS, of.n_tokens = TOKENS;
        for (int r = 0; r < n_rows; r += TOKEN_ROWS) {
            of.first_row = r;
            multiply_tile(y + r, product, rows, row + (size_t)r, n_rows - r, n_tokens, of);
        }
    }
}

INLINE void multiply_rows(const zm_product *product, size_t row_begin, size_t row_end, tile of) {
    const zm_matrix *matrix = product->matrix;
    size_t row_bytes = zm_matrix_row_bytes(matrix), scale_bytes = zm_matrix_scale_row_bytes(matrix);
    for (size_t row = row_begin; row < row_end; row += ZM_ROW_BLOCK) {
        size_t n_rows = row_end - row < ZM_ROW_BLOCK ? row_end - row : ZM_ROW_BLOCK;
        block rows = {.matrix = matrix};
        for (size_t r = 0; r < ZM_ROW_BLOCK; r++) {
            size_t place = product->expert * matrix->out_features + row + (r < n_rows ? r : n_rows - 1);
            rows.codes[r] = matrix->weight + place * row_bytes;
            if (of.kind != ZM_MATRIX_DENSE) rows.scales[r] = matrix->scales + place * scale_bytes;
            if (of.kind == ZM_MATRIX_AFFINE) rows.biases[r] = matrix->biases + place * scale_bytes;
        }
        multiply_tokens(product, &rows, row, row_begin, (int)n_rows, of);
    }
}

#define DENSE_ROWS(name, type)                                                     \
    static void name(const zm_product *product, size_t row_begin, size_t row_end) { \
        multiply_rows(product, row_begin, row_end, (tile){.kind = ZM_MATRIX_DENSE, .storage = type}); \
    }
#define QUANTIZED_ROWS(name, of_kind, n_bits, size)                                \
    static void name(const zm_product *product, size_t row_begin, size_t row_end) { \
        multiply_rows(product, row_begin, row_end,                                 \
                      (tile){.kind = of_kind, .bits = n_bits, .group_size = size}); \
    }
#define AFFINE_ROWS(n_bits)                                               \
    QUANTIZED_ROWS(affine_##n_bits##_32, ZM_MATRIX_AFFINE, n_bits, 32)    \
    QUANTIZED_ROWS(affine_##n_bits##_64, ZM_MATRIX_AFFINE, n_bits, 64)    \
    QUANTIZED_ROWS(affine_##n_bits##_128, ZM_MATRIX_AFFINE, n_bits, 128)

DENSE_ROWS(dense_float32, ZM_STORAGE_FLOAT32)
DENSE_ROWS(dense_float16, ZM_STORAGE_FLOAT16)
DENSE_ROWS(dense_bfloat16, ZM_STORAGE_BFLOAT16)
QUANTIZED_ROWS(mxfp4, ZM_MATRIX_MXFP4, 4, 32)
AFFINE_ROWS(2)
AFFINE_ROWS(3)
AFFINE_ROWS(4)
AFFINE_ROWS(5)
AFFINE_ROWS(6)
AFFINE_ROWS(8)

typedef void (*rows_function)(const zm_product *product, size_t row_begin, size_t row_end);

#define AFFINE_ROW(n_bits) [n_bits] = {affine_##n_bits##_32, affine_##n_bits##_64, affine_##n_bits##_128}
static const rows_function affine_functions[9][3] = {AFFINE_ROW(2), AFFINE_ROW(3), AFFINE_ROW(4),
                                                     AFFINE_ROW(5), AFFINE_ROW(6), AFFINE_ROW(8)};
static const rows_function dense_functions[] = {[ZM_STORAGE_FLOAT32] = dense_float32,
                                                [ZM_STORAGE_FLOAT16] = dense_float16,
                                                [ZM_STORAGE_BFLOAT16] = dense_bfloat16};

static void multiply(const zm_product *product, size_t row_begin, size_t row_end) {
    const zm_matrix *matrix = product->matrix;
    if (matrix->kind == ZM_MATRIX_DENSE) dense_functions[matrix->storage](product, row_begin, row_end);
    else if (matrix->kind == ZM_MATRIX_MXFP4) mxfp4(product, row_begin, row_end);
    else affine_functions[matrix->bits][matrix->group_size / 64](product, row_begin, row_end);
}
