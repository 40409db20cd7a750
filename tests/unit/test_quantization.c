/* SPDX-License-Identifier: MIT */
/* Which modules are quantised and how: the rule of mlx-lm's loader. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <string.h>

#include "model/quantization.h"

static json_t *parse(const char *text) {
    zmlx_error error = {0};
    json_t *value;
    if (zm_json_parse(&value, text, strlen(text), "config.json", &error)) fail_msg("%s", error.message);
    return value;
}

static void expect(zm_quantization quantization, int group_size, int bits, const char *mode) {
    assert_int_equal(quantization.group_size, group_size);
    assert_int_equal(quantization.bits, bits);
    assert_string_equal(quantization.mode, mode);
}

static zm_quantization_kind find(zm_quantization *quantization, const zm_quantization_rules *rules,
                                 const char *path) {
    zm_quantization_kind kind;
    zmlx_error error = {0};
    if (zm_quantization_find(&kind, quantization, rules, path, &error)) fail_msg("%s", error.message);
    return kind;
}

static void test_entries(void **state) {
    (void)state;
    json_t *config =
        parse("{\"quantization\": {\"group_size\": 32, \"bits\": 6, \"a\": {\"group_size\": 64, \"bits\": 8},"
              "\"b\": false, \"c\": true, \"d\": {\"bits\": 5}, \"e\": {\"mode\": \"mxfp8\"}, \"f\": {},"
              "\"g\": null, \"h\": {\"mode\": \"nvfp4\", \"group_size\": 16}}}");
    zm_quantization_rules rules;
    zm_quantization quantization;
    assert_int_equal(zm_quantization_rules_read(&rules, (zm_json_object){config, "config.json"}, NULL),
                     ZMLX_OK);
    assert_int_equal(find(&quantization, &rules, "a"), ZM_QUANTIZATION_GIVEN);
    expect(quantization, 64, 8, "affine");
    assert_true(zm_quantization_is_affine(quantization));
    assert_int_equal(find(&quantization, &rules, "b"), ZM_QUANTIZATION_DENSE);
    assert_int_equal(find(&quantization, &rules, "c"), ZM_QUANTIZATION_GIVEN);
    expect(quantization, 32, 6, "affine");
    assert_int_equal(find(&quantization, &rules, "d"), ZM_QUANTIZATION_GIVEN);
    expect(quantization, 64, 5, "affine"); /* the mode's default, not the model's */
    assert_int_equal(find(&quantization, &rules, "e"), ZM_QUANTIZATION_GIVEN);
    expect(quantization, 32, 8, "mxfp8");
    assert_false(zm_quantization_is_affine(quantization));
    assert_int_equal(find(&quantization, &rules, "f"), ZM_QUANTIZATION_DENSE);
    assert_int_equal(find(&quantization, &rules, "g"), ZM_QUANTIZATION_DENSE);
    assert_int_equal(find(&quantization, &rules, "h"), ZM_QUANTIZATION_GIVEN);
    expect(quantization, 16, 4, "nvfp4");
    assert_int_equal(find(&quantization, &rules, "other"), ZM_QUANTIZATION_UNNAMED);
    json_decref(config);
}

static void test_no_quantization_is_dense(void **state) {
    (void)state;
    static const char *const configs[] = {"{}", "{\"quantization\": null}", "{\"quantization_config\": null}",
                                          "{\"quantization_config\": {}}"};
    for (size_t i = 0; i < sizeof configs / sizeof configs[0]; i++) {
        json_t *config = parse(configs[i]);
        zm_quantization_rules rules;
        zm_quantization quantization;
        assert_int_equal(zm_quantization_rules_read(&rules, (zm_json_object){config, "c"}, NULL), ZMLX_OK);
        assert_int_equal(find(&quantization, &rules, "a"), ZM_QUANTIZATION_DENSE);
        assert_null(quantization.mode);
        json_decref(config);
    }
}

static void test_mxfp4_method(void **state) {
    (void)state;
    static const char *const configs[] = {
        "{\"quantization_config\": {\"quant_method\": \"mxfp4\"}}",
        "{\"text_config\": {\"quantization_config\": {\"quant_method\": \"mxfp4\"}}}"};
    for (size_t i = 0; i < 2; i++) {
        json_t *config = parse(configs[i]);
        zm_quantization_rules rules;
        zm_quantization quantization;
        assert_int_equal(zm_quantization_rules_read(&rules, (zm_json_object){config, "c"}, NULL), ZMLX_OK);
        expect(rules.defaults, 32, 4, "mxfp4");
        assert_int_equal(find(&quantization, &rules, "a"), ZM_QUANTIZATION_UNNAMED);
        json_decref(config);
    }
}

typedef struct bad_case {
    const char *config;
    zmlx_status status;
    const char *where, *message;
} bad_case;

static const bad_case bad_rules[] = {
    {"{\"quantization\": 4}", ZMLX_ERROR_FORMAT, "quantization", "expected an object"},
    {"{\"quantization\": {\"bits\": 4}}", ZMLX_ERROR_FORMAT, "group_size", "missing"},
    {"{\"quantization\": {\"group_size\": 64}}", ZMLX_ERROR_FORMAT, "bits", "missing"},
    {"{\"quantization\": {\"group_size\": \"x\", \"bits\": 4}}", ZMLX_ERROR_FORMAT, "group_size", "integer"},
    {"{\"quantization\": {\"group_size\": 64, \"bits\": 7}}", ZMLX_ERROR_UNSUPPORTED, "quantization",
     "7 bits"},
    {"{\"quantization\": {\"group_size\": 64, \"bits\": -4}}", ZMLX_ERROR_FORMAT, "bits", "-4"},
    {"{\"quantization\": {\"group_size\": 48, \"bits\": 4}}", ZMLX_ERROR_UNSUPPORTED, "quantization",
     "group size 48"},
    {"{\"quantization\": {\"group_size\": 99999999999, \"bits\": 4}}", ZMLX_ERROR_FORMAT, "group_size",
     "99999999999"},
    {"{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"mxfp4\"}}", ZMLX_ERROR_UNSUPPORTED,
     "quantization", "mxfp4"},
    {"{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"mode\": \"int3\"}}", ZMLX_ERROR_UNSUPPORTED,
     "quantization", "'int3'"},
    {"{\"quantization_config\": {\"quant_method\": \"awq\", \"bits\": 4}}", ZMLX_ERROR_UNSUPPORTED,
     "config.json", "'awq'"},
    {"{\"quantization_config\": {\"bits\": 4}}", ZMLX_ERROR_FORMAT, "quant_method", "missing"},
    {"{\"quantization_config\": []}", ZMLX_ERROR_FORMAT, "quantization_config", "expected an object"},
    {"{\"quantize_activations\": true}", ZMLX_ERROR_UNSUPPORTED, "config.json", "quantize_activations"},
};

static void test_bad_rules(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof bad_rules / sizeof bad_rules[0]; i++) {
        const bad_case *item = &bad_rules[i];
        json_t *config = parse(item->config);
        zm_quantization_rules rules;
        zmlx_error error = {0};
        zmlx_status status =
            zm_quantization_rules_read(&rules, (zm_json_object){config, "config.json"}, &error);
        if (status != item->status || !strstr(error.where, item->where) ||
            !strstr(error.message, item->message))
            fail_msg("%s gives %d %s: %s", item->config, (int)status, error.where, error.message);
        json_decref(config);
    }
}

static void test_bad_entries(void **state) {
    (void)state;
    json_t *config =
        parse("{\"quantization\": {\"group_size\": 64, \"bits\": 4, \"a\": 3, \"b\": {\"bits\": 9},"
              "\"c\": {\"mode\": \"mxfp4\", \"bits\": 8}, \"d\": {\"quantize_input\": true}}}");
    zm_quantization_rules rules;
    assert_int_equal(zm_quantization_rules_read(&rules, (zm_json_object){config, "config.json"}, NULL),
                     ZMLX_OK);
    static const char *const paths[] = {"a", "b", "c", "d"};
    for (size_t i = 0; i < 4; i++) {
        zm_quantization_kind kind;
        zm_quantization quantization;
        zmlx_error error = {0};
        assert_int_not_equal(zm_quantization_find(&kind, &quantization, &rules, paths[i], &error), ZMLX_OK);
        assert_non_null(strstr(error.where, paths[i]));
    }
    json_decref(config);
}

/* Every affine combination MLX has, from the columns it packs them into. */
static void test_infers_affine(void **state) {
    (void)state;
    static const int all_bits[] = {2, 3, 4, 5, 6, 8}, groups[] = {32, 64, 128};
    for (size_t b = 0; b < 6; b++) {
        for (size_t g = 0; g < 3; g++) {
            zm_quantization quantization;
            zmlx_error error = {0};
            zmlx_status status = zm_quantization_infer(&quantization, 256, 256 * all_bits[b] / 32,
                                                       256 / groups[g], false, "p", &error);
            assert_int_equal(status, ZMLX_OK);
            expect(quantization, groups[g], all_bits[b], "affine");
        }
    }
}

static void test_infers_modes_of_uint8_scales(void **state) {
    (void)state;
    zm_quantization quantization;
    assert_int_equal(zm_quantization_infer(&quantization, 128, 16, 4, true, "p", NULL), ZMLX_OK);
    expect(quantization, 32, 4, "mxfp4");
    assert_int_equal(zm_quantization_infer(&quantization, 128, 16, 8, true, "p", NULL), ZMLX_OK);
    expect(quantization, 16, 4, "nvfp4");
    assert_int_equal(zm_quantization_infer(&quantization, 128, 32, 4, true, "p", NULL), ZMLX_OK);
    expect(quantization, 32, 8, "mxfp8");
    zmlx_error error = {0};
    assert_int_equal(zm_quantization_infer(&quantization, 128, 32, 8, true, "p", &error),
                     ZMLX_ERROR_UNSUPPORTED);
    assert_null(quantization.mode);
    assert_string_equal(error.where, "p");
}

static void test_infers_nothing_from_nonsense(void **state) {
    (void)state;
    static const int cases[][3] = {{0, 16, 4},   {128, 0, 4},  {128, 16, 0},       {128, 16, 3},
                                   {128, 15, 4}, {128, 28, 2}, {128, 16, 1 << 30}, {1, 2147483647, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        zm_quantization quantization;
        zmlx_error error = {0};
        assert_int_not_equal(
            zm_quantization_infer(&quantization, cases[i][0], cases[i][1], cases[i][2], false, "p", &error),
            ZMLX_OK);
        assert_true(error.message[0]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_no_quantization_is_dense),
        cmocka_unit_test(test_mxfp4_method),
        cmocka_unit_test(test_bad_rules),
        cmocka_unit_test(test_bad_entries),
        cmocka_unit_test(test_infers_affine),
        cmocka_unit_test(test_infers_modes_of_uint8_scales),
        cmocka_unit_test(test_infers_nothing_from_nonsense),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
