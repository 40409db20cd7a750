/* SPDX-License-Identifier: MIT */
/* A loaded tokenizer, as its loader and its users see it. */
#ifndef ZM_MODEL_TOKENIZER_INTERNAL_H
#define ZM_MODEL_TOKENIZER_INTERNAL_H

#include "base/arena.h"
#include "base/map.h"
#include "model/tokenizer/added.h"
#include "model/tokenizer/bpe.h"
#include "model/tokenizer/decode.h"
#include "model/tokenizer/normalise.h"
#include "model/tokenizer/split.h"
#include "zmlx/tokenizer.h"

enum { ZM_MAX_STAGES = 16, ZM_MAX_TEMPLATE = 64, ZM_MAX_TOKEN_ID = (1 << 22) - 1 };

typedef struct zm_token_text {
    const char *text; /* as in tokenizer.json; NULL where no token has this id; borrowed from the arena */
    size_t size;
    const char *decoded; /* what the decoder starts from; borrowed */
    size_t decoded_size;
    bool special; /* left out of decoded text on demand */
} zm_token_text;

/* One part of the post-processor's template. */
typedef struct zm_template_part {
    bool is_text;          /* the encoded text goes here */
    const int32_t *tokens; /* else these; borrowed */
    size_t n_tokens;
} zm_template_part;

struct zmlx_tokenizer {
    zm_arena *arena;
    zm_bpe bpe;
    zm_token_text *tokens; /* [vocab_size] */
    int32_t vocab_size;
    zm_added_token *added;
    size_t n_added, added_capacity;
    zm_table added_by_id; /* id -> index in added */
    int32_t next_added;   /* above every added id */
    zm_map *added_ids;    /* content -> id; NULL when there are none */
    zm_added_tree *raw_tree, *normal_tree;
    zm_normaliser normalisers[ZM_MAX_STAGES];
    size_t n_normalisers;
    zm_splitter splitters[ZM_MAX_STAGES];
    size_t n_splitters;
    zm_decode_step decode_steps[ZM_MAX_STAGES];
    size_t n_decode_steps;
    bool has_decoder; /* without one, strings are joined by spaces */
    zm_template_part template[ZM_MAX_TEMPLATE];
    size_t n_template;    /* 0: the text alone */
    int32_t bos, eos;     /* ids, or -1 */
    const char *bos_text; /* what a prompt may begin with; NULL where there is none; borrowed */
    size_t bos_size;
};

/* The contents of a folder's files; only tokenizer.json must be there. */
typedef struct zm_tokenizer_files {
    const char *folder;                       /* shown in errors */
    /* tokenizer.json, tokenizer_config.json, config.json, special_tokens_map.json; borrowed */
    const char *tokenizer, *settings, *model, *special;
    size_t tokenizer_size, settings_size, model_size, special_size;
} zm_tokenizer_files;
zmlx_status zm_tokenizer_parse(zmlx_tokenizer **tokenizer, const zm_tokenizer_files *files,
                               zmlx_error *error);

/* The id of a token string of size bytes, or -1. */
int32_t zm_tokenizer_find(const zmlx_tokenizer *tokenizer, const char *text, size_t size);

#endif
