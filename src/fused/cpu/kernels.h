/* SPDX-License-Identifier: MIT */
/* The kernels of one level. Included once by each level_*.c, which defines before:
 *   LANES; ONE_TOKEN_ROWS, TOKEN_ROWS: rows computed together for one and for several tokens;
 *   the types vector, vector_int, vector_word, vector_half of LANES elements;
 *   multiply_add, codes_to_float, load_words, load_some_words, load_exponents, mxfp4_values, float16_to_float,
 *   bfloat16_to_float, load_some_halves, load_some_floats, pick_lanes, any_lane_is, sum_lanes, sum_rows, turn_words;
 *   SYMBOL, NAME and supported(). */

/* Inlining with constant arguments is what turns the functions below into one kernel a format. Builds that
 * are not for speed (without optimisation, with sanitizers) keep one general kernel: same results,
 * and compiled in seconds instead of minutes. */
#if defined(__has_feature)
#define HAS_FEATURE(feature) __has_feature(feature)
#else
#define HAS_FEATURE(feature) 0
#endif
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && \
    !HAS_FEATURE(address_sanitizer) && !HAS_FEATURE(thread_sanitizer)
#define INLINE static inline __attribute__((always_inline))
#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#else
#define INLINE static
#define UNROLL
#endif

INLINE vector load_vector(const float *values) {
    vector result;
    memcpy(&result, values, sizeof result);
    return result;
}

INLINE void store_vector(float *values, vector v) { memcpy(values, &v, sizeof v); }

/* v - 0 is v for every v, so this is a plain broadcast. */
INLINE vector splat(float value) { return value - (vector){0}; }

INLINE vector load_floats(const unsigned char *values) {
    vector result;
    memcpy(&result, values, sizeof result);
    return result;
}

INLINE vector_half load_halves(const unsigned char *values) {
    vector_half result;
    memcpy(&result, values, sizeof result);
    return result;
}

/* mxfp4's scales: 2^(byte - 127); 2^-127 is subnormal. */
INLINE vector exponents_to_float(vector_word bytes) {
    return (vector)((bytes << 23) | ((vector_word)(bytes == 0) & 0x00400000u));
}

/* LANES stored numbers, or only the first `count`; the other lanes are 0. */
INLINE vector load_stored(const unsigned char *values, zm_storage storage, size_t count) {
    if (storage == ZM_STORAGE_FLOAT32)
        return count < LANES ? load_some_floats(values, count) : load_floats(values);
    vector_half halves = count < LANES ? load_some_halves(values, count) : load_halves(values);
    return storage == ZM_STORAGE_FLOAT16 ? float16_to_float(halves) : bfloat16_to_float(halves);
}

/* Widens count numbers; the result is filled up with zeros to a multiple of LANES. */
INLINE void widen_padded(float *result, const unsigned char *values, zm_storage storage, size_t count) {
    size_t size = zm_storage_size(storage);
    for (size_t i = 0; i < count; i += LANES)
        store_vector(result + i, load_stored(values + i * size, storage, count - i));
}

static void widen(float *result, const void *values, zm_storage storage, size_t count) {
    size_t whole = count / LANES * LANES;
    const unsigned char *bytes = values;
    if (storage == ZM_STORAGE_FLOAT32) {
        memcpy(result, values, count * sizeof *result);
        return;
    }
    if (storage == ZM_STORAGE_FLOAT16) widen_padded(result, bytes, ZM_STORAGE_FLOAT16, whole);
    else widen_padded(result, bytes, ZM_STORAGE_BFLOAT16, whole);
    for (size_t i = whole; i < count; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof half);
        result[i] = storage == ZM_STORAGE_FLOAT16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half);
    }
}

/* Bytes fetched early: rows are short for the processor's own streams. */
enum { AHEAD = 8192, SCALES_AHEAD = 512 };

#include "fused/cpu/kernels_edges.h"

#include "fused/cpu/kernels_order.h"

#include "fused/cpu/kernels_multiply.h"

#include "fused/cpu/kernels_activate.h"

#include "fused/cpu/kernels_attend.h"

#include "fused/cpu/kernels_attend_tokens.h"

#include "fused/cpu/kernels_delta.h"

#ifdef LIMBS
#include "fused/cpu/kernels_limbs.h"
#endif

static void order(zm_order *result, const zm_matrix *matrix, zm_precision precision) {
#ifdef LIMBS
    /* Rows of few groups leave most lanes of their scales empty. */
    int limbs = precision == ZM_PRECISION_INT8 ? 1 : zm_matrix_groups(matrix) < LANES / 4 ? 0 : 3;
    if (matrix->kind != ZM_MATRIX_DENSE && limbs && limbs <= LIMBS) {
        order_limbs(result, matrix, limbs);
        return;
    }
#endif
    (void)precision;
    order_floats(result, matrix);
}

static void prepare(float *prepared, const float *x, const zm_order *plan) {
#ifdef LIMBS
    if (plan->limbs) {
        prepare_limbs(prepared, x, plan);
        return;
    }
#endif
    prepare_floats(prepared, x, plan);
}

static void multiply(const zm_product *product, size_t row_begin, size_t row_end) {
#ifdef LIMBS
    if (product->limbs) {
        multiply_limbs(product, row_begin, row_end);
        return;
    }
#endif
    multiply_floats(product, row_begin, row_end);
}

const zm_cpu_level SYMBOL = {
    .name = NAME,
    .supported = supported,
#ifdef LIMBS
    .int8 = true,
#endif
    .order = order,
    .prepare = prepare,
    .multiply = multiply,
    .activate = activate,
    .sigmoid = sigmoid_all,
    .largest = largest,
    .sum_exponentials = sum_exponentials,
    .widen = widen,
    .attend = attend,
    .attend_tokens = attend_tokens,
    .delta = delta,
};
