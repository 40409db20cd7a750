/* SPDX-License-Identifier: MIT */
/* Reads added_tokens and gives every id its text. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/load.h"

/* The id the package gives a token: that of its string, or the next free one; the file's own "id" is not
 * looked at. */
static int64_t choose_id(const zmlx_tokenizer *tokenizer, const char *content, size_t size) {
    uint64_t known;
    if (tokenizer->added_ids && zm_map_get(tokenizer->added_ids, content, size, &known))
        return (int64_t)known;
    int32_t id = zm_bpe_find(&tokenizer->bpe, content, size);
    if (id >= 0) return id;
    int64_t next = (int64_t)zm_map_count(tokenizer->bpe.vocabulary);
    return tokenizer->next_added > next ? tokenizer->next_added : next;
}

/* The content as the normalisers leave it, with its own lifetime in the arena. */
static zmlx_status normal_content(zmlx_tokenizer *tokenizer, zm_added_token *token, zmlx_error *error) {
    token->normal = token->content;
    token->normal_size = token->content_size;
    if (!token->normalized || !tokenizer->n_normalisers) return ZMLX_OK;
    zm_matcher matcher = {.text_limit = (size_t)1 << 20};
    zm_text texts[2] = {{0}, {0}};
    zmlx_status status = ZMLX_OK;
    zm_text_append(&texts[0], token->content, token->content_size);
    for (size_t i = 0; i < tokenizer->n_normalisers && !status; i++) {
        bool at_origin = true;
        zm_text *from = &texts[i % 2], *to = &texts[(i + 1) % 2];
        zm_text_clear(to);
        status = zm_normalise(&tokenizer->normalisers[i], &matcher, to, zm_text_string(from), from->size,
                              &at_origin, error);
        if (!status && to->failed) status = zm_fail_memory(error);
    }
    const zm_text *result = &texts[tokenizer->n_normalisers % 2];
    if (!status) {
        token->normal = zm_arena_copy(tokenizer->arena, zm_text_string(result), result->size);
        token->normal_size = result->size;
        if (!token->normal) status = zm_fail_memory(error);
    }
    zm_text_free(&texts[0]);
    zm_text_free(&texts[1]);
    zm_matcher_free(&matcher);
    return status;
}

static zmlx_status store(zmlx_tokenizer *tokenizer, const zm_added_token *token, zmlx_error *error) {
    uint64_t unused;
    if (!tokenizer->added_ids && !(tokenizer->added_ids = zm_map_new())) return zm_fail_memory(error);
    if (!zm_map_get(tokenizer->added_ids, token->content, token->content_size, &unused) &&
        zm_map_add(tokenizer->added_ids, token->content, token->content_size, (uint64_t)token->token) < 0)
        return zm_fail_memory(error);
    uint64_t index;
    if (zm_table_get(&tokenizer->added_by_id, (uint64_t)token->token, &index)) {
        tokenizer->added[index] = *token;
        return ZMLX_OK;
    }
    if (tokenizer->n_added == tokenizer->added_capacity) {
        size_t capacity = tokenizer->added_capacity ? tokenizer->added_capacity * 2 : 64;
        zm_added_token *grown = realloc(tokenizer->added, capacity * sizeof *grown);
        if (!grown) return zm_fail_memory(error);
        tokenizer->added = grown;
        tokenizer->added_capacity = capacity;
    }
    if (!zm_table_set(&tokenizer->added_by_id, (uint64_t)token->token, tokenizer->n_added))
        return zm_fail_memory(error);
    tokenizer->added[tokenizer->n_added++] = *token;
    if (token->token >= tokenizer->next_added) tokenizer->next_added = token->token + 1;
    return ZMLX_OK;
}

zmlx_status zm_add_token(zmlx_tokenizer *tokenizer, const zm_added_token *token, zmlx_error *error) {
    zm_added_token added = *token;
    if (!token->content_size) return ZMLX_OK; /* as the package does */
    int64_t id = choose_id(tokenizer, token->content, token->content_size);
    if (id > ZM_MAX_TOKEN_ID)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL, "more than %d tokens", ZM_MAX_TOKEN_ID + 1);
    added.token = (int32_t)id;
    added.content = zm_arena_copy(tokenizer->arena, token->content, token->content_size);
    if (!added.content) return zm_fail_memory(error);
    ZM_TRY(normal_content(tokenizer, &added, error));
    return store(tokenizer, &added, error);
}

zmlx_status zm_load_added_flags(const zm_field *item, zm_added_token *token, zmlx_error *error) {
    const struct {
        const char *name;
        bool *value;
    } flags[] = {{"single_word", &token->single_word},
                 {"lstrip", &token->strip_left},
                 {"rstrip", &token->strip_right},
                 {"normalized", &token->normalized},
                 {"special", &token->special}};
    for (size_t i = 0; i < sizeof flags / sizeof *flags; i++) {
        zm_field flag = zm_field_get(item, flags[i].name);
        ZM_TRY(zm_field_bool(&flag, flags[i].value, *flags[i].value, error));
    }
    return ZMLX_OK;
}

zmlx_status zm_load_added(zmlx_tokenizer *tokenizer, const zm_field *list, zmlx_error *error) {
    if (!list->value) return ZMLX_OK;
    ZM_TRY(zm_field_array(list, error));
    for (size_t i = 0; i < json_array_size(list->value); i++) {
        zm_added_token token = {0};
        zm_field item = zm_field_at(list, i);
        zm_field content = zm_field_get(&item, "content");
        ZM_TRY(zm_field_object(&item, error));
        ZM_TRY(zm_field_string(&content, &token.content, &token.content_size, error));
        ZM_TRY(zm_load_added_flags(&item, &token, error));
        ZM_TRY(zm_add_token(tokenizer, &token, error));
    }
    return ZMLX_OK;
}

/* A decoded string is special when it equals the content of a token that was ever added as special. */
static zmlx_status mark_special(zmlx_tokenizer *tokenizer, zmlx_error *error) {
    zm_map *specials = zm_map_new();
    zmlx_status status = specials ? ZMLX_OK : zm_fail_memory(error);
    for (size_t i = 0; i < tokenizer->n_added && !status; i++) {
        const zm_added_token *token = &tokenizer->added[i];
        if (token->special && zm_map_add(specials, token->content, token->content_size, 0) < 0)
            status = zm_fail_memory(error);
    }
    for (int32_t id = 0; id < tokenizer->vocab_size && !status; id++) {
        zm_token_text *token = &tokenizer->tokens[id];
        token->special = token->text && zm_map_get(specials, token->decoded, token->decoded_size, NULL);
    }
    zm_map_free(specials);
    return status;
}

zmlx_status zm_finish_tokens(zmlx_tokenizer *tokenizer, const char *name, zmlx_error *error) {
    int32_t size = tokenizer->vocab_size;
    char where[ZM_WHERE_ROOM];
    zm_field field = {.file = name, .path = "added_tokens"};
    zm_field_where(&field, where, sizeof where);
    for (size_t i = 0; i < tokenizer->n_added; i++)
        if (tokenizer->added[i].token >= size) size = tokenizer->added[i].token + 1;
    zm_token_text *tokens = realloc(tokenizer->tokens, ((size_t)size + 1) * sizeof *tokens);
    if (!tokens) return zm_fail_memory(error);
    memset(tokens + tokenizer->vocab_size, 0, (size_t)(size - tokenizer->vocab_size) * sizeof *tokens);
    tokenizer->tokens = tokens;
    tokenizer->vocab_size = size;
    for (size_t i = 0; i < tokenizer->n_added; i++) {
        const zm_added_token *token = &tokenizer->added[i];
        tokens[token->token] = (zm_token_text){.text = token->content,
                                               .size = token->content_size,
                                               .decoded = token->normal,
                                               .decoded_size = token->normal_size};
    }
    ZM_TRY(mark_special(tokenizer, error));
    ZM_TRY(
        zm_added_tree_new(&tokenizer->raw_tree, tokenizer->added, tokenizer->n_added, false, where, error));
    ZM_TRY(
        zm_added_tree_new(&tokenizer->normal_tree, tokenizer->added, tokenizer->n_added, true, where, error));
    for (size_t i = 0; i < tokenizer->n_template; i++)
        for (size_t j = 0; j < tokenizer->template[i].n_tokens; j++)
            if (tokenizer->template[i].tokens[j] >= size)
                return zm_fail(error, ZMLX_ERROR_FORMAT, name,
                               "post_processor: the token id %d does not exist",
                               tokenizer->template[i].tokens[j]);
    return ZMLX_OK;
}
