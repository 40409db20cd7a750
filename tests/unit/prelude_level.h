/* SPDX-License-Identifier: MIT */
/* What the prelude of C kernels does, as functions over arrays: one table for each set of instructions. */
#ifndef ZM_TESTS_PRELUDE_LEVEL_H
#define ZM_TESTS_PRELUDE_LEVEL_H

#include <stddef.h>
#include <stdint.h>

/* y[i] = zm_<name>(a[i], b[i], c[i]); n is a multiple of width. Bools are 0 and 1; where `bits` says so, a or y hold
 * uints. */
typedef void prelude_function(const float *a, const float *b, const float *c, float *y, int n);
typedef struct prelude_operation {
    const char *name;
    prelude_function *run;
} prelude_operation;

/* Load and store of a storage type. values: width floats or uints. */
typedef struct prelude_memory {
    const char *name;
    int bytes;
    void (*load)(const void *base, int64_t index, void *values);
    void (*load_part)(const void *base, int64_t index, int count, void *values);
    void (*load_one)(const void *base, int64_t index, void *values);
    void (*store)(void *base, int64_t index, const void *values);
    void (*store_part)(void *base, int64_t index, const void *values, int count);
    void (*store_one)(void *base, int64_t index, const void *value);
    void (*stream)(void *base, int64_t index, const void *values);
} prelude_memory;

typedef struct prelude_level {
    const char *name;
    int width;
    const prelude_operation *operations; /* up to one without a name */
    const prelude_memory *memories;      /* likewise */
    float (*sum)(const float *values), (*prod)(const float *values);
    float (*largest)(const float *values), (*smallest)(const float *values);
    void (*random)(uint64_t seed, uint64_t index,
                   float *values); /* of one, two and four vectors from index on: 7 width */
    void (*first_lanes)(int count, float *values);
    size_t call_bytes, call_last; /* of its zm_c_call: size, place of the last field */
} prelude_level;

extern const prelude_level prelude_baseline, prelude_avx2, prelude_avx512, prelude_avx512bf16;

#endif
