/* SPDX-License-Identifier: MIT */
/* Added tokens: strings that become one token wherever they stand, found before anything else. */
#ifndef ZM_MODEL_TOKENIZER_ADDED_H
#define ZM_MODEL_TOKENIZER_ADDED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "model/tokenizer/pieces.h"

enum { ZM_MAX_ADDED_TOKEN = 1024 }; /* bytes */

typedef struct zm_added_token {
    const char *content; /* borrowed */
    size_t content_size;
    const char *normal; /* borrowed: the content normalised, where `normalized` is set, else the content */
    size_t normal_size;
    int32_t token;
    bool single_word;             /* not inside a word */
    bool strip_left, strip_right; /* takes the white space beside it along */
    bool normalized;              /* looked for after normalisation */
    bool special;
} zm_added_token;

/* A prefix tree over token strings. */
typedef struct zm_added_tree zm_added_tree;

/* Of the tokens with .normalized == normalized; they are borrowed. *tree is NULL when there are none. where
 * names the field for errors. */
zmlx_status zm_added_tree_new(zm_added_tree **tree, const zm_added_token *tokens, size_t count,
                              bool normalized, const char *where, zmlx_error *error);
void zm_added_tree_free(zm_added_tree *tree);

/* Cuts text, which was just appended to out->text at offset, into tokens and pieces between them: from
 * the left, the longest token first. tree may be NULL. */
void zm_added_cut(const zm_added_tree *tree, zm_pieces *out, size_t offset, bool at_origin);

#endif
