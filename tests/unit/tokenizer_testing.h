/* SPDX-License-Identifier: MIT */
/* For tests of the tokenizer: small ones from memory, and what they encode and decode. */
#ifndef ZM_TESTS_TOKENIZER_TESTING_H
#define ZM_TESTS_TOKENIZER_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/tokenizer/internal.h"

/* a b c d <s> and the merges ab, cd, abcd; byte-level, so that a space is U+0120. */
#define SMALL_MODEL                                                                                       \
    "\"model\":{\"type\":\"BPE\",\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"d\":3,\"ab\":4,\"cd\":5,"           \
    "\"abcd\":6,\"\u0120\":7,\"\u00c3\":8,\"\u00a9\":9},\"merges\":[[\"c\",\"d\"],[\"a\",\"b\"],[\"ab\"," \
    "\"cd\"]]}"
#define BYTE_LEVEL \
    "\"pre_tokenizer\":{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false},"
#define BYTE_DECODER "\"decoder\":{\"type\":\"ByteLevel\"},"

static inline zmlx_status parse_files_of(zmlx_tokenizer **tokenizer, const char *json, const char *settings,
                                         const char *special, zmlx_error *error) {
    zm_tokenizer_files files = {.folder = "DIR", .tokenizer = json, .tokenizer_size = strlen(json)};
    if (settings) {
        files.settings = settings;
        files.settings_size = strlen(settings);
        files.model = "{\"model_type\":\"llama\"}";
        files.model_size = strlen(files.model);
    }
    files.special = special;
    files.special_size = special ? strlen(special) : 0;
    return zm_tokenizer_parse(tokenizer, &files, error);
}

static inline zmlx_status parse_files(zmlx_tokenizer **tokenizer, const char *json, const char *settings,
                                      zmlx_error *error) {
    return parse_files_of(tokenizer, json, settings, NULL, error);
}

static inline zmlx_tokenizer *make(const char *json) {
    zmlx_tokenizer *tokenizer;
    zmlx_error error = {0};
    if (parse_files(&tokenizer, json, NULL, &error)) print_error("%s: %s\n", error.where, error.message);
    assert_non_null(tokenizer);
    return tokenizer;
}

/* The ids, as in "4 5 6". */
static inline void check_encode(const zmlx_tokenizer *tokenizer, const char *text, size_t size, bool special,
                                const char *expected) {
    int32_t *tokens;
    size_t count, at = 0;
    char got[512] = "";
    zmlx_error error = {0};
    zmlx_status status = zmlx_tokenizer_encode(tokenizer, &tokens, &count, text, size, special, &error);
    assert_string_equal(error.message, "");
    assert_int_equal(status, ZMLX_OK);
    assert_non_null(tokens);
    for (size_t i = 0; i < count && at < sizeof got - 16; i++)
        at += (size_t)snprintf(got + at, sizeof got - at, "%s%d", i ? " " : "", tokens[i]);
    assert_string_equal(got, expected);
    free(tokens);
}

static inline void check_text(const zmlx_tokenizer *tokenizer, const char *text, const char *expected) {
    check_encode(tokenizer, text, strlen(text), false, expected);
}

/* The decoded text, and the incremental decoder's pieces with | after each, the end piece last. */
static inline void check_decode(const zmlx_tokenizer *tokenizer, const int32_t *tokens, size_t count,
                                const char *expected, const char *pieces) {
    char *text, got[512] = "";
    size_t size;
    zmlx_decoder *decoder;
    assert_int_equal(zmlx_tokenizer_decode(tokenizer, &text, &size, tokens, count, false, NULL), ZMLX_OK);
    assert_string_equal(text, expected);
    assert_int_equal(size, strlen(expected));
    free(text);
    assert_int_equal(zmlx_decoder_new(&decoder, tokenizer, NULL), ZMLX_OK);
    for (size_t i = 0; i <= count; i++) {
        const char *piece;
        zmlx_status status = i < count ? zmlx_decoder_push(decoder, &piece, &size, tokens[i], NULL)
                                       : zmlx_decoder_finish(decoder, &piece, &size, NULL);
        assert_int_equal(status, ZMLX_OK);
        assert_true(strlen(got) + size + 2 < sizeof got);
        strncat(got, piece, size);
        strcat(got, i < count ? "|" : "");
    }
    assert_string_equal(got, pieces);
    zmlx_decoder_free(decoder);
}

#endif
