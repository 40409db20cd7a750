/* SPDX-License-Identifier: MIT */
/* The generation loop on the demonstration checkpoint: mlx-lm's tokens, sessions, ends, refusals, and
 * memory that stays flat. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "mlx/c/mlx.h"
#include "model/model.h"
#include "model/sample.h"
#include "sanitized.h"
#include "zmlx/patch.h"

#define MODEL_FOLDER ZMLX_SOURCE_FOLDER "/models/lfm2-moe-tiny-4bit"
#define VECTORS_FILE ZMLX_SOURCE_FOLDER "/tests/vectors/lfm2-moe-tiny-4bit.json"

static zmlx_model *model;
static int32_t prompt[64], answer[256];
static size_t n_prompt, n_answer;

static size_t read_ids(int32_t *ids, size_t capacity, const json_t *array) {
    size_t count = json_array_size(array);
    assert_true(count > 0 && count <= capacity);
    for (size_t i = 0; i < count; i++) ids[i] = (int32_t)json_integer_value(json_array_get(array, i));
    return count;
}

static int set_up(void **state) {
    (void)state;
    zmlx_error error;
    json_t *vectors;
    if (zmlx_model_load(&model, MODEL_FOLDER, &(zmlx_model_options){.device = ZMLX_DEVICE_CPU}, &error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 1;
    }
    if (zm_json_load(&vectors, VECTORS_FILE, 1 << 24, &error)) return 1;
    const json_t *first = json_array_get(json_object_get(vectors, "vectors"), 0);
    n_prompt = read_ids(prompt, 64, json_object_get(first, "prompt_ids"));
    n_answer = read_ids(answer, 256, json_object_get(first, "tokens"));
    json_decref(vectors);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    zmlx_model_free(model);
    return 0;
}

static void test_tokens_of_mlx_lm(void **state) {
    (void)state;
    zmlx_generation result;
    zmlx_error error;
    zmlx_generate_options options = {.max_tokens = n_answer};
    assert_int_equal(zmlx_generate(&result, model, prompt, n_prompt, &options, &error), ZMLX_OK);
    assert_int_equal(result.n_tokens, n_answer);
    assert_memory_equal(result.tokens, answer, n_answer * sizeof *answer);
    assert_int_equal(result.finish, ZMLX_FINISH_LENGTH);
    assert_true(result.peak_memory_bytes >= zmlx_model_get_info(model)->weight_bytes);
    zmlx_generation_clear(&result);
}

/* A session fed in one piece, in two and token by token gives the same last logits. */
static void test_session_pieces(void **state) {
    (void)state;
    size_t vocab = (size_t)zmlx_model_get_info(model)->vocab_size;
    float *logits[3];
    size_t first_pieces[3] = {n_prompt, 5, 1};
    for (int i = 0; i < 3; i++) {
        logits[i] = malloc(vocab * sizeof(float));
        zmlx_session *session;
        assert_int_equal(zmlx_session_new(&session, model, NULL), ZMLX_OK);
        for (size_t done = 0; done < n_prompt;) {
            size_t count = first_pieces[i] < n_prompt - done ? first_pieces[i] : n_prompt - done;
            assert_int_equal(zmlx_session_feed(session, prompt + done, count, logits[i], false, NULL),
                             ZMLX_OK);
            done += count;
        }
        assert_int_equal(zmlx_session_length(session), n_prompt);
        zmlx_session_free(session);
    }
    for (size_t j = 0; j < vocab; j++) {
        /* Other matrix kernels serve other lengths; float32 reordering moves these logits by about 1e-5. */
        assert_true(fabsf(logits[0][j] - logits[1][j]) < 1e-3f);
        assert_true(fabsf(logits[0][j] - logits[2][j]) < 1e-3f);
    }
    for (int i = 0; i < 3; i++) free(logits[i]);
}

typedef struct progress {
    size_t done[4], n_calls, total;
} progress;

static void keep_progress(void *context, size_t done, size_t total) {
    progress *this = context;
    assert_true(this->n_calls < 4);
    this->done[this->n_calls++] = done;
    this->total = total;
}

/* Before any token: a token ends the list. */
static bool end_progress(void *context, int32_t token) {
    (void)token;
    keep_progress(context, 0, ((progress *)context)->total);
    return false;
}

static void expect_progress(const int32_t *tokens, size_t n_tokens, const size_t *done, size_t n_calls) {
    zmlx_generation result;
    progress seen = {.n_calls = 0};
    zmlx_generate_options options = {.on_token = end_progress, .on_prefill = keep_progress, .context = &seen};
    assert_int_equal(zmlx_generate(&result, model, tokens, n_tokens, &options, NULL), ZMLX_OK);
    assert_int_equal(seen.n_calls, n_calls);
    assert_memory_equal(seen.done, done, n_calls * sizeof *done);
    assert_int_equal(seen.total, n_tokens);
    zmlx_generation_clear(&result);
}

/* As mlx-lm's prompt_progress_callback, but for its call before anything is done. */
static void test_prompt_progress(void **state) {
    (void)state;
    enum { LONG = 2050 };
    int32_t *longer = calloc(LONG, sizeof *longer);
    const zmlx_patch_report *report;
    assert_int_equal(zmlx_patch(&report, model, NULL, NULL), ZMLX_OK); /* for speed */
    expect_progress(prompt, 1, (const size_t[]){1, 0}, 2);
    expect_progress(prompt, n_prompt, (const size_t[]){n_prompt - 1, n_prompt, 0}, 3);
    expect_progress(longer, LONG, (const size_t[]){2048, 2049, LONG, 0}, 4);
    zmlx_unpatch(model);
    free(longer);
}

static bool stop_after_three(void *context, int32_t token) {
    (void)token;
    return ++*(int *)context < 3;
}

static void test_cancelled_by_the_caller(void **state) {
    (void)state;
    int seen = 0;
    zmlx_generation result;
    zmlx_generate_options options = {.max_tokens = 50, .on_token = stop_after_three, .context = &seen};
    assert_int_equal(zmlx_generate(&result, model, prompt, n_prompt, &options, NULL), ZMLX_OK);
    assert_int_equal(result.n_tokens, 3);
    assert_int_equal(result.finish, ZMLX_FINISH_CANCELLED);
    assert_memory_equal(result.tokens, answer, 3 * sizeof *answer);
    zmlx_generation_clear(&result);
}

/* As a model does that chooses several tokens in a call; a token stands for its row. */
static mlx_array choose_several(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    zm_forward standard = zm_standard_forward(ZM_MODULE_CAUSAL_LM);
    zm_call own = {.mask = call->mask, .cache = call->cache};
    zm_choices *choices = call->choices;
    if (!choices) return standard(self, scope, x, call);
    uint32_t token, row;
    assert_true(choices->wanted >= 1 && choices->wanted <= ZM_MOST_CHOICES && mlx_array_size(x) == 1);
    if (zm_is_set(choices->row)) {
        assert_int_equal(mlx_array_item_uint32(&token, x) | mlx_array_item_uint32(&row, choices->row), 0);
        assert_int_equal(token, row);
    }
    while (choices->count < choices->wanted) {
        mlx_array logits = standard(self, scope, x, &own);
        x = zm_astype(scope, zm_choose_greedily(scope, logits), MLX_INT32);
        choices->tokens[choices->count++] = x;
    }
    choices->last_row = x;
    return (mlx_array){NULL};
}

/* However many there are to be, and where the caller stops. */
static void test_several_choices_a_call(void **state) {
    (void)state;
    zm_module *root = &model->root->base;
    zm_forward before = root->forward;
    root->forward = choose_several;
    for (size_t n_tokens = 1; n_tokens <= n_answer; n_tokens += n_tokens < 12 ? 1 : 61) {
        zmlx_generation result;
        int seen = 0;
        zmlx_generate_options options = {.max_tokens = n_tokens, .context = &seen};
        if (n_tokens == 11) options.on_token = stop_after_three;
        assert_int_equal(zmlx_generate(&result, model, prompt, n_prompt, &options, NULL), ZMLX_OK);
        assert_int_equal(result.n_tokens, n_tokens == 11 ? 3 : n_tokens);
        assert_int_equal(result.finish, n_tokens == 11 ? ZMLX_FINISH_CANCELLED : ZMLX_FINISH_LENGTH);
        assert_memory_equal(result.tokens, answer, result.n_tokens * sizeof *answer);
        zmlx_generation_clear(&result);
    }
    root->forward = before;
}

static void test_seeded_sampling_repeats(void **state) {
    (void)state;
    zmlx_generation a, b, c;
    zmlx_generate_options options = {.max_tokens = 24,
                                     .temperature = 1,
                                     .top_k = 50,
                                     .top_p = 0.95,
                                     .repetition_penalty = 1.1,
                                     .seed = 7,
                                     .ignore_eos = true};
    assert_int_equal(zmlx_generate(&a, model, prompt, n_prompt, &options, NULL), ZMLX_OK);
    assert_int_equal(zmlx_generate(&b, model, prompt, n_prompt, &options, NULL), ZMLX_OK);
    options.seed = 8;
    assert_int_equal(zmlx_generate(&c, model, prompt, n_prompt, &options, NULL), ZMLX_OK);
    assert_int_equal(a.n_tokens, 24);
    assert_memory_equal(a.tokens, b.tokens, 24 * sizeof *a.tokens);
    assert_memory_not_equal(a.tokens, c.tokens, 24 * sizeof *a.tokens);
    zmlx_generation_clear(&a);
    zmlx_generation_clear(&b);
    zmlx_generation_clear(&c);
}

static void refused(const int32_t *tokens, size_t n_tokens, const char *message) {
    zmlx_generation result;
    zmlx_error error;
    assert_int_equal(zmlx_generate(&result, model, tokens, n_tokens, NULL, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, "prompt");
    assert_non_null(strstr(error.message, message));
    assert_null(result.tokens);
}

static void test_refusals(void **state) {
    (void)state;
    refused(prompt, 0, "empty");
    refused((int32_t[]){1, 4096}, 2, "token 1 is 4096");
    refused((int32_t[]){-1}, 1, "token 0 is -1");
    int32_t *longer = calloc(5000, sizeof *longer);
    refused(longer, 5000, "do not fit the model's context of 4096");
    free(longer);
}

static void not_loaded(const char *folder, zmlx_model_options options, const char *where) {
    zmlx_model *other;
    zmlx_error error;
    assert_int_equal(zmlx_model_load(&other, folder, &options, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, where);
    assert_null(other);
}

static void test_wrong_options(void **state) {
    (void)state;
    not_loaded(NULL, (zmlx_model_options){0}, "folder");
    not_loaded(MODEL_FOLDER, (zmlx_model_options){.device = (zmlx_device)99}, "device");
    not_loaded(MODEL_FOLDER, (zmlx_model_options){.dtype = (zmlx_dtype)99}, "dtype");
    zmlx_decoder *decoder;
    assert_int_equal(zmlx_decoder_new(&decoder, NULL, NULL), ZMLX_ERROR_ARGUMENT);
    assert_null(decoder);
}

/* Of a model whose last norm has a weight that is NaN. */
static void test_no_token_without_numbers(void **state) {
    (void)state;
    mlx_array *weight = &model->root->decoder->norm->weight, right = mlx_array_new();
    mlx_array_set(&right, *weight);
    zm_scope scope;
    zm_scope_begin(&scope, model->stream);
    float values[1024];
    int size = zm_dim(right, 0);
    for (int i = 0; i < size; i++) values[i] = i == 7 ? NAN : 1;
    zm_scope_keep(&scope, weight, zm_from_data(&scope, values, &size, 1, MLX_FLOAT32));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    for (int i = 0; i < 4; i++) {
        zmlx_generation result;
        zmlx_error error;
        zmlx_generate_options options = {.max_tokens = 8, .temperature = i & 1};
        const zmlx_patch_report *report;
        if (i & 2) assert_int_equal(zmlx_patch(&report, model, NULL, NULL), ZMLX_OK);
        assert_int_equal(zmlx_generate(&result, model, prompt, n_prompt, &options, &error), ZMLX_ERROR_FORMAT);
        assert_string_equal(error.where, "model");
        assert_non_null(strstr(error.message, "logits of token 0 are NaN or infinite"));
        assert_null(result.tokens);
    }
    zmlx_unpatch(model);
    mlx_array_set(weight, right);
    mlx_array_free(right);
}

static size_t resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file) return 0;
    if (fscanf(file, "%*s %ld", &pages) != 1) pages = 0;
    fclose(file);
    return (size_t)pages * (size_t)sysconf(_SC_PAGESIZE);
}

/* Sanitizers keep freed memory on purpose. */
enum { N_GENERATIONS = SANITIZED ? 100 : 1000 };

static void test_generations_in_flat_memory(void **state) {
    (void)state;
    const zmlx_patch_report *report;
    assert_int_equal(zmlx_patch(&report, model, NULL, NULL), ZMLX_OK);
    size_t active = 0, resident = 0;
    for (int i = 0; i <= N_GENERATIONS; i++) {
        zmlx_generation result;
        zmlx_generate_options options = {.max_tokens = 2};
        assert_int_equal(zmlx_generate(&result, model, prompt, 3, &options, NULL), ZMLX_OK);
        zmlx_generation_clear(&result);
        if (i == N_GENERATIONS / 5) {
            mlx_get_active_memory(&active);
            resident = resident_bytes();
        }
    }
    size_t active_at_end = 0;
    mlx_get_active_memory(&active_at_end);
    assert_int_equal(active_at_end, active);
    /* One leaked array a generation would be 0.2 MB at least. */
    assert_true(SANITIZED || resident_bytes() < resident + (200 << 10));
    zmlx_unpatch(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tokens_of_mlx_lm),
        cmocka_unit_test(test_session_pieces),
        cmocka_unit_test(test_prompt_progress),
        cmocka_unit_test(test_cancelled_by_the_caller),
        cmocka_unit_test(test_several_choices_a_call),
        cmocka_unit_test(test_seeded_sampling_repeats),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_wrong_options),
        cmocka_unit_test(test_no_token_without_numbers),
        cmocka_unit_test(test_generations_in_flat_memory),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
