/* SPDX-License-Identifier: MIT */
/* Small tokenizers whose results follow by hand from the rules of tokenizer.json. */
#include "tokenizer_testing.h"

#define SPLIT(pattern, behaviour)                                                              \
    "{\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":" pattern ",\"behavior\":\"" behaviour \
    "\",\"invert\":false}," LETTERS "}"
#define LETTERS                                                                                            \
    "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"-\":2,\"a-\":3,\"-b\":4,\"--\":5,\"ab\":6,\"b-\":7,\"é\":8," \
    "\" \":9,\"1\":10,\"11\":11,\"E\":12},\"merges\":[\"a -\",\"- b\",\"- -\",\"a b\",\"b -\",\"1 1\"]}"

static void merges_by_rank_then_position(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make("{" BYTE_LEVEL SMALL_MODEL "}");
    check_text(tokenizer, "", "");
    check_text(tokenizer, "abcd", "6");
    check_text(tokenizer, "abc", "4 2");
    check_text(tokenizer, "bcd ab", "1 5 7 4");
    check_text(tokenizer, "abababcd", "4 4 6");
    check_text(tokenizer, "xa", "0"); /* no unknown token: dropped */
    check_text(tokenizer, "\xc3\xa9", "8 9");
    assert_int_equal(zmlx_tokenizer_vocab_size(tokenizer), 10);
    assert_string_equal(zmlx_tokenizer_token_text(tokenizer, 6), "abcd");
    assert_null(zmlx_tokenizer_token_text(tokenizer, 10));
    assert_null(zmlx_tokenizer_token_text(tokenizer, -1));
    assert_int_equal(zmlx_tokenizer_token_id(tokenizer, "cd"), 5);
    assert_int_equal(zmlx_tokenizer_token_id(tokenizer, "zz"), -1);
    assert_int_equal(zmlx_tokenizer_bos(tokenizer), -1);
    zmlx_tokenizer_free(tokenizer);
}

static void ignore_merges_takes_whole_words(void **state) {
    (void)state;
    static const char plain[] =
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3},\"merges\":[\"a b\"],"
        "\"ignore_merges\":false}}";
    static const char whole[] =
        "{\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2,\"aba\":3},\"merges\":[\"a b\"],"
        "\"ignore_merges\":true}}";
    zmlx_tokenizer *tokenizer = make(plain);
    check_text(tokenizer, "aba", "2 0");
    zmlx_tokenizer_free(tokenizer);
    tokenizer = make(whole);
    check_text(tokenizer, "aba", "3");
    check_text(tokenizer, "abab", "2 2");
    zmlx_tokenizer_free(tokenizer);
}

static void split_behaviours(void **state) {
    (void)state;
    static const struct {
        const char *json, *text, *expected;
    } cases[] = {{SPLIT("{\"String\":\"-\"}", "Isolated"), "a--b", "0 2 2 1"},
                 {SPLIT("{\"String\":\"-\"}", "Removed"), "a--b", "0 1"},
                 {SPLIT("{\"String\":\"-\"}", "MergedWithPrevious"), "a--b", "3 2 1"},
                 {SPLIT("{\"String\":\"-\"}", "MergedWithNext"), "a--b", "0 2 4"},
                 {SPLIT("{\"String\":\"-\"}", "Contiguous"), "a--b", "0 5 1"},
                 {SPLIT("{\"Regex\":\"a-\"}", "Isolated"), "a--b", "3 4"},
                 {SPLIT("{\"Regex\":\"(?=b)\"}", "Isolated"), "a--b", "3 2 1"},
                 {SPLIT("{\"String\":\"\"}", "Isolated"), "a--b", "0 2 2 1"},
                 {SPLIT("{\"String\":\"-\"}", "MergedWithNext"), "a--1", "0 2 2 10"},
                 {"{" LETTERS "}", "a--b", "3 4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zmlx_tokenizer *tokenizer = make(cases[i].json);
        check_text(tokenizer, cases[i].text, cases[i].expected);
        zmlx_tokenizer_free(tokenizer);
    }
}

/* {2}+ repeats {2} in Ruby's syntax: "1111" is one match, where a possessive {2} would match "11". */
static void expressions_follow_ruby(void **state) {
    (void)state;
    static const struct {
        const char *json, *text, *expected;
    } cases[] = {
        {SPLIT("{\"Regex\":\"1{2}+\"}", "Isolated"), "1111", "11 11"},
        {SPLIT("{\"Regex\":\"1{2}+\"}", "Removed"), "11111", "10"},
        {SPLIT("{\"Regex\":\"\\\\s\"}", "Removed"),
         "a\xe1\xa0\x8e"
         "a\xe2\x80\x83"
         "b",
         "0 0 1"},
        {SPLIT("{\"Regex\":\"[^\\\\S ]\"}", "Removed"),
         "a b\xc2\xa0"
         "b",
         "0 9 1 1"},
        {SPLIT("{\"Regex\":\"^a\"}", "Removed"), "aa", "0"},
        {SPLIT("{\"Regex\":\"-(?=\\\\p{L})\"}", "Removed"), "-\xf0\x90\xb5\x90-", "2"}}; /* Unicode 16 */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zmlx_tokenizer *tokenizer = make(cases[i].json);
        check_text(tokenizer, cases[i].text, cases[i].expected);
        zmlx_tokenizer_free(tokenizer);
    }
}

static void normalisers(void **state) {
    (void)state;
    static const struct {
        const char *normaliser, *text, *expected;
    } cases[] = {
        {"{\"type\":\"NFC\"}", "e\xcc\x81", "8"},
        {"{\"type\":\"Prepend\",\"prepend\":\"a\"}", "b", "6"},
        {"{\"type\":\"Prepend\",\"prepend\":\"a\"}", "", ""},
        {"{\"type\":\"Replace\",\"pattern\":{\"String\":\"xx\"},\"content\":\"-\"}", "xxxxx-", "5 2"},
        {"{\"type\":\"Replace\",\"pattern\":{\"Regex\":\"[0-9]+\"},\"content\":\"1\"}", "a99b5", "0 10 1 10"},
        {"{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFD\"},{\"type\":\"NFKC\"}]}",
         "\xe2\x84\xab\xc3\xa9", "8"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        snprintf(json, sizeof json, "{\"normalizer\":%s,%s}", cases[i].normaliser, LETTERS);
        zmlx_tokenizer *tokenizer = make(json);
        check_text(tokenizer, cases[i].text, cases[i].expected);
        zmlx_tokenizer_free(tokenizer);
    }
}

#define ADDED(content, flags) "{\"id\":99,\"content\":\"" content "\"," flags "\"special\":true}"

static void added_tokens(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make("{\"added_tokens\":[" ADDED("<s>", "") "," ADDED("<s>b", "") "," ADDED(
        "<l>",
        "\"lstrip\":"
        "true,") "," ADDED("<r>",
                           "\"rstrip\":true,") "," ADDED("w",
                                                         "\"single_word\":true,") "," ADDED("ab",
                                                                                            "") "]"
                                                                                                "," BYTE_LEVEL
                                                                                                    BYTE_DECODER
                                                                                                        SMALL_MODEL
                                                                                                "}");
    /* Ids follow the vocabulary; "ab" keeps its own. */
    check_text(tokenizer, "a<s>b<s>", "0 11 10");
    check_text(tokenizer, "a  <l> b", "0 12 7 1");
    check_text(tokenizer, "a <r>  b", "0 7 13 1");
    check_text(tokenizer, "a w", "0 7 14");
    check_text(tokenizer, "aw", "0");
    check_text(tokenizer, "w\xc3\xa9", "8 9");
    check_text(tokenizer, "aabcd", "0 4 5");
    assert_int_equal(zmlx_tokenizer_vocab_size(tokenizer), 15);
    static const int32_t ids[] = {10, 0, 4, 3};
    char *text;
    size_t size;
    assert_int_equal(zmlx_tokenizer_decode(tokenizer, &text, &size, ids, 4, true, NULL), ZMLX_OK);
    assert_string_equal(text, "ad");
    free(text);
    check_decode(tokenizer, ids, 4, "<s>aabd", "<s>|a|ab|d|");
    zmlx_tokenizer_free(tokenizer);
}

#define TEMPLATE                                                                                            \
    "\"added_tokens\":[{\"id\":10,\"content\":\"<s>\",\"special\":true}],\"post_processor\":"               \
    "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"<s>\",\"type_id\":0}},"       \
    "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}],\"pair\":[],\"special_tokens\":{\"<s>\":{\"id\":\"<s>\"," \
    "\"ids\":[10],\"tokens\":[\"<s>\"]}}},"

static void prompts_begin_with_one_bos(void **state) {
    (void)state;
    static const struct {
        const char *settings, *text;
        size_t count;
        int32_t first, second;
    } cases[] = {{"{\"bos_token\":\"<s>\"}", "a", 2, 10, 0},
                 {"{\"bos_token\":\"<s>\"}", "<s>a", 2, 10, 0},
                 {"{\"bos_token\":{\"content\":\"<s>\"}}", "<s>a", 2, 10, 0},
                 {"{\"bos_token\":null}", "<s>a", 3, 10, 10},
                 {NULL, "<s>a", 3, 10, 10}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zmlx_tokenizer *tokenizer;
        int32_t *tokens;
        size_t count;
        assert_int_equal(
            parse_files(&tokenizer, "{" TEMPLATE BYTE_LEVEL SMALL_MODEL "}", cases[i].settings, NULL),
            ZMLX_OK);
        assert_int_equal(zmlx_tokenizer_encode_prompt(tokenizer, &tokens, &count, cases[i].text,
                                                      strlen(cases[i].text), NULL),
                         ZMLX_OK);
        assert_int_equal(count, cases[i].count);
        assert_int_equal(tokens[0], cases[i].first);
        assert_int_equal(tokens[1], cases[i].second);
        free(tokens);
        zmlx_tokenizer_free(tokenizer);
    }
}

static void settings_name_tokens(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer;
    assert_int_equal(parse_files(&tokenizer, "{" BYTE_LEVEL SMALL_MODEL "}",
                                 "{\"bos_token\":\"ab\",\"eos_token\":\"<end>\"}", NULL),
                     ZMLX_OK);
    assert_int_equal(zmlx_tokenizer_bos(tokenizer), 4);
    assert_int_equal(zmlx_tokenizer_eos(tokenizer), 10);
    check_text(tokenizer, "abcd<end>", "4 5 10"); /* "ab" is a special token now: found before merging */
    zmlx_tokenizer_free(tokenizer);
}

/* special_tokens_map.json counts where added_tokens_decoder is absent, and then goes before the settings. */
static void special_tokens_map(void **state) {
    (void)state;
    static const struct {
        const char *settings, *special;
        int32_t bos, eos;
    } cases[] = {{NULL, "{\"bos_token\":\"ab\",\"eos_token\":{\"content\":\"cd\"}}", 4, 5},
                 {"{\"bos_token\":\"a\",\"eos_token\":\"b\"}", "{\"eos_token\":\"cd\"}", 0, 5},
                 {"{\"eos_token\":\"b\"}", "{\"eos_token\":null}", -1, -1},
                 {"{\"eos_token\":\"b\",\"added_tokens_decoder\":{}}", "{\"eos_token\":\"cd\"}", -1, 1},
                 {"{\"eos_token\":\"b\",\"added_tokens_decoder\":{}}", "broken", -1, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zmlx_tokenizer *tokenizer;
        assert_int_equal(parse_files_of(&tokenizer, "{" BYTE_LEVEL SMALL_MODEL "}", cases[i].settings,
                                        cases[i].special, NULL),
                         ZMLX_OK);
        assert_int_equal(zmlx_tokenizer_bos(tokenizer), cases[i].bos);
        assert_int_equal(zmlx_tokenizer_eos(tokenizer), cases[i].eos);
        zmlx_tokenizer_free(tokenizer);
    }
}

/* 10^30 is what transformers writes where a tokenizer has no bound. */
static void settings_have_no_bound(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer;
    static const char settings[] = "{\"x\":\"\\\"99999999999999999999\",\"model_max_length\":"
                                   "1000000000000000019884624838656,\"y\":[-99999999999999999999,"
                                   "0.123456789012345678901,9223372036854775808],\"eos_token\":\"b\"}";
    assert_int_equal(parse_files(&tokenizer, "{" BYTE_LEVEL SMALL_MODEL "}", settings, NULL), ZMLX_OK);
    assert_int_equal(zmlx_tokenizer_eos(tokenizer), 1);
    zmlx_tokenizer_free(tokenizer);
}

static void settings_name_other_tokens(void **state) {
    (void)state;
    static const char *const settings[] = {"{\"extra_special_tokens\":{\"image_token\":\"<x>\"}}",
                                           "{\"extra_special_tokens\":[],\"additional_special_tokens\":[\"<x>\"]}",
                                           "{\"image_token\":\"<x>\"}"};
    for (size_t i = 0; i < sizeof settings / sizeof *settings; i++) {
        zmlx_tokenizer *tokenizer;
        assert_int_equal(parse_files(&tokenizer, "{" BYTE_LEVEL SMALL_MODEL "}", settings[i], NULL), ZMLX_OK);
        check_text(tokenizer, "a<x>b", "0 10 1");
        zmlx_tokenizer_free(tokenizer);
    }
}

#define MARKED_VOCAB                                                                                      \
    "\"model\":{\"unk_token\":\"<unk>\",\"byte_fallback\":true,\"fuse_unk\":true,\"vocab\":{\"<unk>\":0," \
    "\"\u2581\":1,\"a\":2,\"b\":3,\"\u2581a\":4,\"<0xC3>\":5,\"<0xA9>\":6,\"<0x41>\":7},"                 \
    "\"merges\":[\"\u2581 a\"]}"
#define MARKED                                                                                               \
    "{\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Prepend\",\"prepend\":\"\u2581\"}," \
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\u2581\"}]},"                        \
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":"        \
    "\"\u2581\"},\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},{\"type\":\"Strip\","    \
    "\"content\":\" \",\"start\":1,\"stop\":0}]}," MARKED_VOCAB "}"

static void sentencepiece_style(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make(MARKED);
    check_text(tokenizer, "a a", "4 4");
    check_text(tokenizer, "\xc3\xa9", "1 5 6");
    check_text(tokenizer, "ba\xe2\x82\xac\xe2\x82\xac", "1 3 2 0"); /* no bytes of the euro sign: unknown */
    check_text(tokenizer, "\xe2\x82\xac\xc3\xa9",
               "1 5 6 0"); /* the package puts bytes before a waiting unknown */
    static const int32_t word[] = {4, 4}, accent[] = {1, 5, 6, 3}, broken[] = {4, 5, 5, 6, 3}, last[] = {5};
    check_decode(tokenizer, word, 2, "a a", "a| a|");
    check_decode(tokenizer, accent, 4,
                 "\xc3\xa9"
                 "b",
                 "|||\xc3\xa9"
                 "b|");
    check_decode(tokenizer, broken, 5,
                 "a\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                 "b",
                 "a||||\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
                 "b|");
    check_decode(tokenizer, last, 1, "\xef\xbf\xbd", "|\xef\xbf\xbd");
    zmlx_tokenizer_free(tokenizer);
}

static void metaspace(void **state) {
    (void)state;
    static const struct {
        const char *scheme, *text, *expected;
    } cases[] = {
        {"always", "a<t>a a", "4 8 4 4"}, {"first", "a<t>a a", "4 8 2 4"}, {"never", "a<t>a a", "2 8 2 4"},
        {"first", "<t>a", "8 2"},         {"always", " a", "4"},           {"always", "  a", "1 4"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[1024];
        snprintf(json, sizeof json,
                 "{\"pre_tokenizer\":{\"type\":\"Metaspace\",\"replacement\":\"\u2581\",\"prepend_scheme\":"
                 "\"%s\"},"
                 "\"added_tokens\":[{\"id\":8,\"content\":\"<t>\"}],%s}",
                 cases[i].scheme, MARKED_VOCAB);
        zmlx_tokenizer *tokenizer = make(json);
        check_text(tokenizer, cases[i].text, cases[i].expected);
        zmlx_tokenizer_free(tokenizer);
    }
}

static void incremental_text_is_whole_characters(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make("{" BYTE_LEVEL BYTE_DECODER SMALL_MODEL "}");
    static const int32_t accent[] = {0, 8, 9, 1}, broken[] = {8, 8, 0}, lone[] = {9}, open[] = {1, 8};
    check_decode(tokenizer, accent, 4,
                 "a\xc3\xa9"
                 "b",
                 "a||\xc3\xa9|b|");
    check_decode(tokenizer, broken, 3,
                 "\xef\xbf\xbd\xef\xbf\xbd"
                 "a",
                 "|\xef\xbf\xbd|\xef\xbf\xbd"
                 "a|");
    check_decode(tokenizer, lone, 1, "\xef\xbf\xbd", "\xef\xbf\xbd|");
    check_decode(tokenizer, open, 2, "b\xef\xbf\xbd", "b||\xef\xbf\xbd");
    check_decode(tokenizer, open, 0, "", "");
    zmlx_tokenizer_free(tokenizer);
    tokenizer = make("{" SMALL_MODEL "}"); /* without a decoder: spaces between */
    check_decode(tokenizer, accent, 4, "a \xc3\x83 \xc2\xa9 b", "a| \xc3\x83| \xc2\xa9| b|");
    zmlx_tokenizer_free(tokenizer);
}

/* The bytes as Python's errors="replace" reads them: one U+FFFD for each longest broken prefix. */
static void broken_bytes_become_replacement_characters(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer =
        make("{\"model\":{\"vocab\":{\"\ufffd\":0,\"a\":1,\"\\u0001\":2},\"merges\":[]}}");
    check_encode(tokenizer, "\xff\xfe", 2, false, "0 0");
    check_encode(tokenizer, "a\xe2\x82", 3, false, "1 0");
    check_encode(tokenizer,
                 "\xe2\x82"
                 "a",
                 3, false, "0 1");
    check_encode(tokenizer, "\xf0\x9f\x98\xf0\x9f\x98", 6, false, "0 0");
    check_encode(tokenizer, "\xed\xa0\x80", 3, false, "0 0 0"); /* a surrogate */
    check_encode(tokenizer, "\xc0\x80", 2, false, "0 0");       /* overlong */
    check_encode(tokenizer, "a\0\1a", 4, false, "1 2 1");
    zmlx_tokenizer_free(tokenizer);
}

static void a_megabyte_of_one_letter(void **state) {
    (void)state;
    enum { SIZE = 1 << 20 };
    zmlx_tokenizer *tokenizer = make("{\"model\":{\"vocab\":{\"a\":0,\"aa\":1,\"aaaa\":2},"
                                     "\"merges\":[\"a a\",\"aa aa\"]}}");
    char *text = malloc(SIZE);
    int32_t *tokens;
    size_t count;
    assert_non_null(text);
    memset(text, 'a', SIZE);
    assert_int_equal(zmlx_tokenizer_encode(tokenizer, &tokens, &count, text, SIZE - 1, false, NULL), ZMLX_OK);
    assert_int_equal(count, SIZE / 4 + 1);
    for (size_t i = 0; i < SIZE / 4 - 1; i++) assert_int_equal(tokens[i], 2);
    assert_int_equal(tokens[count - 2], 1);
    assert_int_equal(tokens[count - 1], 0);
    free(tokens);
    free(text);
    zmlx_tokenizer_free(tokenizer);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_by_rank_then_position),
        cmocka_unit_test(ignore_merges_takes_whole_words),
        cmocka_unit_test(split_behaviours),
        cmocka_unit_test(expressions_follow_ruby),
        cmocka_unit_test(normalisers),
        cmocka_unit_test(added_tokens),
        cmocka_unit_test(prompts_begin_with_one_bos),
        cmocka_unit_test(settings_name_tokens),
        cmocka_unit_test(special_tokens_map),
        cmocka_unit_test(settings_have_no_bound),
        cmocka_unit_test(settings_name_other_tokens),
        cmocka_unit_test(sentencepiece_style),
        cmocka_unit_test(metaspace),
        cmocka_unit_test(incremental_text_is_whole_characters),
        cmocka_unit_test(broken_bytes_become_replacement_characters),
        cmocka_unit_test(a_megabyte_of_one_letter),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
