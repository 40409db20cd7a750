/* SPDX-License-Identifier: MIT */
/* For the tests of src/runtime: a stream, a cache of compiled kernels of their own, arrays and comparison. */
#ifndef ZM_TESTS_KERNEL_TESTING_H
#define ZM_TESTS_KERNEL_TESTING_H

#include "mlx_testing.h"

#include "temporary.h"
#include "zmlx/kernel.h"
#include "zmlx/kernel_tools.h"

static zmlx_error failure;

/* Fails the test with the message of the last error. */
#define OK(expression)                                                                          \
    do {                                                                                        \
        if ((expression) != ZMLX_OK)                                                            \
            fail_msg("%s: %s (%s)", #expression, failure.message, failure.where);               \
    } while (0)

#define EXPECT_ERROR(status, expression, ...)                                       \
    do {                                                                            \
        assert_int_equal(expression, status);                                       \
        const char *const parts_[] = {__VA_ARGS__};                                 \
        for (int part_ = 0; part_ < COUNT(parts_); part_++)                         \
            if (!strstr(failure.message, parts_[part_]) && !strstr(failure.where, parts_[part_])) \
                fail_msg("\"%s\" is not in: %s: %s", parts_[part_], failure.where, failure.message); \
    } while (0)

/* One cache a program, emptied at its end: the first use of a kernel compiles, as it does for a user. */
static char cache_folder[TEMPORARY_SIZE];

static int open_kernels(void **state) {
    if (!mkdtemp(temporary_template(cache_folder)) || zmlx_kernel_set_cache(cache_folder, NULL, &failure)) return 1;
    return open_stream(state);
}

static int close_kernels(void **state) {
    close_stream(state);
    return temporary_remove(cache_folder);
}

static inline mlx_array apply_to(zm_scope *scope, zmlx_kernel *kernel, const mlx_array *inputs, size_t n_inputs) {
    mlx_array y = {NULL};
    OK(zmlx_kernel_apply(kernel, &y, inputs, n_inputs, stream, &failure));
    return zm_scope_own(scope, y);
}

static inline mlx_array apply_one(zm_scope *scope, zmlx_kernel *kernel, mlx_array x) {
    return apply_to(scope, kernel, &x, 1);
}

/* count numbers without a pattern in [-2, 2), exact in float16 and nearly so in bfloat16. */
static inline mlx_array numbers(zm_scope *scope, const int *shape, int n_dims, uint32_t seed, mlx_dtype dtype) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    float *data = malloc((count + 1) * sizeof *data);
    assert_non_null(data);
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        data[i] = (float)(seed >> 25) / 32.0f - 2.0f;
    }
    mlx_array array = zm_from_data(scope, data, shape, n_dims, MLX_FLOAT32);
    free(data);
    return zm_astype(scope, array, dtype);
}

/* a equals b element by element within tolerance relative to max(1, |b|), same shape. */
static inline void expect_close(zm_scope *scope, mlx_array a, mlx_array b, double tolerance) {
    if (zm_scope_failed(scope)) fail_msg("%s: %s", scope->failure.where, scope->failure.message);
    assert_int_equal(mlx_array_ndim(a), mlx_array_ndim(b));
    for (int i = 0; i < (int)mlx_array_ndim(a); i++) assert_int_equal(zm_dim(a, i), zm_dim(b, i));
    mlx_array wide = {NULL};
    zm_scope host;
    zm_scope_begin(&host, host_stream);
    assert_int_equal(mlx_array_eval(b), 0);
    zm_scope_keep(&host, &wide, zm_contiguous(&host, zm_astype(&host, b, MLX_FLOAT64)));
    assert_int_equal(zm_scope_end(&host, &scope->failure), 0);
    assert_int_equal(mlx_array_eval(wide), 0);
    int size = (int)mlx_array_size(b);
    static const double nothing;
    const double *values = size ? mlx_array_data_float64(wide) : &nothing;
    expect_values(scope, a, values, size, tolerance);
    mlx_array_free(wide);
}

#endif
