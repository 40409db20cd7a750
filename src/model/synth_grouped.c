/* SPDX-License-Identifier: MIT */
/* The tensors of glm4_moe, glm4_moe_lite and deepseek_v3. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/synth_tensors.h"

enum { MAX_SIZE = 1 << 20, MAX_VOCAB = 1 << 24, MAX_LAYERS = 1024, MAX_HEADS = 4096, MAX_EXPERTS = 4096 };

typedef struct sizes {
    int vocab, hidden, layers, heads, kv_heads, head_dim, intermediate;
    int experts, shared, expert_intermediate, dense_layers, layer_freq;
    int q_rank, kv_rank, nope, rope, value_dim; /* of latent attention */
    bool bias, qk_norm;
} sizes;

typedef struct size_field {
    const char *key;
    int *value;
    int minimum, maximum;
} size_field;

static zmlx_status read_fields(const size_field *fields, size_t count, zm_json_object config, zmlx_error *error) {
    for (size_t i = 0; i < count; i++) {
        int64_t value;
        ZM_TRY(zm_json_int(&value, config, fields[i].key, fields[i].minimum, fields[i].maximum, error));
        *fields[i].value = (int)value;
    }
    return ZMLX_OK;
}

/* null: 0. */
static zmlx_status read_optional(int *value, zm_json_object config, const char *key, int maximum, zmlx_error *error) {
    *value = 0;
    size_field field = {key, value, 1, maximum};
    return json_is_null(json_object_get(config.value, key)) ? ZMLX_OK : read_fields(&field, 1, config, error);
}

static zmlx_status read_experts(sizes *s, zm_json_object config, bool is_latent, zmlx_error *error) {
    const size_field fields[] = {
        {"moe_intermediate_size", &s->expert_intermediate, 1, MAX_SIZE},
        {"first_k_dense_replace", &s->dense_layers, 0, MAX_LAYERS},
    };
    int64_t layer_freq = 1;
    ZM_TRY(read_optional(&s->experts, config, "n_routed_experts", MAX_EXPERTS, error));
    if (!s->experts) return ZMLX_OK;
    ZM_TRY(read_optional(&s->shared, config, "n_shared_experts", MAX_EXPERTS, error));
    if (is_latent) ZM_TRY(zm_json_int_or(&layer_freq, config, "moe_layer_freq", 1, MAX_LAYERS, 1, error));
    s->layer_freq = (int)layer_freq;
    ZM_TRY(read_fields(fields, sizeof fields / sizeof *fields, config, error));
    if (s->shared <= MAX_SIZE / s->expert_intermediate) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_FORMAT, config.file, "its shared experts are too large");
}

static zmlx_status read_attention(sizes *s, zm_json_object config, bool is_latent, zmlx_error *error) {
    const size_field latent[] = {
        {"kv_lora_rank", &s->kv_rank, 1, MAX_SIZE},
        {"qk_nope_head_dim", &s->nope, 1, MAX_SIZE},
        {"qk_rope_head_dim", &s->rope, 1, MAX_SIZE},
        {"v_head_dim", &s->value_dim, 1, MAX_SIZE},
    };
    const size_field plain[] = {
        {"num_key_value_heads", &s->kv_heads, 1, MAX_HEADS},
        {"head_dim", &s->head_dim, 1, MAX_SIZE},
    };
    ZM_TRY(zm_json_bool_or(&s->bias, config, "attention_bias", false, error));
    if (is_latent) {
        ZM_TRY(read_optional(&s->q_rank, config, "q_lora_rank", MAX_SIZE, error));
        return read_fields(latent, sizeof latent / sizeof *latent, config, error);
    }
    ZM_TRY(zm_json_bool_or(&s->qk_norm, config, "use_qk_norm", false, error));
    return read_fields(plain, sizeof plain / sizeof *plain, config, error);
}

static zmlx_status read_sizes(sizes *s, zm_json_object config, bool is_latent, zmlx_error *error) {
    const size_field fields[] = {
        {"vocab_size", &s->vocab, 1, MAX_VOCAB},
        {"hidden_size", &s->hidden, 1, MAX_SIZE},
        {"num_hidden_layers", &s->layers, 1, MAX_LAYERS},
        {"num_attention_heads", &s->heads, 1, MAX_HEADS},
        {"intermediate_size", &s->intermediate, 1, MAX_SIZE},
    };
    ZM_TRY(read_fields(fields, sizeof fields / sizeof *fields, config, error));
    ZM_TRY(read_attention(s, config, is_latent, error));
    ZM_TRY(read_experts(s, config, is_latent, error));
    int most_heads = s->heads > s->kv_heads ? s->heads : s->kv_heads;
    if ((double)most_heads * (s->nope + s->rope + s->value_dim + s->head_dim) <= MAX_VOCAB) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_FORMAT, config.file, "its heads are too large");
}

static void add_attention(zm_synth_plan *plan, const sizes *s, int layer) {
    int q = s->heads * s->head_dim, kv = s->kv_heads * s->head_dim;
    double gain = s->qk_norm ? 1 : ZM_SYNTH_QUERY_GAIN;
    const zm_synth_linear to_queries = {.out = q, .in = s->hidden, .bias = s->bias, .gain = gain};
    const zm_synth_linear to_keys = {.out = kv, .in = s->hidden, .bias = s->bias, .gain = gain};
    const zm_synth_linear to_values = {.out = kv, .in = s->hidden, .bias = s->bias, .gain = 1};
    const zm_synth_linear to_hidden = {.out = s->hidden, .in = q, .gain = 1};
    zm_synth_add_layer_linear(plan, layer, "self_attn.q_proj", to_queries);
    zm_synth_add_layer_linear(plan, layer, "self_attn.k_proj", to_keys);
    zm_synth_add_layer_linear(plan, layer, "self_attn.v_proj", to_values);
    zm_synth_add_layer_linear(plan, layer, "self_attn.o_proj", to_hidden);
    if (!s->qk_norm) return;
    zm_synth_add_norm(plan, zm_synth_in_layer(plan, layer, "self_attn.q_norm"), s->head_dim, ZM_SYNTH_QUERY_GAIN);
    zm_synth_add_norm(plan, zm_synth_in_layer(plan, layer, "self_attn.k_norm"), s->head_dim, ZM_SYNTH_QUERY_GAIN);
}

/* embed_q is used along its rows, too: a key's size is its gain times sqrt(kv_rank / nope). */
static void add_latent_attention(zm_synth_plan *plan, const sizes *s, int layer) {
    int q = s->heads * (s->nope + s->rope);
    double key_gain = ZM_SYNTH_QUERY_GAIN * sqrt((double)s->nope / s->kv_rank);
    const zm_synth_linear to_rank = {.out = s->q_rank, .in = s->hidden, .bias = s->bias, .gain = 1};
    const zm_synth_linear from_rank = {.out = q, .in = s->q_rank, .gain = ZM_SYNTH_QUERY_GAIN};
    const zm_synth_linear to_queries = {.out = q, .in = s->hidden, .gain = ZM_SYNTH_QUERY_GAIN};
    const zm_synth_linear to_latent = {.out = s->kv_rank + s->rope, .in = s->hidden, .bias = s->bias, .gain = 1};
    const zm_synth_linear keys = {.experts = s->heads, .out = s->kv_rank, .in = s->nope, .gain = key_gain};
    const zm_synth_linear values = {.experts = s->heads, .out = s->value_dim, .in = s->kv_rank, .gain = 1};
    const zm_synth_linear to_hidden = {.out = s->hidden, .in = s->heads * s->value_dim, .bias = s->bias, .gain = 1};
    if (s->q_rank) {
        zm_synth_add_layer_linear(plan, layer, "self_attn.q_a_proj", to_rank);
        zm_synth_add_layer_norm(plan, layer, "self_attn.q_a_layernorm", s->q_rank);
        zm_synth_add_layer_linear(plan, layer, "self_attn.q_b_proj", from_rank);
    } else {
        zm_synth_add_layer_linear(plan, layer, "self_attn.q_proj", to_queries);
    }
    zm_synth_add_layer_linear(plan, layer, "self_attn.kv_a_proj_with_mqa", to_latent);
    zm_synth_add_layer_norm(plan, layer, "self_attn.kv_a_layernorm", s->kv_rank);
    zm_synth_add_layer_linear(plan, layer, "self_attn.embed_q", keys);
    zm_synth_add_layer_linear(plan, layer, "self_attn.unembed_out", values);
    zm_synth_add_layer_linear(plan, layer, "self_attn.o_proj", to_hidden);
}

static void add_gated(zm_synth_plan *plan, int layer, const char *path, int experts, int hidden, int width) {
    static const char *const projections[3] = {"gate_proj", "up_proj", "down_proj"};
    for (int i = 0; i < 3; i++) {
        char name[64];
        snprintf(name, sizeof name, "%s.%s", path, projections[i]);
        zm_synth_linear map = {.experts = experts, .out = width, .in = hidden, .gain = 1};
        if (i == 2) map.out = hidden, map.in = width;
        zm_synth_add_layer_linear(plan, layer, name, map);
    }
}

/* Routers of this kind are never quantised. */
static void add_feed_forward(zm_synth_plan *plan, const sizes *s, int layer) {
    if (!s->experts || layer < s->dense_layers || layer % s->layer_freq) {
        add_gated(plan, layer, "mlp", 0, s->hidden, s->intermediate);
        return;
    }
    const char *router = zm_synth_in_layer(plan, layer, "mlp.gate");
    zm_synth_add_values(plan, router, "weight", (int[3]){s->experts, s->hidden}, ZM_SYNTH_BFLOAT16, 0,
                        2 / sqrt(s->hidden));
    zm_synth_add_values(plan, router, "e_score_correction_bias", (int[3]){s->experts}, ZM_SYNTH_FLOAT32, 0, 0.05);
    add_gated(plan, layer, "mlp.switch_mlp", s->experts, s->hidden, s->expert_intermediate);
    if (!s->shared) return;
    add_gated(plan, layer, "mlp.shared_experts", 0, s->hidden, s->shared * s->expert_intermediate);
}

zmlx_status zm_synth_add_grouped(zm_synth_plan *plan, const char *model_type, zmlx_error *error) {
    bool is_latent = strcmp(model_type, "glm4_moe") != 0;
    sizes s = {0};
    ZM_TRY(read_sizes(&s, plan->config, is_latent, error));
    zm_synth_linear table = {.out = s.vocab, .in = s.hidden, .gain = 1};
    zm_synth_add_linear(plan, "model.embed_tokens", table);
    for (int layer = 0; layer < s.layers; layer++) {
        zm_synth_add_layer_norm(plan, layer, "input_layernorm", s.hidden);
        zm_synth_add_layer_norm(plan, layer, "post_attention_layernorm", s.hidden);
        if (is_latent)
            add_latent_attention(plan, &s, layer);
        else
            add_attention(plan, &s, layer);
        add_feed_forward(plan, &s, layer);
    }
    zm_synth_add_norm(plan, "model.norm", s.hidden, 1);
    zm_synth_add_linear(plan, "lm_head", table);
    return ZMLX_OK;
}
