/* SPDX-License-Identifier: MIT */
/* What kernels_limbs.h asks of a level, but dot_bytes: vectors of bytes, with NEON. */

/* The codes of a vector of words, one a byte; two a byte where they have 4 bits. Groups fill whole vectors here. */
static inline vector_word load_codes(const unsigned char *source, int bits, int n_words) {
    (void)n_words;
    if (bits == 4 || bits == 8) return (vector_word)vld1q_u8(source);
    /* The byte in which a code begins, shifted down, and the next one, shifted up. */
    uint8x16_t packed = load_bytes(source, 2 * bits);
    const uint8x16_t numbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8x16_t places = numbers * (uint8_t)bits; /* in bits */
    uint8x16_t first = places >> 3, shift = places & 7;
    uint8x16_t codes = vshlq_u8(vqtbl1q_u8(packed, first), -(int8x16_t)shift);
    if (bits != 2) codes |= vshlq_u8(vqtbl1q_u8(packed, first + 1), 8 - (int8x16_t)shift);
    return (vector_word)(codes & (uint8_t)((1 << bits) - 1));
}

/* Twice the values of e2m1 codes, plus 12. */
static inline vector_word mxfp4_bytes(vector_word codes) {
    const uint8x16_t values = {12, 13, 14, 15, 16, 18, 20, 24, 12, 11, 10, 9, 8, 6, 4, 0};
    return (vector_word)vqtbl1q_u8(values, (uint8x16_t)codes);
}

/* a and b have groups of neighbouring lanes: the result has groups of half as many, of a's sums and b's. */
static inline vector_int halve_groups(vector_int a, vector_int b, int step) {
    (void)step;
    return (vector_int)vpaddq_s32((int32x4_t)a, (int32x4_t)b);
}

/* They are in their order. */
static inline vector order_groups(vector sums, int group_words) {
    (void)group_words;
    return sums;
}

static inline vector even_lanes(vector a, vector b) {
    return (vector)vuzp1q_f32((float32x4_t)a, (float32x4_t)b);
}

static inline vector odd_lanes(vector a, vector b) { return (vector)vuzp2q_f32((float32x4_t)a, (float32x4_t)b); }

/* To the nearest, halves to the even one. */
static inline vector_int round_to_int(vector v) { return (vector_int)vcvtnq_s32_f32((float32x4_t)v); }

/* The lowest byte of each lane. */
static inline void store_low_bytes(unsigned char *to, vector_int v) {
    int16x4_t halves = vmovn_s32((int32x4_t)v);
    uint32x2_t bytes = vreinterpret_u32_s8(vmovn_s16(vcombine_s16(halves, halves)));
    uint32_t word = vget_lane_u32(bytes, 0);
    memcpy(to, &word, sizeof word);
}

/* Defines dot_word: each lane of sum, plus the products of the four bytes of a there with those of word
 * i < DOT_WORDS at `numbers`. dot is the level's instruction by element, codes the type of a's bytes. */
#define DEFINE_DOT_WORD(dot, codes)                                                                              \
    static inline vector_int dot_word(vector_int sum, vector_word a, const unsigned char *numbers, int i,        \
                                      bool eight) {                                                              \
        (void)eight;                                                                                             \
        int8x16_t four = vld1q_s8((const int8_t *)numbers);                                                      \
        if (i == 0) return (vector_int)dot((int32x4_t)sum, (codes)a, four, 0);                                   \
        if (i == 1) return (vector_int)dot((int32x4_t)sum, (codes)a, four, 1);                                   \
        if (i == 2) return (vector_int)dot((int32x4_t)sum, (codes)a, four, 2);                                   \
        return (vector_int)dot((int32x4_t)sum, (codes)a, four, 3);                                               \
    }
