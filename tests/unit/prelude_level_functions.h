/* SPDX-License-Identifier: MIT */
/* The table PRELUDE_LEVEL of prelude_level.h, from the prelude as this file's compiler options see it. */
#include "emit/c/prelude.h"
#include "emit/c/prelude_math.h"
#include "emit/c/prelude_random.h"
#include "prelude_level.h"

#define LANES for (int i = 0; i < n; i += ZM_WIDTH)
#define OPERAND(x) zm_load_float32(x, i)
#define UNUSED (void)a, (void)b, (void)c
#define FUNCTION(name, value) \
    static void run_##name(const float *a, const float *b, const float *c, float *y, int n) { \
        UNUSED; \
        LANES zm_store_float32(y, i, value); \
    }
#define UNARY(name) FUNCTION(name, zm_##name(OPERAND(a)))
#define BINARY(name) FUNCTION(name, zm_##name(OPERAND(a), OPERAND(b)))
#define TEST(name) FUNCTION(name, zm_from_bool(zm_##name(OPERAND(a))))
#define LIST_UNARY(X) \
    X(abs) X(floor) X(ceil) X(trunc) X(round) X(rint) X(sqrt) X(rsqrt) X(cbrt) X(exp) X(exp2) X(exp10) X(expm1) \
    X(log) X(log2) X(log10) X(log1p) X(sin) X(cos) X(tan) X(asin) X(acos) X(atan) X(sinh) X(cosh) X(tanh) \
    X(asinh) X(acosh) X(atanh) X(erf) X(erfc) X(sigmoid) X(narrow_exp) X(narrow_sigmoid) \
    X(mlx_sigmoid) X(stored_sigmoid_float16) X(stored_sigmoid_bfloat16) X(stored_float16) X(stored_bfloat16)
#define LIST_BINARY(X) X(copysign) X(min) X(max) X(fmod) X(pow) X(atan2)
#define LIST_TEST(X) X(isnan) X(isinf) X(isfinite)
LIST_UNARY(UNARY)
LIST_BINARY(BINARY)
LIST_TEST(TEST)
FUNCTION(fma, zm_fma(OPERAND(a), OPERAND(b), OPERAND(c)))
FUNCTION(and, zm_from_bool(zm_and(OPERAND(a) != 0.0f, OPERAND(b) != 0.0f)))
FUNCTION(or, zm_from_bool(zm_or(OPERAND(a) != 0.0f, OPERAND(b) != 0.0f)))
FUNCTION(not, zm_from_bool(zm_not(OPERAND(a) != 0.0f)))
FUNCTION(select, zm_select(OPERAND(a) != 0.0f, OPERAND(b), OPERAND(c)))
FUNCTION(from_bool, zm_from_bool(OPERAND(a) != 0.0f))
FUNCTION(from_uint, zm_from_uint((vu)OPERAND(a)))
FUNCTION(to_uint, (vf)zm_to_uint(OPERAND(a)))

#define ROW(name) {#name, run_##name},
static const prelude_operation operations[] = {
    LIST_UNARY(ROW) LIST_BINARY(ROW) LIST_TEST(ROW) ROW(fma) ROW(and) ROW(or) ROW(not) ROW(select) ROW(from_bool)
    ROW(from_uint) ROW(to_uint) {NULL, NULL}};

#define MEMORY(storage, vector, element) \
    static void load_##storage(const void *base, int64_t index, void *values) { \
        vector loaded = zm_load_##storage(base, index); \
        ZM_COPY(values, &loaded, sizeof loaded); \
    } \
    static void load_part_##storage(const void *base, int64_t index, int count, void *values) { \
        vector loaded = zm_load_part_##storage(base, index, count); \
        ZM_COPY(values, &loaded, sizeof loaded); \
    } \
    static void load_one_##storage(const void *base, int64_t index, void *values) { \
        vector loaded = zm_load_one_##storage(base, index); \
        ZM_COPY(values, &loaded, sizeof loaded); \
    } \
    static void store_##storage(void *base, int64_t index, const void *values) { \
        vector value; \
        ZM_COPY(&value, values, sizeof value); \
        zm_store_##storage(base, index, value); \
    } \
    static void store_part_##storage(void *base, int64_t index, const void *values, int count) { \
        vector value; \
        ZM_COPY(&value, values, sizeof value); \
        zm_store_part_##storage(base, index, value, count); \
    } \
    static void store_one_##storage(void *base, int64_t index, const void *values) { \
        element value; \
        ZM_COPY(&value, values, sizeof value); \
        zm_store_one_##storage(base, index, value); \
    } \
    static void stream_##storage(void *base, int64_t index, const void *values) { \
        vector value; \
        ZM_COPY(&value, values, sizeof value); \
        zm_stream_##storage(base, index, value); \
        zm_stream_fence(); \
    }
MEMORY(float32, vf, float)
MEMORY(float16, vf, float)
MEMORY(bfloat16, vf, float)
MEMORY(uint32, vu, uint32_t)
MEMORY(int32, vu, uint32_t)
MEMORY(uint8, vu, uint32_t)

#define MEMORY_ROW(storage, bytes) \
    {#storage, bytes, load_##storage, load_part_##storage, load_one_##storage, store_##storage, \
     store_part_##storage, store_one_##storage, stream_##storage},
static const prelude_memory memories[] = {
    MEMORY_ROW(float32, 4) MEMORY_ROW(float16, 2) MEMORY_ROW(bfloat16, 2) MEMORY_ROW(uint32, 4) MEMORY_ROW(int32, 4)
    MEMORY_ROW(uint8, 1) {.name = NULL}};

static float sum(const float *values) { return zm_sum(zm_load_float32(values, 0)); }
static float prod(const float *values) { return zm_prod(zm_load_float32(values, 0)); }
static float largest(const float *values) { return zm_max(zm_load_float32(values, 0)); }
static float smallest(const float *values) { return zm_min(zm_load_float32(values, 0)); }
static void random_values(uint64_t seed, uint64_t index, float *values) {
    const zm_keys keys = zm_keys_of(seed);
    zm_two two[2];
    zm_store_float32(values, 0, zm_random(&keys, index));
    for (int n = 1; n <= 2; n++) {
        values += n == 1 ? ZM_WIDTH : 2 * ZM_WIDTH;
        zm_random_pairs(&keys, index, two, n);
        for (int i = 0; i < n; i++) zm_store_pair_float32(values, 2 * i * ZM_WIDTH, two[i].first, two[i].second);
    }
}
static void first_lanes(int count, float *values) {
    zm_store_float32(values, 0, zm_from_bool(zm_first_lanes(count)));
}

const prelude_level PRELUDE_LEVEL = {
    PRELUDE_NAME, ZM_WIDTH, operations, memories, sum, prod, largest, smallest, random_values, first_lanes,
    sizeof(zm_c_call), offsetof(zm_c_call, stream_stores)};
