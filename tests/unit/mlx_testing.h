/* SPDX-License-Identifier: MIT */
/* For the tests of src/mlx: a stream, arrays of small numbers, comparison with float64 values. */
#ifndef ZM_TESTS_MLX_TESTING_H
#define ZM_TESTS_MLX_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlx/scope.h"
#include "mlx/streams.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))
#define SHAPE(...) (const int[]){__VA_ARGS__}, COUNT(((const int[]){__VA_ARGS__}))
#define VALUES(...) (const double[]){__VA_ARGS__}, COUNT(((const double[]){__VA_ARGS__}))

static mlx_stream stream, host_stream; /* results are compared on the CPU: float64 exists only there */
static const mlx_array none;

/* Without MLX's cache of freed buffers, so that the sanitizers see a use after free. */
static int open_stream(void **state) {
    (void)state;
    size_t previous;
    if (mlx_set_cache_limit(&previous, 0)) return 1;
    const char *device = getenv("ZMLX_TEST_DEVICE"); /* "gpu": where there is one */
    bool on_gpu = device && !strcmp(device, "gpu");
    if (zm_stream_new(&host_stream, MLX_CPU, NULL)) return 1;
    stream = host_stream;
    return on_gpu && zm_stream_new(&stream, MLX_GPU, NULL);
}

static int close_stream(void **state) {
    (void)state;
    if (stream.ctx != host_stream.ctx) zm_stream_free(stream);
    zm_stream_free(host_stream);
    return 0;
}

static inline mlx_array floats(zm_scope *scope, const double *values, const int *shape, int n_dims) {
    float data[512];
    size_t size = 1;
    for (int i = 0; i < n_dims; i++) size *= (size_t)shape[i];
    assert_true(size <= 512);
    for (size_t i = 0; i < size; i++) data[i] = (float)values[i];
    return zm_from_data(scope, data, shape, n_dims, MLX_FLOAT32);
}

/* Numbers without a pattern in [-2, 2), the same on every machine; exact in float32. */
static inline void fill(double *values, int count, uint32_t seed) {
    for (int i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (double)(seed >> 20) / 1024.0 - 2.0;
    }
}

/* The values of a, whatever its dtype and layout. */
static inline void expect_values(zm_scope *scope, mlx_array a, const double *values, int count,
                                 double tolerance) {
    mlx_array kept = {NULL};
    if (zm_scope_failed(scope)) fail_msg("%s: %s", scope->failure.where, scope->failure.message);
    zm_scope host;
    zm_scope_begin(&host, host_stream);
    if (mlx_array_eval(a)) {
        zm_mlx_fail(&scope->failure, "evaluation");
        fail_msg("%s", scope->failure.message);
    }
    zm_scope_keep(&host, &kept, zm_contiguous(&host, zm_astype(&host, a, MLX_FLOAT64)));
    assert_int_equal(zm_scope_end(&host, &scope->failure), 0);
    assert_int_equal(mlx_array_eval(kept), 0);
    assert_int_equal(mlx_array_size(kept), count);
    const double *data = mlx_array_data_float64(kept);
    if (count) assert_non_null(data);
    for (int i = 0; i < count; i++) {
        double difference = fabs(data[i] - values[i]);
        if (data[i] != values[i] && !(difference <= tolerance * fmax(1.0, fabs(values[i]))))
            fail_msg("element %d is %.9g, expected %.9g", i, data[i], values[i]);
    }
    mlx_array_free(kept);
}

static inline void expect_shape(mlx_array a, const int *shape, int n_dims) {
    assert_int_equal(mlx_array_ndim(a), n_dims);
    for (int i = 0; i < n_dims; i++) assert_int_equal(zm_dim(a, i), shape[i]);
}

static inline mlx_array take(zm_scope *scope, mlx_vector_array list, size_t i) {
    mlx_array array = mlx_array_new();
    assert_int_equal(mlx_vector_array_get(&array, list, i), 0);
    return zm_scope_own(scope, array);
}

typedef int array_function(mlx_vector_array *results, const mlx_vector_array inputs);

/* vmap: function over a batch that lies in axis axes[i] of input i, -1 for none; results with the batch in front. False
 * where it is refused. */
static inline bool map_batch(zm_scope *scope, mlx_array *results, int n_results, array_function *function,
                             const mlx_array *inputs, const int *axes, int n_inputs) {
    static const int first[8];
    mlx_closure closure = mlx_closure_new_func(function);
    mlx_vector_array given = mlx_vector_array_new_data(inputs, (size_t)n_inputs), traced = mlx_vector_array_new(),
                     out = mlx_vector_array_new(), mapped = mlx_vector_array_new();
    assert_true(n_results <= COUNT(first));
    bool done = !mlx_detail_vmap_trace(&traced, &out, closure, given, axes, (size_t)n_inputs) &&
                !mlx_detail_vmap_replace(&mapped, given, traced, out, axes, (size_t)n_inputs, first, (size_t)n_results);
    for (int i = 0; i < n_results && done; i++) results[i] = take(scope, mapped, (size_t)i);
    mlx_vector_array lists[] = {given, traced, out, mapped};
    for (int i = 0; i < COUNT(lists); i++) mlx_vector_array_free(lists[i]);
    mlx_closure_free(closure);
    return done;
}

/* A refused argument, whose place and message are text. */
static inline void expect_argument_error(zmlx_status status, const zmlx_error *error, const char *text) {
    char whole[1400];
    snprintf(whole, sizeof whole, "%s: %s", error->where, error->message);
    assert_int_equal(status, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(whole, text);
}

static inline void end_well(zm_scope *scope) {
    zmlx_error error = {0};
    if (zm_scope_end(scope, &error)) fail_msg("%s: %s", error.where, error.message);
}

#endif
