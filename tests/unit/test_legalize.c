/* SPDX-License-Identifier: MIT */
/* Operations by definition against their own formulas, over a grid that holds every special number. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lower_testing.h"

static const double grid[] = {-INFINITY, -1e30, -800, -90, -12.5, -3, -1,  -0.75, -1e-3, -1e-30,   -0.0,
                              0,         1e-30, 1e-3, 0.25, 0.5,  1, 1.5, 2,     7.25,  12.5, 100, 1e30, INFINITY, NAN};

/* Their definitions hold constants that float32 rounds: the result differs by as much, times the slope of its tail. */
static double tolerance_of(zm_op op, double a) {
    if (op == ZM_OP_GELU) return 1e-6 * (1 + a * a);
    if (op == ZM_OP_GELU_TANH || op == ZM_OP_STORED_GELU_TANH) return 1e-6 * (1 + fabs(a * a * a));
    return 1e-12;
}

static zm_ir *kernel_of(zm_op op) {
    static const char *const names[] = {"a", "b", "c"};
    zm_ir *ir = zm_ir_new("one");
    zm_id operands[3] = {-1, -1, -1};
    for (int i = 0; i < 3; i++) zm_ir_add_input(ir, names[i], ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT);
    for (int i = 0; i < zm_op_get(op)->arity; i++) operands[i] = zm_ir_load(ir, i);
    zm_ir_add_output(ir, "y", zm_ir_apply(ir, op, operands[0], operands[1], operands[2]), ZM_LEVEL_ELEMENT);
    assert_int_equal(ir->failure.code, ZMLX_OK);
    return ir;
}

static void assert_no_definitions(const zm_value *values, int n_values) {
    for (int i = 0; i < n_values; i++) assert_true(zm_op_get(values[i].op)->form != ZM_FORM_EXPAND);
}

/* The numbers of input `which` at all points of the grid of `arity` inputs. */
static int fill(double *numbers, int which, int arity) {
    int n = 1, stride = 1;
    for (int i = 0; i < arity; i++) n *= COUNT(grid);
    for (int i = 0; i < which; i++) stride *= COUNT(grid);
    for (int i = 0; i < n; i++) numbers[i] = grid[i / stride % COUNT(grid)];
    return n;
}

enum { MOST = COUNT(grid) * COUNT(grid) * COUNT(grid) };

static void test_definitions(void **state) {
    (void)state;
    static double a[MOST], b[MOST], c[MOST], y[MOST];
    int n_checked = 0;
    for (int op = 0; op < ZM_OP_COUNT; op++) {
        const zm_op_info *info = zm_op_get((zm_op)op);
        if (info->form != ZM_FORM_EXPAND) continue;
        zm_ir *ir = kernel_of((zm_op)op), *legal;
        zmlx_error error = {0};
        if (zm_ir_legalize(&legal, ir, NULL, &error)) fail_msg("%s: %s", info->name, error.message);
        assert_no_definitions(legal->values, legal->n_values);
        int n = fill(a, 0, info->arity);
        fill(b, 1, info->arity);
        fill(c, 2, info->arity);
        evaluate(legal, 1, n, (const double *[]){a, b, c}, (double *[]){y});
        for (int i = 0; i < n; i++) {
            double expected = zm_op_evaluate((zm_op)op, a[i], b[i], c[i]);
            if (!is_near(y[i], expected, tolerance_of((zm_op)op, a[i])) && fabs(y[i] - expected) > 1e-300)
                fail_msg("%s(%g, %g, %g): %.17g, not %.17g", info->name, a[i], b[i], c[i], y[i], expected);
        }
        n_checked++;
        zm_ir_free(legal);
        zm_ir_free(ir);
    }
    assert_true(n_checked >= 14);
}

static bool has_square(zm_op op) { return op == ZM_OP_SQUARE; }

/* What a target spells itself stays. */
static void test_spelling_kept(void **state) {
    (void)state;
    zm_ir *ir = made_formula("smoothstep(a, b, c) + relu(a)", NULL), *legal;
    assert_int_equal(zm_ir_legalize(&legal, ir, has_square, NULL), ZMLX_OK);
    assert_int_equal(count_op(legal, ZM_OP_SQUARE), 1);
    assert_int_equal(count_op(legal, ZM_OP_RELU) + count_op(legal, ZM_OP_SATURATE), 0);
    zm_ir_free(legal);
    zm_ir_free(ir);
}

/* Regions of folds too; the values stay the same. */
static void test_regions(void **state) {
    (void)state;
    const zm_reduce_text text = {
        .init = "0", .update = "saturate(acc) + square(relu(acc)) + silu(v)", .combine = "a + fmax(b, 0)"};
    static const double x[] = {0.5, -2, 3, 0.25, -0.125};
    zm_ir *ir, *legal;
    zmlx_error error = {0};
    if (zm_lower_reduce(&ir, &text, &error)) fail_msg("%s", error.message);
    assert_int_equal(zm_ir_legalize(&legal, ir, NULL, &error), ZMLX_OK);
    assert_int_equal(count_op(legal, ZM_OP_FOLD), 1);
    for (int i = 0; i < legal->n_folds; i++) {
        assert_no_definitions(legal->folds[i].update.values, legal->folds[i].update.n_values);
        assert_no_definitions(legal->folds[i].combine.values, legal->folds[i].combine.n_values);
        assert_true(legal->folds[i].combine.n_values > 0);
    }
    assert_no_definitions(legal->values, legal->n_values);
    double expected = 0, y[2];
    for (int i = 0; i < COUNT(x); i++)
        expected = fmin(fmax(expected, 0), 1) + pow(fmax(expected, 0), 2) + x[i] / (1 + exp(-x[i]));
    evaluate(ir, 1, COUNT(x), (const double *[]){x}, (double *[]){&y[0]});
    evaluate(legal, 1, COUNT(x), (const double *[]){x}, (double *[]){&y[1]});
    assert_true(is_near(y[0], expected, 1e-13) && is_near(y[1], expected, 1e-13));
    zm_ir_free(legal);
    zm_ir_free(ir);
}

/* The cheaper definitions of compositions, wherever the composition has a value, and without the operations. */
static void test_compositions(void **state) {
    (void)state;
    zm_ir *ir = made_formula("tanh(log(a))", NULL), *legal;
    assert_int_equal(zm_ir_legalize(&legal, ir, NULL, NULL), ZMLX_OK);
    assert_int_equal(count_op(legal, ZM_OP_TANH) + count_op(legal, ZM_OP_LOG), 0);
    for (int i = 0; i < COUNT(grid); i++)
        assert_true(is_near(value_at(legal, grid[i], 0, 0), tanh(log(grid[i])), 1e-14));
    for (double a = 1e-20; a < 1e20; a *= 1.37)
        assert_true(is_near(value_at(legal, a, 0, 0), tanh(log(a)), 1e-14));
    zm_ir_free(legal);
    zm_ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_definitions),
        cmocka_unit_test(test_spelling_kept),
        cmocka_unit_test(test_regions),
        cmocka_unit_test(test_compositions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
