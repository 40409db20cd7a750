/* SPDX-License-Identifier: MIT */
/* NULL where the public functions need an object or an array: an error that names it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>

#include "demonstration_model.h"

static void expect_null(zmlx_status status, const char *where) {
    assert_int_equal(status, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.where, where);
    assert_string_equal(error.message, "it is NULL");
}

static void test_models(void **state) {
    (void)state;
    const int32_t token = 1;
    zmlx_model *unmade;
    zmlx_session *session;
    zmlx_generation generation;
    zmlx_validation validation;
    zmlx_smart_report report;
    expect_null(zmlx_model_load(&unmade, NULL, NULL, &error), "folder");
    expect_null(zmlx_session_new(&session, NULL, &error), "model");
    assert_null(session);
    expect_null(zmlx_session_feed(NULL, &token, 1, NULL, false, &error), "session");
    expect_null(zmlx_generate(&generation, NULL, &token, 1, NULL, &error), "model");
    expect_null(zmlx_generate(&generation, model, NULL, 1, NULL, &error), "prompt");
    expect_null(zmlx_patch(NULL, NULL, NULL, &error), "model");
    expect_null(zmlx_smart_patch(&report, NULL, NULL, &error), "model");
    expect_null(zmlx_validate(&validation, NULL, &token, 1, NULL, &error), "model");
    static const char *const nameless[] = {NULL};
    const zmlx_patch_options no_name = {.patterns = nameless, .n_patterns = 1};
    const zmlx_patch_options no_list = {.n_exclude = 1}, no_excluded = {.exclude = nameless, .n_exclude = 1};
    expect_null(zmlx_patch(NULL, model, &no_name, &error), "patterns");
    expect_null(zmlx_patch(NULL, model, &no_list, &error), "exclude");
    expect_null(zmlx_patch(NULL, model, &no_excluded, &error), "patterns");
    expect_null(zmlx_smart_patch(&report, model, &(zmlx_smart_patch_options){.n_exclude = 1}, &error), "exclude");
    check(zmlx_session_new(&session, model, &error));
    expect_null(zmlx_session_feed(session, NULL, 1, NULL, false, &error), "tokens");
    /* Refused before they are read. */
    assert_int_equal(zmlx_session_feed(session, &token, (size_t)1 << 32, NULL, false, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "4294967296 are too many");
    check(zmlx_session_feed(session, &token, 1, NULL, false, &error));
    zmlx_session_free(session);
}

static void test_kernels(void **state) {
    (void)state;
    mlx_array x = mlx_array_new_float32(1), y = {NULL};
    mlx_stream stream = mlx_default_cpu_stream_new();
    zmlx_kernel *kernel;
    check(zmlx_elementwise(&kernel, NULL, "x + 1", NULL, &error));
    expect_null(zmlx_kernel_apply(NULL, &y, &x, 1, stream, &error), "kernel");
    expect_null(zmlx_kernel_apply(kernel, NULL, &x, 1, stream, &error), "outputs");
    expect_null(zmlx_kernel_apply(kernel, &y, NULL, 1, stream, &error), "inputs");
    expect_null(zmlx_kernel_apply_gradient(NULL, &y, &x, 1, &x, 1, NULL, stream, &error), "kernel");
    expect_null(zmlx_kernel_apply_gradient(kernel, NULL, &x, 1, &x, 1, NULL, stream, &error), "gradients");
    expect_null(zmlx_kernel_apply_gradient(kernel, &y, NULL, 1, &x, 1, NULL, stream, &error), "inputs");
    expect_null(zmlx_kernel_apply_gradient(kernel, &y, &x, 1, NULL, 1, NULL, stream, &error), "cotangents");
    expect_null(zmlx_catalog_apply("silu", NULL, &x, 1, NULL, stream, &error), "outputs");
    expect_null(zmlx_catalog_apply("silu", &y, NULL, 1, NULL, stream, &error), "inputs");
    expect_null(zmlx_catalog_apply_gradient("silu", NULL, &x, 1, &x, NULL, stream, &error), "gradients");
    expect_null(zmlx_catalog_apply_gradient("silu", &y, NULL, 1, &x, NULL, stream, &error), "inputs");
    expect_null(zmlx_catalog_apply_gradient("silu", &y, &x, 1, NULL, NULL, stream, &error), "cotangents");
    assert_null(y.ctx);
    zmlx_kernel_free(kernel);
    mlx_array_free(x);
    mlx_stream_free(stream);
}

/* What gives no status says nothing of an object that is none. */
static void test_questions(void **state) {
    (void)state;
    assert_null(zmlx_model_get_info(NULL));
    assert_null(zmlx_model_tokenizer(NULL));
    assert_false(zmlx_model_is_eos(NULL, 1));
    assert_int_equal(zmlx_session_length(NULL), 0);
    assert_null(zmlx_patch_get_report(NULL));
    assert_null(zmlx_patch_report_text(NULL, true));
    assert_int_equal(zmlx_tokenizer_vocab_size(NULL), 0);
    assert_null(zmlx_tokenizer_token_text(NULL, 0));
    assert_int_equal(zmlx_tokenizer_token_id(NULL, "a"), -1);
    assert_int_equal(zmlx_tokenizer_bos(NULL), -1);
    assert_int_equal(zmlx_tokenizer_eos(NULL), -1);
    assert_int_equal(zmlx_arrays_count(NULL), 0);
    assert_null(zmlx_arrays_name(NULL, 0));
    assert_null(zmlx_arrays_get(NULL, "x").ctx);
    assert_null(zmlx_pattern_instead(NULL));
    zmlx_catalog_presets(NULL, NULL);
    zmlx_generation_clear(NULL);
    zmlx_validation_clear(NULL);
    zmlx_smart_report_clear(NULL);
}

static void test_texts_and_files(void **state) {
    (void)state;
    const int32_t token = 1;
    int32_t *tokens;
    char *text;
    const char *part;
    size_t size;
    zmlx_tokenizer *unmade;
    zmlx_arrays *arrays;
    const zmlx_tokenizer *tokenizer = zmlx_model_tokenizer(model);
    expect_null(zmlx_tokenizer_load(&unmade, NULL, &error), "folder");
    expect_null(zmlx_tokenizer_encode(NULL, &tokens, &size, "a", 1, true, &error), "tokenizer");
    expect_null(zmlx_tokenizer_encode(tokenizer, &tokens, &size, NULL, 1, true, &error), "text");
    expect_null(zmlx_tokenizer_encode_prompt(NULL, &tokens, &size, "a", 1, &error), "tokenizer");
    expect_null(zmlx_tokenizer_encode_prompt(tokenizer, &tokens, &size, NULL, 99, &error), "text");
    expect_null(zmlx_tokenizer_decode(NULL, &text, &size, &token, 1, true, &error), "tokenizer");
    expect_null(zmlx_tokenizer_decode(tokenizer, &text, &size, NULL, 1, true, &error), "tokens");
    expect_null(zmlx_decoder_push(NULL, &part, &size, 1, &error), "decoder");
    expect_null(zmlx_decoder_finish(NULL, &part, &size, &error), "decoder");
    check(zmlx_tokenizer_encode(tokenizer, &tokens, &size, NULL, 0, false, &error));
    assert_non_null(tokens);
    assert_int_equal(size, 0);
    free(tokens);
    expect_null(zmlx_arrays_load(&arrays, NULL, &error), "path");
    expect_null(zmlx_arrays_save(NULL, NULL, NULL, 0, &error), "path");
    expect_null(zmlx_arrays_save("/dev/null", NULL, NULL, 1, &error), "names");
    expect_null(zmlx_arrays_save("/dev/null", &(const char *){NULL}, &(mlx_array){NULL}, 1, &error), "names");
    uint64_t bytes;
    expect_null(zmlx_synth(&bytes, NULL, "folder", NULL, &error), "shape");
    expect_null(zmlx_synth(&bytes, "lfm2-8b-a1b", NULL, NULL, &error), "folder");
}

static void test_tools(void **state) {
    (void)state;
    mlx_stream stream = {NULL};
    zmlx_kernel_info info;
    zmlx_kernel *gradient;
    zmlx_comparison comparison;
    zmlx_model_bench bench;
    zmlx_moe_bench_row row;
    zmlx_catalog_value values[1];
    const zmlx_catalog_entry *entry = zmlx_catalog_find("rmsnorm");
    double worst;
    char *text;
    expect_null(zmlx_kernel_get_info(&info, NULL, &error), "kernel");
    assert_null(info.name);
    expect_null(zmlx_kernel_gradient(&gradient, NULL, &error), "kernel");
    expect_null(zmlx_kernel_emit(&text, NULL, "c", MLX_FLOAT32, &error), "kernel");
    expect_null(zmlx_kernel_check_gradient(&worst, NULL, &error), "kernel");
    expect_null(zmlx_assert_matches(NULL, NULL, NULL, stream, &error), "kernel");
    expect_null(zmlx_assert_gradient_matches(NULL, NULL, NULL, stream, &error), "kernel");
    expect_null(zmlx_bench_kernel(&comparison, NULL, NULL, 0, MLX_FLOAT32, NULL, ZMLX_BENCH_MLX, stream, NULL, &error),
                "kernel");
    expect_null(zmlx_bench_catalog(&comparison, "silu", NULL, 1, NULL, stream, NULL, &error), "shape");
    expect_null(zmlx_bench_model(&bench, NULL, NULL, &error), "model");
    expect_null(zmlx_bench_moe(&row, NULL, 1, NULL, &error), "model");
    expect_null(zmlx_catalog_set(values, NULL, "eps", "1", &error), "entry");
    expect_null(zmlx_catalog_set(values, entry, NULL, "1", &error), "name");
    expect_null(zmlx_catalog_set(values, entry, "eps", NULL, &error), "text");
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models), cmocka_unit_test(test_kernels),
                                       cmocka_unit_test(test_questions), cmocka_unit_test(test_texts_and_files),
                                       cmocka_unit_test(test_tools)};
    return cmocka_run_group_tests(tests, load_model, free_model);
}
