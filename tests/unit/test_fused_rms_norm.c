/* SPDX-License-Identifier: MIT */
/* The RMS norm node against the formula in float64 and against mlx.fast.rms_norm. */
#include "fused_node_testing.h"

/* y of one row; size: its largest magnitude. */
static double reference_row(double *y, const double *x, const double *weight, int size, double eps) {
    double squares = 0, largest = 0;
    for (int i = 0; i < size; i++) squares += x[i] * x[i];
    for (int i = 0; i < size; i++) {
        y[i] = x[i] / sqrt(squares / size + eps) * weight[i];
        largest = fmax(largest, fabs(y[i]));
    }
    return largest;
}

static void rows_equal_the_formula(void **state) {
    (void)state;
    static const int sizes[] = {1, 2, 15, 16, 17, 64, 100, 2048};
    static const float eps[] = {1e-6f, 1e-5f, 0.5f};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        int size = sizes[s], rows = 3;
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x =
            random_array(&scope, (const int[]){1, rows, size}, 3, MLX_FLOAT32, s % 2 ? 1e3f : 1e-3f);
        mlx_array weight = random_array(&scope, &size, 1, MLX_FLOAT32, 1);
        double *xs = numbers(&scope, x), *ws = numbers(&scope, weight),
               *expected = allocate(sizeof(double) * (size_t)size);
        double *actual = numbers(&scope, zm_fused_rms_norm(&scope, x, weight, eps[s % 3]));
        for (int r = 0; r < rows; r++) {
            double largest = reference_row(expected, xs + r * size, ws, size, (double)eps[s % 3]);
            /* Three roundings and the factor's own error, which the sum's lanes keep at a few more. */
            for (int i = 0; i < size; i++)
                assert_true(fabs(actual[r * size + i] - expected[i]) <=
                            16 * 0x1p-24 * fmax(fabs(expected[i]), 1e-3 * largest));
        }
        free(xs), free(ws), free(expected), free(actual);
        end_well(&scope);
    }
}

static void heads_agree_with_mlx(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = random_array(&scope, (const int[]){1, 5, 4, 64}, 4, MLX_FLOAT32, 2);
    mlx_array strided = zm_swapaxes(&scope, x, 1, 2);
    mlx_array weight = random_array(&scope, (const int[]){64}, 1, MLX_FLOAT32, 1);
    expect_same(&scope, zm_fused_rms_norm(&scope, x, weight, 1e-5f), zm_rms_norm(&scope, x, weight, 1e-5f),
                1e-6);
    expect_same(&scope, zm_fused_rms_norm(&scope, strided, weight, 1e-5f),
                zm_rms_norm(&scope, strided, weight, 1e-5f), 1e-6);
    end_well(&scope);
}

static void half_precision_is_rounded_once(void **state) {
    (void)state;
    static const mlx_dtype dtypes[] = {MLX_FLOAT16, MLX_BFLOAT16};
    for (size_t d = 0; d < 2; d++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = random_array(&scope, (const int[]){3, 100}, 2, dtypes[d], 1);
        mlx_array weight = random_array(&scope, (const int[]){100}, 1, dtypes[1 - d], 1);
        mlx_array half = zm_fused_rms_norm(&scope, x, weight, 1e-5f);
        mlx_array full = zm_fused_rms_norm(&scope, zm_astype(&scope, x, MLX_FLOAT32), weight, 1e-5f);
        expect_same(&scope, half, zm_astype(&scope, full, dtypes[d]), 0);
        end_well(&scope);
    }
}

static void refused(mlx_array x, mlx_array weight, zm_scope *scope, const char *message) {
    zmlx_error error;
    assert_false(zm_is_set(zm_fused_rms_norm(scope, x, weight, 1e-5f)));
    assert_int_not_equal(zm_scope_end(scope, &error), ZMLX_OK);
    assert_non_null(strstr(error.message, message));
    zm_scope_begin(scope, stream);
}

static void wrong_inputs_are_refused(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    refused(random_array(&scope, (const int[]){2, 8}, 2, MLX_FLOAT32, 1),
            random_array(&scope, (const int[]){7}, 1, MLX_FLOAT32, 1), &scope, "last dimension is not 7");
    refused(random_array(&scope, (const int[]){2, 8}, 2, MLX_FLOAT32, 1), (mlx_array){NULL}, &scope,
            "weight");
    refused(random_array(&scope, (const int[]){2, 8}, 2, MLX_INT32, 1),
            random_array(&scope, (const int[]){8}, 1, MLX_FLOAT32, 1), &scope, "neither float32");
    end_well(&scope);
}

/* The sum is MLX's, rounded to the type; the norm is that of the rounded sum. */
static void sums_and_norms(void **state) {
    (void)state;
    static const mlx_dtype dtypes[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    for (size_t d = 0; d < 3; d++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = random_array(&scope, (const int[]){1, 3, 100}, 3, dtypes[d], 1), h;
        mlx_array residual = random_array(&scope, (const int[]){1, 3, 100}, 3, dtypes[d], 4);
        mlx_array weight = random_array(&scope, (const int[]){100}, 1, MLX_FLOAT32, 1);
        mlx_array normed = zm_fused_add_rms_norm(&scope, &h, x, residual, weight, 1e-5f);
        mlx_array sum = zm_add(&scope, x, residual);
        expect_same(&scope, h, sum, 0);
        expect_same(&scope, normed, zm_fused_rms_norm(&scope, sum, weight, 1e-5f), 0);
        assert_false(zm_is_set(zm_fused_add_rms_norm(&scope, &h, x, weight, weight, 1e-5f)));
        assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_ARGUMENT);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_equal_the_formula),
        cmocka_unit_test(heads_agree_with_mlx),
        cmocka_unit_test(half_precision_is_rounded_once),
        cmocka_unit_test(sums_and_norms),
        cmocka_unit_test(wrong_inputs_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
