/* SPDX-License-Identifier: MIT */
/* Synthetic checkpoints: complete, the same for the same seed, of the promised size; refusals leave nothing.
 */
#include "checkpoint_folder.h"

#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <sys/resource.h>

#include "mlx/streams.h"
#include "model/checkpoint.h"
#include "zmlx/model.h"
#include "zmlx/synth.h"

static const char tiny[] =
    "{\"model_type\": \"qwen3_moe\", \"vocab_size\": 300, \"hidden_size\": 128, \"num_hidden_layers\": 3,"
    "\"intermediate_size\": 96, \"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 64,"
    "\"num_experts\": 4, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 64, \"mlp_only_layers\": [1, "
    "2],"
    "\"decoder_sparse_step\": 1, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000.0, \"norm_topk_prob\": true,"
    "\"max_position_embeddings\": 256, \"tie_word_embeddings\": false, \"quantization\": {\"bits\": 3}}";

static char shape[TEMPORARY_SIZE + 20], target[TEMPORARY_SIZE + 20];

static int make_shape(void **state) {
    if (make_folder(state)) return -1;
    snprintf(shape, sizeof shape, "%s/config.json", folder);
    snprintf(target, sizeof target, "%s/model", folder);
    FILE *file = fopen(shape, "wb");
    if (!file) return -1;
    fputs(tiny, file);
    return fclose(file);
}

static int count_items(const char *path) {
    DIR *directory = opendir(path);
    int count = -2;
    while (directory && readdir(directory)) count++;
    if (directory) closedir(directory);
    return count;
}

static void synthesise(const zmlx_synth_options *options) {
    zmlx_error error = {0};
    uint64_t size;
    if (zmlx_synth(&size, shape, target, options, &error)) fail_msg("%s: %s", error.where, error.message);
    char path[256];
    struct stat info;
    snprintf(path, sizeof path, "%s/model.safetensors", target);
    assert_int_equal(stat(path, &info), 0);
    assert_int_equal((uint64_t)info.st_size, size);
}

static zm_checkpoint *open_target(mlx_stream stream) {
    zm_checkpoint *checkpoint;
    zmlx_error error = {0};
    if (zm_checkpoint_open(&checkpoint, target, MLX_FLOAT32, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    return checkpoint;
}

static void take(zm_weight *weight, zm_checkpoint *checkpoint, const char *path, int experts, int out,
                 int in) {
    zmlx_error error = {0};
    *weight = (zm_weight){.in_features = in, .out_features = out, .n_experts = experts};
    if (zm_checkpoint_take_weight(weight, checkpoint, path, false, &error))
        fail_msg("%s: %s", error.where, error.message);
}

static void free_weight(zm_weight *weight) {
    mlx_array_free(weight->weight);
    mlx_array_free(weight->scales);
    mlx_array_free(weight->biases);
}

/* Mean 0 and mean square gain^2 / in of the dense matrix, within sampling error: up to a fifth of the mean square is an
 * offset that a group's numbers share, so that their mean is as uncertain as that of fewer. */
static void check_moments(const zm_weight *weight, mlx_stream stream, double gain) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array dense = weight->weight, kept = {0};
    if (zm_weight_is_quantized(weight))
        dense = zm_dequantize(&scope, dense, weight->scales, weight->biases, weight->quantization);
    zm_scope_keep(&scope, &kept, dense);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    assert_int_equal(mlx_array_eval(kept), 0);
    const float *values = mlx_array_data_float32(kept);
    size_t count = mlx_array_size(kept);
    double sum = 0, squares = 0, expected = gain * gain / weight->in_features;
    for (size_t i = 0; i < count; i++)
        sum += (double)values[i], squares += (double)values[i] * (double)values[i];
    double n = (double)count, shared = zm_weight_is_quantized(weight) ? weight->quantization.group_size / 5.0 : 0;
    assert_true(fabs(sum / n) < 5 * sqrt(expected / n * (1 + shared)));
    assert_true(fabs(squares / n / expected - 1) < 0.1);
    mlx_array_free(kept);
}

static void check_tensors(int bits) {
    mlx_stream stream;
    assert_int_equal(zm_stream_new(&stream, MLX_CPU, NULL), ZMLX_OK);
    zm_checkpoint *checkpoint = open_target(stream);
    zm_weight weight;
    take(&weight, checkpoint, "model.embed_tokens", 0, 300, 128);
    assert_int_equal(weight.quantization.bits, bits == 16 ? 0 : bits);
    check_moments(&weight, stream, 1);
    free_weight(&weight);
    take(&weight, checkpoint, "model.layers.0.mlp.gate", 0, 4, 128);
    assert_int_equal(weight.quantization.bits, bits == 16 ? 0 : 8);
    free_weight(&weight);
    take(&weight, checkpoint, "model.layers.0.mlp.switch_mlp.up_proj", 4, 64, 128);
    check_moments(&weight, stream, 1);
    free_weight(&weight);
    take(&weight, checkpoint, "model.layers.1.mlp.down_proj", 0, 128,
         96); /* 96 is no multiple of 64: dense */
    assert_null(weight.quantization.mode);
    free_weight(&weight);
    assert_false(zm_checkpoint_has(checkpoint, "model.layers.2.input_layernorm.weight"));
    int64_t layers;
    zm_json_object config = zm_checkpoint_config(checkpoint);
    assert_int_equal(zm_json_int(&layers, config, "num_hidden_layers", 0, 99, NULL), ZMLX_OK);
    assert_int_equal(layers, 2);
    assert_int_equal(json_array_size(zm_json_get(config, "mlp_only_layers")), 1);
    zm_checkpoint_free(checkpoint);
    zm_stream_free(stream);
}

static void test_tensors_and_moments(void **state) {
    (void)state;
    static const int all_bits[] = {2, 3, 4, 5, 6, 8, 16};
    for (size_t i = 0; i < sizeof all_bits / sizeof all_bits[0]; i++) {
        synthesise(&(zmlx_synth_options){.bits = all_bits[i], .n_layers = 2});
        check_tensors(all_bits[i]);
        assert_int_equal(count_items(folder), 2); /* no temporary folder is left */
        char command[256];
        snprintf(command, sizeof command, "%s/old", folder);
        assert_int_equal(rename(target, command), 0);
        temporary_remove(command);
    }
}

static uint64_t hash_target(void) {
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", target);
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    uint64_t hash = 14695981039346656037u;
    for (int byte; (byte = getc(file)) != EOF;) hash = (hash ^ (uint64_t)byte) * 1099511628211u;
    fclose(file);
    temporary_remove(target);
    return hash;
}

static void test_seed_decides_the_bytes(void **state) {
    (void)state;
    uint64_t hashes[3];
    char left[sizeof target + 64]; /* by a process of the same number */
    snprintf(left, sizeof left, "%s.%ld-0.tmp", target, (long)getpid());
    assert_int_equal(mkdir(left, 0700), 0);
    for (int i = 0; i < 3; i++) {
        synthesise(&(zmlx_synth_options){.seed = i == 2 ? 1 : 0});
        hashes[i] = hash_target();
    }
    assert_true(hashes[0] == hashes[1]);
    assert_true(hashes[0] != hashes[2]);
}

static void expect_refusal(const char *from, const char *to, zmlx_synth_options options, zmlx_status status,
                           const char *message) {
    zmlx_error error = {0};
    uint64_t size = 1;
    int before = count_items(folder);
    zmlx_status got = zmlx_synth(&size, from, to, &options, &error);
    if (got != status || !strstr(error.message, message))
        fail_msg("got %d \"%s\": \"%s\", expected \"%s\"", (int)got, error.where, error.message, message);
    assert_int_equal(size, 0);
    assert_int_equal(count_items(folder), before);
}

static bool stop_half_way(void *context, uint64_t done, uint64_t total) {
    (void)context;
    return done < total / 2;
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_synth_options none = {0};
    expect_refusal("gpt-17", target, none, ZMLX_ERROR_ARGUMENT, "lfm2-8b-a1b");
    expect_refusal(shape, folder, none, ZMLX_ERROR_FILE, "not empty");
    expect_refusal(shape, shape, none, ZMLX_ERROR_FILE, "no empty folder");
    expect_refusal(shape, "/nonexistent/a/b", none, ZMLX_ERROR_FILE, "cannot write");
    expect_refusal(shape, target, (zmlx_synth_options){.bits = 7}, ZMLX_ERROR_ARGUMENT, "got 7");
    expect_refusal(shape, target, (zmlx_synth_options){.group_size = 48}, ZMLX_ERROR_ARGUMENT, "got 48");
    expect_refusal(shape, target, (zmlx_synth_options){.n_layers = 4}, ZMLX_ERROR_ARGUMENT, "more than");
    expect_refusal(shape, target, (zmlx_synth_options){.vocab_size = 10}, ZMLX_ERROR_ARGUMENT,
                   "at least 259");
    expect_refusal("lfm2-8b-a1b", target, (zmlx_synth_options){.n_layers = 2}, ZMLX_ERROR_ARGUMENT,
                   "has attention");
    expect_refusal("gpt-oss-20b", target, (zmlx_synth_options){.n_layers = 1}, ZMLX_ERROR_ARGUMENT,
                   "2 layers");
    expect_refusal(shape, target, (zmlx_synth_options){.progress = stop_half_way}, ZMLX_ERROR_CANCELLED,
                   "stopped");
    write_text("config.json",
               "{\"model_type\": \"unheard_of\", \"num_hidden_layers\": 1, \"vocab_size\": 300}");
    expect_refusal(shape, target, none, ZMLX_ERROR_UNSUPPORTED, "\"unheard_of\"");
    write_text("config.json", "{\"model_type\": \"llama\", \"num_hidden_layers\": 1, \"vocab_size\": 300}");
    expect_refusal(shape, target, none, ZMLX_ERROR_FORMAT, "missing");
}

static const char tiny_gpt_oss[] =
    "{\"model_type\":\"gpt_oss\",\"vocab_size\":300,\"hidden_size\":64,\"num_hidden_layers\":%d,%s"
    "\"intermediate_size\":64,\"num_attention_heads\":8,\"num_local_experts\":4,"
    "\"num_experts_per_tok\":2,\"sliding_window\":8}";
static const char tiny_lfm2[] =
    "{\"model_type\":\"lfm2\",\"vocab_size\":300,\"hidden_size\":64,\"num_hidden_layers\":1,"
    "\"intermediate_size\":64,\"num_attention_heads\":2,\"norm_eps\":1e-5,\"conv_bias\":false,"
    "\"conv_L_cache\":3,\"block_dim\":64,\"block_multiple_of\":64,\"block_auto_adjust_ff_dim\":false,"
    "\"layer_types\":[\"full_attention\"]}";
/* The family does not look at decoder_sparse_step and mlp_only_layers. */
static const char tiny_mixtral[] =
    "{\"model_type\":\"mixtral\",\"vocab_size\":300,\"hidden_size\":64,\"num_hidden_layers\":1,"
    "\"decoder_sparse_step\":2,\"mlp_only_layers\":[0],"
    "\"intermediate_size\":64,\"num_attention_heads\":8,\"head_dim\":32,\"num_local_experts\":4}";
static const char tiny_qwen3_next[] =
    "{\"model_type\": \"qwen3_next\", \"vocab_size\": 300, \"hidden_size\": 128, \"num_hidden_layers\": 4,"
    "\"num_attention_heads\": 2, \"num_key_value_heads\": 1, \"head_dim\": 64, \"intermediate_size\": 192,"
    "\"max_position_embeddings\": 4096, \"rms_norm_eps\": 1e-6, \"rope_theta\": 10000, \"partial_rotary_factor\": 0.25,"
    "\"full_attention_interval\": 2, \"linear_num_key_heads\": 2, \"linear_num_value_heads\": 4,"
    "\"linear_key_head_dim\": 32, \"linear_value_head_dim\": 48, \"linear_conv_kernel_dim\": 4,"
    "\"num_experts\": 4, \"num_experts_per_tok\": 2, \"moe_intermediate_size\": 64, \"decoder_sparse_step\": 1,"
    "\"mlp_only_layers\": [0], \"shared_expert_intermediate_size\": 96, \"attention_bias\": true}";
#define QWEN3_5 \
    "\"vocab_size\":300,\"hidden_size\":64,\"num_hidden_layers\":4,\"num_attention_heads\":8,\"head_dim\":16,"  \
    "\"full_attention_interval\":2,\"linear_num_key_heads\":2,\"linear_num_value_heads\":2,"                 \
    "\"linear_key_head_dim\":16,\"linear_value_head_dim\":32,\"linear_conv_kernel_dim\":3,"                  \
    "\"tie_word_embeddings\":true"
static const char tiny_qwen3_5[] = "{\"model_type\":\"qwen3_5\",\"intermediate_size\":64," QWEN3_5 "}";
static const char tiny_qwen3_5_moe[] =
    "{\"model_type\":\"qwen3_5_moe\",\"text_config\":{\"num_experts\":4,\"num_experts_per_tok\":2,"
    "\"mlp_only_layers\":[1],\"moe_intermediate_size\":32,\"shared_expert_intermediate_size\":64," QWEN3_5 "}}";
/* The family does not look at moe_layer_freq. */
#define GLM4_MOE(head_dim)                                                                                       \
    "{\"model_type\":\"glm4_moe\",\"vocab_size\":300,\"hidden_size\":64,\"intermediate_size\":64,"               \
    "\"num_hidden_layers\":2,\"moe_intermediate_size\":32,\"n_routed_experts\":4,\"n_shared_experts\":1,"          \
    "\"num_experts_per_tok\":2,\"n_group\":2,\"topk_group\":1,\"norm_topk_prob\":true,"                           \
    "\"routed_scaling_factor\":1.5,\"first_k_dense_replace\":1,\"moe_layer_freq\":2,\"num_attention_heads\":2,"    \
    "\"num_key_value_heads\":1,\"head_dim\":" head_dim ",\"attention_bias\":false,\"use_qk_norm\":true,"          \
    "\"partial_rotary_factor\":0.5,\"rms_norm_eps\":1e-5,\"rope_theta\":10000}"
static const char tiny_glm4_moe[] = GLM4_MOE("32");
static const char tiny_mistral[] =
    "{\"model_type\":\"mistral\",\"vocab_size\":300,\"hidden_size\":64,\"num_hidden_layers\":3,"
    "\"intermediate_size\":64,\"num_attention_heads\":4,\"rms_norm_eps\":0,\"sliding_window\":8,"
    "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"]}";

/* Synthesises config and feeds a prompt to the loaded model; returns its context. */
static int expect_loads(const char *config, int n_layers) {
    write_text("config.json", config);
    synthesise(&(zmlx_synth_options){.n_layers = n_layers, .group_size = 32});
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU, .n_threads = 1};
    zmlx_model *model;
    zmlx_session *session;
    zmlx_error error = {0};
    float logits[300];
    if (zmlx_model_load(&model, target, &options, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(zmlx_session_new(&session, model, &error), ZMLX_OK);
    assert_int_equal(zmlx_session_feed(session, (int32_t[]){1, 40, 41}, 3, logits, false, &error), ZMLX_OK);
    for (int i = 0; i < 300; i++) assert_true(isfinite(logits[i]));
    int context = zmlx_model_get_info(model)->max_position_embeddings;
    zmlx_session_free(session);
    zmlx_model_free(model);
    temporary_remove(target);
    return context;
}

/* Fields that a config leaves out, and layers cut to a number of another kind. */
static void test_what_is_written_loads(void **state) {
    (void)state;
    char config[512];
    snprintf(config, sizeof config, tiny_gpt_oss, 3, "");
    expect_loads(config, 0);
    snprintf(config, sizeof config, tiny_gpt_oss, 4, "");
    expect_loads(config, 3);
    snprintf(config, sizeof config, tiny_gpt_oss, 3,
             "\"layer_types\":[\"full_attention\",\"sliding_attention\",\"full_attention\"],");
    expect_loads(config, 2);
    expect_loads(tiny_mixtral, 0);
    expect_loads(tiny_mistral, 2);
    expect_loads(tiny_qwen3_next, 2);
    expect_loads(tiny_qwen3_5, 2);
    expect_loads(tiny_qwen3_5_moe, 3);
    expect_loads(tiny_glm4_moe, 0);
    expect_loads(tiny, 3);
}

/* Of llama text_config is nothing, of qwen3_5 the language model. */
static void test_context(void **state) {
    (void)state;
    char config[1024];
    snprintf(config, sizeof config, "{\"max_position_embeddings\":64,\"text_config\":{},%s", tiny_mistral + 1);
    assert_int_equal(expect_loads(config, 0), 64);
    snprintf(config, sizeof config, "{\"model_type\":\"qwen3_5\",\"text_config\":{\"max_position_embeddings\":32,%s}",
             tiny_qwen3_5 + strlen("{\"model_type\":\"qwen3_5\","));
    assert_int_equal(expect_loads(config, 0), 32);
}

/* What the family would refuse when loading is refused before anything is written. */
static void test_refuses_what_would_not_load(void **state) {
    (void)state;
    static const struct {
        const char *config, *key, *value; /* value NULL: without it */
        const char *where, *message;
    } cases[] = {
        {tiny, "rms_norm_eps", NULL, "rms_norm_eps", "missing"},
        {tiny, "rope_theta", "1e-60", "rope_theta", "greater than 0"},
        {tiny, "num_hidden_layers", "1025", "num_hidden_layers", "from 1 to 1024"},
        {tiny, "head_dim", "63", "head_dim", "odd"},
        {tiny, "max_position_embeddings", "0", "max_position_embeddings", "integer from 1"},
        {tiny, "model_file", "\"own.py\"", "config.json", "own code"},
        {tiny_mistral, "num_attention_heads", "5", "num_attention_heads", "does not divide"},
        {tiny_mistral, "num_key_value_heads", "3", "num_key_value_heads", "does not divide"},
        {tiny_mistral, "layer_types", "[\"full_attention\"]", "layer_types", "1 entries for 3 layers"},
        {tiny_mistral, "rope_scaling", "{\"type\":\"linear\"}", "rope_scaling: factor", "number"},
        {tiny_lfm2, "block_dim", "128", "block_dim", "differs from hidden_size"},
        {tiny_mixtral, "model_type", "\"gpt_oss\"", "layer_types", "needs both"}, /* of one layer */
        {GLM4_MOE("1048576"), "num_key_value_heads", "4096", "config.json", "its heads are too large"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *config = json_loads(cases[i].config, 0, NULL);
        assert_non_null(config);
        json_object_del(config, cases[i].key);
        if (cases[i].value)
            json_object_set_new(config, cases[i].key, json_loads(cases[i].value, JSON_DECODE_ANY, NULL));
        char *text = json_dumps(config, 0);
        write_text("config.json", text);
        zmlx_error error = {0};
        uint64_t size;
        int before = count_items(folder);
        if (!zmlx_synth(&size, shape, target, NULL, &error))
            fail_msg("%s: written; expected \"%s\"", cases[i].where, cases[i].message);
        if (!strstr(error.where, cases[i].where) || !strstr(error.message, cases[i].message))
            fail_msg("got \"%s\": \"%s\", expected \"%s\": \"%s\"", error.where, error.message,
                     cases[i].where, cases[i].message);
        assert_int_equal(count_items(folder), before);
        free(text);
        json_decref(config);
    }
}

/* A file that cannot grow stands for a full disk. */
static void test_disk_full(void **state) {
    (void)state;
    struct rlimit old, limited;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    limited = old;
    limited.rlim_cur = 100000;
    void (*previous)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limited), 0);
    zmlx_error error = {0};
    uint64_t size;
    zmlx_status status = zmlx_synth(&size, shape, target, NULL, &error);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, previous);
    assert_int_equal(status, ZMLX_ERROR_FILE);
    assert_non_null(strstr(error.message, "cannot write"));
    assert_int_equal(count_items(folder), 1);
}

static void test_shape_names(void **state) {
    (void)state;
    assert_string_equal(zmlx_synth_shape_name(0), "lfm2-8b-a1b");
    int count = 0;
    while (zmlx_synth_shape_name(count)) count++;
    assert_int_equal(count, 8);
    assert_null(zmlx_synth_shape_name(-1));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_shape, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_tensors_and_moments),         TEST(test_seed_decides_the_bytes),
        TEST(test_refusals),                    TEST(test_what_is_written_loads),
        TEST(test_refuses_what_would_not_load), TEST(test_disk_full),
        TEST(test_context),
        cmocka_unit_test(test_shape_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
