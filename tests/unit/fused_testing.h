/* SPDX-License-Identifier: MIT */
/* Random weights and their values in float64, read bit by bit: the oracle of the fused kernels' tests. */
#ifndef ZM_TESTS_FUSED_TESTING_H
#define ZM_TESTS_FUSED_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "fused/cpu/level.h"

static uint64_t random_state = 88172645463325252u;

static inline uint32_t random_bits(void) {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (uint32_t)(random_state >> 32);
}

/* In [-1, 1). */
static inline float random_float(void) { return (float)(int32_t)random_bits() * 0x1p-31f; }

static inline void *allocate(size_t bytes) {
    void *result = malloc(bytes ? bytes : 1);
    assert_non_null(result);
    return result;
}

static inline float *random_floats(size_t count) {
    float *values = allocate(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = random_float();
    return values;
}

static inline double stored_value(const unsigned char *values, zm_storage storage, size_t index) {
    float value;
    uint16_t half;
    if (storage == ZM_STORAGE_FLOAT32) {
        memcpy(&value, values + 4 * index, 4);
        return (double)value;
    }
    memcpy(&half, values + 2 * index, 2);
    return (double)(storage == ZM_STORAGE_FLOAT16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half));
}

static inline void store_value(unsigned char *values, zm_storage storage, size_t index, float value) {
    uint16_t half = zm_bfloat16_from_float(value);
    if (storage == ZM_STORAGE_FLOAT16) half = zm_float16_from_float(value);
    if (storage == ZM_STORAGE_FLOAT32) memcpy(values + 4 * index, &value, 4);
    else memcpy(values + 2 * index, &half, 2);
}

/* Usual scales; in every fourth row some of very different sizes, kept inside the storage's range. */
static inline float random_scale(zm_storage storage, size_t row) {
    int spread = storage == ZM_STORAGE_FLOAT16 ? 14 : 60, exponent = -4;
    if (row % 4 == 3 && random_bits() % 4 == 0)
        exponent = (int)(random_bits() % (uint32_t)(2 * spread)) - spread;
    return ldexpf(random_float(), exponent);
}

/* The bytes of a matrix are exactly as large as it says, so that ASan sees any read past their ends. */
static inline void fill_matrix(zm_matrix *matrix) {
    size_t rows = matrix->n_experts * matrix->out_features;
    size_t bytes = rows * zm_matrix_row_bytes(matrix), scale_bytes = rows * zm_matrix_scale_row_bytes(matrix);
    size_t groups = rows * zm_matrix_groups(matrix);
    unsigned char *weight = allocate(bytes), *scales = allocate(scale_bytes), *biases = allocate(scale_bytes);
    for (size_t i = 0; i < bytes; i++) weight[i] = (unsigned char)random_bits();
    if (matrix->kind == ZM_MATRIX_DENSE)
        for (size_t i = 0; i < rows * matrix->in_features; i++)
            store_value(weight, matrix->storage, i, random_scale(matrix->storage, i / matrix->in_features));
    for (size_t i = 0; i < groups; i++) {
        size_t row = i / zm_matrix_groups(matrix);
        if (matrix->kind == ZM_MATRIX_MXFP4) {
            scales[i] = (unsigned char)(random_bits() % 8 ? 118 + random_bits() % 4 : random_bits() % 4);
            if (row % 4 == 3) scales[i] = (unsigned char)(random_bits() % 200);
        } else {
            store_value(scales, matrix->storage, i, random_scale(matrix->storage, row));
            store_value(biases, matrix->storage, i, random_scale(matrix->storage, row));
        }
    }
    matrix->weight = weight;
    matrix->scales = scales;
    matrix->biases = biases;
}

static inline void free_matrix(zm_matrix *matrix) {
    free((void *)(uintptr_t)matrix->weight);
    free((void *)(uintptr_t)matrix->scales);
    free((void *)(uintptr_t)matrix->biases);
}

static inline unsigned code_at(const unsigned char *row, size_t index, int bits) {
    unsigned code = 0;
    for (int b = 0; b < bits; b++) {
        size_t bit = index * (size_t)bits + (size_t)b;
        code |= (unsigned)(row[bit / 8] >> (bit % 8) & 1) << b;
    }
    return code;
}

/* W[expert][row][i] as a product part and an additive part: value = *part + *bias. */
static inline void weight_value(const zm_matrix *matrix, size_t row, size_t i, double *part, double *bias) {
    static const double mxfp4[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
    *bias = 0;
    if (matrix->kind == ZM_MATRIX_DENSE) {
        *part = stored_value(matrix->weight, matrix->storage, row * matrix->in_features + i);
        return;
    }
    unsigned code = code_at(matrix->weight + row * zm_matrix_row_bytes(matrix), i, matrix->bits);
    size_t group = row * zm_matrix_groups(matrix) + i / (size_t)matrix->group_size;
    if (matrix->kind == ZM_MATRIX_MXFP4) {
        *part = ldexp(code & 8 ? -mxfp4[code & 7] : mxfp4[code & 7], (int)matrix->scales[group] - 127);
        return;
    }
    *part = stored_value(matrix->scales, matrix->storage, group) * code;
    *bias = stored_value(matrix->biases, matrix->storage, group);
}

/* A float32 sum of n terms in some lanes: each of the rounding errors is at most 2^-24 of a partial sum. They
 * are of both signs, so they add up to about log2 n to sqrt(n) of them, not n; a wrong code or scale changes
 * the sum by about 1 / n of its terms, far more. */
static inline double product_bound(size_t n, double size) {
    return (64 + 4 * log2((double)n)) * 0x1p-24 * size + 1e-37;
}

#endif
