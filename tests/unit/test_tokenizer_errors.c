/* SPDX-License-Identifier: MIT */
/* Broken, hostile and unsupported tokenizer files: one line that names file and field. */
#include "checkpoint_folder.h"
#include "tokenizer_testing.h"

#define MODEL "\"model\":{\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\"]}"
#define FILE_NAME "DIR/tokenizer.json"
#define FORMAT ZMLX_ERROR_FORMAT
#define UNSUPPORTED ZMLX_ERROR_UNSUPPORTED

typedef struct refusal {
    const char *json;
    zmlx_status status;
    const char *where, *message; /* message: a part of it */
} refusal;

static void check_refusals(const refusal *cases, size_t count) {
    for (size_t i = 0; i < count; i++) {
        zmlx_tokenizer *tokenizer;
        zmlx_error error = {0};
        zmlx_status status = parse_files(&tokenizer, cases[i].json, NULL, &error);
        assert_null(tokenizer);
        assert_string_equal(error.where, cases[i].where);
        if (!strstr(error.message, cases[i].message)) assert_string_equal(error.message, cases[i].message);
        assert_int_equal(status, cases[i].status);
        assert_int_equal(error.code, cases[i].status);
        assert_int_equal(parse_files(&tokenizer, cases[i].json, NULL, NULL), cases[i].status);
    }
}

static void documents(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"", FORMAT, FILE_NAME, "not valid JSON"},
        {"[1]", FORMAT, FILE_NAME, "expected a JSON object"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]", FORMAT, FILE_NAME, "not valid JSON: line 1"},
        {"{}", FORMAT, FILE_NAME ": model", "expected an object, found nothing"},
        {"{\"version\":\"2.0\"," MODEL "}", UNSUPPORTED, FILE_NAME ": version", "1.0"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[]},\"added_tokens\":{}}", FORMAT,
         FILE_NAME ": added_tokens", "expected an array, found an object"},
        {"{" MODEL ",\"added_tokens\":[{\"content\":\"x\"},{\"content\":5}]}", FORMAT,
         FILE_NAME ": added_tokens[1].content", "expected a string, found an integer"},
        {"{" MODEL ",\"added_tokens\":[{\"content\":\"x\",\"lstrip\":1}]}", FORMAT,
         FILE_NAME ": added_tokens[0].lstrip", "expected true or false"},
        {"{\"normalizer\":{\"type\":\"Replace\",\"pattern\":{\"String\":\"B\"},\"content\":\"x\"}," MODEL
         ",\"added_tokens\":[{\"content\":\"B\",\"normalized\":true},{\"content\":\"x\",\"normalized\":true}]"
         "}",
         FORMAT, FILE_NAME ": added_tokens", "the added tokens 3 and 4 have the same text"},
    };
    check_refusals(cases, sizeof cases / sizeof *cases);
}

#define BPE(fields) "{\"model\":{\"type\":\"BPE\"," fields "}}"

static void models(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[]}}", UNSUPPORTED, FILE_NAME ": model.type",
         "\"Unigram\""},
        {"{\"model\":{\"type\":7}}", FORMAT, FILE_NAME ": model.type", "expected a string"},
        {BPE("\"vocab\":{},\"merges\":[],\"dropout\":0.1"), UNSUPPORTED, FILE_NAME ": model.dropout",
         "dropout"},
        {BPE("\"continuing_subword_prefix\":\"##\""), UNSUPPORTED,
         FILE_NAME ": model.continuing_subword_prefix", "null"},
        {BPE("\"end_of_word_suffix\":\"</w>\""), UNSUPPORTED, FILE_NAME ": model.end_of_word_suffix", "null"},
        {BPE("\"merges\":[]"), FORMAT, FILE_NAME ": model.vocab", "found nothing"},
        {BPE("\"vocab\":{\"a\":0}"), FORMAT, FILE_NAME ": model.merges", "found nothing"},
        {BPE("\"vocab\":{\"a\":\"0\"},\"merges\":[]"), FORMAT, FILE_NAME ": model.vocab", "the id of \"a\""},
        {BPE("\"vocab\":{\"a\":-1},\"merges\":[]"), FORMAT, FILE_NAME ": model.vocab", "the id of \"a\""},
        {BPE("\"vocab\":{\"a\":4194304},\"merges\":[]"), FORMAT, FILE_NAME ": model.vocab",
         "the id of \"a\""},
        {BPE("\"vocab\":{\"a\":1,\"b\":1},\"merges\":[]"), FORMAT, FILE_NAME ": model.vocab", "same id 1"},
        {BPE("\"vocab\":{\"a\":0,\"a\":1},\"merges\":[]"), FORMAT, FILE_NAME, "duplicate"},
        {BPE("\"vocab\":{\"a\":0,\"b\":1,\"ab\":2},\"merges\":[\"a b\",\"a x\"]"), FORMAT,
         FILE_NAME ": model.merges[1]", "\"x\" is not in the vocabulary"},
        {BPE("\"vocab\":{\"a\":0,\"b\":1},\"merges\":[[\"a\",\"b\"]]"), FORMAT, FILE_NAME ": model.merges[0]",
         "\"ab\" is not in the vocabulary"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a\"]"), FORMAT, FILE_NAME ": model.merges[0]", "one space"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[\"a  a\"]"), FORMAT, FILE_NAME ": model.merges[0]",
         "one space"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[[\"a\"]]"), FORMAT, FILE_NAME ": model.merges[0]",
         "two strings"},
        {BPE("\"vocab\":{\"a\":0,\"aa\":1},\"merges\":[\"a a\",[\"a\",\"a\"]]"), FORMAT,
         FILE_NAME ": model.merges[1]", "as in the first merge"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":3"), FORMAT, FILE_NAME ": model.unk_token",
         "a string"},
        {BPE("\"vocab\":{\"a\":0},\"merges\":[],\"fuse_unk\":3"), FORMAT, FILE_NAME ": model.fuse_unk",
         "true or false"},
    };
    check_refusals(cases, sizeof cases / sizeof *cases);
}

#define STAGE(name, value) "{\"" name "\":" value "," MODEL "}"
#define TYPE(name) "{\"type\":\"" name "\"}"

static void stages(void **state) {
    (void)state;
    static const refusal cases[] = {
        {STAGE("normalizer", TYPE("Lowercase")), UNSUPPORTED, FILE_NAME ": normalizer.type", "\"Lowercase\""},
        {STAGE("normalizer", TYPE("Strip")), UNSUPPORTED, FILE_NAME ": normalizer.type", "\"Strip\""},
        {STAGE("normalizer", TYPE("Precompiled")), UNSUPPORTED, FILE_NAME ": normalizer.type",
         "\"Precompiled\""},
        {STAGE("normalizer",
               "{\"type\":\"Sequence\",\"normalizers\":[" TYPE("NFC") "," TYPE("BertNormalizer") "]}"),
         UNSUPPORTED, FILE_NAME ": normalizer.normalizers[1].type", "\"BertNormalizer\""},
        {STAGE("normalizer", "{\"type\":\"Prepend\"}"), FORMAT, FILE_NAME ": normalizer.prepend",
         "found nothing"},
        {STAGE("normalizer", "7"), FORMAT, FILE_NAME ": normalizer", "expected an object"},
        {STAGE("normalizer", "{}"), FORMAT, FILE_NAME ": normalizer.type", "expected a string"},
        {STAGE("pre_tokenizer", TYPE("Whitespace")), UNSUPPORTED, FILE_NAME ": pre_tokenizer.type",
         "Whitespace"},
        {STAGE("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"xy\"}"), FORMAT,
         FILE_NAME ": pre_tokenizer.replacement", "one character"},
        {STAGE("pre_tokenizer", "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"prepend_scheme\":\"last\"}"),
         UNSUPPORTED, FILE_NAME ": pre_tokenizer.prepend_scheme", "\"last\""},
        {STAGE("pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"String\":\"x\"},\"behavior\":\"Odd\"}"),
         UNSUPPORTED, FILE_NAME ": pre_tokenizer.behavior", "\"Odd\""},
        {STAGE("decoder", TYPE("WordPiece")), UNSUPPORTED, FILE_NAME ": decoder.type", "\"WordPiece\""},
        {STAGE("decoder", "{\"type\":\"Strip\",\"content\":\" \",\"start\":-1,\"stop\":0}"), FORMAT,
         FILE_NAME ": decoder.start", "an integer from 0"},
        {STAGE("post_processor", TYPE("BertProcessing")), UNSUPPORTED, FILE_NAME ": post_processor.type",
         "\"BertProcessing\""},
        {STAGE("post_processor",
               "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{}}"),
         FORMAT, FILE_NAME ": post_processor.single[0].SpecialToken.id", "\"x\" is not in special_tokens"},
        {STAGE("post_processor",
               "{\"type\":\"TemplateProcessing\",\"single\":[{\"Sequence\":{\"id\":\"B\"}}]}"),
         UNSUPPORTED, FILE_NAME ": post_processor.single[0].Sequence.id", "\"A\""},
        {STAGE("post_processor",
               "{\"type\":\"TemplateProcessing\",\"single\":[{\"SpecialToken\":{\"id\":\"x\"}}],"
               "\"special_tokens\":{\"x\":{\"ids\":[3]}}}"),
         FORMAT, FILE_NAME, "the token id 3 does not exist"},
    };
    check_refusals(cases, sizeof cases / sizeof *cases);
}

static void patterns(void **state) {
    (void)state;
    static const struct {
        const char *pattern; /* as in JSON */
        zmlx_status status;
        const char *message;
    } cases[] = {
        {"(", FORMAT, "an unclosed group at byte 1"},
        {")", FORMAT, "an unmatched ) at byte 0"},
        {"[a", FORMAT, "an unclosed class"},
        {"a{3,2}", UNSUPPORTED, "an interval out of order"},
        {"a{70000}", UNSUPPORTED, "a repeat count above 65535"},
        {"*", UNSUPPORTED, "a quantifier without something to repeat"},
        {"a**", UNSUPPORTED, "a quantifier without something to repeat"},
        {"\\\\", FORMAT, "a backslash at its end"},
        {"(a)\\\\1", UNSUPPORTED, "the escape \\1"},
        {"\\\\bx", UNSUPPORTED, "the escape \\b"},
        {"\\\\p{Han}", UNSUPPORTED, "the property \"Han\""},
        {"[\\\\p{L}&&[a]]", UNSUPPORTED, "an intersection of classes"},
        {"[a[b]]", UNSUPPORTED, "a class inside a class"},
        {"(?<name>a)", UNSUPPORTED, "an unsupported kind of group"},
        {"(*FAIL)", UNSUPPORTED, "a verb"},
        {"a(?i)b", UNSUPPORTED, "(?i) after its beginning"},
        {"(?<=a+)b", FORMAT, "does not compile: lookbehind assertion is not fixed length"},
        {"(?:(?:a{1000}){1000}){1000}", FORMAT, "does not compile"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char json[512];
        snprintf(json, sizeof json,
                 STAGE("pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                                        "\"behavior\":\"Isolated\"}"),
                 cases[i].pattern);
        const refusal one = {json, cases[i].status, FILE_NAME ": pre_tokenizer.pattern.Regex",
                             cases[i].message};
        check_refusals(&one, 1);
    }
}

/* Patterns that would take time exponential or quadratic in the text end with an error soon. */
static void patterns_cannot_hang(void **state) {
    (void)state;
    static const char *const hostile[] = {"(a+)+[bc]", "(a|aa)+[bc]", "a*a*a*a*[bc]", "(?:a*)*[bc]", "a+[bc]"};
    enum { SIZE = 50000 };
    char *text = malloc(SIZE);
    assert_non_null(text);
    memset(text, 'a', SIZE);
    for (size_t i = 0; i < sizeof hostile / sizeof *hostile; i++) {
        char json[512];
        snprintf(json, sizeof json,
                 STAGE("pre_tokenizer", "{\"type\":\"Split\",\"pattern\":{\"Regex\":\"%s\"},"
                                        "\"behavior\":\"Isolated\"}"),
                 hostile[i]);
        zmlx_tokenizer *tokenizer = make(json);
        int32_t *tokens = NULL;
        size_t count = 1;
        zmlx_error error = {0};
        assert_int_equal(zmlx_tokenizer_encode(tokenizer, &tokens, &count, text, SIZE, false, &error),
                         UNSUPPORTED);
        assert_non_null(strstr(error.message, "too many steps"));
        assert_null(tokens);
        assert_int_equal(count, 0);
        zmlx_tokenizer_free(tokenizer);
    }
    free(text);
}

static void replacements_cannot_explode(void **state) {
    (void)state;
#define DOUBLE "{\"type\":\"Replace\",\"pattern\":{\"String\":\"a\"},\"content\":\"aaaaaaaaaaaaaaaa\"},"
    zmlx_tokenizer *tokenizer =
        make(STAGE("normalizer", "{\"type\":\"Sequence\",\"normalizers\":[" DOUBLE DOUBLE DOUBLE DOUBLE DOUBLE
                                     DOUBLE DOUBLE DOUBLE "{\"type\":\"NFC\"}]}"));
    int32_t *tokens;
    size_t count;
    zmlx_error error = {0};
    assert_int_equal(zmlx_tokenizer_encode(tokenizer, &tokens, &count, "a", 1, false, &error), UNSUPPORTED);
    assert_non_null(strstr(error.message, "grow beyond"));
    zmlx_tokenizer_free(tokenizer);
}

static void missing_unknown_token(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make(BPE("\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"<unk>\""));
    int32_t *tokens;
    size_t count;
    zmlx_error error = {0};
    check_text(tokenizer, "aa", "0 0");
    assert_int_equal(zmlx_tokenizer_encode(tokenizer, &tokens, &count, "ab", 2, false, &error), FORMAT);
    assert_non_null(strstr(error.message, "U+0062"));
    zmlx_tokenizer_free(tokenizer);
}

static void tokens_outside_the_vocabulary(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer = make(BPE("\"vocab\":{\"a\":0,\"b\":2},\"merges\":[]"));
    zmlx_decoder *decoder;
    zmlx_error error = {0};
    const int32_t bad[] = {0, 3}, negative[] = {-1}, hole[] = {0, 1, 2};
    char *text = NULL;
    const char *piece;
    size_t size;
    assert_int_equal(zmlx_tokenizer_decode(tokenizer, &text, &size, bad, 2, false, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_null(text);
    assert_non_null(strstr(error.message, "token 3 is outside the vocabulary of 3"));
    assert_int_equal(zmlx_tokenizer_decode(tokenizer, &text, &size, negative, 1, false, NULL),
                     ZMLX_ERROR_ARGUMENT);
    check_decode(tokenizer, hole, 3, "a b", "a|| b|");
    assert_int_equal(zmlx_decoder_new(&decoder, tokenizer, NULL), ZMLX_OK);
    assert_int_equal(zmlx_decoder_push(decoder, &piece, &size, 3, &error), ZMLX_ERROR_ARGUMENT);
    assert_int_equal(zmlx_decoder_push(decoder, &piece, &size, 0, &error), ZMLX_OK);
    assert_string_equal(piece, "a");
    zmlx_decoder_free(decoder);
    zmlx_tokenizer_free(tokenizer);
    zmlx_tokenizer_free(NULL);
    zmlx_decoder_free(NULL);
}

static void settings(void **state) {
    (void)state;
    static const struct {
        const char *settings, *where, *message;
    } cases[] = {
        {"{", "DIR/tokenizer_config.json", "not valid JSON"},
        {"{\"model_max_length\":1000000000000000019884624838656, ?}", "DIR/tokenizer_config.json", "column 54"},
        {"{\"bos_token\":99999999999999999999}", "DIR/tokenizer_config.json: bos_token", "expected a string"},
        {"{\"bos_token\":5}", "DIR/tokenizer_config.json: bos_token", "expected a string"},
        {"{\"eos_token\":{\"lstrip\":2}}", "DIR/tokenizer_config.json: eos_token.lstrip", "true or false"},
        {"{\"added_tokens_decoder\":{\"5\":{}}}", "DIR/tokenizer_config.json: added_tokens_decoder.5.content",
         "expected a string"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zmlx_tokenizer *tokenizer;
        zmlx_error error = {0};
        assert_int_equal(parse_files(&tokenizer, "{" MODEL "}", cases[i].settings, &error), FORMAT);
        assert_string_equal(error.where, cases[i].where);
        assert_non_null(strstr(error.message, cases[i].message));
    }
    zmlx_tokenizer *tokenizer;
    zmlx_error error = {0};
    assert_int_equal(parse_files_of(&tokenizer, "{" MODEL "}", NULL, "{\"eos_token\":5}", &error), FORMAT);
    assert_string_equal(error.where, "DIR/special_tokens_map.json: eos_token");
}

static void folders(void **state) {
    (void)state;
    zmlx_tokenizer *tokenizer;
    zmlx_error error = {0};
    char path[256];
    snprintf(path, sizeof path, "%s/tokenizer.json", folder);
    assert_int_equal(zmlx_tokenizer_load(&tokenizer, folder, &error), ZMLX_ERROR_FILE);
    assert_null(tokenizer);
    assert_string_equal(error.where, path);
    write_text("tokenizer.json", "{" MODEL "}");
    write_text("tokenizer_config.json", "{\"eos_token\":\"b\"}");
    assert_int_equal(zmlx_tokenizer_load(&tokenizer, folder, &error), ZMLX_OK);
    assert_int_equal(zmlx_tokenizer_eos(tokenizer), 1);
    zmlx_tokenizer_free(tokenizer);
    write_text("tokenizer_config.json", "{\"eos_token\":\"b\"");
    assert_int_equal(zmlx_tokenizer_load(&tokenizer, folder, &error), FORMAT);
    /* Cut anywhere, the file is refused. */
    const char *whole = "{\"added_tokens\":[{\"content\":\"x\"}]," MODEL "}";
    char part[256];
    assert_int_equal(remove(strcat(strcpy(path, folder), "/tokenizer_config.json")), 0);
    for (size_t length = 0; length < strlen(whole); length++) {
        memcpy(part, whole, length);
        write_bytes("tokenizer.json", part, length);
        assert_int_equal(zmlx_tokenizer_load(&tokenizer, folder, &error), FORMAT);
        assert_null(tokenizer);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(documents),
        cmocka_unit_test(models),
        cmocka_unit_test(stages),
        cmocka_unit_test(patterns),
        cmocka_unit_test(patterns_cannot_hang),
        cmocka_unit_test(replacements_cannot_explode),
        cmocka_unit_test(missing_unknown_token),
        cmocka_unit_test(tokens_outside_the_vocabulary),
        cmocka_unit_test(settings),
        cmocka_unit_test_setup_teardown(folders, make_folder, remove_folder),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
