/* SPDX-License-Identifier: MIT */
/* Reading a family's config.json: ranges, and the fields several families share. Every failure is one
 * line that names the file and the field. A default is for what is absent: null is refused, as it fails in mlx-lm, but
 * where a comment says otherwise. */
#ifndef ZM_MODEL_ARCH_CONFIG_H
#define ZM_MODEL_ARCH_CONFIG_H

#include "base/arena.h"
#include "model/checkpoint.h"
#include "model/layers.h"

/* What checking a config and building a model carry along. */
typedef struct zm_builder {
    zm_checkpoint *checkpoint; /* checking: NULL */
    zm_arena *arena;
    zm_json_object config;
    mlx_stream stream; /* borrowed */
    zmlx_error *error;
} zm_builder;

enum { ZM_MAX_SIZE = 1 << 24, ZM_MAX_LAYERS = 1024, ZM_MAX_HEADS = 1 << 16, ZM_MAX_EXPERTS = 1 << 16 };

typedef struct zm_heads {
    int n_heads, n_kv_heads, head_dim;
} zm_heads;

/* How a model rotates; becomes zm_rope_parameters. */
typedef struct zm_rope_config {
    double base;
    bool traditional;
    int max_position_embeddings; /* 0: the config does not say */
    zm_json_object scaling;      /* value NULL: plain rope; file is shown in errors */
} zm_rope_config;

/* ZMLX_ERROR_FORMAT at "config.json: key". */
zmlx_status zm_config_fail(const zm_builder *builder, const char *key, const char *format, ...)
    ZM_PRINTF(3, 4);

/* An integer from 1 to maximum. */
zmlx_status zm_config_int(int *result, const zm_builder *builder, const char *key, int maximum);
zmlx_status zm_config_int_or(int *result, const zm_builder *builder, const char *key, int maximum,
                             int fallback);
/* max_position_embeddings; null: 0. */
zmlx_status zm_config_positions(int *result, const zm_builder *builder, int fallback);
zmlx_status zm_config_number_or(double *result, zm_json_object object, const char *key, double fallback,
                                zmlx_error *error);
/* A number that is greater than 0 and finite in float32 too. fallback NAN: required. */
zmlx_status zm_config_positive(double *result, zm_json_object object, const char *key, double fallback,
                               zmlx_error *error);
/* A norm's epsilon: from 0 to 1. fallback NAN: required. */
zmlx_status zm_config_epsilon(double *result, const zm_builder *builder, const char *key, double fallback);
/* num_attention_heads, num_key_value_heads and, with has_head_dim, head_dim. What is absent takes its
 * default; where that is 0, n_heads is required, and what is absent or null is n_heads (n_kv_heads) or
 * hidden_size / n_heads (head_dim). */
zmlx_status zm_config_heads(zm_heads *heads, const zm_builder *builder, int hidden_size, zm_heads defaults,
                            bool has_head_dim);
/* For each layer whether layer_types calls it name (else it must be other_name). *is_name is NULL where
 * the field is absent or null. */
zmlx_status zm_config_layer_types(bool **is_name, const zm_builder *builder, int n_layers, const char *name,
                                  const char *other_name);
/* For each layer whether it has experts, by decoder_sparse_step and mlp_only_layers; whether any has none. */
zmlx_status zm_config_moe_layers(bool **is_moe, bool *has_dense, const zm_builder *builder, int n_layers);
/* intermediate_size, which is that of dense layers. A model without any does not read it: null is 0 then. fallback 0:
 * required. */
zmlx_status zm_config_dense_size(int *result, const zm_builder *builder, bool has_dense, int fallback);
/* rope_traditional. Other booleans: null is false (base/json.h). */
zmlx_status zm_config_traditional(bool *result, const zm_builder *builder);
/* The object under key as config; value NULL where it is absent or null. */
zmlx_status zm_config_object(zm_json_object *object, const zm_builder *builder, const char *key);

/* Fills *rope for heads of dims features; rope->freqs is the caller's. */
zmlx_status zm_rope_init(zm_rope_parameters *rope, const zm_builder *builder, int dims,
                         const zm_rope_config *config);

#endif
