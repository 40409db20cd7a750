/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/load.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_FILE = 256 << 20, MAX_SETTINGS = 16 << 20 };

void zmlx_tokenizer_free(zmlx_tokenizer *tokenizer) {
    if (!tokenizer) return;
    zm_drop_stages(tokenizer);
    zm_added_tree_free(tokenizer->raw_tree);
    zm_added_tree_free(tokenizer->normal_tree);
    zm_map_free(tokenizer->added_ids);
    zm_table_free(&tokenizer->added_by_id);
    free(tokenizer->added);
    free(tokenizer->tokens);
    zm_bpe_free(&tokenizer->bpe);
    zm_arena_free(tokenizer->arena);
    free(tokenizer);
}

enum { N_FILES = 4 };

/* The documents of a folder; values are NULL for files that are not there. */
typedef struct documents {
    zm_field tokenizer, settings, model, special;
} documents;

static zmlx_status load_documents(zmlx_tokenizer *tokenizer, const documents *files, zmlx_error *error) {
    const zm_field *root = &files->tokenizer;
    zm_field version = zm_field_get(root, "version"), model = zm_field_get(root, "model");
    zm_field added = zm_field_get(root, "added_tokens"), normalizer = zm_field_get(root, "normalizer");
    zm_field splitter = zm_field_get(root, "pre_tokenizer"), decoder = zm_field_get(root, "decoder");
    zm_field processor = zm_field_get(root, "post_processor");
    if (version.value && !zm_field_is(&version, "1.0"))
        return zm_field_fail(&version, error, ZMLX_ERROR_UNSUPPORTED, "only version \"1.0\" is supported");
    ZM_TRY(zm_load_model(tokenizer, &model, error));
    ZM_TRY(zm_load_normalizer(tokenizer, &normalizer, error));
    ZM_TRY(zm_load_pre_tokenizer(tokenizer, &splitter, error));
    ZM_TRY(zm_load_decoder(tokenizer, &decoder, error));
    ZM_TRY(zm_load_post_processor(tokenizer, &processor, error));
    if (files->settings.value) ZM_TRY(zm_settings_stages(tokenizer, &files->settings, &files->model, error));
    ZM_TRY(zm_load_added(tokenizer, &added, error));
    if (files->settings.value || files->special.value)
        ZM_TRY(zm_settings_tokens(tokenizer, &files->settings, &files->special, &files->model, error));
    return zm_finish_tokens(tokenizer, root->file, error);
}

static zmlx_status parse_optional(zm_field *document, const char *text, size_t size, zmlx_error *error) {
    return text ? zm_json_parse(&document->value, text, size, document->file, error) : ZMLX_OK;
}

static zmlx_status parse(zmlx_tokenizer *tokenizer, const zm_tokenizer_files *files, char *names[N_FILES],
                         zmlx_error *error) {
    documents parsed = {.tokenizer = {.file = names[0]},
                        .settings = {.file = names[1]},
                        .model = {.file = names[2]},
                        .special = {.file = names[3]}};
    tokenizer->arena = zm_arena_new();
    tokenizer->bos = tokenizer->eos = -1;
    if (!tokenizer->arena) return zm_fail_memory(error);
    zmlx_status status =
        zm_json_parse(&parsed.tokenizer.value, files->tokenizer, files->tokenizer_size, names[0], error);
    if (!status) status = parse_optional(&parsed.settings, files->settings, files->settings_size, error);
    if (!status) status = parse_optional(&parsed.model, files->model, files->model_size, error);
    if (!status && !json_object_get(parsed.settings.value, "added_tokens_decoder"))
        status = parse_optional(&parsed.special, files->special, files->special_size, error);
    if (!status) status = load_documents(tokenizer, &parsed, error);
    json_decref(parsed.tokenizer.value);
    json_decref(parsed.settings.value);
    json_decref(parsed.model.value);
    json_decref(parsed.special.value);
    return status;
}

static const char *const file_names[N_FILES] = {"tokenizer.json", "tokenizer_config.json", "config.json",
                                                "special_tokens_map.json"};

static void free_texts(char *texts[N_FILES]) {
    for (int i = 0; i < N_FILES; i++) free(texts[i]);
}

static zmlx_status make_paths(char *paths[N_FILES], const char *folder, zmlx_error *error) {
    for (int i = 0; i < N_FILES; i++)
        if (!(paths[i] = zm_path_join(folder, file_names[i]))) return zm_fail_memory(error);
    return ZMLX_OK;
}

zmlx_status zm_tokenizer_parse(zmlx_tokenizer **tokenizer, const zm_tokenizer_files *files,
                               zmlx_error *error) {
    *tokenizer = NULL;
    char *names[N_FILES] = {NULL};
    zmlx_tokenizer *made = calloc(1, sizeof *made);
    zmlx_status status = made ? make_paths(names, files->folder, error) : zm_fail_memory(error);
    if (!status) status = parse(made, files, names, error);
    free_texts(names);
    if (status)
        zmlx_tokenizer_free(made);
    else
        *tokenizer = made;
    return status;
}

zmlx_status zmlx_tokenizer_load(zmlx_tokenizer **tokenizer, const char *folder, zmlx_error *error) {
    *tokenizer = NULL;
    zm_error_clear(error);
    if (!folder) return zm_fail_null(error, "folder");
    char *paths[N_FILES] = {NULL}, *texts[N_FILES] = {NULL};
    size_t sizes[N_FILES] = {0};
    zmlx_status status = make_paths(paths, folder, error);
    for (int i = 0; i < N_FILES && !status; i++)
        if (i == 0 || zm_name_exists(paths[i]))
            status = zm_file_read(&texts[i], &sizes[i], paths[i], i ? MAX_SETTINGS : MAX_FILE, error);
    zm_tokenizer_files files = {.folder = folder,
                                .tokenizer = texts[0],
                                .settings = texts[1],
                                .model = texts[2],
                                .special = texts[3],
                                .tokenizer_size = sizes[0],
                                .settings_size = sizes[1],
                                .model_size = sizes[2],
                                .special_size = sizes[3]};
    if (!status) status = zm_tokenizer_parse(tokenizer, &files, error);
    free_texts(texts);
    free_texts(paths);
    return status;
}
