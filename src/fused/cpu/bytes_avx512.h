/* SPDX-License-Identifier: MIT */
/* What kernels_limbs.h asks of a level: vectors of bytes, with AVX-512 VNNI and VBMI. */
enum { SIGNED_CODES = 0, EIGHT_DIFFERS = 0, DOT_WORDS = 1, WIDE_TOKENS = 8 };

/* Lane i of sum, plus the four products of unsigned bytes of a and signed bytes of b there. */
static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight) {
    (void)eight;
    return (vector_int)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)a, (__m512i)b);
}

/* The same with the four bytes of word i < DOT_WORDS at `numbers` in each lane of b. */
static inline vector_int dot_word(vector_int sum, vector_word a, const unsigned char *numbers, int i, bool eight) {
    int32_t word;
    memcpy(&word, numbers + 4 * i, sizeof word);
    return dot_bytes(sum, a, (vector_int)_mm512_set1_epi32(word), eight);
}

/* The codes of up to LANES words, one a byte; two a byte where they have 4 bits. A word is four bytes of the result,
 * the words from n_words on are 0. */
static inline vector_word load_codes(const unsigned char *source, int bits, int n_words) {
    if (bits == 4 || bits == 8) {
        if (n_words >= LANES) return (vector_word)_mm512_loadu_si512(source);
        __mmask16 present = (__mmask16)(n_words > 0 ? (1u << n_words) - 1 : 0);
        return (vector_word)_mm512_maskz_loadu_epi32(present, source);
    }
    /* Eight codes are `bits` bytes: these go to a lane of 64 bits, then each code to a byte of it. */
    if (n_words > LANES) n_words = LANES;
    uint64_t present = n_words > 0 ? (UINT64_C(1) << n_words * bits / 2) - 1 : 0;
    __m512i packed = _mm512_maskz_loadu_epi8(present, source);
    const __m512i eight = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
    const __m512i bytes = _mm512_set1_epi64(0x0706050403020100);
    __m512i first = _mm512_mullo_epi64(eight, _mm512_set1_epi64((long long)(0x0101010101010101u * (uint64_t)bits)));
    const __m512i shifts = _mm512_set1_epi64((long long)(0x0706050403020100u * (uint64_t)bits));
    __m512i gathered = _mm512_permutexvar_epi8(_mm512_add_epi8(first, bytes), packed);
    __m512i codes = _mm512_multishift_epi64_epi8(shifts, gathered);
    return (vector_word)_mm512_and_si512(codes, _mm512_set1_epi8((char)((1 << bits) - 1)));
}

/* Twice the values of e2m1 codes, plus 12. */
static inline vector_word mxfp4_bytes(vector_word codes) {
    const __m512i values =
        _mm512_broadcast_i32x4(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return (vector_word)_mm512_shuffle_epi8(values, (__m512i)codes);
}

/* a and b have groups of neighbouring lanes: the result has groups of half as many, of a's sums and b's. step counts
 * the halvings before. */
static inline vector_int halve_groups(vector_int a, vector_int b, int step) {
    __m512i first = (__m512i)a, second = (__m512i)b, low, high;
    if (step == 0) {
        low = _mm512_unpacklo_epi32(first, second);
        high = _mm512_unpackhi_epi32(first, second);
    } else if (step == 1) {
        low = _mm512_unpacklo_epi64(first, second);
        high = _mm512_unpackhi_epi64(first, second);
    } else {
        low = _mm512_shuffle_i32x4(first, second, 0x88);
        high = _mm512_shuffle_i32x4(first, second, 0xdd);
    }
    return (vector_int)_mm512_add_epi32(low, high);
}

/* Puts groups of group_words lanes, halved until one was left of each, into their order. */
static inline vector order_groups(vector sums, int group_words) {
    const __m512i of_4 = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i of_8 = _mm512_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
    if (group_words > 8) return sums;
    return (vector)_mm512_permutexvar_ps(group_words == 4 ? of_4 : of_8, (__m512)sums);
}

static inline vector even_lanes(vector a, vector b) {
    const __m512i lanes = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    return (vector)_mm512_permutex2var_ps((__m512)a, lanes, (__m512)b);
}

static inline vector odd_lanes(vector a, vector b) {
    const __m512i lanes = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return (vector)_mm512_permutex2var_ps((__m512)a, lanes, (__m512)b);
}

/* To the nearest, halves to the even one. */
static inline vector_int round_to_int(vector v) { return (vector_int)_mm512_cvtps_epi32((__m512)v); }

/* The lowest byte of each lane. */
static inline void store_low_bytes(unsigned char *to, vector_int v) {
    _mm_storeu_si128((__m128i *)(void *)to, _mm512_cvtepi32_epi8((__m512i)v));
}
