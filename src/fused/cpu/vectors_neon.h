/* SPDX-License-Identifier: MIT */
/* What kernels.h asks of a level, with four lanes: for 64-bit ARM processors, all of which have NEON. */
enum { LANES = 4, ONE_TOKEN_ROWS = 4, TOKEN_ROWS = 2, LOOKUP_BITS = 0 };

typedef float vector __attribute__((vector_size(16)));
typedef int32_t vector_int __attribute__((vector_size(16)));
typedef uint32_t vector_word __attribute__((vector_size(16)));
typedef uint16_t vector_half __attribute__((vector_size(8)));

static inline vector multiply_add(vector a, vector b, vector c) {
    return (vector)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) { return (vector)vcvtq_f32_s32((int32x4_t)codes); }

/* Of stored words, the LANES words of word_bits bits, each with what follows it. */
static inline vector_word spread_words(uint8x16_t stored, int word_bits) {
    static const uint8_t of_20[] = {0, 1, 2, 255, 2, 3, 4, 255, 5, 6, 7, 255, 7, 8, 9, 255};
    static const uint8_t of_24[] = {0, 1, 2, 255, 3, 4, 5, 255, 6, 7, 8, 255, 9, 10, 11, 255};
    if (word_bits == 32) return (vector_word)stored;
    return (vector_word)vqtbl1q_u8(stored, vld1q_u8(word_bits == 24 ? of_24 : of_20));
}

/* n_bytes bytes, 4 to 16 of them and an even number; then zeros. */
static inline uint8x16_t load_bytes(const unsigned char *source, int n_bytes) {
    uint64_t low = 0, high = 0;
    if (n_bytes == 16) return vld1q_u8(source);
    memcpy(&low, source, n_bytes < 8 ? (size_t)n_bytes : 8);
    if (n_bytes > 8) memcpy(&high, source + 8, (size_t)n_bytes - 8);
    return (uint8x16_t)(uint64x2_t){low, high};
}

/* A vector of words of which only n_bytes, a multiple of 4, can be read; the other codes are 0. */
static __attribute__((noinline)) vector_word load_some_words(const unsigned char *source, int word_bits,
                                                             size_t n_bytes) {
    unsigned char stored[4 * LANES] = {0};
    memcpy(stored, source, n_bytes);
    return spread_words(vld1q_u8(stored), word_bits);
}

static inline vector_word load_words(const unsigned char *source, int word_bits) {
    return spread_words(load_bytes(source, LANES * word_bits / 8), word_bits);
}

/* The bytes of the first count scales of mxfp4, one a lane; the other lanes have that of 1, as 0 stands for a subnormal
 * number, which is slow. */
static inline vector_word load_exponents(const unsigned char *bytes, size_t count) {
    uint32_t packed = 0x7f7f7f7f;
    if (count < LANES) memcpy(&packed, bytes, count);
    else memcpy(&packed, bytes, LANES);
    return (vector_word)vmovl_u16(vget_low_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(packed)))));
}

/* Lane i gets values[lanes[i]]. */
static inline vector pick_lanes(vector values, vector_word lanes) {
    return (vector)vqtbl1q_u8((uint8x16_t)values, (uint8x16_t)(lanes * 0x04040404u + 0x03020100u));
}

static inline bool any_lane_is(vector_word lanes, uint32_t value) {
    return vmaxvq_u32(vceqq_u32((uint32x4_t)lanes, vdupq_n_u32(value))) != 0;
}

static inline vector look_up_codes(vector_word words, int bits) {
    (void)bits; /* LOOKUP_BITS is 0 */
    return codes_to_float(words);
}

/* The values of the e2m1 codes in the low four bits of each lane: their two high bytes are looked up. */
static inline vector mxfp4_values(vector_word codes) {
    static const uint8_t bytes[2][16] = {
        {0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, 0x80, 0xbf, 0xbf, 0xbf, 0xc0, 0xc0, 0xc0, 0xc0},
        {0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0, 0x00, 0x00, 0x80, 0xc0, 0x00, 0x40, 0x80, 0xc0}};
    uint8x16x2_t table = {{vld1q_u8(bytes[0]), vld1q_u8(bytes[1])}};
    return (vector)vqtbl2q_u8(table, (uint8x16_t)((codes & 15) * 0x01010000u + 0x0010ffffu));
}

static inline vector float16_to_float(vector_half halves) { return (vector)vcvt_f32_f16((float16x4_t)halves); }

static inline vector bfloat16_to_float(vector_half halves) { return (vector)vshll_n_u16((uint16x4_t)halves, 16); }

/* The first count < LANES values; the other lanes are 0. */
static __attribute__((noinline)) vector_half load_some_halves(const unsigned char *values, size_t count) {
    vector_half result = {0};
    memcpy(&result, values, 2 * count);
    return result;
}

static __attribute__((noinline)) vector load_some_floats(const unsigned char *values, size_t count) {
    vector result = {0};
    memcpy(&result, values, 4 * count);
    return result;
}

/* Each lane and the one half the lanes on, of two vectors. */
static inline float32x4_t add_halves(vector a, vector b) {
    float32x4_t low = vcombine_f32(vget_low_f32((float32x4_t)a), vget_low_f32((float32x4_t)b));
    return vaddq_f32(low, vcombine_f32(vget_high_f32((float32x4_t)a), vget_high_f32((float32x4_t)b)));
}

/* Lane i is sum_lanes(rows[i]). */
static inline vector sum_rows(const vector rows[4]) {
    return (vector)vpaddq_f32(add_halves(rows[0], rows[1]), add_halves(rows[2], rows[3]));
}

static inline float sum_lanes(vector v) {
    return vpadds_f32(vadd_f32(vget_low_f32((float32x4_t)v), vget_high_f32((float32x4_t)v)));
}

/* Lane i of word r becomes lane r of word i. */
static inline void turn_words(vector_word words[4]) {
    uint32x4_t a = (uint32x4_t)words[0], b = (uint32x4_t)words[1], c = (uint32x4_t)words[2], d = (uint32x4_t)words[3];
    uint64x2_t even = (uint64x2_t)vtrn1q_u32(a, b), odd = (uint64x2_t)vtrn2q_u32(a, b);
    uint64x2_t next_even = (uint64x2_t)vtrn1q_u32(c, d), next_odd = (uint64x2_t)vtrn2q_u32(c, d);
    words[0] = (vector_word)vtrn1q_u64(even, next_even);
    words[1] = (vector_word)vtrn1q_u64(odd, next_odd);
    words[2] = (vector_word)vtrn2q_u64(even, next_even);
    words[3] = (vector_word)vtrn2q_u64(odd, next_odd);
}
