/* SPDX-License-Identifier: MIT */
/* Reads tokenizer_config.json as transformers' PreTrainedTokenizerFast does. */
#include <string.h>

#include "model/tokenizer/load.h"

/* A named special token: a string or {"content": ...}; *size 0 where there is none. */
static zmlx_status read_token(const zm_field *config, const char *key, const char **text, size_t *size,
                              zmlx_error *error) {
    zm_field field = zm_field_get(config, key);
    *text = NULL;
    *size = 0;
    if (!field.value) return ZMLX_OK;
    if (json_is_object(field.value)) field = zm_field_get(&field, "content");
    return zm_field_string(&field, text, size, error);
}

static zmlx_status rewrite_template(zmlx_tokenizer *tokenizer, bool add_bos, bool add_eos, zmlx_error *error) {
    int32_t *ids = zm_arena_alloc(tokenizer->arena, 2, sizeof *ids);
    if (!ids) return zm_fail_memory(error);
    ids[0] = tokenizer->bos;
    ids[1] = tokenizer->eos;
    tokenizer->n_template = 0;
    if (add_bos && ids[0] >= 0)
        tokenizer->template[tokenizer->n_template++] = (zm_template_part){.tokens = ids, .n_tokens = 1};
    tokenizer->template[tokenizer->n_template++] = (zm_template_part){.is_text = true};
    if (add_eos && ids[1] >= 0)
        tokenizer->template[tokenizer->n_template++] = (zm_template_part){.tokens = ids + 1, .n_tokens = 1};
    return ZMLX_OK;
}

zmlx_status zm_load_config(zmlx_tokenizer *tokenizer, const zm_field *config, zmlx_error *error) {
    const char *bos, *eos;
    size_t bos_size, eos_size;
    bool add_bos, add_eos;
    ZM_TRY(read_token(config, "bos_token", &bos, &bos_size, error));
    ZM_TRY(read_token(config, "eos_token", &eos, &eos_size, error));
    if (bos) {
        tokenizer->bos_text = zm_arena_copy(tokenizer->arena, bos, bos_size);
        tokenizer->bos_size = bos_size;
        if (!tokenizer->bos_text) return zm_fail_memory(error);
        tokenizer->bos = zm_tokenizer_find(tokenizer, bos, bos_size);
    }
    if (eos) tokenizer->eos = zm_tokenizer_find(tokenizer, eos, eos_size);
    zm_field bos_flag = zm_field_get(config, "add_bos_token"), eos_flag = zm_field_get(config, "add_eos_token");
    ZM_TRY(zm_field_bool(&bos_flag, &add_bos, false, error));
    ZM_TRY(zm_field_bool(&eos_flag, &add_eos, false, error));
    if (bos_flag.value || eos_flag.value) ZM_TRY(rewrite_template(tokenizer, add_bos, add_eos, error));
    return ZMLX_OK;
}
