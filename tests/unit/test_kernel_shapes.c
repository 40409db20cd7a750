/* SPDX-License-Identifier: MIT */
/* Shapes, layouts and types that a kernel takes, and what it refuses. */
#include "kernel_testing.h"

#include <math.h>

static zmlx_kernel *make(const char *text, const char *const *names, size_t n_names) {
    zmlx_kernel *kernel;
    zmlx_map_options options = {.inputs = names, .n_inputs = n_names};
    OK(zmlx_map(&kernel, NULL, &text, 1, &options, &failure));
    return kernel;
}

/* Every pair of shapes gives what MLX's own broadcasting gives. */
static void broadcasts_as_mlx(void **state) {
    (void)state;
    static const struct {
        int a[4], n_a, b[4], n_b;
    } cases[] = {
        {{5}, 1, {5}, 1},          {{3, 5}, 2, {5}, 1},       {{3, 5}, 2, {3, 1}, 2},    {{3, 1}, 2, {1, 5}, 2},
        {{2, 3, 5}, 3, {3, 5}, 2}, {{2, 1, 5}, 3, {3, 1}, 2}, {{2, 3, 5}, 3, {1}, 1},    {{2, 3, 5}, 3, {0}, 0},
        {{0}, 0, {0}, 0},          {{1}, 1, {0}, 0},          {{4, 1, 3, 1}, 4, {2, 1, 70}, 3},
        {{0, 5}, 2, {5}, 1},       {{3, 0}, 2, {3, 1}, 2},    {{2, 3, 5}, 3, {2, 1, 5}, 3},
    };
    static const char *const names[] = {"a", "b"};
    zmlx_kernel *kernel = make("a * b + a", names, 2);
    for (int i = 0; i < COUNT(cases); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array in[2] = {numbers(&scope, cases[i].a, cases[i].n_a, 1, MLX_FLOAT32),
                           numbers(&scope, cases[i].b, cases[i].n_b, 2, MLX_FLOAT32)};
        mlx_array expected = zm_add(&scope, zm_multiply(&scope, in[0], in[1]), in[0]);
        expect_close(&scope, apply_to(&scope, kernel, in, 2), expected, 1e-6);
        end_well(&scope);
    }
    zmlx_kernel_free(kernel);
}

/* Transposed, sliced, offset and broadcast-strided inputs give what their packed copies give. */
static void any_layout(void **state) {
    (void)state;
    zmlx_kernel *map, *sum;
    OK(zmlx_elementwise(&map, NULL, "2 * x + 1", NULL, &failure));
    OK(zmlx_reduce(&sum, NULL, "0", "acc + v", NULL, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(6, 10), 1, MLX_FLOAT32), row = numbers(&scope, SHAPE(10), 2, MLX_FLOAT32);
    mlx_array views[] = {zm_swapaxes(&scope, x, 0, 1), zm_slice_axis(&scope, x, 1, 1, 9, 2),
                         zm_slice_axis(&scope, x, 0, 2, 5, 1), zm_broadcast_to(&scope, row, SHAPE(6, 10))};
    for (int i = 0; i < COUNT(views); i++) {
        mlx_array packed = zm_contiguous(&scope, views[i]);
        expect_close(&scope, apply_one(&scope, map, views[i]), apply_one(&scope, map, packed), 0);
        expect_close(&scope, apply_one(&scope, sum, views[i]), zm_sum(&scope, packed, -1, false), 1e-5);
    }
    end_well(&scope);
    zmlx_kernel_free(map);
    zmlx_kernel_free(sum);
}

/* Rows of every length around the vector widths, and none at all. */
static void rows_of_any_length(void **state) {
    (void)state;
    static const int lengths[] = {1, 2, 3, 7, 8, 15, 16, 17, 31, 33, 63, 64, 65, 127, 1000, 4097, 100003};
    zmlx_kernel *sum, *largest, *normal;
    zmlx_reduce_options scaled = {.finalize = "s / D"};
    OK(zmlx_reduce(&sum, "mean", "0", "acc + v", &scaled, &failure));
    OK(zmlx_reduce(&largest, "largest", "-INFINITY", "max(v, acc)", NULL, &failure));
    const char *text = "T m = row_max(x); exp(x - m) / row_sum(exp(x - m))";
    OK(zmlx_map(&normal, "softmax", &text, 1, NULL, &failure));
    for (int i = 0; i < COUNT(lengths); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(3, lengths[i]), 1, MLX_FLOAT32);
        mlx_array total = zm_sum(&scope, x, -1, false); /* exact: few bits each */
        mlx_array mean = zm_divide(&scope, total, zm_scalar(&scope, lengths[i], MLX_FLOAT32));
        expect_close(&scope, apply_one(&scope, sum, x), mean, 1e-6);
        expect_close(&scope, apply_one(&scope, largest, x), zm_max(&scope, x, -1, false), 0);
        expect_close(&scope, apply_one(&scope, normal, x), zm_softmax(&scope, x, -1, true), 1e-6);
        end_well(&scope);
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array none_at_all = zm_zeros(&scope, SHAPE(2, 0), MLX_FLOAT32);
    expect_values(&scope, apply_one(&scope, largest, none_at_all), VALUES(-INFINITY, -INFINITY), 0);
    mlx_array scalar = zm_scalar(&scope, 3, MLX_FLOAT32), result = apply_one(&scope, sum, scalar);
    assert_int_equal(mlx_array_ndim(result), 0);
    expect_values(&scope, result, VALUES(3), 0);
    end_well(&scope);
    zmlx_kernel_free(sum);
    zmlx_kernel_free(largest);
    zmlx_kernel_free(normal);
}

/* A left-to-right fold, a fold with a combine, a scan, an argument of the maximum. */
static void folds_and_scans(void **state) {
    (void)state;
    zmlx_kernel *decay, *squares;
    zmlx_reduce_options merged = {.combine = "a + b", .finalize = "sqrt(acc)"};
    OK(zmlx_reduce(&decay, "decay", "1", "acc * 0.5 + v", NULL, &failure));
    OK(zmlx_reduce(&squares, "norm", "0", "fma(v, v, acc)", &merged, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    double values[2 * 37], decayed[2], norms[2], sums[2 * 37], best[2];
    fill(values, 2 * 37, 3);
    for (int row = 0; row < 2; row++) {
        double acc = 1, square = 0, sum = 0;
        int at = 0;
        for (int i = 0; i < 37; i++) {
            double v = values[37 * row + i];
            acc = acc * 0.5 + v;
            square += v * v;
            sums[37 * row + i] = sum += v;
            if (v > values[37 * row + at]) at = i;
        }
        decayed[row] = acc;
        norms[row] = sqrt(square);
        best[row] = at;
    }
    mlx_array x = floats(&scope, values, SHAPE(2, 37));
    expect_values(&scope, apply_one(&scope, decay, x), decayed, 2, 1e-6);
    expect_values(&scope, apply_one(&scope, squares, x), norms, 2, 1e-6);
    zmlx_kernel *scan = make("row_cumsum(x)", NULL, 0), *argument = make("row_argmax(x)", NULL, 0);
    expect_values(&scope, apply_one(&scope, scan, x), sums, 2 * 37, 1e-6);
    expect_values(&scope, apply_one(&scope, argument, x), best, 2, 0);
    end_well(&scope);
    zmlx_kernel_free(decay);
    zmlx_kernel_free(squares);
    zmlx_kernel_free(scan);
    zmlx_kernel_free(argument);
}

static void several_outputs(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    const char *text = "T t = a - b; low = min(a, b); gap = t < 0 ? -t : t;";
    OK(zmlx_map(&kernel, "two", &text, 1, NULL, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[2] = {numbers(&scope, SHAPE(2, 9), 1, MLX_BFLOAT16), numbers(&scope, SHAPE(9), 2, MLX_FLOAT32)};
    mlx_array out[2] = {{NULL}, {NULL}};
    OK(zmlx_kernel_apply(kernel, out, in, 2, stream, &failure));
    mlx_array difference = zm_subtract(&scope, in[0], in[1]);
    assert_int_equal(mlx_array_dtype(out[0]), MLX_BFLOAT16);
    expect_close(&scope, zm_scope_own(&scope, out[0]), zm_minimum(&scope, in[0], in[1]), 5e-3);
    expect_close(&scope, zm_scope_own(&scope, out[1]),
                 zm_maximum(&scope, difference, zm_negative(&scope, difference)), 5e-3);
    end_well(&scope);
    zmlx_kernel_free(kernel);
}

static void refusals(void **state) {
    (void)state;
    zmlx_kernel *kernel, *never;
    mlx_array y = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    OK(zmlx_elementwise(&kernel, "e", "exp(x)", NULL, &failure));
    mlx_array ints = zm_arange(&scope, 0, 4, 1, MLX_INT32),
              wide = zm_from_data(&scope, (const double[]){1, 2}, SHAPE(2), MLX_FLOAT64);
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, &ints, 1, stream, &failure), "zmlx.e", "x is int32",
                 "float32, float16 or bfloat16");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, &wide, 1, stream, &failure), "float64");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, &none, 1, stream, &failure), "empty handle");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, &ints, 0, stream, &failure), "expected 1 inputs");
    assert_null(y.ctx);
    zmlx_kernel_free(kernel);
    kernel = make("row_argmax(x)", NULL, 0);
    mlx_array empty = zm_zeros(&scope, SHAPE(2, 0), MLX_FLOAT32), no_rows = zm_zeros(&scope, SHAPE(0, 4), MLX_FLOAT32);
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, &empty, 1, stream, &failure), "row_argmax",
                 "no elements");
    assert_null(y.ctx);
    assert_int_equal(mlx_array_size(apply_one(&scope, kernel, no_rows)), 0);
    zmlx_kernel_free(kernel);
    kernel = make("column() == row_argmax(x) ? x : 0", NULL, 0);
    assert_int_equal(mlx_array_size(apply_one(&scope, kernel, empty)), 0);
    zmlx_kernel_free(kernel);
    static const char *const names[] = {"a", "b"};
    kernel = make("a + b", names, 2);
    mlx_array mismatched[2] = {zm_zeros(&scope, SHAPE(3), MLX_FLOAT32), zm_zeros(&scope, SHAPE(4), MLX_FLOAT32)};
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(kernel, &y, mismatched, 2, stream, &failure), "b", "(4)",
                 "(3)");
    zmlx_kernel_free(kernel);
    EXPECT_ERROR(ZMLX_ERROR_FORMAT, zmlx_elementwise(&never, "bad", "exq(x)", NULL, &failure), "exq", "exp");
    assert_null(never);
    assert_int_equal(failure.column, 1);
    EXPECT_ERROR(ZMLX_ERROR_FORMAT, zmlx_elementwise(&never, "bad", "x + z", NULL, &failure), "z");
    assert_int_equal(failure.column, 5);
    zmlx_elementwise_options halves = {.compute_type = "float16"};
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_elementwise(&never, "bad", "x", &halves, &failure), "compute_type");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_elementwise(&never, "bad", "row_sum(x)", NULL, &failure), "elementwise");
    zmlx_pass pass = {"0", "acc1 + x", "a + b"}, missing = {"0", NULL, "a + b"};
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_map_reduce(&never, "bad", &pass, &missing, "x", NULL, &failure),
                 "pass2.update");
    zmlx_map_reduce_options group = {.threadgroup = 48};
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_map_reduce(&never, "bad", &pass, &pass, "x", &group, &failure),
                 "threadgroup", "48");
    end_well(&scope);
}

/* Broadcasting makes vast results out of small arrays; the caller's cotangents may have any shape. */
static void sizes_that_cannot_be(void **state) {
    (void)state;
    enum { LENGTH = 1 << 16 };
    static const char *const names[] = {"a", "b", "c", "d"};
    zmlx_kernel *sum = make("a + b + c + d", names, 4), *square = make("x * x", NULL, 0),
                *total = make("row_sum(x)", NULL, 0);
    mlx_array y = {NULL}, vast[4], gradient = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < 4; i++) {
        int shape[4] = {1, 1, 1, 1};
        shape[i] = LENGTH;
        vast[i] = zm_zeros(&scope, shape, 4, MLX_FLOAT32);
    }
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_apply(sum, &y, vast, 4, stream, &failure),
                 "(65536, 65536, 65536, 65536) is too large");
    assert_null(y.ctx);
    mlx_array x = zm_zeros(&scope, SHAPE(3), MLX_FLOAT32), scalar = zm_scalar(&scope, 1, MLX_FLOAT32);
    mlx_array cotangents[] = {zm_zeros(&scope, SHAPE(2, 3), MLX_FLOAT32), zm_zeros(&scope, SHAPE(1), MLX_FLOAT32),
                              zm_zeros(&scope, SHAPE(2), MLX_FLOAT32), none};
    for (int i = 0; i < COUNT(cotangents); i++) {
        EXPECT_ERROR(ZMLX_ERROR_ARGUMENT,
                     zmlx_kernel_apply_gradient(square, &gradient, &x, 1, &cotangents[i], 1, NULL, stream, &failure),
                     "the cotangent of y");
        EXPECT_ERROR(ZMLX_ERROR_ARGUMENT,
                     zmlx_kernel_apply_gradient(total, &gradient, &scalar, 1, &cotangents[i], 1, NULL, stream,
                                                &failure),
                     "the cotangent of y");
    }
    OK(zmlx_kernel_apply_gradient(total, &gradient, &x, 1, &scalar, 1, NULL, stream, &failure));
    expect_values(&scope, zm_scope_own(&scope, gradient), VALUES(1, 1, 1), 0);
    end_well(&scope);
    zmlx_kernel_free(sum);
    zmlx_kernel_free(square);
    zmlx_kernel_free(total);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(broadcasts_as_mlx), cmocka_unit_test(any_layout),      cmocka_unit_test(rows_of_any_length),
        cmocka_unit_test(folds_and_scans),   cmocka_unit_test(several_outputs), cmocka_unit_test(refusals),
        cmocka_unit_test(sizes_that_cannot_be),
    };
    return cmocka_run_group_tests(tests, open_kernels, close_kernels);
}
