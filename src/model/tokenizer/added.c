/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/added.h"

#include <stdlib.h>

#include "model/tokenizer/table.h"
#include "model/tokenizer/unicode.h"
#include "model/tokenizer/utf8.h"

struct zm_added_tree {
    zm_table children;           /* node * 256 + byte -> node; the root is 0 */
    const zm_added_token **ends; /* by node: the token that ends there, or NULL; owned array */
    size_t n_nodes, capacity;
    bool first[256]; /* bytes that begin a token */
};

void zm_added_tree_free(zm_added_tree *tree) {
    if (!tree) return;
    zm_table_free(&tree->children);
    free(tree->ends);
    free(tree);
}

static bool new_node(zm_added_tree *tree) {
    if (tree->n_nodes == tree->capacity) {
        size_t capacity = tree->capacity ? tree->capacity * 2 : 64;
        const zm_added_token **ends = realloc(tree->ends, capacity * sizeof *ends);
        if (!ends) return false;
        tree->ends = ends;
        tree->capacity = capacity;
    }
    tree->ends[tree->n_nodes++] = NULL;
    return true;
}

static zmlx_status insert(zm_added_tree *tree, const zm_added_token *token, const char *where,
                          zmlx_error *error) {
    const char *text = token->normalized ? token->normal : token->content;
    size_t size = token->normalized ? token->normal_size : token->content_size;
    uint64_t node = 0;
    if (!size || size > ZM_MAX_ADDED_TOKEN)
        return zm_fail(error, size ? ZMLX_ERROR_UNSUPPORTED : ZMLX_ERROR_FORMAT, where,
                       "the added token %d has %zu bytes; supported are 1 to %d", token->token, size,
                       ZM_MAX_ADDED_TOKEN);
    for (size_t i = 0; i < size; i++) {
        uint64_t key = node << 8 | (unsigned char)text[i];
        if (!zm_table_get(&tree->children, key, &node)) {
            node = tree->n_nodes;
            if (!new_node(tree) || !zm_table_set(&tree->children, key, node)) return zm_fail_memory(error);
        }
    }
    if (tree->ends[node])
        return zm_fail(error, ZMLX_ERROR_FORMAT, where, "the added tokens %d and %d have the same text",
                       tree->ends[node]->token, token->token);
    tree->ends[node] = token;
    tree->first[(unsigned char)text[0]] = true;
    return ZMLX_OK;
}

zmlx_status zm_added_tree_new(zm_added_tree **tree, const zm_added_token *tokens, size_t count,
                              bool normalized, const char *where, zmlx_error *error) {
    *tree = NULL;
    size_t used = 0;
    for (size_t i = 0; i < count; i++) used += tokens[i].normalized == normalized;
    if (!used) return ZMLX_OK;
    zm_added_tree *made = calloc(1, sizeof *made);
    if (!made || !new_node(made)) {
        zm_added_tree_free(made);
        return zm_fail_memory(error);
    }
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < count && !status; i++)
        if (tokens[i].normalized == normalized) status = insert(made, &tokens[i], where, error);
    if (status)
        zm_added_tree_free(made);
    else
        *tree = made;
    return status;
}

/* The longest token at the beginning of text, or NULL. */
static const zm_added_token *longest(const zm_added_tree *tree, const char *text, size_t size,
                                     size_t *length) {
    const zm_added_token *best = NULL;
    uint64_t node = 0;
    for (size_t i = 0; i < size; i++) {
        if (!zm_table_get(&tree->children, node << 8 | (unsigned char)text[i], &node)) break;
        if (tree->ends[node]) {
            best = tree->ends[node];
            *length = i + 1;
        }
    }
    return best;
}

static bool word_ends_at(const char *text, size_t at) {
    uint32_t code;
    if (!at) return false;
    size_t before = zm_utf8_before(text, at);
    zm_utf8_next(text + before, at - before, &code);
    return zm_unicode_word(code);
}

static bool word_starts_at(const char *text, size_t size, size_t at) {
    uint32_t code;
    if (at == size) return false;
    zm_utf8_next(text + at, size - at, &code);
    return zm_unicode_word(code);
}

/* Where the white space before at begins, not before low. */
static size_t space_before(const char *text, size_t at, size_t low) {
    while (at > low) {
        uint32_t code;
        size_t before = zm_utf8_before(text, at);
        zm_utf8_next(text + before, at - before, &code);
        if (!zm_unicode_space(code)) break;
        at = before;
    }
    return at > low ? at : low;
}

static size_t space_after(const char *text, size_t size, size_t at) {
    while (at < size) {
        uint32_t code;
        size_t length = zm_utf8_next(text + at, size - at, &code);
        if (!zm_unicode_space(code)) break;
        at += length;
    }
    return at;
}

void zm_added_cut(const zm_added_tree *tree, zm_pieces *out, size_t offset, bool at_origin) {
    const char *text = out->text.data ? out->text.data + offset : "";
    size_t size = out->text.size - offset;
    zm_piece piece = {.offset = offset, .token = ZM_NO_TOKEN, .at_origin = at_origin};
    size_t covered = 0, spaced = 0; /* spaced: how far white space has been looked through */
    for (size_t at = 0; tree && at < size;) {
        size_t length = 0;
        const zm_added_token *token =
            tree->first[(unsigned char)text[at]] ? longest(tree, text + at, size - at, &length) : NULL;
        if (!token) {
            at++;
            continue;
        }
        size_t start = at, stop = at + length;
        at = stop;
        if (token->single_word && (word_ends_at(text, start) || word_starts_at(text, size, stop))) continue;
        if (token->strip_left) start = space_before(text, start, covered);
        if (token->strip_right) {
            stop = spaced > stop ? spaced : space_after(text, size, stop);
            spaced = stop;
        }
        if (covered < start) {
            piece.offset = offset + covered;
            piece.size = start - covered;
            piece.at_origin = at_origin && covered == 0;
            zm_pieces_add(out, piece);
        }
        zm_pieces_add(out, (zm_piece){.offset = offset + start, .token = token->token});
        covered = stop;
    }
    piece.offset = offset + covered;
    piece.size = size - covered;
    piece.at_origin = at_origin && covered == 0;
    zm_pieces_add(out, piece);
}
