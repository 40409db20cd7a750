/* SPDX-License-Identifier: MIT */
/* Checkpoint folders: what is read, what is refused and how the error names it. */
#include "checkpoint_folder.h"

#include "mlx/streams.h"
#include "model/checkpoint.h"

static mlx_stream stream;

static int open_stream(void **state) {
    (void)state;
    return (int)zm_stream_new(&stream, MLX_CPU, NULL);
}

static int close_stream(void **state) {
    (void)state;
    zm_stream_free(stream);
    return 0;
}

static zm_checkpoint *open_checkpoint(mlx_dtype dtype) {
    zm_checkpoint *checkpoint;
    zmlx_error error = {0};
    if (zm_checkpoint_open(&checkpoint, folder, dtype, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    return checkpoint;
}

static void expect_open_error(const char *path, zmlx_status status, const char *where, const char *message) {
    zm_checkpoint *checkpoint;
    zmlx_error error = {0};
    zmlx_status got = zm_checkpoint_open(&checkpoint, path, MLX_FLOAT32, stream, &error);
    if (got != status || !strstr(error.where, where) || !strstr(error.message, message))
        fail_msg("got %d \"%s\": \"%s\", expected %d \"%s\": \"%s\"", (int)got, error.where, error.message,
                 (int)status, where, message);
    assert_null(checkpoint);
}

static void expect_error(zmlx_status got, const zmlx_error *error, const char *message) {
    if (got != ZMLX_ERROR_FORMAT || !strstr(error->message, message))
        fail_msg("got %d \"%s\": \"%s\", expected \"%s\"", (int)got, error->where, error->message, message);
}

/* x: bfloat16 (2, 2) 1, -2, 0.5, 3; n: float16 (2,) 1, 2; c: uint32 (1,) 7 */
static const char entries[] = ENTRY("m.x", "BF16", "[2,2]", 0, 8) "," ENTRY(
    "m.n", "F16", "[2]", 8, 12) "," ENTRY("m.c", "U32", "[1]", 12, 16);
static const uint16_t data[] = {0x3f80, 0xc000, 0x3f00, 0x4040, 0x3c00, 0x4000, 7, 0};

static void write_small(void) {
    write_text("config.json", "{\"model_type\": \"llama\"}");
    write_tensors("model.safetensors", entries, data, sizeof data);
}

static void count_progress(void *context, uint64_t done, uint64_t total) {
    uint64_t *last = context;
    assert_true(done >= *last && done <= total);
    assert_int_equal(total, sizeof data);
    *last = done;
}

static void test_takes_tensors(void **state) {
    (void)state;
    write_small();
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    uint64_t progress = 0;
    zm_checkpoint_set_progress(checkpoint, count_progress, &progress);
    assert_int_equal(zm_checkpoint_count(checkpoint), 3);
    assert_int_equal(zm_checkpoint_stored_dtype(checkpoint), MLX_BFLOAT16);
    assert_true(zm_checkpoint_has(checkpoint, "m.x"));
    mlx_array x, n;
    assert_int_equal(zm_checkpoint_take(&x, checkpoint, "m.x", (int[]){2, 2}, 2, false, NULL), ZMLX_OK);
    assert_int_equal(mlx_array_dtype(x), MLX_FLOAT32);
    const float expected[] = {1, -2, 0.5f, 3};
    assert_memory_equal(mlx_array_data_float32(x), expected, sizeof expected);
    assert_false(zm_checkpoint_has(checkpoint, "m.x"));
    zm_checkpoint_set_dtype(checkpoint, MLX_BFLOAT16);
    assert_int_equal(zm_checkpoint_take(&n, checkpoint, "m.n", (int[]){2}, 1, false, NULL), ZMLX_OK);
    assert_int_equal(mlx_array_dtype(n), MLX_BFLOAT16);
    const uint16_t halves[] = {0x3f80, 0x4000};
    assert_memory_equal(mlx_array_data_uint16(n), halves, sizeof halves);
    assert_int_equal(progress, 12);

    zmlx_error error = {0};
    expect_error(zm_checkpoint_finish(checkpoint, &error), &error, "1 unexpected tensor: 'm.c'");
    assert_string_equal(error.where, folder);
    zm_checkpoint_remove(checkpoint, "m.c");
    assert_int_equal(zm_checkpoint_finish(checkpoint, &error), ZMLX_OK);
    assert_int_equal(progress, sizeof data);
    mlx_array_free(x);
    mlx_array_free(n);
    zm_checkpoint_free(checkpoint);
}

static void test_keeps_float32(void **state) {
    (void)state;
    write_small();
    zm_checkpoint *checkpoint = open_checkpoint(MLX_BFLOAT16);
    mlx_array n;
    assert_int_equal(zm_checkpoint_take(&n, checkpoint, "m.n", (int[]){2}, 1, true, NULL), ZMLX_OK);
    assert_int_equal(mlx_array_dtype(n), MLX_FLOAT32);
    mlx_array_free(n);
    zm_checkpoint_free(checkpoint);
}

static void test_take_checks(void **state) {
    (void)state;
    write_small();
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    mlx_array array;
    zmlx_error error = {0};
    expect_error(zm_checkpoint_take(&array, checkpoint, "m.x", (int[]){4}, 1, false, &error), &error,
                 "tensor 'm.x': expected shape (4,), got (2, 2)");
    assert_non_null(strstr(error.where, "model.safetensors"));
    assert_null(array.ctx);
    expect_error(zm_checkpoint_take(&array, checkpoint, "m.x", (int[]){2, 3}, 2, false, &error), &error,
                 "expected shape (2, 3), got (2, 2)");
    expect_error(zm_checkpoint_take(&array, checkpoint, "m.c", (int[]){1}, 1, false, &error), &error,
                 "tensor 'm.c': expected a floating-point type, got uint32");
    expect_error(zm_checkpoint_take(&array, checkpoint, "m.y", (int[]){1}, 1, false, &error), &error,
                 "tensor 'm.y' is missing");
    expect_error(zm_checkpoint_finish(checkpoint, &error), &error, "3 unexpected tensors: ");
    zm_checkpoint_set_dtype(checkpoint, (mlx_dtype)15); /* a conversion that MLX refuses */
    assert_int_equal(zm_checkpoint_take(&array, checkpoint, "m.n", (int[]){2}, 1, false, &error),
                     ZMLX_ERROR_MLX);
    assert_non_null(strstr(error.where, "model.safetensors"));
    assert_non_null(strstr(error.message, "tensor 'm.n': "));
    assert_null(array.ctx);
    zm_checkpoint_free(checkpoint);
}

static void test_names(void **state) {
    (void)state;
    write_small();
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    assert_int_equal(zm_checkpoint_rename(checkpoint, "m.", "model.layers.", NULL), ZMLX_OK);
    assert_true(zm_checkpoint_has(checkpoint, "model.layers.n"));
    assert_false(zm_checkpoint_has(checkpoint, "m.n"));
    zmlx_error error = {0};
    expect_error(zm_checkpoint_rename(checkpoint, "model.layers.n", "model.layers.x", &error), &error,
                 "are the same one");
    /* Putting under a name that is there replaces; a removed name can come back. */
    mlx_array made = mlx_array_new_int(3);
    assert_int_equal(zm_checkpoint_put(checkpoint, "model.layers.n", made, NULL), ZMLX_OK);
    assert_ptr_equal(zm_checkpoint_get(checkpoint, "model.layers.n").ctx, made.ctx);
    zm_checkpoint_remove(checkpoint, "model.layers.n");
    assert_null(zm_checkpoint_get(checkpoint, "model.layers.n").ctx);
    assert_int_equal(zm_checkpoint_put(checkpoint, "model.layers.n", mlx_array_new_int(4), NULL), ZMLX_OK);
    int live = 0;
    for (size_t i = 0; i < zm_checkpoint_count(checkpoint); i++)
        live += *zm_checkpoint_name(checkpoint, i) != 0;
    assert_int_equal(live, 3);
    zm_checkpoint_free(checkpoint);
}

static void write_experts(const char *second_shape) {
    char text[512];
    snprintf(text, sizeof text,
             ENTRY("e.0.w", "U32", "[2]", 0,
                   8) "," ENTRY("e.2.w", "U32", "[2]", 8,
                                16) ","
                                    "\"e.1.w\":{\"dtype\":\"U32\",\"shape\":%s,\"data_offsets\":[16,24]}",
             second_shape);
    const uint32_t values[] = {1, 2, 5, 6, 3, 4};
    write_text("config.json", "{}");
    write_tensors("model.safetensors", text, values, sizeof values);
}

static void test_stacks_experts(void **state) {
    (void)state;
    write_experts("[2]");
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    zmlx_error error = {0};
    assert_int_equal(zm_checkpoint_stack(checkpoint, "f", "w", 3, "s", &error), ZMLX_OK); /* nothing there */
    assert_int_equal(zm_checkpoint_stack(checkpoint, "e", "w", 3, "s", &error), ZMLX_OK);
    mlx_array stacked = zm_checkpoint_get(checkpoint, "s");
    assert_int_equal(mlx_array_ndim(stacked), 2);
    assert_int_equal(mlx_array_eval(stacked), 0);
    const uint32_t expected[] = {1, 2, 3, 4, 5, 6};
    assert_memory_equal(mlx_array_data_uint32(stacked), expected, sizeof expected);
    assert_false(zm_checkpoint_has(checkpoint, "e.0.w"));
    zm_checkpoint_free(checkpoint);

    checkpoint = open_checkpoint(MLX_FLOAT32);
    expect_error(zm_checkpoint_stack(checkpoint, "e", "w", 4, "s", &error), &error, "'e.3.w' is missing");
    zm_checkpoint_free(checkpoint);
    write_experts("[2,1]");
    checkpoint = open_checkpoint(MLX_FLOAT32);
    expect_error(zm_checkpoint_stack(checkpoint, "e", "w", 3, "s", &error), &error,
                 "'e.1.w' has another shape");
    zm_checkpoint_free(checkpoint);

    checkpoint = open_checkpoint(MLX_FLOAT32);
    expect_error(zm_checkpoint_stack(checkpoint, "e", "w", 3, "e.2.w", &error), &error,
                 "tensors 'e.0.w' and 'e.2.w' are the same one");
    assert_non_null(strstr(error.where, "model.safetensors"));
    assert_true(zm_checkpoint_has(checkpoint, "e.0.w"));
    zm_checkpoint_free(checkpoint);
}

/* p: 2 outputs, 64 inputs, 4 bits: weight (2, 8), scales and biases (2, 1); d: dense (2, 2) and its bias. */
#define P_WEIGHT ENTRY("p.weight", "U32", "[2,8]", 0, 64)
#define P_SCALES "," ENTRY("p.scales", "BF16", "[2,1]", 64, 68)
#define P_BIASES "," ENTRY("p.biases", "BF16", "[2,1]", 68, 72)
#define P_SCALES_8 "," ENTRY("p.scales", "U8", "[2,2]", 64, 68)
#define REST "," ENTRY("d.weight", "F32", "[2,2]", 72, 88) "," ENTRY("d.bias", "F32", "[2]", 88, 96)
static const uint16_t quantized_data[48] = {
    0x3210, 0x7654, [32] = 0x3f80, [33] = 0x4000, [34] = 0xbf80, [35] = 0};

static zmlx_status take_weight(zm_weight *weight, const char *config, const char *tensors, const char *path,
                               zm_weight sizes, zmlx_error *error) {
    write_text("config.json", config);
    write_tensors("model.safetensors", tensors, quantized_data, sizeof quantized_data);
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    *weight = sizes;
    zmlx_status status = zm_checkpoint_take_weight(weight, checkpoint, path, sizes.bias.ctx != NULL, error);
    if (status) {
        assert_null(weight->weight.ctx);
        assert_null(weight->scales.ctx);
    }
    zm_checkpoint_free(checkpoint);
    return status;
}

static void free_weight(zm_weight *weight) {
    mlx_array_free(weight->weight);
    mlx_array_free(weight->scales);
    mlx_array_free(weight->biases);
    mlx_array_free(weight->bias);
}

static const char config_4[] = "{\"quantization\": {\"group_size\": 64, \"bits\": 4}}";
static const zm_weight sizes_p = {.in_features = 64, .out_features = 2};
static const char tensors_p[] = P_WEIGHT P_SCALES P_BIASES REST;

static void test_takes_a_quantized_weight(void **state) {
    (void)state;
    zm_weight weight;
    assert_int_equal(take_weight(&weight, config_4, tensors_p, "p", sizes_p, NULL), ZMLX_OK);
    assert_true(zm_weight_is_quantized(&weight));
    assert_int_equal(weight.quantization.bits, 4);
    assert_int_equal(mlx_array_dtype(weight.weight), MLX_UINT32);
    assert_int_equal(mlx_array_data_uint32(weight.weight)[0], 0x76543210);
    assert_int_equal(mlx_array_dtype(weight.scales), MLX_FLOAT32);
    assert_true(mlx_array_data_float32(weight.scales)[1] == 2.0f);
    assert_true(mlx_array_data_float32(weight.biases)[0] == -1.0f);
    assert_null(weight.bias.ctx);
    free_weight(&weight);
    /* A module without scales stays dense although the model is quantised. */
    mlx_array wanted = mlx_array_new_int(1);
    zm_weight sizes_d = {.in_features = 2, .out_features = 2, .bias = wanted};
    assert_int_equal(take_weight(&weight, config_4, tensors_p, "d", sizes_d, NULL), ZMLX_OK);
    assert_false(zm_weight_is_quantized(&weight));
    assert_non_null(weight.bias.ctx);
    free_weight(&weight);
    mlx_array_free(wanted);
}

static void test_takes_mxfp4(void **state) {
    (void)state;
    static const char tensors[] = P_WEIGHT P_SCALES_8 "," ENTRY("x", "U8", "[4]", 68, 72) REST;
    zm_weight weight;
    static const char *const configs[] = {
        "{\"quantization_config\": {\"quant_method\": \"mxfp4\"}}",
        "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"p\": {\"mode\": \"mxfp4\"}}}"};
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(take_weight(&weight, configs[i], tensors, "p", sizes_p, NULL), ZMLX_OK);
        assert_string_equal(weight.quantization.mode, "mxfp4");
        assert_int_equal(weight.quantization.group_size, 32);
        assert_int_equal(mlx_array_dtype(weight.scales), MLX_UINT8);
        assert_null(weight.biases.ctx);
        free_weight(&weight);
    }
}

static void test_weight_checks(void **state) {
    (void)state;
    zm_weight weight;
    zmlx_error error = {0};
    zm_weight tall = {.in_features = 64, .out_features = 3};
    zm_weight experts = {.in_features = 64, .out_features = 2, .n_experts = 2};
    zm_weight odd = {.in_features = 65, .out_features = 2};
    const char *config_3 = "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"p\": {\"bits\": 3}}}";
    const char *config_p = "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"p\": true}}";
    const char *config_dense = "{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"p\": false}}";
    expect_error(take_weight(&weight, config_4, tensors_p, "p", tall, &error), &error,
                 "'p.weight': expected shape (3, 8), got (2, 8)");
    expect_error(take_weight(&weight, config_4, tensors_p, "p", experts, &error), &error,
                 "'p.weight': expected shape (2, 2, 8), got (2, 8)");
    expect_error(take_weight(&weight, config_3, tensors_p, "p", sizes_p, &error), &error,
                 "'p.weight': expected shape (2, 6), got (2, 8)");
    expect_error(take_weight(&weight, config_p, tensors_p, "p", odd, &error), &error, "65 input features");
    expect_error(take_weight(&weight, config_4, P_WEIGHT "," ENTRY("p.scales", "F16", "[2,2]", 64, 72) REST,
                             "p", sizes_p, &error),
                 &error, "'p.biases' is missing");
    expect_error(take_weight(&weight, config_p, P_WEIGHT P_SCALES_8 "," ENTRY("x", "U8", "[4]", 68, 72) REST,
                             "p", sizes_p, &error),
                 &error, "'p.scales': expected shape (2, 1), got (2, 2)");
    expect_error(take_weight(&weight, config_dense, tensors_p, "p", sizes_p, &error), &error,
                 "not quantised");
    expect_error(take_weight(&weight, "{}", tensors_p, "p", sizes_p, &error), &error, "not quantised");
    expect_error(take_weight(&weight, config_4, tensors_p, "q", sizes_p, &error), &error,
                 "'q.weight' is missing");
}

static void test_not_a_model_folder(void **state) {
    (void)state;
    char path[256];
    expect_open_error("/nonexistent/model", ZMLX_ERROR_FILE, "/nonexistent/model", "no such folder");
    expect_open_error(folder, ZMLX_ERROR_FILE, folder, "no config.json");
    write_text("config.json", "{}");
    expect_open_error(folder, ZMLX_ERROR_FILE, folder, "no model*.safetensors");
    snprintf(path, sizeof path, "%s/config.json", folder);
    expect_open_error(path, ZMLX_ERROR_FILE, path, "is a file");
    write_text("config.json", "{\"a\": 1,}");
    expect_open_error(folder, ZMLX_ERROR_FORMAT, "config.json", "not valid JSON");
    write_text("config.json", "[1]");
    expect_open_error(folder, ZMLX_ERROR_FORMAT, "config.json", "expected a JSON object");
    write_text("config.json", "{\"model_file\": \"x.py\"}");
    expect_open_error(folder, ZMLX_ERROR_UNSUPPORTED, "config.json", "own code");
}

static void test_shards(void **state) {
    (void)state;
    static const uint32_t four[] = {4};
    write_text("config.json", "{}");
    write_tensors("model-00001-of-00002.safetensors", ENTRY("a", "U32", "[1]", 0, 4), four, 4);
    write_tensors("model-00002-of-00002.safetensors", ENTRY("b", "U32", "[1]", 0, 4), four, 4);
    write_tensors("other.safetensors", ENTRY("a", "U32", "[1]", 0, 4), four, 4); /* not read */
    write_text("model.safetensors.index.json",
               "{\"weight_map\": {\"a\": \"model-00001-of-00002.safetensors\", \"b\": "
               "\"model-00002-of-00002.safetensors\"}}");
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    assert_int_equal(zm_checkpoint_count(checkpoint), 2);
    assert_string_equal(zm_checkpoint_name(checkpoint, 1), "b");
    zm_checkpoint_free(checkpoint);
    write_tensors("model-00003.safetensors", ENTRY("a", "U32", "[1]", 0, 4), four, 4);
    expect_open_error(folder, ZMLX_ERROR_FORMAT, "model-00003.safetensors", "tensor 'a' is also in ");
    char path[256];
    snprintf(path, sizeof path, "%s/model-00003.safetensors", folder);
    assert_int_equal(unlink(path), 0);
    snprintf(path, sizeof path, "%s/model-00002-of-00002.safetensors", folder);
    assert_int_equal(unlink(path), 0);
    expect_open_error(folder, ZMLX_ERROR_FILE, folder, "'model-00002-of-00002.safetensors'");
    write_text("model.safetensors.index.json", "{\"weight_map\": {\"b\": 5}}");
    expect_open_error(folder, ZMLX_ERROR_FILE, folder, "for tensor 'b', is missing");
    /* An index left from before a conversion, which mlx-lm does not read. */
    write_text("model.safetensors.index.json", "{\"weight_map\": {\"a\": \"model-00001-of-00009.safetensors\"}}");
    checkpoint = open_checkpoint(MLX_FLOAT32);
    assert_int_equal(zm_checkpoint_count(checkpoint), 1);
    zm_checkpoint_free(checkpoint);
}

static void test_damaged_tensor_file(void **state) {
    (void)state;
    write_small();
    write_bytes("model.safetensors", "short", 5);
    expect_open_error(folder, ZMLX_ERROR_FORMAT, "model.safetensors", "5 bytes are too few");
    write_tensors("model.safetensors", entries, data, sizeof data - 1);
    expect_open_error(folder, ZMLX_ERROR_FORMAT, "model.safetensors", "tensor 'm.c': data_offsets end at 16");
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    expect_open_error(folder, ZMLX_ERROR_FILE, "model.safetensors", "not a regular file");
}

/* The file shrinks between opening and reading: an error, not a crash and not made-up values. */
static void test_file_cut_short_while_loading(void **state) {
    (void)state;
    write_small();
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    char path[256];
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    assert_int_equal(truncate(path, 20), 0);
    mlx_array x;
    zmlx_error error = {0};
    assert_int_equal(zm_checkpoint_take(&x, checkpoint, "m.x", (int[]){2, 2}, 2, false, &error),
                     ZMLX_ERROR_FILE);
    assert_non_null(strstr(error.message, "cannot read tensor 'm.x'"));
    assert_null(x.ctx);
    zm_checkpoint_free(checkpoint);
}

/* What Python takes as true stands for config.json's, also what is then refused. */
static void test_generation_config(void **state) {
    (void)state;
    static const struct {
        const char *generation, *eos;
    } cases[] = {{NULL, "2"},
                 {"{\"eos_token_id\": 7}", "7"},
                 {"{\"eos_token_id\": 0}", "2"},
                 {"{\"eos_token_id\": null}", "2"},
                 {"{\"eos_token_id\": []}", "2"},
                 {"{\"eos_token_id\": \"\"}", "2"},
                 {"{\"eos_token_id\": false}", "2"},
                 {"{\"eos_token_id\": {}}", "2"},
                 {"{\"eos_token_id\": 0.0}", "2"},
                 {"{\"eos_token_id\": \"7\"}", "\"7\""},
                 {"{\"eos_token_id\": true}", "true"},
                 {"{\"eos_token_id\": {\"id\": 7}}", "{\"id\": 7}"},
                 {"{\"eos_token_id\": 7.5}", "7.5"},
                 {"not JSON", "2"},
                 {"{\"other\": 1}", "2"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_small();
        write_text("config.json", "{\"eos_token_id\": 2}");
        if (cases[i].generation) write_text("generation_config.json", cases[i].generation);
        zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
        char *eos = json_dumps(zm_json_get(zm_checkpoint_config(checkpoint), "eos_token_id"), JSON_ENCODE_ANY);
        assert_string_equal(eos, cases[i].eos);
        free(eos);
        zm_checkpoint_free(checkpoint);
    }
}

static void test_tagged_floats(void **state) {
    (void)state;
    write_small();
    write_text("config.json",
               "{\"a\": {\"b\": [{\"__float__\": \"-Infinity\"}]}, \"n\": {\"__float__\": \"NaN\"},"
               "\"k\": {\"__float__\": \"x\"}}");
    zm_checkpoint *checkpoint = open_checkpoint(MLX_FLOAT32);
    zm_json_object config = zm_checkpoint_config(checkpoint);
    const json_t *list = json_object_get(zm_json_get(config, "a"), "b");
    assert_true(json_real_value(json_array_get(list, 0)) < -1e308);
    assert_null(zm_json_get(config, "n"));
    assert_true(json_is_object(zm_json_get(config, "k")));
    zm_checkpoint_free(checkpoint);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_takes_tensors),       TEST(test_keeps_float32),
        TEST(test_take_checks),         TEST(test_names),
        TEST(test_stacks_experts),      TEST(test_takes_a_quantized_weight),
        TEST(test_takes_mxfp4),         TEST(test_weight_checks),
        TEST(test_not_a_model_folder),  TEST(test_shards),
        TEST(test_damaged_tensor_file), TEST(test_file_cut_short_while_loading),
        TEST(test_generation_config),   TEST(test_tagged_floats),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
