/* SPDX-License-Identifier: MIT */
/* The text form of kernels: exact texts, round trips, refusals with their line. */
#include <locale.h>

#include "ir_testing.h"

static const char all_forms[] = "kernel all forms: # text\n"
                                "input x float element\n"
                                "input r float row\n"
                                "input n uint element\n"
                                "parameter scale\n"
                                "seed s\n"
                                "output y element = %10\n"
                                "output z row = %8\n"
                                "%0 = load x\n"
                                "%1 = load n\n"
                                "%2 = row_gather x %1\n"
                                "%3 = random s\n"
                                "%4 = parameter scale\n"
                                "%5 = less %3 %4\n"
                                "%6 = select %5 %2 %0\n"
                                "%7 = constant -0\n"
                                "%8 = fold %7 %6 %4\n"
                                "  update\n"
                                "    %0 = argument 0\n"
                                "    %1 = argument 2\n"
                                "    %2 = multiply %0 %1\n"
                                "  result %2\n"
                                "end\n"
                                "%9 = fold %8\n"
                                "  update\n"
                                "    %0 = argument 0\n"
                                "  result %0\n"
                                "  combine\n"
                                "    %0 = constant 1e-45\n"
                                "  result %0\n"
                                "end\n"
                                "%10 = fma %6 %9 %7\n";

static void expect_round_trip(const zm_ir *ir) {
    char *text = print_kernel(ir);
    zm_ir *again = parse_kernel(text);
    char *text_again = print_kernel(again);
    assert_string_equal(text, text_again);
    free(text_again);
    free(text);
    zm_ir_free(again);
}

static void test_all_forms(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel(all_forms);
    char *text = print_kernel(ir);
    assert_string_equal(text, all_forms);
    assert_string_equal(ir->name, "all forms: # text");
    assert_int_equal(ir->n_folds, 2);
    assert_int_equal(ir->folds[0].n_captures, 2);
    assert_int_equal(ir->folds[0].update.n_arguments, 3);
    free(text);
    zm_ir_free(ir);
    ir = parse_kernel("kernel k\r\n\n  # a remark\n\toutput y  element = %0 \r\n%0 = constant 1"); /* free spacing */
    text = print_kernel(ir);
    assert_string_equal(text, "kernel k\noutput y element = %0\n%0 = constant 1\n");
    free(text);
    zm_ir_free(ir);
}

static void test_numbers(void **state) {
    (void)state;
    static const struct {
        float number;
        const char *text;
    } cases[] = {{0, "0"},
                 {-0.0f, "-0"},
                 {1, "1"},
                 {0.1f, "0.1"},
                 {1.0f / 3, "0.33333334"},
                 {16777216, "16777216"},
                 {INFINITY, "inf"},
                 {-INFINITY, "-inf"},
                 {NAN, "nan"},
                 {1e-45f, "1e-45"},
                 {3.402823466e38f, "3.4028235e+38"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_ir *ir = zm_ir_new("k");
        zm_ir_add_output(ir, "y", zm_ir_constant(ir, cases[i].number), ZM_LEVEL_ELEMENT);
        char *text = print_kernel(ir);
        const char *at = strstr(text, "constant ") + strlen("constant ");
        assert_memory_equal(at, cases[i].text, strlen(cases[i].text));
        assert_int_equal(at[strlen(cases[i].text)], '\n');
        free(text);
        zm_ir_free(ir);
    }
}

/* Any bits of a float come back. */
static void test_random_numbers(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 3000; i++) {
        uint32_t bits = (uint32_t)zm_splitmix64(1, i);
        float number;
        memcpy(&number, &bits, sizeof number);
        if (isnan(number)) continue;
        zm_ir *ir = zm_ir_new("k");
        zm_ir_add_output(ir, "y", zm_ir_constant(ir, number), ZM_LEVEL_ELEMENT);
        char *text = print_kernel(ir);
        zm_ir *again = parse_kernel(text);
        assert_memory_equal(&again->values[0].number, &number, sizeof number);
        free(text);
        zm_ir_free(again);
        zm_ir_free(ir);
    }
}

static void test_random_kernels(void **state) {
    (void)state;
    int n_folds = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        zm_ir *ir = random_kernel(seed);
        n_folds += ir->n_folds;
        expect_round_trip(ir);
        zm_ir_free(ir);
    }
    assert_true(n_folds > 50);
}

static void test_comma_locale(void **state) {
    (void)state;
    static const char *const names[] = {"de_DE.UTF-8", "de_DE.utf8", "fr_FR.UTF-8", "de_DE"};
    const char *chosen = NULL;
    for (size_t i = 0; !chosen && i < sizeof names / sizeof *names; i++) chosen = setlocale(LC_NUMERIC, names[i]);
    if (!chosen) skip();
    zm_ir *ir = parse_kernel("kernel k\noutput y row = %0\n%0 = constant 0.5\n");
    char *text = print_kernel(ir);
    setlocale(LC_NUMERIC, "C");
    assert_true(ir->values[0].number == 0.5f);
    assert_non_null(strstr(text, "constant 0.5\n"));
    free(text);
    zm_ir_free(ir);
}

#define HEAD "kernel k\ninput x float element\noutput y element = %0\n"
#define FOLD HEAD "%0 = load x\n%1 = constant 0\n%2 = fold %1 %0\n"

static void test_refusals(void **state) {
    (void)state;
    static const struct {
        const char *text, *message;
    } cases[] = {
        {"", "line 1: expected: kernel NAME"},
        {"kernel\n", "line 1: expected: kernel NAME"},
        {"\nkernel k\n", "line 1: expected: kernel NAME"},
        {"kernel k\n", "0 outputs"},
        {HEAD, "line 3: output: no such value"},
        {"kernel k\ninput x float\n", "line 2: expected: input NAME"},
        {"kernel k\ninput x bool element\n", "line 2: input: an array holds no bool"},
        {"kernel k\ninput x float uniform\n", "line 2: expected: input NAME"},
        {"kernel k\ninput 1 float row\n", "line 2: input: `1` is no valid name"},
        {"kernel k\nseed\n", "line 2: expected a name alone"},
        {"kernel k\noutput y element %0\n", "line 2: expected: output NAME"},
        {"kernel k\noutput y element = 0\n", "line 2: expected: output NAME"},
        {HEAD "hello\n", "line 4: expected %NUMBER = OPERATION ...: `hello`"},
        {HEAD "%1 = load x\n", "line 4: not the next value's number: `%1`"},
        {HEAD "%0 = load z\n", "line 4: load: no such input"},
        {HEAD "%0 = load\n", "line 4: wrong operands: `load`"},
        {HEAD "%0 = constant one\n", "line 4: wrong operands: `constant`"},
        {HEAD "%0 = constant 1e99\n", "line 4: wrong operands: `constant`"},
        {HEAD "%0 = constant 0x1p3\n", "line 4: wrong operands: `constant`"},
        {HEAD "%0 = frobnicate %0\n", "line 4: unknown operation: `frobnicate`"},
        {HEAD "%0 = exp %0\n", "line 4: exp: operand 1 is missing or no earlier value"},
        {HEAD "%0 = exp x\n", "line 4: expected a value such as %0: `x`"},
        {HEAD "%0 = fma %0 %0 %0 %0\n", "line 4: too many operands"},
        {HEAD "%0 = argument 0\n", "%0: argument: no such argument here"},
        {FOLD, "line 6: expected update"},
        {FOLD "update\n%0 = argument 0\n", "line 8: the fold has no end"},
        {FOLD "update\n%0 = argument 0\nresult 0\n", "line 9: expected: result %VALUE"},
        {FOLD "update\n%0 = argument 0\nresult %1\nend\n", "line 6: fold: update: no result"},
        {FOLD "update\n%0 = argument 2\nresult %0\nend\n", "line 6: fold: update: %0: argument: no such argument"},
        {FOLD "update\n%0 = argument 0\nresult %0\nstop\n", "line 10: expected end"},
        {FOLD "update\n%0 = load x\nresult %0\nend\n", "line 8: load: no such input"},
        {FOLD "update\n%0 = columns\nresult %0\nend\n", "line 6: fold: update: %0: columns: not allowed"},
        {FOLD "update\n%0 = fold %0\nresult %0\nend\n", "line 8: fold: needs more than operands"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_ir *ir = (zm_ir *)&state;
        zmlx_error error = {0};
        assert_int_equal(zm_ir_parse(&ir, cases[i].text, strlen(cases[i].text), &error), ZMLX_ERROR_FORMAT);
        assert_null(ir);
        if (!strstr(error.message, cases[i].message)) fail_msg("\"%s\" for %s", error.message, cases[i].message);
    }
    zm_ir *ir;
    zmlx_error error;
    assert_int_equal(zm_ir_parse(&ir, "kernel k\0", 9, &error), ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message, "a NUL byte");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_all_forms),      cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_random_numbers), cmocka_unit_test(test_random_kernels),
        cmocka_unit_test(test_comma_locale),   cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
