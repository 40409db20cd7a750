/* SPDX-License-Identifier: MIT */
/* AdamW over a list of parameters: the bits of one parameter at a time, the float64 formula, in place, and what is
 * refused. */
#include "mlx/node.h"
#include "mlx_testing.h"
#include "zmlx/kernels.h"
#include "zmlx/optimizer.h"

static zmlx_error failure;
#define OK(call)                                                      \
    do {                                                              \
        if (call) fail_msg("%s: %s", failure.where, failure.message); \
    } while (0)

enum { COUNT_OF = 20, MOST = 70000 };
static const zmlx_adamw how = {.lr = 0.05f, .step = 4, .beta1 = 0.9f, .beta2 = 0.99f, .eps = 1e-6f, .wd = 0.02f};

static mlx_array numbers(int rows, int columns, mlx_dtype dtype, uint32_t seed, bool is_positive) {
    static float values[MOST];
    assert_true(rows * columns <= MOST);
    for (int i = 0; i < rows * columns; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 20) / 1024 - (is_positive ? 0 : 2);
    }
    mlx_array array = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array made = zm_from_data(&scope, values, SHAPE(rows, columns), MLX_FLOAT32);
    zm_scope_keep(&scope, &array, zm_astype(&scope, zm_add(&scope, made, zm_scalar(&scope, 0, MLX_FLOAT32)), dtype));
    end_well(&scope);
    assert_int_equal(mlx_array_eval(array), 0);
    return array;
}

/* Of all kinds: large, small and empty ones, p and g of one type or of two; or all of one type, as a launch on a GPU
 * has them. */
static zmlx_adamw_parameter parameter(int i, bool is_mixed) {
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_BFLOAT16, MLX_FLOAT16};
    int rows = i == 0 ? 700 : i == 5 ? 0 : i + 1, columns = i == 0 ? 100 : 3 * i + 1;
    mlx_dtype p = types[i % 3], g = i % 4 == 3 ? MLX_FLOAT32 : i % 4 == 2 ? types[(i + 1) % 3] : p;
    if (!is_mixed) p = g = MLX_BFLOAT16;
    uint32_t seed = (uint32_t)i * 10;
    return (zmlx_adamw_parameter){numbers(rows, columns, p, seed, false), numbers(rows, columns, g, seed + 1, false),
                                  numbers(rows, columns, MLX_FLOAT32, seed + 2, false),
                                  numbers(rows, columns, MLX_FLOAT32, seed + 3, true)};
}

static void free_parameter(zmlx_adamw_parameter *of) {
    mlx_array_free(of->p);
    mlx_array_free(of->g);
    mlx_array_free(of->m);
    mlx_array_free(of->v);
}

static void expect_same_bits(mlx_array a, mlx_array b) {
    zm_view left, right;
    assert_int_equal(mlx_array_eval(a) + mlx_array_eval(b), 0);
    assert_int_equal(mlx_array_dtype(a), mlx_array_dtype(b));
    assert_int_equal(mlx_array_nbytes(a), mlx_array_nbytes(b));
    assert_true(zm_view_of(&left, a) && zm_view_of(&right, b));
    if (mlx_array_nbytes(a)) assert_memory_equal(left.data, right.data, mlx_array_nbytes(a));
}

static void expect_bits_of_each(bool is_mixed) {
    zmlx_adamw_parameter all[COUNT_OF], each[COUNT_OF];
    for (int i = 0; i < COUNT_OF; i++) {
        all[i] = parameter(i, is_mixed);
        each[i] = parameter(i, is_mixed);
    }
    for (int step = 0; step < 3; step++) {
        zmlx_adamw now = how;
        now.step += step;
        OK(zmlx_adamw_update(all, COUNT_OF, &now, stream, &failure));
        for (int i = 0; i < COUNT_OF; i++) {
            mlx_array p = {NULL}, m = {NULL}, v = {NULL};
            OK(zmlx_adamw_step(&p, &m, &v, each[i].p, each[i].g, each[i].m, each[i].v, now.lr, now.step, now.beta1,
                               now.beta2, now.eps, now.wd, stream, &failure));
            expect_same_bits(all[i].p, p);
            expect_same_bits(all[i].m, m);
            expect_same_bits(all[i].v, v);
            mlx_array_free(each[i].p);
            mlx_array_free(each[i].m);
            mlx_array_free(each[i].v);
            each[i] = (zmlx_adamw_parameter){p, each[i].g, m, v};
        }
    }
    for (int i = 0; i < COUNT_OF; i++) {
        free_parameter(&all[i]);
        free_parameter(&each[i]);
    }
}

static void test_bits(void **state) {
    (void)state;
    expect_bits_of_each(true);
    expect_bits_of_each(false);
}

static void test_formula(void **state) {
    (void)state;
    enum { N = 12 };
    zmlx_adamw_parameter of = {numbers(3, 4, MLX_FLOAT32, 1, false), numbers(3, 4, MLX_FLOAT32, 2, false),
                               numbers(3, 4, MLX_FLOAT32, 3, false), numbers(3, 4, MLX_FLOAT32, 4, true)};
    double p[N], m[N], v[N];
    for (int i = 0; i < N; i++) {
        double g = (double)mlx_array_data_float32(of.g)[i], b1 = (double)how.beta1, b2 = (double)how.beta2;
        m[i] = b1 * (double)mlx_array_data_float32(of.m)[i] + (1 - b1) * g;
        v[i] = b2 * (double)mlx_array_data_float32(of.v)[i] + (1 - b2) * g * g;
        double update = m[i] / (1 - pow(b1, how.step)) / (sqrt(v[i] / (1 - pow(b2, how.step))) + (double)how.eps);
        p[i] = (double)mlx_array_data_float32(of.p)[i];
        p[i] -= (double)how.lr * (update + (double)how.wd * p[i]);
    }
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    OK(zmlx_adamw_update(&of, 1, &how, stream, &failure));
    expect_values(&scope, of.p, p, N, 1e-6); /* float32 of values of size one */
    expect_values(&scope, of.m, m, N, 1e-6);
    expect_values(&scope, of.v, v, N, 1e-6);
    end_well(&scope);
    free_parameter(&of);
}

/* Nobody else has the arrays of the step before, so the next one is in the same memory. */
static void test_in_place(void **state) {
    (void)state;
    if (stream.ctx != host_stream.ctx) skip();
    zmlx_adamw_parameter of[2] = {parameter(0, true), parameter(3, true)};
    const float *memory[2][2];
    for (int i = 0; i < 2; i++)
        memory[i][0] = mlx_array_data_float32(of[i].m), memory[i][1] = mlx_array_data_float32(of[i].v);
    for (int step = 0; step < 2; step++) {
        OK(zmlx_adamw_update(of, 2, &how, stream, &failure));
        for (int i = 0; i < 2; i++) {
            assert_int_equal(mlx_array_eval(of[i].m) + mlx_array_eval(of[i].v), 0);
            assert_ptr_equal(mlx_array_data_float32(of[i].m), memory[i][0]);
            assert_ptr_equal(mlx_array_data_float32(of[i].v), memory[i][1]);
        }
    }
    free_parameter(&of[0]);
    free_parameter(&of[1]);
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_adamw_parameter of[2] = {parameter(1, true), parameter(2, true)};
    mlx_array kept = of[0].p, other = numbers(1, 2, MLX_FLOAT32, 1, false), m = of[1].m;
    of[1].m = other;
    assert_int_equal(zmlx_adamw_update(of, 2, &how, stream, &failure), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(failure.where, "zmlx_adamw_update");
    assert_string_equal(failure.message, "parameter 1: m: expected shape (3, 7), got (1, 2)");
    assert_ptr_equal(of[0].p.ctx, kept.ctx);
    of[1].m = m;
    zmlx_adamw wrong = how;
    wrong.step = 0;
    assert_int_equal(zmlx_adamw_update(of, 2, &wrong, stream, &failure), ZMLX_ERROR_ARGUMENT);
    assert_non_null(strstr(failure.message, "parameter 0: step"));
    assert_int_equal(zmlx_adamw_update(NULL, 1, &how, stream, &failure), ZMLX_ERROR_ARGUMENT);
    OK(zmlx_adamw_update(NULL, 0, NULL, stream, &failure));
    mlx_array_free(other);
    free_parameter(&of[0]);
    free_parameter(&of[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_formula),
        cmocka_unit_test(test_in_place),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
