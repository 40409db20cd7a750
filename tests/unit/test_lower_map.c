/* SPDX-License-Identifier: MIT */
/* Maps and given gradients: which names become what. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "lower_testing.h"

static zm_ir *map_of(const char *expression, const char *prelude) {
    return made_map(&(zm_map_text){.outputs = &expression, .n_outputs = 1, .prelude = prelude});
}

static void assert_inputs(const zm_ir *ir, const char *expected) {
    zm_text names = {0};
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(&names, "%s%s", i ? " " : "", ir->inputs[i].name);
    assert_string_equal(zm_text_string(&names), expected);
    zm_text_free(&names);
}

static void test_free_names(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"x * w + b", NULL, "x w b"},
        {"b + exp(a) + b", NULL, "b a"},
        {"s * x", "T s = gate + x; s = s * t;", "gate x t"},
        {"h = p * q; h + p + r", NULL, "p q r"},
        {"x = x + 1; x * 2", NULL, "x"},
        {"x * D + M_PI_F + INFINITY", NULL, "x"},
        {"row_gather(table, index)", NULL, "table index"},
        {"u = x; v = u + w;", NULL, "x w"},
    };
    for (int i = 0; i < COUNT(cases); i++) {
        zm_ir *ir = map_of(cases[i][0], cases[i][1]);
        assert_inputs(ir, cases[i][2]);
        zm_ir_free(ir);
    }
}

static void test_outputs(void **state) {
    (void)state;
    zm_ir *ir = map_of("x * y", NULL);
    assert_output(ir, 0, "y_", ZM_LEVEL_ELEMENT);
    zm_ir_free(ir);
    static const char *const texts[] = {"x + 1", "row_sum(x)", "3", "row_max(x) - x", "row_argmax(x)", "x > 0"};
    static const char *const names[] = {"p", "q", "r", "s", "t", "u"};
    static const zm_level levels[] = {ZM_LEVEL_ELEMENT, ZM_LEVEL_ROW, ZM_LEVEL_ELEMENT,
                                      ZM_LEVEL_ELEMENT, ZM_LEVEL_ROW, ZM_LEVEL_ELEMENT};
    for (int named = 0; named < 2; named++) {
        ir = made_map(&(zm_map_text){.outputs = texts, .n_outputs = 6, .output_names = named ? names : NULL});
        assert_int_equal(ir->n_outputs, 6);
        for (int i = 0; i < 6; i++) {
            char numbered[] = {'y', (char)('0' + i), '\0'};
            assert_output(ir, i, named ? names[i] : numbered, levels[i]);
            assert_int_equal(ir->values[ir->outputs[i].value].type, ZM_TYPE_FLOAT);
        }
        zm_ir_free(ir);
    }
}

/* What a text without a value assigns are its outputs, with their last values; locals are not. */
static void test_assigned_outputs(void **state) {
    (void)state;
    zm_ir *ir =
        map_of("float h = x * k; s = s + 1; p = h + s; q = p - x; h = 0; p = p * 2;", "T s = x; T k = 10;");
    assert_inputs(ir, "x");
    assert_int_equal(ir->n_outputs, 2);
    assert_output(ir, 0, "p", ZM_LEVEL_ELEMENT);
    assert_output(ir, 1, "q", ZM_LEVEL_ELEMENT);
    double x = 3, p, q;
    evaluate(ir, 1, 1, (const double *[]){&x}, (double *[]){&p, &q});
    assert_true(p == 68 && q == 31);
    zm_ir_free(ir);
}

static void test_parameters_and_seeds(void **state) {
    (void)state;
    static const char *const expression = "random(seed) < p ? x * scale : random(other)";
    static const char *const parameters[] = {"scale", "p"}, *const seeds[] = {"seed", "other"};
    zm_ir *ir = made_map(&(zm_map_text){.outputs = &expression, .n_outputs = 1, .parameter_names = parameters,
                                        .n_parameters = 2, .seed_names = seeds, .n_seeds = 2});
    assert_inputs(ir, "x");
    assert_int_equal(ir->n_parameters, 4);
    assert_true(!ir->parameters[1].is_seed && ir->parameters[2].is_seed);
    /* u of seed 42, elements 0 to 3: 0.61295986, 0.46858650, 0.07323169, 0.34086149 */
    const double x[4] = {1, 2, 3, 4}, numbers[4] = {10, 0.4, 0, 0};
    const uint64_t seed_values[4] = {0, 0, 42, 42};
    double y[4];
    const zm_evaluation at = {1, 4, (const double *[]){x}, numbers, seed_values, (double *[]){y}};
    assert_int_equal(zm_ir_evaluate(ir, &at, NULL), ZMLX_OK);
    assert_true(fabs(y[0] - 0.61295986) < 1e-8 && fabs(y[1] - 0.46858650) < 1e-8 && y[2] == 30 && y[3] == 40);
    zm_ir_free(ir);
}

static void assert_refused(const zm_map_text *text, zmlx_status code, const char *where, const char *message) {
    zm_ir *ir;
    zmlx_error error = {0};
    zmlx_status status = zm_lower_map(&ir, text, &error);
    if (status != code) fail_msg("%s: %d: %s: %s", text->outputs[0], status, error.where, error.message);
    assert_null(ir);
    assert_string_equal(error.where, where);
    assert_contains(error.message, message);
}

static void refuse_names(const char *expression, const char *input, const char *second, const char *parameter,
                         const char *output, const char *where, const char *message) {
    const char *const inputs[] = {input, second};
    assert_refused(&(zm_map_text){.outputs = &expression, .n_outputs = 1, .input_names = inputs,
                                  .n_inputs = second ? 2 : 1, .parameter_names = &parameter,
                                  .n_parameters = parameter != NULL, .output_names = output ? &output : NULL,
                                  .header = "float own(float a) { return a; }"},
                   ZMLX_ERROR_ARGUMENT, where, message);
}

static void test_names_refused(void **state) {
    (void)state;
    static const char *const functions[] = {"exp",    "fabs",   "row_sum", "row_mean",
                                            "column", "select", "kk_silu", "own"};
    for (int i = 0; i < COUNT(functions); i++)
        refuse_names("1", functions[i], NULL, NULL, NULL, "input", "is that of a function");
    static const char *const fixed[] = {"D", "NAN", "M_PI_F", "true", "T", "float", "return"};
    for (int i = 0; i < COUNT(fixed); i++)
        refuse_names("1", fixed[i], NULL, NULL, NULL, "input", "constant or word");
    refuse_names("1", "x", "x", NULL, NULL, "input", "the name `x` is taken");
    refuse_names("1", "x", NULL, "exp", NULL, "parameter", "is that of a function");
    refuse_names("1", "x", "p", "p", NULL, "input", "is taken");
    refuse_names("1", "a b", NULL, NULL, NULL, "input", "no valid name");
    refuse_names("1", "x", NULL, NULL, "x", "output", "is that of an input");
    refuse_names("1", "x", NULL, NULL, "tanh", "output", "is that of a function");
    refuse_names("p = x; q = x;", "x", NULL, NULL, "p", "expr", "not among the names");
    refuse_names("T s = x;", "x", NULL, NULL, NULL, "expr", "it gives no value");
}

static void test_maps_refused(void **state) {
    (void)state;
    static const char *const constant = "2 + 2", *const texts[] = {"x", "T s = x;"};
    assert_refused(&(zm_map_text){.outputs = &constant, .n_outputs = 1}, ZMLX_ERROR_ARGUMENT, "inputs",
                   "no shape");
    assert_refused(&(zm_map_text){.outputs = texts, .n_outputs = 2}, ZMLX_ERROR_FORMAT, "expr[1]",
                   "a value is missing");
    assert_refused(&(zm_map_text){.outputs = texts, .n_outputs = 0}, ZMLX_ERROR_ARGUMENT, "outputs", "expected 1");
    zm_text many = {0};
    for (int i = 0; i < 40; i++) zm_text_printf(&many, "%sv%d", i ? " + " : "", i);
    const char *expression = zm_text_string(&many);
    assert_refused(&(zm_map_text){.outputs = &expression, .n_outputs = 1}, ZMLX_ERROR_UNSUPPORTED, "inputs",
                   "more than 32");
    zm_text_free(&many);
}

static zm_ir *gradient_of(const zm_ir *forward, const char *const *texts, const char *prelude, bool use_output) {
    zm_ir *ir;
    zmlx_error error = {0};
    if (zm_lower_gradient(&ir, forward, texts, prelude, NULL, use_output, &error))
        fail_msg("%s: %s", error.where, error.message);
    return ir;
}

static void test_gradient(void **state) {
    (void)state;
    static const char *const expression = "kk_silu(x)", *const text = "g * (s + x * s * ((T)1 - s))",
                             *const none = NULL;
    zm_ir *forward = made_map(&(zm_map_text){.outputs = &expression, .n_outputs = 1});
    zm_ir *ir = gradient_of(forward, &text, "T s = kk_sigmoid(x);", false);
    assert_inputs(ir, "x cot_y");
    assert_output(ir, 0, "d_x", ZM_LEVEL_ELEMENT);
    double x = 0.75, g = 2, s = 1 / (1 + exp(-x)), d;
    evaluate(ir, 1, 1, (const double *[]){&x, &g}, (double *[]){&d});
    assert_true(is_near(d, g * (s + x * s * (1 - s)), 1e-14));
    zm_ir_free(ir);
    ir = gradient_of(forward, &none, NULL, true);
    assert_inputs(ir, "cot_y");
    zm_ir_free(ir);
    static const char *const by_result = "cot_y * y / (x - x + 3)";
    ir = gradient_of(forward, &by_result, NULL, true);
    assert_inputs(ir, "x y cot_y");
    zm_ir_free(ir);
    zmlx_error error = {0};
    assert_int_equal(zm_lower_gradient(&ir, forward, &by_result, NULL, NULL, false, &error), ZMLX_ERROR_FORMAT);
    assert_null(ir);
    assert_string_equal(error.where, "grad_expr");
    assert_contains(error.message, "unknown name `y`; there are x, cot_y, g, D");
    assert_int_equal(error.column, 9);
    zm_ir_free(forward);
}

/* Several inputs and outputs, a parameter, and inputs that are named like the short names. */
static void test_gradient_names(void **state) {
    (void)state;
    static const char *const forward_texts[] = {"g * y + k", "row_sum(g)"}, *const parameter = "k";
    static const char *const output_names[] = {"p", "q"};
    zm_ir *forward = made_map(&(zm_map_text){.outputs = forward_texts,
                                             .output_names = output_names,
                                             .n_outputs = 2,
                                             .parameter_names = &parameter,
                                             .n_parameters = 1});
    static const char *const texts[] = {"cot_p * y + cot_q * k", "cot_p * q * g"};
    zm_ir *ir = gradient_of(forward, texts, NULL, true);
    assert_inputs(ir, "g y q cot_p cot_q");
    assert_int_equal(ir->inputs[2].level, ZM_LEVEL_ROW);
    assert_int_equal(ir->inputs[4].level, ZM_LEVEL_ROW);
    assert_output(ir, 0, "d_g", ZM_LEVEL_ELEMENT);
    assert_output(ir, 1, "d_y", ZM_LEVEL_ELEMENT);
    assert_int_equal(ir->n_parameters, 1);
    const double g[2] = {-1, 6}, y[2] = {3, 4}, q = 5, cot_p[2] = {2, 1}, cot_q = 7, k = 0.5;
    double d_g[2], d_y[2];
    const zm_evaluation at = {1, 2, (const double *[]){g, y, &q, cot_p, &cot_q}, &k, NULL, (double *[]){d_g, d_y}};
    assert_int_equal(zm_ir_evaluate(ir, &at, NULL), ZMLX_OK);
    assert_true(d_g[0] == 9.5 && d_g[1] == 7.5 && d_y[0] == -10 && d_y[1] == 30);
    zm_ir_free(ir);
    zm_ir_free(forward);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_free_names),           cmocka_unit_test(test_outputs),
        cmocka_unit_test(test_assigned_outputs),     cmocka_unit_test(test_parameters_and_seeds),
        cmocka_unit_test(test_names_refused),        cmocka_unit_test(test_maps_refused),
        cmocka_unit_test(test_gradient),             cmocka_unit_test(test_gradient_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
