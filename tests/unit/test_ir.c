/* SPDX-License-Identifier: MIT */
/* Building kernels, what the verifier refuses, the operations' formulas, Philox. */
#include <stdio.h>

#include "ir_testing.h"

static zm_ir *softmax(void) {
    zm_ir *ir = zm_ir_new("softmax");
    zm_id x = zm_ir_load(ir, zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    zm_id largest = zm_ir_apply(ir, ZM_OP_ROW_MAX, x, -1, -1);
    zm_id e = zm_ir_apply(ir, ZM_OP_EXP, zm_ir_apply(ir, ZM_OP_SUBTRACT, x, largest, -1), -1, -1);
    zm_id sum = zm_ir_apply(ir, ZM_OP_ROW_SUM, e, -1, -1);
    zm_ir_add_output(ir, "y", zm_ir_apply(ir, ZM_OP_DIVIDE, e, sum, -1), ZM_LEVEL_ELEMENT);
    return ir;
}

static void test_building(void **state) {
    (void)state;
    zm_ir *ir = softmax();
    assert_int_equal(ir->failure.code, ZMLX_OK);
    assert_int_equal(zm_ir_verify(ir, NULL), ZMLX_OK);
    assert_int_equal(ir->n_values, 6);
    static const zm_level levels[] = {ZM_LEVEL_ELEMENT, ZM_LEVEL_ROW,     ZM_LEVEL_ELEMENT,
                                      ZM_LEVEL_ELEMENT, ZM_LEVEL_ROW, ZM_LEVEL_ELEMENT};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(ir->values[i].level, levels[i]);
        assert_int_equal(ir->values[i].type, ZM_TYPE_FLOAT);
    }
    assert_int_equal(zm_ir_operand_count(ir, 0), 0);
    assert_int_equal(zm_ir_operand_count(ir, 5), 2);
    assert_int_equal(zm_ir_operand(ir, 5, 0), 3);
    assert_int_equal(zm_ir_operand(ir, 5, 1), 4);
    zm_ir_free(ir);
    ir = zm_ir_new("line\nbreak");
    assert_string_equal(ir->name, "line?break");
    zm_ir_free(ir);
    zm_ir_free(NULL);
}

static void test_has_rows(void **state) {
    (void)state;
    static const struct {
        const char *text;
        bool rows;
    } cases[] = {
        {"kernel k\ninput x float element\noutput y element = %1\n%0 = load x\n%1 = exp %0\n", false},
        {"kernel k\nseed s\noutput y element = %0\n%0 = random s\n", false},
        {"kernel k\noutput y row = %0\n%0 = constant 1\n", true},
        {"kernel k\ninput x float row\noutput y element = %0\n%0 = constant 1\n", true},
        {"kernel k\noutput y element = %0\n%0 = columns\n", true},
        {"kernel k\noutput y element = %1\n%0 = column\n%1 = from_uint %0\n", true},
        {"kernel k\noutput y element = %1\n%0 = constant 1\n%1 = row_cumsum %0\n", true},
        {"kernel k\ninput x float element\noutput y element = %1\n%0 = column\n%1 = row_gather x %0\n", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_ir *ir = parse_kernel(cases[i].text);
        assert_int_equal(zm_ir_has_rows(ir), cases[i].rows);
        zm_ir_free(ir);
    }
}

static void expect_failure(zm_ir *ir, zmlx_status code, const char *part) {
    if (ir->failure.code != code || !strstr(ir->failure.message, part))
        fail_msg("expected %d \"%s\", got %d \"%s\"", (int)code, part, (int)ir->failure.code, ir->failure.message);
    zmlx_error error;
    assert_int_equal(zm_ir_verify(ir, &error), code);
    assert_string_equal(error.message, ir->failure.message);
    zm_ir_free(ir);
}

static zm_ir *with_input(void) {
    zm_ir *ir = zm_ir_new("k");
    zm_ir_load(ir, zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
    return ir;
}

static void test_failures_of_values(void **state) {
    (void)state;
    zm_ir *ir = with_input();
    zm_id test = zm_ir_apply(ir, ZM_OP_ISNAN, 0, -1, -1);
    assert_int_equal(zm_ir_apply(ir, ZM_OP_MULTIPLY, 0, test, -1), -1);
    assert_int_equal(zm_ir_apply(ir, ZM_OP_EXP, 0, -1, -1), -1); /* nothing works after a failure */
    assert_int_equal(ir->n_values, 2);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "multiply: operand 2 is bool, expected float");
    static const struct {
        zm_op op;
        zm_id a, b, c;
        const char *message;
    } cases[] = {
        {ZM_OP_ADD, 0, 7, -1, "add: operand 2 is missing"},
        {ZM_OP_ADD, 0, -1, -1, "add: operand 2 is missing"},
        {ZM_OP_EXP, 0, 0, -1, "exp: more than 1 operands"},
        {ZM_OP_SELECT, 0, 0, 0, "select: operand 1 is float, expected bool"},
        {ZM_OP_SELECT, 1, 0, 2, "select: operand 3 is uint, expected float"},
        {ZM_OP_AND, 1, 0, -1, "and: operand 2 is float, expected bool"},
        {ZM_OP_EQUAL, 1, 1, -1, "equal: operand 1 is bool"},
        {ZM_OP_LESS, 2, 0, -1, "less: operand 2 is float, expected uint"},
        {ZM_OP_FROM_BOOL, 0, -1, -1, "from_bool: operand 1 is float"},
        {ZM_OP_ROW_SUM, 1, -1, -1, "row_sum: operand 1 is bool"},
        {ZM_OP_LOAD, -1, -1, -1, "load: needs more than operands"},
        {ZM_OP_FOLD, -1, -1, -1, "fold: needs more than operands"},
        {ZM_OP_COUNT, -1, -1, -1, "unknown"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ir = with_input();
        zm_ir_apply(ir, ZM_OP_ISNAN, 0, -1, -1);
        zm_ir_apply(ir, ZM_OP_COLUMN, -1, -1, -1);
        assert_int_equal(zm_ir_apply(ir, cases[i].op, cases[i].a, cases[i].b, cases[i].c), -1);
        expect_failure(ir, ZMLX_ERROR_ARGUMENT, cases[i].message);
    }
}

static void test_failures_of_names(void **state) {
    (void)state;
    static const char *const invalid[] = {"", "1x", "a.b", "a b", "\xc3\xa4", NULL};
    for (size_t i = 0; i < sizeof invalid / sizeof *invalid; i++) {
        zm_ir *ir = with_input();
        assert_int_equal(zm_ir_add_input(ir, invalid[i], ZM_TYPE_FLOAT, ZM_LEVEL_ROW), -1);
        expect_failure(ir, ZMLX_ERROR_ARGUMENT, "no valid name");
    }
    char longest[ZM_IR_MAX_NAME + 2] = "";
    memset(longest, 'n', ZM_IR_MAX_NAME);
    zm_ir *ir = with_input();
    assert_int_equal(zm_ir_add_parameter(ir, longest, false), 0);
    longest[ZM_IR_MAX_NAME] = 'n';
    assert_int_equal(zm_ir_add_parameter(ir, longest, false), -1);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "no valid name");
    ir = with_input();
    assert_int_equal(zm_ir_add_parameter(ir, "x", false), -1);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "`x` is taken");
    ir = with_input();
    zm_ir_add_output(ir, "x", 0, ZM_LEVEL_ELEMENT); /* outputs have names of their own */
    assert_int_equal(ir->failure.code, ZMLX_OK);
    zm_ir_add_output(ir, "x", 0, ZM_LEVEL_ELEMENT);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "`x` is taken");
}

static void test_failures_of_frames(void **state) {
    (void)state;
    zm_ir *ir = with_input();
    zm_ir_add_output(ir, "y", 0, ZM_LEVEL_ROW);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "level is above");
    ir = with_input();
    zm_ir_add_output(ir, "y", zm_ir_apply(ir, ZM_OP_ISNAN, 0, -1, -1), ZM_LEVEL_ELEMENT);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "y is bool");
    ir = with_input();
    zm_ir_add_output(ir, "y", 1, ZM_LEVEL_ELEMENT);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "no such value");
    ir = with_input();
    assert_int_equal(zm_ir_random(ir, zm_ir_add_parameter(ir, "p", false)), -1);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "random: its parameter is no seed");
    ir = with_input();
    assert_int_equal(zm_ir_parameter(ir, zm_ir_add_parameter(ir, "s", true)), -1);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "parameter: its parameter is a seed");
    ir = with_input();
    zm_ir_add_input(ir, "b", ZM_TYPE_BOOL, ZM_LEVEL_ELEMENT);
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "holds no bool");
    ir = with_input();
    int rows = zm_ir_add_input(ir, "r", ZM_TYPE_FLOAT, ZM_LEVEL_ROW);
    zm_ir_gather(ir, rows, zm_ir_apply(ir, ZM_OP_COLUMN, -1, -1, -1));
    expect_failure(ir, ZMLX_ERROR_ARGUMENT, "row_gather: input r is no row of floats");
    ir = zm_ir_new("k");
    char name[16];
    for (int i = 0; i <= ZM_IR_MAX_INPUTS; i++) {
        snprintf(name, sizeof name, "i%d", i);
        assert_int_equal(zm_ir_add_input(ir, name, ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT), i < ZM_IR_MAX_INPUTS ? i : -1);
    }
    expect_failure(ir, ZMLX_ERROR_UNSUPPORTED, "more than 32");
}

static void test_many_values(void **state) {
    (void)state;
    zm_ir *ir = with_input();
    for (int i = 1; i < ZM_IR_MAX_VALUES; i++) assert_int_equal(zm_ir_apply(ir, ZM_OP_NEGATE, i - 1, -1, -1), i);
    assert_int_equal(zm_ir_constant(ir, 0), -1);
    expect_failure(ir, ZMLX_ERROR_UNSUPPORTED, "more than 65536 values");
}

static const char fold_text[] = "kernel f\ninput x float element\noutput y row = %2\n%0 = load x\n%1 = constant 0\n"
                                "%2 = fold %1 %0\n  update\n    %0 = argument 0\n    %1 = argument 1\n"
                                "    %2 = add %0 %1\n  result %2\n  combine\n    %0 = argument 0\n"
                                "    %1 = argument 1\n    %2 = add %0 %1\n  result %2\nend\n";

static void break_operand(zm_ir *ir) { ir->values[2].operands[1] = 3; }
static void break_own_operand(zm_ir *ir) { ir->values[2].operands[0] = 2; }
static void break_unused(zm_ir *ir) { ir->values[3].operands[1] = 0; }
static void break_op(zm_ir *ir) { ir->values[3].op = ZM_OP_COUNT; }
static void break_type(zm_ir *ir) { ir->values[3].type = ZM_TYPE_BOOL; }
static void break_level(zm_ir *ir) { ir->values[4].level = ZM_LEVEL_ELEMENT; }
static void break_load(zm_ir *ir) { ir->values[0].index = 1; }
static void break_argument(zm_ir *ir) {
    ir->values[0].op = ZM_OP_ARGUMENT;
    ir->values[0].index = 0;
}
static void break_outputs(zm_ir *ir) { ir->n_outputs = 0; }
static void break_output(zm_ir *ir) { ir->outputs[0].value = 6; }
static void break_output_level(zm_ir *ir) { ir->outputs[0].level = ZM_LEVEL_ROW; }
static void break_input(zm_ir *ir) { ir->inputs[0].type = ZM_TYPE_BOOL; }
static void break_name(zm_ir *ir) { ir->inputs[0].name = "x y"; }
static void break_values(zm_ir *ir) { ir->n_values = 0; }
static void break_init(zm_ir *ir) { ir->folds[0].init = 0; }
static void break_capture(zm_ir *ir) { ir->folds[0].captures[0] = 2; }
static void break_captures(zm_ir *ir) { ir->folds[0].n_captures = 0; }
static void break_region(zm_ir *ir) { ir->folds[0].update.values[2].operands[0] = 2; }
static void break_region_op(zm_ir *ir) {
    ir->folds[0].update.values[1].op = ZM_OP_LOAD;
    ir->folds[0].update.values[1].index = 0;
}
static void break_region_argument(zm_ir *ir) { ir->folds[0].combine.values[1].index = 2; }
static void break_result(zm_ir *ir) { ir->folds[0].combine.result = 3; }
static void break_fold(zm_ir *ir) { ir->values[2].index = 1; }

static void test_verifier(void **state) {
    (void)state;
    static const struct {
        void (*spoil)(zm_ir *ir);
        bool is_fold;
        const char *message;
    } cases[] = {
        {break_operand, false, "%2: subtract: operand 2 is missing"},
        {break_own_operand, false, "%2: subtract: operand 1 is missing"},
        {break_unused, false, "%3: exp: more than 1 operands"},
        {break_op, false, "%3: operation"},
        {break_type, false, "%3: exp: type"},
        {break_level, false, "%4: row_sum: level"},
        {break_load, false, "%0: load: no such input"},
        {break_argument, false, "%0: argument: no such argument"},
        {break_outputs, false, "0 outputs"},
        {break_output, false, "output y: no such value"},
        {break_output_level, false, "output y: its value's level"},
        {break_input, false, "input x: neither"},
        {break_name, false, "no valid name"},
        {break_values, false, "0 values"},
        {break_init, true, "%2: fold: init"},
        {break_capture, true, "%2: fold: operand 2 is missing"},
        {break_captures, true, "%2: fold: update: 2 arguments, expected 1"},
        {break_region, true, "%2: fold: update: %2: add: operand 1"},
        {break_region_op, true, "%2: fold: update: %1: load: not allowed"},
        {break_region_argument, true, "%2: fold: combine: %1: argument: no such"},
        {break_result, true, "%2: fold: combine: no result"},
        {break_fold, true, "%2: fold: no such fold"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_ir *ir = cases[i].is_fold ? parse_kernel(fold_text) : softmax();
        zmlx_error error = {0};
        assert_int_equal(zm_ir_verify(ir, &error), ZMLX_OK);
        cases[i].spoil(ir);
        assert_int_equal(zm_ir_verify(ir, &error), ZMLX_ERROR_FORMAT);
        if (!strstr(error.message, cases[i].message)) fail_msg("\"%s\" for %s", error.message, cases[i].message);
        zm_ir_free(ir);
    }
}

static void test_operations(void **state) {
    (void)state;
    for (int i = 0; i < ZM_OP_COUNT; i++)
        for (int j = 0; j < i; j++)
            assert_string_not_equal(zm_op_get((zm_op)i)->name, zm_op_get((zm_op)j)->name);
    static const struct {
        zm_op op;
        double a, b, c, expected;
    } cases[] = {
        {ZM_OP_FMA, 3, 4, 5, 17},          {ZM_OP_MIN, 1, NAN, 0, NAN},   {ZM_OP_FMIN, NAN, 1, 0, 1},
        {ZM_OP_MAX, 2, 3, 0, 3},           {ZM_OP_CLAMP, 5, 0, 2, 2},     {ZM_OP_STEP, 1, 0.5, 0, 0},
        {ZM_OP_FRACT, -0.25, 0, 0, 0.75},  {ZM_OP_ROUND, 2.5, 0, 0, 3},   {ZM_OP_RINT, 2.5, 0, 0, 2},
        {ZM_OP_FMOD, -7, 3, 0, -1},        {ZM_OP_SIGN, -0.5, 0, 0, -1},  {ZM_OP_POWR, -1, 2, 0, NAN},
        {ZM_OP_SELECT, 1, 8, 9, 8},        {ZM_OP_LESS, 1, 1, 0, 0},      {ZM_OP_NOT_EQUAL, NAN, NAN, 0, 1},
        {ZM_OP_TO_UINT, 3.9, 0, 0, 3},     {ZM_OP_TO_UINT, -1, 0, 0, 4294967295.0},
        {ZM_OP_SILU, -INFINITY, 0, 0, 0},  {ZM_OP_RELU, NAN, 0, 0, NAN},  {ZM_OP_SMOOTHSTEP, 0, 2, 1, 0.5},
        {ZM_OP_MIX, 10, 20, 0.25, 12.5},   {ZM_OP_SATURATE, 7, 0, 0, 1},  {ZM_OP_COPYSIGN, 3, -0.0, 0, -3},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double result = zm_op_evaluate(cases[i].op, cases[i].a, cases[i].b, cases[i].c);
        if (!(result == cases[i].expected || (isnan(result) && isnan(cases[i].expected))))
            fail_msg("%s: %g", zm_op_get(cases[i].op)->name, result);
    }
}

/* The vectors of the Random123 distribution, and the catalogue's. */
static void test_philox(void **state) {
    (void)state;
    static const struct {
        uint32_t key[2], counter[4], words[4];
    } cases[] = {
        {{0, 0}, {0, 0, 0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
        {{~0u, ~0u}, {~0u, ~0u, ~0u, ~0u}, {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
        {{0xa4093822, 0x299f31d0},
         {0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
         {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
        {{42, 0}, {0, 0, 0, 0}, {0x9ceaf053, 0x77f5493b, 0x12bf50ad, 0x5742b3d7}},
        {{42, 0}, {1, 0, 0, 0}, {0xfcdb2127, 0x53ba6cfd, 0x838f5a6e, 0x744e06fb}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        uint32_t words[4];
        zm_philox(words, cases[i].counter, cases[i].key);
        assert_memory_equal(words, cases[i].words, sizeof words);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_building),          cmocka_unit_test(test_has_rows),
        cmocka_unit_test(test_failures_of_values), cmocka_unit_test(test_failures_of_names),
        cmocka_unit_test(test_failures_of_frames), cmocka_unit_test(test_many_values),
        cmocka_unit_test(test_verifier),          cmocka_unit_test(test_operations),
        cmocka_unit_test(test_philox),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
