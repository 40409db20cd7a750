/* SPDX-License-Identifier: MIT */
/* Trees by their print; precedence and numbers with the C compiler as oracle; functions; limits. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <float.h>
#include <locale.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "base/text.h"
#include "expr/expr.h"

/* The compiler's own reading of expressions that nobody would write is the oracle. */
#if defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wparentheses"
#endif
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wfloat-conversion"
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wbool-compare"
#endif

static const zm_body *parse(zm_arena *arena, const char *text) {
    const zm_body *body = NULL;
    zmlx_error error = {0};
    if (zm_body_parse(&body, arena, "expr", text, strlen(text), &error)) fail_msg("%s", error.message);
    return body;
}

static void print_body(zm_text *text, const zm_body *body) {
    for (int i = 0; i < body->n_statements; i++) {
        const zm_statement *statement = &body->statements[i];
        zm_text_printf(text, "%s%s = ", statement->declared ? "T " : "", statement->name);
        zm_expr_print(text, statement->value);
        zm_text_append_string(text, "; ");
    }
    if (body->result) zm_expr_print(text, body->result);
}

static void test_trees(void **state) {
    (void)state;
    static const char *const cases[][2] = {
        {"x", "x"},
        {" ( ( x ) ) ", "x"},
        {"x + y * 2", "(x + (y * 2))"},
        {"a - b - c", "((a - b) - c)"},
        {"a / b * c", "((a / b) * c)"},
        {"a < b ? c : d < e ? f : g", "((a < b) ? c : ((d < e) ? f : g))"},
        {"a ? b ? c : d : e", "(a ? (b ? c : d) : e)"},
        {"- -x + +y", "((-(-x)) + y)"},
        {"!a && b || c == d", "(((!a) && b) || (c == d))"},
        {"f()", "f()"},
        {"f(x, (y), -z)", "f(x, y, (-z))"},
        {"f(a, b, c, d, e, f, g, h)", "f(a, b, c, d, e, f, g, h)"},
        /* Casts, template arguments and prefixes leave no trace. */
        {"(T)x * y", "(x * y)"},
        {"(T)-x", "(-x)"},
        {"-(T)x", "(-x)"},
        {"(T)(x)", "x"},
        {"(O)(float)half(x)", "x"},
        {"(T(x))", "x"},
        {"T(x + 1) * float(y)", "((x + 1) * y)"},
        {"bfloat(a) + bfloat16_t(b) + float16_t(c) + (bfloat16_t)d", "(((a + b) + c) + d)"},
        {"static_cast<T>(x + y) * static_cast < float > (z)", "((x + y) * z)"},
        {"kk_silu<T>(x)", "kk_silu(x)"},
        {"f<T, float>(x)", "f(x)"},
        {"a < T(b)", "(a < b)"},
        {"a < (T)b > c", "((a < b) > c)"},
        {"metal::exp(x) + metal::precise::exp(x) + metal::fast::exp(x)", "((exp(x) + exp(x)) + exp(x))"},
        {"std :: pow(x, metal::max<T>(y, z))", "pow(x, max(y, z))"},
        {"metal(x) + std", "(metal(x) + std)"},
        {"true + false", "(1 + 0)"},
        {"INFINITY - NAN", "(INFINITY - NAN)"},
        {"x /* a * b */ + // c\n y", "(x + y)"},
        {"x\t+\r\n\v\fy", "(x + y)"},
        {"Tx + T_ + floats + iff", "(((Tx + T_) + floats) + iff)"},
        /* Statements. */
        {"y = silu(g) * u", "y = (silu(g) * u); "},
        {"y = x; z = y;", "y = x; z = y; "},
        {"T s = f(x); g * s", "T s = f(x); (g * s)"},
        {"const T s = 1; const float t = 2; auto u = 3; const auto v = 4; half w = s; return w;",
         "T s = 1; T t = 2; T u = 3; T v = 4; T w = s; w"},
        {"T s = x; s = s + 1; s", "T s = x; s = (s + 1); s"},
        {"T(x);", "x"},
        {"return x", "x"},
        {"// only\nx // this", "x"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_arena *arena = zm_arena_new();
        zm_text printed = {0}, again = {0};
        print_body(&printed, parse(arena, cases[i][0]));
        assert_string_equal(printed.data, cases[i][1]);
        print_body(&again, parse(arena, printed.data));
        if (!strstr(printed.data, "T ")) assert_string_equal(again.data, printed.data);
        zm_text_free(&printed);
        zm_text_free(&again);
        zm_arena_free(arena);
    }
}

static void test_places(void **state) {
    (void)state;
    static const char text[] = "T s = (a + b); 2 * metal::exp<T>( x )\n";
    zm_arena *arena = zm_arena_new();
    const zm_body *body = parse(arena, text);
    assert_string_equal(body->text, text);
    assert_int_equal(body->statements[0].column, 3);
    const zm_expr *sum = body->statements[0].value, *product = body->result, *call = product->children[1];
    assert_true(sum->column == 8 && sum->size == 5 && sum->depth == 2);
    assert_true(product->column == 16 && product->size == 22 && product->depth == 3);
    assert_true(call->kind == ZM_EXPR_CALL && call->column == 27 && call->size == 11 && call->n_children == 1);
    assert_true(product->children[0]->column == 16 && product->children[0]->size == 1);
    zm_arena_free(arena);
}

/* Values of the variables of test_precedence, and of what it calls. */
static const double a = 2, b = 3, c = 5, d = -7, e = 0;

static double value_of(const zm_expr *expr) {
    double x[3] = {0};
    for (int i = 0; i < expr->n_children; i++) x[i] = value_of(expr->children[i]);
    switch (expr->kind) {
    case ZM_EXPR_NUMBER: return expr->number;
    case ZM_EXPR_NAME: return (double[]){a, b, c, d, e}[*expr->name - 'a'];
    case ZM_EXPR_CALL: return strcmp(expr->name, "fmax") ? fabs(x[0]) : fmax(x[0], x[1]);
    case ZM_EXPR_UNARY: return expr->operation == '-' ? -x[0] : !x[0];
    case ZM_EXPR_CONDITIONAL: return x[0] != 0 ? x[1] : x[2];
    default: break;
    }
    switch (expr->operation) {
    case '+': return x[0] + x[1];
    case '-': return x[0] - x[1];
    case '*': return x[0] * x[1];
    case '/': return x[0] / x[1];
    case '<': return x[0] < x[1];
    case '>': return x[0] > x[1];
    case ZM_EXPR_LESS_EQUAL: return x[0] <= x[1];
    case ZM_EXPR_GREATER_EQUAL: return x[0] >= x[1];
    case ZM_EXPR_EQUAL: return x[0] == x[1];
    case ZM_EXPR_NOT_EQUAL: return x[0] != x[1];
    case ZM_EXPR_AND: return x[0] != 0 && x[1] != 0;
    default: return x[0] != 0 || x[1] != 0;
    }
}

static void test_precedence(void **state) {
    (void)state;
#define CASE(expression) {#expression, (double)(expression)}
    const struct {
        const char *text;
        double value;
    } cases[] = {
        CASE(a + b * c), CASE(a * b + c), CASE(a - b - c), CASE(a - b + c), CASE(a / b / c), CASE(a / b * c),
        CASE(a - b * c / d - e), CASE(-a * b), CASE(-a - -b), CASE(- - a), CASE(+a - +b), CASE(!a + b),
        CASE(!e * c), CASE(-!e), CASE(!-e), CASE(!!d), CASE(a < b + c), CASE(a + b < c), CASE(a + b > c == e),
        CASE(a < b < c),
        CASE(c > b > a), CASE(c >= b <= a), CASE(a == b < c), CASE(a != b > c), CASE(a < b == b < c),
        CASE(e == a < b), CASE(a == 2 == 1), CASE(a != 2 == 0), CASE(a == a && b != c), CASE(a || b && e),
        CASE(e && a || b), CASE(e || e && a), CASE(a && b == c), CASE(a || e == b), CASE(e && a < b || c > d),
        CASE(!a || b), CASE(!(a || b)), CASE(-a < b), CASE(-(a < b)), CASE(a ? b : c), CASE(e ? b : c),
        CASE(e ? a : e ? b : c), CASE(e ? a : a ? b : c), CASE(a ? e ? b : c : d), CASE(a < b ? b + c : c * d),
        CASE(a || e ? b : c), CASE(a ? b : c + d), CASE((a ? b : c) + d), CASE(a + (e ? b : c) * d),
        CASE(a ? b : c ? d : e), CASE(a == 2 ? b == 3 ? c : d : e), CASE((a + b) * c), CASE(a - (b - c)),
        CASE(a / (b / c)), CASE(-(a + b) * c), CASE((float)a + b), CASE((float)a * (float)-b), CASE(-(float)a / b),
        CASE((float)(a + b) * c), CASE((float)!a), CASE(fabs(d) + a * fmax(b, c)), CASE(-fabs(d - a) * b),
        CASE(fmax(a < b, c ? d : e)), CASE(a * -b), CASE(a - -b), CASE(a < -b), CASE(a / -b * c), CASE(a > !b),
    };
#undef CASE
    zm_arena *arena = zm_arena_new();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        double value = value_of(parse(arena, cases[i].text)->result);
        if (value != cases[i].value) fail_msg("%s: %g, in C %g", cases[i].text, value, cases[i].value);
    }
    zm_arena_free(arena);
}

static double number_of(const char *text) {
    zm_arena *arena = zm_arena_new();
    const zm_expr *result = parse(arena, text)->result;
    assert_true(result->kind == ZM_EXPR_NUMBER);
    double number = result->number;
    zm_arena_free(arena);
    return number;
}

static void test_numbers(void **state) {
    (void)state;
#define CASE(number) assert_true(number_of(#number) == (double)(float)(number))
    CASE(0); CASE(1); CASE(1.); CASE(.5); CASE(00.5); CASE(1e-3); CASE(1E+3f); CASE(0.1); CASE(0.1f); CASE(3.0F);
    CASE(16777217); CASE(0x10); CASE(0XfF); CASE(0x1000001); CASE(42u); CASE(0x1Fu); CASE(1e-50); CASE(1.e2);
    CASE(3.402823466e38f); CASE(1e-45f); CASE(0e9); CASE(M_PI); CASE(M_SQRT1_2); CASE(M_2_SQRTPI); CASE(FLT_MAX);
    CASE(FLT_MIN); CASE(FLT_EPSILON); CASE(M_LOG2E); CASE(M_1_PI); CASE(M_LN10); CASE(M_LOG10E); CASE(M_PI_4);
#undef CASE
    assert_true(number_of("1h") == 1 && number_of("2.5h") == 2.5 && number_of("7f") == 7);
    assert_true(number_of("M_PI_F") == (double)(float)M_PI && number_of("M_SQRT2_F") == (double)(float)M_SQRT2);
    assert_true(number_of("M_E_F") == (double)(float)M_E && number_of("M_LN2_F") == (double)(float)M_LN2);
    assert_true(isinf(number_of("INFINITY")) && isinf(number_of("HUGE_VALF")) && isnan(number_of("NAN")));
    /* Halfway between two float32 by double rounding only. */
    assert_true(number_of("1.00000005960464477540") == 1 + 0x1p-23);
}

/* Any decimal text is the nearest float32, whatever the locale. */
static void test_random_numbers(void **state) {
    (void)state;
    for (uint64_t i = 0; i < 20000; i++) {
        char text[64];
        uint64_t whole = zm_splitmix64(5, 3 * i), fraction = zm_splitmix64(5, 3 * i + 1);
        uint64_t more = zm_splitmix64(5, 3 * i + 2);
        int exponent = (int)(more % 60) - 40;
        snprintf(text, sizeof text, "1%llu.%llue%d", (unsigned long long)(whole >> (more >> 8 & 63)),
                 (unsigned long long)(fraction >> (more >> 16 & 63)), exponent);
        setlocale(LC_NUMERIC, "C");
        float expected = strtof(text, NULL);
        if (isinf(expected)) continue;
        setlocale(LC_NUMERIC, i % 2 ? "C" : "de_DE.UTF-8");
        if (number_of(text) != (double)expected) fail_msg("%s", text);
        zm_text printed = {0};
        zm_expr_print(&printed, &(zm_expr){.kind = ZM_EXPR_NUMBER, .number = (double)expected});
        if (number_of(printed.data) != (double)expected) fail_msg("%s", printed.data);
        zm_text_free(&printed);
    }
    setlocale(LC_NUMERIC, "C");
}

static const char default_header[] =
    "#include <metal_stdlib>\n#include <metal_math>\nusing namespace metal;\n\n"
    "// the logistic function\n"
    "template <typename T>\ninline T kk_sigmoid(T x) {\n"
    "    float xf = float(x);\n    return T(1.0f / (1.0f + metal::exp(-xf)));\n}\n"
    "template <typename T, class O> static inline O kk_silu(const T x) { return x * kk_sigmoid<T>(x); };\n"
    "#define KK_SIMD_REDUCE_SUM(buf, val) \\\n    do { \\\n        buf[0] += val; \\\r\n    } while (0) \\\n\n"
    "/* without parameters */ float third() { return 1.0f / 3; }\n"
    "half weigh(float a, half b) { T c = a; c = c + b; return c; }\n";

static void test_functions(void **state) {
    (void)state;
    zm_arena *arena = zm_arena_new();
    zm_functions functions;
    zmlx_error error = {0};
    zm_text text = {0};
    if (zm_functions_parse(&functions, arena, "header", default_header, strlen(default_header), &error))
        fail_msg("%s", error.message);
    for (int i = 0; i < functions.count; i++) {
        const zm_function *function = &functions.items[i];
        zm_text_printf(&text, "%s(", function->name);
        for (int p = 0; p < function->n_parameters; p++)
            zm_text_printf(&text, "%s%s", p ? ", " : "", function->parameters[p]);
        zm_text_append_string(&text, "): ");
        print_body(&text, function->body);
        zm_text_append_string(&text, "\n");
        assert_memory_equal(default_header + function->column - 1, function->name, strlen(function->name));
    }
    assert_string_equal(text.data, "kk_sigmoid(x): T xf = x; (1 / (1 + exp((-xf))))\n"
                                   "kk_silu(x): (x * kk_sigmoid(x))\n"
                                   "third(): (1 / 3)\n"
                                   "weigh(a, b): T c = a; c = (c + b); c\n");
    zm_text_free(&text);
    static const char *const empty[] = {"", " \n", "// nothing", "using namespace metal;"};
    for (size_t i = 0; i < sizeof empty / sizeof *empty; i++) {
        assert_int_equal(zm_functions_parse(&functions, arena, "header", empty[i], strlen(empty[i]), &error), 0);
        assert_int_equal(functions.count, 0);
    }
    const zm_body *body;
    assert_int_equal(zm_prelude_parse(&body, arena, "prelude", "", 0, &error), 0);
    assert_true(body->n_statements == 0 && !body->result);
    assert_int_equal(zm_prelude_parse(&body, arena, "prelude", "T a = x; b = a", 14, &error), 0);
    assert_true(body->n_statements == 2 && !body->result);
    zm_arena_free(arena);
}

/* Parses `head`, `count` times `middle`, `tail`; NULL or the reason why not. */
static const char *repeat(const char *head, const char *middle, int count, const char *tail, bool is_header) {
    static zmlx_error error;
    zm_arena *arena = zm_arena_new();
    zm_text text = {0}, printed = {0};
    zm_text_append_string(&text, head);
    for (int i = 0; i < count; i++) {
        const char *number = strchr(middle, '#');
        zm_text_append(&text, middle, number ? (size_t)(number - middle) : strlen(middle));
        if (number) zm_text_printf(&text, "%d%s", i, number + 1);
    }
    zm_text_append_string(&text, tail);
    const zm_body *body = NULL;
    zm_functions functions;
    zmlx_status status = is_header
                             ? zm_functions_parse(&functions, arena, "header", text.data, text.size, &error)
                             : zm_body_parse(&body, arena, "expr", text.data, text.size, &error);
    if (body) print_body(&printed, body);
    assert_true(status == ZMLX_OK || (status == ZMLX_ERROR_FORMAT && error.column > 0 && !body));
    zm_text_free(&text);
    zm_text_free(&printed);
    zm_arena_free(arena);
    return status ? error.message : NULL;
}

static char *closing(int count) {
    static char text[1000];
    memset(text, ')', (size_t)count);
    text[count] = '\0';
    return text;
}

static void test_limits(void **state) {
    (void)state;
    static const struct {
        const char *head, *middle;
        int count; /* that is allowed; one more is not */
        bool closes, is_header;
        const char *tail, *reason;
    } cases[] = {
        {"", "(", 200, true, false, "x", "nested more than 200 deep"},
        {"", "f(", 200, true, false, "x", "nested more than 200 deep"},
        {"", "T(", 200, true, false, "x", "nested more than 200 deep"},
        {"", "static_cast<T>(", 200, true, false, "x", "nested more than 200 deep"},
        {"", "(T)", 200, false, false, "x", "nested more than 200 deep"},
        {"", "- ", 200, false, false, "x", "nested more than 200 deep"},
        {"", "+ ", 200, false, false, "x", "nested more than 200 deep"},
        {"", "!", 200, false, false, "x", "nested more than 200 deep"},
        {"", "a ? b : ", 200, false, false, "x", "nested more than 200 deep"},
        {"x", " + x", 999, false, false, "", "more than 1000 operations"},
        {"x", " && x", 999, false, false, "", "more than 1000 operations"},
        {"x", " * x < x", 998, false, false, " * x", "more than 1000 operations"},
        {"f(x", ", x", 7, false, false, ")", "a call has more than 8 arguments"},
        {"", "v# = x;", 1000, false, false, "", "more than 1000 statements"},
        {"", "v# = x;", 999, false, false, "T w = x", "more than 1000 statements"},
        {"x", "x", 63, false, false, "", "a name is longer than 64 bytes"},
        {"1", "0", 121, false, false, "e-200", "a number is longer than 127 bytes"},
        {"float f(float y", ", float x#", 7, false, true, ") { return y; }",
         "function 'f' has more than 8 parameters"},
        {"", "float f#() { return 1; } ", 200, false, true, "", "more than 200 functions"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char tail[2000];
        int count = cases[i].count;
        snprintf(tail, sizeof tail, "%s%s", cases[i].tail, cases[i].closes ? closing(count) : "");
        const char *reason = repeat(cases[i].head, cases[i].middle, count, tail, cases[i].is_header);
        if (reason) fail_msg("%s x %d: %s", cases[i].middle, count, reason);
        for (int more = count + 1; more < 5000; more *= 3) {
            reason = repeat(cases[i].head, cases[i].middle, more, cases[i].tail, cases[i].is_header);
            if (!reason || strncmp(reason, cases[i].reason, strlen(cases[i].reason)))
                fail_msg("%s x %d: %s", cases[i].middle, more, reason ? reason : "accepted");
        }
    }
    assert_null(repeat("x", " ", ZM_EXPR_MAX_BYTES - 1, "", false));
    assert_string_equal(repeat("x", " ", ZM_EXPR_MAX_BYTES, "", false),
                        "the text has 65537 bytes; at most 65536 are allowed");
    assert_non_null(repeat("", "(", ZM_EXPR_MAX_BYTES, "", false));
    assert_non_null(repeat("", "x+", ZM_EXPR_MAX_BYTES / 2, "", false));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_trees),          cmocka_unit_test(test_places),
        cmocka_unit_test(test_precedence),     cmocka_unit_test(test_numbers),
        cmocka_unit_test(test_random_numbers), cmocka_unit_test(test_functions),
        cmocka_unit_test(test_limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
