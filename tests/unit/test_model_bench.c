/* SPDX-License-Identifier: MIT */
/* What is timed is patched, whatever else the choice of patterns was for. Speed is not judged. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "demonstration_model.h"
#include "model/model.h"

static int n_patched_runs;

static void note(void *context, const char *step, int done, int total) {
    (void)context, (void)step, (void)done, (void)total;
    n_patched_runs += zmlx_patch_get_report(model) != NULL;
}

static void test_dry_run_does_not_count(void **state) {
    (void)state;
    const zmlx_patch_options choice = {.dry_run = true};
    const zmlx_model_bench_options options = {
        .patch = &choice, .n_prompt = 4, .n_tokens = 4, .n_runs = 1, .progress = note};
    zmlx_model_bench bench;
    check(zmlx_bench_model(&bench, model, &options, &error));
    assert_true(bench.n_patched > 0);
    assert_true(n_patched_runs > 0);
    assert_null(zmlx_patch_get_report(model));
}

static void test_nothing_of_a_failure(void **state) {
    (void)state;
    const zmlx_model_bench_options options = {.timeline = true};
    zmlx_model_bench bench;
    assert_int_equal(zmlx_bench_model(&bench, model, &options, &error), ZMLX_ERROR_UNSUPPORTED);
    assert_int_equal(bench.n_prompt + bench.n_tokens + (size_t)bench.n_patched, 0);
}

static void test_longer_than_the_context(void **state) {
    (void)state;
    const zmlx_model_bench_options options = {.n_prompt = 4096};
    zmlx_model_bench bench;
    assert_int_equal(zmlx_bench_model(&bench, model, &options, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "prompt length");
    assert_string_equal(error.message, "4096 tokens do not fit the model's context of 4096");
    const zmlx_model_bench_options last = {.n_prompt = 4000, .n_tokens = 97};
    assert_int_equal(zmlx_bench_model(&bench, model, &last, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "max tokens");
    assert_string_equal(error.message, "97 behind a prompt of 4000 do not fit the model's context of 4096");
}

/* Each state may fit where all of them do not: the system would end the process. */
static void test_more_than_memory(void **state) {
    (void)state;
    zmlx_moe_bench_row row;
    int hidden_size = model->info.hidden_size;
    model->info.hidden_size = 1 << 24;
    zmlx_status status = zmlx_bench_moe(&row, model, 1 << 20, NULL, &error);
    model->info.hidden_size = hidden_size;
    assert_int_equal(status, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "tokens");
    assert_memory_equal(error.message, "states of 1048576 and the experts' results are ", 47);
    assert_int_equal(row.n_tokens, 0);
    assert_int_equal(zmlx_bench_moe(&row, model, 1000000000, NULL, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "expected 1 to 1048576, got 1000000000");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_dry_run_does_not_count),
                                       cmocka_unit_test(test_nothing_of_a_failure),
                                       cmocka_unit_test(test_longer_than_the_context),
                                       cmocka_unit_test(test_more_than_memory)};
    return cmocka_run_group_tests(tests, load_model, free_model);
}
