/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/load.h"

#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { MAX_FILE = 256 << 20, MAX_CONFIG = 16 << 20 };

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

static zmlx_status load_document(zmlx_tokenizer *tokenizer, const zm_field *root, const zm_field *config,
                                 zmlx_error *error) {
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
    ZM_TRY(zm_load_added(tokenizer, &added, error));
    if (config->value) ZM_TRY(zm_load_config(tokenizer, config, error));
    return zm_finish_tokens(tokenizer, root->file, error);
}

static zmlx_status parse(zmlx_tokenizer *tokenizer, const zm_tokenizer_files *files, char *names[2],
                         zmlx_error *error) {
    zm_field root = {.file = names[0]}, config = {.file = names[1]};
    tokenizer->arena = zm_arena_new();
    tokenizer->bos = tokenizer->eos = -1;
    if (!tokenizer->arena) return zm_fail_memory(error);
    ZM_TRY(zm_json_parse(&root.value, files->tokenizer, files->tokenizer_size, names[0], error));
    zmlx_status status = ZMLX_OK;
    if (files->config) status = zm_json_parse(&config.value, files->config, files->config_size, names[1], error);
    if (!status) status = load_document(tokenizer, &root, &config, error);
    json_decref(root.value);
    json_decref(config.value);
    return status;
}

zmlx_status zm_tokenizer_parse(zmlx_tokenizer **tokenizer, const zm_tokenizer_files *files, zmlx_error *error) {
    *tokenizer = NULL;
    zmlx_tokenizer *made = calloc(1, sizeof *made);
    char *names[2] = {zm_path_join(files->folder, "tokenizer.json"),
                      zm_path_join(files->folder, "tokenizer_config.json")};
    zmlx_status status =
        made && names[0] && names[1] ? parse(made, files, names, error) : zm_fail_memory(error);
    free(names[0]);
    free(names[1]);
    if (status)
        zmlx_tokenizer_free(made);
    else
        *tokenizer = made;
    return status;
}

zmlx_status zmlx_tokenizer_load(zmlx_tokenizer **tokenizer, const char *folder, zmlx_error *error) {
    *tokenizer = NULL;
    zm_error_clear(error);
    zm_tokenizer_files files = {.folder = folder};
    char *path = zm_path_join(folder, "tokenizer.json"), *config_path = zm_path_join(folder, "tokenizer_config.json");
    char *text = NULL, *config = NULL;
    zmlx_status status = path && config_path ? ZMLX_OK : zm_fail_memory(error);
    if (!status) status = zm_file_read(&text, &files.tokenizer_size, path, MAX_FILE, error);
    if (!status && zm_file_exists(config_path))
        status = zm_file_read(&config, &files.config_size, config_path, MAX_CONFIG, error);
    files.tokenizer = text;
    files.config = config;
    if (!status) status = zm_tokenizer_parse(tokenizer, &files, error);
    free(text);
    free(config);
    free(path);
    free(config_path);
    return status;
}
