/* SPDX-License-Identifier: MIT */
/* A level's products, rows by rows. */
#ifndef ZM_TESTS_PRODUCT_TESTING_H
#define ZM_TESTS_PRODUCT_TESTING_H

#include "fused_testing.h"

#include "fused/cpu/product.h"

static zm_precision precision; /* of the products below */

static inline float *prepare_all(const zm_cpu_level *level, zm_order *order, const zm_matrix *matrix, const float *x,
                                 size_t n_tokens) {
    level->order(order, matrix, precision);
    size_t stride = zm_order_size(order);
    float *prepared = allocate(n_tokens * stride * sizeof *prepared);
    for (size_t t = 0; t < n_tokens; t++)
        level->prepare(prepared + t * stride, x + t * matrix->in_features, order);
    return prepared;
}

static inline float *multiply(const zm_cpu_level *level, const zm_matrix *matrix, const float *x, size_t n_tokens,
                              size_t expert, size_t split) {
    zm_order order;
    float *prepared = prepare_all(level, &order, matrix, x, n_tokens);
    float *y = allocate(n_tokens * matrix->out_features * sizeof *y);
    for (size_t begin = 0; begin < matrix->out_features; begin += split) {
        size_t end = begin + split < matrix->out_features ? begin + split : matrix->out_features;
        zm_product product = {.matrix = matrix, .expert = expert, .n_tokens = n_tokens, .prepared = prepared,
                              .prepared_stride = zm_order_size(&order), .limbs = order.limbs, .y = y + begin,
                              .y_stride = matrix->out_features};
        level->multiply(&product, begin, end);
    }
    free(prepared);
    return y;
}

/* Whether the machine runs the level, and the level has products of this precision. */
static inline bool computes(const zm_cpu_level *level) {
    return level->supported() && (precision == ZM_PRECISION_FLOAT32 || level->int8);
}

#endif
