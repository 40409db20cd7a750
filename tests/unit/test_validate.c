/* SPDX-License-Identifier: MIT */
/* Validation of the demonstration checkpoint: it passes, and it fails where a kernel is broken. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fused/fused.h"
#include "validate/validate.h"
#include "demonstration_model.h"
#include "sanitized.h"

#define MODEL_FOLDER ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit"
#define BROKEN_MODULE "model.layers.4.feed_forward"

enum { N_PROMPT = 9, N_TOKENS = SANITIZED ? 12 : 24, BROKEN_EXPERT = 5 };
static const int32_t prompt[N_PROMPT] = {1, 501, 77, 1203, 310, 2044, 95, 640, 12};

static mlx_array broken_scales;

static int tear_down(void **state) {
    mlx_array_free(broken_scales);
    return free_model(state);
}

static zm_match broken_match(const zm_module *module, const char **reason) {
    return strcmp(module->path, BROKEN_MODULE) ? ZM_MATCH_NO : zm_patch_moe_mlp_match(module, reason);
}

/* moe_mlp with the scales of one expert's down projection wrong. */
static mlx_array broken_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    zm_moe moe = *(zm_moe *)self;
    zm_switch_glu experts = *moe.experts;
    zm_linear down = *experts.down_proj;
    down.weight.scales = broken_scales;
    experts.down_proj = &down;
    moe.experts = &experts;
    return zm_patch_moe_mlp_forward(&moe.base, scope, x, call);
}

static const zm_patch_pattern broken_pattern = {
    .name = "broken_moe", .device = ZMLX_DEVICE_CPU, .match = broken_match, .forward = broken_forward};

static void break_scales(float factor) {
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, BROKEN_MODULE);
    assert_non_null(moe);
    mlx_array scales = moe->experts->down_proj->weight.scales;
    float factors[256];
    int shape[3] = {moe->n_experts, 1, 1};
    for (int i = 0; i < moe->n_experts; i++) factors[i] = i == BROKEN_EXPERT ? factor : 1;
    zm_scope scope;
    zm_scope_begin(&scope, model->stream);
    mlx_array column = zm_from_data(&scope, factors, shape, 3, MLX_FLOAT32);
    zm_scope_keep(&scope, &broken_scales, zm_multiply(&scope, scales, column));
    check(zm_scope_end(&scope, &error));
    assert_int_equal(mlx_array_eval(broken_scales), 0);
}

static zm_patch_request broken_request(void) {
    return (zm_patch_request){.patterns = {zm_patch_pattern_find("swiglu_mlp"), &broken_pattern,
                                           zm_patch_pattern_find("moe_mlp"),
                                           zm_patch_pattern_find("quantized_linear")},
                              .n_patterns = 4,
                              .max_fused_tokens = 32};
}

static const zmlx_generate_options greedy = {.max_tokens = N_TOKENS, .ignore_eos = true};
static const zmlx_validate_options options = {.max_tokens = N_TOKENS, .n_runs = 2, .ignore_eos = true};

static void test_passes(void **state) {
    (void)state;
    zmlx_validation validation;
    check(zmlx_validate(&validation, model, prompt, N_PROMPT, &options, &error));
    assert_true(validation.passed);
    assert_true(validation.baseline_stable);
    assert_false(validation.diverged);
    assert_int_equal(validation.matched, N_TOKENS);
    assert_int_equal(validation.total, N_TOKENS);
    assert_int_equal(validation.n_baseline_tokens, N_TOKENS);
    assert_int_equal(validation.positions, N_TOKENS);
    assert_int_equal(validation.argmax_agree, N_TOKENS);
    /* Another order of float32 sums: small, but not nothing, or the patched path was not taken. */
    assert_true(validation.max_abs_logit_diff > 0 && validation.max_abs_logit_diff < 1e-2);
    assert_true(validation.mean_kl >= 0 && validation.mean_kl < 1e-6);
    assert_int_equal(validation.baseline.n_runs, 2);
    assert_int_equal(validation.patched.n_runs, 2);
    assert_true(validation.decode_speedup > 0 && validation.prefill_speedup > 0);
    assert_true(validation.baseline.peak_memory_bytes >= zmlx_model_get_info(model)->weight_bytes);
    /* Less: the scales of patched modules are in bfloat16. */
    assert_true(validation.patched.peak_memory_bytes >= zmlx_model_get_info(model)->weight_bytes / 2);
    /* The output projection; 2 norms a layer, 2 an attention, the last. */
    static const zmlx_patch_count counts[] = {{"attention", 2, 0},
                                              {"decoder_block", 9, 0},
                                              {"lm_head", 1, 0},
                                              {"moe_mlp", 6, 0},
                                              {"quantized_linear", 1, 0},
                                              {"rmsnorm", 21, 0},
                                              {"short_conv", 6, 0},
                                              {"swiglu_mlp", 2, 0}};
    assert_int_equal(validation.n_counts, 8);
    for (size_t i = 0; i < 8; i++) {
        assert_string_equal(validation.counts[i].pattern, counts[i].pattern);
        assert_int_equal(validation.counts[i].count, counts[i].count);
    }
    assert_int_equal(zm_patch_count(model), 0);
    assert_null(zmlx_patch_get_report(model));
    zmlx_generation generation;
    check(zmlx_generate(&generation, model, prompt, N_PROMPT, &greedy, &error));
    assert_memory_equal(generation.tokens, validation.baseline_tokens, N_TOKENS * sizeof(int32_t));
    zmlx_generation_clear(&generation);
    zmlx_validation_clear(&validation);
    assert_null(validation.baseline_tokens);
}

/* int8 activations are measured and never pass; where the processor has no kernels for them they are refused. */
static void test_int8_is_approximate(void **state) {
    (void)state;
    const char *reason;
    zmlx_patch_options patch = {.activations = ZMLX_ACTIVATIONS_INT8};
    zmlx_validate_options int8 = options;
    int8.patch = &patch;
    zmlx_validation validation;
    zmlx_status status = zmlx_validate(&validation, model, prompt, N_PROMPT, &int8, &error);
    if (!zm_fused_int8_supported(&reason)) {
        assert_int_equal(status, ZMLX_ERROR_UNSUPPORTED);
        assert_string_equal(error.where, "activations");
        assert_string_equal(error.message, reason);
        return;
    }
    check(status);
    assert_true(validation.approximate);
    assert_false(validation.passed);
    assert_int_equal(validation.n_notes, 1);
    /* Half a per cent a product: far above float32's rounding, far below the logits themselves. */
    assert_true(validation.max_abs_logit_diff > 1e-2 && validation.max_abs_logit_diff < 3);
    assert_true(validation.argmax_agree >= N_TOKENS * 3 / 4);
    assert_true(validation.mean_kl < 0.05);
    zmlx_validation_clear(&validation);
    patch.activations = (zmlx_activations)7;
    assert_int_equal(zmlx_patch(NULL, model, &patch, &error), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zm_patch_count(model), 0);
}

/* The first position where plain and broken generation differ. */
static size_t divergence_of(const zm_patch_request *request, int32_t tokens[2]) {
    zmlx_generation plain, broken;
    zm_report *report;
    check(zmlx_generate(&plain, model, prompt, N_PROMPT, &greedy, &error));
    check(zm_report_new(&report, "lfm", &error));
    check(zm_patch_apply(report, model, request, &error));
    check(zmlx_generate(&broken, model, prompt, N_PROMPT, &greedy, &error));
    zm_report_free(report);
    zmlx_unpatch(model);
    size_t index = 0;
    while (index < N_TOKENS && plain.tokens[index] == broken.tokens[index]) index++;
    if (index < N_TOKENS) {
        tokens[0] = plain.tokens[index];
        tokens[1] = broken.tokens[index];
    }
    zmlx_generation_clear(&plain);
    zmlx_generation_clear(&broken);
    return index;
}

/* Margin of the unpatched model after prompt and n_tokens of its own tokens. */
static double margin_at(const zmlx_validation *validation, size_t n_tokens) {
    size_t vocab_size = (size_t)zmlx_model_get_info(model)->vocab_size;
    float *logits = malloc(vocab_size * sizeof *logits);
    assert_non_null(logits);
    zmlx_session *session;
    check(zmlx_session_new(&session, model, &error));
    check(zmlx_session_feed(session, prompt, N_PROMPT - 1, NULL, false, &error));
    check(zmlx_session_feed(session, prompt + N_PROMPT - 1, 1, logits, false, &error));
    for (size_t i = 0; i < n_tokens; i++)
        check(zmlx_session_feed(session, &validation->baseline_tokens[i], 1, logits, false, &error));
    double best = -HUGE_VAL, second = -HUGE_VAL;
    for (size_t i = 0; i < vocab_size; i++) {
        double value = (double)logits[i];
        if (value > best) {
            second = best;
            best = value;
        } else if (value > second) {
            second = value;
        }
    }
    zmlx_session_free(session);
    free(logits);
    return best - second;
}

static void expect_failure(float factor) {
    break_scales(factor);
    zm_patch_request request = broken_request();
    int32_t tokens[2] = {-1, -1};
    size_t index = divergence_of(&request, tokens);
    assert_true(index > 0 && index < N_TOKENS);
    zmlx_validation validation;
    check(zm_validate_request(&validation, model, prompt, N_PROMPT, &options, &request, &error));
    assert_false(validation.passed);
    assert_true(validation.baseline_stable);
    assert_true(validation.diverged);
    assert_int_equal(validation.first_divergence, index);
    assert_int_equal(validation.baseline_token, tokens[0]);
    assert_int_equal(validation.patched_token, tokens[1]);
    assert_true(validation.matched < validation.total);
    assert_true(validation.matched >= index);
    assert_int_equal(validation.total, N_TOKENS);
    assert_true(validation.max_abs_logit_diff > 1e-2);
    assert_true(validation.mean_kl > 1e-6);
    assert_true(validation.margin > 0);
    assert_true(fabs(validation.margin - margin_at(&validation, index)) < 1e-6);
    assert_int_equal(zm_patch_count(model), 0);
    zmlx_validation_clear(&validation);
}

static void test_fails_where_a_kernel_is_broken(void **state) {
    (void)state;
    expect_failure(0.5f);
    expect_failure(2);
}

/* A fault too small to change a token passes, and shows in the teacher-forced figures. */
static void test_forced_figures_show_small_faults(void **state) {
    (void)state;
    zmlx_validation right, wrong;
    check(zmlx_validate(&right, model, prompt, N_PROMPT, &options, &error));
    break_scales(1.01f);
    zm_patch_request request = broken_request();
    check(zm_validate_request(&wrong, model, prompt, N_PROMPT, &options, &request, &error));
    assert_true(wrong.max_abs_logit_diff > 20 * right.max_abs_logit_diff);
    assert_true(wrong.mean_kl > 20 * right.mean_kl);
    zmlx_validation_clear(&right);
    zmlx_validation_clear(&wrong);
}

/* Every second call of the module is broken: one bad run among good ones is the one that counts. */
static int n_single_calls;

static mlx_array unstable_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    if (zm_dim(x, 1) == 1) n_single_calls++;
    /* 5 warm-up steps and N_TOKENS of the first run are sound. */
    bool sound = n_single_calls <= 5 + N_TOKENS;
    return sound ? zm_patch_moe_mlp_forward(self, scope, x, call) : broken_forward(self, scope, x, call);
}

static void test_worst_run_counts(void **state) {
    (void)state;
    break_scales(4);
    zm_patch_pattern unstable = broken_pattern;
    unstable.forward = unstable_forward;
    zm_patch_request request = {.patterns = {&unstable}, .n_patterns = 1, .max_fused_tokens = 32};
    n_single_calls = 0;
    zmlx_validation validation;
    check(zm_validate_request(&validation, model, prompt, N_PROMPT, &options, &request, &error));
    assert_false(validation.passed);
    assert_true(validation.diverged);
    assert_true(validation.matched < N_TOKENS);
    zmlx_validation_clear(&validation);
}

/* Changes the unpatched model itself between runs. */
static void disturb(void *context, const char *step, int done, int total) {
    (void)total;
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, BROKEN_MODULE);
    if (!strcmp(step, "baseline run") && done == 1) {
        mlx_array_set((mlx_array *)context, moe->experts->down_proj->weight.scales);
        mlx_array_set(&moe->experts->down_proj->weight.scales, broken_scales);
    }
}

static void test_unstable_baseline_does_not_pass(void **state) {
    (void)state;
    break_scales(4);
    mlx_array right = mlx_array_new();
    zmlx_validate_options disturbed = options;
    disturbed.progress = disturb;
    disturbed.progress_context = &right;
    zmlx_validation validation;
    check(zmlx_validate(&validation, model, prompt, N_PROMPT, &disturbed, &error));
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, BROKEN_MODULE);
    mlx_array_set(&moe->experts->down_proj->weight.scales, right);
    mlx_array_free(right);
    assert_false(validation.baseline_stable);
    assert_false(validation.passed);
    zmlx_validation_clear(&validation);
}

/* Equal tokens of models whose logits are NaN prove nothing. */
static void test_no_verdict_without_numbers(void **state) {
    (void)state;
    break_scales(NAN);
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, BROKEN_MODULE);
    mlx_array right = mlx_array_new(), *scales = &moe->experts->down_proj->weight.scales;
    mlx_array_set(&right, *scales);
    mlx_array_set(scales, broken_scales);
    zmlx_validation validation;
    zmlx_status status = zmlx_validate(&validation, model, prompt, N_PROMPT, &options, &error);
    mlx_array_set(scales, right);
    mlx_array_free(right);
    assert_int_equal(status, ZMLX_ERROR_FORMAT);
    assert_string_equal(error.where, "model");
    assert_non_null(strstr(error.message, "not all numbers"));
    assert_null(validation.baseline_tokens);
    assert_int_equal(zm_patch_count(model), 0);
}

/* An unpatched model is right, and the kernels' NaN fails although int8 activations promise nothing. */
static void test_patched_nan_fails(void **state) {
    (void)state;
    break_scales(NAN);
    zm_patch_pattern broken = broken_pattern;
    zm_patch_request request = {
        .patterns = {&broken}, .n_patterns = 1, .max_fused_tokens = 32, .precision = ZM_PRECISION_INT8};
    zmlx_validation validation;
    check(zm_validate_request(&validation, model, prompt, N_PROMPT, &options, &request, &error));
    assert_true(isnan(validation.max_abs_logit_diff));
    assert_false(validation.passed);
    assert_false(validation.approximate);
    zmlx_validation_clear(&validation);
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_validation validation;
    static const char *const unknown[] = {"fast_mlp"};
    zmlx_patch_options wrong = {.patterns = unknown, .n_patterns = 1};
    zmlx_validate_options wrong_pattern = {.patch = &wrong}, wrong_runs = {.n_runs = -1};
    int32_t outside = 1 << 20;
    assert_int_equal(zmlx_validate(&validation, model, prompt, N_PROMPT, &wrong_pattern, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zmlx_validate(&validation, model, prompt, N_PROMPT, &wrong_runs, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zmlx_validate(&validation, model, prompt, 0, &options, &error), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zmlx_validate(&validation, model, &outside, 1, &options, &error), ZMLX_ERROR_ARGUMENT);
    assert_null(validation.baseline_tokens);
    assert_int_equal(zm_patch_count(model), 0);
    check(zmlx_patch(NULL, model, NULL, &error));
    assert_int_equal(zmlx_validate(&validation, model, prompt, N_PROMPT, &options, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_true(zm_patch_count(model) > 0);
    zmlx_unpatch(model);
}

static void test_default_prompt(void **state) {
    (void)state;
    const char *text = zmlx_validate_default_prompt();
    assert_non_null(strstr(text, "TCP"));
    assert_non_null(strstr(text, "UDP"));
    assert_ptr_equal(text, zmlx_validate_default_prompt());
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_passes), cmocka_unit_test(test_int8_is_approximate),
        cmocka_unit_test(test_fails_where_a_kernel_is_broken),
        cmocka_unit_test(test_forced_figures_show_small_faults),
        cmocka_unit_test(test_worst_run_counts),
        cmocka_unit_test(test_unstable_baseline_does_not_pass),
        cmocka_unit_test(test_no_verdict_without_numbers),
        cmocka_unit_test(test_patched_nan_fails),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_default_prompt),
    };
    return cmocka_run_group_tests(tests, load_model, tear_down);
}
