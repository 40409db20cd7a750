/* SPDX-License-Identifier: MIT */
/* The pattern `prompt` in whole models on a CUDA device: the logits behind a prompt, every bit against unpatched MLX on
 * the same device. Skipped where there is no such device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "fused/cuda/prompt.h"
#include "model/model.h"
#include "patch/record.h"
#include "temporary.h"
#include "zmlx/patch.h"
#include "zmlx/synth.h"

enum { SKIPPED = 77 };

static uint64_t drawn;
static zmlx_error error;

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    assert_non_null(memory);
    return memory;
}

static uint32_t draw(void) { return (uint32_t)(zm_splitmix64(7, drawn++) >> 32); }

/* A prompt, a token, and few tokens at once, on both sides of where linear maps have another kernel. From MOST_TOKENS
 * on MLX's attention may not repeat its own bits. */
static const size_t lengths[] = {100, 1, 2, 4, 7, 8, 33, 64};
enum { N_PARTS = sizeof lengths / sizeof *lengths, MOST_TOKENS = 256 };

/* The logits after each part. */
static float *logits_of(zmlx_model *model, const int32_t *tokens) {
    size_t n_logits = (size_t)model->info.vocab_size;
    float *logits = allocate(N_PARTS * n_logits * sizeof *logits);
    zmlx_session *session;
    assert_int_equal(zmlx_session_new(&session, model, &error), 0);
    for (size_t i = 0; i < N_PARTS; tokens += lengths[i++])
        if (zmlx_session_feed(session, tokens, lengths[i], logits + i * n_logits, false, &error))
            fail_msg("%s: %s", error.where, error.message);
    zmlx_session_free(session);
    return logits;
}

/* Patched and not. spoil: the patched side's token behind the prompt is another one. */
static void compare_logits(const char *folder, const char *name, zmlx_dtype dtype, bool spoil) {
    zmlx_model *model;
    zmlx_model_options options = {.device = ZMLX_DEVICE_GPU, .dtype = dtype};
    if (zmlx_model_load(&model, folder, &options, &error)) fail_msg("%s: %s", error.where, error.message);
    const zmlx_patch_report *report;
    zmlx_patch_options patch = {.patterns = (const char *const[]){"prompt"}, .n_patterns = 1};
    assert_int_equal(zmlx_patch(&report, model, &patch, &error), 0);
    assert_true(report->patched_count > 0);
    int32_t tokens[MOST_TOKENS], vocab_size = model->info.vocab_size;
    for (int i = 0; i < MOST_TOKENS; i++) tokens[i] = (int32_t)(draw() % (uint32_t)vocab_size);
    zm_patch_switch(model, 0, false);
    float *expected = logits_of(model, tokens);
    zm_patch_switch(model, 0, true);
    if (spoil) tokens[lengths[0]] = (tokens[lengths[0]] + 1) % vocab_size;
    float *actual = logits_of(model, tokens);
    print_message("%s, %s: %d modules, %d left alone, the logits after", name,
                  dtype == ZMLX_DTYPE_FLOAT16 ? "float16" : "bfloat16", report->patched_count, report->skipped_count);
    size_t n_logits = (size_t)vocab_size;
    for (size_t i = 0; i < N_PARTS; i++) {
        int differs = memcmp(expected + i * n_logits, actual + i * n_logits, n_logits * sizeof *actual) != 0;
        print_message("%s %zu tokens %s", i ? ", more" : "", lengths[i], differs ? "not the same" : "bit-equal");
        assert_int_equal(differs, spoil && i > 0);
    }
    print_message("\n");
    free(expected);
    free(actual);
    zmlx_model_free(model);
}

static void test_trained(void **state) {
    (void)state;
    static const char *const names[] = {"lfm2-moe-tiny-4bit", "llama-tiny-4bit"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char folder[256];
        snprintf(folder, sizeof folder, ZMLX_SOURCE_FOLDER "/models/%s", names[i]);
        compare_logits(folder, names[i], ZMLX_DTYPE_BFLOAT16, false);
        compare_logits(folder, names[i], ZMLX_DTYPE_FLOAT16, false);
        if (i == 0) compare_logits(folder, "the same, and another last token", ZMLX_DTYPE_BFLOAT16, true);
    }
}

typedef struct shape_case {
    const char *shape;
    int n_layers, bits;
} shape_case;

static void compare_shapes(const shape_case *cases, size_t count, zmlx_dtype dtype) {
    for (size_t i = 0; i < count; i++) {
        char folder[TEMPORARY_SIZE], name[64];
        assert_non_null(mkdtemp(temporary_template(folder)));
        uint64_t size;
        zmlx_synth_options options = {.bits = cases[i].bits, .n_layers = cases[i].n_layers, .vocab_size = 4096};
        if (zmlx_synth(&size, cases[i].shape, folder, &options, &error)) fail_msg("%s: %s", error.where, error.message);
        snprintf(name, sizeof name, "%s, %d bits", cases[i].shape, cases[i].bits);
        compare_logits(folder, name, dtype, false);
        temporary_remove(folder);
    }
}

/* Published widths, few layers. */
static const shape_case published[] = {{"lfm2-8b-a1b", 4, 4},   {"llama-3.2-1b", 2, 4}, {"qwen3-4b", 2, 4},
                                       {"qwen3-30b-a3b", 2, 4}, {"mixtral-8x7b", 1, 4}, {"gpt-oss-20b", 2, 4}};
enum { N_PUBLISHED = sizeof published / sizeof *published };

static void test_published_shapes(void **state) {
    (void)state;
    compare_shapes(published, N_PUBLISHED, ZMLX_DTYPE_BFLOAT16);
}

static void test_float16(void **state) {
    (void)state;
    compare_shapes(published, N_PUBLISHED, ZMLX_DTYPE_FLOAT16);
}

static void test_other_widths(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", 3, 3}, {"lfm2-8b-a1b", 3, 6}, {"qwen3-4b", 1, 2}, {"qwen3-30b-a3b", 1, 5}};
    compare_shapes(cases, sizeof cases / sizeof *cases, ZMLX_DTYPE_BFLOAT16);
}

/* An argument chooses tests by a pattern of cmocka's. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!zm_prompt_available()) {
        print_message("no CUDA device: skipped\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_trained), cmocka_unit_test(test_published_shapes),
                                       cmocka_unit_test(test_float16), cmocka_unit_test(test_other_widths)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
