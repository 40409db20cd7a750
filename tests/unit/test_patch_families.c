/* SPDX-License-Identifier: MIT */
/* Every family with random weights: patched and unpatched give the same tokens and nearly the same logits.
 * The rows of patterns.def name this test. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "zmlx/synth.h"
#include "zmlx/validate.h"
#include "sanitized.h"
#include "temporary.h"

/* Prompts that the patched modules serve and that they leave to the standard operations; tokens behind each beyond what
 * windows and rotations begin with, 32, which sanitizers see behind the long one. */
enum { SHORT_PROMPT = 12, LONG_PROMPT = 40, N_TOKENS = SANITIZED ? 4 : 26 };

#define WIDTHS                                                                                  \
    "\"hidden_size\":128,\"vocab_size\":320,\"num_hidden_layers\":4,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"intermediate_size\":192,\"eos_token_id\":2,"
#define LONG "\"max_position_embeddings\":4096,"
#define SIZES WIDTHS LONG
#define LFM2                                                                                 \
    SIZES "\"norm_eps\":1e-5,\"conv_bias\":false,\"conv_L_cache\":3,\"rope_theta\":50000.0," \
          "\"layer_types\":[\"conv\",\"full_attention\",\"conv\",\"full_attention\"],"

#define LATENT                                                                                         \
    "\"kv_lora_rank\":64,\"qk_nope_head_dim\":64,\"qk_rope_head_dim\":16,\"v_head_dim\":64,\"rms_norm_eps\":1e-5," \
    "\"rope_theta\":100000.0,"
#define GROUPED                                                                                          \
    "\"moe_intermediate_size\":64,\"n_routed_experts\":8,\"num_experts_per_tok\":3,\"n_shared_experts\":1," \
    "\"n_group\":4,\"topk_group\":2,\"norm_topk_prob\":true,\"routed_scaling_factor\":1.5,"                \
    "\"first_k_dense_replace\":1,"

#define DELTA_NET                                                                                            \
    "\"head_dim\":32,\"rms_norm_eps\":1e-6,\"full_attention_interval\":2,\"linear_num_key_heads\":2,"           \
    "\"linear_num_value_heads\":4,\"linear_key_head_dim\":32,\"linear_value_head_dim\":32,"                     \
    "\"linear_conv_kernel_dim\":4,"
#define SHARED_EXPERT                                                                                   \
    "\"num_experts\":8,\"num_experts_per_tok\":3,\"moe_intermediate_size\":64,\"norm_topk_prob\":true," \
    "\"shared_expert_intermediate_size\":96,"

enum { N_COUNTED = 11 };
static const char *const counted[N_COUNTED] = {"swiglu_mlp", "geglu_mlp", "moe_mlp",
                                               "short_conv", "delta_net", "attention",
                                               "rmsnorm", "quantized_linear", "lm_head",
                                               "decoder_block", "add_rms_norm"};

typedef struct family_case {
    const char *config;
    int counts[N_COUNTED]; /* in the order of counted */
    int skipped;           /* modules that a pattern refuses */
} family_case;

/* Linear maps outside patched modules: the output projection. Norms: 2 a layer, 2 an attention of some, the last. */
static const family_case cases[] = {
    {"{\"model_type\":\"lfm2_moe\"," LFM2 "\"moe_intermediate_size\":64,\"num_experts\":8,"
     "\"num_experts_per_tok\":3,\"norm_topk_prob\":true,\"use_expert_bias\":true,\"num_dense_layers\":1}",
     {1, 0, 3, 2, 0, 2, 13, 1, 1, 5}, 0},
    {"{\"model_type\":\"lfm2\"," LFM2 "\"block_dim\":128,\"block_ff_dim\":192,\"block_multiple_of\":64,"
     "\"block_ffn_dim_multiplier\":1.0,\"block_auto_adjust_ff_dim\":false}",
     {4, 0, 0, 2, 0, 2, 13, 1, 1, 5}, 0},
    {"{\"model_type\":\"llama\"," SIZES "\"rms_norm_eps\":1e-5,\"tie_word_embeddings\":true}",
     {4, 0, 0, 0, 0, 4, 9, 1, 1, 5}, 0},
    {"{\"model_type\":\"qwen3\"," SIZES "\"rms_norm_eps\":1e-6,\"head_dim\":32,\"rope_theta\":1000000.0,"
     "\"tie_word_embeddings\":true}",
     {4, 0, 0, 0, 0, 4, 17, 1, 1, 5}, 0},
    {"{\"model_type\":\"qwen3_moe\"," SIZES "\"rms_norm_eps\":1e-6,\"head_dim\":32,\"rope_theta\":1000000.0,"
     "\"tie_word_embeddings\":false,\"num_experts\":8,\"num_experts_per_tok\":2,\"decoder_sparse_step\":1,"
     "\"mlp_only_layers\":[1],\"moe_intermediate_size\":64,\"norm_topk_prob\":true}",
     {1, 0, 3, 0, 0, 4, 17, 1, 1, 5}, 0},
    {"{\"model_type\":\"mixtral\"," SIZES "\"rms_norm_eps\":1e-5,\"num_local_experts\":4,"
     "\"num_experts_per_tok\":2}",
     {0, 0, 4, 0, 0, 4, 9, 1, 1, 5}, 0},
    {"{\"model_type\":\"gpt_oss\"," SIZES "\"rms_norm_eps\":1e-5,\"head_dim\":32,\"num_local_experts\":8,"
     "\"num_experts_per_tok\":3,\"sliding_window\":32,\"rope_theta\":150000,\"rope_scaling\":{"
     "\"rope_type\":\"yarn\",\"factor\":32.0,\"beta_fast\":32.0,\"beta_slow\":1.0,"
     "\"original_max_position_embeddings\":128}}",
     {0, 0, 4, 0, 0, 4, 9, 1, 1, 5}, 0},
    /* The shared experts of each mixture are an MLP. */
    {"{\"model_type\":\"glm4_moe\"," SIZES GROUPED "\"rms_norm_eps\":1e-5,\"head_dim\":32,\"rope_theta\":1000000.0,"
     "\"use_qk_norm\":true,\"tie_word_embeddings\":false,\"attention_bias\":true,\"partial_rotary_factor\":0.5}",
     {4, 0, 3, 0, 0, 4, 17, 1, 1, 5}, 0},
    /* Latent attention has 1 or 2 norms, and is not part of a block's operation: 4 blocks and the decoder. */
    {"{\"model_type\":\"glm4_moe_lite\"," SIZES GROUPED LATENT "\"q_lora_rank\":128}",
     {4, 0, 3, 0, 0, 4, 17, 1, 1, 0, 4},
     5},
    {"{\"model_type\":\"deepseek_v3\"," SIZES GROUPED LATENT
     "\"q_lora_rank\":null,\"attention_bias\":true,\"rope_scaling\":{\"type\":\"yarn\",\"factor\":40,\"mscale\":1.0,"
     "\"mscale_all_dim\":1.0,\"original_max_position_embeddings\":32}}",
     {4, 0, 3, 0, 0, 4, 13, 1, 1, 0, 4},
     5},
    /* Norms of the delta nets' heads, too. */
    {"{\"model_type\":\"qwen3_next\"," SIZES DELTA_NET SHARED_EXPERT
     "\"decoder_sparse_step\":1,\"mlp_only_layers\":[1],\"rope_theta\":1000000.0,\"partial_rotary_factor\":0.25}",
     {4, 0, 3, 0, 2, 2, 15, 1, 1, 5},
     0},
    {"{\"model_type\":\"qwen3_5\"," SIZES DELTA_NET "\"tie_word_embeddings\":true,\"attention_bias\":true}",
     {4, 0, 0, 0, 2, 2, 15, 1, 1, 5},
     0},
    {"{\"model_type\":\"qwen3_5_moe\",\"text_config\":{" SIZES DELTA_NET SHARED_EXPERT
     "\"rope_parameters\":{\"rope_theta\":1000000.0,\"partial_rotary_factor\":0.5}}}",
     {4, 0, 4, 0, 2, 2, 15, 1, 1, 5},
     0},
};
enum { N_CASES = sizeof cases / sizeof *cases };

static char folder[TEMPORARY_SIZE], config_path[TEMPORARY_SIZE + 20], model_path[TEMPORARY_SIZE + 20];
static zmlx_error error;

static void check(zmlx_status status) {
    if (status) fail_msg("%s: %s", error.where, error.message);
}

static int set_up(void **state) {
    (void)state;
    if (!mkdtemp(temporary_template(folder))) return 1;
    snprintf(config_path, sizeof config_path, "%s/config.json", folder);
    snprintf(model_path, sizeof model_path, "%s/model", folder);
    return 0;
}

static void remove_model(void) {
    static const char *const names[] = {"config.json", "model.safetensors", "tokenizer.json",
                                        "tokenizer_config.json"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[256];
        snprintf(path, sizeof path, "%s/%s", model_path, names[i]);
        unlink(path);
    }
    rmdir(model_path);
}

static int tear_down(void **state) {
    (void)state;
    remove_model();
    unlink(config_path);
    return rmdir(folder);
}

static zmlx_model *make_model(const char *config, int bits) {
    FILE *file = fopen(config_path, "w");
    assert_non_null(file);
    fputs(config, file);
    assert_int_equal(fclose(file), 0);
    remove_model();
    zmlx_synth_options synth = {.bits = bits, .seed = 3};
    uint64_t size;
    check(zmlx_synth(&size, config_path, model_path, &synth, &error));
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU};
    zmlx_model *model;
    check(zmlx_model_load(&model, model_path, &options, &error));
    return model;
}

static void check_counts(const family_case *this, const zmlx_patch_count *counts, size_t n_counts, int bits) {
    for (int i = 0; i < N_COUNTED; i++) {
        int expected = bits == 16 && !strcmp(counted[i], "quantized_linear") ? 0 : this->counts[i], count = 0;
        for (size_t j = 0; j < n_counts; j++)
            if (!strcmp(counts[j].pattern, counted[i])) count = counts[j].count;
        assert_int_equal(count, expected);
    }
}

/* Asked for all patterns, proven or not: they find the family's modules of their kind and no others. */
static void check_matches(const family_case *this, zmlx_model *model, int bits) {
    const zmlx_patch_report *report;
    zmlx_patch_options options = {.patterns = counted, .n_patterns = N_COUNTED, .dry_run = true};
    check(zmlx_patch(&report, model, &options, &error));
    assert_int_equal(report->n_patterns, N_COUNTED);
    assert_int_equal(report->skipped_count, this->skipped);
    check_counts(this, report->counts, report->n_counts, bits);
}

/* without: a pattern that is left out, or NULL. */
static void validate_case(const family_case *this, int bits, size_t n_prompt, const char *without) {
    int32_t prompt[LONG_PROMPT];
    for (int i = 0; i < LONG_PROMPT; i++) prompt[i] = (57 * i + 1) % 320;
    zmlx_model *model = make_model(this->config, bits);
    check_matches(this, model, bits);
    zmlx_patch_options patch = {.exclude = &without, .n_exclude = without ? 1 : 0};
    zmlx_validate_options options = {.max_tokens = N_TOKENS, .n_runs = 1, .ignore_eos = true, .patch = &patch};
    zmlx_validation validation;
    check(zmlx_validate(&validation, model, prompt, n_prompt, &options, &error));
    const char *model_type = zmlx_model_get_info(model)->model_type;
    if (!validation.passed || validation.argmax_agree != N_TOKENS)
        fail_msg("%s, %d bits: %zu of %zu tokens, %zu of %d positions", model_type, bits, validation.matched,
                 validation.total, validation.argmax_agree, N_TOKENS);
    if (!(validation.max_abs_logit_diff > 0 && validation.max_abs_logit_diff < 1e-3))
        fail_msg("%s, %d bits: logits differ by %g", model_type, bits, validation.max_abs_logit_diff);
    if (!without) check_counts(this, validation.counts, validation.n_counts, bits);
    zmlx_validation_clear(&validation);
    zmlx_model_free(model);
}

static void test_quantised(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) validate_case(&cases[i], 4, LONG_PROMPT, NULL);
}

static void test_dense(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) validate_case(&cases[i], 16, SHORT_PROMPT, NULL);
}

/* The patterns of a block's parts, which a whole block leaves nothing to. */
static void test_parts(void **state) {
    (void)state;
    for (int i = 0; i < N_CASES; i++) validate_case(&cases[i], 4, SHORT_PROMPT, "decoder_block");
}

/* Every rule that turns a config into a rotation. */
static void test_rotations(void **state) {
    (void)state;
    static const char *const rules[] = {
        LONG "\"rope_traditional\":true",
        LONG "\"rope_scaling\":{\"rope_type\":\"linear\",\"factor\":4.0}",
        "\"max_position_embeddings\":24,\"rope_scaling\":{\"rope_type\":\"dynamic\",\"factor\":2.0}",
        LONG
        "\"rope_scaling\":{\"rope_type\":\"llama3\",\"factor\":8.0,\"low_freq_factor\":1.0,\"high_freq_factor\":4.0,"
        "\"original_max_position_embeddings\":32}",
        LONG "\"rope_scaling\":{\"rope_type\":\"yarn\",\"factor\":4.0,\"original_max_position_embeddings\":32}",
        LONG "\"rope_scaling\":{\"rope_type\":\"longrope\",\"original_max_position_embeddings\":32,\"long_factor\":"
             "[1,1.5,2,2.5,3,3.5,4,4.5,5,5.5,6,6.5,7,7.5,8,8.5]}",
        LONG "\"rope_scaling\":{\"rope_type\":\"proportional\",\"partial_rotary_factor\":0.5}",
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        char config[1024];
        snprintf(config, sizeof config, "{\"model_type\":\"llama\",%s%s,\"rms_norm_eps\":1e-5}", WIDTHS, rules[i]);
        validate_case(&(family_case){config, {4, 0, 0, 0, 0, 4, 9, 1, 1, 5}, 0}, 4, SHORT_PROMPT, NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_quantised),
        cmocka_unit_test(test_dense),
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_rotations),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
