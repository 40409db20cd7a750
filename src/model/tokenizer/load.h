/* SPDX-License-Identifier: MIT */
/* The parts of reading tokenizer.json. */
#ifndef ZM_MODEL_TOKENIZER_LOAD_H
#define ZM_MODEL_TOKENIZER_LOAD_H

#include "model/tokenizer/field.h"
#include "model/tokenizer/internal.h"

/* model: vocabulary and merges. */
zmlx_status zm_load_model(zmlx_tokenizer *tokenizer, const zm_field *model, zmlx_error *error);

/* added_tokens; the model and the normalisers must be there. */
zmlx_status zm_load_added(zmlx_tokenizer *tokenizer, const zm_field *list, zmlx_error *error);
/* One token more, or other properties for one that is there already. content is copied. */
zmlx_status zm_add_token(zmlx_tokenizer *tokenizer, const zm_added_token *token, zmlx_error *error);
/* Builds what lookups need once every token is there. */
zmlx_status zm_finish_tokens(zmlx_tokenizer *tokenizer, const char *name, zmlx_error *error);

/* normalizer, pre_tokenizer, decoder, post_processor; each may be absent. They replace what is there. */
zmlx_status zm_load_normalizer(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error);
zmlx_status zm_load_pre_tokenizer(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error);
zmlx_status zm_load_decoder(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error);
zmlx_status zm_load_post_processor(zmlx_tokenizer *tokenizer, const zm_field *field, zmlx_error *error);

/* tokenizer_config.json as transformers' classes read it. First what replaces the stages: LlamaTokenizer
 * keeps the file's vocabulary only. Then the tokens it names; those of special, special_tokens_map.json, go before. */
zmlx_status zm_settings_stages(zmlx_tokenizer *tokenizer, const zm_field *settings, const zm_field *model,
                               zmlx_error *error);
zmlx_status zm_settings_tokens(zmlx_tokenizer *tokenizer, const zm_field *settings, const zm_field *special,
                               const zm_field *model, zmlx_error *error);

/* The flags of one entry of added_tokens; absent ones keep their value in token. */
zmlx_status zm_load_added_flags(const zm_field *item, zm_added_token *token, zmlx_error *error);

/* Forgets normalisers, splitters and decode steps. */
void zm_drop_stages(zmlx_tokenizer *tokenizer);

#endif
