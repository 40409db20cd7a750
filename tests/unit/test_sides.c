/* SPDX-License-Identifier: MIT */
/* Random arrays of benchmarks. */
#include "bench/sides.h"
#include "mlx_testing.h"

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

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_repeated), cmocka_unit_test(test_more_than_an_int_counts)};
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
