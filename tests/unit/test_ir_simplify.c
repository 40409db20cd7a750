/* SPDX-License-Identifier: MIT */
/* Simplification: each identity on its own, what must stay, equal results on random kernels. */
#include "ir_testing.h"

/* A body over a and b (floats), k (bool a < b), with its expected form. */
#define HEAD "kernel k\ninput a float element\ninput b float element\noutput y element = "
#define LOADS "%0 = load a\n%1 = load b\n"
#define A "%0 = load a\n"

typedef struct form {
    const char *given, *expected;
} form;

static void expect_forms(const form *forms, size_t count) {
    for (size_t i = 0; i < count; i++) {
        zm_ir *ir = parse_kernel(forms[i].given), *simplified = simplify_kernel(ir);
        zm_ir *again = simplify_kernel(simplified);
        char *text = print_kernel(simplified), *text_again = print_kernel(again);
        assert_string_equal(text, forms[i].expected);
        assert_string_equal(text_again, forms[i].expected);
        free(text);
        free(text_again);
        zm_ir_free(ir);
        zm_ir_free(simplified);
        zm_ir_free(again);
    }
}

/* y = op(a, constant) or op(constant, a) becomes this. */
#define WITH_CONSTANT(op, number) HEAD "%2\n" A "%1 = constant " number "\n%2 = " op " %0 %1\n"
#define CONSTANT_WITH(op, number) HEAD "%2\n" A "%1 = constant " number "\n%2 = " op " %1 %0\n"
#define A_ALONE HEAD "%0\n" A
#define NEGATED HEAD "%1\n" A "%1 = negate %0\n"

static void test_arithmetic(void **state) {
    (void)state;
    static const form forms[] = {
        {WITH_CONSTANT("multiply", "1"), A_ALONE},
        {CONSTANT_WITH("multiply", "1"), A_ALONE},
        {WITH_CONSTANT("divide", "1"), A_ALONE},
        {WITH_CONSTANT("subtract", "0"), A_ALONE},
        {WITH_CONSTANT("add", "-0"), A_ALONE},
        {CONSTANT_WITH("add", "-0"), A_ALONE},
        {WITH_CONSTANT("pow", "1"), A_ALONE},
        {WITH_CONSTANT("multiply", "-1"), NEGATED},
        {CONSTANT_WITH("subtract", "-0"), NEGATED},
        {WITH_CONSTANT("divide", "-1"), NEGATED},
        {WITH_CONSTANT("divide", "8"), WITH_CONSTANT("multiply", "0.125")},
        {WITH_CONSTANT("divide", "-0.5"), WITH_CONSTANT("multiply", "-2")},
        {WITH_CONSTANT("pow", "0"), HEAD "%0\n%0 = constant 1\n"},
        {WITH_CONSTANT("pow", "2"), HEAD "%1\n" A "%1 = multiply %0 %0\n"},
        {WITH_CONSTANT("pow", "-1"), HEAD "%2\n" A "%1 = constant 1\n%2 = divide %1 %0\n"},
        {HEAD "%2\n" A "%1 = negate %0\n%2 = negate %1\n", A_ALONE},
        {HEAD "%3\n" LOADS "%2 = negate %1\n%3 = add %0 %2\n", HEAD "%2\n" LOADS "%2 = subtract %0 %1\n"},
        {HEAD "%3\n" LOADS "%2 = negate %0\n%3 = add %2 %1\n", HEAD "%2\n" LOADS "%2 = subtract %1 %0\n"},
        {HEAD "%3\n" LOADS "%2 = negate %1\n%3 = subtract %0 %2\n", HEAD "%2\n" LOADS "%2 = add %0 %1\n"},
        {HEAD "%4\n" LOADS "%2 = negate %0\n%3 = negate %1\n%4 = multiply %2 %3\n",
         HEAD "%2\n" LOADS "%2 = multiply %0 %1\n"},
        {HEAD "%4\n" LOADS "%2 = negate %0\n%3 = negate %1\n%4 = divide %2 %3\n",
         HEAD "%2\n" LOADS "%2 = divide %0 %1\n"},
        {HEAD "%3\n" A "%1 = negate %0\n%2 = constant 3\n%3 = multiply %1 %2\n", WITH_CONSTANT("multiply", "-3")},
        {HEAD "%2\n" A "%1 = negate %0\n%2 = abs %1\n", HEAD "%1\n" A "%1 = abs %0\n"},
        {HEAD "%2\n" A "%1 = ceil %0\n%2 = floor %1\n", HEAD "%1\n" A "%1 = ceil %0\n"},
        {HEAD "%1\n" A "%1 = max %0 %0\n", A_ALONE},
        {HEAD "%3\n" LOADS "%2 = constant 1\n%3 = fma %0 %2 %1\n", HEAD "%2\n" LOADS "%2 = add %0 %1\n"},
        {HEAD "%3\n" LOADS "%2 = constant -0\n%3 = fma %0 %1 %2\n", HEAD "%2\n" LOADS "%2 = multiply %0 %1\n"},
    };
    expect_forms(forms, sizeof forms / sizeof *forms);
}

#define TEST LOADS "%2 = less %0 %1\n"
#define NOT_LESS TEST "%3 = not %2\n"

static void test_logic(void **state) {
    (void)state;
    static const form forms[] = {
        {HEAD "%3\n" TEST "%3 = select %2 %0 %0\n", A_ALONE},
        {HEAD "%5\n" NOT_LESS "%4 = not %3\n%5 = from_bool %4\n", HEAD "%3\n" TEST "%3 = from_bool %2\n"},
        {HEAD "%4\n" NOT_LESS "%4 = select %3 %0 %1\n", HEAD "%3\n" TEST "%3 = select %2 %1 %0\n"},
        {HEAD "%4\n" LOADS "%2 = equal %0 %1\n%3 = not %2\n%4 = from_bool %3\n",
         HEAD "%3\n" LOADS "%2 = not_equal %0 %1\n%3 = from_bool %2\n"},
        {HEAD "%6\n" TEST "%3 = from_bool %2\n%4 = constant 0\n%5 = not_equal %3 %4\n%6 = select %5 %0 %1\n",
         HEAD "%3\n" TEST "%3 = select %2 %0 %1\n"},
        {HEAD "%6\n" TEST "%3 = from_bool %2\n%4 = constant -0\n%5 = equal %4 %3\n%6 = select %5 %0 %1\n",
         HEAD "%3\n" TEST "%3 = select %2 %1 %0\n"},
        {HEAD "%6\n" TEST "%3 = from_bool %2\n%4 = constant 0.5\n%5 = less %4 %3\n%6 = select %5 %0 %1\n",
         HEAD "%3\n" TEST "%3 = select %2 %0 %1\n"},
        {HEAD "%7\n" TEST "%3 = constant 5\n%4 = constant 7\n%5 = select %2 %3 %4\n%6 = equal %5 %4\n"
              "%7 = select %6 %0 %1\n",
         HEAD "%3\n" TEST "%3 = select %2 %1 %0\n"},
        {HEAD "%5\n" TEST "%3 = constant 1\n%4 = constant 0\n%5 = select %2 %3 %4\n",
         HEAD "%3\n" TEST "%3 = from_bool %2\n"},
        {HEAD "%5\n" TEST "%3 = constant 1\n%4 = constant 0\n%5 = select %2 %4 %3\n",
         HEAD "%4\n" NOT_LESS "%4 = from_bool %3\n"},
        {HEAD "%5\n" TEST "%3 = exp %0\n%4 = select %2 %3 %1\n%5 = select %2 %4 %0\n",
         HEAD "%4\n" TEST "%3 = exp %0\n%4 = select %2 %3 %0\n"},
        {HEAD "%5\n" TEST "%3 = exp %0\n%4 = select %2 %1 %3\n%5 = select %2 %0 %4\n",
         HEAD "%4\n" TEST "%3 = exp %0\n%4 = select %2 %0 %3\n"},
        {HEAD "%4\n" TEST "%3 = and %2 %2\n%4 = from_bool %3\n", HEAD "%3\n" TEST "%3 = from_bool %2\n"},
        {HEAD "%6\n" TEST "%3 = constant 1\n%4 = isnan %3\n%5 = or %2 %4\n%6 = from_bool %5\n",
         HEAD "%3\n" TEST "%3 = from_bool %2\n"},
        {HEAD "%6\n" TEST "%3 = constant 1\n%4 = isnan %3\n%5 = and %4 %2\n%6 = from_bool %5\n",
         HEAD "%0\n%0 = constant 0\n"},
        {HEAD "%5\n" LOADS "%2 = constant 2\n%3 = constant 3\n%4 = less %2 %3\n%5 = select %4 %0 %1\n", A_ALONE},
    };
    expect_forms(forms, sizeof forms / sizeof *forms);
}

static void test_constants_and_copies(void **state) {
    (void)state;
    static const form forms[] = {
        {HEAD "%2\n%0 = constant 1\n%1 = constant 3\n%2 = divide %0 %1\n", HEAD "%0\n%0 = constant 0.33333334\n"},
        {HEAD "%1\n%0 = constant 100\n%1 = exp %0\n", HEAD "%0\n%0 = constant inf\n"},
        {HEAD "%1\n%0 = constant -1\n%1 = sqrt %0\n", HEAD "%0\n%0 = constant nan\n"},
        {HEAD "%2\n%0 = constant 3.7\n%1 = to_uint %0\n%2 = from_uint %1\n", HEAD "%0\n%0 = constant 3\n"},
        /* 1 + 2^-23 + (2^-24 - 2^-70): one rounding goes down, two go up */
        {HEAD "%3\n%0 = constant 5.96046519e-08\n%1 = constant 0.999999881\n%2 = constant 1.0000001\n"
              "%3 = fma %0 %1 %2\n",
         HEAD "%0\n%0 = constant 1.0000001\n"},
        /* loads of one input are one value, and so are sums in either order */
        {HEAD "%7\n" LOADS "%2 = load a\n%3 = add %0 %1\n%4 = add %1 %2\n%5 = exp %3\n%6 = exp %4\n"
              "%7 = multiply %5 %6\n",
         HEAD "%4\n" LOADS "%2 = add %0 %1\n%3 = exp %2\n%4 = multiply %3 %3\n"},
        {HEAD "%6\n" LOADS "%2 = row_sum %0\n%3 = row_sum %0\n%4 = subtract %1 %2\n%5 = subtract %1 %3\n"
              "%6 = max %4 %5\n",
         HEAD "%3\n" LOADS "%2 = row_sum %0\n%3 = subtract %1 %2\n"},
    };
    expect_forms(forms, sizeof forms / sizeof *forms);
}

static void test_what_stays(void **state) {
    (void)state;
    static const char *const texts[] = {
        WITH_CONSTANT("multiply", "0"),
        WITH_CONSTANT("add", "0"),
        WITH_CONSTANT("divide", "3"),
        WITH_CONSTANT("divide", "1.7014118e+38"), /* the reciprocal, 2^-127, is subnormal */
        WITH_CONSTANT("subtract", "-0"),
        CONSTANT_WITH("subtract", "0"),
        WITH_CONSTANT("pow", "0.5"),
        HEAD "%1\n" A "%1 = subtract %0 %0\n",
        HEAD "%1\n" A "%1 = divide %0 %0\n",
        HEAD "%4\n" LOADS "%2 = min %0 %1\n%3 = min %1 %0\n%4 = divide %2 %3\n", /* zeros of both signs */
        HEAD "%3\n" LOADS "%2 = subtract %0 %1\n%3 = negate %2\n",
        HEAD "%4\n" NOT_LESS "%4 = from_bool %3\n", /* true for NaN, unlike b <= a */
        HEAD "%1\n%0 = constant 2\n%1 = row_sum %0\n",
        "kernel k\nseed s\nseed t\noutput y element = %2\n%0 = random s\n%1 = random t\n%2 = add %0 %1\n",
    };
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) expect_forms(&(form){texts[i], texts[i]}, 1);
}

#define FOLD_FRAME "kernel f\ninput x float element\noutput y row = "
#define LONG_REGION                                                                                           \
    "  update\n    %0 = argument 0\n    %1 = argument 1\n    %2 = constant 1\n    %3 = multiply %1 %2\n" \
    "    %4 = exp %1\n    %5 = add %3 %0\n  result %5\nend\n"

/* Regions are simplified, and equal folds are one. */
static void test_folds(void **state) {
    (void)state;
    static const form forms[] = {
        {FOLD_FRAME "%4\n%0 = load x\n%1 = constant 2\n%2 = fold %1 %0\n" LONG_REGION "%3 = fold %1 %0\n" LONG_REGION
                    "%4 = add %2 %3\n",
         FOLD_FRAME "%3\n%0 = load x\n%1 = constant 2\n%2 = fold %1 %0\n  update\n    %0 = argument 0\n"
                    "    %1 = argument 1\n    %2 = add %0 %1\n  result %2\nend\n%3 = add %2 %2\n"},
    };
    expect_forms(forms, 1);
    static const char different[] =
        FOLD_FRAME "%3\n%0 = constant 2\n%1 = fold %0\n  update\n    %0 = argument 0\n  result %0\nend\n"
                   "%2 = fold %0\n  update\n    %0 = argument 0\n    %1 = exp %0\n  result %1\nend\n"
                   "%3 = add %1 %2\n";
    expect_forms(&(form){different, different}, 1);
}

#define UNUSED "kernel k\ninput a float element\ninput b float row\nparameter p\n"

static void test_dead_code(void **state) {
    (void)state;
    static const form forms[] = {
        {UNUSED "output y element = %1\noutput z row = %3\n" LOADS
                "%2 = row_prod %0\n%3 = row_max %0\n%4 = parameter p\n",
         UNUSED "output y element = %1\noutput z row = %2\n" LOADS
                "%2 = row_max %0\n"},
    };
    expect_forms(forms, 1);
}

enum { ROWS = 3, COLUMNS = 5 };

typedef struct numbers {
    double x[ROWS * COLUMNS], r[ROWS], n[ROWS * COLUMNS];
    double outputs[3][ROWS * COLUMNS];
} numbers;

static void fill(numbers *to, uint64_t seed) {
    static const double special[] = {0, -0.0, 1, -1, INFINITY, -INFINITY, NAN, 0.5, 3, 1e-40};
    for (int i = 0; i < ROWS * COLUMNS + ROWS; i++) {
        uint64_t bits = zm_splitmix64(seed, (uint64_t)i);
        double number = bits % 3 ? (double)(float)((double)(bits >> 40) * 0x1p-22 - 2) : special[(bits >> 8) % 10];
        *(i < ROWS ? &to->r[i] : &to->x[i - ROWS]) = number;
    }
    for (int i = 0; i < ROWS * COLUMNS; i++) to->n[i] = (double)(zm_splitmix64(seed + 1, (uint64_t)i) % 7);
}

static void evaluate(numbers *at, const zm_ir *ir) {
    zmlx_error error;
    zm_evaluation evaluation = {ROWS,
                                COLUMNS,
                                (const double *[]){at->x, at->r, at->n},
                                (double[]){0.75, 0},
                                (uint64_t[]){0, 42},
                                (double *[]){at->outputs[0], at->outputs[1], at->outputs[2]}};
    memset(at->outputs, 0, sizeof at->outputs);
    if (zm_ir_evaluate(ir, &evaluation, &error)) fail_msg("%s", error.message);
}

static bool is_same(double a, double b) { return (isnan(a) && isnan(b)) || !memcmp(&a, &b, sizeof a); }

static void expect_same(const numbers *before, const numbers *after, const zm_ir *given, const char *simplified) {
    for (int o = 0; o < 3; o++)
        for (int i = 0; i < ROWS * COLUMNS; i++)
            if (!is_same(before->outputs[o][i], after->outputs[o][i]))
                fail_msg("output %d, number %d: %.17g became %.17g\n%s\n%s", o, i, before->outputs[o][i],
                         after->outputs[o][i], print_kernel(given), simplified);
}

static void test_random_kernels(void **state) {
    (void)state;
    numbers *before = calloc(1, sizeof *before), *after = calloc(1, sizeof *after);
    int removed = 0;
    for (uint64_t seed = 0; seed < 2000; seed++) {
        zm_ir *ir = random_kernel(seed), *simplified = simplify_kernel(ir), *again = simplify_kernel(simplified);
        char *text = print_kernel(simplified), *text_again = print_kernel(again);
        assert_string_equal(text, text_again);
        assert_int_equal(zm_ir_verify(simplified, NULL), ZMLX_OK);
        fill(before, seed);
        fill(after, seed);
        evaluate(before, ir);
        evaluate(after, simplified);
        expect_same(before, after, ir, text);
        removed += ir->n_values - simplified->n_values;
        free(text);
        free(text_again);
        zm_ir_free(ir);
        zm_ir_free(simplified);
        zm_ir_free(again);
    }
    assert_true(removed > 10000);
    free(before);
    free(after);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arithmetic), cmocka_unit_test(test_logic), cmocka_unit_test(test_constants_and_copies),
        cmocka_unit_test(test_what_stays), cmocka_unit_test(test_folds), cmocka_unit_test(test_dead_code),
        cmocka_unit_test(test_random_kernels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
