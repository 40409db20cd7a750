/* SPDX-License-Identifier: MIT */
/* Reads the model of tokenizer.json: vocabulary and merges. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/load.h"

static zmlx_status check_settings(const zm_field *model, zmlx_error *error) {
    static const char *const affixes[] = {"continuing_subword_prefix", "end_of_word_suffix"};
    zm_field type = zm_field_get(model, "type"), dropout = zm_field_get(model, "dropout");
    if (type.value && !zm_field_is(&type, "BPE")) {
        const char *name;
        size_t size;
        ZM_TRY(zm_field_string(&type, &name, &size, error));
        return zm_field_fail(&type, error, ZMLX_ERROR_UNSUPPORTED,
                             "the model \"%.60s\" is not supported; BPE is", name);
    }
    if (dropout.value && !(json_is_number(dropout.value) && json_number_value(dropout.value) == 0))
        return zm_field_fail(&dropout, error, ZMLX_ERROR_UNSUPPORTED, "dropout is not supported");
    for (size_t i = 0; i < 2; i++) {
        zm_field affix = zm_field_get(model, affixes[i]);
        if (affix.value && !zm_field_is(&affix, ""))
            return zm_field_fail(&affix, error, ZMLX_ERROR_UNSUPPORTED, "only null or \"\" is supported");
    }
    return ZMLX_OK;
}

/* Room for ids 0 to largest. */
static zmlx_status make_token_table(zmlx_tokenizer *tokenizer, json_t *vocabulary, const zm_field *field,
                                    zmlx_error *error) {
    int64_t largest = -1;
    const char *key;
    json_t *value;
    json_object_foreach(vocabulary, key, value) {
        int64_t id = json_is_integer(value) ? json_integer_value(value) : -1;
        if (id < 0 || id > ZM_MAX_TOKEN_ID)
            return zm_field_fail(field, error, ZMLX_ERROR_FORMAT,
                                 "the id of \"%.60s\" is no integer from 0 to %d", key, ZM_MAX_TOKEN_ID);
        if (id > largest) largest = id;
    }
    tokenizer->vocab_size = (int32_t)(largest + 1);
    tokenizer->tokens = calloc((size_t)largest + 2, sizeof *tokenizer->tokens);
    return tokenizer->tokens ? ZMLX_OK : zm_fail_memory(error);
}

static zmlx_status load_vocabulary(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error) {
    ZM_TRY(zm_field_object(field, error));
    ZM_TRY(make_token_table(tokenizer, field->value, field, error));
    tokenizer->bpe.vocabulary = zm_map_new();
    if (!tokenizer->bpe.vocabulary) return zm_fail_memory(error);
    const char *key;
    json_t *value;
    json_object_foreach(field->value, key, value) {
        int32_t id = (int32_t)json_integer_value(value);
        zm_token_text *token = &tokenizer->tokens[id];
        size_t size = strlen(key);
        if (token->text)
            return zm_field_fail(field, error, ZMLX_ERROR_FORMAT,
                                 "\"%.40s\" and \"%.40s\" have the same id %d", token->text, key, id);
        char *text = zm_arena_copy(tokenizer->arena, key, size);
        if (!text || zm_map_add(tokenizer->bpe.vocabulary, text, size, (uint64_t)id) < 0)
            return zm_fail_memory(error);
        *token = (zm_token_text){.text = text, .size = size, .decoded = text, .decoded_size = size};
    }
    return ZMLX_OK;
}

typedef struct halves {
    const char *left, *right;
    size_t left_size, right_size;
} halves;

/* ["a", "b"], or "a b" where as_text. */
static zmlx_status read_merge(const zm_field *list, size_t index, bool as_text, halves *merge,
                              zmlx_error *error) {
    json_t *value = json_array_get(list->value, index);
    zm_field field;
    if (as_text && json_is_string(value)) {
        const char *text = json_string_value(value);
        size_t size = json_string_length(value);
        const char *space = memchr(text, ' ', size);
        size_t rest = space ? size - (size_t)(space - text) - 1 : 0;
        if (space && !memchr(space + 1, ' ', rest)) {
            *merge = (halves){text, space + 1, (size_t)(space - text), rest};
            return ZMLX_OK;
        }
        field = zm_field_at(list, index);
        return zm_field_fail(&field, error, ZMLX_ERROR_FORMAT, "expected two tokens with one space between");
    }
    json_t *left = json_array_get(value, 0), *right = json_array_get(value, 1);
    if (!as_text && json_array_size(value) == 2 && json_is_string(left) && json_is_string(right)) {
        *merge = (halves){json_string_value(left), json_string_value(right), json_string_length(left),
                          json_string_length(right)};
        return ZMLX_OK;
    }
    field = zm_field_at(list, index);
    return zm_field_fail(&field, error, ZMLX_ERROR_FORMAT, "expected two tokens, %s",
                         as_text ? "as one string as in the first merge" : "as two strings");
}

static zmlx_status find_half(const zmlx_tokenizer *tokenizer, const zm_field *list, size_t index,
                             const char *text, size_t size, int32_t *id, zmlx_error *error) {
    *id = zm_bpe_find(&tokenizer->bpe, text, size);
    if (*id >= 0) return ZMLX_OK;
    zm_field field = zm_field_at(list, index);
    return zm_field_fail(&field, error, ZMLX_ERROR_FORMAT, "\"%.*s\" is not in the vocabulary",
                         (int)(size < 80 ? size : 80), text);
}

static zmlx_status load_merges(zmlx_tokenizer *tokenizer, const zm_field *list, zmlx_error *error) {
    ZM_TRY(zm_field_array(list, error));
    size_t count = json_array_size(list->value), rank = 0;
    bool as_text = json_is_string(json_array_get(list->value, 0));
    zm_text joined = {0};
    zmlx_status status = ZMLX_OK;
    if (count > INT32_MAX || !zm_table_reserve(&tokenizer->bpe.merges, count)) return zm_fail_memory(error);
    for (size_t i = 0; i < count && !status; i++) {
        halves merge = {0};
        int32_t left = 0, right = 0, whole = 0;
        const char *text = json_string_value(json_array_get(list->value, i));
        if (text && !strncmp(text, "#version", 8)) continue;
        status = read_merge(list, i, as_text, &merge, error);
        if (!status) status = find_half(tokenizer, list, i, merge.left, merge.left_size, &left, error);
        if (!status) status = find_half(tokenizer, list, i, merge.right, merge.right_size, &right, error);
        if (status) break;
        zm_text_clear(&joined);
        zm_text_append(&joined, merge.left, merge.left_size);
        zm_text_append(&joined, merge.right, merge.right_size);
        if (joined.failed) status = zm_fail_memory(error);
        if (!status)
            status = find_half(tokenizer, list, i, zm_text_string(&joined), joined.size, &whole, error);
        uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
        uint64_t value = (uint64_t)rank++ << 32 | (uint32_t)whole;
        if (!status && !zm_table_set(&tokenizer->bpe.merges, key, value)) status = zm_fail_memory(error);
    }
    zm_text_free(&joined);
    return status;
}

zmlx_status zm_load_model(zmlx_tokenizer *tokenizer, const zm_field *model, zmlx_error *error) {
    zm_bpe *bpe = &tokenizer->bpe;
    ZM_TRY(zm_field_object(model, error));
    ZM_TRY(check_settings(model, error));
    zm_field vocabulary = zm_field_get(model, "vocab"), merges = zm_field_get(model, "merges");
    zm_field unknown = zm_field_get(model, "unk_token"), fuse = zm_field_get(model, "fuse_unk");
    zm_field fallback = zm_field_get(model, "byte_fallback"), ignore = zm_field_get(model, "ignore_merges");
    ZM_TRY(zm_field_bool(&fuse, &bpe->fuse_unknown, false, error));
    ZM_TRY(zm_field_bool(&fallback, &bpe->byte_fallback, false, error));
    ZM_TRY(zm_field_bool(&ignore, &bpe->ignore_merges, false, error));
    ZM_TRY(load_vocabulary(tokenizer, &vocabulary, error));
    ZM_TRY(load_merges(tokenizer, &merges, error));
    bpe->unknown = ZM_UNKNOWN_NONE;
    if (unknown.value) {
        const char *text;
        size_t size;
        ZM_TRY(zm_field_string(&unknown, &text, &size, error));
        bpe->unknown = zm_bpe_find(bpe, text, size);
        if (bpe->unknown < 0) bpe->unknown = ZM_UNKNOWN_MISSING;
    }
    zm_bpe_index(bpe);
    return ZMLX_OK;
}
