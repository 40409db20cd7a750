/* SPDX-License-Identifier: MIT */
/* What kernels.h asks of a level, with sixteen lanes: for processors with AVX-512 F, BW, DQ and VL. */
enum { LANES = 16, ONE_TOKEN_ROWS = 1, TOKEN_ROWS = 4, LOOKUP_BITS = 4 };

typedef float vector __attribute__((vector_size(64)));
typedef int32_t vector_int __attribute__((vector_size(64)));
typedef uint32_t vector_word __attribute__((vector_size(64)));
typedef uint16_t vector_half __attribute__((vector_size(32)));

static inline vector multiply_add(vector a, vector b, vector c) {
    return (vector)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) { return (vector)_mm512_cvtepi32_ps((__m512i)codes); }

/* Of stored words, the LANES words of word_bits bits, each with what follows it. */
static inline vector_word spread_words(__m512i stored, int word_bits) {
    if (word_bits == 32) return (vector_word)stored;
    if (word_bits == 24) {
        const __m512i quads = _mm512_setr_epi32(0, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9, 10, 11, 12);
        const __m512i bytes = _mm512_broadcast_i32x4(
            _mm_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1));
        return (vector_word)_mm512_shuffle_epi8(_mm512_permutexvar_epi32(quads, stored), bytes);
    }
    const __m512i quads = _mm512_setr_epi32(0, 1, 2, 3, 2, 3, 4, 5, 5, 6, 7, 8, 7, 8, 9, 10);
    const __m512i bytes = _mm512_broadcast_i64x4(
        _mm256_setr_epi8(0, 1, 2, -1, 2, 3, 4, -1, 5, 6, 7, -1, 7, 8, 9, -1, /* the second quad begins at byte 2 */
                         2, 3, 4, -1, 4, 5, 6, -1, 7, 8, 9, -1, 9, 10, 11, -1));
    return (vector_word)_mm512_shuffle_epi8(_mm512_permutexvar_epi32(quads, stored), bytes);
}

/* A vector of words of which only n_bytes, a multiple of 4, can be read; the other codes are 0. */
static inline vector_word load_some_words(const unsigned char *source, int word_bits, size_t n_bytes) {
    return spread_words(_mm512_maskz_loadu_epi32((__mmask16)((1u << n_bytes / 4) - 1), source), word_bits);
}

static inline vector_word load_words(const unsigned char *source, int word_bits) {
    if (word_bits == 32) return (vector_word)_mm512_loadu_si512(source);
    return load_some_words(source, word_bits, LANES * (size_t)word_bits / 8);
}

/* The bytes of the first count scales of mxfp4, one a lane; the other lanes have that of 1, as 0 stands for a subnormal
 * number, which is slow. */
static inline vector_word load_exponents(const unsigned char *bytes, size_t count) {
    __mmask16 mask = (__mmask16)(count < LANES ? (1u << count) - 1 : 0xffff);
    return (vector_word)_mm512_cvtepu8_epi32(_mm_mask_loadu_epi8(_mm_set1_epi8(127), mask, bytes));
}

/* Lane i gets values[lanes[i]]. */
static inline vector pick_lanes(vector values, vector_word lanes) {
    return (vector)_mm512_permutexvar_ps((__m512i)lanes, (__m512)values);
}

static inline bool any_lane_is(vector_word lanes, uint32_t value) {
    return _mm512_cmpeq_epi32_mask((__m512i)lanes, _mm512_set1_epi32((int)value)) != 0;
}

/* The codes of at most LOOKUP_BITS bits in the low bits of each lane, as floats. */
static inline vector look_up_codes(vector_word words, int bits) {
    const __m512 two = _mm512_setr_ps(0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3);
    const __m512 three = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7);
    const __m512 four = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    return (vector)_mm512_permutexvar_ps((__m512i)words, bits == 2 ? two : bits == 3 ? three : four);
}

/* The values of the e2m1 codes in the low four bits of each lane. */
static inline vector mxfp4_values(vector_word codes) {
    const __m512 values = _mm512_setr_ps(0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f, -0.0f, -0.5f, -1.0f,
                                         -1.5f, -2.0f, -3.0f, -4.0f, -6.0f);
    return (vector)_mm512_permutexvar_ps((__m512i)codes, values);
}

static inline vector float16_to_float(vector_half halves) {
    return (vector)_mm512_cvtph_ps((__m256i)halves);
}

static inline vector bfloat16_to_float(vector_half halves) {
    return (vector)_mm512_slli_epi32(_mm512_cvtepu16_epi32((__m256i)halves), 16);
}

/* The first count < LANES values; the other lanes are 0. */
static inline vector_half load_some_halves(const unsigned char *values, size_t count) {
    return (vector_half)_mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), values);
}

static inline vector load_some_floats(const unsigned char *values, size_t count) {
    return (vector)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), values);
}

/* Each lane and the one half the lanes on, of two vectors; then a quarter on. */
static inline __m512 add_halves(vector a, vector b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4((__m512)a, (__m512)b, 0x44),
                         _mm512_shuffle_f32x4((__m512)a, (__m512)b, 0xee));
}

static inline __m512 add_quarters(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}

static inline __m512 add_pairs(__m512 a, __m512 b) {
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b))));
}

/* Lane i is sum_lanes(rows[i]). */
static inline vector sum_rows(const vector rows[16]) {
    __m512 fours[4];
    for (int i = 0; i < 4; i++)
        fours[i] = add_quarters(add_halves(rows[i], rows[i + 4]), add_halves(rows[i + 8], rows[i + 12]));
    __m512 first = add_pairs(fours[0], fours[1]), second = add_pairs(fours[2], fours[3]);
    return (vector)_mm512_add_ps(_mm512_shuffle_ps(first, second, 0x88), _mm512_shuffle_ps(first, second, 0xdd));
}

static inline float sum_lanes(vector v) {
    __m256 eight = _mm256_add_ps(_mm512_castps512_ps256((__m512)v), _mm512_extractf32x8_ps((__m512)v, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

/* Quarter q of result i: word 4 q + i of four rows. */
static inline void turn_quarters(__m512i result[4], const vector_word rows[4]) {
    __m512i a = _mm512_unpacklo_epi32((__m512i)rows[0], (__m512i)rows[1]);
    __m512i b = _mm512_unpacklo_epi32((__m512i)rows[2], (__m512i)rows[3]);
    __m512i c = _mm512_unpackhi_epi32((__m512i)rows[0], (__m512i)rows[1]);
    __m512i d = _mm512_unpackhi_epi32((__m512i)rows[2], (__m512i)rows[3]);
    result[0] = _mm512_unpacklo_epi64(a, b);
    result[1] = _mm512_unpackhi_epi64(a, b);
    result[2] = _mm512_unpacklo_epi64(c, d);
    result[3] = _mm512_unpackhi_epi64(c, d);
}

/* Words i, i + 4, i + 8 and i + 12 of sixteen rows, four vectors of them from quarters + i on. */
static inline void join_quarters(vector_word *words, const __m512i *quarters) {
    __m512i a = _mm512_shuffle_i32x4(quarters[0], quarters[4], 0x88);
    __m512i b = _mm512_shuffle_i32x4(quarters[8], quarters[12], 0x88);
    __m512i c = _mm512_shuffle_i32x4(quarters[0], quarters[4], 0xdd);
    __m512i d = _mm512_shuffle_i32x4(quarters[8], quarters[12], 0xdd);
    words[0] = (vector_word)_mm512_shuffle_i32x4(a, b, 0x88);
    words[4] = (vector_word)_mm512_shuffle_i32x4(c, d, 0x88);
    words[8] = (vector_word)_mm512_shuffle_i32x4(a, b, 0xdd);
    words[12] = (vector_word)_mm512_shuffle_i32x4(c, d, 0xdd);
}

/* Lane i of word r becomes lane r of word i. */
static inline void turn_words(vector_word words[16]) {
    __m512i quarters[16];
    turn_quarters(quarters, words);
    turn_quarters(quarters + 4, words + 4);
    turn_quarters(quarters + 8, words + 8);
    turn_quarters(quarters + 12, words + 12);
    join_quarters(words, quarters);
    join_quarters(words + 1, quarters + 1);
    join_quarters(words + 2, quarters + 2);
    join_quarters(words + 3, quarters + 3);
}
