/* SPDX-License-Identifier: MIT */
/* Reads tokenizer_config.json the way transformers' tokenizer classes do when there is a tokenizer.json:
 * add_bos_token and add_eos_token do not count, the tokens it names do. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/tokenizer/load.h"

/* The special tokens a class has where the file does not name them: BOS, EOS, unknown, separator, padding,
 * class, mask. */
typedef struct class_names {
    const char *class;
    const char *names[7];
} class_names;

static const class_names classes[] = {
    {"LlamaTokenizer", {"<s>", "</s>", "<unk>"}},
    {"Qwen2Tokenizer", {NULL, "<|endoftext|>", "<|endoftext|>", NULL, "<|endoftext|>"}},
    {"GPT2Tokenizer", {"<|endoftext|>", "<|endoftext|>", "<|endoftext|>"}},
};

/* The entry of tokenizer_class ("Fast" at its end does not count), or NULL. For some model types transformers
 * takes its general class or one of their own instead. */
static const class_names *find_class(const zm_field *settings, const zm_field *model) {
    zm_field class = zm_field_get(settings, "tokenizer_class"), type = zm_field_get(model, "model_type");
    static const char *const general[] = {"mistral", "mixtral", "glm4_moe", "glm4_moe_lite", "iquestcoder"};
    for (size_t i = 0; i < sizeof general / sizeof *general; i++)
        if (zm_field_is(&type, general[i])) return NULL;
    bool has_own = !type.value || zm_field_is(&type, "qwen3_5") || zm_field_is(&type, "qwen3_5_moe");
    for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
        char fast[32];
        snprintf(fast, sizeof fast, "%sFast", classes[i].class);
        if (!zm_field_is(&class, classes[i].class) && !zm_field_is(&class, fast)) continue;
        return i || !has_own ? &classes[i] : NULL;
    }
    return NULL;
}

static bool uses_byte_level(const zmlx_tokenizer *tokenizer) {
    for (size_t i = 0; i < tokenizer->n_splitters; i++)
        if (tokenizer->splitters[i].kind == ZM_SPLIT_BYTE_LEVEL) return true;
    for (size_t i = 0; i < tokenizer->n_decode_steps; i++)
        if (tokenizer->decode_steps[i].kind == ZM_DECODE_BYTE_LEVEL) return true;
    return false;
}

/* What LlamaTokenizer is made of: the pre-tokeniser and the decoder. */
static zmlx_status load_llama_stages(zmlx_tokenizer *tokenizer, const char *scheme, const char *file,
                                     zmlx_error *error) {
    static const char splitter[] = "{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"split\":false,"
                                   "\"prepend_scheme\":\"%s\"}";
    static const char steps[] = "{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":"
                                "{\"String\":\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},"
                                "{\"type\":\"Fuse\"}%s]}";
    static const char strip[] = ",{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}";
    char text[512];
    json_t *made = NULL, *decoder = NULL;
    snprintf(text, sizeof text, splitter, scheme);
    zmlx_status status = zm_json_parse(&made, text, strlen(text), file, error);
    zm_field field = {.value = made, .file = file, .path = "tokenizer_class"};
    if (!status) status = zm_load_pre_tokenizer(tokenizer, &field, error);
    snprintf(text, sizeof text, steps, strcmp(scheme, "never") ? strip : "");
    if (!status) status = zm_json_parse(&decoder, text, strlen(text), file, error);
    field.value = decoder;
    if (!status) status = zm_load_decoder(tokenizer, &field, error);
    json_decref(made);
    json_decref(decoder);
    return status;
}

zmlx_status zm_settings_stages(zmlx_tokenizer *tokenizer, const zm_field *settings, const zm_field *model,
                               zmlx_error *error) {
    const class_names *class = find_class(settings, model);
    zm_field legacy_flag = zm_field_get(settings, "legacy"),
             space = zm_field_get(settings, "add_prefix_space");
    bool legacy, add_space;
    if (class != &classes[0] || uses_byte_level(tokenizer)) return ZMLX_OK;
    ZM_TRY(zm_field_bool(&legacy_flag, &legacy, false, error));
    ZM_TRY(zm_field_bool(&space, &add_space, true, error));
    zm_drop_stages(tokenizer);
    tokenizer->bpe.fuse_unknown = tokenizer->bpe.byte_fallback = true;
    tokenizer->bpe.ignore_merges = false;
    tokenizer->bpe.unknown = ZM_UNKNOWN_NONE;
    zm_bpe_index(&tokenizer->bpe);
    return load_llama_stages(tokenizer,
                             !add_space ? "never"
                             : legacy   ? "always"
                                        : "first",
                             settings->file, error);
}

static bool same_token(const zm_added_token *a, const zm_added_token *b) {
    return a->single_word == b->single_word && a->strip_left == b->strip_left &&
           a->strip_right == b->strip_right && a->normalized == b->normalized && a->special == b->special;
}

/* The added token with this content, or NULL. */
static const zm_added_token *find_added(const zmlx_tokenizer *tokenizer, const zm_added_token *token) {
    uint64_t id, index;
    if (!tokenizer->added_ids ||
        !zm_map_get(tokenizer->added_ids, token->content, token->content_size, &id) ||
        !zm_table_get(&tokenizer->added_by_id, id, &index))
        return NULL;
    return &tokenizer->added[index];
}

typedef struct numbered {
    long long id;
    const char *key;
} numbered;

static int by_id(const void *a, const void *b) {
    long long left = ((const numbered *)a)->id, right = ((const numbered *)b)->id;
    return (left > right) - (left < right);
}

static zmlx_status add_listed(zmlx_tokenizer *tokenizer, const zm_field *list, const numbered *entry,
                              zmlx_error *error) {
    zm_field item = zm_field_get(list, entry->key), content = zm_field_get(&item, "content");
    zm_added_token token = {.normalized = true};
    ZM_TRY(zm_field_object(&item, error));
    ZM_TRY(zm_field_string(&content, &token.content, &token.content_size, error));
    ZM_TRY(zm_load_added_flags(&item, &token, error));
    const zm_added_token *known = find_added(tokenizer, &token);
    return known && same_token(known, &token) ? ZMLX_OK : zm_add_token(tokenizer, &token, error);
}

/* added_tokens_decoder: {"id": {"content": ..., flags}}, added in the order of the ids. */
static zmlx_status add_list(zmlx_tokenizer *tokenizer, const zm_field *list, zmlx_error *error) {
    if (!list->value) return ZMLX_OK;
    ZM_TRY(zm_field_object(list, error));
    size_t count = 0;
    numbered *entries = calloc(json_object_size(list->value) + 1, sizeof *entries);
    if (!entries) return zm_fail_memory(error);
    const char *key;
    json_t *value;
    json_object_foreach(list->value, key, value) {
        entries[count].id = strtoll(key, NULL, 10);
        entries[count++].key = key;
    }
    qsort(entries, count, sizeof *entries, by_id);
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < count && !status; i++) status = add_listed(tokenizer, list, &entries[i], error);
    free(entries);
    return status;
}

/* A special token given as a string or as {"content": ..., flags}; added unless it is there. */
static zmlx_status add_named(zmlx_tokenizer *tokenizer, zm_field field, const char *fallback,
                             zm_added_token *token, zmlx_error *error) {
    *token = (zm_added_token){.content = fallback, .content_size = fallback ? strlen(fallback) : 0};
    if (!field.value && !fallback) return ZMLX_OK;
    if (json_is_object(field.value)) {
        ZM_TRY(zm_load_added_flags(&field, token, error));
        field = zm_field_get(&field, "content");
    }
    token->special = true;
    if (field.value) ZM_TRY(zm_field_string(&field, &token->content, &token->content_size, error));
    return find_added(tokenizer, token) ? ZMLX_OK : zm_add_token(tokenizer, token, error);
}

/* BOS, EOS, unknown, separator, padding, class, mask. */
static const char *const named[] = {"bos_token", "eos_token", "unk_token", "sep_token",
                                    "pad_token", "cls_token", "mask_token"};
enum { N_NAMED = sizeof named / sizeof named[0] };

static zmlx_status add_all_named(zmlx_tokenizer *tokenizer, const zm_field *settings, const zm_field *special,
                                 const class_names *defaults, zmlx_error *error) {
    for (int i = 0; i < N_NAMED; i++) {
        const zm_field *source = json_object_get(special->value, named[i]) ? special : settings;
        bool is_null = json_is_null(json_object_get(source->value, named[i]));
        const char *fallback = is_null || !defaults ? NULL : defaults->names[i];
        zm_added_token token;
        ZM_TRY(add_named(tokenizer, zm_field_get(source, named[i]), fallback, &token, error));
        if (i > 1 || !token.content_size) continue;
        int32_t id = zm_tokenizer_find(tokenizer, token.content, token.content_size);
        *(i == 0 ? &tokenizer->bos : &tokenizer->eos) = id;
        if (i == 1) continue;
        tokenizer->bos_text = zm_arena_copy(tokenizer->arena, token.content, token.content_size);
        tokenizer->bos_size = token.content_size;
        if (!tokenizer->bos_text) return zm_fail_memory(error);
    }
    return ZMLX_OK;
}

static zm_field find_extra(const zm_field *settings) {
    zm_field extra = zm_field_get(settings, "extra_special_tokens");
    if (json_array_size(extra.value) || json_object_size(extra.value)) return extra;
    return zm_field_get(settings, "additional_special_tokens");
}

/* Other tokens: a list, or a dictionary by what they are for. */
static zmlx_status add_extra(zmlx_tokenizer *tokenizer, const zm_field *extra, zmlx_error *error) {
    zm_added_token token;
    const char *key;
    json_t *value;
    for (size_t i = 0; i < json_array_size(extra->value); i++)
        ZM_TRY(add_named(tokenizer, zm_field_at(extra, i), NULL, &token, error));
    json_object_foreach(extra->value, key, value)
        ZM_TRY(add_named(tokenizer, zm_field_get(extra, key), NULL, &token, error));
    return ZMLX_OK;
}

/* What a model has beside the named ones: strings under other names that end in "_token". */
static zmlx_status add_own_named(zmlx_tokenizer *tokenizer, const zm_field *settings, zmlx_error *error) {
    static const char ending[] = "_token";
    const char *key;
    json_t *value;
    json_object_foreach(settings->value, key, value) {
        size_t size = strlen(key), tail = sizeof ending - 1;
        bool is_other = json_is_string(value) && size >= tail && !strcmp(key + size - tail, ending);
        for (int i = 0; is_other && i < N_NAMED; i++) is_other = strcmp(key, named[i]) != 0;
        zm_added_token token;
        if (is_other) ZM_TRY(add_named(tokenizer, zm_field_get(settings, key), NULL, &token, error));
    }
    return ZMLX_OK;
}

zmlx_status zm_settings_tokens(zmlx_tokenizer *tokenizer, const zm_field *settings, const zm_field *special,
                               const zm_field *model, zmlx_error *error) {
    zm_field list = zm_field_get(settings, "added_tokens_decoder");
    zm_field extra = find_extra(settings), special_extra = find_extra(special);
    const class_names *defaults = find_class(settings, model);
    if (defaults == &classes[0] && uses_byte_level(tokenizer)) defaults = NULL;
    ZM_TRY(add_list(tokenizer, &list, error));
    ZM_TRY(add_all_named(tokenizer, settings, special, defaults, error));
    ZM_TRY(add_own_named(tokenizer, settings, error));
    ZM_TRY(add_own_named(tokenizer, special, error));
    ZM_TRY(add_extra(tokenizer, &extra, error));
    /* additional_special_tokens, the older name, counts in one of the files alone. */
    if (extra.value && !zm_field_get(special, "extra_special_tokens").value) return ZMLX_OK;
    return add_extra(tokenizer, &special_extra, error);
}
