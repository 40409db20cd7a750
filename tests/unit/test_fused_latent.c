/* SPDX-License-Identifier: MIT */
/* Attention over latents against the formula in float64; tokens alone and threads against all tokens at once. */
#include "fused_node_testing.h"

enum { HEADS = 3, LATENT = 80, ROPE = 16, CAPACITY = 320 };

typedef struct call {
    mlx_array x;
    zm_latent_attention_arguments arguments;
} call;

static call random_call(zm_scope *scope, int length, int n_rows, mlx_dtype dtype) {
    return (call){.x = random_array(scope, (const int[]){1, HEADS, length, LATENT}, 4, dtype, 1),
                  .arguments = {.q_rope = random_array(scope, (const int[]){1, HEADS, length, ROPE}, 4, dtype, 2),
                                .latents = random_array(scope, (const int[]){1, 1, CAPACITY, LATENT}, 4, dtype, 1),
                                .k_rope = random_array(scope, (const int[]){1, 1, CAPACITY, ROPE}, 4, dtype, 2),
                                .n_rows = n_rows,
                                .scale = 0.25f}};
}

/* One head of one token: rows [0, n_rows). */
static void attend(double *result, const double *query, const double *turned, const double *latents, const double *keys,
                   int n_rows, double scale) {
    double scores[CAPACITY], most = -INFINITY, sum = 0;
    for (int row = 0; row < n_rows; row++) {
        scores[row] = 0;
        for (int i = 0; i < LATENT; i++) scores[row] += scale * query[i] * latents[row * LATENT + i];
        for (int i = 0; i < ROPE; i++) scores[row] += scale * turned[i] * keys[row * ROPE + i];
        most = fmax(most, scores[row]);
    }
    for (int row = 0; row < n_rows; row++) sum += exp(scores[row] - most);
    for (int i = 0; i < LATENT; i++) {
        result[i] = 0;
        for (int row = 0; row < n_rows; row++)
            result[i] += exp(scores[row] - most) / sum * latents[row * LATENT + i];
    }
}

static double *expected_result(zm_scope *scope, const call *of, int length) {
    double *x = numbers(scope, of->x), *turned = numbers(scope, of->arguments.q_rope);
    double *latents = numbers(scope, of->arguments.latents), *keys = numbers(scope, of->arguments.k_rope);
    double *result = allocate((size_t)(HEADS * length * LATENT) * sizeof *result);
    for (int i = 0; i < HEADS * length; i++)
        attend(result + i * LATENT, x + i * LATENT, turned + i * ROPE, latents, keys,
               of->arguments.n_rows - length + i % length + 1, (double)of->arguments.scale);
    free(x), free(turned), free(latents), free(keys);
    return result;
}

static void agrees_with_float64(void **state) {
    (void)state;
    static const int lengths[] = {1, 1, 1, 5, 40, 200, 320}, rows[] = {1, 128, 300, 5, 300, 210, 320};
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    static const double tolerances[] = {2e-6, 1e-3, 8e-3}; /* half types round the result once */
    for (int t = 0; t < 3; t++)
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            call of = random_call(&scope, lengths[i], rows[i], types[t]);
            mlx_array y = zm_fused_latent_attention(&scope, of.x, &of.arguments, compute);
            double *actual = numbers(&scope, y), *expected = expected_result(&scope, &of, lengths[i]);
            assert_int_equal(mlx_array_dtype(y), types[t]);
            double error = relative_error(actual, expected, (size_t)(HEADS * lengths[i] * LATENT));
            if (!(error <= tolerances[t])) fail_msg("%d tokens of %d rows: error %.3g", lengths[i], rows[i], error);
            free(actual), free(expected);
            end_well(&scope);
        }
}

static void tokens_and_threads_do_not_change_the_bits(void **state) {
    (void)state;
    enum { LENGTH = 150, ROWS = 310 };
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    call of = random_call(&scope, LENGTH, ROWS, MLX_FLOAT32);
    mlx_array all = zm_fused_latent_attention(&scope, of.x, &of.arguments, (zm_compute){0});
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        zm_pool *threads;
        assert_int_equal(zm_pool_new(&threads, n_threads, NULL), ZMLX_OK);
        zm_compute with = {.pool = threads};
        expect_same(&scope, zm_fused_latent_attention(&scope, of.x, &of.arguments, with), all, 0);
        for (int token = 0; token < LENGTH; token += 37) {
            zm_latent_attention_arguments one = of.arguments;
            one.q_rope = zm_slice_axis(&scope, of.arguments.q_rope, 2, token, token + 1, 1);
            one.n_rows = ROWS - LENGTH + token + 1;
            mlx_array x = zm_slice_axis(&scope, of.x, 2, token, token + 1, 1);
            expect_same(&scope, zm_fused_latent_attention(&scope, x, &one, with),
                        zm_slice_axis(&scope, all, 2, token, token + 1, 1), 0);
        }
        zm_pool_free(threads);
    }
    end_well(&scope);
}

static void what_does_not_fit_is_refused(void **state) {
    (void)state;
    for (int wrong = 0; wrong < 7; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        call of = random_call(&scope, 4, 9, MLX_FLOAT32);
        zm_latent_attention_arguments *arguments = &of.arguments;
        if (wrong == 0) arguments->n_rows = 3;
        if (wrong == 1) arguments->n_rows = CAPACITY + 1;
        if (wrong == 2) arguments->k_rope = zm_slice_axis(&scope, arguments->k_rope, 2, 0, CAPACITY - 1, 1);
        if (wrong == 3) arguments->q_rope = zm_slice_axis(&scope, arguments->q_rope, 1, 0, HEADS - 1, 1);
        if (wrong == 4) arguments->latents = zm_slice_axis(&scope, arguments->latents, 3, 0, LATENT - 1, 1);
        if (wrong == 5) arguments->k_rope = zm_astype(&scope, arguments->k_rope, MLX_BFLOAT16);
        if (wrong == 6) {
            arguments->q_rope = zm_slice_axis(&scope, arguments->q_rope, 3, 0, ROPE / 2, 1);
            arguments->k_rope = zm_slice_axis(&scope, arguments->k_rope, 3, 0, ROPE / 2, 1);
        }
        assert_false(zm_is_set(zm_fused_latent_attention(&scope, of.x, arguments, compute)));
        zmlx_error error;
        assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.where, "zmlx.latent_attention");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(agrees_with_float64),
        cmocka_unit_test(tokens_and_threads_do_not_change_the_bits),
        cmocka_unit_test(what_does_not_fit_is_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
