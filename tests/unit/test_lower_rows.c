/* SPDX-License-Identifier: MIT */
/* Row functions, reductions and map-reductions: their values by loops in C, and which operations they become. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lower_testing.h"

enum { ROWS = 3, COLUMNS = 7 };

static const double x[ROWS * COLUMNS] = {0.5, -2,  3,    1,   -0.25, 0.75, 2,  -1,  -4,  -0.5, -3,
                                         -2,  -5,  -1.5, 1.5, 0.125, 4,    -1, 0.5, 4,   2};

static zm_ir *reduction(const char *init, const char *update, const char *finalize, const char *combine) {
    const zm_reduce_text text = {.init = init, .update = update, .finalize = finalize, .combine = combine};
    zm_ir *ir;
    zmlx_error error = {0};
    if (zm_lower_reduce(&ir, &text, &error)) fail_msg("%s: %s: %s", update, error.where, error.message);
    assert_int_equal(ir->n_inputs, 1);
    assert_output(ir, 0, "y", ZM_LEVEL_ROW);
    return ir;
}

/* What a text over a row has to give for element i of row r. */
typedef double row_oracle(const double *row, int i);

static double sum_of(const double *row) {
    double sum = 0;
    for (int i = 0; i < COLUMNS; i++) sum += row[i];
    return sum;
}

static int argmax_of(const double *row) {
    int best = 0;
    for (int i = 1; i < COLUMNS; i++)
        if (row[i] > row[best]) best = i;
    return best;
}

static double mean(const double *row, int i) { return row[i] - sum_of(row) / COLUMNS; }
static double is_largest(const double *row, int i) { return i == argmax_of(row); }
static double from_start(const double *row, int i) { return row[0] + 10 * i; }
static double gathered(const double *row, int i) {
    return i + 1 < COLUMNS ? row[i + 1] - row[argmax_of(row)] : NAN;
}
static double half(const double *row, int i) { return i < COLUMNS / 2.0 ? row[i] : -1; }
static double chosen(const double *row, int i) { return row[row[i] > 0 ? i : argmax_of(row)]; }
static double softmax(const double *row, int i) {
    double sum = 0;
    for (int k = 0; k < COLUMNS; k++) sum += exp(row[k] - row[argmax_of(row)]);
    return exp(row[i] - row[argmax_of(row)]) / sum;
}
static double before(const double *row, int i) {
    double sum = 0;
    for (int k = 0; k <= i; k++) sum += row[k];
    return sum;
}

static void test_row_functions(void **state) {
    (void)state;
    static const struct {
        const char *text;
        row_oracle *oracle;
    } cases[] = {
        {"x - row_mean(x)", mean},
        {"x - row_sum(x) / D", mean},
        {"column() == row_argmax(x)", is_largest},
        {"row_argmax(x) == column() ? 1 : 0", is_largest},
        {"row_gather(x, 0) + 10 * column()", from_start},
        {"row_gather(x, column() + 1) - row_gather(x, row_argmax(x))", gathered},
        {"column() < D / 2 ? x : -1", half},
        {"row_gather(x, x > 0 ? column() : row_argmax(x))", chosen},
        {"row_cumsum(x)", before},
        {"m = row_max(x); e = exp(x - m); e / row_sum(e)", softmax},
    };
    for (int c = 0; c < COUNT(cases); c++) {
        zm_ir *ir = made_map(&(zm_map_text){.outputs = &cases[c].text, .n_outputs = 1});
        double y[ROWS * COLUMNS];
        evaluate(ir, ROWS, COLUMNS, (const double *[]){x}, (double *[]){y});
        for (int i = 0; i < ROWS * COLUMNS; i++) {
            double expected = cases[c].oracle(x + i / COLUMNS * COLUMNS, i % COLUMNS);
            if (!is_near(y[i], expected, 1e-12))
                fail_msg("%s: [%d] is %g, not %g", cases[c].text, i, y[i], expected);
        }
        zm_ir_free(ir);
    }
    /* Indices are compared as indices. */
    zm_ir *ir = made_map(&(zm_map_text){.outputs = &cases[2].text, .n_outputs = 1});
    assert_int_equal(count_op(ir, ZM_OP_FROM_UINT), 0);
    zm_ir_free(ir);
}

/* How a reduction's text has to come out. */
typedef struct reduction_case {
    const char *init, *update, *finalize, *combine;
    zm_op op;    /* the row operation, or FOLD */
    zm_op merge; /* what merges init; 0 where nothing may */
} reduction_case;

static const reduction_case reductions[] = {
    {"0", "acc + v", NULL, NULL, ZM_OP_ROW_SUM, 0},
    {"0.0f", "v * v + acc", "sqrt(s / D)", NULL, ZM_OP_ROW_SUM, 0},
    {"3", "acc + abs(v)", NULL, NULL, ZM_OP_ROW_SUM, ZM_OP_ADD},
    {"0", "fma(v, v, acc)", NULL, NULL, ZM_OP_ROW_SUM, 0},
    {"0", "acc + v - v * v + 1", NULL, NULL, ZM_OP_ROW_SUM, 0},
    {"0", "T e = v - 1; T q = e * e; acc + q", NULL, NULL, ZM_OP_ROW_SUM, 0},
    {"0", "acc + v", NULL, "b + a", ZM_OP_ROW_SUM, 0},
    {"D", "acc + v", NULL, NULL, ZM_OP_ROW_SUM, ZM_OP_ADD},
    {"1", "acc * (v + 6)", NULL, NULL, ZM_OP_ROW_PROD, 0},
    {"0.5", "v * acc", "acc + 1", NULL, ZM_OP_ROW_PROD, ZM_OP_MULTIPLY},
    {"-INFINITY", "max(acc, v)", NULL, NULL, ZM_OP_ROW_MAX, 0},
    {"0", "max(abs(v), acc)", NULL, "max(a, b)", ZM_OP_ROW_MAX, ZM_OP_MAX},
    {"INFINITY", "min(v, acc)", NULL, NULL, ZM_OP_ROW_MIN, 0},
    {"1", "min(acc, v)", NULL, NULL, ZM_OP_ROW_MIN, ZM_OP_MIN},
    {"0", "0.5 * acc + v", NULL, NULL, ZM_OP_FOLD, 0},
    {"0", "acc + v * acc", NULL, NULL, ZM_OP_FOLD, 0},
    {"0", "acc + v + v * acc", NULL, NULL, ZM_OP_FOLD, 0},
    {"1", "v - acc", NULL, NULL, ZM_OP_FOLD, 0},
    {"0", "acc + v", NULL, "max(a, b)", ZM_OP_FOLD, 0},
    {"-INFINITY", "fmax(acc, v)", NULL, "fmax(a, b)", ZM_OP_FOLD, 0},
    {"2", "v > 0 ? acc + 1 : acc", NULL, NULL, ZM_OP_FOLD, 0},
    {"0", "column() == row_argmax(v) ? v : acc", NULL, NULL, ZM_OP_FOLD, 0},
    {"D", "acc > v ? acc - D : v + row_max(v)", "s * 2", NULL, ZM_OP_FOLD, 0},
    {"4", "v", NULL, NULL, ZM_OP_FOLD, 0},
};

static double reduce_in_c(int which, const double *row) {
    double start[] = {0, 0, 3, 0, 0, 0, 0, COLUMNS, 1, 0.5, -INFINITY, 0, INFINITY, 1, 0, 0, 0, 1, 0, -INFINITY, 2,
                      0, COLUMNS, 4};
    double acc = start[which];
    int largest = argmax_of(row);
    for (int i = 0; i < COLUMNS; i++) {
        double v = row[i];
        const double next[] = {acc + v,
                               acc + v * v,
                               acc + fabs(v),
                               acc + v * v,
                               acc + v - v * v + 1,
                               acc + (v - 1) * (v - 1),
                               acc + v,
                               acc + v,
                               acc * (v + 6),
                               acc * v,
                               fmax(acc, v),
                               fmax(acc, fabs(v)),
                               fmin(acc, v),
                               fmin(acc, v),
                               0.5 * acc + v,
                               acc + v * acc,
                               acc + v + v * acc,
                               v - acc,
                               acc + v,
                               fmax(acc, v),
                               v > 0 ? acc + 1 : acc,
                               i == largest ? v : acc,
                               acc > v ? acc - COLUMNS : v + row[largest],
                               v};
        acc = next[which];
    }
    return which == 1 ? sqrt(acc / COLUMNS) : which == 9 ? acc + 1 : which == 22 ? acc * 2 : acc;
}

static void test_reductions(void **state) {
    (void)state;
    for (int c = 0; c < COUNT(reductions); c++) {
        const reduction_case *item = &reductions[c];
        zm_ir *ir = reduction(item->init, item->update, item->finalize, item->combine);
        double y[ROWS];
        evaluate(ir, ROWS, COLUMNS, (const double *[]){x}, (double *[]){y});
        for (int r = 0; r < ROWS; r++) {
            double expected = reduce_in_c(c, x + r * COLUMNS);
            if (!is_near(y[r], expected, 1e-12))
                fail_msg("%s: row %d is %g, not %g", item->update, r, y[r], expected);
        }
        if (count_op(ir, item->op) != 1) fail_msg("%s: no %s", item->update, zm_op_get(item->op)->name);
        assert_int_equal(count_op(ir, ZM_OP_FOLD), item->op == ZM_OP_FOLD);
        int user = -1;
        for (int i = 0; i < ir->n_values; i++)
            for (int k = 0; item->op != ZM_OP_FOLD && k < zm_ir_operand_count(ir, i); k++)
                if (ir->values[ir->values[i].operands[k]].op == item->op) user = i;
        if (item->merge) assert_true(user >= 0 && ir->values[user].op == item->merge);
        if (!item->merge && !item->finalize) assert_int_equal(user, -1);
        zm_ir_free(ir);
    }
}

/* What update reads besides acc is computed outside, each once; a combine that reads D is left out. */
static void test_folds(void **state) {
    (void)state;
    zm_ir *ir = reduction("0", "acc * 0.5 + exp(v) + (v > 0 ? x : x * acc)", NULL, NULL);
    assert_int_equal(ir->n_folds, 1);
    assert_int_equal(ir->folds[0].n_captures, 3); /* exp(v), v > 0, x */
    assert_int_equal(ir->folds[0].combine.n_values, 0);
    for (int i = 0; i < ir->folds[0].update.n_values; i++)
        assert_true(ir->folds[0].update.values[i].op != ZM_OP_EXP);
    zm_ir_free(ir);
    ir = reduction("0", "acc * 0.5 + v", NULL, "a + b * D - b * D");
    assert_int_equal(ir->folds[0].combine.n_values, 0);
    zm_ir_free(ir);
    ir = reduction("0", "acc * 0.5 + v", NULL, "a + b");
    assert_true(ir->folds[0].combine.n_values > 0);
    assert_int_equal(ir->folds[0].combine.n_arguments, 2);
    zm_ir_free(ir);
}

static void test_reductions_refused(void **state) {
    (void)state;
    static const struct {
        const char *init, *update, *finalize, *combine;
        zmlx_status code;
        const char *where, *message;
        int column;
    } cases[] = {
        {NULL, "acc + v", NULL, NULL, ZMLX_ERROR_ARGUMENT, "init", "missing or empty", 0},
        {"0", " \n", NULL, NULL, ZMLX_ERROR_ARGUMENT, "update", "missing or empty", 0},
        {"0", "acc + v", "", NULL, ZMLX_ERROR_ARGUMENT, "finalize", "missing or empty", 0},
        {"0", "ac + v", NULL, NULL, ZMLX_ERROR_FORMAT, "update", "did you mean acc?", 1},
        {"acc", "acc + v", NULL, NULL, ZMLX_ERROR_FORMAT, "init", "unknown name `acc`", 1},
        {"x", "acc + v", NULL, NULL, ZMLX_ERROR_ARGUMENT, "init", "one value a row", 0},
        {"0", "acc + v", "acc + x", NULL, ZMLX_ERROR_ARGUMENT, "finalize", "one value a row", 0},
        {"0", "acc + v", "v", NULL, ZMLX_ERROR_FORMAT, "finalize", "there are x, acc, s, D", 1},
        {"0", "acc + v", NULL, "a + v", ZMLX_ERROR_FORMAT, "combine", "there are a, b, D", 5},
        {"0", "acc + row_sum(acc)", NULL, NULL, ZMLX_ERROR_ARGUMENT, "update", "row_sum of what depends on acc",
         0},
        {"0", "T t = v;", NULL, NULL, ZMLX_ERROR_FORMAT, "update", "a value is missing", 9},
        {"1", "acc + v", NULL, "a + b", ZMLX_ERROR_ARGUMENT, "init", "1 is not neutral for combine", 0},
        {"0", "acc + v", NULL, "a - b", ZMLX_ERROR_ARGUMENT, "init", "not neutral", 0},
        {"0", "v != 0 ? v : acc", NULL, "b != 0 ? b : a", ZMLX_ERROR_ARGUMENT, "combine", "come in any order", 0},
        {"-INFINITY", "max(acc, v)", NULL, "a < -1e30 ? b : a", ZMLX_ERROR_ARGUMENT, "combine",
         "with a = -2.5, b = -0.125 it gives -2.5, but -0.125 with", 0},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const zm_reduce_text text = {NULL, cases[i].init, cases[i].update, cases[i].finalize, cases[i].combine,
                                     NULL};
        zm_ir *ir;
        zmlx_error error = {0};
        assert_int_equal(zm_lower_reduce(&ir, &text, &error), cases[i].code);
        assert_null(ir);
        assert_string_equal(error.where, cases[i].where);
        assert_contains(error.message, cases[i].message);
        assert_int_equal(error.column, cases[i].column);
    }
    zm_text many = {0};
    zm_text_append_string(&many, "acc * acc");
    for (int i = 0; i < 40; i++) zm_text_printf(&many, " + acc * exp(v + %d)", i);
    zm_ir *ir;
    zmlx_error error = {0};
    const zm_reduce_text text = {.init = "0", .update = zm_text_string(&many)};
    assert_int_equal(zm_lower_reduce(&ir, &text, &error), ZMLX_ERROR_UNSUPPORTED);
    assert_contains(error.message, "more than 32 values besides acc");
    zm_text_free(&many);
}

static zmlx_status map_reduction(zm_ir **ir, zm_pass_text pass1, zm_pass_text pass2, const char *write,
                                 const char *further, zmlx_error *error) {
    const zm_map_reduce_text text = {.pass1 = pass1, .pass2 = pass2, .write = write, .n_inputs = further != NULL,
                                     .input_names = further ? &further : NULL};
    return zm_lower_map_reduce(ir, &text, error);
}

static const zm_pass_text largest = {"-INFINITY", "max(acc1, x)", "max(a, b)"};
static const zm_pass_text exponentials = {"0", "acc2 + exp(x - s1)", "a + b"};

static void test_softmax(void **state) {
    (void)state;
    zm_ir *ir;
    double y[ROWS * COLUMNS];
    assert_int_equal(map_reduction(&ir, largest, exponentials, "exp(x - s1) / s2", NULL, NULL), ZMLX_OK);
    assert_int_equal(count_op(ir, ZM_OP_ROW_MAX), 1);
    assert_int_equal(count_op(ir, ZM_OP_ROW_SUM), 1);
    assert_int_equal(ir->n_values, 6);
    assert_output(ir, 0, "y", ZM_LEVEL_ELEMENT);
    evaluate(ir, ROWS, COLUMNS, (const double *[]){x}, (double *[]){y});
    for (int i = 0; i < ROWS * COLUMNS; i++)
        assert_true(is_near(y[i], softmax(x + i / COLUMNS * COLUMNS, i % COLUMNS), 1e-13));
    zm_ir_free(ir);
}

/* A reduce that is not update's operation stays a fold; s1 and D in init; another input; inp is x. */
static void test_map_reduce_forms(void **state) {
    (void)state;
    zm_ir *ir;
    const zm_pass_text own = {"s1 - s1 + D", "acc2 + w * inp", "a + b - D"};
    zmlx_error error = {0};
    if (map_reduction(&ir, largest, own, "s2 + x - inp", "w", &error))
        fail_msg("%s: %s", error.where, error.message);
    assert_int_equal(ir->n_inputs, 2);
    assert_int_equal(count_op(ir, ZM_OP_FOLD), 1);
    double w[ROWS * COLUMNS], y[ROWS * COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++) w[i] = i * 0.25;
    evaluate(ir, ROWS, COLUMNS, (const double *[]){x, w}, (double *[]){y});
    for (int r = 0; r < ROWS; r++) {
        double sum = COLUMNS;
        for (int i = r * COLUMNS; i < (r + 1) * COLUMNS; i++) sum += w[i] * x[i];
        for (int i = r * COLUMNS; i < (r + 1) * COLUMNS; i++) assert_true(is_near(y[i], sum, 1e-13));
    }
    zm_ir_free(ir);
}

static void test_map_reduce_refused(void **state) {
    (void)state;
    zm_pass_text one = largest, two = exponentials, none = {0};
    const struct {
        zm_pass_text pass1, pass2;
        const char *write, *further;
        zmlx_status code;
        const char *where, *message;
    } cases[] = {
        {none, two, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass1.init", "missing or empty"},
        {{"0", "", "a + b"}, two, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass1.update", "missing or empty"},
        {{"0", "acc1 + x", NULL}, two, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass1.reduce", "missing or empty"},
        {one, none, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass2.init", "missing or empty"},
        {one, {"0", NULL, "a"}, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass2.update", "missing or empty"},
        {one, {"0", "acc2", " "}, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass2.reduce", "missing or empty"},
        {one, two, NULL, NULL, ZMLX_ERROR_ARGUMENT, "write", "missing or empty"},
        {{"0", "acc2 + x", "a + b"}, two, "x", NULL, ZMLX_ERROR_FORMAT, "pass1.update", "did you mean acc1?"},
        {{"0", "acc1 + s1", "a + b"}, two, "x", NULL, ZMLX_ERROR_FORMAT, "pass1.update", "unknown name `s1`"},
        {one, {"0", "acc2 + s2", "a + b"}, "x", NULL, ZMLX_ERROR_FORMAT, "pass2.update", "unknown name `s2`"},
        {one, {"x", "acc2 + x", "a + b"}, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass2.init", "one value a row"},
        {one, two, "inp", NULL, ZMLX_ERROR_FORMAT, "write", "unknown name `inp`"},
        {one, two, "x", "s1", ZMLX_ERROR_ARGUMENT, "input", "`s1` is taken"},
        {one, two, "x", "x", ZMLX_ERROR_ARGUMENT, "input", "`x` is taken"},
        {{"1", "acc1 + x", "a + b"},
         two,
         "x",
         NULL,
         ZMLX_ERROR_ARGUMENT,
         "pass1.init",
         "1 is not neutral for pass1.reduce"},
        {one, {"2", "acc2 * x", "a * b"}, "x", NULL, ZMLX_ERROR_ARGUMENT, "pass2.init", "2 is not neutral"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        zm_ir *ir;
        zmlx_error error = {0};
        assert_int_equal(
            map_reduction(&ir, cases[i].pass1, cases[i].pass2, cases[i].write, cases[i].further, &error),
            cases[i].code);
        assert_null(ir);
        assert_string_equal(error.where, cases[i].where);
        assert_contains(error.message, cases[i].message);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_row_functions),      cmocka_unit_test(test_reductions),
        cmocka_unit_test(test_folds),              cmocka_unit_test(test_reductions_refused),
        cmocka_unit_test(test_softmax),            cmocka_unit_test(test_map_reduce_forms),
        cmocka_unit_test(test_map_reduce_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
