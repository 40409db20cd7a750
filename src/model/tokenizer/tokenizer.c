/* SPDX-License-Identifier: MIT */
/* The public functions: encoding, decoding, queries. */
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/internal.h"
#include "model/tokenizer/utf8.h"

enum { MAX_TEXT = 256 << 20, GROWTH = 64, EXTRA = 1 << 20 };

/* One encoding under way. The pieces go back and forth between two buffers. */
typedef struct encoder {
    const zmlx_tokenizer *tokenizer;
    zm_pieces buffers[2];
    unsigned current;
    zm_matcher matcher;
    zm_bpe_scratch scratch;
} encoder;

static zm_pieces *current(encoder *e) { return &e->buffers[e->current]; }
static zm_pieces *other(encoder *e) { return &e->buffers[1 - e->current]; }

static zmlx_status check_pieces(const zm_pieces *pieces, zmlx_error *error) {
    return pieces->failed || pieces->text.failed ? zm_fail_memory(error) : ZMLX_OK;
}

/* Applies every normaliser to one piece and appends the result to out->text. */
static zmlx_status normalise_piece(encoder *e, zm_pieces *out, zm_text texts[2], const zm_piece *piece,
                                   bool *at_origin, zmlx_error *error) {
    const zmlx_tokenizer *t = e->tokenizer;
    const char *text = current(e)->text.data + piece->offset;
    size_t size = piece->size;
    for (size_t i = 0; i < t->n_normalisers; i++) {
        bool last = i + 1 == t->n_normalisers;
        zm_text *to = last ? &out->text : &texts[i % 2];
        if (!last) zm_text_clear(to);
        ZM_TRY(zm_normalise(&t->normalisers[i], &e->matcher, to, text, size, at_origin, error));
        if (to->failed) return zm_fail_memory(error);
        ZM_TRY(zm_matcher_check_size(&e->matcher, to->size, error));
        text = zm_text_string(to);
        size = to->size;
    }
    if (!t->n_normalisers) zm_text_append(&out->text, text, size);
    return ZMLX_OK;
}

static zmlx_status normalise_all(encoder *e, zmlx_error *error) {
    const zm_pieces *in = current(e);
    zm_pieces *out = other(e);
    zm_text texts[2] = {{0}, {0}};
    zmlx_status status = ZMLX_OK;
    zm_pieces_clear(out);
    for (size_t i = 0; i < in->count && !status; i++) {
        const zm_piece *piece = &in->items[i];
        if (piece->token != ZM_NO_TOKEN) {
            zm_pieces_add(out, (zm_piece){.token = piece->token});
            continue;
        }
        size_t offset = out->text.size;
        bool at_origin = piece->at_origin;
        status = normalise_piece(e, out, texts, piece, &at_origin, error);
        if (!status) zm_added_cut(e->tokenizer->normal_tree, out, offset, at_origin);
    }
    zm_text_free(&texts[0]);
    zm_text_free(&texts[1]);
    e->current = 1 - e->current;
    return status ? status : check_pieces(out, error);
}

static zmlx_status tokenise_pieces(encoder *e, zmlx_error *error) {
    const zm_pieces *pieces = current(e);
    for (size_t i = 0; i < pieces->count; i++) {
        const zm_piece *piece = &pieces->items[i];
        if (piece->token != ZM_NO_TOKEN)
            ZM_TRY(zm_bpe_add_token(&e->scratch, piece->token, error));
        else
            ZM_TRY(zm_bpe_encode(&e->tokenizer->bpe, &e->scratch, pieces->text.data + piece->offset,
                                 piece->size, error));
    }
    return ZMLX_OK;
}

static zmlx_status run(encoder *e, const char *text, size_t size, zmlx_error *error) {
    const zmlx_tokenizer *t = e->tokenizer;
    zm_pieces *first = current(e);
    zm_utf8_append_repaired(&first->text, text, size);
    if (first->text.failed) return zm_fail_memory(error);
    zm_added_cut(t->raw_tree, first, 0, true);
    ZM_TRY(check_pieces(first, error));
    if (t->n_normalisers || t->normal_tree) ZM_TRY(normalise_all(e, error));
    for (size_t i = 0; i < t->n_splitters; i++) {
        ZM_TRY(zm_split(&t->splitters[i], &e->matcher, current(e), other(e), error));
        e->current = 1 - e->current;
    }
    return tokenise_pieces(e, error);
}

/* The tokens of the text, and with add_special those of the template around them. */
static zmlx_status assemble(const encoder *e, int32_t **tokens, size_t *n_tokens, bool add_special,
                            zmlx_error *error) {
    const zmlx_tokenizer *t = e->tokenizer;
    static const zm_template_part text_alone = {.is_text = true};
    const zm_template_part *parts = t->n_template ? t->template : &text_alone;
    size_t n_parts = t->n_template ? t->n_template : 1, total = 0;
    for (size_t i = 0; i < n_parts; i++)
        total += parts[i].is_text ? e->scratch.n_tokens : add_special ? parts[i].n_tokens : 0;
    int32_t *result = malloc((total + 1) * sizeof *result);
    if (!result) return zm_fail_memory(error);
    size_t at = 0;
    for (size_t i = 0; i < n_parts; i++) {
        const int32_t *source = parts[i].is_text ? e->scratch.tokens : parts[i].tokens;
        size_t count = parts[i].is_text ? e->scratch.n_tokens : add_special ? parts[i].n_tokens : 0;
        if (count) memcpy(result + at, source, count * sizeof *result);
        at += count;
    }
    *tokens = result;
    *n_tokens = total;
    return ZMLX_OK;
}

zmlx_status zmlx_tokenizer_encode(const zmlx_tokenizer *tokenizer, int32_t **tokens, size_t *n_tokens,
                                  const char *text, size_t size, bool add_special, zmlx_error *error) {
    *tokens = NULL;
    *n_tokens = 0;
    zm_error_clear(error);
    if (!tokenizer) return zm_fail_null(error, "tokenizer");
    if (!text && size) return zm_fail_null(error, "text");
    if (size > MAX_TEXT)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, NULL, "a text of %zu bytes is longer than %d", size,
                       MAX_TEXT);
    encoder e = {.tokenizer = tokenizer};
    e.matcher.text_limit = size * GROWTH + EXTRA < (size_t)1 << 30 ? size * GROWTH + EXTRA : (size_t)1 << 30;
    zmlx_status status = run(&e, text, size, error);
    if (!status) status = assemble(&e, tokens, n_tokens, add_special, error);
    zm_pieces_free(&e.buffers[0]);
    zm_pieces_free(&e.buffers[1]);
    zm_matcher_free(&e.matcher);
    zm_bpe_scratch_free(&e.scratch);
    return status;
}

zmlx_status zmlx_tokenizer_encode_prompt(const zmlx_tokenizer *tokenizer, int32_t **tokens, size_t *n_tokens,
                                         const char *text, size_t size, zmlx_error *error) {
    bool begins = tokenizer && tokenizer->bos_text && text && size >= tokenizer->bos_size &&
                  !memcmp(text, tokenizer->bos_text, tokenizer->bos_size);
    return zmlx_tokenizer_encode(tokenizer, tokens, n_tokens, text, size, !begins, error);
}

static zmlx_status check_token(const zmlx_tokenizer *tokenizer, int32_t token, zmlx_error *error) {
    if (token >= 0 && token < tokenizer->vocab_size) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, NULL, "token %d is outside the vocabulary of %d", token,
                   tokenizer->vocab_size);
}

static zmlx_status start_chain(zm_decode_chain *chain, const zmlx_tokenizer *tokenizer, zmlx_error *error) {
    return zm_decode_chain_init(chain, tokenizer->decode_steps, tokenizer->n_decode_steps,
                                !tokenizer->has_decoder, error);
}

/* An id without a token, between others that have one, gives no text. */
static zmlx_status push_token(zm_decode_chain *chain, const zmlx_tokenizer *tokenizer, int32_t token,
                              bool skip_special, zmlx_error *error) {
    const zm_token_text *text = &tokenizer->tokens[token];
    if (!text->text || (skip_special && text->special)) return ZMLX_OK;
    return zm_decode_push(chain, text->decoded, text->decoded_size, error);
}

zmlx_status zmlx_tokenizer_decode(const zmlx_tokenizer *tokenizer, char **text, size_t *size,
                                  const int32_t *tokens, size_t n_tokens, bool skip_special,
                                  zmlx_error *error) {
    *text = NULL;
    *size = 0;
    zm_error_clear(error);
    if (!tokenizer) return zm_fail_null(error, "tokenizer");
    if (!tokens && n_tokens) return zm_fail_null(error, "tokens");
    for (size_t i = 0; i < n_tokens; i++) ZM_TRY(check_token(tokenizer, tokens[i], error));
    zm_decode_chain chain;
    zmlx_status status = start_chain(&chain, tokenizer, error);
    for (size_t i = 0; i < n_tokens && !status; i++)
        status = push_token(&chain, tokenizer, tokens[i], skip_special, error);
    if (!status) status = zm_decode_finish(&chain, error);
    if (!status) {
        *size = chain.output.size;
        *text = zm_text_take(&chain.output);
        if (!*text) {
            *size = 0;
            status = zm_fail_memory(error);
        }
    }
    zm_decode_chain_free(&chain);
    return status;
}

struct zmlx_decoder {
    const zmlx_tokenizer *tokenizer;
    zm_decode_chain chain;
};

zmlx_status zmlx_decoder_new(zmlx_decoder **decoder, const zmlx_tokenizer *tokenizer, zmlx_error *error) {
    *decoder = NULL;
    zm_error_clear(error);
    if (!tokenizer) return zm_fail_null(error, "tokenizer");
    zmlx_decoder *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    made->tokenizer = tokenizer;
    zmlx_status status = start_chain(&made->chain, tokenizer, error);
    if (status)
        zmlx_decoder_free(made);
    else
        *decoder = made;
    return status;
}

void zmlx_decoder_free(zmlx_decoder *decoder) {
    if (!decoder) return;
    zm_decode_chain_free(&decoder->chain);
    free(decoder);
}

static void give_output(zmlx_decoder *decoder, const char **text, size_t *size) {
    *text = zm_text_string(&decoder->chain.output);
    *size = decoder->chain.output.size;
}

zmlx_status zmlx_decoder_push(zmlx_decoder *decoder, const char **text, size_t *size, int32_t token,
                              zmlx_error *error) {
    *text = NULL;
    *size = 0;
    zm_error_clear(error);
    if (!decoder) return zm_fail_null(error, "decoder");
    ZM_TRY(check_token(decoder->tokenizer, token, error));
    zm_text_clear(&decoder->chain.output);
    ZM_TRY(push_token(&decoder->chain, decoder->tokenizer, token, false, error));
    give_output(decoder, text, size);
    return ZMLX_OK;
}

zmlx_status zmlx_decoder_finish(zmlx_decoder *decoder, const char **text, size_t *size, zmlx_error *error) {
    *text = NULL;
    *size = 0;
    zm_error_clear(error);
    if (!decoder) return zm_fail_null(error, "decoder");
    zm_text_clear(&decoder->chain.output);
    ZM_TRY(zm_decode_finish(&decoder->chain, error));
    give_output(decoder, text, size);
    return ZMLX_OK;
}

int32_t zmlx_tokenizer_vocab_size(const zmlx_tokenizer *tokenizer) { return tokenizer ? tokenizer->vocab_size : 0; }

const char *zmlx_tokenizer_token_text(const zmlx_tokenizer *tokenizer, int32_t token) {
    return token >= 0 && token < zmlx_tokenizer_vocab_size(tokenizer) ? tokenizer->tokens[token].text : NULL;
}

int32_t zm_tokenizer_find(const zmlx_tokenizer *tokenizer, const char *text, size_t size) {
    uint64_t id;
    if (tokenizer->added_ids && zm_map_get(tokenizer->added_ids, text, size, &id)) return (int32_t)id;
    return zm_bpe_find(&tokenizer->bpe, text, size);
}

int32_t zmlx_tokenizer_token_id(const zmlx_tokenizer *tokenizer, const char *text) {
    return tokenizer && text ? zm_tokenizer_find(tokenizer, text, strlen(text)) : -1;
}

int32_t zmlx_tokenizer_bos(const zmlx_tokenizer *tokenizer) { return tokenizer ? tokenizer->bos : -1; }
int32_t zmlx_tokenizer_eos(const zmlx_tokenizer *tokenizer) { return tokenizer ? tokenizer->eos : -1; }
