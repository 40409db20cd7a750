/* SPDX-License-Identifier: MIT */
/* The pattern decode on a CUDA device: logits bit by bit against the same model unpatched, which runs MLX's own
 * operations. Skipped where there is no such device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "fused/cuda/decode.h"
#include "fused/cuda/timeline.h"
#include "patch/record.h"
#include "shape_cases.h"
#include "zmlx/patch.h"

enum { SKIPPED = 77, FEW_STEPS = 12 };

static zmlx_error error;

static void check(zmlx_status status) {
    if (status) fail_msg("%s: %s", error.where, error.message);
}

typedef struct comparison {
    zmlx_model *model;
    zmlx_session *sessions[2]; /* unpatched, patched */
    float *logits[2];
    size_t vocab_size;
} comparison;

/* At every length; then several choices are one chain. */
static bool has_vector_attention(void) {
    const char *cudnn = getenv("MLX_CUDA_USE_CUDNN_SDPA");
    return cudnn && !strcmp(cudnn, "0");
}

static void start(comparison *of, const char *folder, zmlx_dtype dtype) {
    zmlx_model_options options = {.device = ZMLX_DEVICE_GPU, .dtype = dtype};
    check(zmlx_model_load(&of->model, folder, &options, &error));
    assert_int_equal(of->model->dtype, dtype == ZMLX_DTYPE_FLOAT16 ? MLX_FLOAT16 : MLX_BFLOAT16);
    const zmlx_patch_report *report;
    zmlx_patch_options patch = {.patterns = (const char *const[]){"decode"},
                                .n_patterns = 1,
                                .vector_attention = has_vector_attention()};
    check(zmlx_patch(&report, of->model, &patch, &error));
    for (size_t i = 0; i < report->n_entries; i++)
        if (report->entries[i].reason) fail_msg("%s: %s", folder, report->entries[i].reason);
    assert_int_equal(zm_patch_count(of->model), 1);
    of->vocab_size = (size_t)of->model->info.vocab_size;
    for (int side = 0; side < 2; side++) {
        check(zmlx_session_new(&of->sessions[side], of->model, &error));
        of->logits[side] = malloc(of->vocab_size * sizeof(float));
        assert_non_null(of->logits[side]);
    }
}

static void stop(comparison *of) {
    for (int side = 0; side < 2; side++) {
        zmlx_session_free(of->sessions[side]);
        free(of->logits[side]);
    }
    zmlx_model_free(of->model);
}

static void feed(comparison *of, const int32_t *tokens, size_t n_tokens) {
    for (int side = 0; side < 2; side++) {
        zm_patch_switch(of->model, 0, side == 1);
        check(zmlx_session_feed(of->sessions[side], tokens, n_tokens, of->logits[side], false, &error));
    }
}

static size_t n_different(const comparison *of) {
    size_t count = 0;
    for (size_t i = 0; i < of->vocab_size; i++)
        count += memcmp(&of->logits[0][i], &of->logits[1][i], sizeof(float)) != 0;
    return count;
}

static int32_t likeliest(const comparison *of) {
    size_t best = 0;
    for (size_t i = 1; i < of->vocab_size; i++)
        if (of->logits[0][i] > of->logits[0][best]) best = i;
    return (int32_t)best;
}

static const char *name_of(zmlx_dtype dtype) { return dtype == ZMLX_DTYPE_FLOAT16 ? "float16" : "bfloat16"; }

/* A prompt (at least one token), then steps of one token. */
static void compare(const char *folder, zmlx_dtype dtype, int n_prompt, int n_steps) {
    comparison of = {0};
    start(&of, folder, dtype);
    int32_t *prompt = malloc((size_t)n_prompt * sizeof *prompt);
    assert_non_null(prompt);
    for (int i = 0; i < n_prompt; i++) prompt[i] = (int32_t)((i * 37 + 11) % (int)of.vocab_size);
    if (n_prompt > 1) feed(&of, prompt, (size_t)n_prompt - 1);
    int32_t token = prompt[n_prompt - 1];
    free(prompt);
    for (int i = 0; i < n_steps; i++) {
        feed(&of, &token, 1);
        size_t different = n_different(&of);
        if (different) fail_msg("%s: step %d: %zu of %zu logits differ", folder, i, different, of.vocab_size);
        token = likeliest(&of);
    }
    print_message("%s, %s: %d steps after %d tokens, all logits bit-equal\n", folder, name_of(dtype), n_steps,
                  n_prompt);
    stop(&of);
}

enum { MOST_CHOICES = 600 };

/* Greedy tokens behind `token`, in calls that want one more than the last one did; how many calls there were. */
static int choose(int32_t *tokens, zmlx_session *session, int32_t token, int n_steps) {
    zm_choices last = {.count = 1}, next = {.wanted = 0};
    last.tokens[0] = mlx_array_new_data(&token, (const int[]){1, 1}, 2, MLX_INT32);
    int n_calls = 0;
    for (int done = 0; done < n_steps; n_calls++) {
        int wanted = 1 + n_calls % ZM_MOST_CHOICES;
        next.wanted = wanted < n_steps - done ? wanted : n_steps - done;
        next.row = last.last_row;
        mlx_array input = mlx_array_new();
        zm_scope scope;
        zm_scope_begin(&scope, session->model->stream);
        mlx_array before = zm_astype(&scope, last.tokens[last.count - 1], MLX_INT32);
        zm_scope_keep(&scope, &input, zm_reshape2(&scope, before, 1, 1));
        check(zm_scope_end(&scope, &error));
        check(zm_session_build_greedy(session, &next, input, 1, &error));
        mlx_array_free(input);
        for (int i = 0; i < next.count; i++) {
            uint32_t chosen;
            assert_int_equal(mlx_array_item_uint32(&chosen, next.tokens[i]), 0);
            tokens[done++] = (int32_t)chosen;
        }
        zm_choices swap = last;
        last = next;
        next = swap;
    }
    zm_choices_free(&last);
    zm_choices_free(&next);
    return n_calls;
}

/* The same greedy tokens; in halves many log probabilities are equal, of which the first counts. */
static void compare_choices(const char *folder, zmlx_dtype dtype, int n_steps) {
    comparison of = {0};
    start(&of, folder, dtype);
    int32_t chosen[2][MOST_CHOICES];
    int n_calls[2];
    for (int side = 0; side < 2; side++) {
        zm_patch_switch(of.model, 0, side == 1);
        n_calls[side] = choose(chosen[side], of.sessions[side], 3, n_steps);
    }
    assert_int_equal(zmlx_session_length(of.sessions[1]), n_steps);
    if (has_vector_attention()) assert_true(n_calls[1] < n_steps);
    for (int i = 0; i < n_steps; i++)
        if (chosen[0][i] != chosen[1][i])
            fail_msg("%s: step %d: token %d, not %d", folder, i, chosen[1][i], chosen[0][i]);
    print_message("%s, %s: %d choices equal, in %d and %d calls\n", folder, name_of(dtype), n_steps, n_calls[0],
                  n_calls[1]);
    stop(&of);
}

/* MLX changes its attention kernel at 256 keys, and the caches grow there. */
static void test_trained(void **state) {
    (void)state;
    static const zmlx_dtype dtypes[] = {ZMLX_DTYPE_BFLOAT16, ZMLX_DTYPE_FLOAT16};
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++) {
        compare(ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit", dtypes[i], 1, 520);
        compare(ZMLX_SOURCE_FOLDER "/models/llama-tiny-4bit", dtypes[i], 2, 300);
    }
}

/* Over the growth of the caches where that leaves attention the same. */
static void test_choices(void **state) {
    (void)state;
    int n_steps = has_vector_attention() ? 300 : 60;
    compare_choices(ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit", ZMLX_DTYPE_BFLOAT16, n_steps);
    compare_choices(ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit", ZMLX_DTYPE_FLOAT16, n_steps);
    compare_choices(ZMLX_SOURCE_FOLDER "/models/llama-tiny-4bit", ZMLX_DTYPE_BFLOAT16, n_steps);
    compare_choices(ZMLX_SOURCE_FOLDER "/models/llama-tiny-4bit", ZMLX_DTYPE_FLOAT16, n_steps);
}

/* Caches that MLX's own operations have filled. From 8 tokens on, and for experts, MLX compiles matrix kernels first,
 * which takes minutes. */
static void test_after_a_prompt(void **state) {
    (void)state;
    compare(ZMLX_SOURCE_FOLDER "/models/llama-tiny-4bit", ZMLX_DTYPE_BFLOAT16, 7, 30);
    compare(ZMLX_SOURCE_FOLDER "/models/llama-tiny-4bit", ZMLX_DTYPE_FLOAT16, 7, 30);
}

/* With MLX's vector attention at every length beyond the 1024 keys of its first kernel; else beyond gpt_oss's window of
 * 128. */
static int steps_of(const char *shape) {
    enum { OVER_WINDOW = 140, OVER_SHORT = 1040 };
    static const char *const long_ones[] = {"gpt-oss-20b", "llama-3.2-1b", "qwen3-4b"};
    if (!has_vector_attention()) return strcmp(shape, "gpt-oss-20b") != 0 ? FEW_STEPS : OVER_WINDOW;
    for (size_t i = 0; i < sizeof long_ones / sizeof *long_ones; i++)
        if (!strcmp(shape, long_ones[i])) return OVER_SHORT;
    return FEW_STEPS;
}

static void compare_shape(const shape_case *self, const char *folder) {
    print_message("%s, %d bits: ", self->shape, self->options.bits);
    compare(folder, self->dtype, 1, self->dtype == ZMLX_DTYPE_BFLOAT16 ? steps_of(self->shape) : FEW_STEPS);
    compare_choices(folder, self->dtype, 40);
}

/* Published widths, few layers. */
static void test_published_shapes(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 4, .n_layers = 4, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 8, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 4, .group_size = 32, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 4, .group_size = 128, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"llama-3.2-1b", {.bits = 4, .n_layers = 2, .vocab_size = 4098}, ZMLX_DTYPE_BFLOAT16},
        {"llama-3.2-1b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_BFLOAT16}, /* 128256 logits */
        {"qwen3-4b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-4b", {.bits = 8, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-30b-a3b", {.bits = 4, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-30b-a3b", {.bits = 8, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"mixtral-8x7b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"gpt-oss-20b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

static void test_float16(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 4, .n_layers = 4, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"lfm2-8b-a1b", {.bits = 8, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"llama-3.2-1b", {.bits = 4, .n_layers = 1}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-4b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 8, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"mixtral-8x7b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"gpt-oss-20b", {.bits = 4, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

static void test_other_widths(void **state) {
    (void)state;
    static const shape_case cases[] = {
        {"lfm2-8b-a1b", {.bits = 2, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 3, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 5, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"lfm2-8b-a1b", {.bits = 6, .n_layers = 3, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-4b", {.bits = 3, .group_size = 128, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"llama-3.2-1b", {.bits = 6, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 2, .n_layers = 1, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-30b-a3b", {.bits = 3, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"qwen3-30b-a3b", {.bits = 5, .n_layers = 1, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
        {"qwen3-30b-a3b", {.bits = 6, .n_layers = 1, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16},
        {"gpt-oss-20b", {.bits = 3, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_BFLOAT16}, /* rows of 2880 */
        {"gpt-oss-20b", {.bits = 5, .n_layers = 2, .vocab_size = 4096}, ZMLX_DTYPE_FLOAT16},
    };
    visit_shapes(cases, sizeof cases / sizeof *cases, compare_shape);
}

/* A wrong part shows: the last norm's epsilon differs by little on the patched side. */
static void test_sees_a_difference(void **state) {
    (void)state;
    comparison of = {0};
    start(&of, ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit", ZMLX_DTYPE_FLOAT16);
    int32_t tokens[] = {1, 77};
    feed(&of, tokens, 1);
    float *eps = &of.model->root->decoder->norm->eps, right = *eps;
    for (int side = 0; side < 2; side++) {
        zm_patch_switch(of.model, 0, side == 1);
        *eps = side ? right + 0.01f : right;
        check(zmlx_session_feed(of.sessions[side], tokens + 1, 1, of.logits[side], false, &error));
    }
    *eps = right;
    assert_true(n_different(&of) > 0);
    stop(&of);
}

/* Kernels with stamps leave the same bits, and each stamp comes behind the one before it. */
static void test_timeline(void **state) {
    (void)state;
    enum { STEPS = 5, TICK = 1024 /* ns, of the GPU's clock, at most */ };
    const double tick = 1e-9 * TICK;
    comparison of = {0};
    zmlx_timeline_row rows[ZMLX_TIMELINE_ROWS];
    int n_rows = 0, n_launches = 0;
    start(&of, ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit", ZMLX_DTYPE_BFLOAT16);
    check(zm_timeline_begin(&error));
    for (int32_t i = 0; i < STEPS; i++) {
        feed(&of, &i, 1);
        assert_int_equal(n_different(&of), 0);
    }
    check(zm_timeline_end(rows, &n_rows, &error));
    assert_string_equal(rows[0].kernel, "embed");
    for (int i = 0; i < n_rows; i++) {
        const zmlx_timeline_row *row = &rows[i];
        n_launches += row->n_launches;
        assert_true(row->n_launches > 0 && row->seconds > 0 && row->seconds < 1e-3 && row->begun < row->ended);
        assert_true(row->ready >= 0 && (row->first <= 0 || row->first >= row->ready - tick));
        assert_true(row->ended >= row->ready && row->last_ended >= row->ended);
    }
    assert_true(n_launches >= 2 * of.model->root->decoder->n_blocks);
    assert_int_equal(zm_timeline_end(rows, &n_rows, &error), ZMLX_OK); /* it is off */
    assert_int_equal(n_rows, 0);
    stop(&of);
}

static const char deep_config[] =
    "{\"model_type\":\"llama\",\"architectures\":[\"LlamaForCausalLM\"],\"vocab_size\":512,\"hidden_size\":128,"
    "\"intermediate_size\":128,\"num_hidden_layers\":126,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"head_dim\":64,\"rms_norm_eps\":1e-5,\"rope_theta\":10000,\"max_position_embeddings\":8192,"
    "\"tie_word_embeddings\":true}";

static void expect_too_deep(const shape_case *self, const char *folder) {
    zmlx_model *model;
    zmlx_model_options options = {.device = ZMLX_DEVICE_GPU, .dtype = self->dtype};
    const zmlx_patch_report *report;
    const zmlx_patch_options patch = {.patterns = (const char *const[]){"decode"}, .n_patterns = 1};
    check(zmlx_model_load(&model, folder, &options, &error));
    check(zmlx_patch(&report, model, &patch, &error));
    assert_int_equal(report->n_entries, 1);
    assert_non_null(report->entries[0].reason);
    assert_non_null(strstr(report->entries[0].reason, "more blocks than"));
    zmlx_model_free(model);
}

/* Refused when it is patched, not token by token. */
static void test_too_many_blocks(void **state) {
    (void)state;
    char folder[TEMPORARY_SIZE], path[TEMPORARY_SIZE + 16];
    assert_non_null(mkdtemp(temporary_template(folder)));
    snprintf(path, sizeof path, "%s/config.json", folder);
    check(zm_file_write(path, deep_config, sizeof deep_config - 1, &error));
    const shape_case cases[] = {{path, {.bits = 4}, ZMLX_DTYPE_BFLOAT16}};
    visit_shapes(cases, 1, expect_too_deep);
    temporary_remove(folder);
}

/* An argument chooses tests by a pattern of cmocka's. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!zm_chain_available()) {
        print_message("no CUDA device: skipped\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trained),           cmocka_unit_test(test_choices),
        cmocka_unit_test(test_sees_a_difference), cmocka_unit_test(test_published_shapes),
        cmocka_unit_test(test_float16),           cmocka_unit_test(test_other_widths),
        cmocka_unit_test(test_after_a_prompt),    cmocka_unit_test(test_timeline),
        cmocka_unit_test(test_too_many_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
