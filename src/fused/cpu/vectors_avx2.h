/* SPDX-License-Identifier: MIT */
/* What kernels.h asks of a level, with eight lanes: for processors with AVX2, FMA and F16C. */
enum { LANES = 8, ONE_TOKEN_ROWS = 2, TOKEN_ROWS = 1, LOOKUP_BITS = 0 };

typedef float vector __attribute__((vector_size(32)));
typedef int32_t vector_int __attribute__((vector_size(32)));
typedef uint32_t vector_word __attribute__((vector_size(32)));
typedef uint16_t vector_half __attribute__((vector_size(16)));

static inline vector multiply_add(vector a, vector b, vector c) {
    return (vector)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) {
    return __builtin_convertvector((vector_int)codes, vector);
}

/* Of stored words, the LANES words of word_bits bits, each with what follows it. */
static inline vector_word spread_words(__m256i stored, int word_bits) {
    if (word_bits == 32) return (vector_word)stored;
    if (word_bits == 24) {
        const __m256i quads = _mm256_setr_epi32(0, 1, 2, 3, 3, 4, 5, 6);
        const __m256i bytes = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
        return (vector_word)_mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(stored, quads), bytes);
    }
    const __m256i quads = _mm256_setr_epi32(0, 1, 2, 3, 2, 3, 4, 5);
    const __m256i bytes =
        _mm256_setr_epi8(0, 1, 2, -1, 2, 3, 4, -1, 5, 6, 7, -1, 7, 8, 9, -1, /* the second quad begins at byte 2 */
                         2, 3, 4, -1, 4, 5, 6, -1, 7, 8, 9, -1, 9, 10, 11, -1);
    return (vector_word)_mm256_shuffle_epi8(_mm256_permutevar8x32_epi32(stored, quads), bytes);
}

static inline __m256i first_lanes(size_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)count), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* A vector of words of which only n_bytes, a multiple of 4, can be read; the other codes are 0. */
static inline vector_word load_some_words(const unsigned char *source, int word_bits, size_t n_bytes) {
    const int *words = (const int *)(const void *)source;
    return spread_words(_mm256_maskload_epi32(words, first_lanes(n_bytes / 4)), word_bits);
}

static inline vector_word load_words(const unsigned char *source, int word_bits) {
    if (word_bits == 32) return (vector_word)_mm256_loadu_si256((const __m256i *)(const void *)source);
    return load_some_words(source, word_bits, LANES * (size_t)word_bits / 8);
}

/* The bytes of the first count scales of mxfp4, one a lane; the other lanes have that of 1, as 0 stands for a subnormal
 * number, which is slow. */
static inline vector_word load_exponents(const unsigned char *bytes, size_t count) {
    uint64_t packed = UINT64_C(0x7f7f7f7f7f7f7f7f);
    if (count < LANES) memcpy(&packed, bytes, count);
    else memcpy(&packed, bytes, LANES);
    return (vector_word)_mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)packed));
}

/* Lane i gets values[lanes[i]]. */
static inline vector pick_lanes(vector values, vector_word lanes) {
    return (vector)_mm256_permutevar8x32_ps((__m256)values, (__m256i)lanes);
}

static inline bool any_lane_is(vector_word lanes, uint32_t value) {
    return _mm256_movemask_epi8(_mm256_cmpeq_epi32((__m256i)lanes, _mm256_set1_epi32((int)value))) != 0;
}

static inline vector look_up_codes(vector_word words, int bits) {
    (void)bits; /* LOOKUP_BITS is 0 */
    return codes_to_float(words);
}

/* The values of the e2m1 codes in the low four bits of each lane. */
static inline vector mxfp4_values(vector_word codes) {
    const __m256 magnitudes = _mm256_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f);
    vector_word magnitude = (vector_word)_mm256_permutevar8x32_ps(magnitudes, (__m256i)codes);
    return (vector)(magnitude | ((codes & 8) << 28));
}

static inline vector float16_to_float(vector_half halves) {
    return (vector)_mm256_cvtph_ps((__m128i)halves);
}

static inline vector bfloat16_to_float(vector_half halves) {
    return (vector)_mm256_slli_epi32(_mm256_cvtepu16_epi32((__m128i)halves), 16);
}

/* The first count < LANES values; the other lanes are 0. */
static __attribute__((noinline)) vector_half load_some_halves(const unsigned char *values, size_t count) {
    uint64_t parts[2] = {0, 0};
    size_t done = count & 4;
    if (done) memcpy(&parts[0], values, sizeof parts[0]);
    for (size_t i = done; i < count; i++) {
        uint16_t half;
        memcpy(&half, values + 2 * i, sizeof half);
        parts[i / 4] |= (uint64_t)half << (16 * (i % 4));
    }
    return (vector_half)_mm_set_epi64x((long long)parts[1], (long long)parts[0]);
}

static inline vector load_some_floats(const unsigned char *values, size_t count) {
    return (vector)_mm256_maskload_ps((const float *)(const void *)values, first_lanes(count));
}

/* Each lane and the one half the lanes on, of two vectors. */
static inline __m256 add_halves(vector a, vector b) {
    return _mm256_add_ps(_mm256_permute2f128_ps((__m256)a, (__m256)b, 0x20),
                         _mm256_permute2f128_ps((__m256)a, (__m256)b, 0x31));
}

static inline __m256 add_pairs(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(_mm256_castps_pd(a), _mm256_castps_pd(b))));
}

/* Lane i is sum_lanes(rows[i]). */
static inline vector sum_rows(const vector rows[8]) {
    __m256 first = add_pairs(add_halves(rows[0], rows[4]), add_halves(rows[1], rows[5]));
    __m256 second = add_pairs(add_halves(rows[2], rows[6]), add_halves(rows[3], rows[7]));
    return (vector)_mm256_add_ps(_mm256_shuffle_ps(first, second, 0x88), _mm256_shuffle_ps(first, second, 0xdd));
}

static inline float sum_lanes(vector v) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Half h of result i: word 4 h + i of four rows. */
static inline void turn_halves(__m256i result[4], const vector_word rows[4]) {
    __m256i a = _mm256_unpacklo_epi32((__m256i)rows[0], (__m256i)rows[1]);
    __m256i b = _mm256_unpacklo_epi32((__m256i)rows[2], (__m256i)rows[3]);
    __m256i c = _mm256_unpackhi_epi32((__m256i)rows[0], (__m256i)rows[1]);
    __m256i d = _mm256_unpackhi_epi32((__m256i)rows[2], (__m256i)rows[3]);
    result[0] = _mm256_unpacklo_epi64(a, b);
    result[1] = _mm256_unpackhi_epi64(a, b);
    result[2] = _mm256_unpacklo_epi64(c, d);
    result[3] = _mm256_unpackhi_epi64(c, d);
}

static inline void join_halves(vector_word *words, __m256i first, __m256i second) {
    words[0] = (vector_word)_mm256_permute2x128_si256(first, second, 0x20);
    words[4] = (vector_word)_mm256_permute2x128_si256(first, second, 0x31);
}

/* Lane i of word r becomes lane r of word i. */
static inline void turn_words(vector_word words[8]) {
    __m256i first[4], second[4];
    turn_halves(first, words);
    turn_halves(second, words + 4);
    join_halves(words, first[0], second[0]);
    join_halves(words + 1, first[1], second[1]);
    join_halves(words + 2, first[2], second[2]);
    join_halves(words + 3, first[3], second[3]);
}
