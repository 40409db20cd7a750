/* SPDX-License-Identifier: MIT */
/* Products with packed experts on the CPU: many tokens, tangents and batches against MLX's own operations. */
#include "kernels/moe/experts.h"
#include "mlx_testing.h"

enum { E = 5, OUT = 70, IN = 128, K = 3, MANY = 200, B = 2 };
static const zm_quantization packed = {64, 4, "affine"};
static mlx_array weight[3]; /* words, scales, biases */

static mlx_array numbers(zm_scope *scope, const int *shape, int n_dims, uint32_t seed) {
    int size = 1;
    for (int i = 0; i < n_dims; i++) size *= shape[i];
    float *values = malloc((size_t)size * sizeof *values);
    assert_non_null(values);
    for (int i = 0; i < size; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 20) / 2048 - 1;
    }
    mlx_array array = zm_from_data(scope, values, shape, n_dims, MLX_FLOAT32);
    free(values);
    return array;
}

static mlx_array choices(zm_scope *scope, const int *shape, int n_dims) {
    uint32_t chosen[B * MANY * K];
    int size = 1;
    for (int i = 0; i < n_dims; i++) size *= shape[i];
    assert_true(size <= COUNT(chosen));
    for (int i = 0; i < size; i++) chosen[i] = (uint32_t)(i * 7 % 11 % E);
    return zm_from_data(scope, chosen, shape, n_dims, MLX_UINT32);
}

static int make_weight(void **state) {
    if (open_stream(state)) return 1;
    uint32_t *words = malloc(sizeof *words * E * OUT * IN / 8);
    if (!words) return 1;
    for (int i = 0; i < E * OUT * IN / 8; i++) words[i] = (uint32_t)i * 2654435761u;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    zm_scope_keep(&scope, &weight[0], zm_from_data(&scope, words, SHAPE(E, OUT, IN / 8), MLX_UINT32));
    for (uint32_t i = 1; i < 3; i++) zm_scope_keep(&scope, &weight[i], numbers(&scope, SHAPE(E, OUT, IN / 64), i));
    free(words);
    return zm_scope_end(&scope, NULL) != ZMLX_OK;
}

static int free_weight(void **state) {
    for (int i = 0; i < 3; i++) mlx_array_free(weight[i]);
    return close_stream(state);
}

/* Sums of 128 to 384 products of numbers up to 16: float32 in another order. */
static void expect_close(zm_scope *scope, mlx_array got, mlx_array wanted) {
    assert_false(zm_scope_failed(scope));
    assert_int_equal(mlx_array_ndim(got), mlx_array_ndim(wanted));
    wanted = zm_contiguous(scope, wanted);
    assert_int_equal(mlx_array_eval(wanted), 0);
    size_t size = mlx_array_size(wanted);
    double *values = malloc((size + 1) * sizeof *values);
    assert_non_null(values);
    for (size_t i = 0; i < size; i++) values[i] = (double)mlx_array_data_float32(wanted)[i];
    expect_values(scope, got, values, (int)size, 1e-4);
    free(values);
}

/* More tokens than are taken at a time; an expert that is not there. */
static void test_many_tokens(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array act = numbers(&scope, SHAPE(MANY, K, IN), 3), gate = numbers(&scope, SHAPE(MANY, K), 4);
    mlx_array chosen = choices(&scope, SHAPE(MANY, K));
    expect_close(&scope, zm_experts_combine(&scope, act, weight, gate, chosen, packed),
                 zm_experts_combine_composed(&scope, act, weight, gate, chosen, packed));
    mlx_array one = zm_contiguous(&scope, zm_slice_axis(&scope, act, 0, 0, 1, 1)),
              of_one = zm_contiguous(&scope, zm_slice_axis(&scope, gate, 0, 0, 1, 1));
    const uint32_t missing[K] = {1, UINT32_MAX, 2};
    mlx_array y =
        zm_experts_combine(&scope, one, weight, of_one, zm_from_data(&scope, missing, SHAPE(1, K), MLX_UINT32), packed);
    assert_int_equal(mlx_array_eval(y), 0);
    for (int i = 0; i < OUT; i++) assert_true(isnan(mlx_array_data_float32(y)[i]));
    end_well(&scope);
}

static int combine_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[2] = {{NULL}, {NULL}}, y = {NULL};
    zm_scope scope;
    int failed = mlx_vector_array_get(&in[0], inputs, 0) || mlx_vector_array_get(&in[1], inputs, 1);
    zm_scope_begin(&scope, host_stream);
    zm_scope_keep(&scope, &y, zm_experts_combine(&scope, in[0], weight, in[1], choices(&scope, SHAPE(4, K)), packed));
    failed |= zm_scope_end(&scope, NULL) != ZMLX_OK || mlx_vector_array_set_value(results, y);
    mlx_array_free(in[0]);
    mlx_array_free(in[1]);
    mlx_array_free(y);
    return failed;
}

/* It is linear in each: the tangent is the sum of what each tangent gives. */
static void test_forward_mode(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    mlx_array in[2] = {numbers(&scope, SHAPE(4, K, IN), 5), numbers(&scope, SHAPE(4, K), 6)};
    mlx_array t[2] = {numbers(&scope, SHAPE(4, K, IN), 7), numbers(&scope, SHAPE(4, K), 8)},
              chosen = choices(&scope, SHAPE(4, K));
    mlx_vector_array primals = mlx_vector_array_new_data(in, 2), given = mlx_vector_array_new_data(t, 2);
    mlx_vector_array values = mlx_vector_array_new(), made = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func(combine_function);
    assert_int_equal(mlx_jvp(&values, &made, function, primals, given), 0);
    mlx_array wanted = zm_add(&scope, zm_experts_combine_composed(&scope, t[0], weight, in[1], chosen, packed),
                              zm_experts_combine_composed(&scope, in[0], weight, t[1], chosen, packed));
    expect_close(&scope, take(&scope, made, 0), wanted);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(given);
    mlx_vector_array_free(values);
    mlx_vector_array_free(made);
    end_well(&scope);
}

/* The batch is the second dimension of act, and gate has it or not. */
static void test_batches(void **state) {
    (void)state;
    for (int is_shared = 0; is_shared < 2; is_shared++) {
        zm_scope scope;
        zm_scope_begin(&scope, host_stream);
        mlx_array act = numbers(&scope, SHAPE(4, B, K, IN), 9), gate = numbers(&scope, SHAPE(B, 4, K), 10), parts[B];
        mlx_array own = zm_squeeze(&scope, zm_slice_axis(&scope, gate, 0, 0, 1, 1), 0),
                  chosen = choices(&scope, SHAPE(4, K));
        mlx_array in[2] = {act, is_shared ? own : gate};
        const int axes[2] = {1, is_shared ? -1 : 0};
        for (int b = 0; b < B; b++) {
            mlx_array of = is_shared ? own : zm_squeeze(&scope, zm_slice_axis(&scope, gate, 0, b, b + 1, 1), 0);
            mlx_array x = zm_squeeze(&scope, zm_slice_axis(&scope, act, 1, b, b + 1, 1), 1);
            parts[b] = zm_experts_combine_composed(&scope, x, weight, of, chosen, packed);
        }
        mlx_array mapped;
        assert_true(map_batch(&scope, &mapped, 1, combine_function, in, axes, 2));
        expect_close(&scope, mapped, zm_stack(&scope, parts, B, 0));
        end_well(&scope);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_many_tokens),
        cmocka_unit_test(test_forward_mode),
        cmocka_unit_test(test_batches),
    };
    return cmocka_run_group_tests(tests, make_weight, free_weight);
}
