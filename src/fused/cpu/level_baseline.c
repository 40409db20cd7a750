/* SPDX-License-Identifier: MIT */
/* Four lanes, on any architecture. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

enum { LANES = 4, ONE_TOKEN_ROWS = 4, TOKEN_ROWS = 1, LOOKUP_BITS = 0 };

typedef float vector __attribute__((vector_size(16)));
typedef int32_t vector_int __attribute__((vector_size(16)));
typedef uint32_t vector_word __attribute__((vector_size(16)));
typedef uint16_t vector_half __attribute__((vector_size(8)));

static inline vector multiply_add(vector a, vector b, vector c) { return a * b + c; }

/* Codes below 2^31 as floats. */
static inline vector codes_to_float(vector_word codes) {
    return __builtin_convertvector((vector_int)codes, vector);
}

/* A vector of words of word_bits bits, each with what follows it, of which only n_bytes can be read; the other codes
 * are 0. */
static inline vector_word load_some_words(const unsigned char *source, int word_bits, size_t n_bytes) {
    unsigned char stored[4 * LANES] = {0};
    memcpy(stored, source, n_bytes);
    uint32_t words[LANES];
    for (int lane = 0; lane < LANES; lane++) memcpy(&words[lane], stored + lane * word_bits / 8, 4);
    return (vector_word){words[0], words[1], words[2], words[3]};
}

static inline vector_word load_words(const unsigned char *source, int word_bits) {
    if (word_bits != 32) return load_some_words(source, word_bits, LANES * (size_t)word_bits / 8);
    vector_word result;
    memcpy(&result, source, sizeof result);
    return result;
}

/* The bytes of the first count scales of mxfp4, one a lane; the other lanes have that of 1, as 0 stands for a subnormal
 * number, which is slow. */
static inline vector_word load_exponents(const unsigned char *bytes, size_t count) {
    unsigned char some[LANES] = {127, 127, 127, 127};
    memcpy(some, bytes, count < LANES ? count : LANES);
    return (vector_word){some[0], some[1], some[2], some[3]};
}

/* Lane i gets values[lanes[i]]. */
static inline vector pick_lanes(vector values, vector_word lanes) {
    return (vector){values[lanes[0]], values[lanes[1]], values[lanes[2]], values[lanes[3]]};
}

static inline bool any_lane_is(vector_word lanes, uint32_t value) {
    return lanes[0] == value || lanes[1] == value || lanes[2] == value || lanes[3] == value;
}

static inline vector look_up_codes(vector_word words, int bits) {
    (void)bits; /* LOOKUP_BITS is 0 */
    return codes_to_float(words);
}

/* The values of the e2m1 codes in the low four bits of each lane. With t = 2^e (1 + m/2), twice the
 * magnitude is t, or 2 t - 2 where e = 0. */
static inline vector mxfp4_values(vector_word codes) {
    vector t = (vector)(((codes & 7) << 22) + 0x3f800000u);
    vector_word small = (vector_word)((codes & 6) == 0);
    vector magnitude = (t + (vector)((vector_word)(t - 2.0f) & small)) * 0.5f;
    return (vector)((vector_word)magnitude | ((codes & 8) << 28));
}

static inline vector float16_to_float(vector_half halves) {
    vector_word wide = __builtin_convertvector(halves, vector_word);
    vector_word sign = (wide & 0x8000u) << 16, magnitude = (wide & 0x7fffu) << 13;
    vector_word special = (vector_word)(magnitude >= 0x0f800000u); /* infinity, NaN */
    vector_word finite = (vector_word)((vector)magnitude * 0x1p112f);
    return (vector)(sign | (special & (magnitude | 0x70000000u)) | (~special & finite));
}

static inline vector bfloat16_to_float(vector_half halves) {
    return (vector)(__builtin_convertvector(halves, vector_word) << 16);
}

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

static inline float sum_lanes(vector v) { return (v[0] + v[2]) + (v[1] + v[3]); }

/* Lane i is sum_lanes(rows[i]). */
static inline vector sum_rows(const vector rows[4]) {
    return (vector){sum_lanes(rows[0]), sum_lanes(rows[1]), sum_lanes(rows[2]), sum_lanes(rows[3])};
}

/* Lane i of word r becomes lane r of word i. */
static inline void turn_words(vector_word words[4]) {
    vector_word a = words[0], b = words[1], c = words[2], d = words[3];
    for (int i = 0; i < LANES; i++) words[i] = (vector_word){a[i], b[i], c[i], d[i]};
}

#define SYMBOL zm_level_baseline
#define NAME "baseline"
static bool supported(void) { return true; }

#include "fused/cpu/kernels.h"
