/* SPDX-License-Identifier: MIT */
/* Every refusal: its reason, its column and the bytes it marks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "expr/expr.h"

typedef enum text_role { BODY, PRELUDE, HEADER } text_role;

static zmlx_status parse(text_role role, const char *text, size_t size, zmlx_error *error) {
    zm_arena *arena = zm_arena_new();
    const zm_body *body = NULL;
    zm_functions functions = {0};
    static const char what[] = "pass1.update";
    zmlx_status status = role == BODY      ? zm_body_parse(&body, arena, what, text, size, error)
                         : role == PRELUDE ? zm_prelude_parse(&body, arena, what, text, size, error)
                                           : zm_functions_parse(&functions, arena, what, text, size, error);
    if (status) assert_true(!body && !functions.items && !functions.count);
    zm_arena_free(arena);
    return status;
}

/* A text with the bytes marked that its message marks, and the reason. */
typedef struct refusal {
    const char *marked, *reason;
} refusal;

static void check(text_role role, const refusal *refusals, size_t count) {
    for (size_t i = 0; i < count; i++) {
        const char *marked = refusals[i].marked, *begin = strstr(marked, ">>>"), *end = strstr(marked, "<<<");
        char text[256], expected[512];
        assert_true(begin && end);
        snprintf(text, sizeof text, "%.*s%.*s%s", (int)(begin - marked), marked, (int)(end - begin - 3), begin + 3,
                 end + 3);
        snprintf(expected, sizeof expected, "%s; at column %d: `%s`", refusals[i].reason, (int)(begin - marked) + 1,
                 marked);
        zmlx_error error = {0};
        if (parse(role, text, strlen(text), &error) != ZMLX_ERROR_FORMAT) fail_msg("accepted: %s", text);
        assert_string_equal(error.message, expected);
        assert_int_equal(error.column, begin - marked + 1);
        assert_string_equal(error.where, "pass1.update");
        assert_int_equal(error.code, ZMLX_ERROR_FORMAT);
        assert_int_equal(parse(role, text, strlen(text), NULL), ZMLX_ERROR_FORMAT);
    }
}
#define CHECK(role, refusals) check(role, refusals, sizeof refusals / sizeof *refusals)

static void test_values(void **state) {
    (void)state;
    static const char call[] = "'(' after a value: only functions by their names are called; a product needs '*'";
    static const char number[] = "malformed number; a suffix is f, F or h, and u after an integer";
    static const char prefix[] = "the prefixes are metal::, metal::precise::, metal::fast:: and std::";
    static const char limits[] = "numeric_limits is not supported; use INFINITY, FLT_MAX, FLT_MIN or FLT_EPSILON";
    static const refusal refusals[] = {
        {">>><<<", "the expression is empty"},
        {"   // x>>><<<", "the expression is empty"},
        {"x +>>><<<", "expected a value, found the end"},
        {"x + >>>)<<<", "expected a value, found ')'"},
        {"(>>>)<<<", "expected a value, found ')'"},
        {"(x>>><<<", "expected ')' or an operator, found the end"},
        {"x>>>)<<<", "')' without '('"},
        {"f(x>>><<<", "expected ')' or ',' or an operator, found the end"},
        {"f(x,>>>)<<<", "expected a value, found ')'"},
        {"f(x >>>y<<<)", "expected ')' or ',' or an operator, found 'y'"},
        {"x >>>y<<<", "expected an operator or the end, found 'y'"},
        {"x >>>3.5<<<", "expected an operator or the end, found '3.5'"},
        {"x>>>,<<< y", "expected an operator or the end, found ','; there is no comma operator"},
        {"(x>>>,<<< y)", "expected ')' or an operator, found ','; there is no comma operator"},
        {"a ? b>>><<<", "expected ':' of a conditional or an operator, found the end"},
        {"a >>>:<<< b", "expected an operator or the end, found ':'"},
        {"(x)>>>(<<<y)", call},
        {"2>>>(<<<x)", call},
        {"f(x)>>>(<<<y)", call},
        {"NAN>>>(<<<y)", call},
        {">>>2x<<<", number},
        {">>>1e<<<", number},
        {">>>1e<<<+x", number},
        {">>>1e+3f2<<<", number},
        {">>>1.5u<<<", number},
        {">>>1ff<<<", number},
        {">>>1.2.3<<<", number},
        {">>>0x1g<<<", number},
        {">>>0x<<<", "a hexadecimal number is an integer such as 0x1F"},
        {">>>0x1.8p3<<<", "a hexadecimal number is an integer such as 0x1F"},
        {"1 + >>>010<<<", "a number with a leading zero would be octal in C; write it without"},
        {">>>1e39<<<", "the number is too large for float32; infinity is INFINITY"},
        {">>>precise<<<::exp(x)", prefix},
        {"metal::fast::>>>fast<<<::exp(x)", prefix},
        {"std::>>>fast<<<::exp(x)", prefix},
        {">>>::<<<exp(x)", "expected a value, found '::'"},
        {"metal::>>>1<<<", "expected a function's name, found '1'"},
        {"std::x >>>+<<< 1", "expected '(': only functions have a prefix, found '+'"},
        {"metal::>>>NAN<<<", "'NAN' is a constant, no name"},
        {"metal::>>>numeric_limits<<<<T>::infinity()", limits},
        {">>>numeric_limits<<<<float>::max()", limits},
        {"f<T> >>>+<<< x", "expected '(' after template arguments, found '+'"},
        {"x + T>>><<<", "expected '(' after a type, as in T(x), found the end"},
        {"(T>>>*<<<)x", "expected '(' after a type, as in T(x), found '*'"},
        {"static_cast<>>>x<<<>(y)", "expected a type, found 'x'"},
        {"static_cast<T> >>>x<<<", "expected '(' after static_cast<T>, found 'x'"},
    };
    CHECK(BODY, refusals);
}

static void test_constructs(void **state) {
    (void)state;
    static const char jumps[] = "is not supported; there are no loops or jumps";
    static const char nested[] = "assignment inside an expression is not supported";
    static const char compound[] = "compound assignment is not supported";
    static const char bits[] = "bit operators are not supported";
    static const char indexing[] = "indexing and arrays are not supported";
    char reasons[3][80];
    static const char *const words[] = {"for", "while", "goto"};
    for (int i = 0; i < 3; i++) snprintf(reasons[i], sizeof reasons[i], "'%s' %s", words[i], jumps);
    const refusal refusals[] = {
        {">>>for<<< (;;) x", reasons[0]},
        {"y = x; >>>while<<< (y) y", reasons[1]},
        {"f(>>>goto<<<)", reasons[2]},
        {">>>if<<< (x) y", "'if' is not supported; choose with condition ? a : b"},
        {"x >>>else<<< y", "'else' is not supported; choose with condition ? a : b"},
        {"a = b >>>=<<< c", nested},
        {"f(a >>>=<<< b)", nested},
        {"(a >>>=<<< b)", nested},
        {"a ? b : c >>>=<<< d", nested},
        {"s = 1; s >>>+=<<< 2", "compound assignment is not supported; write name = name + value"},
        {"s >>>/=<<< 2", "compound assignment is not supported; write name = name / value"},
        {"s >>>>>=<<< 2", compound},
        {"s >>>|=<<< 2", compound},
        {">>>++<<<x", "increment is not supported"},
        {"x>>>--<<<", "decrement is not supported; the negative of a negative is - -x"},
        {"x >>>&<<< y", "bit operators and references are not supported"},
        {"x >>>|<<< y", bits},
        {">>>~<<<x", bits},
        {"x >>>^<<< 2", "bit operators are not supported; a power is pow(a, b)"},
        {"x >>>**<<< 2", "operator ** is not supported; a power is pow(a, b)"},
        {"x >>>%<<< 2", "the remainder operator is not supported; use fmod(a, b)"},
        {"x>>>[<<<0]", indexing},
        {"T a>>>[<<<4]", indexing},
        {">>>*<<<p", "expected a value, found '*'; there are no pointers"},
        {"T >>>*<<<p = x", "pointers are not supported"},
        {"T>>>&<<< p = x", "bit operators and references are not supported"},
        {"x>>>.<<<y", "member access is not supported"},
        {"x>>>-><<<y", "member access is not supported"},
        {"f(>>>\"<<<x\")", "strings are not supported"},
        {">>>'<<<x'", "characters are not supported"},
        {">>>{<<< x }", "expected a value, found '{'; there are no blocks"},
        {">>>#<<<define A 1", "preprocessor lines are not supported"},
        {"x >>>/*<<< y", "a comment has no end '*/'"},
        {"x >>>@<<< y", "unexpected byte 0x40"},
        {"x >>>\\<<< y", "unexpected byte 0x5c"},
        {">>>int<<< i = 3", "'int' is not supported; every value is a float32"},
        {">>>float4<<<(x)", "'float4' is not supported; every value is a float32"},
        {">>>sizeof<<<(x)", "'sizeof' is a keyword, no name"},
        {"x >>>and<<< y", "'and' is a keyword, no name"},
        {">>>as_type<<<<T>(x)", "'as_type' is not supported"},
    };
    CHECK(BODY, refusals);
}

static void test_statements(void **state) {
    (void)state;
    static const char twice[] = "'a' has a value already; leave the type out to change it";
    static const refusal bodies[] = {
        {">>>;<<<", "expected a value, found ';'"},
        {"x;>>>;<<<", "nothing may follow the result"},
        {"x; >>>y<<<", "nothing may follow the result"},
        {"return x; >>>y<<<", "nothing may follow the result"},
        {"return>>>;<<<", "expected a value, found ';'"},
        {"a = 1 >>>b<<< = 2", "expected an operator or ';', found 'b'"},
        {"a = 1; >>>=<<< 2", "assignment inside an expression is not supported"},
        {"T a = 1; T >>>a<<< = 2;", twice},
        {"a = 1; auto >>>a<<< = 2;", twice},
        {"T a>>><<<", "expected '=' and a value after the name, found the end"},
        {"T a>>>;<<<", "expected '=' and a value after the name, found ';'"},
        {"T a = 1>>>,<<< b = 2", "expected an operator or ';', found ','; there is no comma operator"},
        {"T a =>>><<<", "expected a value, found the end"},
        {"T >>>+<<< 1", "expected a name, found '+'"},
        {">>>T<<< = 1", "'T' is a type, no name"},
        {"T >>>half<<< = 1", "'half' is a type, no name"},
        {"T >>>NAN<<< = 1", "'NAN' is a constant, no name"},
        {">>>true<<< = 1", "'true' is a constant, no name"},
        {">>>register<<< = 1", "'register' is a keyword, no name"},
        {"const >>>x<<< = 2", "expected a type, found 'x'"},
        {"const >>>int<<< x = 2", "'int' is not supported; every value is a float32"},
        {">>>auto<<< = 2", "'auto' is a keyword, no name"},
    };
    CHECK(BODY, bodies);
    static const refusal preludes[] = {
        {"T a = 1; >>>a + x<<<", "a prelude holds statements name = value, not an expression"},
        {">>>return<<< x;", "a prelude returns nothing"},
    };
    CHECK(PRELUDE, preludes);
}

static void test_headers(void **state) {
    (void)state;
    static const char lines[] = "of preprocessor lines only #include <metal_stdlib> and <metal_math> are known";
    static const refusal refusals[] = {
        {">>>x<<< + 1", "expected a function definition, found 'x'"},
        {"float f(T x) { return x; } >>>}<<<", "expected a function definition, found '}'"},
        {">>>void<<< f() { return 1; }", "'void' is not supported; every value is a float32"},
        {"float x >>>=<<< 3;", "expected '(': a header holds functions only"},
        {"T >>>NAN<<<(T x) { return x; }", "'NAN' is a constant, no name"},
        {"T f(>>>x<<<) { return x; }", "expected a type, found 'x'"},
        {"T f(T>>>)<<< { return x; }", "expected a name, found ')'"},
        {"T f(T x >>>y<<<) { return x; }", "expected ')' or ',' after a parameter, found 'y'"},
        {"T f(T >>>*<<<x) { return x; }", "pointers are not supported"},
        {"T f(>>>device<<< T x) { return x; }", "'device' is a keyword, no name"},
        {"T f(T x, T >>>x<<<) { return x; }", "two parameters are named 'x'"},
        {"T f(T x)>>>;<<<", "expected '{' after the parameters, found ';'"},
        {"T f(T x) { >>>}<<<", "expected return, found '}'"},
        {"T f(T x) { >>>x<<< * 2; }", "expected a statement or return, found 'x'"},
        {"T f(T x) { return x >>>}<<<", "expected an operator or ';', found '}'"},
        {"T f(T x) { return x; >>>y<<< }", "expected '}' after return, found 'y'"},
        {"T f(T x) { return x;>>><<<", "expected '}' after return, found the end"},
        {"T f(T x) { T >>>x<<< = 2; return x; }", "'x' has a value already; leave the type out to change it"},
        {"T f() { return 1; } T >>>f<<<() { return 2; }", "function 'f' is defined twice"},
        {"template <>>>int<<< N> T f(T x) { return x; }", "'int' is not supported; every value is a float32"},
        {"template <typename >>>U<<<> U f(U x) {}", "the type of a template is named T or O"},
        {">>>using<<< namespace std;", "of using lines only `using namespace metal;` is known"},
        {"using namespace metal >>>T<<< f", "'T' is a type, no name"},
        {">>>#define A 3<<<", lines},
        {">>>#include <math.h><<<", lines},
        {">>>#include \"metal_stdlib\"<<<", lines},
    };
    CHECK(HEADER, refusals);
}

static void test_parts(void **state) {
    (void)state;
    zmlx_error error = {0};
    /* The longest text is cut on both sides, white space becomes ' ', what cannot be printed '?'. */
    static const char text[] = "abcdefghij * abcdefghij *\nabcdefghij *\tbad$\x01\xc3\xa9 * abcdefghij"
                               " * abcdefghij * abcdefghij";
    assert_int_equal(parse(BODY, text, strlen(text), &error), ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message,
                        "unexpected byte 0x24; at column 43: "
                        "`...efghij * abcdefghij * bad>>>$<<<??? * abcdefghij * abcdefghij * ab...`");
    assert_int_equal(parse(BODY, "x\0y", 3, &error), ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message, "unexpected byte 0x00; at column 2: `x>>><<<`");
    assert_int_equal(zm_expr_fail(&error, "w", "x + silo(y)", 5, 4, "silu", "unknown function '%s'", "silo"),
                     ZMLX_ERROR_FORMAT);
    assert_string_equal(error.message,
                        "unknown function 'silo'; at column 5: `x + >>>silo<<<(y)`; did you mean silu?");
    /* Columns and sizes beyond the text, a reason that is too long. */
    zm_expr_fail(&error, NULL, "xy", 2, 100, NULL, "reason");
    assert_string_equal(error.message, "reason; at column 2: `x>>>y<<<`");
    zm_expr_fail(&error, NULL, "xy", 100, 100, NULL, "reason");
    assert_string_equal(error.message, "reason; at column 3: `xy>>><<<`");
    zm_expr_fail(&error, NULL, "xy", -5, -5, NULL, "reason");
    assert_string_equal(error.message, "reason; at column 1: `>>><<<xy`");
    zm_expr_fail(&error, NULL, "xy", 1, 1, "abc", "%2000d", 7);
    assert_non_null(strstr(error.message, "...; at column 1: `>>>x<<<y`; did you mean abc?"));
    zm_expr_fail(NULL, NULL, "xy", 1, 1, "abc", "reason");
}

static void test_nearest_name(void **state) {
    (void)state;
    static const char *const names[] = {"exp", "exp2", "sigmoid", "silu", "softplus", "x", "y", "kk_silu"};
    static const char *const cases[][2] = {
        {"sigmiod", "sigmoid"}, {"sigmod", "sigmoid"}, {"SiLU", "silu"}, {"silo", "silu"},  {"exp3", "exp"},
        {"epx", "exp"},         {"softpls", "softplus"}, {"z", NULL},    {"X", "x"},        {"tanh", NULL},
        {"", NULL},             {"kksilu", "kk_silu"}, {"relu", NULL},   {"sigmmmmoid", "sigmoid"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *found = zm_nearest_name(cases[i][0], names, 8);
        if (!found != !cases[i][1] || (found && strcmp(found, cases[i][1])))
            fail_msg("%s: %s", cases[i][0], found ? found : "none");
    }
    char longer[200];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = '\0';
    assert_null(zm_nearest_name(longer, names, 8));
    assert_null(zm_nearest_name("xxxx", (const char *[]){longer}, 1));
    assert_null(zm_nearest_name("x", NULL, 0));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values),  cmocka_unit_test(test_constructs), cmocka_unit_test(test_statements),
        cmocka_unit_test(test_headers), cmocka_unit_test(test_parts),      cmocka_unit_test(test_nearest_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
