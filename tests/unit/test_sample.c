/* SPDX-License-Identifier: MIT */
/* Sampling against a float64 reference written here: which tokens can be drawn, how often, and which is
 * taken greedily. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "model/sample.h"
#include "sanitized.h"

enum { VOCAB = 8, DRAWS = SANITIZED ? 200 : 3000 };

static const float logits[VOCAB] = {0.5f, 2.0f, -1.0f, 1.5f, 0.0f, -3.0f, 1.0f, -0.5f};

static uint32_t sample(const zm_sampler *sampler, const float *values, const int32_t *recent, int n_recent,
                       uint64_t step) {
    mlx_stream stream = mlx_default_cpu_stream_new();
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    int shape[2] = {1, VOCAB}, recent_shape[2] = {1, n_recent};
    mlx_array array = zm_from_data(&scope, values, shape, 2, MLX_FLOAT32);
    mlx_array history = {0};
    if (n_recent) history = zm_from_data(&scope, recent, recent_shape, 2, MLX_INT32);
    mlx_array token = zm_sample(&scope, sampler, array, history, step);
    assert_false(zm_scope_failed(&scope));
    assert_int_equal(mlx_array_eval(token), 0);
    uint32_t value = 0;
    assert_int_equal(mlx_array_item_uint32(&value, token), 0);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    mlx_stream_free(stream);
    assert_true(value < VOCAB || value == ZM_NO_TOKEN);
    return value;
}

static void probabilities(double *result, double temperature, const float *values) {
    double sum = 0;
    for (int i = 0; i < VOCAB; i++) sum += result[i] = exp((double)values[i] / temperature);
    for (int i = 0; i < VOCAB; i++) result[i] /= sum;
}

/* Draws many tokens; checks that exactly the allowed ones appear, about as often as expected. */
static void check_draws(const zm_sampler *sampler, const bool *allowed) {
    double expected[VOCAB], allowed_sum = 0;
    int counts[VOCAB] = {0};
    probabilities(expected, sampler->temperature, logits);
    for (int i = 0; i < VOCAB; i++)
        if (allowed[i]) allowed_sum += expected[i];
    for (uint64_t step = 0; step < DRAWS; step++) counts[sample(sampler, logits, NULL, 0, step)]++;
    for (int i = 0; i < VOCAB; i++) {
        if (!allowed[i]) {
            assert_int_equal(counts[i], 0);
            continue;
        }
        double p = expected[i] / allowed_sum;
        /* Five standard deviations of a binomial count; the seed is fixed, so the result is too. */
        double bound = 5 * sqrt(DRAWS * p * (1 - p)) + 1;
        assert_true(fabs(counts[i] - DRAWS * p) <= bound);
    }
}

static void test_greedy_takes_the_lowest_index_of_equals(void **state) {
    (void)state;
    const float ties[VOCAB] = {1, 3, 2, 3, 3, 0, -1, 2};
    zm_sampler greedy = {0};
    assert_int_equal(sample(&greedy, ties, NULL, 0, 0), 1);
    assert_int_equal(sample(&greedy, logits, NULL, 0, 7), 1);
}

static void test_temperature(void **state) {
    (void)state;
    bool all[VOCAB];
    memset(all, true, sizeof all);
    check_draws(&(zm_sampler){.temperature = 1, .seed = 1}, all);
    check_draws(&(zm_sampler){.temperature = 0.5, .seed = 2}, all);
}

static void test_top_k(void **state) {
    (void)state;
    bool allowed[VOCAB] = {[1] = true, [3] = true, [6] = true};
    check_draws(&(zm_sampler){.temperature = 1, .top_k = 3, .seed = 3}, allowed);
}

static void test_top_p(void **state) {
    (void)state;
    for (double top_p = 0.2; top_p < 1; top_p += 0.25) {
        double p[VOCAB];
        bool allowed[VOCAB];
        probabilities(p, 1, logits);
        for (int i = 0; i < VOCAB; i++) {
            double above = 0;
            for (int j = 0; j < VOCAB; j++)
                if (p[j] > p[i]) above += p[j];
            allowed[i] = above < top_p;
        }
        check_draws(&(zm_sampler){.temperature = 1, .top_p = top_p, .seed = 4}, allowed);
    }
}

/* Below what float32 holds: still the most likely token, not all of them. */
static void test_tiny_top_p(void **state) {
    (void)state;
    bool allowed[VOCAB] = {[1] = true};
    check_draws(&(zm_sampler){.temperature = 1, .top_p = 1e-50, .seed = 6}, allowed);
}

static void test_min_p(void **state) {
    (void)state;
    double p[VOCAB];
    bool allowed[VOCAB];
    probabilities(p, 1, logits);
    for (int i = 0; i < VOCAB; i++) allowed[i] = p[i] >= 0.3 * p[1];
    check_draws(&(zm_sampler){.temperature = 1, .min_p = 0.3, .seed = 5}, allowed);
}

static void test_repetition_penalty(void **state) {
    (void)state;
    zm_sampler sampler = {.repetition_penalty = 1.5};
    const int32_t recent[3] = {1, 1, 2};
    /* 2 / 1.5 falls below 1.5: token 3 wins; once, although token 1 is listed twice. */
    assert_int_equal(sample(&sampler, logits, recent, 3, 0), 3);
    /* A negative logit is multiplied, so it falls too. */
    const float negative[VOCAB] = {-1, -1.2f, -9, -9, -9, -9, -9, -9};
    const int32_t first[1] = {0};
    assert_int_equal(sample(&sampler, negative, first, 1, 0), 1);
    assert_int_equal(sample(&sampler, logits, NULL, 0, 0), 1);
}

static void test_seeds(void **state) {
    (void)state;
    zm_sampler a = {.temperature = 1, .seed = 11}, b = {.temperature = 1, .seed = 12};
    int differing = 0;
    for (uint64_t step = 0; step < 64; step++) {
        uint32_t token = sample(&a, logits, NULL, 0, step);
        assert_int_equal(sample(&a, logits, NULL, 0, step), token);
        differing += token != sample(&b, logits, NULL, 0, step);
    }
    assert_true(differing > 8);
}

static void refused(zmlx_generate_options options, const char *name) {
    zm_sampler sampler;
    zmlx_error error;
    assert_int_equal(zm_sampler_init(&sampler, &options, VOCAB, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, name);
}

/* No token follows from them, with any sampler; -inf is a token that cannot follow. */
static void test_no_token_without_numbers(void **state) {
    (void)state;
    const zm_sampler samplers[] = {{0},
                                   {.temperature = 1},
                                   {.temperature = 0.5, .top_k = 3, .top_p = 0.9, .min_p = 0.1},
                                   {.repetition_penalty = 1.5}};
    const int32_t recent[2] = {4, 5};
    for (int i = 0; i < 4; i++) {
        for (int place = 0; place < VOCAB; place += VOCAB - 1) {
            float values[VOCAB];
            for (int j = 0; j < VOCAB; j++) values[j] = (float)j;
            values[place] = NAN;
            assert_true(sample(&samplers[i], values, recent, 2, 0) == ZM_NO_TOKEN);
            values[place] = INFINITY;
            assert_true(sample(&samplers[i], values, recent, 2, 0) == ZM_NO_TOKEN);
            values[place] = -INFINITY;
            uint32_t token = sample(&samplers[i], values, recent, 2, 0);
            assert_true(token < VOCAB && token != (uint32_t)place);
        }
        float none[VOCAB];
        for (int j = 0; j < VOCAB; j++) none[j] = -INFINITY;
        assert_true(sample(&samplers[i], none, recent, 2, 0) == ZM_NO_TOKEN);
    }
}

static void test_ranges(void **state) {
    (void)state;
    refused((zmlx_generate_options){.temperature = -1}, "temperature");
    refused((zmlx_generate_options){.temperature = (double)NAN}, "temperature");
    refused((zmlx_generate_options){.temperature = 1e-40}, "temperature");
    refused((zmlx_generate_options){.top_p = 1.5}, "top_p");
    refused((zmlx_generate_options){.min_p = -0.1}, "min_p");
    refused((zmlx_generate_options){.top_k = VOCAB}, "top_k");
    refused((zmlx_generate_options){.top_k = -1}, "top_k");
    refused((zmlx_generate_options){.repetition_penalty = (double)INFINITY}, "repetition_penalty");
    refused((zmlx_generate_options){.repetition_penalty = 1e-310}, "repetition_penalty"); /* 0 in float32 */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_greedy_takes_the_lowest_index_of_equals),
        cmocka_unit_test(test_temperature),
        cmocka_unit_test(test_top_k),
        cmocka_unit_test(test_top_p),
        cmocka_unit_test(test_tiny_top_p),
        cmocka_unit_test(test_min_p),
        cmocka_unit_test(test_repetition_penalty),
        cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_no_token_without_numbers),
        cmocka_unit_test(test_ranges),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
