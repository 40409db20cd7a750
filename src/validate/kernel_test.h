/* SPDX-License-Identifier: MIT */
/* Parts of zmlx_assert_matches: arrays of one case, the reference's values. */
#ifndef ZM_VALIDATE_KERNEL_TEST_H
#define ZM_VALIDATE_KERNEL_TEST_H

#include "base/arena.h"
#include "base/error.h"
#include "ir/ir.h"
#include "zmlx/kernel_test.h"
#include "zmlx/kernel_tools.h"

/* One shape and type. Everything in it lives in its arena, but for the handles. */
typedef struct zm_test_case {
    zm_arena *arena;
    zmlx_kernel *kernel;
    const zmlx_kernel_info *info;
    const zmlx_reference *reference;
    const zmlx_test_options *options;
    mlx_stream stream, cpu; /* the caller's; one that has float64 */
    const zmlx_test_shape *shape;
    size_t rows, columns;
    mlx_dtype dtype;
    zmlx_test_array inputs[ZM_IR_MAX_INPUTS], cotangents[ZM_IR_MAX_OUTPUTS]; /* as stored */
    mlx_array stored_inputs[ZM_IR_MAX_INPUTS], stored_cotangents[ZM_IR_MAX_OUTPUTS]; /* owned */
    mlx_array outputs[ZM_IR_MAX_OUTPUTS]; /* of the kernel, owned */
} zm_test_case;

/* What an array should hold. */
typedef struct zm_test_expected {
    zmlx_test_array values, scales; /* scales NULL: not known */
    bool *compared;                 /* NULL: all */
} zm_test_expected;

/* Lowest and highest number of an input. */
void zm_test_range(double range[2], const zmlx_test_options *options, size_t input);

/* Random numbers in range, as dtype stores them: float64 values and the array, the caller's. */
zmlx_status zm_test_random(zmlx_test_array *values, mlx_array *stored, zm_arena *arena, const int *shape, int n_dims,
                           mlx_dtype dtype, const double range[2], uint64_t seed, zmlx_error *error);
/* The numbers of an array of MLX. */
zmlx_status zm_test_read(zmlx_test_array *values, zm_arena *arena, mlx_array array, mlx_stream stream,
                         zmlx_error *error);
/* Zeros of the shape of like. */
zmlx_status zm_test_zeros(zmlx_test_array *values, zm_arena *arena, const zmlx_test_array *like, zmlx_error *error);

/* What the outputs should be; their shapes are those in values already. */
zmlx_status zm_test_expect_outputs(zm_test_expected *expected, const zm_test_case *test, zmlx_error *error);
/* What the gradients of the inputs should be; outputs has the shapes of the outputs. */
zmlx_status zm_test_expect_gradients(zm_test_expected *expected, const zm_test_case *test,
                                     const zmlx_test_array *outputs, zmlx_error *error);
zmlx_status zm_test_differentiate(zm_test_expected *expected, const zm_test_case *test, const zmlx_test_array *outputs,
                                  zmlx_error *error);

#endif
