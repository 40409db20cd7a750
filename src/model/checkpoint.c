/* SPDX-License-Identifier: MIT */
/* Opening a checkpoint and its table of names. */
#include "model/checkpoint.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/text.h"
#include "model/checkpoint_parts.h"

void zm_checkpoint_free(zm_checkpoint *checkpoint) {
    if (!checkpoint) return;
    for (size_t i = 0; i < checkpoint->n_entries; i++) mlx_array_free(checkpoint->entries[i].array);
    free(checkpoint->entries);
    zm_map_free(checkpoint->indices);
    zm_source_release(checkpoint->source);
    json_decref(checkpoint->config);
    free(checkpoint->folder);
    zm_arena_free(checkpoint->arena);
    free(checkpoint);
}

zm_checkpoint_entry *zm_checkpoint_find(const zm_checkpoint *checkpoint, const char *name) {
    uint64_t index;
    if (!zm_map_get(checkpoint->indices, name, strlen(name), &index)) return NULL;
    zm_checkpoint_entry *entry = &checkpoint->entries[index];
    return zm_is_set(entry->array) ? entry : NULL;
}

/* The entry of that name, made if need be. */
static zmlx_status entry_for(zm_checkpoint_entry **entry, zm_checkpoint *checkpoint, const char *name,
                             zmlx_error *error) {
    uint64_t index;
    size_t length = strlen(name);
    if (!zm_map_get(checkpoint->indices, name, length, &index)) {
        index = checkpoint->n_entries;
        if (index == checkpoint->capacity) {
            size_t capacity = checkpoint->capacity ? checkpoint->capacity * 2 : 256;
            zm_checkpoint_entry *entries = realloc(checkpoint->entries, capacity * sizeof entries[0]);
            if (!entries) return zm_fail_memory(error);
            checkpoint->entries = entries;
            checkpoint->capacity = capacity;
        }
        char *copy = zm_arena_copy(checkpoint->arena, name, length);
        if (!copy || zm_map_add(checkpoint->indices, copy, length, index) < 0) return zm_fail_memory(error);
        checkpoint->entries[checkpoint->n_entries++] = (zm_checkpoint_entry){.name = copy};
    }
    *entry = &checkpoint->entries[index];
    return ZMLX_OK;
}

static zmlx_status add_tensor(zm_checkpoint *checkpoint, int file_index, const zm_tensor_header *tensor,
                              mlx_stream stream, zmlx_error *error) {
    const char *path = zm_source_path(checkpoint->source, file_index);
    const zm_checkpoint_entry *twin = zm_checkpoint_find(checkpoint, tensor->name);
    if (twin)
        return zm_fail(error, ZMLX_ERROR_FORMAT, path, "tensor '%.200s' is also in %s", tensor->name,
                       twin->file);
    zm_checkpoint_entry *entry;
    ZM_TRY(entry_for(&entry, checkpoint, tensor->name, error));
    entry->file = path;
    checkpoint->tensor_bytes += tensor->size;
    return zm_source_array(&entry->array, checkpoint->source, file_index, tensor, stream, error);
}

static zmlx_status add_file(zm_checkpoint *checkpoint, const char *name, uint64_t float_bytes[3],
                            mlx_stream stream, zmlx_error *error) {
    char *path = zm_path_join(checkpoint->folder, name);
    if (!path) return zm_fail_memory(error);
    zm_safetensors file;
    int file_index;
    zmlx_status status = zm_source_open(&file, &file_index, checkpoint->source, path, error);
    free(path);
    if (status) return status;
    checkpoint->file_bytes += file.file_size;
    for (size_t i = 0; i < file.n_tensors; i++) {
        const zm_tensor_header *tensor = &file.tensors[i];
        ZM_TRY(add_tensor(checkpoint, file_index, tensor, stream, error));
        if (tensor->dtype == MLX_BFLOAT16) float_bytes[0] += tensor->size / 2;
        if (tensor->dtype == MLX_FLOAT16) float_bytes[1] += tensor->size / 2;
        if (tensor->dtype == MLX_FLOAT32) float_bytes[2] += tensor->size / 4;
    }
    return ZMLX_OK;
}

/* Files are read on a CPU stream: the model's own where it is one. */
static zmlx_status reading_stream(mlx_stream *stream, bool *on_gpu, mlx_stream own, zmlx_error *error) {
    *stream = (mlx_stream){0};
    mlx_device device = mlx_device_new();
    mlx_device_type type = MLX_CPU;
    bool failed = mlx_stream_get_device(&device, own) || mlx_device_get_type(&type, device);
    mlx_device_free(device);
    if (!failed && type == MLX_CPU) failed = mlx_stream_set(stream, own) != 0;
    if (!failed && type != MLX_CPU) *stream = mlx_default_cpu_stream_new();
    *on_gpu = type != MLX_CPU;
    return failed || !stream->ctx ? zm_mlx_fail(error, "stream") : ZMLX_OK;
}

static zmlx_status add_files(zm_checkpoint *checkpoint, zmlx_error *error) {
    const char **names;
    size_t n_names;
    ZM_TRY(zm_checkpoint_list_files(&names, &n_names, checkpoint->folder, checkpoint->arena, error));
    mlx_stream stream;
    ZM_TRY(reading_stream(&stream, &checkpoint->on_gpu, checkpoint->stream, error));
    uint64_t counts[3] = {0}; /* elements in bfloat16, float16, float32 */
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < n_names && !status; i++)
        status = add_file(checkpoint, names[i], counts, stream, error);
    mlx_stream_free(stream);
    if (!status) status = zm_checkpoint_check_index(checkpoint, names, n_names, error);
    checkpoint->stored_dtype = MLX_FLOAT32;
    if (counts[1] > counts[2]) checkpoint->stored_dtype = MLX_FLOAT16;
    if (counts[0] > counts[1] && counts[0] > counts[2]) checkpoint->stored_dtype = MLX_BFLOAT16;
    return status;
}

static zmlx_status read_rules(zm_checkpoint *checkpoint, zmlx_error *error) {
    zm_json_object config = zm_checkpoint_config(checkpoint);
    if (zm_json_get(config, "model_file"))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, config.file,
                       "model_file: a model's own code is not run");
    ZM_TRY(zm_quantization_rules_read(&checkpoint->rules, config, error));
    if (checkpoint->rules.entries.value) return ZMLX_OK;
    char *path = zm_path_join(checkpoint->folder, "hf_quant_config.json");
    if (!path) return zm_fail_memory(error);
    bool foreign = zm_file_exists(path);
    free(path);
    if (foreign)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, checkpoint->folder,
                       "the quantisation of hf_quant_config.json is not supported; convert the model with "
                       "mlx_lm.convert");
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_open(zm_checkpoint **checkpoint, const char *folder, mlx_dtype dtype,
                               mlx_stream stream, zmlx_error *error) {
    *checkpoint = NULL;
    zm_checkpoint *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    made->dtype = dtype;
    made->stream = stream;
    made->arena = zm_arena_new();
    made->indices = zm_map_new();
    made->folder = strdup(folder);
    zmlx_status status = made->arena && made->indices && made->folder ? ZMLX_OK : zm_fail_memory(error);
    if (!status) status = zm_source_new(&made->source, error);
    if (!status) status = zm_checkpoint_load_config(&made->config, folder, error);
    if (!status) status = read_rules(made, error);
    if (!status) status = add_files(made, error);
    if (status) {
        zm_checkpoint_free(made);
        return status;
    }
    *checkpoint = made;
    return ZMLX_OK;
}

void zm_checkpoint_set_dtype(zm_checkpoint *checkpoint, mlx_dtype dtype) { checkpoint->dtype = dtype; }

void zm_checkpoint_set_progress(zm_checkpoint *checkpoint, void (*progress)(void *, uint64_t, uint64_t),
                                void *context) {
    checkpoint->progress = progress;
    checkpoint->progress_context = context;
}

zm_json_object zm_checkpoint_config(const zm_checkpoint *checkpoint) {
    return (zm_json_object){.value = checkpoint->config, .file = "config.json"};
}

mlx_stream zm_checkpoint_stream(const zm_checkpoint *checkpoint) { return checkpoint->stream; }
uint64_t zm_checkpoint_file_bytes(const zm_checkpoint *checkpoint) { return checkpoint->file_bytes; }
mlx_dtype zm_checkpoint_stored_dtype(const zm_checkpoint *checkpoint) { return checkpoint->stored_dtype; }

size_t zm_checkpoint_count(const zm_checkpoint *checkpoint) { return checkpoint->n_entries; }

const char *zm_checkpoint_name(const zm_checkpoint *checkpoint, size_t index) {
    const zm_checkpoint_entry *entry = &checkpoint->entries[index];
    return zm_is_set(entry->array) ? entry->name : "";
}

bool zm_checkpoint_has(const zm_checkpoint *checkpoint, const char *name) {
    return zm_checkpoint_find(checkpoint, name) != NULL;
}

mlx_array zm_checkpoint_get(const zm_checkpoint *checkpoint, const char *name) {
    const zm_checkpoint_entry *entry = zm_checkpoint_find(checkpoint, name);
    return entry ? entry->array : (mlx_array){0};
}

zmlx_status zm_checkpoint_put(zm_checkpoint *checkpoint, const char *name, mlx_array array,
                              zmlx_error *error) {
    zm_checkpoint_entry *entry;
    zmlx_status status = entry_for(&entry, checkpoint, name, error);
    if (status) {
        mlx_array_free(array);
        return status;
    }
    mlx_array_free(entry->array);
    entry->array = array;
    entry->file = checkpoint->folder;
    return ZMLX_OK;
}

void zm_checkpoint_remove(zm_checkpoint *checkpoint, const char *name) {
    zm_checkpoint_entry *entry = zm_checkpoint_find(checkpoint, name);
    if (!entry) return;
    mlx_array_free(entry->array);
    entry->array = (mlx_array){0};
}

static void append_replaced(zm_text *text, const char *name, const char *old_part, const char *new_part) {
    zm_text_clear(text);
    for (const char *hit; (hit = strstr(name, old_part)); name = hit + strlen(old_part)) {
        zm_text_append(text, name, (size_t)(hit - name));
        zm_text_append_string(text, new_part);
    }
    zm_text_append_string(text, name);
}

static zmlx_status rename_entry(zm_checkpoint *checkpoint, size_t index, const char *new_name,
                                zmlx_error *error) {
    const char *old_name = checkpoint->entries[index].name;
    if (!strcmp(old_name, new_name)) return ZMLX_OK;
    if (zm_checkpoint_has(checkpoint, new_name))
        return zm_fail(error, ZMLX_ERROR_FORMAT, checkpoint->entries[index].file,
                       "tensors '%.200s' and '%.200s' are the same one", old_name, new_name);
    zm_checkpoint_entry *target;
    ZM_TRY(entry_for(&target, checkpoint, new_name, error));
    zm_checkpoint_entry *source = &checkpoint->entries[index];
    target->array = source->array;
    target->file = source->file;
    source->array = (mlx_array){0};
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_move(zm_checkpoint *checkpoint, const char *name, const char *new_name, zmlx_error *error) {
    zm_checkpoint_entry *entry = zm_checkpoint_find(checkpoint, name);
    return entry ? rename_entry(checkpoint, (size_t)(entry - checkpoint->entries), new_name, error) : ZMLX_OK;
}

zmlx_status zm_checkpoint_rename(zm_checkpoint *checkpoint, const char *old_part, const char *new_part,
                                 zmlx_error *error) {
    zmlx_status status = ZMLX_OK;
    zm_text text = {0};
    size_t n_entries = checkpoint->n_entries; /* renamed ones come behind */
    for (size_t i = 0; *old_part && i < n_entries && !status; i++) {
        const char *name = zm_checkpoint_name(checkpoint, i);
        if (!strstr(name, old_part)) continue;
        append_replaced(&text, name, old_part, new_part);
        status =
            text.failed ? zm_fail_memory(error) : rename_entry(checkpoint, i, zm_text_string(&text), error);
    }
    zm_text_free(&text);
    return status;
}

/* Collects the experts' arrays, moved to scope, and checks that they fit each other. */
static zmlx_status collect_experts(mlx_array *experts, zm_checkpoint *checkpoint, const char *prefix,
                                   const char *suffix, int n_experts, zm_scope *scope, zmlx_error *error) {
    for (int i = 0; i < n_experts; i++) {
        char name[512];
        int length = snprintf(name, sizeof name, "%s.%d.%s", prefix, i, suffix);
        zm_checkpoint_entry *entry =
            length > 0 && (size_t)length < sizeof name ? zm_checkpoint_find(checkpoint, name) : NULL;
        if (!entry)
            return zm_fail(error, ZMLX_ERROR_FORMAT, checkpoint->folder, "tensor '%.400s' is missing", name);
        experts[i] = zm_scope_own(scope, entry->array);
        const char *file = entry->file;
        entry->array = (mlx_array){0};
        size_t n_dims = mlx_array_ndim(experts[i]);
        bool same = n_dims == mlx_array_ndim(experts[0]) &&
                    mlx_array_dtype(experts[i]) == mlx_array_dtype(experts[0]);
        for (size_t d = 0; same && d < n_dims; d++)
            same = mlx_array_dim(experts[i], (int)d) == mlx_array_dim(experts[0], (int)d);
        if (!same)
            return zm_fail(error, ZMLX_ERROR_FORMAT, file,
                           "tensor '%.400s' has another shape or type than that of expert 0", name);
    }
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_stack(zm_checkpoint *checkpoint, const char *prefix, const char *suffix,
                                int n_experts, const char *name, zmlx_error *error) {
    char first[512];
    int length = snprintf(first, sizeof first, "%s.0.%s", prefix, suffix);
    if (length < 0 || (size_t)length >= sizeof first || n_experts < 1 ||
        !zm_checkpoint_has(checkpoint, first))
        return ZMLX_OK;
    const zm_checkpoint_entry *twin = zm_checkpoint_find(checkpoint, name);
    if (twin)
        return zm_fail(error, ZMLX_ERROR_FORMAT, twin->file,
                       "tensors '%.200s' and '%.200s' are the same one", first, name);
    mlx_array *experts = calloc((size_t)n_experts, sizeof experts[0]);
    if (!experts) return zm_fail_memory(error);
    zm_scope scope;
    zm_scope_begin(&scope, checkpoint->stream);
    mlx_array stacked = {0};
    zmlx_status status = collect_experts(experts, checkpoint, prefix, suffix, n_experts, &scope, error);
    if (!status) zm_scope_keep(&scope, &stacked, zm_stack(&scope, experts, (size_t)n_experts, 0));
    free(experts);
    zmlx_status scope_status = zm_scope_end(&scope, status ? NULL : error);
    if (!status) status = scope_status;
    if (status) {
        mlx_array_free(stacked);
        return status;
    }
    return zm_checkpoint_put(checkpoint, name, stacked, error);
}
