/* SPDX-License-Identifier: MIT */
/* The catalogue's checks and its calls by name: what is refused, and in which words. */
#include "kernels/compose.h"
#include "mlx_testing.h"
#include "zmlx/kernels.h"



static mlx_array ones(const int *shape, int n_dims, mlx_dtype dtype) {
    zm_scope scope;
    mlx_array made = {NULL};
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, &made, zm_astype(&scope, zm_broadcast_to(&scope, zm_scalar(&scope, 1, MLX_FLOAT32), shape, n_dims), dtype));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    return made;
}
#define ARRAY(dtype, ...) ones((const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)), dtype)

static void expect_refusal(zmlx_status status, const zmlx_error *error, const char *text) {
    char whole[1400];
    snprintf(whole, sizeof whole, "%s: %s", error->where, error->message);
    assert_int_equal(status, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(whole, text);
}

static void test_rows_are_complete(void **state) {
    (void)state;
    zmlx_error error = {0};
    if (zm_catalog_check(&error)) fail_msg("%s: %s", error.where, error.message);
    for (int i = 0; zm_catalog_at(i); i++) {
        const zm_kernel_entry *entry = zm_catalog_at(i);
        zmlx_kernel *kernel = NULL;
        if (!entry->row->body) continue;
        if (zm_catalog_kernel(&kernel, entry, &error)) fail_msg("%s: %s: %s", entry->entry.name, error.where, error.message);
        assert_ptr_equal(zm_catalog_lookup(entry->entry.name), entry); /* names are distinct */
    }
}

static void test_wrong_arrays(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, h = {NULL};
    mlx_array x = ARRAY(MLX_FLOAT32, 2, 64), half = ARRAY(MLX_FLOAT16, 2, 64), w = ARRAY(MLX_FLOAT32, 32),
              i = ARRAY(MLX_INT32, 2, 64), flat = ARRAY(MLX_FLOAT32, 64), empty = ARRAY(MLX_FLOAT32, 3, 0);
    expect_refusal(zmlx_rmsnorm(&y, x, w, 1e-6f, stream, &error), &error, "zmlx_rmsnorm: weight: expected shape (64,), got (32,)");
    expect_refusal(zmlx_rmsnorm(&y, x, none, 1e-6f, stream, &error), &error, "zmlx_rmsnorm: weight: is an empty handle");
    expect_refusal(zmlx_exp(&y, i, stream, &error), &error, "zmlx_exp: x: expected float32, float16 or bfloat16, got int32");
    expect_refusal(zmlx_swiglu2(&y, x, half, stream, &error), &error, "zmlx_swiglu2: up: expected float32 as gate, got float16");
    expect_refusal(zmlx_add(&y, x, flat, stream, &error), &error, "zmlx_add: b: expected shape (2, 64), got (64,)");
    expect_refusal(zmlx_add_rms_norm(&y, &h, x, flat, flat, 1e-6f, stream, &error), &error,
                   "zmlx_add_rms_norm: residual: expected shape (2, 64), got (64,)");
    expect_refusal(zmlx_max_lastdim(&y, empty, stream, &error), &error, "zmlx_max_lastdim: x: D is 0; it must be at least 1");
    assert_null(y.ctx);
    for (mlx_array *array = (mlx_array[]){x, half, w, i, flat, empty, none}; array->ctx; array++) mlx_array_free(*array);
}

static void test_wrong_numbers(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, x = ARRAY(MLX_FLOAT32, 2, 64), w = ARRAY(MLX_FLOAT32, 64);
    expect_refusal(zmlx_dropout(&y, x, 1, 0, stream, &error), &error, "zmlx_dropout: p: expected a float in [0, 1), got 1");
    expect_refusal(zmlx_dropout(&y, x, NAN, 0, stream, &error), &error, "zmlx_dropout: p: expected a float in [0, 1), got nan");
    expect_refusal(zmlx_rmsnorm(&y, x, w, -1, stream, &error), &error, "zmlx_rmsnorm: eps: expected a float in [0, inf), got -1");
    expect_refusal(zmlx_rmsnorm(&y, x, w, INFINITY, stream, &error), &error, "zmlx_rmsnorm: eps: expected a float in [0, inf), got inf");
    mlx_array_free(x);
    mlx_array_free(w);
}

static void test_by_name(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, x = ARRAY(MLX_FLOAT16, 3);
    expect_refusal(zmlx_catalog_apply("expo", &y, &x, 1, NULL, stream, &error), &error,
                   "expo: there is no kernel of this name; see zmlx kernels");
    expect_refusal(zmlx_catalog_apply("add", &y, &x, 1, NULL, stream, &error), &error, "add: expected 2 inputs, got 1");
    const zmlx_catalog_entry *entry = zmlx_catalog_find("dropout");
    zmlx_catalog_value values[2];
    zmlx_catalog_presets(values, entry);
    assert_true(values[0].number == 0.1);
    expect_refusal(zmlx_catalog_set(values, entry, "p", "half", &error), &error, "dropout: p: expected float [0, 1), got half");
    expect_refusal(zmlx_catalog_set(values, entry, "q", "1", &error), &error, "dropout: there is no number q");
    assert_int_equal(zmlx_catalog_set(values, entry, "seed", "0xffffffffffffffff", &error), ZMLX_OK);
    assert_true(values[1].seed == UINT64_MAX);
    assert_int_equal(zmlx_catalog_apply("dropout", &y, &x, 1, values, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_dtype(y), MLX_FLOAT16);
    assert_null(zmlx_catalog_find("no such kernel"));
    mlx_array_free(x);
    mlx_array_free(y);
}

/* 2^20 elements: the kept share, and how often two seeds agree. */
static void test_dropout_masks(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    zmlx_error error;
    mlx_array x = ARRAY(MLX_FLOAT32, N), masks[2] = {{NULL}, {NULL}};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(zmlx_dropout(&masks[i], x, 0.5f, 7 + (uint64_t)i, stream, &error), ZMLX_OK);
        assert_int_equal(mlx_array_eval(masks[i]), 0);
    }
    const float *a = mlx_array_data_float32(masks[0]), *b = mlx_array_data_float32(masks[1]);
    int n_kept = 0, n_agreeing = 0;
    for (int i = 0; i < N; i++) {
        n_kept += a[i] != 0;
        n_agreeing += (a[i] != 0) == (b[i] != 0);
    }
    assert_true(fabs(n_kept / (double)N - 0.5) < 0.002);
    assert_true(fabs(n_agreeing / (double)N - 0.5) < 0.002);
    for (int lag = 1; lag <= 400; lag++) {
        double sum = 0;
        for (int i = 0; i + lag < N; i++) sum += (a[i] - 1) * (a[i + lag] - 1);
        assert_true(fabs(sum / N) < 0.005);
    }
    mlx_array_free(x);
    mlx_array_free(masks[0]);
    mlx_array_free(masks[1]);
}

/* A row with mean 1e4 and deviation 1: the cancellation that E[x^2] - mean^2 does not survive. */
static void test_layernorm_keeps_precision(void **state) {
    (void)state;
    enum { N = 4096 };
    static float values[N];
    zmlx_error error;
    for (int i = 0; i < N; i++) values[i] = 1e4f + (i % 2 ? 1.0f : -1.0f);
    mlx_array y = {NULL}, x = mlx_array_new_data(values, (const int[]){N}, 1, MLX_FLOAT32);
    assert_int_equal(zmlx_layernorm(&y, x, none, none, 1e-5f, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(y), 0);
    double square = 0;
    for (int i = 0; i < N; i++) square += (double)mlx_array_data_float32(y)[i] * (double)mlx_array_data_float32(y)[i] / N;
    assert_true(fabs(sqrt(square) - 1) < 1e-3);
    mlx_array_free(x);
    mlx_array_free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_complete), cmocka_unit_test(test_wrong_arrays),
        cmocka_unit_test(test_wrong_numbers),     cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_dropout_masks),     cmocka_unit_test(test_layernorm_keeps_precision),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
