/* SPDX-License-Identifier: MIT */
/* Results written past the caches, on the CPU: the bits of the same rows in parts that are not. */
#include "mlx_testing.h"
#include "zmlx/kernel.h"
#include "zmlx/kernels.h"

static zmlx_error failure;
#define OK(call)                                                      \
    do {                                                              \
        if (call) fail_msg("%s: %s", failure.where, failure.message); \
    } while (0)

enum { ROWS = 9001, COLUMNS = 1030, PART = 3001 };

typedef void kernel(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight);

static void norm(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    (void)scope;
    OK(zmlx_rmsnorm(y, x, weight, 1e-6f, host_stream, &failure));
}
static void add_bias(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    (void)scope;
    OK(zmlx_bias_gelu_tanh(y, x, weight, host_stream, &failure));
}
static void split(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    (void)weight;
    OK(zmlx_swiglu(y, zm_concatenate(scope, x, x, -1), host_stream, &failure));
}
/* Each row at position 3. */
static void turn(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    mlx_array angles =
        zm_broadcast_to(scope, zm_slice_axis(scope, weight, 0, 0, COLUMNS / 2, 1), SHAPE(1, COLUMNS / 2));
    mlx_array rows = zm_reshape3(scope, x, zm_dim(x, 0), 1, COLUMNS), turned = {NULL};
    OK(zmlx_apply_rope(&turned, rows, angles, angles, host_stream, &failure));
    zm_scope_keep(scope, y, zm_reshape2(scope, zm_scope_own(scope, turned), zm_dim(x, 0), COLUMNS));
}
/* Of the first ten rows. */
static void gather(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    mlx_array source = zm_broadcast_to(scope, weight, SHAPE(10, COLUMNS));
    mlx_array number = zm_arange(scope, 0, zm_dim(x, 0), 1, MLX_INT32), ten = zm_scalar(scope, 10, MLX_INT32);
    number = zm_subtract(scope, number, zm_multiply(scope, zm_floor_divide(scope, number, ten), ten));
    OK(zmlx_fused_gather_add(y, source, number, x, host_stream, &failure));
}
/* Row i goes to row i. */
static void scatter(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array weight) {
    (void)weight;
    mlx_array number = zm_arange(scope, 0, zm_dim(x, 0), 1, MLX_INT32);
    OK(zmlx_fused_scatter_add(y, number, x, zm_dim(x, 0), MLX_FLOAT32, host_stream, &failure));
}

static void test_parts(void **state) {
    (void)state;
    static kernel *const kernels[] = {norm, add_bias, split, turn, gather, scatter};
    float *values = malloc((size_t)ROWS * COLUMNS * sizeof *values);
    assert_non_null(values);
    for (int i = 0; i < ROWS * COLUMNS; i++) values[i] = (float)((uint32_t)i * 2654435761u >> 20) / 1024 - 2;
    for (int k = 0; k < COUNT(kernels); k++) {
        zm_scope scope;
        zm_scope_begin(&scope, host_stream);
        mlx_array x = zm_from_data(&scope, values, SHAPE(ROWS, COLUMNS), MLX_FLOAT32), whole = {NULL};
        mlx_array weight = zm_from_data(&scope, values, SHAPE(COLUMNS), MLX_FLOAT32);
        kernels[k](&scope, &whole, x, weight);
        assert_int_equal(mlx_array_eval(whole), 0);
        for (int first = 0; first < ROWS; first += PART - 1) { /* a multiple of ten */
            int last = first + PART - 1 < ROWS ? first + PART - 1 : ROWS;
            mlx_array part = {NULL};
            kernels[k](&scope, &part, zm_slice_axis(&scope, x, 0, first, last, 1), weight);
            assert_int_equal(mlx_array_eval(part), 0);
            const float *got = mlx_array_data_float32(whole) + (size_t)first * COLUMNS;
            assert_memory_equal(got, mlx_array_data_float32(part), mlx_array_nbytes(part));
            mlx_array_free(part);
        }
        mlx_array_free(whole);
        end_well(&scope);
    }
    free(values);
}

/* MLX's allocator gives NULL: an error, and nothing is written. */
static void test_no_memory(void **state) {
    (void)state;
    enum { SIDE = 1 << 21 };
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array inputs[] = {zm_zeros(&scope, SHAPE(SIDE, 1, 1), MLX_FLOAT32),
                          zm_zeros(&scope, SHAPE(1, SIDE, 16), MLX_FLOAT32)}, y = {NULL};
    zmlx_kernel *sum;
    assert_false(zm_scope_failed(&scope));
    OK(zmlx_binary(&sum, "sum", "a + b", &failure));
    OK(zmlx_kernel_apply(sum, &y, inputs, 2, host_stream, &failure));
    assert_int_not_equal(mlx_array_eval(y), 0);
    assert_int_equal(zm_mlx_fail(&failure, "y"), ZMLX_ERROR_MLX);
    assert_non_null(strstr(failure.message, "out of memory: no "));
    mlx_array_free(y);
    zmlx_kernel_free(sum);
    assert_int_equal(zm_scope_end(&scope, &failure), ZMLX_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_parts), cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
