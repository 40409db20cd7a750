/* SPDX-License-Identifier: MIT */
/* zmlx_assert_matches: right kernels pass, wrong ones fail where they are wrong, by the stated tolerances. */
#include "kernel_testing.h"

#include <math.h>

#include "zmlx/kernel_test.h"

static int mish(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context, (void)scales;
    for (size_t i = 0; i < y->size; i++) y->values[i] = x->values[i] * tanh(log1p(exp(x->values[i])));
    return 0;
}

/* a * w + b, w one number a column. */
static int affine(void *context, const zmlx_test_array *in, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context;
    for (size_t i = 0; i < y->size; i++) {
        double product = in[0].values[i] * in[1].values[i % in[1].size], b = in[2].values[i];
        y->values[i] = product + b;
        scales->values[i] = fmax(fabs(product), fabs(b));
    }
    return 0;
}

/* x w / sqrt(mean x^2 + 0.1) and the row's sum. */
static int norm_and_sum(void *context, const zmlx_test_array *in, zmlx_test_array *out, zmlx_test_array *scales) {
    (void)context;
    size_t columns = in[1].size, rows = in[0].size / columns;
    for (size_t row = 0; row < rows; row++) {
        const double *x = in[0].values + row * columns;
        double squares = 0, sum = 0, magnitude = 0;
        for (size_t i = 0; i < columns; i++) {
            squares += x[i] * x[i];
            sum += x[i];
            magnitude += fabs(x[i]);
        }
        for (size_t i = 0; i < columns; i++)
            out[0].values[row * columns + i] = x[i] * in[1].values[i] / sqrt(squares / (double)columns + 0.1);
        out[1].values[row] = sum;
        scales[1].values[row] = magnitude;
    }
    return 0;
}

static zmlx_kernel *new_norm(void) {
    static const char *const names[] = {"x", "w"};
    static const char *const texts[] = {"x * w * rsqrt(row_mean(x * x) + 0.1)", "row_sum(x)"};
    zmlx_map_options options = {.inputs = names, .n_inputs = 2};
    zmlx_kernel *kernel;
    OK(zmlx_map(&kernel, "norm", texts, 2, &options, &failure));
    return kernel;
}

static zmlx_kernel *new_elementwise(const char *text, const char *gradient) {
    zmlx_elementwise_options options = {.gradient = gradient};
    zmlx_kernel *kernel;
    OK(zmlx_elementwise(&kernel, "subject", text, &options, &failure));
    return kernel;
}

static void right_kernels_match(void **state) {
    (void)state;
    zmlx_reference reference = {.evaluate = mish};
    zmlx_kernel *kernel = new_elementwise("x * tanh(log1p(exp(x)))", NULL);
    OK(zmlx_assert_matches(kernel, &reference, NULL, stream, &failure));
    OK(zmlx_assert_gradient_matches(kernel, &reference, NULL, stream, &failure));
    zmlx_kernel_free(kernel);

    static const char *const names[] = {"a", "w", "b"}, *const text = "a * w + b";
    zmlx_map_options map = {.inputs = names, .n_inputs = 3};
    zmlx_test_options options = {.vector_inputs = 1 << 1, .seed = 3};
    OK(zmlx_map(&kernel, "affine", &text, 1, &map, &failure));
    reference.evaluate = affine;
    OK(zmlx_assert_matches(kernel, &reference, &options, stream, &failure));
    OK(zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure));
    zmlx_kernel_free(kernel);

    kernel = new_norm();
    reference.evaluate = norm_and_sum;
    OK(zmlx_assert_matches(kernel, &reference, &options, stream, &failure));
    OK(zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure));
    zmlx_kernel_free(kernel);
}

static int give_nothing(mlx_vector_array *results, const mlx_vector_array inputs) {
    (void)results;
    (void)inputs;
    return 0;
}

/* sum(x * sigmoid(x)) along the row, in MLX on the stream's device. */
static int silu_sum(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = {NULL}, y = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    int failed = mlx_vector_array_get(&x, inputs, 0);
    zm_scope_keep(&scope, &y, zm_sum(&scope, zm_multiply(&scope, x, zm_sigmoid(&scope, x)), -1, false));
    failed = zm_scope_end(&scope, NULL) || failed || mlx_vector_array_set_value(results, y);
    mlx_array_free(x);
    mlx_array_free(y);
    return failed;
}

static void functions_of_mlx_are_references(void **state) {
    (void)state;
    zmlx_kernel *kernel, *other;
    OK(zmlx_reduce(&kernel, "silu_sum", "0", "acc + kk_silu(v)", NULL, &failure));
    OK(zmlx_reduce(&other, "silu_sum", "0", "acc + 1.0001 * kk_silu(v)", NULL, &failure));
    zmlx_reference reference = {.function = mlx_closure_new_func(silu_sum)};
    zmlx_test_options options = {.seed = 2};
    int n_widths = stream.ctx == host_stream.ctx ? 2 : 1; /* a GPU has no float64 */
    for (int wide = 0; wide < n_widths; wide++) {
        reference.takes_float64 = wide;
        OK(zmlx_assert_matches(kernel, &reference, &options, stream, &failure));
        OK(zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure));
        EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(other, &reference, &options, stream, &failure),
                     "silu_sum", "y", "shape (1), float32", "at (): expected");
        EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(other, &reference, &options, stream, &failure),
                     "gradient of x", "times the tolerance", "of 18 comparisons failed");
    }
    zmlx_kernel_free(other);
    zmlx_kernel_free(kernel);
    /* A result of another shape, a function that fails. */
    kernel = new_elementwise("kk_silu(x)", NULL);
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(kernel, &reference, NULL, stream, &failure), "another shape");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(kernel, &reference, NULL, stream, &failure),
                 "another shape");
    mlx_closure_free(reference.function);
    reference.function = mlx_closure_new_func(give_nothing);
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(kernel, &reference, NULL, stream, &failure),
                 "expected 1 results, got 0");
    zmlx_kernel_free(kernel);
    mlx_closure_free(reference.function);
}

/* x (1 + context ulps of 2^-24) at the last element, x elsewhere. */
static int nearly_x(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)scales;
    memcpy(y->values, x->values, y->size * sizeof *y->values);
    y->values[y->size - 1] *= 1 + *(const double *)context * 0x1p-24;
    return 0;
}

static void keep_report(void *context, const zmlx_test_report *report) { *(zmlx_test_report *)context = *report; }

/* The reference is off by so many units; the error must be that many in units of the bound. */
static void expect_bound(const char *text, zmlx_test_options options, mlx_dtype dtype, double bound) {
    static const zmlx_test_shape shape = {2, {3, 16}};
    static const double range[1][2] = {{1, 2}};
    zmlx_kernel *kernel = new_elementwise(text, NULL);
    zmlx_test_report report = {0};
    options.shapes = &shape;
    options.dtypes = &dtype;
    options.n_shapes = options.n_dtypes = 1;
    options.ranges = range;
    options.log = keep_report;
    options.log_context = &report;
    for (int wrong = 0; wrong < 2; wrong++) {
        double units = bound * (wrong ? 1.01 : 0.99);
        zmlx_reference reference = {.evaluate = nearly_x, .context = &units};
        zmlx_status status = zmlx_assert_matches(kernel, &reference, &options, stream, &failure);
        assert_int_equal(status, wrong ? ZMLX_ERROR_ARGUMENT : ZMLX_OK);
        assert_int_equal(report.passed, !wrong);
        assert_int_equal(report.worst, 47);
        assert_true(report.n_compared == 48 && report.n_skipped == 0 && !report.is_gradient && report.dtype == dtype);
        assert_true(fabs(report.error - units / bound / (1 + units * 0x1p-24)) < 1e-4);
        assert_true(fabs(report.expected - report.got) < 1.02 * report.tolerance);
    }
    assert_non_null(strstr(failure.message, "element 47 at (2, 15): expected 1."));
    assert_non_null(strstr(failure.message, "times the tolerance of "));
    zmlx_kernel_free(kernel);
}

static void tolerances_are_as_stated(void **state) {
    (void)state;
    expect_bound("x", (zmlx_test_options){0}, MLX_FLOAT32, 16);
    expect_bound("x", (zmlx_test_options){.exponent = -3}, MLX_FLOAT32, 28);
    expect_bound("x", (zmlx_test_options){0}, MLX_FLOAT16, 16 + 16384);
    expect_bound("x", (zmlx_test_options){0}, MLX_BFLOAT16, 16 + 131072);
    expect_bound("x", (zmlx_test_options){.relative = 0x1p-14}, MLX_FLOAT32, 1024);
}

static void tolerance_of_reductions(void **state) {
    (void)state;
    /* n = 16, so 64 + 4 * 4 units of the scale: 100 where the values are between 1 and 2. */
    static const zmlx_test_shape shape = {2, {3, 16}};
    static const mlx_dtype dtype = MLX_FLOAT32;
    static const double range[1][2] = {{1, 2}};
    double units = 40;
    zmlx_reference reference = {.evaluate = nearly_x, .context = &units};
    zmlx_test_report report = {0};
    zmlx_test_options options = {.shapes = &shape, .n_shapes = 1, .dtypes = &dtype, .n_dtypes = 1, .ranges = range,
                                 .tolerance = ZMLX_TOLERANCE_REDUCTION, .scale = 100, .log = keep_report,
                                 .log_context = &report};
    zmlx_kernel *kernel = new_elementwise("x", NULL);
    OK(zmlx_assert_matches(kernel, &reference, &options, stream, &failure));
    assert_true(fabs(report.tolerance - 80 * 100 * 0x1p-24) < 1e-9);
    options.tolerance = ZMLX_TOLERANCE_ELEMENTWISE;
    OK(zmlx_assert_matches(kernel, &reference, &options, stream, &failure));
    double elementwise = (16 * report.expected + 4 * 100) * 0x1p-24;
    assert_true(fabs(report.tolerance - elementwise) < 1e-9);
    units = 0;
    OK(zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure));
    assert_true(report.is_gradient);
    assert_true(fabs(report.tolerance - 4 * (16 * fabs(report.expected) + 4 * 100) * 0x1p-24) < 1e-9);
    zmlx_kernel_free(kernel);
}

static void wrong_gradients_fail(void **state) {
    (void)state;
    zmlx_reference reference = {.evaluate = mish};
    zmlx_kernel *kernel = new_elementwise("x * tanh(log1p(exp(x)))", "g * (y / x + x * kk_sigmoid(x))");
    OK(zmlx_assert_matches(kernel, &reference, NULL, stream, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(kernel, &reference, NULL, stream, &failure),
                 "subject", "gradient of x, shape (1), float32: element 0 at (0)", "18 of 18");
    zmlx_kernel_free(kernel);
    /* One input of two: the weight's. A constant instead of a slope, off by one part in ten thousand. */
    static const char *const names[] = {"a", "w", "b"}, *const text = "a * w + b";
    static const char *const gradients[] = {"g * w", "1.0001 * g * a", "g"};
    zmlx_map_options map = {.inputs = names, .n_inputs = 3, .gradients = gradients};
    static const mlx_dtype dtype = MLX_FLOAT32;
    zmlx_test_options options = {.vector_inputs = 1 << 1, .dtypes = &dtype, .n_dtypes = 1};
    OK(zmlx_map(&kernel, "affine", &text, 1, &map, &failure));
    reference.evaluate = affine;
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure),
                 "gradient of w", "6 of 18 comparisons");
    zmlx_kernel_free(kernel);
}

/* max(x, 0), with NaN below -1 and infinity above 100000. */
static int ramp(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context, (void)scales;
    for (size_t i = 0; i < y->size; i++) {
        double value = x->values[i];
        y->values[i] = value > 1e5 ? INFINITY : value < -1 ? NAN : value > 0 ? value : 0;
    }
    return 0;
}

static void kinks_and_special_values(void **state) {
    (void)state;
    static const double zero[1][2] = {{0, 0}}, both[1][2] = {{-0.5, 3}}, below[1][2] = {{-3, -2}};
    static const double above[1][2] = {{2e5, 3e5}}, edge[1][2] = {{65000, 66000}};
    static const mlx_dtype single = MLX_FLOAT32, half = MLX_FLOAT16;
    zmlx_reference reference = {.evaluate = ramp};
    zmlx_kernel *relu = new_elementwise("max(x, 0)", NULL);
    zmlx_kernel *special = new_elementwise("x > 1e5 ? INFINITY : x < -1 ? NAN : max(x, 0)", NULL);
    zmlx_test_options options = {.ranges = both};
    OK(zmlx_assert_gradient_matches(relu, &reference, &options, stream, &failure));
    options.ranges = zero; /* every point is one where no slope is */
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(relu, &reference, &options, stream, &failure),
                 "no element");
    options.ranges = below;
    OK(zmlx_assert_matches(special, &reference, &options, stream, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(relu, &reference, &options, stream, &failure),
                 "expected nan");
    options.ranges = above;
    options.dtypes = &single;
    options.n_dtypes = 1;
    OK(zmlx_assert_matches(special, &reference, &options, stream, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(relu, &reference, &options, stream, &failure), "expected inf",
                 "inf times");
    /* A result that rounds to infinity in float16 is right to be infinite. */
    options.ranges = edge;
    options.dtypes = &half;
    OK(zmlx_assert_matches(relu, &reference, &options, stream, &failure));
    zmlx_kernel_free(special);
    zmlx_kernel_free(relu);
}

static int logarithm(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context, (void)scales;
    for (size_t i = 0; i < y->size; i++) y->values[i] = log(x->values[i]);
    return 0;
}

static void count_skipped(void *context, const zmlx_test_report *report) { *(size_t *)context += report->n_skipped; }

/* The steps of the differences shrink towards it. */
static void singularity(void **state) {
    (void)state;
    static const double range[1][2] = {{0.0005, 2}};
    size_t n_skipped = 0;
    zmlx_reference reference = {.evaluate = logarithm};
    zmlx_kernel *kernel = new_elementwise("log(x)", NULL);
    zmlx_test_options options = {.ranges = range, .scale = 0.01, .log = count_skipped, .log_context = &n_skipped};
    OK(zmlx_assert_gradient_matches(kernel, &reference, &options, stream, &failure));
    assert_int_equal(n_skipped, 0);
    zmlx_kernel_free(kernel);
}

static int refuse(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context, (void)x, (void)y, (void)scales;
    return 1;
}

/* x, with a scale that is no number. */
static int no_scale(void *context, const zmlx_test_array *x, zmlx_test_array *y, zmlx_test_array *scales) {
    (void)context;
    for (size_t i = 0; i < y->size; i++) {
        y->values[i] = x->values[i];
        scales->values[i] = NAN;
    }
    return 0;
}

/* What is no tolerance lets nothing pass. */
static void tolerances_that_are_none(void **state) {
    (void)state;
    zmlx_kernel *kernel = new_elementwise("x + 1", NULL);
    zmlx_reference reference = {.evaluate = no_scale};
    const zmlx_test_options wrong[] = {{.exponent = NAN}, {.scale = NAN}, {.scale = -1}, {.absolute = NAN},
                                       {.relative = -10, .absolute = 1}, {.relative = NAN, .absolute = 1},
                                       {.tolerance = ZMLX_TOLERANCE_REDUCTION + 1}};
    assert_int_equal(zmlx_assert_matches(kernel, &reference, NULL, stream, &failure), ZMLX_ERROR_ARGUMENT);
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(zmlx_assert_matches(kernel, &reference, &wrong[i], stream, &failure), ZMLX_ERROR_ARGUMENT);
        assert_string_equal(failure.where, "tolerance");
    }
    zmlx_kernel_free(kernel);
}

static void wrong_arguments(void **state) {
    (void)state;
    static const zmlx_test_shape empty = {2, {3, 0}}, many = {9, {1}};
    static const mlx_dtype integer = MLX_INT32;
    static const double backwards[1][2] = {{1, 0}};
    zmlx_kernel *kernel = new_elementwise("x", NULL);
    zmlx_reference good = {.evaluate = mish}, nothing = {0}, refusing = {.evaluate = refuse};
    const zmlx_test_options options[] = {{.shapes = &empty, .n_shapes = 1}, {.shapes = &many, .n_shapes = 1},
                                         {.dtypes = &integer, .n_dtypes = 1}, {.ranges = backwards}};
    static const char *const texts[] = {"none 0", "1 to 8", "int32", "from 1 to 0"};
    for (int i = 0; i < COUNT(options); i++)
        EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(kernel, &good, &options[i], stream, &failure), texts[i]);
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(kernel, &nothing, NULL, stream, &failure), "no function");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_matches(kernel, &refusing, NULL, stream, &failure), "refused");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_assert_gradient_matches(kernel, &refusing, NULL, stream, &failure),
                 "refused");
    zmlx_kernel_free(kernel);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(right_kernels_match),      cmocka_unit_test(functions_of_mlx_are_references),
        cmocka_unit_test(tolerances_are_as_stated), cmocka_unit_test(tolerance_of_reductions),
        cmocka_unit_test(wrong_gradients_fail),     cmocka_unit_test(kinks_and_special_values),
        cmocka_unit_test(singularity),              cmocka_unit_test(wrong_arguments),
        cmocka_unit_test(tolerances_that_are_none),
    };
    return cmocka_run_group_tests(tests, open_kernels, close_kernels);
}
