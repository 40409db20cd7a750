/* SPDX-License-Identifier: MIT */
/* config.json, generation_config.json and the list of a checkpoint's files. */
#include <dirent.h>
#include <errno.h>
#include <float.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "model/checkpoint_parts.h"

enum { CONFIG_LIMIT = 64 << 20, INDEX_LIMIT = 256 << 20 };

/* {"__float__": "Infinity"} is how transformers writes a float JSON lacks. Infinities become the largest
 * finite double (the JSON library holds no other), NaN becomes null. Returns a new reference, or NULL for no
 * tag. */
static json_t *tagged_float(const json_t *value) {
    if (!json_is_object(value) || json_object_size(value) != 1) return NULL;
    const char *tag = json_string_value(json_object_get(value, "__float__"));
    if (!tag) return NULL;
    if (!strcmp(tag, "Infinity")) return json_real(DBL_MAX);
    if (!strcmp(tag, "-Infinity")) return json_real(-DBL_MAX);
    return strcmp(tag, "NaN") ? NULL : json_null();
}

/* The JSON library bounds the depth. */
static void decode_tagged_floats(json_t *value) {
    const char *key;
    json_t *child;
    void *next;
    size_t i;
    json_object_foreach_safe(value, next, key, child) {
        json_t *number = tagged_float(child);
        if (number)
            json_object_set_new(value, key, number);
        else
            decode_tagged_floats(child);
    }
    json_array_foreach(value, i, child) {
        json_t *number = tagged_float(child);
        if (number)
            json_array_set_new(value, i, number);
        else
            decode_tagged_floats(child);
    }
}

/* As in Python, where mlx-lm takes what is true. */
static bool is_true(const json_t *value) {
    if (json_is_array(value)) return json_array_size(value) > 0;
    if (json_is_object(value)) return json_object_size(value) > 0;
    if (json_is_string(value)) return json_string_length(value) > 0;
    return json_is_true(value) || json_number_value(value) != 0;
}

zmlx_status zm_checkpoint_parse_config(json_t **config, const char *text, size_t size, const char *generation,
                                       size_t generation_size, zmlx_error *error) {
    ZM_TRY(zm_json_parse(config, text, size, "config.json", error));
    decode_tagged_floats(*config);
    json_t *extra = NULL;
    /* mlx-lm ignores a generation_config.json that is not JSON. */
    if (!generation || zm_json_parse(&extra, generation, generation_size, "generation_config.json", NULL))
        return ZMLX_OK;
    json_t *eos = json_object_get(extra, "eos_token_id");
    int bad = is_true(eos) ? json_object_set(*config, "eos_token_id", eos) : 0;
    json_decref(extra);
    if (!bad) return ZMLX_OK;
    json_decref(*config);
    *config = NULL;
    return zm_fail_memory(error);
}

/* *text stays NULL where nothing has this name; what cannot be read, such as a dangling link, is a failure. */
static zmlx_status read_if_present(char **text, size_t *size, const char *folder, const char *name,
                                   size_t limit, zmlx_error *error) {
    *text = NULL;
    *size = 0;
    char *path = zm_path_join(folder, name);
    if (!path) return zm_fail_memory(error);
    zmlx_status status = zm_name_exists(path) ? zm_file_read(text, size, path, limit, error) : ZMLX_OK;
    free(path);
    return status;
}

zmlx_status zm_checkpoint_load_config(json_t **config, const char *folder, zmlx_error *error) {
    *config = NULL;
    if (zm_file_exists(folder))
        return zm_fail(error, ZMLX_ERROR_FILE, folder, "is a file; expected a model folder");
    if (!zm_folder_exists(folder)) return zm_fail(error, ZMLX_ERROR_FILE, folder, "no such folder");
    char *text, *generation = NULL;
    size_t size, generation_size = 0;
    ZM_TRY(read_if_present(&text, &size, folder, "config.json", CONFIG_LIMIT, error));
    if (!text) return zm_fail(error, ZMLX_ERROR_FILE, folder, "not a model folder: it has no config.json");
    zmlx_status status =
        read_if_present(&generation, &generation_size, folder, "generation_config.json", CONFIG_LIMIT, error);
    if (!status) status = zm_checkpoint_parse_config(config, text, size, generation, generation_size, error);
    free(text);
    free(generation);
    return status;
}

static bool is_model_file(const char *name) {
    static const char ending[] = ".safetensors";
    size_t length = strlen(name), tail = sizeof ending - 1;
    return !strncmp(name, "model", 5) && length >= 5 + tail && !strcmp(name + length - tail, ending);
}

static int compare_names(const void *left, const void *right) {
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

static zmlx_status collect_names(const char ***names, size_t *n_names, DIR *directory, zm_arena *arena,
                                 zmlx_error *error) {
    size_t capacity = 0;
    for (struct dirent *item; (item = readdir(directory));) {
        if (!is_model_file(item->d_name)) continue;
        if (*n_names == capacity) {
            capacity = capacity ? capacity * 2 : 16;
            const char **larger = zm_arena_alloc(arena, capacity, sizeof larger[0]);
            if (!larger) return zm_fail_memory(error);
            if (*n_names) memcpy(larger, *names, *n_names * sizeof larger[0]);
            *names = larger;
        }
        const char *name = zm_arena_copy(arena, item->d_name, strlen(item->d_name));
        if (!name) return zm_fail_memory(error);
        (*names)[(*n_names)++] = name;
    }
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_list_files(const char ***names, size_t *n_names, const char *folder,
                                     zm_arena *arena, zmlx_error *error) {
    *names = NULL;
    *n_names = 0;
    DIR *directory = opendir(folder);
    if (!directory) return zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot open: %s", strerror(errno));
    zmlx_status status = collect_names(names, n_names, directory, arena, error);
    closedir(directory);
    if (status) return status;
    if (!*n_names) return zm_fail(error, ZMLX_ERROR_FILE, folder, "has no model*.safetensors");
    qsort(*names, *n_names, sizeof(*names)[0], compare_names);
    return ZMLX_OK;
}

zmlx_status zm_checkpoint_check_index(const zm_checkpoint *checkpoint, const char *const *names, size_t n_names,
                                      zmlx_error *error) {
    static const char file[] = "model.safetensors.index.json";
    char *text;
    size_t size;
    ZM_TRY(read_if_present(&text, &size, checkpoint->folder, file, INDEX_LIMIT, error));
    if (!text) return ZMLX_OK;
    json_t *index;
    char *path = zm_path_join(checkpoint->folder, file);
    zmlx_status status = path ? zm_json_parse(&index, text, size, path, error) : zm_fail_memory(error);
    free(path);
    free(text);
    if (status) return status;
    const char *tensor;
    json_t *value;
    json_object_foreach(json_object_get(index, "weight_map"), tensor, value) {
        const char *shard = json_string_value(value);
        if (shard && bsearch(&shard, names, n_names, sizeof names[0], compare_names)) continue;
        if (zm_checkpoint_find(checkpoint, tensor)) continue;
        status = zm_fail(error, ZMLX_ERROR_FILE, checkpoint->folder,
                         "file '%.100s', which %s names for tensor '%.200s', is missing", shard ? shard : "?",
                         file, tensor);
        break;
    }
    json_decref(index);
    return status;
}
