/* SPDX-License-Identifier: MIT */
/* NULL where the public functions need an object or an array: an error that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "demonstration_model.h"

static void expect_null(zmlx_status status, const char *where) {
    assert_int_equal(status, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, where);
    assert_string_equal(error.message, "it is NULL");
}

static void test_models(void **state) {
    (void)state;
    const int32_t token = 1;
    zmlx_model *unmade;
    zmlx_session *session;
    zmlx_generation generation;
    zmlx_validation validation;
    zmlx_smart_report report;
    expect_null(zmlx_model_load(&unmade, NULL, NULL, &error), "folder");
    expect_null(zmlx_session_new(&session, NULL, &error), "model");
    assert_null(session);
    expect_null(zmlx_session_feed(NULL, &token, 1, NULL, false, &error), "session");
    expect_null(zmlx_generate(&generation, NULL, &token, 1, NULL, &error), "model");
    expect_null(zmlx_generate(&generation, model, NULL, 1, NULL, &error), "prompt");
    expect_null(zmlx_patch(NULL, NULL, NULL, &error), "model");
    expect_null(zmlx_smart_patch(&report, NULL, NULL, &error), "model");
    expect_null(zmlx_validate(&validation, NULL, &token, 1, NULL, &error), "model");
    check(zmlx_session_new(&session, model, &error));
    expect_null(zmlx_session_feed(session, NULL, 1, NULL, false, &error), "tokens");
    /* Refused before they are read. */
    assert_int_equal(zmlx_session_feed(session, &token, (size_t)1 << 32, NULL, false, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "4294967296 are too many");
    check(zmlx_session_feed(session, &token, 1, NULL, false, &error));
    zmlx_session_free(session);
}

static void test_kernels(void **state) {
    (void)state;
    mlx_array x = mlx_array_new_float32(1), y = {NULL};
    mlx_stream stream = mlx_default_cpu_stream_new();
    zmlx_kernel *kernel;
    check(zmlx_elementwise(&kernel, NULL, "x + 1", NULL, &error));
    expect_null(zmlx_kernel_apply(NULL, &y, &x, 1, stream, &error), "kernel");
    expect_null(zmlx_kernel_apply(kernel, NULL, &x, 1, stream, &error), "outputs");
    expect_null(zmlx_kernel_apply(kernel, &y, NULL, 1, stream, &error), "inputs");
    expect_null(zmlx_kernel_apply_gradient(NULL, &y, &x, 1, &x, 1, NULL, stream, &error), "kernel");
    expect_null(zmlx_kernel_apply_gradient(kernel, NULL, &x, 1, &x, 1, NULL, stream, &error), "gradients");
    expect_null(zmlx_kernel_apply_gradient(kernel, &y, NULL, 1, &x, 1, NULL, stream, &error), "inputs");
    expect_null(zmlx_kernel_apply_gradient(kernel, &y, &x, 1, NULL, 1, NULL, stream, &error), "cotangents");
    expect_null(zmlx_catalog_apply("silu", NULL, &x, 1, NULL, stream, &error), "outputs");
    expect_null(zmlx_catalog_apply("silu", &y, NULL, 1, NULL, stream, &error), "inputs");
    expect_null(zmlx_catalog_apply_gradient("silu", NULL, &x, 1, &x, NULL, stream, &error), "gradients");
    expect_null(zmlx_catalog_apply_gradient("silu", &y, NULL, 1, &x, NULL, stream, &error), "inputs");
    expect_null(zmlx_catalog_apply_gradient("silu", &y, &x, 1, NULL, NULL, stream, &error), "cotangents");
    assert_null(y.ctx);
    zmlx_kernel_free(kernel);
    mlx_array_free(x);
    mlx_stream_free(stream);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models), cmocka_unit_test(test_kernels)};
    return cmocka_run_group_tests(tests, load_model, free_model);
}
