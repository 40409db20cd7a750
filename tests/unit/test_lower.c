/* SPDX-License-Identifier: MIT */
/* Expressions, names and maps, with the C compiler and libm as oracle. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lower_testing.h"

/* The text, and the same in C. Numbers in the texts are exact in float32. */
#define FORMULAS(F)                                                                                            \
    F("a + b * c - 2", a + b *c - 2)                                                                           \
    F("(a - b) / (c + 8)", (a - b) / (c + 8))                                                                  \
    F("-a - -b", -a - -b)                                                                                      \
    F("1/2 + 0x10", 16.5)                                                                                      \
    F("(T)a * T(b) + static_cast<float>(c)", a *b + c)                                                         \
    F("a < b", a < b)                                                                                          \
    F("(a > b) + 2 * (a >= b) + 4 * (a <= b)", (a > b) + 2 * (a >= b) + 4 * (a <= b))                          \
    F("(a == b) - (a != c)", (a == b) - (a != c))                                                              \
    F("a && b", a != 0 && b != 0)                                                                              \
    F("a > 0 || b > 0 && !(c > 0)", a > 0 || (b > 0 && !(c > 0)))                                              \
    F("!a + !!b", (a == 0) + (b != 0))                                                                         \
    F("a ? b : c", a != 0 ? b : c)                                                                             \
    F("a > b ? a > c ? a : c : b > c ? b : c", fmax(a, fmax(b, c)))                                            \
    F("(a > b ? a < c : b < c) * 3", (a > b ? a < c : b < c) * 3)                                              \
    F("(a < b) == (b < c)", (a < b) == (b < c))                                                                \
    F("(a < b) < c", (a < b) < c)                                                                              \
    F("select(a, b, c)", c != 0 ? b : a)                                                                       \
    F("select(a, b, a < b)", a < b ? b : a)                                                                    \
    F("select(2, 3, c) + a", (c != 0 ? 3 : 2) + a)                                                             \
    F("exp(a) + metal::log(fabs(b) + 1)", exp(a) + log(fabs(b) + 1))                                           \
    F("metal::precise::atan2(a, b) + std::hypot_(b, c)", atan2(a, b) + sqrt(b * b + c * c))                    \
    F("fma(a, b, c) + pow(abs(a) + 1, b)", fma(a, b, c) + pow(fabs(a) + 1, b))                                 \
    F("kk_sigmoid(a) - kk_silu(b)", 1 / (1 + exp(-a)) - b / (1 + exp(-b)))                                     \
    F("isnan(a / (b - b)) + isinf(a) + isfinite(c)", isnan(a / (b - b)) + 1)                                   \
    F("min(a, b) + max(b, c) + clamp(a, -1, 1)", fmin(a, b) + fmax(b, c) + fmin(fmax(a, -1), 1))               \
    F("T s = a * b; s = s + 1; return s * s;", (a * b + 1) * (a * b + 1))                                      \
    F("a = a + 1; b = a * b; a * b", (a + 1) * ((a + 1) * b))                                                  \
    F("auto m = a > b; m ? c : m + 1", a > b ? c : 1)                                                          \
    F("twice(a) + swap(b, c)", 2 * a + (c - b))                                                                \
    F("cos(a) + cbrt(b)", 7 + cbrt(b))                                                                         \
    F("true + false + M_PI_F * 0 + (NAN == NAN)", 1)                                                           \
    F("INFINITY > a ? a : NAN", a)

static const char header[] = "#include <metal_stdlib>\n"
                             "using namespace metal;\n"
                             "template <typename T> inline T twice(T a) { return a + a; }\n"
                             "float swap(float x, float y) { float d = minus(y, x); return d; }\n"
                             "float minus(float a, float b) { return a - b; }\n"
                             "float hypot_(float p, float q) { return sqrt(p * p + q * q); }\n"
                             "float cos(float a) { return 7; }\n";

#define F(text, expression) text,
static const char *const texts[] = {FORMULAS(F)};
#undef F

static double oracle(int number, double a, double b, double c) {
    double values[] = {
#define F(text, expression) (double)(expression),
        FORMULAS(F)
#undef F
    };
    return values[number];
}

static void test_expressions(void **state) {
    (void)state;
    static const double points[] = {-3, -1.25, -1, 0, 0.5, 1, 2.75};
    for (int i = 0; i < COUNT(texts); i++) {
        zm_ir *ir = made_formula(texts[i], header);
        for (int p = 0; p < COUNT(points) * COUNT(points) * COUNT(points); p++) {
            double a = points[p % COUNT(points)], b = points[p / COUNT(points) % COUNT(points)];
            double c = points[p / COUNT(points) / COUNT(points)];
            double got = value_at(ir, a, b, c), expected = oracle(i, a, b, c);
            if (!is_near(got, expected, 1e-13))
                fail_msg("%s at %g, %g, %g: %.17g, not %.17g", texts[i], a, b, c, got, expected);
        }
        zm_ir_free(ir);
    }
}

/* A comparison with NaN, and conditions that are NaN, are as in C. */
static void test_nan(void **state) {
    (void)state;
    static const struct {
        const char *text;
        double expected;
    } cases[] = {{"a < b", 0}, {"a >= b", 0}, {"a != a", 1}, {"!(a > b)", 1}, {"a ? 5 : 6", 5}, {"!a", 0}};
    for (int i = 0; i < COUNT(cases); i++) {
        zm_ir *ir = made_formula(cases[i].text, NULL);
        assert_true(value_at(ir, NAN, 1, 1) == cases[i].expected);
        zm_ir_free(ir);
    }
}

typedef struct refusal {
    const char *text, *message; /* a part of it */
    int column;
} refusal;

static void test_refusals(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"a + foo", "unknown name `foo`; there are a, b, c, D", 5},
        {"alpha = a; a + alhpa", "did you mean alpha?", 16},
        {"a * sigmod(b)", "unknown function `sigmod`", 5},
        {"a * sigmod(b)", "did you mean sigmoid?", 5},
        {"a * row_maxx(b)", "did you mean row_max?", 5},
        {"exp", "`exp` is a function", 1},
        {"1 + a(b)", "`a` is a value, not a function", 5},
        {"a + exp(a, b)", "exp takes 1 argument, got 2", 5},
        {"atan2(a)", "atan2 takes 2 arguments, got 1", 1},
        {"select(a, b)", "select takes 3 arguments, got 2", 1},
        {"column(a)", "column takes 0 arguments, got 1", 1},
        {"twice(a, b)", "twice takes 1 argument, got 2", 1},
        {"random(a)", "random takes the name of a seed", 8},
        {"random(1)", "random takes the name of a seed", 8},
        {"row_gather(a + 1, 0)", "row_gather takes the name of an input", 12},
        {"row_gather(foo, 0)", "row_gather takes the name of an input", 12},
        {"T a = 1; a", "`a` is an input", 3},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        static const char *const names[] = {"a", "b", "c"};
        const zm_map_text text = {.outputs = &cases[i].text, .n_outputs = 1, .input_names = names, .n_inputs = 3,
                                  .header = header};
        zm_ir *ir;
        zmlx_error error = {0};
        assert_int_equal(zm_lower_map(&ir, &text, &error), ZMLX_ERROR_FORMAT);
        assert_null(ir);
        assert_string_equal(error.where, "expr");
        assert_contains(error.message, cases[i].message);
        if (error.column != cases[i].column) fail_msg("%s: column %d", cases[i].text, error.column);
        assert_int_equal(zm_lower_map(&ir, &text, NULL), ZMLX_ERROR_FORMAT);
    }
}

static void test_headers_refused(void **state) {
    (void)state;
    static const refusal cases[] = {
        {"float f(float x) { return f(x); }", "f calls itself", 27},
        {"float f(float x) { return g(x); } float g(float x) { return f(x) + 1; }", "calls itself", 61},
        {"float f(float x) { return x * a; }", "unknown name `a`; there are x, D", 31},
        {"float f(float x) { float s = y; return s; }", "unknown name `y`", 30},
        {"float f(float x) { return expp(x); }", "did you mean exp?", 27},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        const char *expression = "a";
        const zm_map_text text = {.outputs = &expression, .n_outputs = 1, .header = cases[i].text};
        zm_ir *ir;
        zmlx_error error = {0};
        assert_int_equal(zm_lower_map(&ir, &text, &error), ZMLX_ERROR_FORMAT);
        assert_string_equal(error.where, "header");
        assert_contains(error.message, cases[i].message);
        assert_int_equal(error.column, cases[i].column);
    }
}

/* n functions, each calling the one before twice: one text stands for 2^n operations. */
static void test_explosion(void **state) {
    (void)state;
    for (int keeps_all = 0; keeps_all < 2; keeps_all++) {
        zm_text functions = {0};
        zm_text_append_string(&functions, "float f0(float a) { return a; }\n");
        for (int n = 1; n < 60; n++) {
            if (keeps_all)
                zm_text_printf(&functions, "T f%d(T a) { return f%d(a) + f%d(a); }\n", n, n - 1, n - 1);
            else
                zm_text_printf(&functions, "T f%d(T a) { T b = f%d(a); return f%d(a); }\n", n, n - 1, n - 1);
        }
        const char *expression = "f59(x)";
        const zm_map_text text = {.outputs = &expression, .n_outputs = 1, .header = zm_text_string(&functions)};
        zm_ir *ir;
        zmlx_error error = {0};
        assert_true(zm_lower_map(&ir, &text, &error) != ZMLX_OK);
        assert_contains(error.message, "more than");
        zm_text_free(&functions);
    }
}

/* Functions that call one another, each negating `depth` times: lowered, or refused before the stack ends. */
static zmlx_status lower_chain(zm_ir **ir, int depth, zmlx_error *error) {
    zm_text functions = {0};
    zm_text_append_string(&functions, "float f0(float a) { return a; }\n");
    for (int n = 1; n < 150; n++) {
        zm_text_printf(&functions, "T f%d(T a) { return ", n);
        for (int i = 0; i < depth; i++) zm_text_append_string(&functions, "-(");
        zm_text_printf(&functions, "f%d(a)", n - 1);
        for (int i = 0; i < depth; i++) zm_text_append_string(&functions, ")");
        zm_text_append_string(&functions, "; }\n");
    }
    const char *expression = "f149(x) * 4";
    zmlx_status status = zm_lower_map(
        ir, &(zm_map_text){.outputs = &expression, .n_outputs = 1, .header = zm_text_string(&functions)}, error);
    zm_text_free(&functions);
    return status;
}

static void test_deep_calls(void **state) {
    (void)state;
    zm_ir *ir;
    zmlx_error error = {0};
    if (lower_chain(&ir, 2, &error)) fail_msg("%s", error.message);
    double x = 3, y;
    evaluate(ir, 1, 1, (const double *[]){&x}, (double *[]){&y});
    assert_true(y == 12);
    zm_ir_free(ir);
    assert_int_equal(lower_chain(&ir, 90, &error), ZMLX_ERROR_FORMAT);
    assert_contains(error.message, "nested more than");
}

/* Formulas see their bindings only, and a comparison is a number. */
static void test_formula(void **state) {
    (void)state;
    zmlx_error error = {0};
    zm_ir *ir = zm_ir_new("formula");
    zm_id x = zm_ir_load(ir, zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT)), result;
    const zm_binding bindings[] = {{"a", x}, {"g", zm_ir_apply(ir, ZM_OP_LESS, x, x, -1)}};
    assert_int_equal(zm_lower_formula(&result, ir, "a > 1", bindings, 2, &error), ZMLX_OK);
    assert_int_equal(ir->values[result].type, ZM_TYPE_FLOAT);
    assert_int_equal(zm_lower_formula(&result, ir, "g ? a : 0", bindings, 2, &error), ZMLX_OK);
    assert_int_equal(ir->values[result].op, ZM_OP_SELECT);
    assert_int_equal(zm_lower_formula(&result, ir, "x", bindings, 2, &error), ZMLX_ERROR_FORMAT);
    assert_contains(error.message, "there are a, g, D");
    zm_ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_expressions), cmocka_unit_test(test_nan),
        cmocka_unit_test(test_refusals),    cmocka_unit_test(test_headers_refused),
        cmocka_unit_test(test_explosion),   cmocka_unit_test(test_deep_calls),
        cmocka_unit_test(test_formula),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
