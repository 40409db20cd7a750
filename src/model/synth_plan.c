/* SPDX-License-Identifier: MIT */
/* The tensors of each family's checkpoints, as mlx-lm's converter names and quantises them. */
#include "model/synth_plan.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"
#include "model/synth_tensors.h"

enum { MAX_SIZE = 1 << 20, MAX_VOCAB = 1 << 24, MAX_LAYERS = 1024, MAX_EXPERTS = 4096 };

typedef struct sizes {
    int vocab, hidden, layers, heads, kv_heads, head_dim, intermediate, experts, expert_intermediate;
    int conv_taps, dense_layers, sparse_step;
    int full_attention_interval; /* 0: every layer has attention */
    int k_heads, v_heads, k_dim, v_dim, shared_intermediate;
    bool is_interleaved, all_sparse; /* projections into a delta net; every layer has experts */
    bool tied, attention_bias, mlp_bias, conv_bias, qk_norm;
} sizes;

static void add_head_norm(zm_synth_plan *plan, const sizes *s, int layer, const char *rest) {
    zm_synth_add_norm(plan, zm_synth_in_layer(plan, layer, rest), s->head_dim, ZM_SYNTH_QUERY_GAIN);
}

static void add_attention(zm_synth_plan *plan, const sizes *s, int layer, const char *out_name) {
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    bool bias = s->attention_bias;
    double gain = s->qk_norm ? 1 : ZM_SYNTH_QUERY_GAIN;
    bool has_gate = s->full_attention_interval > 0;
    zm_synth_add_layer_linear(
        plan, layer, "self_attn.q_proj",
        (zm_synth_linear){.out = has_gate ? 2 * q : q, .in = s->hidden, .bias = bias, .gain = gain});
    zm_synth_add_layer_linear(plan, layer, "self_attn.k_proj",
                              (zm_synth_linear){.out = kv, .in = s->hidden, .bias = bias, .gain = gain});
    zm_synth_add_layer_linear(plan, layer, "self_attn.v_proj",
                              (zm_synth_linear){.out = kv, .in = s->hidden, .bias = bias, .gain = 1});
    zm_synth_add_layer_linear(plan, layer, out_name,
                              (zm_synth_linear){.out = s->hidden, .in = q, .bias = bias, .gain = 1});
}

/* Projections and a state that forgets a tenth of itself a token. */
static void add_delta_net(zm_synth_plan *plan, const sizes *s, int layer) {
    int mixed = 2 * s->k_heads * s->k_dim + s->v_heads * s->v_dim, values = s->v_heads * s->v_dim;
    const struct {
        const char *name;
        zm_synth_linear map;
    } maps[] = {
        {"linear_attn.out_proj", {.out = s->hidden, .in = values, .gain = 1}},
        {"linear_attn.in_proj_qkvz", {.out = mixed + values, .in = s->hidden, .gain = 1}},
        {"linear_attn.in_proj_ba", {.out = 2 * s->v_heads, .in = s->hidden, .gain = 1}},
        {"linear_attn.in_proj_qkv", {.out = mixed, .in = s->hidden, .gain = 1}},
        {"linear_attn.in_proj_z", {.out = values, .in = s->hidden, .gain = 1}},
        {"linear_attn.in_proj_b", {.out = s->v_heads, .in = s->hidden, .gain = 1}},
        {"linear_attn.in_proj_a", {.out = s->v_heads, .in = s->hidden, .gain = 1}},
    };
    zm_synth_add_layer_linear(plan, layer, maps[0].name, maps[0].map);
    for (int i = s->is_interleaved ? 1 : 3; i < (s->is_interleaved ? 3 : 7); i++)
        zm_synth_add_layer_linear(plan, layer, maps[i].name, maps[i].map);
    zm_synth_add_values(plan, zm_synth_in_layer(plan, layer, "linear_attn.conv1d"), "weight",
                        (int[3]){mixed, s->conv_taps, 1}, ZM_SYNTH_BFLOAT16, 0, 0.5);
    zm_synth_add_values(plan, zm_synth_in_layer(plan, layer, "linear_attn.A_log"), "", (int[3]){s->v_heads},
                        ZM_SYNTH_FLOAT32, -2, 0.5);
    zm_synth_add_values(plan, zm_synth_in_layer(plan, layer, "linear_attn.dt_bias"), "", (int[3]){s->v_heads},
                        ZM_SYNTH_BFLOAT16, 0, 0.5);
    zm_synth_add_layer_norm(plan, layer, "linear_attn.norm", s->v_dim);
}

/* names: gate, up, down under path. */
static void add_mlp(zm_synth_plan *plan, const sizes *s, int layer, const char *path, const char *const names[3]) {
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s", path, names[i]);
        zm_synth_linear map = {.out = s->intermediate, .in = s->hidden, .bias = s->mlp_bias, .gain = 1};
        if (i == 2) map = (zm_synth_linear){.out = s->hidden, .in = s->intermediate, .bias = s->mlp_bias, .gain = 1};
        zm_synth_add_layer_linear(plan, layer, name, map);
    }
}

static const char *const projections[3] = {"gate_proj", "up_proj", "down_proj"};

static void add_experts(zm_synth_plan *plan, const sizes *s, int layer, const char *path) {
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.%s", path, projections[i]);
        zm_synth_linear map = {.experts = s->experts,
                               .out = i == 2 ? s->hidden : s->expert_intermediate,
                               .in = i == 2 ? s->expert_intermediate : s->hidden,
                               .bias = plan->is_mxfp4,
                               .gain = 1,
                               .is_mxfp4 = plan->is_mxfp4};
        zm_synth_add_layer_linear(plan, layer, name, map);
    }
}

static void add_router(zm_synth_plan *plan, const sizes *s, int layer, const char *path, bool bias, bool own_bits) {
    zm_synth_add_layer_linear(
        plan, layer, path,
        (zm_synth_linear){.out = s->experts, .in = s->hidden, .bias = bias, .gain = 2, .is_router = own_bits});
}

static void add_shared_expert(zm_synth_plan *plan, const sizes *s, int layer) {
    sizes shared = *s;
    shared.intermediate = s->shared_intermediate;
    add_mlp(plan, &shared, layer, "mlp.shared_expert", projections);
    zm_synth_add_layer_linear(plan, layer, "mlp.shared_expert_gate",
                              (zm_synth_linear){.out = 1, .in = s->hidden, .gain = 2, .is_router = true});
}

static bool lists_layer(const json_t *list, int layer) {
    size_t i;
    json_t *value;
    json_array_foreach(list, i, value) if (json_is_integer(value) && json_integer_value(value) == layer) return true;
    return false;
}

static bool is_lfm2_attention(zm_json_object config, int layer) {
    const json_t *indices = zm_json_get(config, "full_attn_idxs");
    if (indices) return lists_layer(indices, layer);
    const char *type = json_string_value(json_array_get(zm_json_get(config, "layer_types"), (size_t)layer));
    return type && !strcmp(type, "full_attention");
}

static void add_lfm2_operator(zm_synth_plan *plan, const sizes *s, int layer) {
    if (is_lfm2_attention(plan->config, layer)) {
        add_attention(plan, s, layer, "self_attn.out_proj");
        add_head_norm(plan, s, layer, "self_attn.q_layernorm");
        add_head_norm(plan, s, layer, "self_attn.k_layernorm");
        return;
    }
    bool bias = s->conv_bias;
    zm_synth_add_layer_linear(plan, layer, "conv.in_proj",
                              (zm_synth_linear){.out = 3 * s->hidden, .in = s->hidden, .bias = bias, .gain = 1});
    zm_synth_add_layer_linear(plan, layer, "conv.out_proj",
                              (zm_synth_linear){.out = s->hidden, .in = s->hidden, .bias = bias, .gain = 1});
    const char *conv = zm_synth_in_layer(plan, layer, "conv.conv");
    zm_synth_add_values(plan, conv, "weight", (int[3]){s->hidden, s->conv_taps, 1}, ZM_SYNTH_BFLOAT16, 0, 0.6);
    if (bias) zm_synth_add_values(plan, conv, "bias", (int[3]){s->hidden}, ZM_SYNTH_BFLOAT16, 0, 0.1);
}

static zmlx_status plan_lfm2(zm_synth_plan *plan, sizes *s, zmlx_error *error) {
    static const char *const plain[3] = {"w1", "w3", "w2"};
    bool uses_bias = s->experts && json_is_true(zm_json_get(plan->config, "use_expert_bias"));
    int n_attention = 0;
    for (int layer = 0; layer < s->layers; layer++) n_attention += is_lfm2_attention(plan->config, layer);
    if (!n_attention && plan->is_cut) /* else the family tells what is wrong with the config */
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "layers", "none of the first %d layers has attention; take more",
                       s->layers);
    for (int layer = 0; layer < s->layers; layer++) {
        zm_synth_add_layer_norm(plan, layer, "operator_norm", s->hidden);
        zm_synth_add_layer_norm(plan, layer, "ffn_norm", s->hidden);
        add_lfm2_operator(plan, s, layer);
        if (!s->experts || layer < s->dense_layers) {
            add_mlp(plan, s, layer, "feed_forward", s->experts ? projections : plain);
            continue;
        }
        add_router(plan, s, layer, "feed_forward.gate", false, true);
        add_experts(plan, s, layer, "feed_forward.switch_mlp");
        if (uses_bias)
            zm_synth_add_values(plan, zm_synth_in_layer(plan, layer, "feed_forward.expert_bias"), "",
                                (int[3]){s->experts}, ZM_SYNTH_FLOAT32, 0, 0.05);
    }
    zm_synth_add_norm(plan, "model.embedding_norm", s->hidden, 1);
    return ZMLX_OK;
}

/* llama, qwen3, qwen3_moe, qwen3_next, qwen3_5, mixtral, gpt_oss: what differs is in sizes and the feed-forward. */
static void add_feed_forward(zm_synth_plan *plan, const sizes *s, int layer, const char *model_type) {
    bool sparse = s->experts &&
                  (s->all_sparse || (!lists_layer(zm_json_get(plan->config, "mlp_only_layers"), layer) &&
                                     (layer + 1) % s->sparse_step == 0));
    if (!sparse) {
        add_mlp(plan, s, layer, "mlp", projections);
    } else if (!strcmp(model_type, "mixtral")) {
        add_router(plan, s, layer, "block_sparse_moe.gate", false, false);
        add_experts(plan, s, layer, "block_sparse_moe.switch_mlp");
    } else if (plan->is_mxfp4) {
        add_router(plan, s, layer, "mlp.router", true, true);
        add_experts(plan, s, layer, "mlp.experts");
    } else {
        add_router(plan, s, layer, "mlp.gate", false, true);
        add_experts(plan, s, layer, "mlp.switch_mlp");
        if (s->shared_intermediate) add_shared_expert(plan, s, layer);
    }
}

/* Sliding and full attention in turn is only understood of an even number of layers. */
static zmlx_status complete_layer_types(zm_synth_plan *plan, int n_layers, zmlx_error *error) {
    if (n_layers < 2 && plan->is_cut) /* else the family tells */
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "layers", "at least 2 layers are needed, one of each attention");
    if (zm_json_get(plan->config, "layer_types")) return ZMLX_OK;
    json_t *types = json_array();
    for (int i = 0; i < n_layers; i++)
        if (json_array_append_new(types, json_string(i % 2 ? "full_attention" : "sliding_attention")))
            plan->out_of_memory = true;
    return json_object_set_new(plan->config.value, "layer_types", types) ? zm_fail_memory(error) : ZMLX_OK;
}

static void add_operator(zm_synth_plan *plan, const sizes *s, int layer) {
    if (s->full_attention_interval && (layer + 1) % s->full_attention_interval) {
        add_delta_net(plan, s, layer);
        return;
    }
    add_attention(plan, s, layer, "self_attn.o_proj");
    if (s->qk_norm) add_head_norm(plan, s, layer, "self_attn.q_norm");
    if (s->qk_norm) add_head_norm(plan, s, layer, "self_attn.k_norm");
    if (plan->is_mxfp4)
        zm_synth_add_values(plan, zm_synth_in_layer(plan, layer, "self_attn.sinks"), "", (int[3]){s->heads},
                            ZM_SYNTH_BFLOAT16, 0, 1);
}

static zmlx_status plan_transformer(zm_synth_plan *plan, sizes *s, const char *model_type, zmlx_error *error) {
    if (plan->is_mxfp4) ZM_TRY(complete_layer_types(plan, s->layers, error));
    for (int layer = 0; layer < s->layers; layer++) {
        zm_synth_add_layer_norm(plan, layer, "input_layernorm", s->hidden);
        zm_synth_add_layer_norm(plan, layer, "post_attention_layernorm", s->hidden);
        add_operator(plan, s, layer);
        add_feed_forward(plan, s, layer, model_type);
    }
    zm_synth_add_norm(plan, "model.norm", s->hidden, 1);
    if (!s->tied) zm_synth_add_linear(plan, "lm_head", (zm_synth_linear){.out = s->vocab, .in = s->hidden, .gain = 1});
    return ZMLX_OK;
}

typedef struct size_field {
    const char *key;
    int *value;
    int maximum, fallback; /* fallback -1: required */
} size_field;

static zmlx_status read_fields(const size_field *fields, int count, zm_json_object config, zmlx_error *error) {
    for (int i = 0; i < count; i++) {
        int64_t value;
        if (fields[i].fallback < 0)
            ZM_TRY(zm_json_int(&value, config, fields[i].key, 1, fields[i].maximum, error));
        else
            ZM_TRY(zm_json_int_or(&value, config, fields[i].key, 0, fields[i].maximum, fields[i].fallback, error));
        *fields[i].value = (int)value;
    }
    return ZMLX_OK;
}

static zmlx_status read_flags(sizes *s, zm_json_object config, const char *model_type, zmlx_error *error) {
    bool is_llama = !strcmp(model_type, "llama"), is_gpt_oss = !strcmp(model_type, "gpt_oss");
    ZM_TRY(zm_json_bool_or(&s->tied, config, "tie_word_embeddings", is_llama, error));
    ZM_TRY(zm_json_bool_or(&s->attention_bias, config, "attention_bias", is_gpt_oss, error));
    ZM_TRY(zm_json_bool_or(&s->mlp_bias, config, "mlp_bias", false, error));
    ZM_TRY(zm_json_bool_or(&s->conv_bias, config, "conv_bias", false, error));
    s->qk_norm = !strncmp(model_type, "qwen3", 5) || !strncmp(model_type, "lfm2", 4);
    if (is_gpt_oss) s->tied = false, s->attention_bias = true;
    if (!is_llama && !is_gpt_oss && !s->full_attention_interval) s->attention_bias = false;
    if (!is_llama) s->mlp_bias = false;
    return ZMLX_OK;
}

static bool is_qwen3_5(const char *model_type) { return !strncmp(model_type, "qwen3_5", strlen("qwen3_5")); }

/* What config leaves out or the family does not look at. */
static void read_heads(sizes *s, zm_json_object config, const char *model_type) {
    bool is_gpt_oss = !strcmp(model_type, "gpt_oss"), is_mixtral = !strcmp(model_type, "mixtral");
    bool has_default = is_gpt_oss || is_qwen3_5(model_type) ||
                       (is_mixtral && !json_object_get(config.value, "num_key_value_heads"));
    if (!s->kv_heads) s->kv_heads = has_default ? 8 : s->heads;
    if (!s->head_dim && is_gpt_oss) s->head_dim = 64;
    if (!s->head_dim || is_mixtral || !strncmp(model_type, "lfm2", 4)) s->head_dim = s->hidden / s->heads;
}

static zmlx_status read_delta_net(sizes *s, zm_json_object config, zmlx_error *error) {
    const size_field fields[] = {
        {"full_attention_interval", &s->full_attention_interval, MAX_LAYERS, 4},
        {"linear_num_key_heads", &s->k_heads, 4096, -1},
        {"linear_num_value_heads", &s->v_heads, 4096, -1},
        {"linear_key_head_dim", &s->k_dim, 65536, -1},
        {"linear_value_head_dim", &s->v_dim, 65536, -1},
        {"linear_conv_kernel_dim", &s->conv_taps, 1024, -1},
        {"shared_expert_intermediate_size", &s->shared_intermediate, MAX_SIZE, 0},
    };
    return read_fields(fields, sizeof fields / sizeof fields[0], config, error);
}

static zmlx_status read_sizes(sizes *s, zm_json_object config, const char *model_type, zmlx_error *error) {
    bool is_lfm2 = !strncmp(model_type, "lfm2", 4);
    const char *experts_key =
        !strcmp(model_type, "mixtral") || !strcmp(model_type, "gpt_oss") ? "num_local_experts" : "num_experts";
    bool has_delta_nets = !strcmp(model_type, "qwen3_next") || is_qwen3_5(model_type);
    bool has_experts = strcmp(model_type, "llama") && strcmp(model_type, "qwen3") && strcmp(model_type, "lfm2");
    const size_field fields[] = {
        {"vocab_size", &s->vocab, MAX_VOCAB, -1},
        {"hidden_size", &s->hidden, MAX_SIZE, -1},
        {"num_hidden_layers", &s->layers, MAX_LAYERS, -1},
        {"num_attention_heads", &s->heads, 4096, -1},
        {"num_key_value_heads", &s->kv_heads, 4096, 0},
        {"head_dim", &s->head_dim, 65536, 0},
        {"intermediate_size", &s->intermediate, MAX_SIZE, 0},
        {experts_key, &s->experts, MAX_EXPERTS, has_experts && !has_delta_nets ? -1 : 0},
        {"moe_intermediate_size", &s->expert_intermediate, MAX_SIZE, 0},
        {"conv_L_cache", &s->conv_taps, 1024, is_lfm2 ? -1 : 0},
        {"num_dense_layers", &s->dense_layers, MAX_LAYERS, 0},
        {"decoder_sparse_step", &s->sparse_step, MAX_LAYERS, 1},
    };
    ZM_TRY(read_fields(fields, sizeof fields / sizeof fields[0], config, error));
    if (!has_experts) s->experts = 0;
    if (has_delta_nets) ZM_TRY(read_delta_net(s, config, error));
    s->is_interleaved = has_delta_nets && !is_qwen3_5(model_type);
    s->all_sparse = is_qwen3_5(model_type) || !strcmp(experts_key, "num_local_experts");
    if (is_qwen3_5(model_type) && !s->intermediate) s->intermediate = 14336; /* the family's default */
    read_heads(s, config, model_type);
    if (!s->expert_intermediate || !strcmp(experts_key, "num_local_experts")) s->expert_intermediate = s->intermediate;
    if (!s->sparse_step) s->sparse_step = 1;
    return read_flags(s, config, model_type, error);
}

/* lfm2's width: block_ff_dim or intermediate_size, adjusted and rounded up to a multiple. */
static zmlx_status read_lfm2_width(sizes *s, zm_json_object config, zmlx_error *error) {
    int64_t width, multiple;
    bool adjust;
    double multiplier;
    ZM_TRY(zm_json_int_or(&width, config, "block_ff_dim", 1, MAX_SIZE, s->intermediate, error));
    ZM_TRY(zm_json_bool_or(&adjust, config, "block_auto_adjust_ff_dim", false, error));
    ZM_TRY(zm_json_int_or(&multiple, config, "block_multiple_of", 1, MAX_SIZE, 1, error));
    ZM_TRY(zm_json_number_or(&multiplier, config, "block_ffn_dim_multiplier", 1, error));
    if (adjust) {
        double adjusted = floor(multiplier * (double)(2 * width / 3));
        if (!(adjusted >= 1 && adjusted <= MAX_SIZE))
            return zm_fail(error, ZMLX_ERROR_FORMAT, config.file, "block_ffn_dim_multiplier gives no valid size");
        width = ((int64_t)adjusted + multiple - 1) / multiple * multiple;
    }
    s->intermediate = (int)width;
    return ZMLX_OK;
}

static zmlx_status start_quantization(zm_synth_plan *plan, zmlx_error *error) {
    json_t *config = plan->config.value;
    json_object_del(config, "quantization");
    json_object_del(config, "quantization_config");
    if (plan->bits == 16 && !plan->is_mxfp4) return ZMLX_OK;
    plan->entries = plan->is_mxfp4 ? json_pack("{s:i, s:i, s:s}", "group_size", 32, "bits", 4, "mode", "mxfp4")
                                   : json_pack("{s:i, s:i, s:s}", "group_size", plan->group_size, "bits", plan->bits,
                                               "mode", "affine");
    if (json_object_set_new(config, "quantization", plan->entries)) return zm_fail_memory(error);
    return ZMLX_OK;
}

/* Keeps the sum below what a file offset holds. */
static zmlx_status check_total(const zm_synth_plan *plan, zmlx_error *error) {
    double total = 0;
    for (size_t i = 0; i < plan->n_tensors; i++) {
        double product = zm_synth_element_bytes(plan->tensors[i].fill);
        for (int d = 0; d < plan->tensors[i].n_dims; d++) product *= plan->tensors[i].shape[d];
        total += product;
    }
    if (plan->out_of_memory) return zm_fail_memory(error);
    if (total > 1e15)
        return zm_fail(error, ZMLX_ERROR_FORMAT, plan->config.file, "the sizes make %.3g bytes of tensors", total);
    return ZMLX_OK;
}

/* What loading asks of a config besides what the family does. */
static zmlx_status check_general(zm_json_object config, zmlx_error *error) {
    int64_t positions;
    zm_json_object object = {zm_family_sizes(config.value), config.file};
    if (zm_json_get(config, "model_file"))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, config.file, "model_file: a model's own code is not run");
    return zm_json_int_or(&positions, object, "max_position_embeddings", 1, INT32_MAX, 0, error);
}

static zmlx_status add_tensors(zm_synth_plan *plan, const char *model_type, zmlx_error *error) {
    sizes s = {0};
    zm_json_object object = {zm_family_sizes(plan->config.value), plan->config.file};
    ZM_TRY(read_sizes(&s, object, model_type, error));
    bool is_lfm2 = !strncmp(model_type, "lfm2", 4);
    if (!strcmp(model_type, "lfm2")) ZM_TRY(read_lfm2_width(&s, plan->config, error));
    if (!s.head_dim || !s.intermediate || (s.experts && !s.expert_intermediate))
        return zm_fail(error, ZMLX_ERROR_FORMAT, plan->config.file, "head_dim or intermediate_size is missing or 0");
    plan->is_mxfp4 = !strcmp(model_type, "gpt_oss");
    ZM_TRY(start_quantization(plan, error));
    zm_synth_add_linear(plan, "model.embed_tokens", (zm_synth_linear){.out = s.vocab, .in = s.hidden, .gain = 1});
    return is_lfm2 ? plan_lfm2(plan, &s, error) : plan_transformer(plan, &s, model_type, error);
}

zmlx_status zm_synth_plan_make(zm_synth_plan *plan, zmlx_error *error) {
    const zm_family *family;
    ZM_TRY(zm_family_of(&family, plan->config, error));
    ZM_TRY(check_general(plan->config, error));
    /* Whose tensors it has: mistral and others are llamas. */
    const char *model_type = strcmp(family->group, "llama") ? family->model_type : "llama";
    plan->prefix = is_qwen3_5(model_type) ? "language_model." : "";
    if (!strcmp(family->group, "glm") || !strcmp(family->group, "deepseek")) {
        ZM_TRY(start_quantization(plan, error));
        ZM_TRY(zm_synth_add_grouped(plan, model_type, error));
    } else {
        ZM_TRY(add_tensors(plan, model_type, error));
    }
    ZM_TRY(check_total(plan, error));
    return zm_family_check(family, plan->config, error);
}
