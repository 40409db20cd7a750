/* SPDX-License-Identifier: MIT */
/* The greedy head: exponentials of every level against float64, tokens against the definition. */
#include "fused_node_testing.h"

enum { IN = 64, VOCAB = 9001, LENGTH = 3 };

static void every_level_sums(void **state) {
    (void)state;
    static const size_t counts[] = {1, 2, 7, 16, 31, 100, 4096};
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        print_message("exponentials on %s\n", (*level)->name);
        for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
            float *x = random_floats(counts[c]);
            double most = -INFINITY, sum = 0;
            for (size_t i = 0; i < counts[c]; i++) x[i] *= 20;
            for (size_t i = 0; i < counts[c]; i++) most = fmax(most, (double)x[i]);
            for (size_t i = 0; i < counts[c]; i++) sum += exp((double)x[i] - most);
            float largest = (*level)->largest(x, counts[c]);
            assert_true((double)largest >= most && (double)largest <= most);
            double actual = (double)(*level)->sum_exponentials(x, counts[c], largest);
            /* An exponential is within 2 ulp, its argument's rounding adds up to 40 half ulps; sums average. */
            if (!(fabs(actual - sum) <= 3e-6 * sum)) fail_msg("%zu terms: %.9g for %.9g", counts[c], actual, sum);
            free(x);
        }
    }
}

/* The lowest index of the largest logit; differences of log probabilities can tie where logits do not, and then the
 * lower index wins too. */
static void expect_tokens(zm_scope *scope, mlx_array x, const zm_weight *weight) {
    mlx_array logits = zm_fused_linear(scope, x, weight, compute);
    mlx_array difference = zm_subtract(scope, logits, zm_logsumexp(scope, logits, -1, true));
    double *expected = numbers(scope, difference);
    double *actual = numbers(scope, zm_fused_lm_head(scope, x, weight, compute));
    for (int t = 0; t < LENGTH; t++) {
        int best = 0;
        for (int i = 1; i < VOCAB; i++)
            if (expected[t * VOCAB + i] > expected[t * VOCAB + best]) best = i;
        assert_int_equal((int)actual[t], best);
    }
    free(expected), free(actual);
}

static void chooses_the_most_likely(void **state) {
    (void)state;
    static const zm_quantization formats[] = {{64, 4, "affine"}, {32, 8, "affine"}, {32, 4, "mxfp4"}, {0, 0, NULL}};
    for (size_t f = 0; f < sizeof formats / sizeof *formats; f++)
        for (int seed = 0; seed < 4; seed++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_weight weight = random_weight(&scope, 0, VOCAB, IN, formats[f], MLX_FLOAT32);
            mlx_array x = random_array(&scope, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32, 1);
            expect_tokens(&scope, x, &weight);
            end_well(&scope);
        }
}

/* Half types make many equal logits. */
static void lowest_index_wins(void **state) {
    (void)state;
    static const mlx_dtype types[] = {MLX_FLOAT32, MLX_FLOAT16, MLX_BFLOAT16};
    for (int t = 0; t < 3; t++)
        for (int first = 0; first < VOCAB; first += 1500) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            float *values = random_floats((size_t)VOCAB * IN), *x = random_floats(LENGTH * IN);
            for (int i = 0; i < LENGTH * IN; i++) x[i] = 0.5f + 0.25f * x[i];
            for (int row = 0; row < VOCAB; row++) /* every third row from first on is the same, and the largest */
                for (int i = 0; i < IN; i++)
                    values[row * IN + i] = row >= first && row % 3 == first % 3 ? 1 : 0.5f * values[row * IN + i];
            zm_weight weight = {.in_features = IN, .out_features = VOCAB};
            weight.weight = zm_from_data(&scope, values, (const int[]){VOCAB, IN}, 2, MLX_FLOAT32);
            mlx_array input = zm_from_data(&scope, x, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32);
            double *tokens = numbers(&scope,
                                     zm_fused_lm_head(&scope, zm_astype(&scope, input, types[t]), &weight, compute));
            for (int i = 0; i < LENGTH; i++) assert_int_equal((int)tokens[i], first);
            free(values), free(x), free(tokens);
            end_well(&scope);
        }
}

static void no_token_without_numbers(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_weight weight = random_weight(&scope, 0, VOCAB, IN, (zm_quantization){64, 4, "affine"}, MLX_FLOAT32);
    float values[LENGTH * IN];
    for (int i = 0; i < LENGTH * IN; i++) values[i] = NAN;
    mlx_array x = zm_from_data(&scope, values, (const int[]){1, LENGTH, IN}, 3, MLX_FLOAT32);
    double *tokens = numbers(&scope, zm_fused_lm_head(&scope, x, &weight, compute));
    for (int i = 0; i < LENGTH; i++) assert_true(tokens[i] == 0x1p32); /* ZM_NO_TOKEN as a float32 */
    free(tokens);
    assert_false(zm_is_set(zm_fused_lm_head(&scope, zm_squeeze(&scope, x, 0), &weight, compute)));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_ARGUMENT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_level_sums),
        cmocka_unit_test(chooses_the_most_likely),
        cmocka_unit_test(lowest_index_wins),
        cmocka_unit_test(no_token_without_numbers),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
