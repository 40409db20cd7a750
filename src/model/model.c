/* SPDX-License-Identifier: MIT */
/* Loading a folder into a zmlx_model: device and type, tree, tokenizer, EOS set. */
#include "model/model.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/limits.h"
#include "base/text.h"
#include "mlx/streams.h"

static bool gpu_available(void) {
    mlx_device device = mlx_device_new_type(MLX_GPU, 0);
    bool available = false;
    int failed = mlx_device_is_available(&available, device);
    mlx_device_free(device);
    return !failed && available;
}

static zmlx_status check_options(const char *folder, const zmlx_model_options *options, zmlx_error *error) {
    if (!folder) return zm_fail_null(error, "folder");
    if ((int)options->device < 0 || options->device > ZMLX_DEVICE_GPU)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "device", "%d is none", (int)options->device);
    if ((int)options->dtype < 0 || options->dtype > ZMLX_DTYPE_BFLOAT16)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "dtype", "%d is none", (int)options->dtype);
    return ZMLX_OK;
}

static zmlx_status choose_device(zmlx_model *model, const zmlx_model_options *options, zmlx_error *error) {
    bool has_gpu = gpu_available();
    if (options->device == ZMLX_DEVICE_GPU && !has_gpu)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "device",
                       "this MLX has no GPU backend or finds no GPU");
    bool use_gpu = options->device == ZMLX_DEVICE_GPU || (options->device == ZMLX_DEVICE_DEFAULT && has_gpu);
    model->device = use_gpu ? ZMLX_DEVICE_GPU : ZMLX_DEVICE_CPU;
    model->info.device = use_gpu ? "gpu" : "cpu";
    return zm_stream_new(&model->stream, use_gpu ? MLX_GPU : MLX_CPU, error);
}

static void choose_dtype(zmlx_model *model, const zmlx_model_options *options, mlx_dtype stored) {
    switch (options->dtype) {
    case ZMLX_DTYPE_FLOAT32: model->dtype = MLX_FLOAT32; break;
    case ZMLX_DTYPE_FLOAT16: model->dtype = MLX_FLOAT16; break;
    case ZMLX_DTYPE_BFLOAT16: model->dtype = MLX_BFLOAT16; break;
    default: model->dtype = model->device == ZMLX_DEVICE_GPU ? stored : MLX_FLOAT32; break;
    }
    model->info.dtype = zm_dtype_name(model->dtype);
}

static zmlx_status count_parameters(zm_module *module, void *context, zmlx_error *error) {
    (void)error;
    zmlx_model_info *info = context;
    for (int i = 0; i < module->n_parameters; i++) {
        mlx_array array = *module->parameters[i].array;
        if (!array.ctx) continue;
        info->weight_bytes += mlx_array_nbytes(array);
        const zm_weight *weight = NULL;
        if (module->kind == ZM_MODULE_LINEAR || module->kind == ZM_MODULE_SWITCH_LINEAR ||
            module->kind == ZM_MODULE_MULTI_LINEAR)
            weight = &((zm_linear *)module)->weight;
        else if (module->kind == ZM_MODULE_EMBEDDING)
            weight = &((zm_embedding *)module)->weight;
        if (weight && zm_weight_is_quantized(weight)) {
            if (module->parameters[i].array == &weight->scales ||
                module->parameters[i].array == &weight->biases)
                continue;
            if (module->parameters[i].array == &weight->weight) {
                info->n_parameters += mlx_array_size(array) * 32 / (uint64_t)weight->quantization.bits;
                continue;
            }
        }
        info->n_parameters += mlx_array_size(array);
    }
    return ZMLX_OK;
}

static zmlx_status fill_info(zmlx_model *model, const zm_checkpoint *checkpoint, zmlx_error *error) {
    zm_decoder *decoder = model->root->decoder;
    zm_json_object config = zm_checkpoint_config(checkpoint);
    json_t *sizes = zm_family_sizes(config.value);
    if (sizes != config.value) config = (zm_json_object){sizes, "config.json: text_config"};
    int64_t positions;
    ZM_TRY(zm_json_int_or(&positions, config, "max_position_embeddings", 1, INT32_MAX, 0, error));
    model->info.model_type = model->family->model_type;
    model->info.family = model->family->group;
    model->info.n_layers = decoder->n_blocks;
    model->info.hidden_size = decoder->embed_tokens->weight.in_features;
    model->info.vocab_size = decoder->embed_tokens->weight.out_features;
    model->info.max_position_embeddings = (int)positions;
    model->info.n_threads = zm_pool_threads(model->pool);
    model->info.file_bytes = zm_checkpoint_file_bytes(checkpoint);
    return zm_module_visit(&model->root->base, count_parameters, &model->info, error);
}

static zmlx_status add_eos(zmlx_model *model, const json_t *value, const char *file, zmlx_error *error) {
    if (!json_is_integer(value) || json_integer_value(value) > INT32_MAX || json_integer_value(value) < -1)
        return zm_fail(error, ZMLX_ERROR_FORMAT, file,
                       "eos_token_id (here or in generation_config.json): expected token ids, 0 to %d",
                       INT32_MAX);
    /* -1 is written where there is none. */
    if (json_integer_value(value) >= 0)
        model->eos_tokens[model->n_eos_tokens++] = (int32_t)json_integer_value(value);
    return ZMLX_OK;
}

static zmlx_status fill_eos(zmlx_model *model, const zm_checkpoint *checkpoint, zmlx_error *error) {
    zm_json_object config = zm_checkpoint_config(checkpoint);
    const json_t *eos = zm_json_get(config, "eos_token_id");
    size_t count = json_is_array(eos) ? json_array_size(eos) : 1;
    model->eos_tokens = zm_arena_alloc(model->arena, count + 1, sizeof *model->eos_tokens);
    if (!model->eos_tokens) return zm_fail_memory(error);
    if (json_is_array(eos))
        for (size_t i = 0; i < count; i++) ZM_TRY(add_eos(model, json_array_get(eos, i), config.file, error));
    else if (eos)
        ZM_TRY(add_eos(model, eos, config.file, error));
    int32_t own = model->tokenizer ? zmlx_tokenizer_eos(model->tokenizer) : -1;
    if (own >= 0) model->eos_tokens[model->n_eos_tokens++] = own;
    return ZMLX_OK;
}

static zmlx_status load_tokenizer(zmlx_model *model, const char *folder, zmlx_error *error) {
    char *path = zm_path_join(folder, "tokenizer.json");
    if (!path) return zm_fail_memory(error);
    bool exists = zm_name_exists(path);
    free(path);
    return exists ? zmlx_tokenizer_load(&model->tokenizer, folder, error) : ZMLX_OK;
}

/* They are never less in memory. Without this the system ends the process when it is too late. */
static zmlx_status check_memory(const zmlx_model *model, uint64_t file_bytes, const char *folder, zmlx_error *error) {
    uint64_t memory = zm_memory_bytes();
    if (model->device != ZMLX_DEVICE_CPU || !memory || file_bytes <= memory) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_MEMORY, folder, "its weights have %.1f GB; %.1f GB of memory can be used",
                   1e-9 * (double)file_bytes, 1e-9 * (double)memory);
}

static zmlx_status load_checkpoint(zmlx_model *model, const char *folder, const zmlx_model_options *options,
                                   zmlx_error *error) {
    zm_checkpoint *checkpoint;
    ZM_TRY(zm_checkpoint_open(&checkpoint, folder, MLX_FLOAT32, model->stream, error));
    choose_dtype(model, options, zm_checkpoint_stored_dtype(checkpoint));
    zm_checkpoint_set_dtype(checkpoint, model->dtype);
    zm_checkpoint_set_progress(checkpoint, options->progress, options->progress_context);
    zmlx_status status = check_memory(model, zm_checkpoint_file_bytes(checkpoint), folder, error);
    if (!status) status = zm_family_of(&model->family, zm_checkpoint_config(checkpoint), error);
    if (!status) status = load_tokenizer(model, folder, error);
    if (!status) status = fill_eos(model, checkpoint, error);
    if (!status) status = model->family->build(&model->root, checkpoint, model->arena, error);
    if (!status) status = zm_checkpoint_finish(checkpoint, error);
    if (!status) status = fill_info(model, checkpoint, error);
    zm_checkpoint_free(checkpoint);
    return status;
}

/* The families name config.json, modules and tensors without their folder. */
static void name_folder(zmlx_error *error, const char *folder) {
    static const char name[] = "config.json";
    if (!error || !zm_folder_exists(folder)) return;
    const char *where = error->where;
    char after = zm_starts_with(where, name) ? where[sizeof name - 1] : '?';
    zm_text text = {0};
    if (!after || after == ':') {
        char *path = zm_path_join(folder, where);
        if (path) zm_text_append_string(&text, path);
        free(path);
    } else if (!strchr(where, '/') && (zm_starts_with(where, "model.") || zm_starts_with(where, "lm_head") ||
                                       zm_starts_with(where, "language_model."))) { /* no path */
        zm_text_printf(&text, "%s: %s", folder, where);
    }
    if (text.size) zm_error_place(error, zm_text_string(&text));
    zm_text_free(&text);
}

zmlx_status zmlx_model_load(zmlx_model **model, const char *folder, const zmlx_model_options *options,
                            zmlx_error *error) {
    *model = NULL;
    static const zmlx_model_options defaults;
    if (!options) options = &defaults;
    ZM_TRY(check_options(folder, options, error));
    zmlx_model *result = calloc(1, sizeof *result);
    if (!result) return zm_fail_memory(error);
    result->arena = zm_arena_new();
    zmlx_status status = result->arena ? ZMLX_OK : zm_fail_memory(error);
    if (!status) status = zm_mlx_version(result->mlx_version, sizeof result->mlx_version, error);
    if (!status) status = choose_device(result, options, error);
    if (!status && result->device == ZMLX_DEVICE_CPU) status = zm_check_stack(error);
    if (!status) status = zm_pool_new(&result->pool, options->n_threads, error);
    if (!status) status = load_checkpoint(result, folder, options, error);
    if (status) {
        name_folder(error, folder);
        zmlx_model_free(result);
        return status;
    }
    mlx_clear_cache();
    *model = result;
    return ZMLX_OK;
}

void zmlx_model_free(zmlx_model *model) {
    if (!model) return;
    if (model->patch_free) model->patch_free(model);
    if (model->root) zm_module_release(&model->root->base);
    zmlx_tokenizer_free(model->tokenizer);
    zm_stream_free(model->stream); /* waits for what still runs, and that may use the pool */
    zm_pool_free(model->pool);
    zm_arena_free(model->arena);
    free(model);
}

const zmlx_model_info *zmlx_model_get_info(const zmlx_model *model) { return model ? &model->info : NULL; }

const zmlx_tokenizer *zmlx_model_tokenizer(const zmlx_model *model) { return model ? model->tokenizer : NULL; }

bool zmlx_model_is_eos(const zmlx_model *model, int32_t token) {
    for (size_t i = 0; model && i < model->n_eos_tokens; i++)
        if (model->eos_tokens[i] == token) return true;
    return false;
}
