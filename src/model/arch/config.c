/* SPDX-License-Identifier: MIT */
#include "model/arch/config.h"

#include <float.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

zmlx_status zm_config_fail(const zm_builder *builder, const char *key, const char *format, ...) {
    char where[256], message[512];
    snprintf(where, sizeof where, "%s: %s", builder->config.file, key);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return zm_fail(builder->error, ZMLX_ERROR_FORMAT, where, "%s", message);
}

zmlx_status zm_config_int(int *result, const zm_builder *builder, const char *key, int maximum) {
    int64_t value;
    zmlx_status status = zm_json_int(&value, builder->config, key, 1, maximum, builder->error);
    *result = (int)value;
    return status;
}

zmlx_status zm_config_int_or(int *result, const zm_builder *builder, const char *key, int maximum,
                             int fallback) {
    *result = fallback;
    return json_object_get(builder->config.value, key) ? zm_config_int(result, builder, key, maximum) : ZMLX_OK;
}

zmlx_status zm_config_positions(int *result, const zm_builder *builder, int fallback) {
    static const char key[] = "max_position_embeddings";
    *result = 0;
    if (json_is_null(json_object_get(builder->config.value, key))) return ZMLX_OK;
    return zm_config_int_or(result, builder, key, 1 << 30, fallback);
}

zmlx_status zm_config_number_or(double *result, zm_json_object object, const char *key, double fallback,
                                zmlx_error *error) {
    *result = fallback;
    return json_object_get(object.value, key) ? zm_json_number(result, object, key, error) : ZMLX_OK;
}

zmlx_status zm_config_positive(double *result, zm_json_object object, const char *key, double fallback,
                               zmlx_error *error) {
    *result = fallback;
    if (isnan(fallback) || json_object_get(object.value, key)) ZM_TRY(zm_json_number(result, object, key, error));
    if (*result >= (double)FLT_MIN && *result <= 1e30) return ZMLX_OK;
    char where[256];
    snprintf(where, sizeof where, "%s: %s", object.file, key);
    return zm_fail(error, ZMLX_ERROR_FORMAT, where,
                   "expected a number greater than 0, from %.3g to 1e30, got %g", (double)FLT_MIN, *result);
}

zmlx_status zm_config_epsilon(double *result, const zm_builder *builder, const char *key, double fallback) {
    *result = fallback;
    if (isnan(fallback) || json_object_get(builder->config.value, key))
        ZM_TRY(zm_json_number(result, builder->config, key, builder->error));
    if (*result >= 0 && *result <= 1) return ZMLX_OK;
    return zm_config_fail(builder, key, "expected a number from 0 to 1, got %g", *result);
}

/* The width of all heads together must stay within the limit of a size. */
static zmlx_status check_heads(const zm_heads *heads, const zm_builder *builder) {
    if (heads->n_heads % heads->n_kv_heads)
        return zm_config_fail(builder, "num_key_value_heads", "%d does not divide num_attention_heads %d",
                              heads->n_kv_heads, heads->n_heads);
    if (heads->head_dim % 2)
        return zm_config_fail(builder, "head_dim", "%d is odd; rotary embeddings need pairs",
                              heads->head_dim);
    if (heads->head_dim > ZM_MAX_SIZE / heads->n_heads)
        return zm_config_fail(builder, "head_dim", "%d times %d heads is more than %d", heads->head_dim,
                              heads->n_heads, (int)ZM_MAX_SIZE);
    return ZMLX_OK;
}

zmlx_status zm_config_heads(zm_heads *heads, const zm_builder *builder, int hidden_size, zm_heads defaults,
                            bool has_head_dim) {
    *heads = defaults;
    if (!defaults.n_heads || json_object_get(builder->config.value, "num_attention_heads"))
        ZM_TRY(zm_config_int(&heads->n_heads, builder, "num_attention_heads", ZM_MAX_HEADS));
    if (defaults.n_kv_heads || zm_json_get(builder->config, "num_key_value_heads"))
        ZM_TRY(zm_config_int_or(&heads->n_kv_heads, builder, "num_key_value_heads", ZM_MAX_HEADS, defaults.n_kv_heads));
    else
        heads->n_kv_heads = heads->n_heads;
    if (has_head_dim && (defaults.head_dim || zm_json_get(builder->config, "head_dim")))
        ZM_TRY(zm_config_int_or(&heads->head_dim, builder, "head_dim", ZM_MAX_SIZE, defaults.head_dim));
    if (!heads->head_dim) {
        if (hidden_size % heads->n_heads)
            return zm_config_fail(builder, "num_attention_heads", "%d does not divide hidden_size %d",
                                  heads->n_heads, hidden_size);
        heads->head_dim = hidden_size / heads->n_heads;
    }
    return check_heads(heads, builder);
}

zmlx_status zm_config_layer_types(bool **is_name, const zm_builder *builder, int n_layers, const char *name,
                                  const char *other_name) {
    *is_name = NULL;
    json_t *types = zm_json_get(builder->config, "layer_types");
    if (!types) return ZMLX_OK;
    if (!json_is_array(types)) return zm_config_fail(builder, "layer_types", "expected an array of strings");
    if (json_array_size(types) != (size_t)n_layers)
        return zm_config_fail(builder, "layer_types", "has %zu entries for %d layers", json_array_size(types),
                              n_layers);
    bool *flags = zm_arena_alloc(builder->arena, (size_t)n_layers, sizeof *flags);
    if (!flags) return zm_fail_memory(builder->error);
    for (int i = 0; i < n_layers; i++) {
        const char *type = json_string_value(json_array_get(types, (size_t)i));
        flags[i] = type && !strcmp(type, name);
        if (!flags[i] && (!type || strcmp(type, other_name)))
            return zm_config_fail(builder, "layer_types", "entry %d is neither \"%s\" nor \"%s\": %.60s", i,
                                  name, other_name, type ? type : "not a string");
    }
    *is_name = flags;
    return ZMLX_OK;
}

zmlx_status zm_config_moe_layers(bool **is_moe, bool *has_dense, const zm_builder *builder, int n_layers) {
    int step;
    *is_moe = NULL;
    *has_dense = false;
    ZM_TRY(zm_config_int(&step, builder, "decoder_sparse_step", ZM_MAX_SIZE));
    json_t *dense = zm_json_get(builder->config, "mlp_only_layers");
    if (!json_is_array(dense))
        return zm_config_fail(builder, "mlp_only_layers", "expected an array of layer numbers");
    bool *flags = zm_arena_alloc(builder->arena, (size_t)n_layers, sizeof *flags);
    if (!flags) return zm_fail_memory(builder->error);
    for (int i = 0; i < n_layers; i++) flags[i] = (i + 1) % step == 0;
    for (size_t i = 0; i < json_array_size(dense); i++) {
        json_t *layer = json_array_get(dense, i);
        if (!json_is_integer(layer))
            return zm_config_fail(builder, "mlp_only_layers", "entry %zu is not a layer number", i);
        json_int_t index = json_integer_value(layer);
        if (index >= 0 && index < n_layers) flags[index] = false;
    }
    for (int i = 0; i < n_layers; i++) *has_dense = *has_dense || !flags[i];
    *is_moe = flags;
    return ZMLX_OK;
}

zmlx_status zm_config_dense_size(int *result, const zm_builder *builder, bool has_dense, int fallback) {
    static const char key[] = "intermediate_size";
    *result = 0;
    if (!has_dense && json_is_null(json_object_get(builder->config.value, key))) return ZMLX_OK;
    return fallback ? zm_config_int_or(result, builder, key, ZM_MAX_SIZE, fallback)
                    : zm_config_int(result, builder, key, ZM_MAX_SIZE);
}

zmlx_status zm_config_traditional(bool *result, const zm_builder *builder) {
    static const char key[] = "rope_traditional";
    if (json_is_null(json_object_get(builder->config.value, key)))
        return zm_config_fail(builder, key, "expected true or false, got null");
    return zm_json_bool_or(result, builder->config, key, false, builder->error);
}

zmlx_status zm_config_object(zm_json_object *object, const zm_builder *builder, const char *key) {
    *object = (zm_json_object){.value = zm_json_get(builder->config, key)};
    if (!object->value) return ZMLX_OK;
    if (!json_is_object(object->value)) {
        object->value = NULL;
        return zm_config_fail(builder, key, "expected an object");
    }
    object->file = zm_arena_printf(builder->arena, "%s: %s", builder->config.file, key);
    return object->file ? ZMLX_OK : zm_fail_memory(builder->error);
}
