/* SPDX-License-Identifier: MIT */
/* The catalogue's checks and its calls by name: what is refused, and in which words. */
#include "kernels/compose.h"
#include "kernels/select.h"
#include "mlx_testing.h"
#include "zmlx/catalog_bench.h"
#include "zmlx/kernels.h"



static mlx_array ones(const int *shape, int n_dims, mlx_dtype dtype) {
    zm_scope scope;
    mlx_array made = {NULL};
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, &made,
                  zm_astype(&scope, zm_broadcast_to(&scope, zm_scalar(&scope, 1, MLX_FLOAT32), shape, n_dims), dtype));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    return made;
}
#define ARRAY(dtype, ...) \
    ones((const int[]){__VA_ARGS__}, (int)(sizeof((const int[]){__VA_ARGS__}) / sizeof(int)), dtype)

static void test_rows_are_complete(void **state) {
    (void)state;
    zmlx_error error = {0};
    if (zm_catalog_check(&error)) fail_msg("%s: %s", error.where, error.message);
    for (int i = 0; zm_catalog_at(i); i++) {
        const zm_kernel_entry *entry = zm_catalog_at(i);
        zmlx_kernel *kernel = NULL;
        if (!entry->row->body) continue;
        if (zm_catalog_kernel(&kernel, entry, &error))
            fail_msg("%s: %s: %s", entry->entry.name, error.where, error.message);
        assert_ptr_equal(zm_catalog_lookup(entry->entry.name), entry); /* names are distinct */
    }
}

/* Sizes that only numbers bound. The rest of the message is what this process may use. */
static void test_results_beyond_memory(void **state) {
    (void)state;
    if (stream.ctx != host_stream.ctx) skip();
    zmlx_error error;
    mlx_array y = {NULL}, x = ARRAY(MLX_FLOAT32, 1, 1, 1, 1), i = ARRAY(MLX_INT32, 1),
              updates = ARRAY(MLX_FLOAT32, 1, 1000, 1000, 1000);
    assert_int_equal(zmlx_resize_bilinear(&y, x, INT32_MAX, INT32_MAX, stream, &error), ZMLX_ERROR_ARGUMENT);
    assert_memory_equal(error.message, "y: takes 18446744057 GB, and ", 29);
    assert_int_equal(zmlx_fused_scatter_add(&y, i, updates, INT32_MAX, MLX_FLOAT32, stream, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_memory_equal(error.message, "y: takes 8589934588 GB, and ", 28);
    assert_null(y.ctx);
    for (mlx_array *array = (mlx_array[]){x, i, updates, none}; array->ctx; array++) mlx_array_free(*array);
}

static void test_wrong_arrays(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, h = {NULL};
    mlx_array x = ARRAY(MLX_FLOAT32, 2, 64), half = ARRAY(MLX_FLOAT16, 2, 64), w = ARRAY(MLX_FLOAT32, 32),
              i = ARRAY(MLX_INT32, 2, 64), flat = ARRAY(MLX_FLOAT32, 64), empty = ARRAY(MLX_FLOAT32, 3, 0);
    expect_argument_error(zmlx_rmsnorm(&y, x, w, 1e-6f, stream, &error), &error,
                          "zmlx_rmsnorm: weight: expected shape (64,), got (32,)");
    expect_argument_error(zmlx_rmsnorm(&y, x, none, 1e-6f, stream, &error), &error,
                          "zmlx_rmsnorm: weight: is an empty handle");
    expect_argument_error(zmlx_exp(&y, i, stream, &error), &error,
                          "zmlx_exp: x: expected float32, float16 or bfloat16, got int32");
    expect_argument_error(zmlx_swiglu2(&y, x, half, stream, &error), &error,
                          "zmlx_swiglu2: up: expected float32 as gate, got float16");
    expect_argument_error(zmlx_add(&y, x, flat, stream, &error), &error,
                          "zmlx_add: b: expected shape (2, 64), got (64,)");
    expect_argument_error(zmlx_add_rms_norm(&y, &h, x, flat, flat, 1e-6f, stream, &error), &error,
                          "zmlx_add_rms_norm: residual: expected shape (2, 64), got (64,)");
    expect_argument_error(zmlx_max_lastdim(&y, empty, stream, &error), &error,
                          "zmlx_max_lastdim: x: D is 0; it must be at least 1");
    assert_null(y.ctx);
    for (mlx_array *array = (mlx_array[]){x, half, w, i, flat, empty, none}; array->ctx; array++)
        mlx_array_free(*array);
}

static void test_wrong_numbers(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, x = ARRAY(MLX_FLOAT32, 2, 64), w = ARRAY(MLX_FLOAT32, 64);
    expect_argument_error(zmlx_dropout(&y, x, 1, 0, stream, &error), &error,
                          "zmlx_dropout: p: expected a float in [0, 1), got 1");
    expect_argument_error(zmlx_dropout(&y, x, NAN, 0, stream, &error), &error,
                          "zmlx_dropout: p: expected a float in [0, 1), got nan");
    expect_argument_error(zmlx_rmsnorm(&y, x, w, -1, stream, &error), &error,
                          "zmlx_rmsnorm: eps: expected a float in [0, inf), got -1");
    expect_argument_error(zmlx_rmsnorm(&y, x, w, INFINITY, stream, &error), &error,
                          "zmlx_rmsnorm: eps: expected a float in [0, inf), got inf");
    static const double no_types[] = {NAN, 1e300, -2, MLX_FLOAT32 + 0.5};
    mlx_array two[2] = {{NULL}, {NULL}};
    for (int j = 0; j < 4; j++)
        expect_argument_error(
            zmlx_catalog_apply("top2_gating_softmax", two, &x, 1, &(zmlx_catalog_value){.number = no_types[j]}, stream,
                               &error),
            &error, "zmlx_top2_gating_softmax: out_dtype: expected float32, float16 or bfloat16, got none");
    mlx_array_free(x);
    mlx_array_free(w);
}

static void test_by_name(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array y = {NULL}, x = ARRAY(MLX_FLOAT16, 3);
    expect_argument_error(zmlx_catalog_apply("expo", &y, &x, 1, NULL, stream, &error), &error,
                          "expo: there is no kernel of this name; see zmlx kernels");
    expect_argument_error(zmlx_catalog_apply("add", &y, &x, 1, NULL, stream, &error), &error,
                          "add: expected 2 inputs, got 1");
    const zmlx_catalog_entry *entry = zmlx_catalog_find("dropout");
    zmlx_catalog_value values[2];
    zmlx_catalog_presets(values, entry);
    assert_true(values[0].number == 0.1);
    expect_argument_error(zmlx_catalog_set(values, entry, "p", "half", &error), &error,
                          "dropout: p: expected float [0, 1), got half");
    expect_argument_error(zmlx_catalog_set(values, entry, "q", "1", &error), &error, "dropout: there is no number q");
    assert_true(values[0].number == 0.1);
    assert_int_equal(zmlx_catalog_set(values, entry, "seed", "0xffffffffffffffff", &error), ZMLX_OK);
    assert_true(values[1].seed == UINT64_MAX);
    expect_argument_error(zmlx_catalog_set(values, entry, "seed", "7x", &error), &error,
                          "dropout: seed: expected seed, got 7x");
    assert_true(values[1].seed == UINT64_MAX);
    assert_int_equal(zmlx_catalog_apply("dropout", &y, &x, 1, values, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_dtype(y), MLX_FLOAT16);
    assert_null(zmlx_catalog_find("no such kernel"));
    mlx_array_free(x);
    mlx_array_free(y);
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
    for (int i = 0; i < N; i++)
        square += (double)mlx_array_data_float32(y)[i] * (double)mlx_array_data_float32(y)[i] / N;
    assert_true(fabs(sqrt(square) - 1) < 1e-3);
    mlx_array_free(x);
    mlx_array_free(y);
}

/* Large numbers that cancel but for small ones: 4u of the sum and 2^-46 of the terms' magnitudes. */
static void test_kahan_sums(void **state) {
    (void)state;
    enum { N = 100001 };
    static float values[N];
    double sum = 0, size = 0;
    zmlx_error error;
    for (int i = 0; i < N; i++) {
        values[i] = (float)(i % 2 ? -1e6 : 1e6) * (1 + (float)(i / 2 % 7)) + (float)(i % 11) * 0.01f;
        sum += (double)values[i];
        size += fabs((double)values[i]);
    }
    mlx_array y = {NULL}, x = mlx_array_new_data(values, (const int[]){N}, 1, MLX_FLOAT32);
    assert_int_equal(zmlx_sum_lastdim(&y, x, true, stream, &error), ZMLX_OK);
    float got;
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(mlx_array_item_float32(&got, y), 0);
    assert_true(fabs((double)got - sum) <= 4 * 0x1p-24 * fabs(sum) + N * 0x1p-46 * size);
    values[5] = INFINITY;
    mlx_array_free(x);
    x = mlx_array_new_data(values, (const int[]){N}, 1, MLX_FLOAT32);
    assert_int_equal(zmlx_sum_lastdim(&y, x, true, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(mlx_array_item_float32(&got, y), 0);
    assert_true(got == INFINITY);
    mlx_array_free(x);
    mlx_array_free(y);
}

/* The way of a GPU and that of the CPU choose the same, ties, NaN and infinities included. */
static void test_topk_ways(void **state) {
    (void)state;
    static const float kinds[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 3.4028235e38f, 1, 1, 2, -1, 1e-45f};
    enum { ROWS = 40, N = 70 };
    static float values[ROWS * N];
    for (int i = 0; i < ROWS * N; i++)
        values[i] = i % 3 ? (float)(i * 7919 % 1000) / 64 - 8 : kinds[i / 3 % COUNT(kinds)];
    for (int k = 1; k <= N; k += 23) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = zm_from_data(&scope, values, (const int[]){ROWS, N}, 2, MLX_FLOAT32), v[2], at[2];
        zm_select_topk(&scope, x, k, &v[0], &at[0]);
        zm_select_topk_sorted(&scope, x, k, &v[1], &at[1]);
        for (int i = 0; i < 2; i++) {
            at[i] = zm_contiguous(&scope, at[i]);
            v[i] = zm_contiguous(&scope, v[i]);
            assert_false(zm_scope_failed(&scope));
            assert_int_equal(mlx_array_eval(at[i]) + mlx_array_eval(v[i]), 0);
        }
        size_t count = (size_t)(ROWS * k);
        assert_memory_equal(mlx_array_data_uint32(at[0]), mlx_array_data_uint32(at[1]), count * 4);
        assert_memory_equal(mlx_array_data_float32(v[0]), mlx_array_data_float32(v[1]), count * 4);
        assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    }
}

/* Loss and gradient of 16384 rows of 4096 logits, 256 MB, in chunks of 16. */
static void test_linear_cross_entropy_memory(void **state) {
    (void)state;
    enum { ROWS = 16384, CLASSES = 4096, FEATURES = 4, CHUNK = 16 };
    zmlx_error error;
    size_t before, peak;
    mlx_array x = ARRAY(MLX_FLOAT32, ROWS, FEATURES), w = ARRAY(MLX_FLOAT32, CLASSES, FEATURES),
              i = ARRAY(MLX_INT32, ROWS), g = ARRAY(MLX_FLOAT32, ROWS), y = {NULL},
              gradients[3] = {{NULL}, {NULL}, {NULL}};
    const zmlx_catalog_value chunk = {CHUNK, 0};
    assert_int_equal(mlx_array_eval(x) + mlx_array_eval(w) + mlx_array_eval(i) + mlx_array_eval(g), 0);
    mlx_get_active_memory(&before);
    mlx_reset_peak_memory();
    assert_int_equal(zmlx_linear_cross_entropy(&y, x, w, i, CHUNK, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(zmlx_catalog_apply_gradient("linear_cross_entropy", gradients, (mlx_array[]){x, w, i}, 3, &g,
                                                 &chunk, stream, &error),
                     ZMLX_OK);
    assert_int_equal(mlx_array_eval(gradients[0]) + mlx_array_eval(gradients[1]), 0);
    mlx_get_peak_memory(&peak);
    assert_true(peak - before < (size_t)ROWS * CLASSES * 4 / 5);
    assert_true(fabs((double)mlx_array_data_float32(y)[7] - log(CLASSES)) < 1e-4);
    for (mlx_array *array = (mlx_array[]){x, w, i, g, y, gradients[0], gradients[1], none}; array->ctx; array++)
        mlx_array_free(*array);
}

/* A chunk of more rows than an int counts is one of all rows. */
static void test_linear_cross_entropy_in_one(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array x = ARRAY(MLX_FLOAT32, 3, 4), w = ARRAY(MLX_FLOAT32, 5, 4), i = ARRAY(MLX_INT32, 3), y = {NULL};
    for (double size = 0x1p31; size < 0x1p62; size *= 0x1p15) {
        const zmlx_catalog_value chunk = {size, 0};
        assert_int_equal(zmlx_catalog_apply("linear_cross_entropy", &y, (mlx_array[]){x, w, i}, 3, &chunk, stream,
                                            &error),
                         ZMLX_OK);
        assert_int_equal(mlx_array_eval(y), 0);
        assert_true(fabs((double)mlx_array_data_float32(y)[2] - log(5)) < 1e-6);
    }
    for (mlx_array *array = (mlx_array[]){x, w, i, y, none}; array->ctx; array++) mlx_array_free(*array);
}

/* Form only; speed is not judged. */
static void test_bench(void **state) {
    (void)state;
    const zmlx_bench_options quick = {.n_warmup = 1, .n_runs = 2, .batch = 1};
    zmlx_catalog_bench how = {.dtype = MLX_BFLOAT16, .has_dtype = true};
    zmlx_comparison result;
    zmlx_error error;
    for (int i = 0; i < 2; i++, how.gradient = true)
        if (zmlx_bench_catalog(&result, "rmsnorm", (const int[]){4, 32}, 2, &how, stream, &quick, &error))
            fail_msg("%s: %s", error.where, error.message);
    assert_true(result.ratio > 0);
    /* x, weight, cotangent; y, dx, dweight */
    assert_int_equal(result.bytes, 2 * (128 + 32 + 128 + 128 + 128 + 32));
    how.gradient = false;
    if (zmlx_bench_catalog(&result, "masked_softmax", (const int[]){4, 32}, 2, &how, stream, &quick, &error))
        fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(result.bytes, 2 * 128 + 128 + 2 * 128); /* a byte of the mask for each element */
    assert_int_equal(zmlx_bench_catalog(&result, "topk_lastdim", (const int[]){4, 32}, 2, &how, stream, &quick, &error),
                     ZMLX_ERROR_UNSUPPORTED);
    expect_argument_error(zmlx_bench_catalog(&result, "nothing", (const int[]){4}, 1, NULL, stream, &quick, &error),
                          &error, "nothing: there is no kernel of this name");
    expect_argument_error(
        zmlx_bench_catalog(&result, "rmsnorm", (const int[]){0, 4}, 2, NULL, stream, &quick, &error), &error,
        "shape: expected lengths above 0, got 0");
    assert_int_equal(
        zmlx_bench_catalog(&result, "rmsnorm", (const int[]){1 << 30, 1 << 30}, 2, &how, stream, &quick, &error),
        ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "shape");
    how.baseline = ZMLX_BENCH_NONE;
    const zmlx_catalog_value no_number[] = {{.number = NAN}};
    how.values = no_number;
    expect_argument_error(
        zmlx_bench_catalog(&result, "topk_lastdim", (const int[]){4, 32}, 2, &how, stream, &quick, &error), &error,
        "topk_lastdim: k: expected an int in [1, D], got nan");
    how.values = NULL;
    how.baseline = ZMLX_BENCH_NONE + 1;
    expect_argument_error(zmlx_bench_catalog(&result, "rmsnorm", (const int[]){4}, 1, &how, stream, &quick, &error),
                          &error, "baseline: 3 is none");
    how.baseline = ZMLX_BENCH_MLX;
    const zmlx_bench_options endless = {.n_runs = 1, .batch = 1 << 30};
    assert_int_equal(zmlx_bench_catalog(&result, "silu", (const int[]){4}, 1, &how, stream, &endless, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_int_equal(result.n_runs + result.batch, 0); /* as all is behind a failure */
}

/* Bad indices: NaN, or an error where they are checked. */
static void test_checked_indices(void **state) {
    (void)state;
    zmlx_error error;
    mlx_array x = ARRAY(MLX_FLOAT32, 3, 4), w = ARRAY(MLX_FLOAT32, 5, 4), y = {NULL};
    mlx_array i = mlx_array_new_data((const int[]){4, 0, 5}, (const int[]){3}, 1, MLX_INT32);
    assert_int_equal(zmlx_linear_cross_entropy(&y, x, w, i, 2, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(y), 0);
    const float *loss = mlx_array_data_float32(y);
    assert_true(!isnan(loss[0]) && !isnan(loss[1]) && isnan(loss[2]));
    zmlx_catalog_check_indices(true);
    expect_argument_error(zmlx_linear_cross_entropy(&y, x, w, i, 2, stream, &error), &error,
                          "zmlx_linear_cross_entropy: targets: element 2 is out of range; N is 5");
    zmlx_catalog_check_indices(false);
    for (mlx_array *array = (mlx_array[]){x, w, i, y, none}; array->ctx; array++) mlx_array_free(*array);
}

static int apply_swiglu(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = mlx_array_new(), y = mlx_array_new();
    int failed = mlx_vector_array_get(&x, inputs, 0) || zmlx_swiglu(&y, x, stream, NULL) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(x);
    mlx_array_free(y);
    return failed;
}

/* A gradient of its own leaves forward mode as it was: silu(1) and silu'(1) for ones. */
static void test_forward_mode_of_split_units(void **state) {
    (void)state;
    mlx_array x = ARRAY(MLX_FLOAT32, 2, 6), t = mlx_array_new();
    mlx_vector_array primals = mlx_vector_array_new_value(x), values = mlx_vector_array_new(),
                     tangents = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(apply_swiglu);
    assert_int_equal(mlx_jvp(&values, &tangents, function, primals, primals), 0);
    assert_int_equal(mlx_vector_array_get(&t, tangents, 0) + mlx_array_eval(t), 0);
    double s = 1 / (1 + exp(-1.0)), expected = s + s * (1 + (1 - s));
    assert_true(fabs((double)mlx_array_data_float32(t)[5] - expected) < 1e-6);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(values);
    mlx_vector_array_free(tangents);
    mlx_array_free(x);
    mlx_array_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows_are_complete), cmocka_unit_test(test_results_beyond_memory),
        cmocka_unit_test(test_wrong_arrays),
        cmocka_unit_test(test_wrong_numbers),     cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_layernorm_keeps_precision), cmocka_unit_test(test_kahan_sums),
        cmocka_unit_test(test_topk_ways),         cmocka_unit_test(test_linear_cross_entropy_memory),
        cmocka_unit_test(test_bench),             cmocka_unit_test(test_checked_indices),
        cmocka_unit_test(test_forward_mode_of_split_units),
        cmocka_unit_test(test_linear_cross_entropy_in_one),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
