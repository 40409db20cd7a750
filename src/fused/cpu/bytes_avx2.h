/* SPDX-License-Identifier: MIT */
/* What kernels_limbs.h asks of a level, but dot_bytes: vectors of bytes, with AVX2. */
enum { DOT_WORDS = 1, WIDE_TOKENS = 4 };

static inline vector_int dot_bytes(vector_int sum, vector_word a, vector_int b, bool eight);

/* dot_bytes with the four bytes of the word at `numbers` in each lane of b. */
static inline vector_int dot_word(vector_int sum, vector_word a, const unsigned char *numbers, int i, bool eight) {
    int32_t word;
    (void)i; /* DOT_WORDS is 1 */
    memcpy(&word, numbers, sizeof word);
    return dot_bytes(sum, a, (vector_int)_mm256_set1_epi32(word), eight);
}

typedef uint16_t vector_pair __attribute__((vector_size(32)));

/* Eight codes of each half of packed, the first at these places (in bits), one in 16 bits. A code lies in the 16 bits
 * from the byte on in which it begins: they are moved until it begins at bit 8. */
static inline __m256i spread_codes(__m256i packed, vector_pair places, int bits) {
    vector_pair powers = (vector_pair){256, 256, 256, 256, 256, 256, 256, 256,
                                       256, 256, 256, 256, 256, 256, 256, 256} >>
                         (places & 7);
    vector_pair bytes = (places >> 3) * 0x101 + 0x100;
    vector_pair pairs = (vector_pair)_mm256_shuffle_epi8(packed, (__m256i)bytes) * powers;
    return (__m256i)((pairs >> 8) & (uint16_t)((1 << bits) - 1));
}

/* The codes of up to LANES words, one a byte; two a byte where they have 4 bits. A word is four bytes of the result,
 * the words from n_words on are 0. Only groups of 32 codes of 4 bits do not fill whole vectors. */
static inline vector_word load_codes(const unsigned char *source, int bits, int n_words) {
    if (bits == 4 || bits == 8) {
        if (n_words >= LANES) return load_words(source, 32);
        return load_some_words(source, 32, n_words > 0 ? 4 * (size_t)n_words : 0);
    }
    /* Sixteen codes are 2 * bits bytes: these go to each half, with those before them in their word. */
    uint16_t before = (uint16_t)(2 * bits % 4 * 8);
    vector_word quads = {0, 1, 2, 3, 0, 1, 2, 3};
    quads += (vector_word){0, 0, 0, 0, 1, 1, 1, 1} * (uint32_t)(2 * bits / 4);
    __m256i stored = _mm256_maskload_epi32((const int *)(const void *)source, first_lanes((size_t)bits));
    __m256i packed = _mm256_permutevar8x32_epi32(stored, (__m256i)quads);
    vector_pair places = (vector_pair){0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7} * (uint16_t)bits;
    places += (vector_pair){0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1} * before;
    __m256i first = spread_codes(packed, places, bits),
            second = spread_codes(packed, places + (uint16_t)(8 * bits), bits);
    return (vector_word)_mm256_packus_epi16(first, second);
}

/* Twice the values of e2m1 codes, plus 12. */
static inline vector_word mxfp4_bytes(vector_word codes) {
    const __m256i values =
        _mm256_broadcastsi128_si256(_mm_setr_epi8(12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0));
    return (vector_word)_mm256_shuffle_epi8(values, (__m256i)codes);
}

/* a and b have groups of neighbouring lanes: the result has groups of half as many, of a's sums and b's. step counts
 * the halvings before. */
static inline vector_int halve_groups(vector_int a, vector_int b, int step) {
    __m256i first = (__m256i)a, second = (__m256i)b, low, high;
    if (step == 0) {
        low = _mm256_unpacklo_epi32(first, second);
        high = _mm256_unpackhi_epi32(first, second);
    } else if (step == 1) {
        low = _mm256_unpacklo_epi64(first, second);
        high = _mm256_unpackhi_epi64(first, second);
    } else {
        low = _mm256_permute2x128_si256(first, second, 0x20);
        high = _mm256_permute2x128_si256(first, second, 0x31);
    }
    return (vector_int)_mm256_add_epi32(low, high);
}

/* Puts groups of group_words lanes, halved until one was left of each, into their order. */
static inline vector order_groups(vector sums, int group_words) {
    if (group_words > 4) return sums;
    return pick_lanes(sums, (vector_word){0, 4, 1, 5, 2, 6, 3, 7});
}

/* Quarters 0, 2, 1, 3: _mm256_shuffle_ps takes a half of each vector in turn. */
static inline vector order_quarters(__m256 lanes) {
    return (vector)_mm256_permute4x64_epi64(_mm256_castps_si256(lanes), 0xd8);
}

static inline vector even_lanes(vector a, vector b) {
    return order_quarters(_mm256_shuffle_ps((__m256)a, (__m256)b, 0x88));
}

static inline vector odd_lanes(vector a, vector b) {
    return order_quarters(_mm256_shuffle_ps((__m256)a, (__m256)b, 0xdd));
}

/* To the nearest, halves to the even one. */
static inline vector_int round_to_int(vector v) { return (vector_int)_mm256_cvtps_epi32((__m256)v); }

/* The lowest byte of each lane. */
static inline void store_low_bytes(unsigned char *to, vector_int v) {
    const __m256i lowest = _mm256_setr_epi8(0, 4, 8, 12, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, 0, 4, 8, 12,
                                            -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1);
    __m256i bytes = _mm256_shuffle_epi8((__m256i)v, lowest);
    __m128i eight = _mm_unpacklo_epi32(_mm256_castsi256_si128(bytes), _mm256_extracti128_si256(bytes, 1));
    _mm_storel_epi64((__m128i *)(void *)to, eight);
}
