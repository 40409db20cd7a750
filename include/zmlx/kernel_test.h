/* SPDX-License-Identifier: MIT */
/* Checking a kernel against a reference that does not share its code.
 *
 *     static int gold(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
 *         for (size_t i = 0; i < y->size; i++) y->values[i] = x->values[i] * tanh(log1p(exp(x->values[i])));
 *         return 0;
 *     }
 *     zmlx_reference reference = {.evaluate = gold};
 *     if (zmlx_assert_matches(mish, &reference, NULL, stream, &error) ||
 *         zmlx_assert_gradient_matches(mish, &reference, NULL, stream, &error)) puts(error.message);
 *
 * The kernel is applied to random arrays of several shapes and types and compared, element by element, with the
 * reference's values for the same stored inputs. The error message tells where it is furthest off. */
#ifndef ZMLX_KERNEL_TEST_H
#define ZMLX_KERNEL_TEST_H

#include "zmlx/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A whole array, row by row, in float64. */
typedef struct zmlx_test_array {
    double *values;
    size_t size;
    const int *shape;
    int n_dims;
} zmlx_test_array;

/* Either a C function or one of MLX. */
typedef struct zmlx_reference {
    /* Fills the values of all outputs. scales, one an output, may be filled too (they are zeros before): for each
     * element the magnitude that its rounding errors are relative to, see zmlx_tolerance. Inputs must not be
     * changed. Not 0: it cannot do this. */
    int (*evaluate)(void *context, const zmlx_test_array *inputs, zmlx_test_array *outputs, zmlx_test_array *scales);
    void *context;
    /* Else a function of the inputs as arrays of MLX. It gets float64 ones where it runs on the CPU (takes_float64),
     * else float32, and the tolerance doubles. */
    mlx_closure function;
    bool takes_float64;
} zmlx_reference;

/* How far off an element may be, with u = 2^-24, for a float32 result; n the row's length, t options->exponent:
 *   ELEMENTWISE  (16 + 4 |t|) u |expected| + 4 u scale, the scale being the largest term of any sum in the formula
 *   REDUCTION    (64 + 4 log2 n) u scale, the scale being the formula with every summand replaced by its magnitude
 * Gradients have four times that. A float16 or bfloat16 result may be one unit in the last place further off.
 * Where the reference gives no scale it is options->scale; else 0 for ELEMENTWISE outputs, and the largest expected
 * value of the array otherwise. */
typedef enum zmlx_tolerance {
    ZMLX_TOLERANCE_DEFAULT, /* REDUCTION for a kernel that works along rows */
    ZMLX_TOLERANCE_ELEMENTWISE,
    ZMLX_TOLERANCE_REDUCTION
} zmlx_tolerance;

typedef struct zmlx_test_shape {
    int n_dims, dims[8]; /* 1 to 8 dimensions, none of them 0 */
} zmlx_test_shape;

/* What one comparison found. Borrowed texts and shape. */
typedef struct zmlx_test_report {
    const char *kernel, *subject; /* an output's name, or an input's where it is a gradient */
    bool is_gradient, passed;
    const zmlx_test_shape *test_shape; /* of the inputs */
    mlx_dtype dtype;
    const int *shape; /* of what was compared */
    int n_dims;
    size_t n_compared, n_skipped; /* elements; see zmlx_assert_gradient_matches */
    size_t worst;                 /* the element furthest off, in units of the tolerance: its place, row by row */
    double expected, got, tolerance;
    double error; /* |got - expected| / tolerance; above 1 is a failure */
} zmlx_test_report;

/* Where an option is absent it is NULL or 0; a zeroed struct is all defaults. */
typedef struct zmlx_test_options {
    const zmlx_test_shape *shapes; /* (1), (7), (64), (3, 5), (2, 3, 129), (33, 1024) */
    size_t n_shapes;
    const mlx_dtype *dtypes; /* float32, float16, bfloat16 */
    size_t n_dtypes;
    const double (*ranges)[2]; /* lowest and highest number, one pair an input; -2 to 2 */
    uint32_t vector_inputs;    /* bit i: input i has one dimension, the last of the shape */
    uint64_t seed;
    const zmlx_kernel_numbers *numbers;
    zmlx_tolerance tolerance;
    double exponent, scale;
    double relative, absolute; /* if one is set, the tolerance is relative * |expected| + absolute */
    void (*log)(void *context, const zmlx_test_report *report); /* told of every comparison, in order */
    void *log_context;
} zmlx_test_options;

/* OK: all outputs match on all shapes and types. A difference is ZMLX_ERROR_ARGUMENT, the message telling of the
 * first comparison that failed; so is a reference that refuses or has other shapes. */
ZMLX_API zmlx_status zmlx_assert_matches(zmlx_kernel *kernel, const zmlx_reference *reference,
                                         const zmlx_test_options *options, mlx_stream stream, zmlx_error *error);

/* The same for the gradients of all inputs, given random cotangents of all outputs, through mlx_vjp. They are
 * compared with mlx_vjp of the reference's function; for a C function with its finite differences, where points close
 * to a kink are skipped and of rows longer than 32 only 32 columns are compared. */
ZMLX_API zmlx_status zmlx_assert_gradient_matches(zmlx_kernel *kernel, const zmlx_reference *reference,
                                                  const zmlx_test_options *options, mlx_stream stream,
                                                  zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
