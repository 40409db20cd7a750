/* SPDX-License-Identifier: MIT */
/* A stream, a pool and random weights as arrays: for the tests of the fused nodes. */
#ifndef ZM_TESTS_FUSED_NODE_TESTING_H
#define ZM_TESTS_FUSED_NODE_TESTING_H

#include "fused_testing.h"

#include "fused/fused.h"
#include "mlx/streams.h"

static mlx_stream stream;
static zm_compute compute;

static int open_all(void **state) {
    (void)state;
    return (int)zm_stream_new(&stream, MLX_CPU, NULL) || (int)zm_pool_new(&compute.pool, 2, NULL);
}

static int close_all(void **state) {
    (void)state;
    zm_stream_free(stream);
    zm_pool_free(compute.pool);
    return 0;
}

/* Random arrays. */
static inline mlx_array random_array(zm_scope *scope, const int *shape, int n_dims, mlx_dtype dtype,
                                     float size) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    float *values = random_floats(count);
    for (size_t i = 0; i < count; i++) values[i] *= size;
    mlx_array result = zm_astype(scope, zm_from_data(scope, values, shape, n_dims, MLX_FLOAT32), dtype);
    free(values);
    return result;
}

static inline mlx_array random_bytes(zm_scope *scope, const int *shape, int n_dims, mlx_dtype dtype) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    size_t bytes = dtype == MLX_UINT8 ? count : 4 * count;
    unsigned char *values = allocate(bytes);
    for (size_t i = 0; i < bytes; i++)
        values[i] = (unsigned char)(dtype == MLX_UINT8 ? 118 + random_bits() % 8 : random_bits());
    mlx_array result = zm_from_data(scope, values, shape, n_dims, dtype);
    free(values);
    return result;
}

/* mode NULL: dense of that dtype; else dtype is that of scales and biases. */
static inline zm_weight random_weight(zm_scope *scope, int n_experts, int out, int in,
                                      zm_quantization quantization, mlx_dtype dtype) {
    zm_weight weight = {.quantization = quantization, .in_features = in, .out_features = out,
                        .n_experts = n_experts};
    int shape[] = {n_experts, out, in}, skip = n_experts ? 0 : 1, n_dims = 3 - skip;
    if (!quantization.mode) {
        weight.weight = random_array(scope, shape + skip, n_dims, dtype, 0.1f);
        return weight;
    }
    shape[2] = in * quantization.bits / 32;
    weight.weight = random_bytes(scope, shape + skip, n_dims, MLX_UINT32);
    shape[2] = in / quantization.group_size;
    if (!strcmp(quantization.mode, "mxfp4")) {
        weight.scales = random_bytes(scope, shape + skip, n_dims, MLX_UINT8);
    } else {
        weight.scales = random_array(scope, shape + skip, n_dims, dtype, 0.02f);
        weight.biases = random_array(scope, shape + skip, n_dims, dtype, 0.1f);
    }
    return weight;
}

/* The numbers of an array as float64; the caller frees. */
static inline double *numbers(zm_scope *scope, mlx_array array) {
    mlx_array kept = {NULL};
    zm_scope_keep(scope, &kept, zm_contiguous(scope, zm_astype(scope, array, MLX_FLOAT32)));
    if (zm_scope_failed(scope)) fail_msg("%s: %s", scope->failure.where, scope->failure.message);
    assert_int_equal(mlx_array_eval(kept), 0);
    size_t count = mlx_array_size(kept);
    double *values = allocate(count * sizeof *values);
    for (size_t i = 0; i < count; i++) values[i] = (double)mlx_array_data_float32(kept)[i];
    mlx_array_free(kept);
    return values;
}

/* The largest error as a part of the largest expected number; NaN counts as infinite. */
static inline double relative_error(const double *actual, const double *expected, size_t count) {
    double largest = 0, error = 0;
    for (size_t i = 0; i < count; i++) {
        largest = fmax(largest, fabs(expected[i]));
        double difference = fabs(actual[i] - expected[i]);
        error = fmax(error, isnan(difference) ? (double)INFINITY : difference);
    }
    assert_true(largest > 0);
    return error / largest;
}

static inline void expect_same(zm_scope *scope, mlx_array actual, mlx_array expected, double tolerance) {
    double *a = numbers(scope, actual), *b = numbers(scope, expected);
    assert_int_equal(mlx_array_size(actual), mlx_array_size(expected));
    assert_int_equal(mlx_array_dtype(actual), mlx_array_dtype(expected));
    double error = relative_error(a, b, mlx_array_size(actual));
    if (!(error <= tolerance)) fail_msg("the relative error is %.3g", error);
    free(a);
    free(b);
}

static inline void end_well(zm_scope *scope) {
    zmlx_error error = {0};
    if (zm_scope_end(scope, &error)) fail_msg("%s: %s", error.where, error.message);
}

#endif
