/* SPDX-License-Identifier: MIT */
/* zmlx_assert_matches: shapes, types, comparison. */
#include "validate/kernel_test.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"
#include "mlx/scope.h"
#include "mlx/streams.h"

static const zmlx_test_shape usual_shapes[] = {{1, {1}},    {1, {7}},         {1, {64}},
                                               {2, {3, 5}}, {3, {2, 3, 129}}, {2, {33, 1024}}};
static const mlx_dtype usual_dtypes[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};

/* One run of an assertion. */
typedef struct assertion {
    zmlx_kernel *kernel;
    zmlx_kernel_info info;
    const zmlx_reference *reference;
    zmlx_test_options options; /* shapes and types filled in */
    mlx_stream stream, cpu;
    bool gradients;
    int n_comparisons, n_failed;
    size_t n_compared;
    zmlx_error first; /* failed comparison */
} assertion;

/* What storing in a type adds: a unit in the last place, a subnormal step; and the type's largest number. */
typedef struct storage_limits {
    double relative, absolute, largest;
} storage_limits;

static storage_limits limits_of(mlx_dtype dtype) {
    if (dtype == MLX_FLOAT16) return (storage_limits){0x1p-10, 0x1p-24, 65504};
    if (dtype == MLX_BFLOAT16) return (storage_limits){0x1p-7, 0x1p-126, 0x1.fep127};
    return (storage_limits){0, 0x1p-126, FLT_MAX}; /* subnormal numbers may be flushed */
}

static double largest_of(const zmlx_test_array *array) {
    double largest = 0;
    for (size_t i = 0; i < array->size; i++)
        if (isfinite(array->values[i])) largest = fmax(largest, fabs(array->values[i]));
    return largest;
}

static bool is_reduction(const assertion *this) {
    if (this->options.tolerance == ZMLX_TOLERANCE_DEFAULT) return this->info.has_rows;
    return this->options.tolerance == ZMLX_TOLERANCE_REDUCTION;
}

/* The formulas of zmlx_tolerance. n_summed: elements that a sum runs over. */
static double tolerance_of(const assertion *this, double expected, double scale, double n_summed, mlx_dtype dtype) {
    const zmlx_test_options *options = &this->options;
    double size = fabs(expected), u = 0x1p-24, factor = this->gradients ? 4 : 1;
    if (options->relative > 0 || options->absolute > 0) return options->relative * size + options->absolute;
    if (!this->reference->evaluate && !this->reference->takes_float64) factor *= 2;
    storage_limits limits = limits_of(dtype);
    double bound = is_reduction(this) ? (64 + 4 * log2(n_summed)) * u * fmax(scale, size)
                                      : (16 + 4 * fabs(options->exponent)) * u * size + 4 * u * scale;
    return factor * bound + limits.relative * size + limits.absolute;
}

/* |got - expected| in units of the tolerance. */
static double measure(double got, double expected, double tolerance, mlx_dtype dtype) {
    double largest = limits_of(dtype).largest;
    if (isnan(expected) || isnan(got)) return isnan(expected) && isnan(got) ? 0 : INFINITY;
    if (got == expected) return 0;
    if (isinf(got)) return copysign(1, got) * expected + tolerance > largest ? 0 : INFINITY;
    if (isinf(expected)) return INFINITY;
    return tolerance >= 0 ? fabs(got - expected) / tolerance : INFINITY; /* NaN, by a scale of the reference, is none */
}

static void compare(zmlx_test_report *report, const assertion *this, const zm_test_case *test,
                    const zm_test_expected *expected, const zmlx_test_array *got) {
    bool by_array = this->gradients || is_reduction(this);
    double scale = this->options.scale > 0 ? this->options.scale : by_array ? largest_of(&expected->values) : 0;
    /* The gradient of a vector is a sum over the rows. */
    double n_summed = (double)test->columns;
    if (this->gradients && got->size < test->rows * test->columns) n_summed *= (double)test->rows;
    report->error = -1;
    for (size_t i = 0; i < got->size; i++) {
        if (expected->compared && !expected->compared[i]) continue;
        double value = expected->values.values[i];
        double own = expected->scales.values ? fabs(expected->scales.values[i]) : scale;
        double tolerance = tolerance_of(this, value, own, n_summed, test->dtype);
        double error = measure(got->values[i], value, tolerance, test->dtype);
        report->n_compared++;
        if (error <= report->error) continue;
        report->worst = i;
        report->expected = value;
        report->got = got->values[i];
        report->tolerance = tolerance;
        report->error = error;
    }
    report->error = fmax(report->error, 0);
    report->n_skipped = got->size - report->n_compared;
    report->passed = report->error <= 1;
}

static void print_tuple(zm_text *text, const int *numbers, int count) {
    zm_text_append_string(text, "(");
    for (int i = 0; i < count; i++) zm_text_printf(text, i ? ", %d" : "%d", numbers[i]);
    zm_text_append_string(text, ")");
}

static void describe(zmlx_error *error, const zmlx_test_report *report) {
    zm_text text = {0};
    int place[8] = {0};
    size_t rest = report->worst;
    for (int i = report->n_dims - 1; i >= 0; i--) {
        place[i] = (int)(rest % (size_t)report->shape[i]);
        rest /= (size_t)report->shape[i];
    }
    zm_text_printf(&text, "%s%s, shape ", report->is_gradient ? "gradient of " : "", report->subject);
    print_tuple(&text, report->test_shape->dims, report->test_shape->n_dims);
    zm_text_printf(&text, ", %s: element %zu at ", zm_dtype_name(report->dtype), report->worst);
    print_tuple(&text, place, report->n_dims);
    zm_text_printf(&text, ": expected %.9g, got %.9g, %.3g times the tolerance of %.3g", report->expected,
                   report->got, report->error, report->tolerance);
    zm_fail(error, ZMLX_ERROR_ARGUMENT, report->kernel, "%s", zm_text_string(&text));
    zm_text_free(&text);
}

static void judge(assertion *this, const zm_test_case *test, const char *subject, const zm_test_expected *expected,
                  const zmlx_test_array *got) {
    zmlx_test_report report = {.kernel = this->info.name, .subject = subject, .is_gradient = this->gradients,
                               .test_shape = test->shape, .dtype = test->dtype, .shape = got->shape,
                               .n_dims = got->n_dims};
    compare(&report, this, test, expected, got);
    this->n_comparisons++;
    this->n_compared += report.n_compared;
    if (!report.passed && !this->n_failed++) describe(&this->first, &report);
    if (this->options.log) this->options.log(this->options.log_context, &report);
}

static zmlx_status make_arrays(zm_test_case *test, const assertion *this, zmlx_error *error) {
    const int *dims = test->shape->dims, n_dims = test->shape->n_dims;
    static const double range[2] = {-1, 1};
    for (size_t i = 0; i < this->info.n_inputs; i++) {
        bool is_vector = this->options.vector_inputs >> i & 1;
        double own_range[2];
        zm_test_range(own_range, &this->options, i);
        ZM_TRY(zm_test_random(&test->inputs[i], &test->stored_inputs[i], test->arena,
                              is_vector ? dims + n_dims - 1 : dims, is_vector ? 1 : n_dims, test->dtype, own_range,
                              zm_splitmix64(this->options.seed, i), error));
    }
    ZM_TRY(zmlx_kernel_apply_with(this->kernel, test->outputs, test->stored_inputs, this->info.n_inputs,
                                  this->options.numbers, this->stream, error));
    for (size_t i = 0; this->gradients && i < this->info.n_outputs; i++)
        ZM_TRY(zm_test_random(&test->cotangents[i], &test->stored_cotangents[i], test->arena,
                              mlx_array_shape(test->outputs[i]), (int)mlx_array_ndim(test->outputs[i]), test->dtype,
                              range, zm_splitmix64(this->options.seed, ZM_IR_MAX_INPUTS + i), error));
    return ZMLX_OK;
}

static zmlx_status compare_outputs(assertion *this, const zm_test_case *test, zmlx_error *error) {
    zm_test_expected expected[ZM_IR_MAX_OUTPUTS] = {0};
    zmlx_test_array got[ZM_IR_MAX_OUTPUTS];
    for (size_t i = 0; i < this->info.n_outputs; i++) {
        ZM_TRY(zm_test_read(&got[i], test->arena, test->outputs[i], this->stream, error));
        ZM_TRY(zm_test_zeros(&expected[i].values, test->arena, &got[i], error));
    }
    ZM_TRY(zm_test_expect_outputs(expected, test, error));
    for (size_t i = 0; i < this->info.n_outputs; i++) judge(this, test, this->info.outputs[i], &expected[i], &got[i]);
    return ZMLX_OK;
}

/* The kernel as a function of MLX. */
typedef struct applied {
    const zm_test_case *test;
    zmlx_error failure;
} applied;

static int apply(mlx_vector_array *results, const mlx_vector_array arguments, void *context) {
    applied *this = context;
    const zm_test_case *test = this->test;
    mlx_array in[ZM_IR_MAX_INPUTS] = {{NULL}}, out[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    size_t n_inputs = test->info->n_inputs, n_outputs = test->info->n_outputs;
    int failed = 0;
    for (size_t i = 0; i < n_inputs && !failed; i++) failed = mlx_vector_array_get(&in[i], arguments, i);
    failed = failed || zmlx_kernel_apply_with(test->kernel, out, in, n_inputs, test->options->numbers, test->stream,
                                              &this->failure);
    if (!failed) {
        mlx_vector_array made = mlx_vector_array_new_data(out, n_outputs);
        failed = mlx_vector_array_set(results, made);
        mlx_vector_array_free(made);
    }
    for (size_t i = 0; i < n_inputs; i++) mlx_array_free(in[i]);
    for (size_t i = 0; i < n_outputs; i++) mlx_array_free(out[i]);
    return failed;
}

static zmlx_status find_gradients(zmlx_test_array *got, const zm_test_case *test, zmlx_error *error) {
    applied context = {.test = test};
    mlx_closure function = mlx_closure_new_func_payload(apply, &context, NULL);
    mlx_vector_array arguments = mlx_vector_array_new_data(test->stored_inputs, test->info->n_inputs);
    mlx_vector_array cotangents = mlx_vector_array_new_data(test->stored_cotangents, test->info->n_outputs);
    mlx_vector_array values = mlx_vector_array_new(), gradients = mlx_vector_array_new();
    zmlx_status status = ZMLX_OK;
    if (mlx_vjp(&values, &gradients, function, arguments, cotangents)) status = zm_mlx_fail(error, "gradient");
    if (status && context.failure.code) {
        if (error) *error = context.failure;
        status = context.failure.code;
    }
    for (size_t i = 0; i < test->info->n_inputs && !status; i++) {
        mlx_array gradient = {NULL};
        if (mlx_vector_array_get(&gradient, gradients, i)) status = zm_mlx_fail(error, "gradient");
        if (!status) status = zm_test_read(&got[i], test->arena, gradient, test->stream, error);
        mlx_array_free(gradient);
    }
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(arguments);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(function);
    return status;
}

static zmlx_status compare_gradients(assertion *this, const zm_test_case *test, zmlx_error *error) {
    zm_test_expected expected[ZM_IR_MAX_INPUTS] = {0};
    zmlx_test_array got[ZM_IR_MAX_INPUTS];
    ZM_TRY(find_gradients(got, test, error));
    ZM_TRY(zm_test_expect_gradients(expected, test, test->cotangents, error));
    for (size_t i = 0; i < this->info.n_inputs; i++) {
        if (got[i].size != test->inputs[i].size)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, this->info.name,
                           "gradient of %s: another shape than the input's", this->info.inputs[i]);
        judge(this, test, this->info.inputs[i], &expected[i], &got[i]);
    }
    return ZMLX_OK;
}

static zmlx_status run_case(assertion *this, const zmlx_test_shape *shape, mlx_dtype dtype, zmlx_error *error) {
    zm_test_case test = {.arena = zm_arena_new(), .kernel = this->kernel, .info = &this->info,
                         .reference = this->reference, .options = &this->options, .stream = this->stream,
                         .cpu = this->cpu, .shape = shape, .rows = 1, .dtype = dtype};
    if (!test.arena) return zm_fail_memory(error);
    test.columns = (size_t)shape->dims[shape->n_dims - 1];
    for (int i = 0; i + 1 < shape->n_dims; i++) test.rows *= (size_t)shape->dims[i];
    zmlx_status status = make_arrays(&test, this, error);
    if (!status)
        status = this->gradients ? compare_gradients(this, &test, error) : compare_outputs(this, &test, error);
    for (size_t i = 0; i < this->info.n_inputs; i++) mlx_array_free(test.stored_inputs[i]);
    for (size_t i = 0; i < this->info.n_outputs; i++) {
        mlx_array_free(test.stored_cotangents[i]);
        mlx_array_free(test.outputs[i]);
    }
    zm_arena_free(test.arena);
    return status;
}

static bool is_float(mlx_dtype dtype) {
    return dtype == MLX_FLOAT32 || dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16;
}

static bool is_range(const double range[2]) { return range[0] <= range[1] && isfinite(range[1] - range[0]); }

static zmlx_status check_options(const assertion *this, zmlx_error *error) {
    const zmlx_test_options *options = &this->options;
    for (size_t i = 0; i < options->n_shapes; i++) {
        const zmlx_test_shape *shape = &options->shapes[i];
        bool good = shape->n_dims >= 1 && shape->n_dims <= 8;
        for (int j = 0; good && j < shape->n_dims; j++) good = shape->dims[j] >= 1;
        if (!good)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "shapes", "number %zu: expected 1 to 8 dimensions, none 0", i);
    }
    for (size_t i = 0; i < options->n_dtypes; i++)
        if (!is_float(options->dtypes[i]))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "dtypes", "expected float32, float16 or bfloat16, got %s",
                           zm_dtype_name(options->dtypes[i]));
    for (size_t i = 0; options->ranges && i < this->info.n_inputs; i++)
        if (!is_range(options->ranges[i]))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "ranges", "of %s: from %g to %g", this->info.inputs[i],
                           options->ranges[i][0], options->ranges[i][1]);
    const double numbers[] = {fabs(options->exponent), options->scale, options->relative, options->absolute};
    for (int i = 0; i < 4; i++)
        if (!(numbers[i] >= 0))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tolerance", "expected numbers from 0 on, got %g", numbers[i]);
    if ((int)options->tolerance < 0 || options->tolerance > ZMLX_TOLERANCE_REDUCTION)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tolerance", "%d is none", (int)options->tolerance);
    if (!this->reference->evaluate && !this->reference->function.ctx)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "it has no function");
    return ZMLX_OK;
}

static zmlx_status run(assertion *this, zmlx_error *error) {
    const zmlx_test_options *options = &this->options;
    for (size_t i = 0; i < options->n_shapes; i++)
        for (size_t j = 0; j < options->n_dtypes; j++)
            ZM_TRY(run_case(this, &options->shapes[i], options->dtypes[j], error));
    if (!this->n_compared)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, this->info.name, "there was no element to compare");
    if (!this->n_failed) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, this->first.where, "%s; %d of %d comparisons failed",
                   this->first.message, this->n_failed, this->n_comparisons);
}

static zmlx_status assert_matches(assertion *this, const zmlx_test_options *options, zmlx_error *error) {
    zm_error_clear(error);
    if (options) this->options = *options;
    if (!this->options.shapes) {
        this->options.shapes = usual_shapes;
        this->options.n_shapes = sizeof usual_shapes / sizeof *usual_shapes;
    }
    if (!this->options.dtypes) {
        this->options.dtypes = usual_dtypes;
        this->options.n_dtypes = sizeof usual_dtypes / sizeof *usual_dtypes;
    }
    ZM_TRY(zmlx_kernel_get_info(&this->info, this->kernel, error));
    if (!this->reference) return zm_fail_null(error, "reference");
    ZM_TRY(check_options(this, error));
    ZM_TRY(zm_stream_new(&this->cpu, MLX_CPU, error));
    zmlx_status status = run(this, error);
    zm_stream_free(this->cpu);
    return status;
}

zmlx_status zmlx_assert_matches(zmlx_kernel *kernel, const zmlx_reference *reference, const zmlx_test_options *options,
                                mlx_stream stream, zmlx_error *error) {
    assertion this = {.kernel = kernel, .reference = reference, .stream = stream};
    return assert_matches(&this, options, error);
}

zmlx_status zmlx_assert_gradient_matches(zmlx_kernel *kernel, const zmlx_reference *reference,
                                         const zmlx_test_options *options, mlx_stream stream, zmlx_error *error) {
    assertion this = {.kernel = kernel, .reference = reference, .stream = stream, .gradients = true};
    return assert_matches(&this, options, error);
}
