/* SPDX-License-Identifier: MIT */
/* Products in integers; part of kernels.h for levels that define LIMBS, the most that pay there (1 or 3), and, in their
 * bytes_*.h: load_codes, mxfp4_bytes, halve_groups, order_groups; even_lanes, odd_lanes, round_to_int,
 * store_low_bytes; and dot_bytes and dot_word, with SIGNED_CODES where they take signed bytes as codes: those of eight
 * bits are then counted from -128 on. EIGHT_DIFFERS: they do something else for codes of eight bits, told by their last
 * argument. DOT_WORDS: how many words of a token are best read together; WIDE_TOKENS, 4 or more: how many tokens.
 *
 * The activations of a group are x_i = scale * q_i with whole numbers q_i, split into signed bytes, the limbs: one
 * (|q_i| <= 127), or three for as many digits as a float has (|q_i| < 2^23). With the group's unsigned codes c_i,
 *
 *     sum of (s c_i + b) x_i = s * scale * (sum of c_i q_i) + b * scale * (sum of q_i),
 *
 * whose sums are exact whatever their order. The groups of a row are summed in LANES float sums, group g in sum
 * g % LANES, which are added up as sum_lanes does. So the bits are the same for the two kernels: along a row for few
 * tokens, across rows for many.
 *
 * Codes are read as words of four bytes, 4-bit codes as two planes of them: the even and the odd ones. The limbs lie
 * vector of words by vector of words, in each plane by plane, in each limb by limb, the highest first. The scales
 * of the groups and scale * (sum of q_i) follow. */

enum {
    VECTOR_BYTES = 4 * LANES,
    WIDE_VECTORS = 2,
    WIDE_ROWS = WIDE_VECTORS * LANES, /* computed together for many tokens */
    WIDE_SLICE = 128,                  /* share one unpacking of the codes */
    WIDE_LEAST = 4,                   /* tokens: fewer go one by one */
    MAX_GROUP_WORDS = 32,
    MAX_GROUP_BYTES = 128
};

typedef uint8_t vector_byte __attribute__((vector_size(VECTOR_BYTES)));

/* What a kernel is made for: always constants. */
typedef struct limb_form {
    zm_matrix_kind kind;
    int bits, group_size, limbs;
} limb_form;

INLINE int code_planes(int bits) { return bits == 4 ? 2 : 1; }
INLINE int group_words(limb_form of) { return of.group_size / (4 * code_planes(of.bits)); }
/* Bytes of the codes and of the limbs of a vector of words. */
INLINE int code_bytes(limb_form of) { return VECTOR_BYTES / 8 * code_planes(of.bits) * of.bits; }
INLINE int limb_bytes(limb_form of) { return VECTOR_BYTES * code_planes(of.bits) * of.limbs; }

/* The codes of a plane of a vector of words. */
INLINE vector_word plane_codes(vector_word words, int plane, limb_form of) {
    if (of.bits == 8 && SIGNED_CODES) return words ^ 0x80808080u;
    if (of.bits != 4) return words;
    vector_word codes = plane ? (vector_word)((vector_byte)words >> 4) : words & 0x0f0f0f0fu;
    return of.kind == ZM_MATRIX_MXFP4 ? mxfp4_bytes(codes) : codes;
}

INLINE vector_int load_limbs(const unsigned char *limbs) {
    vector_int result;
    memcpy(&result, limbs, sizeof result);
    return result;
}

INLINE void order_limbs(zm_order *result, const zm_matrix *matrix, int limbs) {
    limb_form of = {.kind = matrix->kind, .bits = matrix->bits, .group_size = matrix->group_size, .limbs = limbs};
    size_t groups = zm_matrix_groups(matrix), words = groups * (size_t)group_words(of);
    *result = (zm_order){.in_features = matrix->in_features,
                         .group_size = (size_t)matrix->group_size,
                         .n_values = (words + LANES - 1) / LANES * (size_t)limb_bytes(of) / sizeof(float),
                         .n_group_values = 2 * ((groups + LANES - 1) / LANES * LANES),
                         .limbs = limbs,
                         .planes = code_planes(matrix->bits)};
}

/* The power of two by which the group's numbers, the largest of which has these bits, become whole ones of three limbs,
 * the highest below 127.5 * 2^16; and its reciprocal. */
INLINE void choose_power(float *scale, float *factor, float largest) {
    uint32_t bits, parts[2];
    float wider = largest * 1.004f;
    memcpy(&bits, &wider, sizeof bits);
    bits >>= 23;
    if (bits < 23) bits = 23; /* 2^-104: what is smaller vanishes */
    parts[0] = (bits - 22) << 23;
    parts[1] = (276 - bits) << 23;
    memcpy(scale, &parts[0], sizeof *scale);
    memcpy(factor, &parts[1], sizeof *factor);
}

/* With one limb, numbers below 2^-119 count as zeros: their factor would be infinite. */
INLINE void choose_scale(float *scale, float *factor, float largest, int limbs) {
    *scale = *factor = 0;
    if (!(largest < INFINITY)) *scale = NAN;
    else if (limbs == 3) choose_power(scale, factor, largest);
    else if (largest > 0x1p-119f) *scale = largest / 127, *factor = 127 / largest;
}

INLINE vector_int magnitude_bits(vector v) { return (vector_int)v & INT32_MAX; }

/* The largest magnitude; not a number is larger than infinity. */
INLINE float group_largest(const float *x, size_t size) {
    vector_int most = {0};
    for (size_t i = 0; i < size; i += LANES) {
        vector_int bits = magnitude_bits(load_vector(x + i));
        most = (bits & (bits > most)) | (most & ~(bits > most));
    }
    int32_t lanes[LANES], result = 0;
    memcpy(lanes, &most, sizeof lanes);
    for (int lane = 0; lane < LANES; lane++) result = lanes[lane] > result ? lanes[lane] : result;
    float largest;
    memcpy(&largest, &result, sizeof largest);
    return largest;
}

/* Writes the limbs of LANES numbers, the highest first. */
INLINE void store_limbs(unsigned char *to, vector_int q, int limbs) {
    for (int limb = limbs - 1; limb >= 0; limb--) {
        store_low_bytes(to + limb * VECTOR_BYTES, q);
        q = (q + 128) >> 8;
    }
}

INLINE void prepare_limbs_of(float *prepared, const float *x, const zm_order *plan, int limbs, int planes) {
    unsigned char *bytes = (unsigned char *)prepared;
    size_t size = plan->group_size, n_groups = plan->in_features / size;
    size_t stride = (size_t)(planes * limbs) * VECTOR_BYTES;
    float *scales = prepared + plan->n_values, *sums = scales + plan->n_group_values / 2;
    memset(bytes, 0, plan->n_values * sizeof *prepared); /* the last vector */
    memset(scales, 0, plan->n_group_values * sizeof *scales);
    for (size_t g = 0; g < n_groups; g++) {
        float factor;
        choose_scale(&scales[g], &factor, group_largest(x + g * size, size), limbs);
        vector_word sum = {0}; /* numbers that are none have no whole ones: any sum will do */
        for (size_t i = g * size; i < (g + 1) * size; i += (size_t)planes * LANES) {
            size_t byte = i / (size_t)planes; /* of the row's words */
            unsigned char *to = bytes + byte / VECTOR_BYTES * stride + byte % VECTOR_BYTES;
            vector a = load_vector(x + i), b = a;
            if (planes == 2) {
                vector next = load_vector(x + i + LANES);
                b = odd_lanes(a, next);
                a = even_lanes(a, next);
                vector_int q = round_to_int(b * factor);
                sum += (vector_word)q;
                store_limbs(to + limbs * VECTOR_BYTES, q, limbs);
            }
            vector_int q = round_to_int(a * factor);
            sum += (vector_word)q;
            store_limbs(to, q, limbs);
        }
        uint32_t lanes[LANES], total = 0;
        memcpy(lanes, &sum, sizeof lanes);
        for (int lane = 0; lane < LANES; lane++) total += lanes[lane];
        sums[g] = scales[g] * (float)(int32_t)total;
    }
}

static void prepare_limbs(float *prepared, const float *x, const zm_order *plan) {
    if (plan->limbs == 1 && plan->planes == 1) prepare_limbs_of(prepared, x, plan, 1, 1);
    else if (plan->limbs == 1) prepare_limbs_of(prepared, x, plan, 1, 2);
    else if (plan->planes == 1) prepare_limbs_of(prepared, x, plan, 3, 1);
    else prepare_limbs_of(prepared, x, plan, 3, 2);
}

/* LANES scales and biases of a row from group `first` on. mxfp4's codes count halves from -12 on. */
INLINE void load_groups(vector *scales, vector *biases, const group_row *row, size_t first, size_t n_groups,
                        const zm_matrix *matrix, limb_form of) {
    if (of.kind == ZM_MATRIX_MXFP4) {
        *scales = 0.5f * load_scales(row->scales, first, n_groups, of.kind, matrix->storage);
        *biases = *scales * -12.0f;
        return;
    }
    load_affine(scales, biases, row, first, n_groups, matrix, of.bits);
    if (of.bits == 8 && SIGNED_CODES) *biases = multiply_add(*scales, splat(128.0f), *biases);
}

/* high * 2^16 + low; low alone where there is one limb. */
INLINE vector join_limbs(vector high, vector_int low, int limbs) {
    vector value = codes_to_float((vector_word)low);
    return limbs == 1 ? value : multiply_add(high, splat(65536.0f), value);
}

/* The sums of limb `limb` in one part of a block, of `pieces` vectors of words. */
INLINE vector_int dot_part(vector_int sum, const vector_word *words, const unsigned char *limbs, int pieces, int limb,
                           limb_form of) {
    UNROLL
    for (int piece = 0; piece < pieces; piece++) {
        UNROLL
        for (int plane = 0; plane < code_planes(of.bits); plane++) {
            const unsigned char *place = limbs + piece * limb_bytes(of) + (plane * of.limbs + limb) * VECTOR_BYTES;
            sum = dot_bytes(sum, plane_codes(words[piece], plane, of), load_limbs(place), of.bits == 8);
        }
    }
    return sum;
}

/* Adds up neighbouring lanes until one of each group is left. */
INLINE vector_int sum_groups(vector_int *parts, int n_parts) {
    UNROLL
    for (int step = 0; step < 4; step++) {
        if (1 << step >= n_parts) break;
        UNROLL
        for (int i = 0; i < LANES / 2; i++)
            if (i < n_parts >> (step + 1)) parts[i] = halve_groups(parts[2 * i], parts[2 * i + 1], step);
    }
    return parts[0];
}

/* The sums of codes times q of LANES groups, of which n_words words are there. The last of these are read up to a whole
 * vector: what lies behind them meets zeros. */
INLINE vector dot_groups(const unsigned char *codes, const unsigned char *limbs, int n_words, limb_form of) {
    int words = group_words(of), pieces = words > LANES ? words / LANES : 1;
    int n_parts = words > LANES ? LANES : words;
    vector_int high[LANES], low[LANES];
    UNROLL
    for (int part = 0; part < n_parts; part++) {
        vector_word stored[MAX_GROUP_WORDS / LANES];
        high[part] = low[part] = (vector_int){0};
        if (part * pieces * LANES >= n_words) continue;
        UNROLL
        for (int piece = 0; piece < pieces; piece++) {
            int place = part * pieces + piece;
            stored[piece] = load_codes(codes + place * code_bytes(of), of.bits, LANES);
            if (place * code_bytes(of) % 64 < code_bytes(of)) /* a line begins */
                __builtin_prefetch(codes + place * code_bytes(of) + AHEAD);
        }
        const unsigned char *x = limbs + part * pieces * limb_bytes(of);
        low[part] = dot_part((vector_int){0}, stored, x, pieces, 0, of);
        if (of.limbs == 1) continue;
        high[part] = low[part];
        low[part] = dot_part((vector_int){0}, stored, x, pieces, 1, of);
        low[part] = dot_part(low[part] << 8, stored, x, pieces, 2, of);
    }
    vector most = {0};
    if (of.limbs > 1) most = codes_to_float((vector_word)sum_groups(high, n_parts));
    return order_groups(join_limbs(most, sum_groups(low, n_parts), of.limbs), words);
}

/* A row, and what the rows of a product have in common. */
typedef struct limb_row {
    const zm_matrix *matrix;
    size_t n_groups, padded_groups, n_values; /* the bytes of a token's limbs */
    const unsigned char *codes;
    group_row groups;
    const unsigned char *rest; /* the codes of the last groups, where fewer than LANES are left */
} limb_row;

/* Adds LANES groups, the first `first` before them, of which n_words words are there. */
INLINE vector add_groups(vector sum, const limb_row *row, const unsigned char *codes, const unsigned char *limbs,
                         const float *x_scales, size_t first, int n_words, limb_form of) {
    vector scales, biases;
    load_groups(&scales, &biases, &row->groups, first, row->n_groups, row->matrix, of);
    fetch_groups(&row->groups, first, of.kind);
    sum = multiply_add(biases, load_vector(x_scales + row->padded_groups + first), sum);
    vector dots = dot_groups(codes, limbs, n_words, of);
    return multiply_add(dots, scales * load_vector(x_scales + first), sum);
}

/* A row's product with one token. */
INLINE float multiply_row(const limb_row *row, const float *prepared, limb_form of) {
    const unsigned char *limbs = (const unsigned char *)prepared, *codes = row->codes;
    const float *x_scales = (const float *)(const void *)(limbs + row->n_values);
    size_t first = 0;
    vector sum = {0};
    for (; first + LANES <= row->n_groups; first += LANES) {
        sum = add_groups(sum, row, codes, limbs, x_scales, first, LANES * group_words(of), of);
        codes += group_words(of) * code_bytes(of);
        limbs += group_words(of) * limb_bytes(of);
    }
    int left = (int)(row->n_groups - first) * group_words(of);
    if (left) sum = add_groups(sum, row, row->rest, limbs, x_scales, first, left, of);
    return sum_lanes(sum);
}

/* What lies before the lines that the rows themselves fetch: a run would begin with one miss behind the other. */
INLINE void fetch_beginning(const limb_row *row, limb_form of) {
    for (int i = 0; i < AHEAD; i += 64) __builtin_prefetch(row->codes + i);
    for (int i = 0; i < SCALES_AHEAD; i += 64) {
        __builtin_prefetch((row->groups.edges ? row->groups.edges : row->groups.scales) + i);
        if (of.kind == ZM_MATRIX_AFFINE && !row->groups.edges) __builtin_prefetch(row->groups.biases + i);
    }
}

INLINE void multiply_few(const zm_product *product, size_t row_begin, size_t row_end, limb_form of) {
    const zm_matrix *matrix = product->matrix;
    size_t n_groups = matrix->in_features / (size_t)of.group_size, n_words = n_groups * (size_t)group_words(of);
    size_t n_vectors = (n_words + LANES - 1) / LANES, group_bytes = (size_t)(of.group_size / 8 * of.bits);
    size_t row_bytes = n_groups * group_bytes, whole_bytes = n_groups / LANES * LANES * group_bytes;
    size_t scale_bytes = n_groups * (of.kind == ZM_MATRIX_AFFINE ? zm_storage_size(matrix->storage) : 1);
    size_t place = product->expert * matrix->out_features + row_begin;
    size_t bias_bytes = of.kind == ZM_MATRIX_AFFINE ? scale_bytes : 0, edge_bytes = matrix->edges ? 2 * n_groups : 0;
    limb_row at = {.matrix = matrix,
                   .n_groups = n_groups,
                   .padded_groups = (n_groups + LANES - 1) / LANES * LANES,
                   .n_values = n_vectors * (size_t)limb_bytes(of),
                   .codes = matrix->weight + place * row_bytes,
                   .groups = {.scales = matrix->scales + place * scale_bytes,
                              .biases = bias_bytes ? matrix->biases + place * bias_bytes : NULL,
                              .edges = edge_bytes ? matrix->edges + place * edge_bytes : NULL}};
    const unsigned char *end = matrix->weight + matrix->n_experts * matrix->out_features * row_bytes;
    unsigned char last[LANES * MAX_GROUP_BYTES];
    fetch_beginning(&at, of);
    for (size_t row = row_begin; row < row_end; row++) {
        at.rest = at.codes + whole_bytes;
        if ((size_t)(end - at.codes) < n_vectors * (size_t)code_bytes(of)) /* whole vectors would pass the end */
            at.rest = memcpy(last, at.rest, row_bytes - whole_bytes);
        for (size_t t = 0; t < product->n_tokens; t++) {
            size_t token = product->tokens ? product->tokens[t] : t;
            float sum = multiply_row(&at, product->prepared + token * product->prepared_stride, of);
            if (matrix->bias) sum += row_bias(matrix, product->expert * matrix->out_features + row);
            product->y[t * product->y_stride + row - row_begin] = sum;
        }
        at.codes += row_bytes;
        at.groups.scales += scale_bytes;
        if (bias_bytes) at.groups.biases += bias_bytes;
        if (edge_bytes) at.groups.edges += edge_bytes;
    }
}

#include "fused/cpu/kernels_wide.h"

/* Two functions a format and number of limbs: for few tokens and for many. */
#define LIMB_ROWS(name, ...)                                                                     \
    static void name##_few(const zm_product *product, size_t row_begin, size_t row_end) {       \
        multiply_few(product, row_begin, row_end, (limb_form){__VA_ARGS__});                     \
    }                                                                                            \
    static void name##_many(const zm_product *product, size_t row_begin, size_t row_end) {      \
        multiply_many(product, row_begin, row_end, (limb_form){__VA_ARGS__});                    \
    }
#define AFFINE_LIMB_ROWS(n_bits, size, n_limbs)                                                              \
    LIMB_ROWS(limbs_##n_limbs##_affine_##n_bits##_##size, .kind = ZM_MATRIX_AFFINE, .bits = n_bits,         \
              .group_size = size, .limbs = n_limbs)
#define AFFINE_LIMBS(n_bits, n_limbs) \
    AFFINE_LIMB_ROWS(n_bits, 32, n_limbs) AFFINE_LIMB_ROWS(n_bits, 64, n_limbs) AFFINE_LIMB_ROWS(n_bits, 128, n_limbs)
#define ALL_LIMBS(n_limbs)                                                                                   \
    LIMB_ROWS(limbs_##n_limbs##_mxfp4, .kind = ZM_MATRIX_MXFP4, .bits = 4, .group_size = 32, .limbs = n_limbs) \
    AFFINE_LIMBS(2, n_limbs) AFFINE_LIMBS(3, n_limbs) AFFINE_LIMBS(4, n_limbs)                               \
    AFFINE_LIMBS(5, n_limbs) AFFINE_LIMBS(6, n_limbs) AFFINE_LIMBS(8, n_limbs)

ALL_LIMBS(1)
#if LIMBS > 1
ALL_LIMBS(3)
#endif

typedef struct limb_functions {
    void (*few)(const zm_product *product, size_t row_begin, size_t row_end);
    void (*many)(const zm_product *product, size_t row_begin, size_t row_end);
} limb_functions;

#define LIMB_FUNCTIONS(name) {name##_few, name##_many}
#define AFFINE_LIMB_ROW(n_limbs, n_bits)                                                                        \
    [n_bits] = {LIMB_FUNCTIONS(limbs_##n_limbs##_affine_##n_bits##_32),                                         \
                LIMB_FUNCTIONS(limbs_##n_limbs##_affine_##n_bits##_64),                                         \
                LIMB_FUNCTIONS(limbs_##n_limbs##_affine_##n_bits##_128)}
#define AFFINE_LIMB_TABLE(n_limbs)                                                                              \
    {AFFINE_LIMB_ROW(n_limbs, 2), AFFINE_LIMB_ROW(n_limbs, 3), AFFINE_LIMB_ROW(n_limbs, 4),                      \
     AFFINE_LIMB_ROW(n_limbs, 5), AFFINE_LIMB_ROW(n_limbs, 6), AFFINE_LIMB_ROW(n_limbs, 8)}
#if LIMBS > 1
static const limb_functions affine_limbs[][9][3] = {AFFINE_LIMB_TABLE(1), AFFINE_LIMB_TABLE(3)};
static const limb_functions mxfp4_limbs[] = {LIMB_FUNCTIONS(limbs_1_mxfp4), LIMB_FUNCTIONS(limbs_3_mxfp4)};
#else
static const limb_functions affine_limbs[][9][3] = {AFFINE_LIMB_TABLE(1)};
static const limb_functions mxfp4_limbs[] = {LIMB_FUNCTIONS(limbs_1_mxfp4)};
#endif

static void multiply_limbs(const zm_product *product, size_t row_begin, size_t row_end) {
    const zm_matrix *matrix = product->matrix;
    int exact = product->limbs > 1;
    const limb_functions *functions = &mxfp4_limbs[exact];
    if (matrix->kind == ZM_MATRIX_AFFINE) functions = &affine_limbs[exact][matrix->bits][matrix->group_size / 64];
    (product->n_tokens < WIDE_LEAST ? functions->few : functions->many)(product, row_begin, row_end);
}
