/* SPDX-License-Identifier: MIT */
/* Dequantised weights in float64, for the oracles of moe and fused_moe. */
#ifndef ZM_KERNELS_MOE_EXPERTS_REF_H
#define ZM_KERNELS_MOE_EXPERTS_REF_H

#include "kernels/oracle.h"

/* Weight (row, column) of packed words: the row's words are one stream of bits, the first the least significant. */
typedef struct zm_ref_packed {
    const zm_oracle_input *words, *scales, *biases;
    size_t columns, bits, group_size;
} zm_ref_packed;

static inline double zm_ref_weight(const zm_ref_packed *self, size_t row, size_t column) {
    size_t n_words = self->columns * self->bits / 32, first = column * self->bits, code = 0;
    for (size_t bit = 0; bit < self->bits; bit++) {
        uint32_t word = (uint32_t)self->words->values[row * n_words + (first + bit) / 32];
        code |= (size_t)(word >> (first + bit) % 32 & 1) << bit;
    }
    size_t group = row * (self->columns / self->group_size) + column / self->group_size;
    return (double)code * self->scales->values[group] + self->biases->values[group];
}

/* The magnitude of its terms. */
static inline double zm_ref_weight_size(const zm_ref_packed *self, size_t row, size_t column) {
    size_t group = row * (self->columns / self->group_size) + column / self->group_size;
    double bias = self->biases->values[group];
    return fabs(zm_ref_weight(self, row, column) - bias) + fabs(bias);
}

#endif
