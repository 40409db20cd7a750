/* SPDX-License-Identifier: MIT */
/* Loading families: refused configs, missing and unexpected tensors, published names, the tree. */
#include "mlx_testing.h"

#include <dirent.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "base/text.h"
#include "model/model.h"
#include "temporary.h"

/* A tensor of a tiny checkpoint; %d in name: one a layer (layer -1: all layers). */
typedef struct tensor {
    const char *name, *dtype;
    int layer, dims[4];
} tensor;

typedef struct checkpoint {
    const char *config;
    const tensor *tensors;
    int n_tensors, n_layers;
} checkpoint;

static const char llama_config[] =
    "{\"model_type\":\"llama\",\"hidden_size\":8,\"num_hidden_layers\":2,\"intermediate_size\":12,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"rms_norm_eps\":1e-5,\"vocab_size\":10,"
    "\"layer_types\":[\"full_attention\",\"sliding_attention\"],\"sliding_window\":4}";
static const tensor llama_tensors[] = {
    {"model.embed_tokens.weight", "F32", 0, {10, 8}},
    {"model.norm.weight", "F32", 0, {8}},
    {"lm_head.weight", "F32", 0, {10, 8}},
    {"model.layers.%d.self_attn.rotary_emb.inv_freq", "F32", -1, {2}},
    {"model.layers.%d.input_layernorm.weight", "F32", -1, {8}},
    {"model.layers.%d.post_attention_layernorm.weight", "F32", -1, {8}},
    {"model.layers.%d.self_attn.q_proj.weight", "BF16", -1, {8, 8}},
    {"model.layers.%d.self_attn.k_proj.weight", "F16", -1, {4, 8}},
    {"model.layers.%d.self_attn.v_proj.weight", "F32", -1, {4, 8}},
    {"model.layers.%d.self_attn.o_proj.weight", "F32", -1, {8, 8}},
    {"model.layers.%d.mlp.gate_proj.weight", "F32", -1, {12, 8}},
    {"model.layers.%d.mlp.up_proj.weight", "F32", -1, {12, 8}},
    {"model.layers.%d.mlp.down_proj.weight", "F32", -1, {8, 12}},
};

static const char lfm2_moe_config[] =
    "{\"model_type\":\"lfm2_moe\",\"hidden_size\":8,\"num_hidden_layers\":2,\"intermediate_size\":12,"
    "\"moe_intermediate_size\":6,\"num_experts\":2,\"num_experts_per_tok\":1,\"norm_topk_prob\":true,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"use_expert_bias\":true,\"num_dense_layers\":1,"
    "\"norm_eps\":1e-5,\"conv_bias\":false,\"conv_L_cache\":3,\"vocab_size\":10,"
    "\"layer_types\":[\"conv\",\"full_attention\"]}";
static const tensor lfm2_moe_tensors[] = {
    {"model.embed_tokens.weight", "F32", 0, {10, 8}},
    {"model.embedding_norm.weight", "F32", 0, {8}},
    {"model.layers.%d.operator_norm.weight", "F32", -1, {8}},
    {"model.layers.%d.ffn_norm.weight", "F32", -1, {8}},
    {"model.layers.0.conv.conv.weight", "F32", 0, {8, 1, 3}},
    {"model.layers.0.conv.in_proj.weight", "F32", 0, {24, 8}},
    {"model.layers.0.conv.out_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.0.feed_forward.w1.weight", "F32", 0, {12, 8}},
    {"model.layers.0.feed_forward.w3.weight", "F32", 0, {12, 8}},
    {"model.layers.0.feed_forward.w2.weight", "F32", 0, {8, 12}},
    {"model.layers.1.self_attn.q_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.1.self_attn.k_proj.weight", "F32", 0, {4, 8}},
    {"model.layers.1.self_attn.v_proj.weight", "F32", 0, {4, 8}},
    {"model.layers.1.self_attn.out_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.1.self_attn.q_layernorm.weight", "F32", 0, {4}},
    {"model.layers.1.self_attn.k_layernorm.weight", "F32", 0, {4}},
    {"model.layers.1.feed_forward.gate.weight", "F32", 0, {2, 8}},
    {"model.layers.1.feed_forward.expert_bias", "F32", 0, {2}},
    {"model.layers.1.feed_forward.experts.0.w1.weight", "F32", 0, {6, 8}},
    {"model.layers.1.feed_forward.experts.0.w3.weight", "F32", 0, {6, 8}},
    {"model.layers.1.feed_forward.experts.0.w2.weight", "F32", 0, {8, 6}},
    {"model.layers.1.feed_forward.experts.1.w1.weight", "F32", 0, {6, 8}},
    {"model.layers.1.feed_forward.experts.1.w3.weight", "F32", 0, {6, 8}},
    {"model.layers.1.feed_forward.experts.1.w2.weight", "F32", 0, {8, 6}},
};

static const char gpt_oss_config[] =
    "{\"model_type\":\"gpt_oss\",\"hidden_size\":32,\"num_hidden_layers\":2,\"intermediate_size\":32,"
    "\"num_local_experts\":2,\"num_experts_per_tok\":1,\"num_attention_heads\":2,\"num_key_value_heads\":1,"
    "\"head_dim\":4,\"sliding_window\":4,\"vocab_size\":10,\"rope_scaling\":{\"rope_type\":\"yarn\","
    "\"factor\":4},\"quantization_config\":{\"quant_method\":\"mxfp4\"}}";
static const tensor gpt_oss_tensors[] = {
    {"model.embed_tokens.weight", "F32", 0, {10, 32}},
    {"model.norm.weight", "F32", 0, {32}},
    {"lm_head.weight", "F32", 0, {10, 32}},
    {"model.layers.%d.input_layernorm.weight", "F32", -1, {32}},
    {"model.layers.%d.post_attention_layernorm.weight", "F32", -1, {32}},
    {"model.layers.%d.self_attn.q_proj.weight", "F32", -1, {8, 32}},
    {"model.layers.%d.self_attn.q_proj.bias", "F32", -1, {8}},
    {"model.layers.%d.self_attn.k_proj.weight", "F32", -1, {4, 32}},
    {"model.layers.%d.self_attn.k_proj.bias", "F32", -1, {4}},
    {"model.layers.%d.self_attn.v_proj.weight", "F32", -1, {4, 32}},
    {"model.layers.%d.self_attn.v_proj.bias", "F32", -1, {4}},
    {"model.layers.%d.self_attn.o_proj.weight", "F32", -1, {32, 8}},
    {"model.layers.%d.self_attn.o_proj.bias", "F32", -1, {32}},
    {"model.layers.%d.self_attn.sinks", "F32", -1, {2}},
    {"model.layers.%d.mlp.router.weight", "F32", -1, {2, 32}},
    {"model.layers.%d.mlp.router.bias", "F32", -1, {2}},
    {"model.layers.%d.mlp.experts.gate_up_proj_blocks", "U8", -1, {2, 64, 1, 16}},
    {"model.layers.%d.mlp.experts.gate_up_proj_scales", "U8", -1, {2, 64, 1}},
    {"model.layers.%d.mlp.experts.gate_up_proj_bias", "F32", -1, {2, 64}},
    {"model.layers.%d.mlp.experts.down_proj_blocks", "U8", -1, {2, 32, 1, 16}},
    {"model.layers.%d.mlp.experts.down_proj_scales", "U8", -1, {2, 32, 1}},
    {"model.layers.%d.mlp.experts.down_proj_bias", "F32", -1, {2, 32}},
};

static const char qwen3_next_config[] =
    "{\"model_type\":\"qwen3_next\",\"hidden_size\":8,\"num_hidden_layers\":2,\"intermediate_size\":12,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":8,\"rms_norm_eps\":1e-5,\"vocab_size\":10,"
    "\"max_position_embeddings\":64,\"rope_theta\":10000,\"partial_rotary_factor\":0.5,\"full_attention_interval\":2,"
    "\"linear_num_key_heads\":1,\"linear_num_value_heads\":2,\"linear_key_head_dim\":4,\"linear_value_head_dim\":4,"
    "\"linear_conv_kernel_dim\":4,\"num_experts\":2,\"num_experts_per_tok\":1,\"moe_intermediate_size\":6,"
    "\"shared_expert_intermediate_size\":6,\"decoder_sparse_step\":1,\"mlp_only_layers\":[]}";
static const tensor qwen3_next_tensors[] = {
    {"model.embed_tokens.weight", "F32", 0, {10, 8}},
    {"model.norm.weight", "F32", 0, {8}},
    {"lm_head.weight", "F32", 0, {10, 8}},
    {"model.layers.%d.input_layernorm.weight", "F32", -1, {8}},
    {"model.layers.%d.post_attention_layernorm.weight", "F32", -1, {8}},
    {"model.layers.0.linear_attn.in_proj_qkvz.weight", "F32", 0, {24, 8}},
    {"model.layers.0.linear_attn.in_proj_ba.weight", "F32", 0, {4, 8}},
    {"model.layers.0.linear_attn.conv1d.weight", "F32", 0, {16, 4, 1}},
    {"model.layers.0.linear_attn.A_log", "F32", 0, {2}},
    {"model.layers.0.linear_attn.dt_bias", "F32", 0, {2}},
    {"model.layers.0.linear_attn.norm.weight", "F32", 0, {4}},
    {"model.layers.0.linear_attn.out_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.1.self_attn.q_proj.weight", "F32", 0, {32, 8}},
    {"model.layers.1.self_attn.k_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.1.self_attn.v_proj.weight", "F32", 0, {8, 8}},
    {"model.layers.1.self_attn.o_proj.weight", "F32", 0, {8, 16}},
    {"model.layers.1.self_attn.q_norm.weight", "F32", 0, {8}},
    {"model.layers.1.self_attn.k_norm.weight", "F32", 0, {8}},
    {"model.layers.%d.mlp.gate.weight", "F32", -1, {2, 8}},
    {"model.layers.%d.mlp.switch_mlp.gate_proj.weight", "F32", -1, {2, 6, 8}},
    {"model.layers.%d.mlp.switch_mlp.up_proj.weight", "F32", -1, {2, 6, 8}},
    {"model.layers.%d.mlp.switch_mlp.down_proj.weight", "F32", -1, {2, 8, 6}},
    {"model.layers.%d.mlp.shared_expert.gate_proj.weight", "F32", -1, {6, 8}},
    {"model.layers.%d.mlp.shared_expert.up_proj.weight", "F32", -1, {6, 8}},
    {"model.layers.%d.mlp.shared_expert.down_proj.weight", "F32", -1, {8, 6}},
    {"model.layers.%d.mlp.shared_expert_gate.weight", "F32", -1, {1, 8}},
};

/* Whose config is refused before its tensors are looked at. */
static const char glm4_moe_config[] =
    "{\"model_type\":\"glm4_moe\",\"hidden_size\":8,\"num_hidden_layers\":2,\"intermediate_size\":12,"
    "\"moe_intermediate_size\":6,\"n_routed_experts\":4,\"num_experts_per_tok\":2,\"n_shared_experts\":1,\"n_group\":2,"
    "\"topk_group\":1,\"norm_topk_prob\":true,\"routed_scaling_factor\":1.0,\"first_k_dense_replace\":1,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"head_dim\":4,\"use_qk_norm\":false,\"attention_bias\":false,"
    "\"partial_rotary_factor\":0.5,\"rope_theta\":10000,\"rms_norm_eps\":1e-5,\"vocab_size\":10}";
static const char qwen3_5_config[] =
    "{\"model_type\":\"qwen3_5\",\"text_config\":{\"hidden_size\":8,\"num_hidden_layers\":2,\"vocab_size\":10,"
    "\"num_attention_heads\":2,\"num_key_value_heads\":1,\"intermediate_size\":12}}";

static const char deepseek_v3_config[] =
    "{\"model_type\":\"deepseek_v3\",\"hidden_size\":8,\"num_hidden_layers\":1,\"intermediate_size\":12,"
    "\"num_attention_heads\":2,\"q_lora_rank\":null,\"kv_lora_rank\":64,\"qk_nope_head_dim\":4,\"qk_rope_head_dim\":2,"
    "\"v_head_dim\":4,\"vocab_size\":10,"
    "\"quantization_config\":{\"quant_method\":\"fp8\",\"weight_block_size\":[128,128]}}";
/* Weights that cannot be rewritten. */
static const tensor wrong_blocks[] = {
    {"model.layers.0.self_attn.o_proj.weight", "U8", 0, {8, 130}},
    {"model.layers.0.self_attn.o_proj.weight_scale_inv", "F32", 0, {1, 1}},
};
static const tensor wrong_pack[] = {
    {"model.layers.0.mlp.up_proj.weight_packed", "I32", 0, {12, 8}},
    {"model.layers.0.mlp.up_proj.weight_scale", "F32", 0, {12, 1}},
    {"model.layers.0.mlp.up_proj.weight_shape", "I32", 0, {2}},
};
static const tensor wrong_kv_b[] = {{"model.layers.0.self_attn.kv_b_proj.weight", "F32", 0, {15, 64}}};
static const tensor quantized_kv_b[] = {
    {"model.layers.0.self_attn.kv_b_proj.weight", "U32", 0, {16, 8}},
    {"model.layers.0.self_attn.kv_b_proj.scales", "F32", 0, {16, 2}},
    {"model.layers.0.self_attn.kv_b_proj.biases", "F32", 0, {16, 2}},
};
static const tensor mxfp4_kv_b[] = {
    {"model.layers.0.self_attn.kv_b_proj.weight", "U32", 0, {16, 8}},
    {"model.layers.0.self_attn.kv_b_proj.scales", "U8", 0, {16, 2}},
};

static const checkpoint llama = {llama_config, llama_tensors, COUNT(llama_tensors), 2};
static const checkpoint lfm2_moe = {lfm2_moe_config, lfm2_moe_tensors, COUNT(lfm2_moe_tensors), 2};
static const checkpoint qwen3_next = {qwen3_next_config, qwen3_next_tensors, COUNT(qwen3_next_tensors), 2};
static const checkpoint qwen3_5 = {qwen3_5_config, qwen3_next_tensors, COUNT(qwen3_next_tensors), 2};
static const checkpoint gpt_oss = {gpt_oss_config, gpt_oss_tensors, COUNT(gpt_oss_tensors), 2};
static const checkpoint glm4_moe = {glm4_moe_config, llama_tensors, COUNT(llama_tensors), 2};
static const checkpoint deepseek_v3 = {deepseek_v3_config, wrong_blocks, COUNT(wrong_blocks), 1};
static const checkpoint packed = {deepseek_v3_config, wrong_pack, COUNT(wrong_pack), 1};
static const checkpoint joined = {deepseek_v3_config, wrong_kv_b, COUNT(wrong_kv_b), 1};
static const checkpoint joined_in_groups = {deepseek_v3_config, quantized_kv_b, COUNT(quantized_kv_b), 1};
static const checkpoint joined_mxfp4 = {deepseek_v3_config, mxfp4_kv_b, COUNT(mxfp4_kv_b), 1};

static char folder[TEMPORARY_SIZE];

static int make_folder(void **state) {
    (void)state;
    return mkdtemp(temporary_template(folder)) ? 0 : 1;
}

static int remove_folder(void **state) {
    (void)state;
    DIR *entries = opendir(folder);
    for (struct dirent *entry; entries && (entry = readdir(entries));) {
        char path[TEMPORARY_SIZE + 300];
        snprintf(path, sizeof path, "%s/%s", folder, entry->d_name);
        unlink(path);
    }
    if (entries) closedir(entries);
    return rmdir(folder);
}

static void write_file(const char *name, const char *data, size_t size) {
    char *path = zm_path_join(folder, name);
    assert_int_equal(zm_file_write(path, data, size, NULL), ZMLX_OK);
    free(path);
}

static size_t type_size(const char *dtype) {
    return !strcmp(dtype, "U8") ? 1 : strstr(dtype, "32") ? 4 : 2;
}

/* Bytes that are small numbers in every type used here. */
static void append_values(zm_text *data, const char *dtype, size_t count) {
    for (size_t i = 0; i < count; i++) {
        float value = (float)(i * 7 % 13) / 16 - 0.375f;
        uint32_t bits;
        memcpy(&bits, &value, sizeof bits);
        uint8_t byte = (uint8_t)(120 + (i / 16 + i) % 8);
        uint16_t half = !strcmp(dtype, "BF16") ? (uint16_t)(bits >> 16) : (uint16_t)(0x2c00 + i % 64);
        if (strstr(dtype, "32"))
            zm_text_append(data, (const char *)&value, sizeof value);
        else if (!strcmp(dtype, "U8"))
            zm_text_append(data, (const char *)&byte, 1);
        else
            zm_text_append(data, (const char *)&half, sizeof half);
    }
}

static void append_tensor(zm_text *header, zm_text *data, const tensor *item, const char *name) {
    size_t count = 1, begin = data->size;
    zm_text_append_string(header, header->size ? "," : "{");
    zm_text_printf(header, "\"%s\":{\"dtype\":\"%s\",\"shape\":[", name, item->dtype);
    for (int i = 0; i < 4 && item->dims[i]; i++) {
        zm_text_printf(header, "%s%d", i ? "," : "", item->dims[i]);
        count *= (size_t)item->dims[i];
    }
    append_values(data, item->dtype, count);
    zm_text_printf(header, "],\"data_offsets\":[%zu,%zu]}", begin, begin + count * type_size(item->dtype));
}

/* Writes the checkpoint without the tensor called left_out and with extra; either may be NULL. */
static void write_tensors(const checkpoint *source, const char *left_out, const tensor *extra) {
    zm_text header = {0}, data = {0}, file = {0};
    for (int i = 0; i < source->n_tensors; i++) {
        const tensor *item = &source->tensors[i];
        for (int layer = 0; layer < (item->layer < 0 ? source->n_layers : 1); layer++) {
            char name[160];
            const char *hole = strstr(item->name, "%d");
            if (hole)
                snprintf(name, sizeof name, "%.*s%d%s", (int)(hole - item->name), item->name, layer,
                         hole + 2);
            else
                snprintf(name, sizeof name, "%s", item->name);
            if (!left_out || strcmp(name, left_out)) append_tensor(&header, &data, item, name);
        }
    }
    if (extra) append_tensor(&header, &data, extra, extra->name);
    zm_text_append_string(&header, "}");
    uint64_t header_size = header.size;
    zm_text_append(&file, (const char *)&header_size, 8);
    zm_text_append(&file, header.data, header.size);
    zm_text_append(&file, data.data, data.size);
    write_file("model.safetensors", file.data, file.size);
    zm_text_free(&header);
    zm_text_free(&data);
    zm_text_free(&file);
}

/* Writes config with key replaced by the JSON text value (NULL: removed); key NULL: as it is. */
static void write_config(const char *config, const char *key, const char *value) {
    json_t *object = json_loads(config, 0, NULL);
    assert_non_null(object);
    if (key && value)
        json_object_set_new(object, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else if (key)
        json_object_del(object, key);
    char *text = json_dumps(object, 0);
    write_file("config.json", text, strlen(text));
    free(text);
    json_decref(object);
}

static const zmlx_model_options options = {.device = ZMLX_DEVICE_CPU, .n_threads = 1};

static void expect_refusal(const char *where, const char *message) {
    zmlx_model *model;
    zmlx_error error = {0};
    zmlx_status status = zmlx_model_load(&model, folder, &options, &error);
    if (status == ZMLX_OK) fail_msg("accepted; expected a refusal at %s: %s", where, message);
    assert_null(model);
    if (!strstr(error.where, where) || !strstr(error.message, message))
        fail_msg("refused at '%s': '%s'; expected '%s': '%s'", error.where, error.message, where, message);
}

typedef struct refusal {
    const checkpoint *source;
    const char *key, *value; /* value NULL: the field is removed */
    const char *where, *message;
} refusal;

static const refusal refusals[] = {
    {&llama, "hidden_size", NULL, "config.json: hidden_size", "missing"},
    {&llama, "hidden_size", "-8", "config.json: hidden_size", "integer from 1"},
    {&llama, "hidden_size", "99999999999999", "config.json: hidden_size", "integer from 1"},
    {&llama, "hidden_size", "1e300", "config.json: hidden_size", "integer from 1"},
    {&llama, "hidden_size", "\"8\"", "config.json: hidden_size", "integer from 1"},
    {&llama, "hidden_size", "7", "config.json: num_attention_heads", "does not divide"},
    {&llama, "hidden_size", "6", "config.json: head_dim", "odd"},
    {&llama, "num_hidden_layers", "0", "config.json: num_hidden_layers", "integer from 1"},
    {&llama, "num_hidden_layers", "2000000000", "config.json: num_hidden_layers", "from 1 to 1024"},
    {&llama, "num_hidden_layers", "3", "config.json: layer_types", "2 entries for 3 layers"},
    {&llama, "intermediate_size", NULL, "config.json: intermediate_size", "missing"},
    {&llama, "num_attention_heads", "0", "config.json: num_attention_heads", "integer from 1"},
    {&llama, "num_key_value_heads", "3", "config.json: num_key_value_heads", "does not divide"},
    {&llama, "head_dim", "16777216", "config.json: head_dim", "times 2 heads"},
    {&llama, "rms_norm_eps", "-1", "config.json: rms_norm_eps", "from 0 to 1, got -1"},
    {&llama, "rms_norm_eps", "1e39", "config.json: rms_norm_eps", "from 0 to 1, got 1e+39"},
    {&llama, "rms_norm_eps", "\"small\"", "config.json: rms_norm_eps", "number"},
    {&llama, "vocab_size", "[]", "config.json: vocab_size", "integer"},
    {&llama, "attention_bias", "1", "config.json: attention_bias", "true or false"},
    {&llama, "tie_word_embeddings", "\"yes\"", "config.json: tie_word_embeddings", "true or false"},
    {&llama, "rope_theta", "0", "config.json: rope_theta", "greater than 0"},
    {&llama, "rope_theta", "1e-60", "config.json: rope_theta", "greater than 0, from 1.18e-38"},
    {&llama, "rope_theta", "1e39", "config.json: rope_theta", "to 1e30, got 1e+39"},
    {&llama, "rope_theta", "null", "config.json: rope_theta", "expected a number, got null"},
    {&llama, "rope_traditional", "null", "config.json: rope_traditional", "true or false, got null"},
    {&llama, "rope_scaling", "5", "config.json: rope_scaling", "object"},
    {&llama, "rope_scaling", "{\"type\":\"spiral\"}", "config.json: rope_scaling",
     "unknown rope type \"spiral\""},
    {&llama, "rope_scaling", "{\"type\":7}", "rope_scaling: type", "string"},
    {&llama, "rope_scaling", "{\"rope_type\":null}", "rope_scaling: rope_type", "expected a string, got null"},
    {&llama, "rope_scaling", "{\"type\":\"linear\"}", "rope_scaling: factor", "number"},
    {&llama, "rope_scaling", "{\"type\":\"linear\",\"factor\":0}", "rope_scaling: factor", "greater than 0"},
    {&llama, "rope_scaling", "{\"type\":\"dynamic\",\"factor\":2}", "rope_scaling",
     "max_position_embeddings"},
    {&llama, "rope_scaling", "{\"type\":\"llama3\",\"factor\":2,\"high_freq_factor\":1}", "rope_scaling",
     "equals"},
    {&llama, "rope_scaling", "{\"type\":\"longrope\",\"original_max_position_embeddings\":64}",
     "rope_scaling", "max_position_embeddings"},
    {&llama, "rope_scaling", "{\"type\":\"mrope\"}", "rope_scaling", "3 entries"},
    {&llama, "rope_scaling", "{\"type\":\"proportional\",\"partial_rotary_factor\":9}", "rope_scaling", "9"},
    {&llama, "layer_types", "[\"full_attention\",\"round\"]", "config.json: layer_types", "round"},
    {&llama, "layer_types", "[\"full_attention\",1]", "config.json: layer_types", "not a string"},
    {&llama, "layer_types", "[\"sliding_attention\",\"sliding_attention\"]", "layer_types", "no layer has"},
    {&llama, "sliding_window", "0", "config.json: sliding_window", "integer from 1"},
    {&llama, "model_type", "\"martian\"", "config.json", "martian"},
    {&lfm2_moe, "num_experts_per_tok", "3", "config.json: num_experts_per_tok", "from 1 to 2"},
    {&lfm2_moe, "num_experts", "-1", "config.json: num_experts", "integer from 1"},
    {&lfm2_moe, "conv_L_cache", "0", "config.json: conv_L_cache", "integer from 1"},
    {&lfm2_moe, "conv_bias", NULL, "config.json: conv_bias", "missing"},
    {&lfm2_moe, "norm_eps", NULL, "config.json: norm_eps", "missing"},
    {&lfm2_moe, "norm_eps", "2", "config.json: norm_eps", "from 0 to 1, got 2"},
    {&lfm2_moe, "rope_theta", "1e-60", "config.json: rope_theta", "greater than 0"},
    {&lfm2_moe, "routed_scaling_factor", "1e39", "config.json: routed_scaling_factor", "at most 1e30"},
    {&lfm2_moe, "num_key_value_heads", "null", "config.json: num_key_value_heads", "got null"},
    {&lfm2_moe, "norm_topk_prob", NULL, "config.json: norm_topk_prob", "missing"},
    {&lfm2_moe, "use_expert_bias", NULL, "config.json: use_expert_bias", "missing"},
    {&lfm2_moe, "use_expert_bias", "null", "", "unexpected tensor: 'model.layers.1.feed_forward.expert_bias'"},
    {&lfm2_moe, "num_dense_layers", "-1", "config.json: num_dense_layers", "integer from 0"},
    {&lfm2_moe, "layer_types", NULL, "config.json: layer_types", "missing"},
    {&lfm2_moe, "layer_types", "[\"conv\",\"conv\"]", "config.json: layer_types", "no layer has attention"},
    {&lfm2_moe, "full_attn_idxs", "[2]", "config.json: full_attn_idxs", "entry 0"},
    {&lfm2_moe, "rope_parameters", "{\"rope_theta\":-5}", "rope_parameters: rope_theta", "greater than 0"},
    {&qwen3_next, "head_dim", NULL, "config.json: head_dim", "missing"},
    {&qwen3_next, "rope_theta", NULL, "config.json: rope_theta", "missing"},
    {&qwen3_next, "partial_rotary_factor", "0.4", "config.json: partial_rotary_factor", "no even number"},
    {&qwen3_next, "partial_rotary_factor", "1.5", "config.json: partial_rotary_factor", "1.5 of 8 features"},
    {&qwen3_next, "full_attention_interval", "0", "config.json: full_attention_interval", "integer from 1"},
    {&qwen3_next, "linear_num_key_heads", "4", "config.json: linear_num_value_heads", "no multiple"},
    {&qwen3_next, "linear_key_head_dim", "99999999", "config.json: linear_key_head_dim", "from 1 to"},
    {&qwen3_next, "linear_value_head_dim", "16777216", "config.json: linear_value_head_dim", "times 2 heads"},
    {&qwen3_next, "linear_conv_kernel_dim", "1", "config.json: linear_conv_kernel_dim", "one tap"},
    {&qwen3_next, "num_experts_per_tok", "3", "config.json: num_experts_per_tok", "from 1 to 2"},
    {&qwen3_next, "intermediate_size", NULL, "config.json: intermediate_size", "missing"},
    {&qwen3_next, "shared_expert_intermediate_size", NULL, "shared_expert_intermediate_size", "missing"},
    {&qwen3_next, "mlp_only_layers", "0", "config.json: mlp_only_layers", "expected an array"},
    {&qwen3_5, NULL, NULL, "config.json: text_config: partial_rotary_factor", "0.25 of 4 features"},
    {&qwen3_5, "text_config", "7", "config.json: text_config", "object"},
    {&qwen3_5, "text_config", "null", "config.json: text_config", "an object, got null"},
    {&qwen3_5, "text_config", "{\"vocab_size\":0}", "config.json: text_config: vocab_size", "integer from 1"},
    {&qwen3_5, "text_config", "{\"rope_parameters\":{\"rope_theta\":-1}}", "rope_parameters: rope_theta",
     "greater than 0"},
    {&qwen3_5, "text_config", "{\"rope_parameters\":{\"partial_rotary_factor\":2}}",
     "rope_parameters: partial_rotary_factor", "2 of 128 features"},
    {&qwen3_5, "text_config", "{\"num_experts\":4}", "config.json: text_config: num_experts_per_tok", "missing"},
    {&gpt_oss, "num_experts_per_tok", "5", "config.json: num_experts_per_tok", "from 1 to 2"},
    {&gpt_oss, "num_hidden_layers", "3", "config.json: layer_types", "odd number"},
    {&gpt_oss, "layer_types", "[\"full_attention\",\"full_attention\"]", "layer_types", "needs both"},
    {&gpt_oss, "rms_norm_eps", "-1e-5", "config.json: rms_norm_eps", "from 0 to 1"},
    {&gpt_oss, "rope_theta", "0.5", "config.json: rope_theta", "greater than 1"},
    {&gpt_oss, "sliding_window", "null", "config.json: sliding_window", "got null"},
    {&glm4_moe, "n_group", "3", "config.json: n_group", "does not divide n_routed_experts 4"},
    {&glm4_moe, "n_group", "4", "config.json: n_group", "fewer than two"},
    {&glm4_moe, "n_group", NULL, "config.json: n_group", "missing"},
    {&glm4_moe, "topk_group", "3", "config.json: topk_group", "3 of 2 groups"},
    {&glm4_moe, "topk_group", "null", "config.json: topk_group", "got null"},
    {&glm4_moe, "num_experts_per_tok", "5", "config.json: num_experts_per_tok", "5 of 4 experts"},
    {&glm4_moe, "n_routed_experts", NULL, "config.json: n_routed_experts", "missing"},
    {&glm4_moe, "num_hidden_layers", "1", "", "11 unexpected tensors: "},
    {&glm4_moe, "n_shared_experts", "0", "config.json: n_shared_experts", "integer from 1"},
    {&glm4_moe, "topk_method", "null", "config.json: topk_method", "expected a string, got null"},
    {&glm4_moe, "topk_method", "\"greedy\"", "config.json: topk_method", "\"greedy\" is not supported"},
    {&glm4_moe, "scoring_func", "\"softmax\"", "config.json: scoring_func", "only \"sigmoid\""},
    {&glm4_moe, "routed_scaling_factor", "0", "config.json: routed_scaling_factor", "greater than 0"},
    {&glm4_moe, "norm_topk_prob", NULL, "config.json: norm_topk_prob", "missing"},
    {&glm4_moe, "first_k_dense_replace", "-1", "config.json: first_k_dense_replace", "integer from 0"},
    {&glm4_moe, "partial_rotary_factor", "1.5", "config.json: partial_rotary_factor", "1.5 gives no even number"},
    {&glm4_moe, "partial_rotary_factor", "0.25", "config.json: partial_rotary_factor", "of 4 features"},
    {&glm4_moe, "head_dim", NULL, "config.json: head_dim", "missing"},
    {&glm4_moe, "use_qk_norm", "1", "config.json: use_qk_norm", "true or false"},
    {&deepseek_v3, "qk_rope_head_dim", "3", "config.json: qk_rope_head_dim", "odd"},
    {&deepseek_v3, "v_head_dim", "16777216", "config.json: num_attention_heads", "2 heads of 16777220"},
    {&deepseek_v3, "moe_layer_freq", "0", "config.json: moe_layer_freq", "integer from 1"},
    {&deepseek_v3, "rope_scaling", "{\"type\":\"yarn\",\"mscale_all_dim\":1}", "rope_scaling: factor", "number"},
    {&deepseek_v3, "rope_scaling", "{\"type\":\"yarn\",\"factor\":4,\"mscale_all_dim\":1e300}", "rope_scaling",
     "no finite scale"},
    {&deepseek_v3, "quantization_config", "{\"quant_method\":\"fp8\",\"weight_block_size\":[64,64]}", "config.json",
     "'fp8' is not supported"},
    {&deepseek_v3, NULL, NULL, "o_proj.weight_scale_inv", "each block of 128 x 128"},
    {&packed, NULL, NULL, "up_proj.weight_shape", "groups of 32"},
    {&joined, NULL, NULL, "kv_b_proj.weight", "its heads make, (16, 64)"},
    {&joined_in_groups, NULL, NULL, "kv_b_proj.weight", "qk_nope_head_dim 4 is no multiple of its group size 32"},
    {&joined_mxfp4, NULL, NULL, "kv_b_proj.weight", "another mode than affine"},
};

static void test_refused_configs(void **state) {
    (void)state;
    for (int i = 0; i < COUNT(refusals); i++) {
        const refusal *item = &refusals[i];
        write_tensors(item->source, NULL, NULL);
        write_config(item->source->config, item->key, item->value);
        expect_refusal(item->where, item->message);
    }
}

/* A published checkpoint has experts one by one in the model's own layers; a converted one is left as it is, and what
 * looks further on than a token is not expected in it. */
static void test_qwen3_next_with_converted_names(void **state) {
    (void)state;
    static const tensor extra = {"mtp.layers.0.mlp.experts.0.up_proj.weight", "F32", 0, {6, 8}};
    zmlx_model *model;
    zmlx_error error = {0};
    write_config(qwen3_next.config, "intermediate_size", "null"); /* no layer is dense */
    write_tensors(&qwen3_next, NULL, NULL);
    if (zmlx_model_load(&model, folder, &options, &error)) fail_msg("%s: %s", error.where, error.message);
    zmlx_model_free(model);
    write_tensors(&qwen3_next, NULL, &extra);
    expect_refusal("", "1 unexpected tensor: 'mtp.layers.0.mlp.experts.0.up_proj.weight'");
}

static void test_missing_and_unexpected_tensors(void **state) {
    (void)state;
    static const tensor extra = {"model.layers.1.mlp.fourth_proj.weight", "F32", 0, {3}};
    static const tensor narrow = {"model.layers.1.mlp.up_proj.weight", "F32", 0, {12, 7}};
    static const tensor whole = {"model.layers.1.mlp.up_proj.weight", "U8", 0, {12, 8}};
    write_config(llama.config, NULL, NULL);
    write_tensors(&llama, "model.layers.1.mlp.up_proj.weight", NULL);
    expect_refusal("", "'model.layers.1.mlp.up_proj.weight' is missing");
    write_tensors(&llama, "model.norm.weight", NULL);
    expect_refusal("", "'model.norm.weight' is missing");
    write_tensors(&llama, NULL, &extra);
    expect_refusal("", "'model.layers.1.mlp.fourth_proj.weight'");
    write_tensors(&llama, "model.layers.1.mlp.up_proj.weight", &narrow);
    expect_refusal("", "expected shape (12, 8), got (12, 7)");
    write_tensors(&llama, "model.layers.1.mlp.up_proj.weight", &whole);
    expect_refusal("", "floating-point");
    /* Untied: the head is needed and must not be dropped. */
    static const char *const untied[] = {"false", "null"};
    for (int i = 0; i < COUNT(untied); i++) {
        write_config(llama.config, "tie_word_embeddings", untied[i]);
        write_tensors(&llama, "lm_head.weight", NULL);
        expect_refusal("", "'lm_head.weight' is missing");
    }
    write_config(lfm2_moe.config, NULL, NULL);
    write_tensors(&lfm2_moe, "model.layers.1.feed_forward.experts.1.w3.weight", NULL);
    expect_refusal("", "model.layers.1.feed_forward.experts.1");
    write_tensors(&lfm2_moe, "model.layers.1.feed_forward.expert_bias", NULL);
    expect_refusal("", "expert_bias");
    write_config(gpt_oss.config, NULL, NULL);
    write_tensors(&gpt_oss, "model.layers.1.mlp.experts.gate_up_proj_scales", NULL);
    expect_refusal("", "model.layers.1.mlp.experts");
}

/* Loads, feeds a prompt and single tokens past the window; every logit is finite. */
static zmlx_model *load_and_feed(const checkpoint *source) {
    zmlx_model *model;
    zmlx_session *session;
    zmlx_error error;
    static const int32_t tokens[6] = {1, 9, 0, 3, 3, 7};
    float logits[60];
    write_config(source->config, NULL, NULL);
    write_tensors(source, NULL, NULL);
    if (zmlx_model_load(&model, folder, &options, &error)) fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(zmlx_session_new(&session, model, &error), ZMLX_OK);
    for (int call = 0; call < 8; call++) {
        size_t length = call % 3 ? 1 : 6;
        if (zmlx_session_feed(session, tokens, length, logits, true, &error))
            fail_msg("%s: %s", error.where, error.message);
        for (size_t i = 0; i < length * 10; i++) assert_true(isfinite(logits[i]));
    }
    zmlx_session_free(session);
    return model;
}

static void test_llama(void **state) {
    (void)state;
    zmlx_model *model = load_and_feed(&llama);
    zm_decoder *decoder = model->root->decoder;
    assert_string_equal(model->root->lm_head->base.path, "model.embed_tokens.as_linear");
    assert_ptr_equal(model->root->lm_head->weight.weight.ctx, decoder->embed_tokens->weight.weight.ctx);
    assert_int_equal(decoder->blocks[0]->sliding_window, 0);
    assert_int_equal(decoder->blocks[1]->sliding_window, 4);
    zm_gated_mlp *mlp = (zm_gated_mlp *)zm_module_find(&model->root->base, "model.layers.1.mlp");
    assert_non_null(mlp);
    assert_int_equal(mlp->base.kind, ZM_MODULE_GATED_MLP);
    assert_int_equal(mlp->activation, ZM_ACTIVATION_SWIGLU);
    assert_string_equal(mlp->down_proj->base.path, "model.layers.1.mlp.down_proj");
    assert_string_equal(zmlx_model_get_info(model)->family, "llama");
    zmlx_model_free(model);
}

static void test_lfm2_moe_with_published_names(void **state) {
    (void)state;
    zmlx_model *model = load_and_feed(&lfm2_moe);
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, "model.layers.1.feed_forward");
    assert_int_equal(moe->base.kind, ZM_MODULE_MOE);
    assert_int_equal(moe->gating, ZM_GATING_SIGMOID_BIAS);
    assert_int_equal(moe->top_k, 1);
    assert_true(zm_is_set(moe->expert_bias));
    assert_int_equal(zm_dim(moe->experts->gate_proj->weight.weight, 0), 2);
    zm_short_conv *conv = (zm_short_conv *)zm_module_find(&model->root->base, "model.layers.0.conv");
    expect_shape(conv->conv->weight, SHAPE(8, 3, 1));
    zm_cache caches[2];
    for (int i = 0; i < 2; i++) zm_block_cache_init(&caches[i], model->root->decoder->blocks[i]);
    assert_int_equal(caches[0].kind, ZM_CACHE_ARRAY);
    assert_int_equal(caches[1].kind, ZM_CACHE_KV);
    zmlx_model_free(model);
}

static void test_gpt_oss_with_published_names(void **state) {
    (void)state;
    zmlx_model *model = load_and_feed(&gpt_oss);
    zm_moe *moe = (zm_moe *)zm_module_find(&model->root->base, "model.layers.1.mlp");
    assert_int_equal(moe->gating, ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH);
    assert_int_equal(moe->experts->activation, ZM_ACTIVATION_SWIGLU_OAI);
    assert_string_equal(moe->experts->up_proj->weight.quantization.mode, "mxfp4");
    /* Rows 0, 2, ... of the published tensor are the gate's, rows 1, 3, ... those of up. */
    uint8_t published[2 * 64 * 16];
    for (size_t i = 0; i < sizeof published; i++) published[i] = (uint8_t)(120 + (i / 16 + i) % 8);
    const uint32_t *gate = mlx_array_data_uint32(moe->experts->gate_proj->weight.weight);
    assert_memory_equal(gate, published, 16);
    assert_memory_equal(gate + 4, published + 32, 16);
    assert_string_equal(model->root->lm_head->base.path, "lm_head");
    zm_cache cache;
    zm_block_cache_init(&cache, model->root->decoder->blocks[0]);
    assert_int_equal(cache.kind, ZM_CACHE_ROTATING);
    assert_int_equal(cache.max_size, 4);
    zmlx_model_free(model);
}

static void test_list(void **state) {
    (void)state;
    static const char *const types[] = {"lfm2_moe", "lfm2", "llama", "mistral", "xverse", "iquestcoder",
                                        "qwen3", "qwen3_moe", "qwen3_next", "qwen3_5", "qwen3_5_moe",
                                        "mixtral", "gpt_oss", "glm4_moe", "glm4_moe_lite", "deepseek_v3",
                                        "kimi_k2", "joyai_llm_flash"};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        assert_string_equal(zm_family_find(types[i])->model_type, types[i]);
    assert_string_equal(zm_family_find("mistral")->group, "llama");
    assert_null(zm_family_find("llam"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_refused_configs, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_missing_and_unexpected_tensors, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_qwen3_next_with_converted_names, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_llama, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_lfm2_moe_with_published_names, make_folder, remove_folder),
        cmocka_unit_test_setup_teardown(test_gpt_oss_with_published_names, make_folder, remove_folder),
        cmocka_unit_test(test_list),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
