/* SPDX-License-Identifier: MIT */
#include "model/quantization.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "model/family.h"

/* Default group size and bits of each mode; a mode other than affine allows no others. */
static const zm_quantization modes[] = {
    {.group_size = 64, .bits = 4, .mode = "affine"},
    {.group_size = 32, .bits = 4, .mode = "mxfp4"},
    {.group_size = 16, .bits = 4, .mode = "nvfp4"},
    {.group_size = 32, .bits = 8, .mode = "mxfp8"},
};
enum { N_MODES = sizeof modes / sizeof modes[0] };

bool zm_quantization_is_affine(zm_quantization quantization) { return quantization.mode == modes[0].mode; }

static const zm_quantization *find_mode(const char *name) {
    for (int i = 0; i < N_MODES; i++)
        if (!strcmp(modes[i].mode, name)) return &modes[i];
    return NULL;
}

static zmlx_status check(zm_quantization quantization, const char *where, zmlx_error *error) {
    int group_size = quantization.group_size, bits = quantization.bits;
    bool valid;
    if (zm_quantization_is_affine(quantization)) {
        valid = (group_size == 32 || group_size == 64 || group_size == 128) &&
                ((bits >= 2 && bits <= 6) || bits == 8);
    } else {
        const zm_quantization *mode = find_mode(quantization.mode);
        valid = group_size == mode->group_size && bits == mode->bits;
    }
    if (!valid)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, where,
                       "%d bits with group size %d are not supported in mode %s", bits, group_size,
                       quantization.mode);
    return ZMLX_OK;
}

/* Reads group_size, bits and mode; required: the first two must be there. Absent or null, they
 * are the mode's defaults. */
static zmlx_status read_parameters(zm_quantization *quantization, zm_json_object object, bool required,
                                   zmlx_error *error) {
    const char *mode_name = "affine";
    if (zm_json_get(object, "mode")) ZM_TRY(zm_json_string(&mode_name, object, "mode", error));
    const zm_quantization *mode = find_mode(mode_name);
    if (!mode)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, object.file,
                       "quantisation mode '%.40s' is not supported", mode_name);
    int64_t group_size, bits;
    if (required && !json_object_get(object.value, "group_size"))
        return zm_json_int(&group_size, object, "group_size", 1, 65536, error);
    if (required && !json_object_get(object.value, "bits")) return zm_json_int(&bits, object, "bits", 1, 64, error);
    ZM_TRY(zm_json_int_or(&group_size, object, "group_size", 1, 65536, mode->group_size, error));
    ZM_TRY(zm_json_int_or(&bits, object, "bits", 1, 64, mode->bits, error));
    *quantization = (zm_quantization){.group_size = (int)group_size, .bits = (int)bits, .mode = mode->mode};
    return check(*quantization, object.file, error);
}

/* Whether the family makes plain or affine weights of fp8 blocks and int4 packs (arch/latent_weights.h). */
static bool rewrites_weights(zm_json_object config) {
    const char *model_type = json_string_value(json_object_get(config.value, "model_type"));
    const zm_family *family = model_type ? zm_family_find(model_type) : NULL;
    return family && !strcmp(family->group, "deepseek");
}

static bool is_square(const json_t *sizes, int size) {
    return json_array_size(sizes) == 2 && json_integer_value(json_array_get(sizes, 0)) == size &&
           json_integer_value(json_array_get(sizes, 1)) == size;
}

static zmlx_status read_method(zm_quantization_rules *rules, zm_json_object config, zm_json_object foreign,
                               zmlx_error *error) {
    const char *method;
    ZM_TRY(zm_json_string(&method, foreign, "quant_method", error));
    if (rewrites_weights(config)) {
        enum { FP8_BLOCK = 128 };
        const char *format = json_string_value(json_object_get(foreign.value, "format"));
        if (!strcmp(method, "fp8") && is_square(json_object_get(foreign.value, "weight_block_size"), FP8_BLOCK))
            return ZMLX_OK;
        if (!strcmp(method, "compressed-tensors") && format && !strcmp(format, "pack-quantized")) {
            rules->defaults = (zm_quantization){.group_size = 32, .bits = 4, .mode = modes[0].mode};
            rules->entries = foreign;
            return ZMLX_OK;
        }
    }
    if (strcmp(method, "mxfp4"))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, config.file,
                       "quantisation method '%.40s' is not supported; convert the model with mlx_lm.convert",
                       method);
    rules->defaults = *find_mode("mxfp4");
    rules->entries = foreign;
    return ZMLX_OK;
}

zmlx_status zm_quantization_rules_read(zm_quantization_rules *rules, zm_json_object config,
                                       zmlx_error *error) {
    *rules = (zm_quantization_rules){0};
    if (json_is_true(zm_json_get(config, "quantize_activations")))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, config.file, "quantize_activations is not supported");
    json_t *own = zm_json_get(config, "quantization");
    if (own) {
        zm_json_object entries = {.value = own, .file = "config.json: quantization"};
        if (!json_is_object(own))
            return zm_fail(error, ZMLX_ERROR_FORMAT, entries.file, "expected an object");
        ZM_TRY(read_parameters(&rules->defaults, entries, true, error));
        rules->entries = entries;
        return ZMLX_OK;
    }
    json_t *foreign = json_object_get(config.value, "quantization_config");
    if (!foreign)
        foreign = json_object_get(json_object_get(config.value, "text_config"), "quantization_config");
    if (!foreign || json_is_null(foreign) || json_is_false(foreign)) return ZMLX_OK;
    zm_json_object object = {.value = foreign, .file = "config.json: quantization_config"};
    if (!json_is_object(foreign)) return zm_fail(error, ZMLX_ERROR_FORMAT, object.file, "expected an object");
    if (!json_object_size(foreign)) return ZMLX_OK;
    return read_method(rules, config, object, error);
}

zmlx_status zm_quantization_find(zm_quantization_kind *kind, zm_quantization *quantization,
                                 const zm_quantization_rules *rules, const char *path, zmlx_error *error) {
    *kind = rules->entries.value ? ZM_QUANTIZATION_UNNAMED : ZM_QUANTIZATION_DENSE;
    *quantization = (zm_quantization){0};
    json_t *entry = json_object_get(rules->entries.value, path);
    if (!entry) return ZMLX_OK;
    char where[256];
    snprintf(where, sizeof where, "%s: %s", rules->entries.file, path);
    if (json_is_true(entry)) {
        *kind = ZM_QUANTIZATION_GIVEN;
        *quantization = rules->defaults;
        return ZMLX_OK;
    }
    *kind = ZM_QUANTIZATION_DENSE;
    if (json_is_false(entry) || json_is_null(entry)) return ZMLX_OK;
    if (!json_is_object(entry))
        return zm_fail(error, ZMLX_ERROR_FORMAT, where, "expected an object, true or false");
    if (!json_object_size(entry)) return ZMLX_OK;
    static const char *const refused[] = {"quantize_input", "global_scale"};
    for (int i = 0; i < 2; i++)
        if (json_is_true(json_object_get(entry, refused[i])))
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, where, "%s is not supported", refused[i]);
    zm_json_object object = {.value = entry, .file = where};
    ZM_TRY(read_parameters(quantization, object, false, error));
    *kind = ZM_QUANTIZATION_GIVEN;
    return ZMLX_OK;
}

zmlx_status zm_quantization_infer(zm_quantization *quantization, int in_features, int weight_columns,
                                  int scale_columns, bool uint8_scales, const char *path, zmlx_error *error) {
    *quantization = (zm_quantization){0};
    if (in_features < 1 || scale_columns < 1 || weight_columns < 1 || in_features % scale_columns ||
        (int64_t)weight_columns * 32 % in_features || (int64_t)weight_columns * 32 / in_features > 64)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path,
                       "%d columns of weight and %d of scales fit no quantisation of %d input features",
                       weight_columns, scale_columns, in_features);
    zm_quantization result = {.group_size = in_features / scale_columns,
                              .bits = (int)((int64_t)weight_columns * 32 / in_features),
                              .mode = modes[0].mode};
    if (uint8_scales) {
        result.mode = NULL;
        for (int i = 1; i < N_MODES; i++)
            if (result.bits == modes[i].bits && result.group_size == modes[i].group_size)
                result.mode = modes[i].mode;
        if (!result.mode)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, path,
                           "no quantisation mode has %d bits, group size %d and uint8 scales", result.bits,
                           result.group_size);
    }
    ZM_TRY(check(result, path, error));
    *quantization = result;
    return ZMLX_OK;
}
