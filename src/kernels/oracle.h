/* SPDX-License-Identifier: MIT */
/* What the kernels are tested against: zm_ref_<name> of each row in <family>_ref.c computes outputs and, where asked,
 * gradients in float64, from the formulas that the kernel documents, sharing no code with the expressions.
 *
 * Beside each value goes what its error may be relative to: for class reduction the formula with every summand replaced
 * by its magnitude; for class elementwise the largest term of any sum, and as exponent the t of a factor e^t in whose
 * tail the value is. */
#ifndef ZM_KERNELS_ORACLE_H
#define ZM_KERNELS_ORACLE_H

#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/signature.h"

typedef struct zm_oracle_input {
    const double *values; /* row-major; NULL: left out */
    size_t size;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
} zm_oracle_input;

typedef struct zm_oracle_output {
    double *values, *scales, *exponents; /* zeros before */
    size_t size;
    int shape[ZM_SIGNATURE_MAX_DIMS], n_dims;
    double terms; /* n of class reduction: the columns, of a parameter's gradient the rows if they are more */
} zm_oracle_output;

typedef struct zm_oracle {
    const zm_oracle_input *inputs;      /* of the signature, in order */
    const zm_oracle_input *cotangents;  /* one an output */
    const zmlx_catalog_value *numbers;
    zm_oracle_output *outputs;
    zm_oracle_output *gradients;        /* one an input, of those that are floats; NULL: only outputs are asked for */
    const zm_sizes *sizes;
    size_t rows, columns;               /* of the first input: the last dimension is the columns; 0-d is one of each */
} zm_oracle;

typedef void zm_oracle_function(zm_oracle *call);

static inline void zm_put(zm_oracle_output *output, size_t i, double value, double scale) {
    output->values[i] = value;
    output->scales[i] = scale;
}
static inline void zm_put_tail(zm_oracle_output *output, size_t i, double value, double scale, double exponent) {
    zm_put(output, i, value, scale);
    output->exponents[i] = exponent;
}
static inline void zm_put_more(zm_oracle_output *output, size_t i, double value, double scale) {
    output->values[i] += value;
    output->scales[i] += scale;
}
static inline int zm_oracle_size(const zm_oracle *call, const char *name) {
    int64_t value = 0;
    zm_sizes_find(&value, call->sizes, name);
    return (int)value;
}

/* Functions of the catalogue's formulas. */
static inline double zm_ref_logistic(double x) { return x >= 0 ? 1 / (1 + exp(-x)) : exp(x) / (1 + exp(x)); }
static inline double zm_ref_silu_of(double x) { return x == -INFINITY ? 0 : x * zm_ref_logistic(x); }
static inline double zm_ref_silu_slope(double x) {
    double s = zm_ref_logistic(x);
    return isinf(x) ? x > 0 : s * (1 + x * (1 - s));
}
static inline double zm_ref_gelu_argument(double x) { return 2 * 0.7978845608028654 * (x + 0.044715 * x * x * x); }
static inline double zm_ref_gelu_of(double x) {
    return x == -INFINITY ? 0 : x * zm_ref_logistic(zm_ref_gelu_argument(x));
}
static inline double zm_ref_gelu_slope(double x) {
    double p = zm_ref_logistic(zm_ref_gelu_argument(x)), q = zm_ref_logistic(-zm_ref_gelu_argument(x));
    return fabs(x) > 1e3 ? x > 0 : p + x * 2 * p * q * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}
/* What of a slope is relative to: its terms' magnitudes. */
static inline double zm_ref_gelu_slope_scale(double x) {
    double p = zm_ref_logistic(zm_ref_gelu_argument(x)), q = zm_ref_logistic(-zm_ref_gelu_argument(x));
    return isinf(x) ? 1 : p + fabs(x) * 2 * p * q * 0.7978845608028654 * (1 + 3 * 0.044715 * x * x);
}
static inline double zm_ref_silu_slope_scale(double x) {
    double s = zm_ref_logistic(x);
    return isinf(x) ? 1 : s * (1 + fabs(x) * (1 - s));
}
static inline double zm_ref_tail(double x) { return x < 0 && x > -1e4 ? x : 0; }

/* Philox4x32-10 (Salmon et al. 2011) as the catalogue uses it: uniform in [0, 1) for element i of a seed. */
double zm_ref_random(uint64_t seed, uint64_t i);

#endif
