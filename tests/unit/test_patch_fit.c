/* SPDX-License-Identifier: MIT */
/* Scales in bfloat16 while patched: the same numbers, the same bits of results, and float32 again afterwards. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/layers.h"
#include "patch/smart_patch.h"
#include "demonstration_model.h"

enum { N_PROMPT = 9, MAX_WEIGHTS = 256 };
static const int32_t prompt[N_PROMPT] = {1, 501, 77, 1203, 310, 2044, 95, 640, 12};

typedef struct weights {
    zm_weight *items[MAX_WEIGHTS];
    size_t count;
} weights;

static zmlx_status collect(zm_module *module, void *context, zmlx_error *ignored) {
    weights *found = context;
    (void)ignored;
    if (module->kind == ZM_MODULE_LINEAR || module->kind == ZM_MODULE_SWITCH_LINEAR) {
        assert_true(found->count < MAX_WEIGHTS);
        found->items[found->count++] = &((zm_linear *)module)->weight;
    }
    return ZMLX_OK;
}

static weights all_weights(void) {
    weights found = {.count = 0};
    check(zm_module_visit(&model->root->base, collect, &found, &error));
    assert_true(found.count > 20);
    return found;
}

static size_t count_type(const weights *of, mlx_dtype dtype) {
    size_t count = 0;
    for (size_t i = 0; i < of->count; i++) {
        assert_int_equal(mlx_array_dtype(of->items[i]->scales), mlx_array_dtype(of->items[i]->biases));
        count += mlx_array_dtype(of->items[i]->scales) == dtype;
    }
    return count;
}

/* The logits after the prompt, for the caller to free. */
static float *logits_now(void) {
    float *logits = malloc((size_t)zmlx_model_get_info(model)->vocab_size * sizeof *logits);
    zmlx_session *session;
    assert_non_null(logits);
    check(zmlx_session_new(&session, model, &error));
    check(zmlx_session_feed(session, prompt, N_PROMPT, logits, false, &error));
    zmlx_session_free(session);
    return logits;
}

static void expect_logits(const float *expected) {
    float *actual = logits_now();
    assert_memory_equal(actual, expected, (size_t)zmlx_model_get_info(model)->vocab_size * sizeof *actual);
    free(actual);
}

static float *copy_scales(const zm_weight *weight) {
    size_t bytes = mlx_array_nbytes(weight->scales);
    float *copy = malloc(bytes);
    assert_non_null(copy);
    assert_int_equal(mlx_array_eval(weight->scales), 0);
    memcpy(copy, mlx_array_data_float32(weight->scales), bytes);
    return copy;
}

static size_t count_edges(const weights *of) {
    size_t count = 0;
    for (size_t i = 0; i < of->count; i++) {
        if (zm_is_set(of->items[i]->edges))
            assert_int_equal(mlx_array_size(of->items[i]->edges), mlx_array_size(of->items[i]->scales));
        count += zm_is_set(of->items[i]->edges);
    }
    return count;
}

static void scales_are_narrow_while_patched(void **state) {
    (void)state;
    weights all = all_weights();
    float *plain = logits_now(), *scales = copy_scales(all.items[3]);
    assert_int_equal(count_type(&all, MLX_FLOAT32), all.count);
    check(zmlx_patch(NULL, model, NULL, &error));
    assert_int_equal(count_type(&all, MLX_BFLOAT16), all.count);
    size_t n_edges = count_edges(&all);
    assert_true(n_edges > all.count / 2); /* routers have eight bits */
    float *patched = logits_now();
    /* MLX's operations on them, and fused ones on float32: no bit differs. */
    zm_patch_switch(model, 0, false);
    expect_logits(plain);
    check(zm_patch_fit(model, &error));
    assert_int_equal(count_type(&all, MLX_FLOAT32), all.count);
    assert_int_equal(count_edges(&all), 0);
    expect_logits(plain);
    zm_patch_switch(model, 0, true);
    expect_logits(patched);
    check(zm_patch_fit(model, &error));
    assert_int_equal(count_edges(&all), n_edges);
    expect_logits(patched);
    zmlx_unpatch(model);
    assert_int_equal(count_type(&all, MLX_FLOAT32), all.count);
    assert_int_equal(count_edges(&all), 0);
    assert_memory_equal(mlx_array_data_float32(all.items[3]->scales), scales,
                        mlx_array_nbytes(all.items[3]->scales));
    expect_logits(plain);
    free(plain);
    free(patched);
    free(scales);
}

/* A scale that bfloat16 cannot hold keeps its weight in float32, and only that. */
static void other_scales_stay(void **state) {
    (void)state;
    weights all = all_weights();
    mlx_array *slot = &all.items[5]->scales, usual = mlx_array_new();
    mlx_array_set(&usual, *slot);
    zm_scope scope;
    zm_scope_begin(&scope, model->stream);
    zm_scope_keep(&scope, slot, zm_multiply(&scope, usual, zm_scalar(&scope, 1.0001, MLX_FLOAT32)));
    check(zm_scope_end(&scope, &error));
    check(zmlx_patch(NULL, model, NULL, &error));
    assert_int_equal(count_type(&all, MLX_BFLOAT16), all.count - 1);
    assert_int_equal(mlx_array_dtype(*slot), MLX_FLOAT32);
    zmlx_unpatch(model);
    mlx_array_set(slot, usual);
    mlx_array_free(usual);
}

/* What would be patched changes nothing, and parts that are not patched keep float32. */
static void only_patched_modules_change(void **state) {
    (void)state;
    weights all = all_weights();
    zmlx_patch_options dry = {.dry_run = true};
    check(zmlx_patch(NULL, model, &dry, &error));
    assert_int_equal(count_type(&all, MLX_FLOAT32), all.count);
    const char *const names[] = {"swiglu_mlp"};
    zmlx_patch_options some = {.patterns = names, .n_patterns = 1};
    check(zmlx_patch(NULL, model, &some, &error));
    assert_int_equal(count_type(&all, MLX_BFLOAT16), 6); /* of two dense layers */
    zmlx_unpatch(model);
    assert_int_equal(count_type(&all, MLX_FLOAT32), all.count);
}

static zm_match match_mlp(const zm_module *module, const char **reason) {
    (void)reason;
    return strcmp(module->path, "model.layers.0.feed_forward") ? ZM_MATCH_NO : ZM_MATCH_YES;
}

static mlx_array failing_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)x, (void)call;
    return zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, self->path, "no such kernel");
}

static double read_clock(void) {
    static double seconds;
    return seconds += 0.125;
}

/* Of smart patching: nothing of the pattern stays. */
static void a_failure_behind_a_kept_pattern(void **state) {
    (void)state;
    weights all = all_weights();
    float *expected = logits_now();
    const zm_patch_pattern failing = {.name = "failing", .summary = "fails", .device = ZMLX_DEVICE_CPU,
                                      .match = match_mlp, .forward = failing_forward};
    zm_patch_request request = {
        .patterns = {zm_patch_pattern_find("quantized_linear"), &failing}, .n_patterns = 2, .max_fused_tokens = 32};
    zmlx_smart_patch_options options = {.n_warmup = 1, .n_runs = 1, .threshold = 1e-6};
    zmlx_smart_report report = {0};
    zm_report *patched;
    check(zm_report_new(&patched, "lfm", &error));
    check(zm_report_set_patterns(patched, request.patterns, 2, &error));
    assert_int_equal(zm_smart_patch_request(&report, patched, model, &request, &options, read_clock, &error),
                     ZMLX_ERROR_UNSUPPORTED);
    zm_report_free(patched);
    assert_int_equal(zm_patch_count(model), 0);
    expect_logits(expected);
    assert_int_equal(count_type(&all, MLX_BFLOAT16) + count_edges(&all), 0);
    free(expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(scales_are_narrow_while_patched),
                                       cmocka_unit_test(other_scales_stay),
                                       cmocka_unit_test(only_patched_modules_change),
                                       cmocka_unit_test(a_failure_behind_a_kept_pattern)};
    return cmocka_run_group_tests(tests, load_model, free_model);
}
