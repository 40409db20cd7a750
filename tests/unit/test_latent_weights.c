/* SPDX-License-Identifier: MIT */
/* Published forms of weights that a file gets wrong: shapes that do not fit, are empty or beyond what an int counts,
 * types that are not floating, and tensors that say the same. */
#include "checkpoint_folder.h"
#include "zmlx/model.h"

static const char config[] =
    "{\"model_type\":\"deepseek_v3\",\"vocab_size\":64,\"hidden_size\":64,\"intermediate_size\":64,"
    "\"num_hidden_layers\":1,\"num_attention_heads\":2,\"q_lora_rank\":32,\"kv_lora_rank\":32,"
    "\"qk_nope_head_dim\":32,\"qk_rope_head_dim\":32,\"v_head_dim\":32}";

#define GATE "model.layers.0.mlp.gate_proj."
#define WEIGHT GATE "weight"
#define BLOCK_SCALES GATE "weight_scale_inv"
#define PACKED GATE "weight_packed"
#define PACK_SCALES GATE "weight_scale"
#define PACK_SHAPE GATE "weight_shape"
#define KV_B "model.layers.0.self_attn.kv_b_proj.weight"
#define KV_B_SCALES "model.layers.0.self_attn.kv_b_proj.scales"
#define KV_B_BIASES "model.layers.0.self_attn.kv_b_proj.biases"
#define EMBED_Q "model.layers.0.self_attn.embed_q.weight"

static void expect_refused(const char *entries, size_t data_size, const char *where, const char *message) {
    static const char data[4096];
    zmlx_model *model;
    zmlx_error error = {0};
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU, .n_threads = 1};
    assert_true(data_size <= sizeof data);
    write_text("config.json", config);
    write_tensors("model.safetensors", entries, data, data_size);
    assert_int_equal(zmlx_model_load(&model, folder, &options, &error), ZMLX_ERROR_FORMAT);
    char place[sizeof error.where];
    snprintf(place, sizeof place, "%s: %s", folder, where);
    assert_string_equal(error.where, place);
    assert_non_null(strstr(error.message, message));
}

static void test_fp8_blocks(void **state) {
    (void)state;
    static const struct {
        const char *entries;
        size_t data_size;
    } wrong[] = {
        {ENTRY(WEIGHT, "U8", "[2147483647,0]", 0, 0) "," ENTRY(BLOCK_SCALES, "F32", "[16777216,0]", 0, 0), 0},
        {ENTRY(WEIGHT, "U8", "[0,2147483647]", 0, 0) "," ENTRY(BLOCK_SCALES, "F32", "[0,16777216]", 0, 0), 0},
        {ENTRY(WEIGHT, "U8", "[2,2]", 0, 4) "," ENTRY(BLOCK_SCALES, "F32", "[1,2]", 4, 12), 12},
        {ENTRY(WEIGHT, "F32", "[1,1]", 0, 4) "," ENTRY(BLOCK_SCALES, "F32", "[1,1]", 4, 8), 8},
        {ENTRY(BLOCK_SCALES, "F32", "[1,1]", 0, 4), 4},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_refused(wrong[i].entries, wrong[i].data_size, BLOCK_SCALES, "does not give a scale for each block");
    expect_refused(ENTRY(WEIGHT, "U8", "[2,2]", 0, 4) "," ENTRY(BLOCK_SCALES, "U8", "[1,1]", 4, 5), 5, BLOCK_SCALES,
                   "expected a floating-point type, got uint8");
}

/* The shape's tensor has the first 8 bytes. */
static void test_int4_packs(void **state) {
    (void)state;
    static const struct {
        const char *entries;
        size_t data_size;
    } wrong[] = {
        {ENTRY(PACK_SHAPE, "I32", "[2]", 0, 8), 8},
        {ENTRY(PACK_SHAPE, "I32", "[2]", 0, 8) "," ENTRY(PACKED, "I32", "[0,2147483647]", 8, 8) ","
         ENTRY(PACK_SCALES, "F32", "[0,536870911]", 8, 8), 8},
        {ENTRY(PACK_SHAPE, "I32", "[2]", 0, 8) "," ENTRY(PACKED, "I32", "[2,4]", 8, 40) ","
         ENTRY(PACK_SCALES, "F32", "[2,2]", 40, 56), 56},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++)
        expect_refused(wrong[i].entries, wrong[i].data_size, PACK_SHAPE, "goes with no int32 weight_packed");
#define PACK ENTRY(PACK_SHAPE, "I32", "[2]", 0, 8) "," ENTRY(PACKED, "I32", "[2,4]", 8, 40) ","
    expect_refused(PACK ENTRY(PACK_SCALES, "I16", "[2,1]", 40, 44), 44, PACK_SCALES,
                   "expected a floating-point type, got int16");
    expect_refused(PACK ENTRY(PACK_SCALES, "F32", "[2,1]", 40, 48) "," ENTRY(WEIGHT, "F32", "[1]", 48, 52), 52, PACKED,
                   "makes '" WEIGHT "', which is there, too");
#undef PACK
}

static void test_kv_b_proj(void **state) {
    (void)state;
    expect_refused(ENTRY(KV_B, "F32", "[4,32]", 0, 512), 512, KV_B,
                   "has another shape than its heads make, (128, 32)");
    expect_refused(ENTRY(KV_B, "U32", "[0,0]", 0, 0) "," ENTRY(KV_B_SCALES, "F32", "[128,0]", 0, 0) ","
                   ENTRY(KV_B_BIASES, "F32", "[128,0]", 0, 0), 0, KV_B, "fit no quantisation");
    expect_refused(ENTRY(KV_B, "F32", "[4,32]", 0, 512) "," ENTRY(KV_B_BIASES, "F32", "[4,1]", 512, 528), 528,
                   KV_B_BIASES, "has no scales beside it");
#define CODES ENTRY(KV_B, "U32", "[128,4]", 0, 2048) ","
    expect_refused(CODES ENTRY(KV_B_SCALES, "U8", "[128,1]", 2048, 2176) ","
                   ENTRY(KV_B_BIASES, "F32", "[128,1]", 2176, 2688), 2688, KV_B_SCALES,
                   "expected a floating-point type, got uint8");
    expect_refused(CODES ENTRY(KV_B_SCALES, "F32", "[128,1]", 2048, 2560) ","
                   ENTRY(KV_B_BIASES, "I32", "[128,1]", 2560, 3072), 3072, KV_B_BIASES,
                   "expected a floating-point type, got int32");
    expect_refused(CODES ENTRY(KV_B_SCALES, "F32", "[128,1]", 2048, 2560) ","
                   ENTRY(KV_B_BIASES, "F32", "[128,1]", 2560, 3072) "," ENTRY(EMBED_Q, "F32", "[1]", 3072, 3076), 3076,
                   KV_B, "makes '" EMBED_Q "', which is there, too");
#undef CODES
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make_folder, remove_folder)

int main(void) {
    const struct CMUnitTest tests[] = {TEST(test_fp8_blocks), TEST(test_int4_packs), TEST(test_kv_b_proj)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
