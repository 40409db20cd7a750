/* SPDX-License-Identifier: MIT */
/* Every derivative of ops.def: against differences of the float64 formula on ordinary points, and in float32 against
 * hand-written derivatives on points where a careless form overflows, cancels or meets an infinity. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>

#include "ir/lower.h"

enum { MAX_VALUES = 256 };
static const double unit = 0x1p-24;

/* A text of operation op over inputs a, b, c, y, g (in this order), as a kernel. */
static zm_ir *lower_text(zm_op op, const char *text) {
    static const char *const names[] = {"a", "b", "c", "y", "g"};
    zm_ir *ir = zm_ir_new("text");
    assert_non_null(ir);
    zm_binding bindings[5];
    for (int i = 0; i < 5; i++) {
        zm_id load = zm_ir_load(ir, zm_ir_add_input(ir, names[i], ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT));
        if (op == ZM_OP_SELECT && !i) load = zm_ir_apply(ir, ZM_OP_NOT_EQUAL, load, zm_ir_constant(ir, 0), -1);
        bindings[i] = (zm_binding){names[i], load};
    }
    zmlx_error error;
    zm_id result;
    if (zm_lower_formula(&result, ir, text, bindings, 5, &error)) fail_msg("%s: %s", text, error.message);
    zm_ir_add_output(ir, "d", result, ZM_LEVEL_ELEMENT);
    assert_int_equal(ir->failure.code, ZMLX_OK);
    assert_true(ir->n_values <= MAX_VALUES);
    return ir;
}

/* Point-wise, in float64 or with every result rounded to float32. */
static double evaluate(const zm_ir *ir, const double inputs[5], bool single) {
    double values[MAX_VALUES];
    for (int i = 0; i < ir->n_values; i++) {
        const zm_value *value = &ir->values[i];
        double operands[3] = {0};
        for (int k = 0; k < 3; k++)
            if (value->operands[k] >= 0) operands[k] = values[value->operands[k]];
        if (value->op == ZM_OP_CONSTANT)
            values[i] = value->number;
        else if (value->op == ZM_OP_LOAD)
            values[i] = inputs[value->index];
        else
            values[i] = zm_op_evaluate(value->op, operands[0], operands[1], operands[2]);
        if (single) values[i] = (float)values[i];
    }
    return values[ir->outputs[0].value];
}

static double at_shift(zm_op op, const double x[3], int operand, double shift) {
    double moved[3] = {x[0], x[1], x[2]};
    moved[operand] += shift;
    return zm_op_evaluate(op, moved[0], moved[1], moved[2]);
}

enum { FIRST_STEP = -7 /* exponent of 2 */ };

/* fmod jumps where the quotient becomes another whole number. */
static bool is_smooth(zm_op op, const double x[3]) {
    double step = ldexp(1, FIRST_STEP), q = trunc(x[0] / x[1]);
    return op != ZM_OP_FMOD || (trunc((x[0] - step) / x[1]) == q && trunc((x[0] + step) / x[1]) == q &&
                                trunc(x[0] / (x[1] - step)) == q && trunc(x[0] / (x[1] + step)) == q);
}

/* Central differences, extrapolated to step 0 (Richardson); NaN where the formula is not finite around x. */
static double difference(zm_op op, const double x[3], int operand) {
    double table[4];
    if (!is_smooth(op, x)) return NAN;
    for (int k = 0; k < 4; k++) {
        double step = ldexp(1, FIRST_STEP - k);
        double above = at_shift(op, x, operand, step), below = at_shift(op, x, operand, -step);
        table[k] = isfinite(above) && isfinite(below) ? (above - below) / (2 * step) : NAN;
    }
    for (int order = 1; order < 4; order++)
        for (int k = 3; k >= order; k--) table[k] += (table[k] - table[k - 1]) / (ldexp(1, 2 * order) - 1);
    return table[3];
}

/* Away from every kink: no whole or half numbers, no equal operands, no whole quotients. */
static const double ordinary[3][11] = {
    {-2.71, -1.32, -0.56, -0.31, 0.171, 0.42, 0.73, 1.13, 1.64, 2.93, 5.36},
    {-3.17, -1.79, -0.83, -0.37, 0.093, 0.28, 0.61, 1.21, 1.87, 2.21, 7.13},
    {-2.23, -1.09, -0.67, -0.23, 0.131, 0.34, 0.89, 1.41, 2.57, 3.31, 6.19},
};

typedef struct report {
    int points, wrong;
    char first[200]; /* of the wrong ones */
} report;

static void count(report *found, zm_op op, int operand, const double x[3], double got, double expected, bool right) {
    found->points++;
    if (!right && !found->wrong++)
        snprintf(found->first, sizeof found->first, "%s by operand %d at %g %g %g: %.10g, not %.10g",
                 zm_op_get(op)->name, operand, x[0], x[1], x[2], got, expected);
}

static void expect_right(const report *found, zm_op op, int least) {
    if (found->points < least) fail_msg("%s: %d points are too few", zm_op_get(op)->name, found->points);
    if (found->wrong) fail_msg("%d of %d points wrong; %s", found->wrong, found->points, found->first);
}

/* How often `text` is not the derivative of op by the operand. */
static report check_differences(zm_op op, int operand, const char *text) {
    int arity = zm_op_get(op)->arity;
    zm_ir *ir = lower_text(op, text[0] ? text : "0");
    report found = {0};
    for (int i = 0; i < 11; i++)
        for (int j = 0; j < (arity > 1 ? 11 : 1); j++)
            for (int k = 0; k < (arity > 2 ? 11 : 1); k++) {
                const double x[3] = {ordinary[0][i], ordinary[1][j], ordinary[2][k]};
                double expected = -1.75 * difference(op, x, operand);
                if (isnan(expected)) continue;
                double y = zm_op_evaluate(op, x[0], x[1], x[2]);
                double got = evaluate(ir, (double[]){x[0], x[1], x[2], y, -1.75}, false);
                /* 2e-7: the texts' constants are float32 */
                bool right = fabs(got - expected) <= 2e-7 * (fabs(expected) + fabs(y) + 1e-3);
                count(&found, op, operand, x, got, expected, right);
            }
    zm_ir_free(ir);
    return found;
}

static void test_differences(void **state) {
    (void)state;
    for (zm_op op = 0; op < ZM_OP_COUNT; op++) {
        const zm_op_info *info = zm_op_get(op);
        if (info->rule != ZM_RULE_FLOAT && info->rule != ZM_RULE_SELECT) continue;
        for (int i = info->rule == ZM_RULE_SELECT; i < info->arity; i++) {
            assert_non_null(info->vjp[i]);
            report found = check_differences(op, i, info->vjp[i]);
            expect_right(&found, op, 4);
        }
        for (int i = info->arity; i < 3; i++) assert_string_equal(info->vjp[i], "");
    }
}

/* What gives no float, or takes none, has no slope. */
static void test_without_slope(void **state) {
    (void)state;
    for (zm_op op = 0; op < ZM_OP_COUNT; op++) {
        const zm_op_info *info = zm_op_get(op);
        bool flat = info->rule == ZM_RULE_COMPARE || info->rule == ZM_RULE_TEST || info->rule == ZM_RULE_LOGIC ||
                    info->rule == ZM_RULE_CONVERT || op == ZM_OP_ROW_ARGMAX;
        for (int i = 0; flat && i < 3; i++) assert_string_equal(info->vjp[i], "");
    }
}

/* Derivatives by hand, in other forms than ops.def's; NaN where there is none. Floats' squares and cubes fit. */
static double logistic(double a) { return a < 0 ? exp(a) / (1 + exp(a)) : 1 / (1 + exp(-a)); }
static double slope_abs(double a, double b) { (void)b; return (a > 0) - (a < 0); }
static double slope_sqrt(double a, double b) { (void)b; return a >= 0 ? 0.5 * pow(a, -0.5) : NAN; }
static double slope_rsqrt(double a, double b) { (void)b; return a > 0 ? -0.5 * pow(a, -1.5) : NAN; }
static double slope_cbrt(double a, double b) { (void)b; return pow(fabs(a), -2.0 / 3) / 3; }
static double slope_exp(double a, double b) { (void)b; return exp(a); }
static double slope_exp2(double a, double b) { (void)b; return log(2) * exp2(a); }
static double slope_exp10(double a, double b) { (void)b; return log(10) * pow(10, a); }
static double slope_log(double a, double b) { (void)b; return a > 0 ? 1 / a : NAN; }
static double slope_log2(double a, double b) { (void)b; return a > 0 ? 1 / (a * log(2)) : NAN; }
static double slope_log10(double a, double b) { (void)b; return a > 0 ? 1 / (a * log(10)) : NAN; }
static double slope_log1p(double a, double b) { (void)b; return a > -1 ? 1 / (a + 1) : NAN; }
static double slope_sin(double a, double b) { (void)b; return cos(a); }
static double slope_cos(double a, double b) { (void)b; return -sin(a); }
static double slope_tan(double a, double b) { (void)b; return pow(cos(a), -2); }
static double slope_asin(double a, double b) { (void)b; return 1 / sqrt(1 - a * a); }
static double slope_acos(double a, double b) { (void)b; return -1 / sqrt(1 - a * a); }
static double slope_atan(double a, double b) { (void)b; return pow(hypot(1, a), -2); }
static double slope_sinh(double a, double b) { (void)b; return cosh(a); }
static double slope_cosh(double a, double b) { (void)b; return sinh(a); }
static double slope_tanh(double a, double b) { (void)b; return pow(cosh(a), -2); }
static double slope_asinh(double a, double b) { (void)b; return 1 / hypot(1, a); }
static double slope_acosh(double a, double b) { (void)b; return a > 1 ? 1 / sqrt(a * a - 1) : NAN; }
static double slope_atanh(double a, double b) { (void)b; return fabs(a) < 1 ? 1 / (1 - a * a) : NAN; }
static double slope_erf(double a, double b) { (void)b; return 2 / sqrt(acos(-1)) * exp(-(a * a)); }
static double slope_erfc(double a, double b) { return -slope_erf(a, b); }
static double slope_sigmoid(double a, double b) { (void)b; return logistic(a) * logistic(-a); }
static double slope_softplus(double a, double b) { (void)b; return logistic(a); }
static double slope_log_sigmoid(double a, double b) { (void)b; return logistic(-a); }
static double slope_relu(double a, double b) { (void)b; return a > 0; }

/* The derivative of a * logistic(t(a)) with the slope s of t; 0 and 1 are reached long before t overflows. */
static double slope_gated(double a, double t, double s) {
    if (fabs(t) > 1e5) return t > 0;
    return logistic(t) + a * s * logistic(t) * logistic(-t);
}
static double slope_silu(double a, double b) { (void)b; return slope_gated(a, a, 1); }
static double slope_gelu_tanh(double a, double b) {
    (void)b;
    const double k = 2 * sqrt(2 / acos(-1));
    return slope_gated(a, k * (a + 0.044715 * a * a * a), k * (1 + 3 * 0.044715 * a * a));
}
static double slope_gelu(double a, double b) {
    (void)b;
    if (fabs(a) > 1e5) return a > 0;
    return 0.5 * erfc(-a / sqrt(2)) + a * exp(-a * a / 2) / sqrt(2 * acos(-1));
}
static double slope_divide_a(double a, double b) { return isinf(a) || b == 0 ? NAN : 1 / b; }
static double slope_divide_b(double a, double b) { /* where both 1 / b and the quotient are finite */
    return isinf(a) || isinf((float)(1 / b)) || isinf((float)(a / b)) ? NAN : -a / (b * b);
}
static double slope_atan2_a(double a, double b) {
    if (isinf(a) || isinf(b)) return 0;
    return a == 0 && b == 0 ? NAN : b / (a * a + b * b);
}
static double slope_atan2_b(double a, double b) {
    if (isinf(a) || isinf(b)) return 0;
    return a == 0 && b == 0 ? NAN : -a / (a * a + b * b);
}
/* 0.5 and 100 are among the exponents, whole ones too; infinite powers of numbers other than 1 are limits. */
static double slope_pow_a(double a, double b) {
    if (b == 0) return 0;
    if (a < 0 || (isinf(b) && a == 1) || (a > 0 && isfinite(a) && pow(a, b - 1) > FLT_MAX)) return NAN;
    return isinf(b) && pow(a, b) == 0 ? 0 : b * pow(a, b - 1);
}
static double slope_pow_b(double a, double b) {
    if (a < 0 || (isinf(b) && a == 1)) return NAN;
    return pow(a, b) == 0 || (a == 0 && b == 0) ? 0 : pow(a, b) * log(a);
}
static double slope_fmod_b(double a, double b) {
    return !isfinite(a) || b == 0 || fabs(a / b) > 1e6 ? NAN : isinf(b) ? 0 : -trunc(a / b);
}

typedef enum looseness { TIGHT, SUM /* of terms near 1 */, TAIL /* of an exponential */ } looseness;
typedef struct slope {
    zm_op op;
    int operand;
    double (*value)(double a, double b);
    looseness looseness;
} slope;
static const slope slopes[] = {
    {ZM_OP_ABS, 0, slope_abs, TIGHT},
    {ZM_OP_SQRT, 0, slope_sqrt, TIGHT},
    {ZM_OP_RSQRT, 0, slope_rsqrt, TIGHT},
    {ZM_OP_CBRT, 0, slope_cbrt, TIGHT},
    {ZM_OP_EXP, 0, slope_exp, TIGHT},
    {ZM_OP_EXP2, 0, slope_exp2, TIGHT},
    {ZM_OP_EXP10, 0, slope_exp10, TIGHT},
    {ZM_OP_EXPM1, 0, slope_exp, TIGHT},
    {ZM_OP_LOG, 0, slope_log, TIGHT},
    {ZM_OP_LOG2, 0, slope_log2, TIGHT},
    {ZM_OP_LOG10, 0, slope_log10, TIGHT},
    {ZM_OP_LOG1P, 0, slope_log1p, TIGHT},
    {ZM_OP_SIN, 0, slope_sin, TIGHT},
    {ZM_OP_COS, 0, slope_cos, TIGHT},
    {ZM_OP_TAN, 0, slope_tan, TIGHT},
    {ZM_OP_ASIN, 0, slope_asin, TIGHT},
    {ZM_OP_ACOS, 0, slope_acos, TIGHT},
    {ZM_OP_ATAN, 0, slope_atan, TIGHT},
    {ZM_OP_SINH, 0, slope_sinh, TIGHT},
    {ZM_OP_COSH, 0, slope_cosh, TIGHT},
    {ZM_OP_TANH, 0, slope_tanh, SUM},
    {ZM_OP_ASINH, 0, slope_asinh, TIGHT},
    {ZM_OP_ACOSH, 0, slope_acosh, TIGHT},
    {ZM_OP_ATANH, 0, slope_atanh, TIGHT},
    {ZM_OP_ERF, 0, slope_erf, TAIL},
    {ZM_OP_ERFC, 0, slope_erfc, TAIL},
    {ZM_OP_SIGMOID, 0, slope_sigmoid, TIGHT},
    {ZM_OP_MLX_SIGMOID, 0, slope_sigmoid, TIGHT},
    {ZM_OP_STORED_SIGMOID, 0, slope_sigmoid, TIGHT},
    {ZM_OP_SILU, 0, slope_silu, SUM},
    {ZM_OP_GELU_TANH, 0, slope_gelu_tanh, SUM},
    {ZM_OP_STORED_GELU_TANH, 0, slope_gelu_tanh, SUM},
    {ZM_OP_GELU, 0, slope_gelu, SUM},
    {ZM_OP_LOG_SIGMOID, 0, slope_log_sigmoid, TIGHT},
    {ZM_OP_SOFTPLUS, 0, slope_softplus, TIGHT},
    {ZM_OP_RELU, 0, slope_relu, TIGHT},
    {ZM_OP_DIVIDE, 0, slope_divide_a, TIGHT},
    {ZM_OP_DIVIDE, 1, slope_divide_b, TIGHT},
    {ZM_OP_ATAN2, 0, slope_atan2_a, TIGHT},
    {ZM_OP_ATAN2, 1, slope_atan2_b, TIGHT},
    {ZM_OP_POW, 0, slope_pow_a, TAIL},
    {ZM_OP_POW, 1, slope_pow_b, TAIL},
    {ZM_OP_POWR, 0, slope_pow_a, TAIL},
    {ZM_OP_POWR, 1, slope_pow_b, TAIL},
    {ZM_OP_FMOD, 1, slope_fmod_b, TIGHT},
};

/* Class E for gradients: 4 * (16 + 4 * tail) units, 16 units of the largest term; a subnormal may be flushed. */
static bool is_near(double got, double expected, looseness kind) {
    if (isnan(got)) return false;
    if (fabs(expected) > FLT_MAX / 4) return got == expected || fabs(got) > FLT_MAX / 8;
    double tail = kind == TAIL && expected != 0 ? fmin(fabs(log(fabs(expected))), 104) : 0;
    double bound = 4 * (16 + 4 * tail) * unit * fabs(expected) + (kind == SUM ? 16 * unit : 0);
    return fabs(got - expected) <= bound + 4 * FLT_MIN;
}

static report check_hostile(const slope *row, const char *text) {
    static const double magnitudes[] = {0,  1e-45, 1e-38, 1e-30, 1e-10, 1e-4, 0.5,  0.999, 1,    1.5, 3,   9,
                                        11, 13,    20,    100,   1e3,   1e5,  1e10, 1e20,  1e30, 3e38, INFINITY};
    enum { N = sizeof magnitudes / sizeof *magnitudes };
    zm_ir *ir = lower_text(row->op, text);
    report found = {0};
    for (int i = 0; i < 2 * N; i++)
        for (int j = 0; j < (zm_op_get(row->op)->arity > 1 ? 2 * N : 1); j++) {
            float a = (float)(i & 1 ? -magnitudes[i / 2] : magnitudes[i / 2]);
            float b = (float)(j & 1 ? -magnitudes[j / 2] : magnitudes[j / 2]);
            double expected = -1.75 * row->value(a, b);
            if (isnan(expected)) continue;
            double y = (float)zm_op_evaluate(row->op, a, b, 0);
            double got = evaluate(ir, (double[]){a, b, 0, y, -1.75}, true);
            count(&found, row->op, row->operand, (double[]){a, b, 0}, got, expected,
                  is_near(got, expected, row->looseness));
        }
    zm_ir_free(ir);
    return found;
}

static void test_hostile(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof slopes / sizeof *slopes; i++) {
        report found = check_hostile(&slopes[i], zm_op_get(slopes[i].op)->vjp[slopes[i].operand]);
        expect_right(&found, slopes[i].op, 10);
    }
}

/* Conventions at kinks: the shares of the operands add up to the cotangent; 0 has no slope. */
static void check_at(zm_op op, double a, double b, double c, const double *expected) {
    double y = zm_op_evaluate(op, a, b, c);
    for (int i = 0; i < zm_op_get(op)->arity; i++) {
        const char *text = zm_op_get(op)->vjp[i];
        zm_ir *ir = lower_text(op, text[0] ? text : "0");
        assert_true(evaluate(ir, (double[]){a, b, c, y, 3}, true) == expected[i]);
        zm_ir_free(ir);
    }
}

static void test_kinks(void **state) {
    (void)state;
    check_at(ZM_OP_RELU, 0, 0, 0, (double[]){0});
    check_at(ZM_OP_RELU, -0.0, 0, 0, (double[]){0});
    check_at(ZM_OP_ABS, 0, 0, 0, (double[]){0});
    check_at(ZM_OP_MAX, 2, 2, 0, (double[]){0, 3});
    check_at(ZM_OP_MIN, 2, 2, 0, (double[]){0, 3});
    check_at(ZM_OP_FMAX, NAN, 2, 0, (double[]){0, 3});
    check_at(ZM_OP_FMAX, 2, NAN, 0, (double[]){3, 0});
    check_at(ZM_OP_FMIN, NAN, 2, 0, (double[]){0, 3});
    check_at(ZM_OP_FMIN, 2, NAN, 0, (double[]){3, 0});
    check_at(ZM_OP_CLAMP, 1, 1, 2, (double[]){0, 3, 0});
    check_at(ZM_OP_CLAMP, 2, 1, 2, (double[]){0, 0, 3});
    check_at(ZM_OP_CLAMP, 0, 5, 2, (double[]){0, 0, 3});
    check_at(ZM_OP_CLAMP, 0, 2, 2, (double[]){0, 0, 3});
    check_at(ZM_OP_SMOOTHSTEP, 1, 2, 0, (double[]){0, 0, 0});
    check_at(ZM_OP_SMOOTHSTEP, 1, 2, INFINITY, (double[]){0, 0, 0});
    check_at(ZM_OP_POW, 0, 1, 0, (double[]){3, 0});
    check_at(ZM_OP_POW, 0, 2, 0, (double[]){0, 0});
}

/* The checks find wrong texts. */
static void test_negative_control(void **state) {
    (void)state;
    assert_true(check_differences(ZM_OP_TANH, 0, "g * (1 - y)").wrong > 0);
    assert_true(check_differences(ZM_OP_SIGMOID, 0, "").wrong > 0);
    assert_true(check_differences(ZM_OP_MIX, 2, "g * (a - b)").wrong > 0);
    assert_true(check_differences(ZM_OP_FLOOR, 0, "g").wrong > 0);
    assert_true(check_differences(ZM_OP_GELU, 0, zm_op_get(ZM_OP_GELU_TANH)->vjp[0]).wrong > 0);
    assert_true(check_hostile(&(slope){ZM_OP_ASINH, 0, slope_asinh, TIGHT}, "g / sqrt(1 + a * a)").wrong > 0);
    assert_true(check_hostile(&(slope){ZM_OP_ATAN2, 0, slope_atan2_a, TIGHT}, "g * b / (a * a + b * b)").wrong > 0);
    assert_true(check_hostile(&(slope){ZM_OP_SILU, 0, slope_silu, SUM}, "g * y").wrong > 0);
    assert_true(check_hostile(&(slope){ZM_OP_SILU, 0, slope_silu, SUM},
                              "g * sigmoid(a) * (1 + a * sigmoid(-a))").wrong > 0); /* 0 * inf */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_differences), cmocka_unit_test(test_without_slope),
        cmocka_unit_test(test_hostile),     cmocka_unit_test(test_kinks),
        cmocka_unit_test(test_negative_control),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
