/* SPDX-License-Identifier: MIT */
/* The float64 interpreter against sums and functions written out here. */
#include <float.h>
#include <stdio.h>

#include "ir_testing.h"

enum { ROWS = 2, COLUMNS = 3 };

static const double x[ROWS * COLUMNS] = {1, -2, 0.5, 4, 8, -16};
static const double r[ROWS] = {10, 100};
static const double n[ROWS * COLUMNS] = {2, 0, 7, 1, 1, 2};

/* outputs[0] has an element each, outputs[1] a row each. */
static void evaluate(const char *text, double y[ROWS * COLUMNS], double z[ROWS * COLUMNS]) {
    zm_ir *ir = parse_kernel(text);
    zmlx_error error = {0};
    const zm_evaluation evaluation = {ROWS,
                                      COLUMNS,
                                      (const double *[]){x, r, n},
                                      (double[]){0.25, 0},
                                      (uint64_t[]){0, 42},
                                      (double *[]){y, z}};
    if (zm_ir_evaluate(ir, &evaluation, &error)) fail_msg("%s", error.message);
    zm_ir_free(ir);
}

#define HEAD                                                                                             \
    "kernel k\ninput x float element\ninput r float row\ninput n uint element\nparameter p\nseed s\n" \
    "%0 = load x\n%1 = load r\n%2 = load n\n%3 = parameter p\n"

static void expect(const char *text, const double *expected, int count) {
    double y[ROWS * COLUMNS];
    evaluate(text, y, NULL);
    for (int i = 0; i < count; i++) {
        bool same = y[i] == expected[i] || (isnan(y[i]) && isnan(expected[i]));
        if (!same && !(fabs(y[i] - expected[i]) <= 4 * DBL_EPSILON * fabs(expected[i])))
            fail_msg("%d: %.17g, expected %.17g in\n%s", i, y[i], expected[i], text);
    }
}

static void test_maps(void **state) {
    (void)state;
    expect(HEAD "output y element = %6\n%4 = exp %0\n%5 = add %4 %1\n%6 = multiply %5 %3\n",
           (double[]){0.25 * (exp(1) + 10), 0.25 * (exp(-2) + 10), 0.25 * (exp(0.5) + 10), 0.25 * (exp(4) + 100),
                      0.25 * (exp(8) + 100), 0.25 * (exp(-16) + 100)},
           6);
    expect(HEAD "output y element = %5\n%4 = less %0 %3\n%5 = select %4 %1 %0\n",
           (double[]){1, 10, 0.5, 4, 8, 100}, 6);
    expect(HEAD "output y element = %1\n", (double[]){10, 10, 10, 100, 100, 100}, 6); /* a row's number, spread */
    expect(HEAD "output y element = %2\n", n, 6);
    expect(HEAD "output y element = %7\n%4 = columns\n%5 = column\n%6 = from_uint %5\n%7 = add %4 %6\n",
           (double[]){3, 4, 5, 3, 4, 5}, 6);
}

static void test_reductions(void **state) {
    (void)state;
    static const struct {
        const char *op;
        double expected[ROWS];
    } cases[] = {{"row_sum", {-0.5, -4}}, {"row_prod", {-1, -512}}, {"row_max", {1, 8}}, {"row_min", {-2, -16}}};
    char text[600];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        snprintf(text, sizeof text, "%soutput y row = %%4\n%%4 = %s %%0\n", HEAD, cases[i].op);
        expect(text, cases[i].expected, ROWS);
    }
    expect(HEAD "output y row = %4\n%4 = row_argmax %0\n", (double[]){0, 1}, 2);
    expect(HEAD "output y row = %4\n%4 = row_sum %1\n", (double[]){30, 300}, 2);   /* of a row's number */
    expect(HEAD "output y row = %4\n%4 = row_prod %3\n", (double[]){1. / 64, 1. / 64}, 2); /* of one number */
    expect(HEAD "output y row = %5\n%4 = constant 7\n%5 = row_argmax %4\n", (double[]){0, 0}, 2);
    /* NaN wins, and the first of equals */
    expect(HEAD "output y row = %6\n%4 = sqrt %0\n%5 = negate %4\n%6 = row_argmax %5\n", (double[]){1, 2}, 2);
    expect(HEAD "output y row = %5\n%4 = sqrt %0\n%5 = row_min %4\n", (double[]){NAN, NAN}, 2);
}

static void test_scans_and_gathers(void **state) {
    (void)state;
    expect(HEAD "output y element = %4\n%4 = row_cumsum %0\n", (double[]){1, -1, -0.5, 4, 12, -4}, 6);
    expect(HEAD "output y element = %4\n%4 = row_cumsum_reverse %0\n", (double[]){-0.5, -1.5, 0.5, -4, -8, -16}, 6);
    expect(HEAD "output y element = %4\n%4 = row_cumsum %3\n", (double[]){0.25, 0.5, 0.75, 0.25, 0.5, 0.75}, 6);
    expect(HEAD "output y element = %4\n%4 = row_gather x %2\n", (double[]){0.5, 1, NAN, 8, 8, -16}, 6);
    expect(HEAD "output y row = %5\n%4 = row_argmax %0\n%5 = row_gather x %4\n", (double[]){1, 8}, 2);
}

/* acc = acc * 2 + x r, from 3: not the same from the right. */
static void test_folds(void **state) {
    (void)state;
    static const char text[] = HEAD "output y row = %5\n%4 = constant 3\n%5 = fold %4 %0 %1\n  update\n"
                                    "    %0 = argument 0\n    %1 = argument 1\n    %2 = argument 2\n"
                                    "    %3 = constant 2\n    %4 = multiply %1 %2\n    %5 = fma %0 %3 %4\n"
                                    "  result %5\n  combine\n    %0 = argument 1\n  result %0\nend\n";
    double expected[ROWS];
    for (int row = 0; row < ROWS; row++) {
        expected[row] = 3;
        for (int i = 0; i < COLUMNS; i++) expected[row] = expected[row] * 2 + x[row * COLUMNS + i] * r[row];
    }
    expect(text, expected, ROWS);
}

/* The catalogue's numbers for the seed 42, also across blocks of a long map. */
static void test_random(void **state) {
    (void)state;
    static const uint32_t words[] = {0x9ceaf053, 0x77f5493b, 0x12bf50ad, 0x5742b3d7, 0xfcdb2127, 0x53ba6cfd};
    double expected[6];
    for (int i = 0; i < 6; i++) expected[i] = (double)(words[i] >> 8) / 16777216;
    expect(HEAD "output y element = %4\n%4 = random s\n", expected, 6);
    enum { LENGTH = 5000 };
    double *whole = malloc(LENGTH * sizeof *whole), *rows = malloc(LENGTH * sizeof *rows);
    zm_ir *ir = parse_kernel("kernel k\nseed s\noutput y element = %0\n%0 = random s\n");
    zm_evaluation evaluation = {1, LENGTH, NULL, NULL, (uint64_t[]){UINT64_C(0x123456789abcdef0)}, &whole};
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, NULL), ZMLX_OK);
    evaluation = (zm_evaluation){250, LENGTH / 250, NULL, NULL, evaluation.seeds, &rows};
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, NULL), ZMLX_OK);
    assert_memory_equal(whole, rows, LENGTH * sizeof *rows);
    for (int i = 0; i < LENGTH; i += 777) {
        uint32_t block[4];
        zm_philox(block, (const uint32_t[]){(uint32_t)i / 4, 0, 0, 0}, (const uint32_t[]){0x9abcdef0, 0x12345678});
        assert_true(whole[i] == (double)(block[i % 4] >> 8) / 16777216);
    }
    zm_ir_free(ir);
    free(whole);
    free(rows);
}

static void test_empty_rows(void **state) {
    (void)state;
    zm_ir *ir = parse_kernel("kernel k\ninput x float element\noutput y row = %1\noutput z row = %2\n%0 = load x\n"
                             "%1 = row_sum %0\n%2 = row_max %0\n");
    double y[2] = {7, 7}, z[2] = {7, 7};
    zm_evaluation evaluation = {2, 0, (const double *[]){x}, NULL, NULL, (double *[]){y, z}};
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, NULL), ZMLX_OK);
    assert_true(y[0] == 0 && y[1] == 0 && z[0] == -INFINITY && z[1] == -INFINITY);
    evaluation = (zm_evaluation){0, 3, (const double *[]){x}, NULL, NULL, (double *[]){y, z}};
    y[0] = 5;
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, NULL), ZMLX_OK);
    assert_true(y[0] == 5);
    zm_ir_free(ir);
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_error error;
    double y[3];
    zm_ir *ir = parse_kernel("kernel k\nseed s\noutput y element = %0\n%0 = random s\n");
    zm_evaluation evaluation = {1, 3, NULL, NULL, NULL, (double *[]){y}};
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "no value for s");
    evaluation.columns = -1;
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, &error), ZMLX_ERROR_ARGUMENT);
    evaluation.columns = evaluation.rows = INT64_MAX / 2;
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, &error), ZMLX_ERROR_ARGUMENT);
    zm_ir_free(ir);
    ir = parse_kernel("kernel k\nparameter p\noutput y element = %0\n%0 = parameter p\n");
    evaluation = (zm_evaluation){1, 3, NULL, NULL, NULL, (double *[]){y}};
    assert_int_equal(zm_ir_evaluate(ir, &evaluation, &error), ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "no value for p");
    zm_ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps),   cmocka_unit_test(test_reductions), cmocka_unit_test(test_scans_and_gathers),
        cmocka_unit_test(test_folds),  cmocka_unit_test(test_random),     cmocka_unit_test(test_empty_rows),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
