/* SPDX-License-Identifier: MIT */
/* Encodes and decodes for tokenizer_oracle.py: requests on standard input, answers on standard output.
 *
 *     tokenizer_driver FOLDER
 *
 * All numbers are 32 bits in the machine's byte order. A request is a letter and a counted array:
 *   't' size bytes     -> ids with special tokens, ids without, ids as a prompt
 *   'd' count ids      -> decoded bytes, decoded bytes without special tokens, 1 when the incremental
 *                         decoder gave the same in whole characters
 *   'q' 0              -> the ids of BOS and EOS
 * Each part of an answer is a counted array; a failure is the count 0xffffffff and a counted message. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "model/tokenizer/utf8.h"
#include "zmlx/tokenizer.h"

static void put(const void *data, uint32_t count, size_t item) {
    fwrite(&count, sizeof count, 1, stdout);
    if (count) fwrite(data, item, count, stdout);
}

static void put_error(const zmlx_error *error) {
    uint32_t mark = UINT32_MAX;
    fwrite(&mark, sizeof mark, 1, stdout);
    put(error->message, (uint32_t)strlen(error->message), 1);
}

static void answer_text(const zmlx_tokenizer *tokenizer, const char *text, size_t size) {
    zmlx_error error;
    for (int part = 0; part < 3; part++) {
        int32_t *tokens;
        size_t count;
        zmlx_status status =
            part < 2 ? zmlx_tokenizer_encode(tokenizer, &tokens, &count, text, size, part == 0, &error)
                     : zmlx_tokenizer_encode_prompt(tokenizer, &tokens, &count, text, size, &error);
        if (status)
            put_error(&error);
        else
            put(tokens, (uint32_t)count, sizeof *tokens);
        free(tokens);
    }
}

static bool whole_characters(const char *text, size_t size) {
    for (size_t at = 0; at < size;) {
        uint32_t code;
        bool valid, incomplete;
        at += zm_utf8_read(text + at, size - at, &code, &valid, &incomplete);
        if (!valid) return false;
    }
    return true;
}

static bool incremental_equals(const zmlx_tokenizer *tokenizer, const int32_t *ids, size_t count,
                               const char *text, size_t size) {
    zmlx_decoder *decoder;
    zm_text all = {0};
    bool good = !zmlx_decoder_new(&decoder, tokenizer, NULL);
    for (size_t i = 0; i <= count && good; i++) {
        const char *piece;
        size_t piece_size;
        good = i < count ? !zmlx_decoder_push(decoder, &piece, &piece_size, ids[i], NULL)
                         : !zmlx_decoder_finish(decoder, &piece, &piece_size, NULL);
        if (!good) break;
        good = whole_characters(piece, piece_size);
        zm_text_append(&all, piece, piece_size);
    }
    good = good && all.size == size && !memcmp(zm_text_string(&all), text, size);
    zm_text_free(&all);
    zmlx_decoder_free(decoder);
    return good;
}

static void answer_ids(const zmlx_tokenizer *tokenizer, const int32_t *ids, size_t count) {
    zmlx_error error;
    uint32_t equal = 0;
    for (int skip = 0; skip < 2; skip++) {
        char *text;
        size_t size;
        if (zmlx_tokenizer_decode(tokenizer, &text, &size, ids, count, skip == 1, &error))
            put_error(&error);
        else
            put(text, (uint32_t)size, 1);
        if (!skip && text) equal = incremental_equals(tokenizer, ids, count, text, size);
        free(text);
    }
    put(&equal, 1, sizeof equal);
}

int main(int argc, char **argv) {
    zmlx_tokenizer *tokenizer;
    zmlx_error error;
    int kind;
    if (argc != 2) return 2;
    if (zmlx_tokenizer_load(&tokenizer, argv[1], &error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 1;
    }
    while ((kind = getchar()) != EOF) {
        uint32_t count;
        size_t item = kind == 't' ? 1 : sizeof(int32_t);
        if (fread(&count, sizeof count, 1, stdin) != 1) break;
        char *data = malloc((size_t)count * item + 1);
        if (!data || fread(data, item, count, stdin) != count) return 2;
        if (kind == 't') {
            answer_text(tokenizer, data, count);
        } else if (kind == 'q') {
            int32_t ids[2] = {zmlx_tokenizer_bos(tokenizer), zmlx_tokenizer_eos(tokenizer)};
            put(ids, 2, sizeof *ids);
        } else {
            answer_ids(tokenizer, (const int32_t *)(const void *)data, count);
        }
        free(data);
    }
    zmlx_tokenizer_free(tokenizer);
    return 0;
}
