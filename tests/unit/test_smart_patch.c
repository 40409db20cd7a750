/* SPDX-License-Identifier: MIT */
/* Smart patching on the demonstration checkpoint: keeps what helps; reverts what is slow or wrong. The clock is the
 * test's own: a reading takes eight milliseconds, so that a block is repeated, a forward as many readings as it says,
 * all else no time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "patch/smart_patch.h"
#include "demonstration_model.h"
#include "sanitized.h"

static char lines[8192];

static int unpatch(void **state) {
    (void)state;
    zmlx_unpatch(model);
    return 0;
}

static void collect(void *context, const char *line) {
    (void)context;
    strncat(lines, line, sizeof lines - strlen(lines) - 1);
    strncat(lines, "\n", sizeof lines - strlen(lines) - 1);
}

#define FIRST_MLP "model.layers.0.feed_forward"

static zm_match match_first_mlp(const zm_module *module, const char **reason) {
    (void)reason;
    return strcmp(module->path, FIRST_MLP) ? ZM_MATCH_NO : ZM_MATCH_YES;
}

static double readings;

static double read_clock(void) { return 8e-3 * ++readings; }

static void wait_readings(double count) { readings += count; }

static mlx_array slow_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    wait_readings(20);
    return zm_patch_original(self, scope, x, call);
}

/* A forward of the unpatched model that takes its time, and the one without the wait. */
static mlx_array waiting_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    wait_readings(100);
    return zm_standard_forward(self->kind)(self, scope, x, call);
}

static mlx_array prompt_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    return zm_standard_forward(self->kind)(self, scope, x, call);
}

static mlx_array slow_prefill_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    if (zm_dim(x, 1) > 1) wait_readings(200);
    return zm_patch_original(self, scope, x, call);
}

static mlx_array wrong_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    return zm_negative(scope, zm_patch_original(self, scope, x, call));
}

static mlx_array failing_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)x;
    (void)call;
    return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, self->path, "no such kernel");
}

static zmlx_status is_standard(zm_module *module, void *context, zmlx_error *unused) {
    (void)context;
    (void)unused;
    assert_ptr_equal(module->forward, zm_standard_forward(module->kind));
    assert_null(module->patch_state);
    return ZMLX_OK;
}

static int n_runs = 3;

static zmlx_status try_forward(zmlx_smart_report *report, zm_forward forward, double threshold) {
    zm_patch_pattern pattern = {.name = "tried",
                                .summary = "the first MLP",
                                .device = ZMLX_DEVICE_CPU,
                                .match = match_first_mlp,
                                .forward = forward};
    zm_patch_request request = {.patterns = {&pattern}, .n_patterns = 1, .max_fused_tokens = 32};
    zmlx_smart_patch_options options = {.n_warmup = 1, .n_runs = n_runs, .threshold = threshold, .log = collect};
    zm_report *patched;
    lines[0] = '\0';
    *report = (zmlx_smart_report){0};
    check(zm_report_new(&patched, "lfm", &error));
    check(zm_report_set_patterns(patched, request.patterns, 1, &error));
    zmlx_status status = zm_smart_patch_request(report, patched, model, &request, &options, read_clock, &error);
    zm_report_free(patched);
    return status;
}

static void expect_unpatched(void) {
    assert_int_equal(zm_patch_count(model), 0);
    assert_int_equal(zm_module_visit(&model->root->base, is_standard, NULL, NULL), ZMLX_OK);
}

static void test_slow_is_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, slow_forward, 0));
    expect_unpatched();
    const zmlx_smart_result *result = &report.results[0];
    assert_int_equal(result->choice, ZMLX_SMART_REVERT);
    assert_true(result->same_tokens);
    assert_int_equal(result->n_modules, 1);
    assert_true(fabs(result->decode_speedup - 1.0 / (1 + 4 * 20)) < 1e-9); /* a block is four steps of 0.16 s */
    assert_int_equal(result->n_runs, 3);
    assert_true(fabs(result->prefill_speedup - 1.0 / (1 + 20)) < 1e-9);
    assert_string_equal(result->reason, "below 0.995 threshold");
    assert_non_null(strstr(lines, "[smart_patch] Benchmarking 1 patterns: ['tried']\nBaseline: "));
    assert_non_null(strstr(lines, "tried: 0.012x -> REVERT (below 0.995 threshold)\n"
                                  "    the first MLP; prompt 0.048x, tokens the same; 3 runs\n"));
    assert_non_null(strstr(lines, "Kept: []\nReverted: ['tried']\n"));
    zmlx_smart_report_clear(&report);
}

static void test_slow_prefill_is_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, slow_prefill_forward, 0.5));
    expect_unpatched();
    assert_int_equal(report.results[0].choice, ZMLX_SMART_REVERT);
    assert_string_equal(report.results[0].reason, "prefill 0.005x, below 0.500 threshold");
    zmlx_smart_report_clear(&report);
}

/* Dropped whatever its speed. */
static void test_wrong_tokens_are_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, wrong_forward, 1e-6));
    expect_unpatched();
    assert_int_equal(report.results[0].choice, ZMLX_SMART_REVERT);
    assert_false(report.results[0].same_tokens);
    assert_non_null(strstr(report.results[0].reason, "tokens differ from token "));
    zmlx_smart_report_clear(&report);
}

static void test_failure_undoes_everything(void **state) {
    (void)state;
    zmlx_smart_report report;
    assert_int_equal(try_forward(&report, failing_forward, 0), ZMLX_ERROR_UNSUPPORTED);
    expect_unpatched();
    assert_string_equal(error.message, "no such kernel");
    assert_null(report.results);
}

static void test_fast_is_kept(void **state) {
    (void)state;
    zm_module *mlp = zm_module_find(&model->root->base, FIRST_MLP);
    zm_forward original = mlp->forward;
    mlp->forward = waiting_forward;
    zmlx_smart_report report;
    zmlx_status status = try_forward(&report, prompt_forward, 0);
    assert_ptr_equal(mlp->forward, prompt_forward);
    zmlx_unpatch(model);
    assert_ptr_equal(mlp->forward, waiting_forward);
    mlp->forward = original;
    check(status);
    assert_int_equal(report.results[0].choice, ZMLX_SMART_KEEP);
    assert_true(report.results[0].same_tokens);
    /* Blocks of two steps of 0.8 s; after two runs there is no doubt. */
    assert_int_equal(report.results[0].n_runs, 2);
    assert_true(fabs(report.results[0].decode_speedup - 201) < 1e-6);
    assert_true(fabs(report.results[0].prefill_speedup - 101) < 1e-6);
    assert_true(fabs(report.baseline_ms - 804) < 1e-6 && fabs(report.final_ms - 4) < 1e-6);
    assert_non_null(strstr(lines, "tried: 201.000x -> KEEP (1 modules)\n"
                                  "    the first MLP; prompt 101.000x, tokens the same; 2 runs\n"));
    assert_non_null(strstr(lines, "Kept: ['tried']\nReverted: []\n"));
    zmlx_smart_report_clear(&report);
    expect_unpatched();
}

/* Twice as fast in every other run, and half as fast in the others. */
static mlx_array doubtful_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    static int n_prompts;
    n_prompts += zm_dim(x, 1) > 1;
    wait_readings(n_prompts % 2 ? 50 : 200);
    return zm_standard_forward(self->kind)(self, scope, x, call);
}

/* Runs go on while there is doubt, until they have taken 20 s. */
static void test_doubt_costs_runs(void **state) {
    (void)state;
    zm_module *mlp = zm_module_find(&model->root->base, FIRST_MLP);
    zm_forward original = mlp->forward;
    mlp->forward = waiting_forward;
    zmlx_smart_report report;
    n_runs = 5;
    zmlx_status status = try_forward(&report, doubtful_forward, 0);
    n_runs = 3;
    zmlx_unpatch(model);
    mlp->forward = original;
    check(status);
    assert_int_equal(report.results[0].n_runs, 4); /* of about five seconds */
    zmlx_smart_report_clear(&report);
}

static void test_kept_patterns_stay(void **state) {
    (void)state;
    zmlx_smart_report report;
    static const int32_t sample[] = {1, 501, 77, 1203};
    zmlx_smart_patch_options options = {.n_warmup = 1, .n_runs = SANITIZED ? 1 : 3, .sample = sample, .n_sample = 4,
                                        .vector_attention = true, .log = collect};
    lines[0] = '\0';
    check(zm_smart_patch_timed(&report, model, &options, read_clock, &error));
    const zm_patch_state *kept = zm_module_find(&model->root->base, FIRST_MLP)->patch_state;
    assert_true(kept && kept->vector_attention);
    static const char *const names[] = {"swiglu_mlp", "geglu_mlp", "moe_mlp",
                                        "short_conv", "delta_net", "attention",
                                        "rmsnorm", "quantized_linear", "lm_head",
                                        "decoder_block", "add_rms_norm"};
    assert_int_equal(report.n_results, 11);
    for (size_t i = 0; i < 11; i++) {
        zmlx_smart_choice expected = i == 1 || i == 4 || i == 10 ? ZMLX_SMART_NO_MATCH : ZMLX_SMART_KEEP;
        assert_string_equal(report.results[i].pattern, names[i]);
        assert_int_equal(report.results[i].choice, expected);
        assert_int_equal(report.results[i].same_tokens, expected == ZMLX_SMART_KEEP);
    }
    assert_true(fabs(report.results[2].decode_speedup - 1) < 1e-9 && fabs(report.final_ms - 1) < 1e-9);
    const zmlx_patch_report *patched = zmlx_patch_get_report(model);
    assert_non_null(patched);
    assert_int_equal(patched->patched_count, zm_patch_count(model));
    assert_int_equal(patched->n_counts, 8);
    assert_true(patched->counts[0].speedup > 0);
    char *text = zmlx_patch_report_text(patched, false), line[64];
    snprintf(line, sizeof line, "  moe_mlp: 6 (%.3fx)\n", report.results[2].decode_speedup);
    assert_non_null(strstr(text, line));
    free(text);
    assert_non_null(strstr(lines, "geglu_mlp: no matches (skipped)\n    MLP gated with tanh GELU: "));
    assert_non_null(strstr(lines, "x -> KEEP (6 modules)\n"));
    assert_non_null(strstr(lines,
                           "Kept: ['swiglu_mlp', 'moe_mlp', 'short_conv', 'attention', 'rmsnorm', "
                           "'quantized_linear', 'lm_head', 'decoder_block']\n"
                           "Reverted: []\n"));
    zmlx_smart_report_clear(&report);
    zmlx_unpatch(model);
    expect_unpatched();
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_smart_report report;
    static const char *const unknown[] = {"x"};
    static const int32_t outside[] = {1, -5};
    zmlx_smart_patch_options wrong[] = {
        {.patterns = unknown, .n_patterns = 1}, {.threshold = -1}, {.n_runs = -2}, {.sample = outside},
        {.sample = outside, .n_sample = 2},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        assert_int_equal(zmlx_smart_patch(&report, model, &wrong[i], &error), ZMLX_ERROR_ARGUMENT);
        assert_null(report.results);
        assert_int_equal(zm_patch_count(model), 0);
    }
}

#define TEST(name) cmocka_unit_test_teardown(name, unpatch)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_slow_is_reverted),
        TEST(test_slow_prefill_is_reverted),
        TEST(test_wrong_tokens_are_reverted),
        TEST(test_failure_undoes_everything),
        TEST(test_fast_is_kept),
        TEST(test_doubt_costs_runs),
        TEST(test_kept_patterns_stay),
        TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, load_model, free_model);
}
