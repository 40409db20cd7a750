/* SPDX-License-Identifier: MIT */
/* What a reference says of one case. */
#include <string.h>

#include "mlx/scope.h"
#include "validate/kernel_test.h"

static mlx_stream reference_stream(const zm_test_case *test) {
    return test->reference->takes_float64 ? test->cpu : test->stream;
}

/* The values as an array that the reference's function takes. */
static zmlx_status as_argument(mlx_array *argument, const zmlx_test_array *values, const zm_test_case *test,
                               zmlx_error *error) {
    zm_scope scope;
    zm_scope_begin(&scope, test->cpu);
    mlx_array wide = zm_from_data(&scope, values->values, values->shape, values->n_dims, MLX_FLOAT64);
    zm_scope_keep(&scope, argument, test->reference->takes_float64 ? wide : zm_astype(&scope, wide, MLX_FLOAT32));
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(*argument)) status = zm_mlx_fail(error, "reference");
    return status;
}

static zmlx_status as_arguments(mlx_vector_array arguments, const zmlx_test_array *values, size_t count,
                                const zm_test_case *test, zmlx_error *error) {
    for (size_t i = 0; i < count; i++) {
        mlx_array argument = {NULL};
        zmlx_status status = as_argument(&argument, &values[i], test, error);
        if (!status && mlx_vector_array_append_value(arguments, argument)) status = zm_mlx_fail(error, "reference");
        mlx_array_free(argument);
        if (status) return status;
    }
    return ZMLX_OK;
}

static zmlx_status check_results(mlx_vector_array results, const zmlx_test_array *shapes, size_t count,
                                 zmlx_error *error) {
    if (mlx_vector_array_size(results) != count)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "expected %zu results, got %zu", count,
                       mlx_vector_array_size(results));
    for (size_t i = 0; i < count; i++) {
        mlx_array result = {NULL};
        if (mlx_vector_array_get(&result, results, i)) return zm_mlx_fail(error, "reference");
        bool same = (int)mlx_array_ndim(result) == shapes[i].n_dims;
        for (int d = 0; same && d < shapes[i].n_dims; d++) same = mlx_array_dim(result, d) == shapes[i].shape[d];
        mlx_array_free(result);
        if (!same)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "result %zu has another shape than the kernel's",
                           i);
    }
    return ZMLX_OK;
}

/* Reads count results, which must have the shapes of `shapes`. */
static zmlx_status take_results(zm_test_expected *expected, mlx_vector_array results, const zmlx_test_array *shapes,
                                size_t count, const zm_test_case *test, zmlx_error *error) {
    ZM_TRY(check_results(results, shapes, count, error));
    for (size_t i = 0; i < count; i++) {
        mlx_array result = {NULL};
        zmlx_status status = mlx_vector_array_get(&result, results, i) ? zm_mlx_fail(error, "reference") : ZMLX_OK;
        if (!status) status = zm_test_read(&expected[i].values, test->arena, result, reference_stream(test), error);
        mlx_array_free(result);
        if (status) return status;
    }
    return ZMLX_OK;
}

/* Applies the function, or its gradient where cotangents is not empty, with the stream's device as MLX's default one:
 * there vjp copies its arguments, and a GPU has no float64. */
static int apply_function(mlx_vector_array *results, mlx_vector_array *gradients, const zm_test_case *test,
                          mlx_vector_array arguments, mlx_vector_array cotangents) {
    mlx_device before = mlx_device_new(), device = mlx_device_new();
    int failed = mlx_get_default_device(&before) || mlx_stream_get_device(&device, reference_stream(test)) ||
                 mlx_set_default_device(device);
    if (!failed && mlx_vector_array_size(cotangents))
        failed = mlx_vjp(results, gradients, test->reference->function, arguments, cotangents);
    else if (!failed)
        failed = mlx_closure_apply(results, test->reference->function, arguments);
    if (before.ctx && mlx_set_default_device(before)) failed = 1;
    mlx_device_free(before);
    mlx_device_free(device);
    return failed;
}

static zmlx_status call_function(zm_test_expected *expected, const zm_test_case *test, const zmlx_test_array *shapes,
                                 bool want_gradients, zmlx_error *error) {
    const zmlx_kernel_info *info = test->info;
    mlx_vector_array arguments = mlx_vector_array_new(), cotangents = mlx_vector_array_new();
    mlx_vector_array results = mlx_vector_array_new(), gradients = mlx_vector_array_new();
    zmlx_status status = as_arguments(arguments, test->inputs, info->n_inputs, test, error);
    if (!status && apply_function(&results, &gradients, test, arguments, cotangents))
        status = zm_mlx_fail(error, "reference");
    if (!status && want_gradients) { /* vjp would not say which of its arrays is at fault, nor miss one */
        status = check_results(results, test->cotangents, info->n_outputs, error);
        if (!status) status = as_arguments(cotangents, test->cotangents, info->n_outputs, test, error);
        if (!status && apply_function(&results, &gradients, test, arguments, cotangents))
            status = zm_mlx_fail(error, "reference");
    }
    if (!status)
        status = take_results(expected, want_gradients ? gradients : results, shapes,
                              want_gradients ? info->n_inputs : info->n_outputs, test, error);
    mlx_vector_array_free(arguments);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(results);
    mlx_vector_array_free(gradients);
    return status;
}

static bool has_number(const zmlx_test_array *array) {
    for (size_t i = 0; i < array->size; i++)
        if (array->values[i] != 0) return true;
    return false;
}

static zmlx_status call_evaluate(zm_test_expected *expected, const zm_test_case *test, zmlx_error *error) {
    zmlx_test_array values[ZM_IR_MAX_OUTPUTS], scales[ZM_IR_MAX_OUTPUTS];
    size_t count = test->info->n_outputs;
    for (size_t i = 0; i < count; i++) {
        values[i] = expected[i].values;
        ZM_TRY(zm_test_zeros(&scales[i], test->arena, &values[i], error));
    }
    if (test->reference->evaluate(test->reference->context, test->inputs, values, scales))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "reference", "it refused the inputs");
    for (size_t i = 0; i < count; i++)
        if (has_number(&scales[i])) expected[i].scales = scales[i];
    return ZMLX_OK;
}

zmlx_status zm_test_expect_outputs(zm_test_expected *expected, const zm_test_case *test, zmlx_error *error) {
    zmlx_test_array shapes[ZM_IR_MAX_OUTPUTS];
    if (test->reference->evaluate) return call_evaluate(expected, test, error);
    for (size_t i = 0; i < test->info->n_outputs; i++) shapes[i] = expected[i].values;
    return call_function(expected, test, shapes, false, error);
}

zmlx_status zm_test_expect_gradients(zm_test_expected *expected, const zm_test_case *test,
                                     const zmlx_test_array *outputs, zmlx_error *error) {
    if (test->reference->evaluate) return zm_test_differentiate(expected, test, outputs, error);
    return call_function(expected, test, test->inputs, true, error);
}
