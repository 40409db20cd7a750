/* SPDX-License-Identifier: MIT */
#include "model/family.h"

#include <stdio.h>
#include <string.h>

#include "base/text.h"
#include "mlx/streams.h"
#include "model/arch/config.h"

#define FAMILY(model_type, group, name)                   \
    zmlx_status zm_check_##name(const zm_builder *builder); \
    zmlx_status zm_build_##name(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, \
                                zmlx_error *error);
#include "model/families.def"
#undef FAMILY

static const zm_family *const families[] = {
#define FAMILY(model_type, group, name) \
    &(const zm_family){model_type, group, zm_check_##name, zm_build_##name},
#include "model/families.def"
#undef FAMILY
    NULL,
};

const zm_family *zm_family_find(const char *model_type) {
    for (const zm_family *const *family = families; *family; family++)
        if (!strcmp((*family)->model_type, model_type)) return *family;
    return NULL;
}

zmlx_status zm_family_of(const zm_family **family, zm_json_object config, zmlx_error *error) {
    *family = NULL;
    const char *model_type;
    ZM_TRY(zm_json_string(&model_type, config, "model_type", error));
    *family = zm_family_find(model_type);
    if (*family) return ZMLX_OK;
    char names[512] = "";
    for (const zm_family *const *known = families; *known; known++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", (*known)->model_type);
    }
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, config.file,
                   "model_type \"%.60s\" is not supported; these are: %s", model_type, names);
}

json_t *zm_family_sizes(json_t *config) {
    const char *model_type = json_string_value(json_object_get(config, "model_type"));
    json_t *text = json_object_get(config, "text_config");
    return json_is_object(text) && model_type && zm_starts_with(model_type, "qwen3_5") ? text : config;
}

zmlx_status zm_family_check(const zm_family *family, zm_json_object config, zmlx_error *error) {
    zm_builder builder = {.arena = zm_arena_new(), .config = config, .error = error};
    if (!builder.arena) return zm_fail_memory(error);
    zmlx_status status = zm_stream_new(&builder.stream, MLX_CPU, error);
    if (!status) {
        status = family->check(&builder);
        zm_stream_free(builder.stream);
    }
    zm_arena_free(builder.arena);
    return status;
}
