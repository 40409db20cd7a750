/* SPDX-License-Identifier: MIT */
/* Making the folder of a synthetic checkpoint. */
#include "zmlx/synth.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/file.h"
#include "model/family.h"
#include "model/synth_plan.h"

static const struct {
    const char *name, *config;
} shapes[] = {
#define ZM_SYNTH_SHAPE(name, ...) {name, #__VA_ARGS__},
#include "model/synth_shapes.def"
#undef ZM_SYNTH_SHAPE
};
enum { N_SHAPES = sizeof shapes / sizeof shapes[0], CONFIG_LIMIT = 64 << 20 };

const char *zmlx_synth_shape_name(int index) {
    return index >= 0 && index < N_SHAPES ? shapes[index].name : NULL;
}

static zmlx_status load_shape(json_t **config, const char *shape, zmlx_error *error) {
    *config = NULL;
    for (int i = 0; i < N_SHAPES; i++)
        if (!strcmp(shape, shapes[i].name))
            return zm_json_parse(config, shapes[i].config, strlen(shapes[i].config), shape, error);
    if (zm_file_exists(shape)) return zm_json_load(config, shape, CONFIG_LIMIT, error);
    char names[256] = "";
    for (int i = 0; i < N_SHAPES; i++) {
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, "%s%s", i ? ", " : "", shapes[i].name);
    }
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, shape, "neither a known shape (%s) nor a config.json", names);
}

/* Removes what the first n_layers layers do not have. */
static zmlx_status cut_layers(zm_synth_plan *plan, json_t *config, int n_layers, zmlx_error *error) {
    zm_json_object object = {.value = config, .file = plan->config.file};
    int64_t all;
    ZM_TRY(zm_json_int(&all, object, "num_hidden_layers", 1, 1 << 20, error));
    if (n_layers > all)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "layers", "%d are more than the shape's %lld", n_layers,
                       (long long)all);
    if (!n_layers) return ZMLX_OK;
    plan->is_cut = n_layers < all;
    json_object_set_new(config, "num_hidden_layers", json_integer(n_layers));
    json_t *types = json_object_get(config, "layer_types");
    while (json_array_size(types) > (size_t)n_layers) json_array_remove(types, json_array_size(types) - 1);
    static const char *const lists[] = {"full_attn_idxs", "mlp_only_layers"};
    for (int i = 0; i < 2; i++) {
        json_t *list = json_object_get(config, lists[i]);
        for (size_t j = json_array_size(list); j-- > 0;)
            if (json_integer_value(json_array_get(list, j)) >= n_layers) json_array_remove(list, j);
    }
    return ZMLX_OK;
}

static zmlx_status adapt_config(zm_synth_plan *plan, const zmlx_synth_options *options, int *vocab_size,
                                zmlx_error *error) {
    json_t *config = plan->config.value, *sizes = zm_family_sizes(config);
    ZM_TRY(cut_layers(plan, sizes, options->n_layers, error));
    if (options->vocab_size) json_object_set_new(sizes, "vocab_size", json_integer(options->vocab_size));
    int64_t vocab;
    ZM_TRY(zm_json_int(&vocab, (zm_json_object){.value = sizes, .file = plan->config.file}, "vocab_size",
                       ZM_SYNTH_MIN_VOCAB, 1 << 24, error));
    *vocab_size = (int)vocab;
    json_object_set_new(config, "pad_token_id", json_integer(ZM_SYNTH_PAD));
    json_object_set_new(config, "bos_token_id", json_integer(ZM_SYNTH_BOS));
    json_object_set_new(config, "eos_token_id", json_integer(ZM_SYNTH_EOS));
    json_object_set_new(config, "dtype", json_string("bfloat16"));
    return ZMLX_OK;
}

static zmlx_status check_options(const zmlx_synth_options *options, zmlx_error *error) {
    int bits = options->bits, group_size = options->group_size;
    if (!((bits >= 2 && bits <= 6) || bits == 8 || bits == 16))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "bits", "expected 2, 3, 4, 5, 6, 8 or 16, got %d", bits);
    if (group_size != 32 && group_size != 64 && group_size != 128)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "group size", "expected 32, 64 or 128, got %d",
                       group_size);
    if (options->n_layers < 0)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "layers", "expected at least 1, got %d",
                       options->n_layers);
    if (options->vocab_size && options->vocab_size < ZM_SYNTH_MIN_VOCAB)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "vocab", "expected at least %d, got %d",
                       ZM_SYNTH_MIN_VOCAB, options->vocab_size);
    return ZMLX_OK;
}

typedef struct synth_target {
    const char *folder;
    bool exists;
    int vocab_size;
    const zmlx_synth_options *options;
} synth_target;

/* Fails unless the folder is absent or empty. */
static zmlx_status check_target(synth_target *target, zmlx_error *error) {
    const char *folder = target->folder;
    struct stat info;
    if (!folder[0]) return zm_fail(error, ZMLX_ERROR_ARGUMENT, "folder", "its name is empty");
    if (lstat(folder, &info)) {
        if (errno == ENOENT) return ZMLX_OK;
        return zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot write: %s", strerror(errno));
    }
    DIR *directory = opendir(folder);
    if (!directory) return zm_fail(error, ZMLX_ERROR_FILE, folder, "exists and is no empty folder");
    int n_entries = 0;
    while (readdir(directory)) n_entries++;
    closedir(directory);
    if (n_entries > 2) return zm_fail(error, ZMLX_ERROR_FILE, folder, "exists and is not empty");
    target->exists = true;
    return ZMLX_OK;
}

/* name: of the folder in messages. */
static zmlx_status check_space(const zm_synth_plan *plan, const char *folder, const char *name, zmlx_error *error) {
    struct statvfs info;
    if (statvfs(folder, &info)) return ZMLX_OK;
    uint64_t needed = 0, available = (uint64_t)info.f_bavail * info.f_frsize;
    for (size_t i = 0; i < plan->n_tensors; i++)
        needed += zm_synth_tensor_elements(&plan->tensors[i]) *
                  (uint64_t)zm_synth_element_bytes(plan->tensors[i].fill);
    if (needed <= available) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_FILE, name, "%.1f GB are needed, but the disk has only %.1f GB left",
                   (double)needed / 1e9, (double)available / 1e9);
}

static zmlx_status write_text(const char *folder, const char *name, const char *text, zmlx_error *error) {
    char *path = zm_path_join(folder, name);
    zmlx_status status =
        path && text ? zm_file_write(path, text, strlen(text), error) : zm_fail_memory(error);
    free(path);
    return status;
}

static void remove_files(const char *folder) {
    static const char *const names[] = {"model.safetensors", "tokenizer.json", "tokenizer_config.json",
                                        "config.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char *path = zm_path_join(folder, names[i]);
        if (path) unlink(path);
        free(path);
    }
}

/* What makes the folder a checkpoint comes last. */
static zmlx_status write_texts(const zm_synth_plan *plan, const char *folder, int vocab_size,
                               zmlx_error *error) {
    json_t *config = plan->config.value;
    if (plan->entries && json_object_set(config, "quantization_config", plan->entries))
        return zm_fail_memory(error);
    char *text = zm_synth_tokenizer(vocab_size);
    zmlx_status status = write_text(folder, "tokenizer.json", text, error);
    free(text);
    if (!status) status = write_text(folder, "tokenizer_config.json", zm_synth_tokenizer_config(), error);
    if (status) return status;
    text = json_dumps(config, JSON_INDENT(4));
    status = write_text(folder, "config.json", text, error);
    free(text);
    return status;
}

/* Writes all files into folder, or leaves none of them. */
static zmlx_status write_files(uint64_t *size, const zm_synth_plan *plan, const char *folder,
                               const synth_target *target, zmlx_error *error) {
    ZM_TRY(check_space(plan, folder, target->folder, error));
    char *model = zm_path_join(folder, "model.safetensors");
    if (!model) return zm_fail_memory(error);
    const zmlx_synth_options *options = target->options;
    zmlx_status status =
        zm_synth_write(size, plan, model, options->progress, options->progress_context, error);
    free(model);
    ZM_TRY(status);
    status = write_texts(plan, folder, target->vocab_size, error);
    if (status) {
        remove_files(folder);
        *size = 0;
    }
    return status;
}

/* A new folder beside this one; what an ended process left there stays. */
static zmlx_status make_beside(const char **temporary, const zm_synth_plan *plan, const char *folder,
                               zmlx_error *error) {
    enum { MOST_TRIES = 1000 };
    size_t length = strlen(folder);
    while (length > 1 && folder[length - 1] == '/') length--;
    for (int i = 0; i < MOST_TRIES; i++) {
        *temporary = zm_arena_printf(plan->arena, "%.*s.%ld-%d.tmp", (int)length, folder, (long)getpid(), i);
        if (!*temporary) return zm_fail_memory(error);
        if (!mkdir(*temporary, 0755)) return ZMLX_OK;
        if (errno != EEXIST) break;
    }
    return zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot write: %s", strerror(errno));
}

/* A new folder is built beside its place and renamed; an empty one is kept and filled, because it may be
 * somebody's current folder, a mount point or reached through a symbolic link. */
static zmlx_status write_folder(uint64_t *size, const zm_synth_plan *plan, const synth_target *target,
                                zmlx_error *error) {
    const char *folder = target->folder;
    if (target->exists) return write_files(size, plan, folder, target, error);
    const char *temporary;
    ZM_TRY(make_beside(&temporary, plan, folder, error));
    zmlx_status status = write_files(size, plan, temporary, target, error);
    if (!status && rename(temporary, folder))
        status = zm_fail(error, ZMLX_ERROR_FILE, folder, "cannot write: %s", strerror(errno));
    if (status) {
        remove_files(temporary);
        rmdir(temporary);
        *size = 0;
    }
    return status;
}

static zmlx_status make(uint64_t *size, zm_synth_plan *plan, synth_target *target, zmlx_error *error) {
    ZM_TRY(adapt_config(plan, target->options, &target->vocab_size, error));
    ZM_TRY(zm_synth_plan_make(plan, error));
    return write_folder(size, plan, target, error);
}

zmlx_status zmlx_synth(uint64_t *size, const char *shape, const char *folder,
                       const zmlx_synth_options *options, zmlx_error *error) {
    *size = 0;
    if (!shape || !folder) return zm_fail_null(error, shape ? "folder" : "shape");
    zmlx_synth_options chosen = options ? *options : (zmlx_synth_options){0};
    if (!chosen.bits) chosen.bits = 4;
    if (!chosen.group_size) chosen.group_size = 64;
    ZM_TRY(check_options(&chosen, error));
    synth_target target = {.folder = folder, .options = &chosen};
    ZM_TRY(check_target(&target, error));
    json_t *config;
    ZM_TRY(load_shape(&config, shape, error));
    zm_synth_plan plan = {.arena = zm_arena_new(),
                          .config = {.value = config, .file = shape},
                          .bits = chosen.bits,
                          .group_size = chosen.group_size,
                          .seed = chosen.seed};
    zmlx_status status = plan.arena ? make(size, &plan, &target, error) : zm_fail_memory(error);
    zm_arena_free(plan.arena);
    json_decref(config);
    return status;
}
