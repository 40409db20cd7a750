/* SPDX-License-Identifier: MIT */
/* Smart patching on the demonstration checkpoint: keeps what helps; reverts what is slow or wrong. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "patch/smart_patch.h"

#define MODEL_FOLDER ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit"

static zmlx_model *model;
static zmlx_error error;
static char lines[8192];

static void check(zmlx_status status) {
    if (status) fail_msg("%s: %s", error.where, error.message);
}

static int set_up(void **state) {
    (void)state;
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU};
    zmlx_status status = zmlx_model_load(&model, MODEL_FOLDER, &options, &error);
    if (status) fprintf(stderr, "%s: %s\n", error.where, error.message);
    return (int)status;
}

static int tear_down(void **state) {
    (void)state;
    zmlx_model_free(model);
    return 0;
}

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

static zm_match match_first_mlp(const zm_module *module, const char **reason) {
    return strcmp(module->path, "model.layers.0.feed_forward") ? ZM_MATCH_NO
                                                               : zm_swiglu_mlp_match(module, reason);
}

static void wait_milliseconds(long milliseconds) {
    struct timespec time = {.tv_nsec = milliseconds * 1000000};
    nanosleep(&time, NULL);
}

static mlx_array slow_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    wait_milliseconds(20);
    return zm_patch_original(self, scope, x, call);
}

static mlx_array slow_prefill_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    if (zm_dim(x, 1) > 1) wait_milliseconds(200);
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

static zmlx_status try_forward(zmlx_smart_report *report, zm_forward forward, double threshold) {
    zm_patch_pattern pattern = {
        .name = "tried", .device = ZMLX_DEVICE_CPU, .match = match_first_mlp, .forward = forward};
    zm_patch_request request = {.patterns = {&pattern}, .n_patterns = 1, .max_fused_tokens = 32};
    zmlx_smart_patch_options options = {.n_warmup = 1, .n_runs = 3, .threshold = threshold, .log = collect};
    zm_report *patched;
    lines[0] = '\0';
    *report = (zmlx_smart_report){0};
    check(zm_report_new(&patched, "lfm", &error));
    check(zm_report_set_patterns(patched, request.patterns, 1, &error));
    zmlx_status status = zm_smart_patch_request(report, patched, model, &request, &options, &error);
    zm_report_free(patched);
    /* Nothing that this test offers is kept. */
    assert_int_equal(zm_patch_count(model), 0);
    assert_int_equal(zm_module_visit(&model->root->base, is_standard, NULL, NULL), ZMLX_OK);
    return status;
}

static void test_slow_is_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, slow_forward, 0));
    const zmlx_smart_result *result = &report.results[0];
    assert_int_equal(result->choice, ZMLX_SMART_REVERT);
    assert_true(result->same_tokens);
    assert_int_equal(result->n_modules, 1);
    assert_true(result->decode_speedup < 0.9);
    assert_string_equal(result->reason, "below 0.995 threshold");
    assert_non_null(strstr(lines, "[smart_patch] Benchmarking 1 patterns: ['tried']\nBaseline: "));
    assert_non_null(strstr(lines, "x -> REVERT (below 0.995 threshold)\n"));
    assert_non_null(strstr(lines, "Kept: []\nReverted: ['tried']\n"));
    zmlx_smart_report_clear(&report);
}

static void test_slow_prefill_is_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, slow_prefill_forward, 0.5));
    assert_int_equal(report.results[0].choice, ZMLX_SMART_REVERT);
    assert_true(report.results[0].prefill_speedup < 0.5);
    assert_non_null(strstr(report.results[0].reason, "prefill"));
    zmlx_smart_report_clear(&report);
}

/* Dropped whatever its speed. */
static void test_wrong_tokens_are_reverted(void **state) {
    (void)state;
    zmlx_smart_report report;
    check(try_forward(&report, wrong_forward, 1e-6));
    assert_int_equal(report.results[0].choice, ZMLX_SMART_REVERT);
    assert_false(report.results[0].same_tokens);
    assert_non_null(strstr(report.results[0].reason, "tokens differ from token "));
    zmlx_smart_report_clear(&report);
}

static void test_failure_undoes_everything(void **state) {
    (void)state;
    zmlx_smart_report report;
    assert_int_equal(try_forward(&report, failing_forward, 0), ZMLX_ERROR_UNSUPPORTED);
    assert_string_equal(error.message, "no such kernel");
    assert_null(report.results);
}

static void test_keeps_what_helps(void **state) {
    (void)state;
    zmlx_smart_report report;
    zmlx_smart_patch_options options = {.n_warmup = 1, .n_runs = 3, .threshold = 0.3, .log = collect};
    lines[0] = '\0';
    check(zmlx_smart_patch(&report, model, &options, &error));
    assert_int_equal(report.n_results, 4);
    static const zmlx_smart_choice expected[] = {ZMLX_SMART_KEEP, ZMLX_SMART_NO_MATCH, ZMLX_SMART_KEEP,
                                                 ZMLX_SMART_KEEP};
    static const char *const names[] = {"swiglu_mlp", "geglu_mlp", "moe_mlp", "quantized_linear"};
    for (size_t i = 0; i < 4; i++) {
        assert_string_equal(report.results[i].pattern, names[i]);
        assert_int_equal(report.results[i].choice, expected[i]);
        if (expected[i] == ZMLX_SMART_KEEP) assert_true(report.results[i].same_tokens);
    }
    /* The experts are most of the work: their fusion shows above any noise. */
    assert_true(report.results[2].decode_speedup > 1.1);
    assert_true(report.final_ms < report.baseline_ms);
    const zmlx_patch_report *patched = zmlx_patch_get_report(model);
    assert_non_null(patched);
    assert_int_equal(patched->patched_count, zm_patch_count(model));
    assert_int_equal(patched->n_counts, 3);
    assert_true(patched->counts[0].speedup > 1.1);
    char *text = zmlx_patch_report_text(patched, false), line[64];
    snprintf(line, sizeof line, "  moe_mlp: 6 (%.3fx)\n", report.results[2].decode_speedup);
    assert_non_null(strstr(text, line));
    free(text);
    assert_non_null(strstr(lines, "geglu_mlp: no matches (skipped)\n"));
    assert_non_null(strstr(lines, "x -> KEEP (6 modules)\n"));
    assert_non_null(strstr(lines, "Kept: ['swiglu_mlp', 'moe_mlp', 'quantized_linear']\nReverted: []\n"));
    zmlx_smart_report_clear(&report);
    zmlx_unpatch(model);
    assert_int_equal(zm_module_visit(&model->root->base, is_standard, NULL, NULL), ZMLX_OK);
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
        TEST(test_slow_is_reverted),          TEST(test_slow_prefill_is_reverted),
        TEST(test_wrong_tokens_are_reverted), TEST(test_failure_undoes_everything),
        TEST(test_keeps_what_helps),          TEST(test_refusals),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
