/* SPDX-License-Identifier: MIT */
/* Random arrays of benchmarks, and what kernels are compared with. */
#include "base/limits.h"
#include "bench/host_graph.h"
#include "bench/sides.h"
#include "kernels/compose.h"
#include "mlx_testing.h"
#include "zmlx/catalog_bench.h"

static const float numbers[] = {1, 2, 3};

static void expect(const float *expected, const int *shape, int n_dims) {
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array y = zm_sides_repeat(&scope, zm_from_data(&scope, numbers, SHAPE(3), MLX_FLOAT32), shape, n_dims);
    assert_false(zm_scope_failed(&scope));
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(mlx_array_ndim(y), n_dims);
    for (int i = 0; i < n_dims; i++) assert_int_equal(mlx_array_dim(y, i), shape[i]);
    assert_memory_equal(mlx_array_data_float32(y), expected, mlx_array_nbytes(y));
    end_well(&scope);
}

static void test_repeated(void **state) {
    (void)state;
    static const float expected[] = {1, 2, 3, 1, 2, 3, 1, 2};
    expect(expected, NULL, 0);
    expect(expected, SHAPE(2));
    expect(expected, SHAPE(3, 1));
    expect(expected, SHAPE(2, 3));
    expect(expected, SHAPE(2, 2, 2));
}

/* Only put together: they are gigabytes. */
static void test_more_than_an_int_counts(void **state) {
    (void)state;
    static const int shapes[][3] = {{1 << 16, 1 << 15, 1}, {3, 2147483647, 1}, {3, 1 << 16, 1 << 16}};
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    for (int i = 0; i < COUNT(shapes); i++) {
        mlx_array y = zm_sides_repeat(&scope, zm_from_data(&scope, numbers, SHAPE(3), MLX_FLOAT32), shapes[i], 3);
        assert_false(zm_scope_failed(&scope));
        assert_memory_equal(mlx_array_shape(y), shapes[i], sizeof shapes[i]);
    }
    end_well(&scope);
}

/* Results of a run are there at the same time. */
static void test_batch_beyond_memory(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    zmlx_comparison comparison;
    zmlx_error error;
    const zmlx_bench_options options = {.batch = 10000};
    assert_int_equal(zmlx_elementwise(&kernel, "same", "x", NULL, &error), ZMLX_OK);
    assert_int_equal(zmlx_bench_kernel(&comparison, kernel, SHAPE(4096, 8192), MLX_FLOAT32, NULL, ZMLX_BENCH_NONE,
                                       host_stream, &options, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "batch");
    assert_non_null(strstr(error.message, "results of 0.1 GB, 10000 of them at once, are more than the "));
    zmlx_kernel_free(kernel);
}

/* Each fits, and even two of them. */
static void test_inputs_beyond_memory(void **state) {
    (void)state;
    static const char *const text = "a + b";
    const zmlx_catalog_bench alone = {.baseline = ZMLX_BENCH_NONE};
    zmlx_kernel *kernel;
    zmlx_comparison comparison;
    zmlx_error error;
    double bytes = (double)zm_memory_bytes() * 0.45;
    if (bytes <= 0) skip();
    int shape[] = {(int)(bytes / 4 / 1024), 1024};
    assert_int_equal(zmlx_map(&kernel, "sum", &text, 1, NULL, &error), ZMLX_OK);
    assert_int_equal(zmlx_bench_kernel(&comparison, kernel, shape, 2, MLX_FLOAT32, NULL, ZMLX_BENCH_NONE, host_stream,
                                       NULL, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "shape");
    assert_non_null(strstr(error.message, "inputs and a result of "));
    zmlx_kernel_free(kernel);
    assert_int_equal(zmlx_bench_catalog(&comparison, "add", shape, 2, &alone, host_stream, NULL, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "shape");
    assert_non_null(strstr(error.message, "inputs and a result of "));
}

static void expect_mlx_failure(zmlx_status status, const zmlx_error *error) {
    assert_int_equal(status, ZMLX_ERROR_MLX);
    assert_string_not_equal(error->message, "");
}

/* Without inputs there is nothing to repeat. */
static void test_inputs_that_fail(void **state) {
    (void)state;
    const mlx_stream no_stream = {NULL};
    zmlx_kernel *kernel;
    zmlx_comparison comparison;
    zmlx_error error;
    assert_int_equal(zmlx_elementwise(&kernel, "same", "x", NULL, &error), ZMLX_OK);
    expect_mlx_failure(zmlx_bench_kernel(&comparison, kernel, SHAPE(4), MLX_FLOAT32, NULL, ZMLX_BENCH_NONE, no_stream,
                                         NULL, &error),
                       &error);
    zmlx_kernel_free(kernel);
    expect_mlx_failure(zmlx_bench_catalog(&comparison, "silu", SHAPE(4), NULL, no_stream, NULL, &error), &error);
}

/* MLX's side of a kernel of the catalogue against the kernel itself. */
static void expect_same(zm_scope *scope, const char *name, const mlx_array *inputs, size_t n_inputs) {
    zmlx_kernel *kernel;
    zmlx_error error;
    mlx_array host = {NULL}, own = {NULL};
    zmlx_catalog_value values[ZM_SIGNATURE_MAX_NUMBERS];
    const zm_kernel_entry *entry = zm_catalog_lookup(name);
    zmlx_catalog_presets(values, &entry->entry);
    assert_int_equal(zm_catalog_kernel(&kernel, entry, &error), ZMLX_OK);
    const zm_numbers kernel_numbers = zm_catalog_numbers(entry, values);
    zm_host_graph(scope, &host, kernel, inputs, &kernel_numbers);
    assert_false(zm_scope_failed(scope));
    assert_int_equal(zmlx_catalog_apply(name, &own, inputs, n_inputs, values, host_stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(host) | mlx_array_eval(own), 0);
    assert_int_equal(mlx_array_dtype(host), MLX_FLOAT32);
    assert_int_equal(mlx_array_size(host), mlx_array_size(own));
    for (size_t i = 0; i < mlx_array_size(own); i++)
        assert_true(fabsf(mlx_array_data_float32(host)[i] - mlx_array_data_float32(own)[i]) < 1e-6f);
    mlx_array_free(own);
}

/* As many rows as columns: MLX would take the one for the other. */
static void test_one_number_a_row(void **state) {
    (void)state;
    static const float logits[9] = {1, -2, 3, 0.5f, 4, 0, -1, 2, 2}, cotangents[3] = {1, 2, -3};
    static const uint32_t targets[3] = {2, 0, 1};
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    const mlx_array inputs[] = {zm_from_data(&scope, logits, SHAPE(3, 3), MLX_FLOAT32),
                                zm_from_data(&scope, targets, SHAPE(3), MLX_UINT32),
                                zm_from_data(&scope, cotangents, SHAPE(3), MLX_FLOAT32)};
    expect_same(&scope, "softmax_cross_entropy_grad", inputs, COUNT(inputs));
    end_well(&scope);
}

/* Numbers are no bytes for that. */
static void test_bytes_first(void **state) {
    (void)state;
    static const uint8_t codes[5] = {0, 1, 60, 130, 200};
    static const float scale = 0.25f;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    const mlx_array inputs[] = {zm_from_data(&scope, codes, SHAPE(5), MLX_UINT8),
                                zm_from_data(&scope, &scale, SHAPE(1), MLX_FLOAT32)};
    expect_same(&scope, "dequantize_fp8", inputs, COUNT(inputs));
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_repeated), cmocka_unit_test(test_more_than_an_int_counts),
                                       cmocka_unit_test(test_batch_beyond_memory),
                                       cmocka_unit_test(test_inputs_beyond_memory),
                                       cmocka_unit_test(test_inputs_that_fail),
                                       cmocka_unit_test(test_one_number_a_row),
                                       cmocka_unit_test(test_bytes_first)};
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
