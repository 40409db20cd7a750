/* SPDX-License-Identifier: MIT */
/* What the checkpoint*.c files share. */
#ifndef ZM_MODEL_CHECKPOINT_PARTS_H
#define ZM_MODEL_CHECKPOINT_PARTS_H

#include "base/map.h"
#include "model/checkpoint.h"
#include "model/checkpoint_source.h"
#include "model/quantization.h"

/* A tensor; array is empty once it was removed or taken. */
typedef struct zm_checkpoint_entry {
    const char *name, *file; /* file: where an error says it is from */
    mlx_array array;
} zm_checkpoint_entry;

struct zm_checkpoint {
    zm_arena *arena; /* names */
    char *folder;
    json_t *config;
    zm_quantization_rules rules;
    mlx_dtype dtype, stored_dtype;
    mlx_stream stream; /* borrowed */
    bool on_gpu;       /* stream is a GPU's */
    zm_source *source;
    zm_checkpoint_entry *entries;
    size_t n_entries, capacity;
    zm_map *indices; /* name -> index in entries */
    uint64_t tensor_bytes, file_bytes;
    void (*progress)(void *, uint64_t, uint64_t);
    void *progress_context;
};

/* config.json of folder with generation_config.json's eos_token_id; *config is the caller's. */
zmlx_status zm_checkpoint_load_config(json_t **config, const char *folder, zmlx_error *error);
/* The same from the texts; generation NULL: there is no generation_config.json. */
zmlx_status zm_checkpoint_parse_config(json_t **config, const char *text, size_t size, const char *generation,
                                       size_t generation_size, zmlx_error *error);

/* Folder's model*.safetensors, sorted; names and the array are from arena. */
zmlx_status zm_checkpoint_list_files(const char ***names, size_t *n_names, const char *folder,
                                     zm_arena *arena, zmlx_error *error);
/* Fails where the index file, if there is one, has a tensor in a file that is missing and no other has it: an index
 * may be left from before its checkpoint was converted. */
zmlx_status zm_checkpoint_check_index(const zm_checkpoint *checkpoint, const char *const *names, size_t n_names,
                                      zmlx_error *error);

/* The live entry of that name, or NULL. */
zm_checkpoint_entry *zm_checkpoint_find(const zm_checkpoint *checkpoint, const char *name);

#endif
