/* SPDX-License-Identifier: MIT */
/* The scope: ownership, the sticky failure, element-wise operations, shapes. */
#include "mlx_testing.h"

#include <limits.h>

#include "base/half.h"

static double add(double a, double b) { return a + b; }
static double subtract(double a, double b) { return a - b; }
static double multiply(double a, double b) { return a * b; }
static double divide(double a, double b) { return a / b; }
static double logaddexp(double a, double b) { return log(exp(a) + exp(b)); }
static double less(double a, double b) { return a < b; }
static double greater_equal(double a, double b) { return a >= b; }
static double logical_and(double a, double b) { return a != 0 && b != 0; }
static double floor_divide(double a, double b) { return floor(a / b); }
static double power_of_magnitude(double a, double b) { return pow(a, b); }

static const struct {
    const char *name;
    mlx_array (*operation)(zm_scope *, mlx_array, mlx_array);
    double (*reference)(double, double);
    bool positive;
} binary[] = {
    {"add", zm_add, add, false},
    {"subtract", zm_subtract, subtract, false},
    {"multiply", zm_multiply, multiply, false},
    {"divide", zm_divide, divide, false},
    {"minimum", zm_minimum, fmin, false},
    {"maximum", zm_maximum, fmax, false},
    {"logaddexp", zm_logaddexp, logaddexp, false},
    {"less", zm_less, less, false},
    {"greater_equal", zm_greater_equal, greater_equal, false},
    {"logical_and", zm_logical_and, logical_and, false},
    {"floor_divide", zm_floor_divide, floor_divide, false},
    {"power", zm_power, power_of_magnitude, true},
};

/* (4, 3) with (3): the second is broadcast. Equal elements and zeros occur. */
static void test_binary(void **state) {
    (void)state;
    for (int k = 0; k < COUNT(binary); k++) {
        double a[12], b[3] = {0.5, -1.25, 3}, expected[12];
        fill(a, 12, 1);
        a[1] = b[1];
        a[2] = 0;
        for (int i = 0; i < 12; i++) {
            if (binary[k].positive) a[i] = fabs(a[i]);
            if (binary[k].positive && a[i] == 0) a[i] = 1;
            expected[i] = binary[k].reference(a[i], b[i % 3]);
        }
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = floats(&scope, a, SHAPE(4, 3)), y = floats(&scope, b, SHAPE(3));
        mlx_array result = binary[k].operation(&scope, x, y);
        print_message("  %s\n", binary[k].name);
        expect_shape(result, SHAPE(4, 3));
        expect_values(&scope, result, expected, 12, 1e-6);
        end_well(&scope);
    }
}

static double negative(double a) { return -a; }
static double sigmoid(double a) { return 1 / (1 + exp(-a)); }

static const struct {
    const char *name;
    mlx_array (*operation)(zm_scope *, mlx_array);
    double (*reference)(double);
} unary[] = {
    {"negative", zm_negative, negative},
    {"sigmoid", zm_sigmoid, sigmoid},
    {"tanh", zm_tanh, tanh},
    {"exp", zm_exp, exp},
};

static void test_unary(void **state) {
    (void)state;
    for (int k = 0; k < COUNT(unary); k++) {
        double a[10], expected[10];
        fill(a, 10, 2);
        for (int i = 0; i < 10; i++) expected[i] = unary[k].reference(a[i]);
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        print_message("  %s\n", unary[k].name);
        expect_values(&scope, unary[k].operation(&scope, floats(&scope, a, SHAPE(10))), expected, 10, 1e-6);
        end_well(&scope);
    }
}

static void test_where_and_astype(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array a = floats(&scope, (const double[]){1.75, -2.5, 3}, SHAPE(3));
    mlx_array zero = zm_scalar_like(&scope, 0, a);
    mlx_array chosen = zm_where(&scope, zm_less(&scope, a, zero), zero, a);
    expect_values(&scope, chosen, VALUES(1.75, 0, 3), 0);
    mlx_array whole = zm_astype(&scope, a, MLX_INT32);
    assert_int_equal(mlx_array_dtype(whole), MLX_INT32);
    expect_values(&scope, whole, VALUES(1, -2, 3), 0);
    expect_values(&scope, zm_stop_gradient(&scope, a), VALUES(1.75, -2.5, 3), 0);
    end_well(&scope);
}

static void test_scalars(void **state) {
    (void)state;
    for (int dtype = MLX_BOOL; dtype <= MLX_BFLOAT16; dtype++) {
        double value = dtype == MLX_BOOL ? 1 : dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16 ? 0.1 : 7;
        double expected = value;
        if (dtype == MLX_FLOAT16) expected = (double)zm_float16_to_float(zm_float16_from_float(0.1f));
        if (dtype == MLX_BFLOAT16) expected = (double)zm_bfloat16_to_float(zm_bfloat16_from_float(0.1f));
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array scalar = zm_scalar(&scope, value, (mlx_dtype)dtype);
        assert_int_equal(mlx_array_ndim(scalar), 0);
        assert_int_equal(mlx_array_dtype(scalar), dtype);
        assert_int_equal(mlx_array_dtype(zm_scalar_like(&scope, value, scalar)), dtype);
        expect_values(&scope, scalar, &expected, 1, 0);
        end_well(&scope);
    }
}

static void test_views(void **state) {
    (void)state;
    double a[24];
    for (int i = 0; i < 24; i++) a[i] = i;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, a, SHAPE(24));
    expect_shape(zm_reshape(&scope, x, SHAPE(2, -1)), SHAPE(2, 12));
    expect_shape(zm_reshape2(&scope, x, 4, 6), SHAPE(4, 6));
    expect_shape(zm_reshape4(&scope, x, 1, 2, 3, 4), SHAPE(1, 2, 3, 4));
    mlx_array cube = zm_reshape3(&scope, x, 2, 3, 4);
    mlx_array turned = zm_transpose(&scope, cube, SHAPE(2, 0, 1));
    expect_shape(turned, SHAPE(4, 2, 3));
    for (int i = 0; i < 24; i++) a[i] = i % 6 * 4 + i / 6;
    expect_values(&scope, turned, a, 24, 0);
    mlx_array swapped = zm_swapaxes(&scope, zm_reshape2(&scope, x, 4, 6), -1, 0);
    expect_shape(swapped, SHAPE(6, 4));
    for (int i = 0; i < 24; i++) a[i] = i % 4 * 6 + i / 4;
    expect_values(&scope, swapped, a, 24, 0);
    expect_shape(zm_expand_dims(&scope, cube, -1), SHAPE(2, 3, 4, 1));
    expect_shape(zm_squeeze(&scope, zm_expand_dims(&scope, cube, 1), 1), SHAPE(2, 3, 4));
    expect_shape(zm_flatten(&scope, cube, -2, -1), SHAPE(2, 12));
    mlx_array bits = zm_view_as(&scope, zm_scalar(&scope, 1, MLX_FLOAT32), MLX_UINT32);
    expect_values(&scope, bits, VALUES(0x3f800000), 0);
    end_well(&scope);
}

static void test_contiguous(void **state) {
    (void)state;
    zm_scope scope;
    mlx_array kept = {NULL};
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, (const double[]){0, 1, 2, 3, 4, 5}, SHAPE(2, 3));
    zm_scope_keep(&scope, &kept, zm_contiguous(&scope, zm_swapaxes(&scope, x, 0, 1)));
    end_well(&scope);
    assert_int_equal(mlx_array_eval(kept), 0);
    const float expected[] = {0, 3, 1, 4, 2, 5};
    assert_memory_equal(mlx_array_data_float32(kept), expected, sizeof expected);
    mlx_array_free(kept);
}

static void test_slices(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_reshape2(&scope, zm_arange(&scope, 0, 12, 1, MLX_FLOAT32), 2, 6);
    expect_values(&scope, zm_slice_axis(&scope, x, 1, 1, 6, 2), VALUES(1, 3, 5, 7, 9, 11), 0);
    expect_values(&scope, zm_slice_axis(&scope, x, -1, -2, INT_MAX, 1), VALUES(4, 5, 10, 11), 0);
    expect_values(&scope, zm_slice_axis(&scope, x, 1, 0, -4, 1), VALUES(0, 1, 6, 7), 0);
    expect_shape(zm_slice_axis(&scope, x, 0, 1, 1, 1), SHAPE(0, 6));
    mlx_array two = floats(&scope, (const double[]){-1, -2, -3, -4}, SHAPE(2, 2));
    expect_values(&scope, zm_slice_update_axis(&scope, x, two, 1, 3),
                  VALUES(0, 1, 2, -1, -2, 5, 6, 7, 8, -3, -4, 11), 0);
    expect_values(&scope, zm_slice_update_axis(&scope, x, two, 1, 4),
                  VALUES(0, 1, 2, 3, -1, -2, 6, 7, 8, 9, -3, -4), 0);
    end_well(&scope);
}

static void test_joining_and_making(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array a = floats(&scope, (const double[]){1, 2, 3, 4}, SHAPE(2, 2));
    mlx_array b = floats(&scope, (const double[]){5, 6}, SHAPE(2, 1));
    expect_values(&scope, zm_concatenate(&scope, a, b, -1), VALUES(1, 2, 5, 3, 4, 6), 0);
    mlx_array stacked = zm_stack(&scope, (const mlx_array[]){a, a, a}, 3, 1);
    expect_shape(stacked, SHAPE(2, 3, 2));
    expect_values(&scope, stacked, VALUES(1, 2, 1, 2, 1, 2, 3, 4, 3, 4, 3, 4), 0);
    mlx_array zeros = zm_zeros(&scope, SHAPE(2, 0, 3), MLX_BFLOAT16);
    expect_shape(zeros, SHAPE(2, 0, 3));
    assert_int_equal(mlx_array_dtype(zeros), MLX_BFLOAT16);
    expect_values(&scope, zm_zeros(&scope, SHAPE(3), MLX_INT8), VALUES(0, 0, 0), 0);
    expect_values(&scope, zm_arange(&scope, 5, -1, -2, MLX_INT32), VALUES(5, 3, 1), 0);
    end_well(&scope);
}

static void test_questions_about_nothing(void **state) {
    (void)state;
    assert_false(zm_is_set(none));
    assert_int_equal(zm_dim(none, 0), 0);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array a = zm_zeros(&scope, SHAPE(2, 5), MLX_FLOAT32);
    assert_true(zm_is_set(a));
    assert_int_equal(zm_dim(a, -1), 5);
    assert_int_equal(zm_dim(a, 2), 0);
    assert_int_equal(zm_dim(a, -3), 0);
    end_well(&scope);
}

/* The first failure stays, nothing runs after it, a kept array is left as it was. */
static void test_failure_is_sticky(void **state) {
    (void)state;
    zm_scope scope;
    mlx_array kept = {NULL};
    zm_scope_begin(&scope, stream);
    mlx_array a = zm_zeros(&scope, SHAPE(2, 3), MLX_FLOAT32);
    zm_scope_keep(&scope, &kept, a);
    mlx_array wrong = zm_matmul(&scope, a, a);
    assert_false(zm_is_set(wrong));
    assert_true(zm_scope_failed(&scope));
    size_t n_arrays = scope.n_arrays;
    assert_false(zm_is_set(zm_add(&scope, a, wrong)));
    assert_false(zm_is_set(zm_reshape2(&scope, a, 7, 7)));
    assert_false(zm_is_set(zm_concatenate(&scope, a, a, 0)));
    assert_false(zm_is_set(zm_slice_axis(&scope, a, 0, 0, 1, 1)));
    assert_false(zm_is_set(zm_scalar_like(&scope, 1, a)));
    assert_false(zm_is_set(zm_scope_fail(&scope, ZMLX_ERROR_FORMAT, "later", "later")));
    zm_scope_keep(&scope, &kept, wrong);
    assert_int_equal(scope.n_arrays, n_arrays);
    assert_int_equal(mlx_array_size(kept), 6);
    zmlx_error error = {0};
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_MLX);
    assert_string_equal(error.where, "matmul");
    assert_non_null(strstr(error.message, "(2,3)"));
    mlx_array_free(kept);
}

static void test_failures_of_arguments(void **state) {
    (void)state;
    static const struct {
        int axis, start, step;
        const char *message;
    } rows[] = {
        {2, 0, 1, "no axis 2 in an array of 2 dimensions"},
        {-3, 0, 1, "no axis -3 in an array of 2 dimensions"},
        {0, 0, 0, "step 0 is not positive"},
    };
    for (int k = 0; k < COUNT(rows); k++) {
        zm_scope scope;
        zmlx_error error = {0};
        zm_scope_begin(&scope, stream);
        mlx_array a = zm_zeros(&scope, SHAPE(2, 3), MLX_FLOAT32);
        zm_slice_axis(&scope, a, rows[k].axis, rows[k].start, 3, rows[k].step);
        assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.message, rows[k].message);
    }
    zm_scope scope;
    zmlx_error error = {0};
    zm_scope_begin(&scope, stream);
    mlx_array a = zm_zeros(&scope, SHAPE(2, 3), MLX_FLOAT32);
    zm_slice_update_axis(&scope, a, a, 0, 1);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "2 rows from 1 are not inside an axis of length 2");
    zm_scope_begin(&scope, stream);
    zm_exp(&scope, none);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_MLX);
    assert_string_equal(error.where, "exp");
    zm_scope_begin(&scope, stream);
    zm_from_data(&scope, rows, SHAPE(-1), MLX_FLOAT32);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_MLX);
}

static void test_text_is_no_format(void **state) {
    (void)state;
    static const char mode[] = "%s%n%d";
    zm_scope scope;
    zmlx_error error = {0};
    zm_scope_begin(&scope, stream);
    mlx_array a = zm_zeros(&scope, SHAPE(1, 1, 1, 4), MLX_FLOAT32);
    zm_scaled_dot_product_attention(&scope, a, a, a, 1, mode, none, none);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_MLX);
    assert_non_null(strstr(error.message, mode));
    assert_int_equal(mlx_array_eval(none), 1);
    assert_int_equal(zm_mlx_fail(&error, mode), ZMLX_ERROR_MLX);
    assert_string_equal(error.where, mode);
    zm_scope_begin(&scope, stream);
    zm_scope_fail(&scope, ZMLX_ERROR_FORMAT, "a%nb", "%s", "%s%n");
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message, "%s%n");
}

/* Many arrays in one scope; own and keep. */
static void test_ownership(void **state) {
    (void)state;
    zm_scope scope;
    mlx_array kept = {NULL};
    zm_scope_begin(&scope, stream);
    mlx_array sum = zm_scope_own(&scope, mlx_array_new_float32(0));
    mlx_array one = zm_scalar(&scope, 1, MLX_FLOAT32);
    for (int i = 0; i < 1000; i++) sum = zm_add(&scope, sum, one);
    zm_scope_keep(&scope, &kept, one);
    zm_scope_keep(&scope, &kept, sum);
    end_well(&scope);
    float value = 0;
    assert_int_equal(mlx_array_item_float32(&value, kept), 0);
    assert_true(value == 1000);
    mlx_array_free(kept);
}

/* What is released is gone from the scope, what is kept can be used; sanitizers see the rest. */
static void test_release(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array first = zm_scalar(&scope, 1, MLX_FLOAT32), second = zm_add(&scope, first, first);
    mlx_array third = zm_add(&scope, second, first);
    zm_scope_release(&scope, 1, third);
    assert_int_equal(scope.n_arrays, 2);
    assert_ptr_equal(scope.arrays[0].ctx, first.ctx);
    assert_ptr_equal(scope.arrays[1].ctx, third.ctx);
    float value;
    assert_int_equal(mlx_array_eval(third), 0);
    assert_int_equal(mlx_array_item_float32(&value, third), 0);
    assert_true(value == 3);
    zm_scope_release(&scope, 2, first);
    assert_int_equal(scope.n_arrays, 2);
    zm_scope_release(&scope, 0, (mlx_array){NULL});
    assert_int_equal(scope.n_arrays, 0);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_binary),
        cmocka_unit_test(test_unary),
        cmocka_unit_test(test_where_and_astype),
        cmocka_unit_test(test_scalars),
        cmocka_unit_test(test_views),
        cmocka_unit_test(test_contiguous),
        cmocka_unit_test(test_slices),
        cmocka_unit_test(test_joining_and_making),
        cmocka_unit_test(test_questions_about_nothing),
        cmocka_unit_test(test_failure_is_sticky),
        cmocka_unit_test(test_failures_of_arguments),
        cmocka_unit_test(test_text_is_no_format),
        cmocka_unit_test(test_ownership),
        cmocka_unit_test(test_release),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
