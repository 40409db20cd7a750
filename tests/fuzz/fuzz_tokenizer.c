/* SPDX-License-Identifier: MIT */
/* Any bytes as tokenizer.json, then (after a NUL byte) tokenizer_config.json, then text: encoding gives ids
 * of the vocabulary, decoding them gives UTF-8, and the incremental decoder gives the same. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/internal.h"
#include "model/tokenizer/utf8.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool holds) {
    if (!holds) abort();
}

static void require_utf8(const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        uint32_t code;
        bool valid, incomplete;
        at += zm_utf8_read(text + at, size - at, &code, &valid, &incomplete);
        require(valid);
    }
}

static void check_incremental(const zmlx_tokenizer *tokenizer, const int32_t *tokens, size_t n_tokens,
                              const char *text, size_t size) {
    zmlx_decoder *decoder;
    size_t at = 0;
    require(!zmlx_decoder_new(&decoder, tokenizer, NULL));
    for (size_t i = 0; i <= n_tokens; i++) {
        const char *piece;
        size_t piece_size;
        zmlx_status status = i < n_tokens
                                 ? zmlx_decoder_push(decoder, &piece, &piece_size, tokens[i], NULL)
                                 : zmlx_decoder_finish(decoder, &piece, &piece_size, NULL);
        require(!status && piece_size <= size - at && !memcmp(piece, text + at, piece_size));
        require_utf8(piece, piece_size);
        at += piece_size;
    }
    require(at == size);
    zmlx_decoder_free(decoder);
}

static void use(const zmlx_tokenizer *tokenizer, const char *text, size_t size) {
    int32_t *tokens;
    size_t n_tokens, decoded_size;
    zmlx_error error = {0};
    if (zmlx_tokenizer_encode(tokenizer, &tokens, &n_tokens, text, size, true, &error)) {
        require(!tokens && !n_tokens && error.message[0]);
        return;
    }
    for (size_t i = 0; i < n_tokens; i++)
        require(tokens[i] >= 0 && tokens[i] < zmlx_tokenizer_vocab_size(tokenizer));
    char *decoded;
    if (!zmlx_tokenizer_decode(tokenizer, &decoded, &decoded_size, tokens, n_tokens, false, &error)) {
        require_utf8(decoded, decoded_size);
        check_incremental(tokenizer, tokens, n_tokens, decoded, decoded_size);
        free(decoded);
    } else {
        require(!decoded && error.message[0]);
    }
    free(tokens);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *bytes = (const char *)data;
    const char *first = size ? memchr(bytes, 0, size) : NULL;
    zm_tokenizer_files files = {.folder = "fuzz", .tokenizer = bytes};
    static const char model[] = "{\"model_type\": \"llama\"}";
    const char *text = "The ship\xe2\x80\x83<s>\xc3\xa9 \xff 12345 don't ";
    size_t text_size = strlen(text);
    files.tokenizer_size = first ? (size_t)(first - bytes) : size;
    if (first) {
        size_t rest = size - files.tokenizer_size - 1;
        const char *second = memchr(first + 1, 0, rest);
        files.settings_size = second ? (size_t)(second - first - 1) : rest;
        if (files.settings_size) {
            files.settings = first + 1;
            files.model = model;
            files.model_size = strlen(model);
        }
        if (second) {
            text = second + 1;
            text_size = rest - files.settings_size - 1;
        }
    }
    zmlx_tokenizer *tokenizer;
    zmlx_error error = {0};
    if (zm_tokenizer_parse(&tokenizer, &files, &error)) {
        require(!tokenizer && error.message[0]);
        return 0;
    }
    use(tokenizer, text, text_size);
    zmlx_tokenizer_free(tokenizer);
    return 0;
}
