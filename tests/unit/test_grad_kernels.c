/* SPDX-License-Identifier: MIT */
/* Gradients and tangents of whole kernels, evaluated in float64: reverse mode against differences of the forward
 * kernel, forward against reverse mode, gradients of gradients against differences of gradients. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "ir/lower.h"
#include "ir/passes.h"

enum { ROWS = 3, COLUMNS = 5, ELEMENTS = ROWS * COLUMNS, MAX_ARRAYS = 64 };

/* Arrays by name. An input not in it is made of random numbers when it is first read. */
typedef struct store {
    char names[MAX_ARRAYS][64];
    double values[MAX_ARRAYS][ELEMENTS];
    int count;
} store;

static int size_of(zm_level level) { return level == ZM_LEVEL_ELEMENT ? ELEMENTS : ROWS; }

static double *find(store *arrays, const char *name) {
    for (int i = 0; i < arrays->count; i++)
        if (!strcmp(arrays->names[i], name)) return arrays->values[i];
    assert_true(arrays->count < MAX_ARRAYS && strlen(name) < sizeof arrays->names[0]);
    double *values = arrays->values[arrays->count];
    uint64_t seed = 17;
    for (const char *c = name; *c; c++) seed = 31 * seed + (unsigned char)*c;
    for (uint64_t i = 0; i < ELEMENTS; i++)
        values[i] = 0.2 + 1.5 * ((double)(zm_splitmix64(seed, i) >> 11) * 0x1p-53); /* positive: logarithms, roots */
    for (uint64_t i = 0; i < ELEMENTS; i += 3)
        if (name[0] != 'p') values[i] = -values[i]; /* but for those called p... */
    strcpy(arrays->names[arrays->count++], name);
    return values;
}

/* Outputs go to `results` under their names (inputs and outputs may have the same name). */
static void evaluate(store *results, const zm_ir *ir, store *arrays) {
    const double *inputs[ZM_IR_MAX_INPUTS];
    double *outputs[ZM_IR_MAX_OUTPUTS];
    double parameters[ZM_IR_MAX_PARAMETERS];
    uint64_t seeds[ZM_IR_MAX_PARAMETERS];
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = find(arrays, ir->inputs[i].name);
    for (int i = 0; i < ir->n_outputs; i++) outputs[i] = find(results, ir->outputs[i].name);
    for (int i = 0; i < ZM_IR_MAX_PARAMETERS; i++) {
        parameters[i] = 0.25;
        seeds[i] = 42;
    }
    zm_evaluation evaluation = {ROWS, COLUMNS, inputs, parameters, seeds, outputs};
    zmlx_error error;
    if (zm_ir_evaluate(ir, &evaluation, &error)) fail_msg("%s: %s", ir->name, error.message);
}

/* The sum over all outputs of cotangent * output. */
static double inner(const zm_ir *ir, store *arrays, store *scratch) {
    evaluate(scratch, ir, arrays);
    double sum = 0;
    for (int i = 0; i < ir->n_outputs; i++) {
        char name[80];
        snprintf(name, sizeof name, "cot_%s", ir->outputs[i].name);
        const double *cotangent = find(arrays, name), *output = find(scratch, ir->outputs[i].name);
        for (int k = 0; k < size_of(ir->outputs[i].level); k++) sum += cotangent[k] * output[k];
    }
    return sum;
}

static double difference(const zm_ir *ir, store *arrays, store *scratch, double *x) {
    double table[3], kept = *x;
    for (int k = 0; k < 3; k++) {
        double step = ldexp(1, -9 - k);
        *x = kept + step;
        double above = inner(ir, arrays, scratch);
        *x = kept - step;
        table[k] = (above - inner(ir, arrays, scratch)) / (2 * step);
    }
    *x = kept;
    for (int order = 1; order < 3; order++)
        for (int k = 2; k >= order; k--) table[k] += (table[k] - table[k - 1]) / (ldexp(1, 2 * order) - 1);
    return table[2];
}

static bool is_float(const zm_ir *ir, int input) { return ir->inputs[input].type == ZM_TYPE_FLOAT; }

/* Numbers of expressions are float32, those of operations' formulas float64. */
static void assert_near(double got, double expected, double scale, const char *name, int at) {
    if (!(fabs(got - expected) <= 1e-6 * (fabs(expected) + scale)))
        fail_msg("%s[%d]: %.12g, not %.12g", name, at, got, expected);
}

static zm_ir *vjp_of(const zm_ir *ir, bool use_results) {
    bool wanted[ZM_IR_MAX_INPUTS];
    for (int i = 0; i < ir->n_inputs; i++) wanted[i] = is_float(ir, i);
    zm_ir *gradient;
    zmlx_error error;
    if (zm_ir_vjp(&gradient, ir, wanted, use_results, &error)) fail_msg("%s: %s", ir->name, error.message);
    if (zm_ir_verify(gradient, &error)) fail_msg("%s: %s", gradient->name, error.message);
    return gradient;
}

static void check_vjp(const zm_ir *ir, const store *given, bool use_results) {
    store *arrays = calloc(3, sizeof *arrays), *results = arrays + 1, *scratch = arrays + 2;
    assert_non_null(arrays);
    if (given) *arrays = *given;
    inner(ir, arrays, scratch); /* fills arrays */
    zm_ir *gradient = vjp_of(ir, use_results);
    store *read = malloc(sizeof *read);
    assert_non_null(read);
    *read = *arrays;
    for (int i = 0; use_results && i < ir->n_outputs; i++) /* a result of an input's name is not read */
        memcpy(find(read, ir->outputs[i].name), find(scratch, ir->outputs[i].name), sizeof read->values[0]);
    evaluate(results, gradient, read);
    for (int i = 0; i < ir->n_inputs; i++) {
        if (!is_float(ir, i)) continue;
        char name[80];
        snprintf(name, sizeof name, "d_%s", ir->inputs[i].name);
        double *x = find(arrays, ir->inputs[i].name);
        const double *slopes = find(results, name);
        for (int k = 0; k < size_of(ir->inputs[i].level); k++)
            assert_near(slopes[k], difference(ir, arrays, scratch, &x[k]), 1, name, k);
    }
    zm_ir_free(gradient);
    free(read);
    free(arrays);
}

/* cotangents . (tangent kernel of t) = t . (gradient kernel of cotangents) */
static void check_jvp(const zm_ir *ir, const store *given) {
    store *arrays = calloc(2, sizeof *arrays), *results = arrays + 1;
    assert_non_null(arrays);
    if (given) *arrays = *given;
    bool chosen[ZM_IR_MAX_INPUTS];
    for (int i = 0; i < ir->n_inputs; i++) chosen[i] = is_float(ir, i);
    zm_ir *tangent, *gradient = vjp_of(ir, false);
    zmlx_error error;
    if (zm_ir_jvp(&tangent, ir, chosen, &error)) fail_msg("%s: %s", ir->name, error.message);
    assert_int_equal(zm_ir_verify(tangent, &error), ZMLX_OK);
    evaluate(results, tangent, arrays);
    evaluate(results, gradient, arrays);
    double forward = 0, backward = 0, scale = 0;
    char name[80];
    for (int i = 0; i < ir->n_outputs; i++) {
        snprintf(name, sizeof name, "cot_%s", ir->outputs[i].name);
        const double *cotangent = find(arrays, name);
        snprintf(name, sizeof name, "t_%s", ir->outputs[i].name);
        const double *slope = find(results, name);
        for (int k = 0; k < size_of(ir->outputs[i].level); k++) {
            forward += cotangent[k] * slope[k];
            scale += fabs(cotangent[k] * slope[k]);
        }
    }
    for (int i = 0; i < ir->n_inputs; i++) {
        if (!chosen[i]) continue;
        snprintf(name, sizeof name, "t_%s", ir->inputs[i].name);
        const double *direction = find(arrays, name);
        snprintf(name, sizeof name, "d_%s", ir->inputs[i].name);
        const double *slope = find(results, name);
        for (int k = 0; k < size_of(ir->inputs[i].level); k++) backward += direction[k] * slope[k];
    }
    assert_near(forward, backward, scale, ir->name, -1);
    zm_ir_free(tangent);
    zm_ir_free(gradient);
    free(arrays);
}

static void check_all(const zm_ir *ir, const store *given, bool second_order) {
    check_vjp(ir, given, false);
    check_vjp(ir, given, true);
    check_jvp(ir, given);
    if (!second_order) return;
    zm_ir *gradient = vjp_of(ir, false);
    check_vjp(gradient, given, false);
    check_vjp(gradient, given, true);
    check_jvp(gradient, given);
    zm_ir_free(gradient);
}

/* One or two outputs y (and z), with the statements of a prelude. */
static zm_ir *lower(const char *prelude, const char *y, const char *z) {
    const char *const outputs[] = {y, z}, *const names[] = {"y", "z"}, *const parameters[] = {"eps"};
    const char *const seeds[] = {"seed"};
    zm_map_text text = {.name = y, .outputs = outputs, .output_names = names, .n_outputs = z ? 2 : 1,
                        .parameter_names = parameters, .n_parameters = 1, .seed_names = seeds, .n_seeds = 1,
                        .prelude = prelude};
    zm_ir *ir;
    zmlx_error error;
    if (zm_lower_map(&ir, &text, &error)) fail_msg("%s: %s", y, error.message);
    return ir;
}

static zm_ir *parse(const char *text) {
    zm_ir *ir;
    zmlx_error error;
    if (zm_ir_parse(&ir, text, strlen(text), &error)) fail_msg("%s", error.message);
    return ir;
}

static void check_text(const char *prelude, const char *y, const char *z, bool second_order) {
    zm_ir *ir = lower(prelude, y, z);
    check_all(ir, NULL, second_order);
    zm_ir_free(ir);
}

static void test_maps(void **state) {
    (void)state;
    check_text(NULL, "tanh(x) * w + silu(x * w)", NULL, true);
    check_text(NULL, "x > 0 ? x * w : square(w)", NULL, true);
    check_text(NULL, "gelu_tanh(x)", "sigmoid(w) / (1 + p * p)", true);
    check_text(NULL, "pow(p, w) + atan2(x, w) + log(p) * sqrt(p)", NULL, true);
    check_text(NULL, "clamp(x, -1, w) + fmod(w, p) + smoothstep(-2, 2, x) + mix(x, w, p)", NULL, true);
    check_text(NULL, "random(seed) < eps ? 0 : x * x / (1 - eps)", NULL, true);
    check_text(NULL, "x * x", "3 + floor(w) + 0 * u", false); /* w without slope, u with a slope of zero */
}

static void test_rows(void **state) {
    (void)state;
    const char *softmax = "float m = row_max(x); float e = exp(x - m);";
    check_text(softmax, "e / row_sum(e)", NULL, true);
    check_text(softmax, "m + log(row_sum(e))", NULL, true);
    check_text(softmax, "e / row_sum(e)", "m + log(row_sum(e))", false);
    check_text(NULL, "x * rsqrt(row_mean(x * x) + eps) * w", NULL, true);
    check_text("float d = x - row_mean(x);", "d * rsqrt(row_mean(d * d) + eps) * w + b", NULL, true);
    check_text(NULL, "row_cumsum(x * w) * x", "row_cumsum_reverse(x) * w", true);
    check_text(NULL, "row_cumsum(row_sum(x * x) * w)", NULL, true);
    check_text(NULL, "row_cumsum(row_sum(x * x))", NULL, true);
    check_text(NULL, "row_prod(x) * w", NULL, true);
    check_text(NULL, "row_max(x * w) * x - row_min(x) * w", NULL, true);
    check_text(NULL, "row_prod(row_sum(x)) + row_sum(row_max(w * w))", NULL, true); /* of values constant in a row */
    check_text(NULL, "row_max(row_sum(x * x)) * w + row_min(row_sum(w)) * D", NULL, true);
}

/* An input of a row, an output of elements that is constant in its row, and integers. */
static void test_levels(void **state) {
    (void)state;
    zm_ir *ir = parse("kernel levels\n"
                      "input x float element\n"
                      "input r float row\n"
                      "output y element = %3\n"
                      "output z element = %5\n"
                      "output s row = %6\n"
                      "%0 = load x\n"
                      "%1 = load r\n"
                      "%2 = multiply %0 %1\n"
                      "%3 = sin %2\n"
                      "%4 = multiply %1 %1\n"
                      "%5 = exp %4\n"
                      "%6 = row_sum %4\n");
    check_all(ir, NULL, true);
    zm_ir_free(ir);
    ir = parse("kernel cross_entropy\n"
               "input x float element\n"
               "input label uint row\n"
               "output y row = %6\n"
               "%0 = load x\n"
               "%1 = exp %0\n"
               "%2 = row_sum %1\n"
               "%3 = log %2\n"
               "%4 = load label\n"
               "%5 = row_gather x %4\n"
               "%6 = subtract %3 %5\n");
    store *given = calloc(1, sizeof *given);
    assert_non_null(given);
    memcpy(find(given, "label"), (double[ROWS]){4, 0, 2}, ROWS * sizeof(double));
    check_all(ir, given, true);
    free(given);
    zm_ir_free(ir);
}

static void expect(const zm_ir *ir, store *arrays, const char *name, const double *expected, int n) {
    store *results = calloc(1, sizeof *results);
    assert_non_null(results);
    evaluate(results, ir, arrays);
    for (int i = 0; i < n; i++) assert_near(find(results, name)[i], expected[i], 0, name, i);
    free(results);
}

static void test_zeros_and_ties(void **state) {
    (void)state;
    store *arrays = calloc(1, sizeof *arrays);
    assert_non_null(arrays);
    memcpy(find(arrays, "cot_y"), (double[ROWS]){1, 2, 3}, ROWS * sizeof(double));
    /* rows with one zero, two zeros, none */
    memcpy(find(arrays, "x"), (double[ELEMENTS]){2, 0, 3, 1, 5, 2, 0, 0, 1, 5, 1, -2, 3, 1, 1},
           ELEMENTS * sizeof(double));
    zm_ir *ir = lower(NULL, "row_prod(x)", NULL), *gradient = vjp_of(ir, false);
    expect(gradient, arrays, "d_x", (double[]){0, 30, 0, 0, 0, 0, 0, 0, 0, 0, -18, 9, -6, -18, -18}, ELEMENTS);
    zm_ir_free(gradient);
    zm_ir_free(ir);
    /* the first of the largest, NaN counting as such */
    memcpy(find(arrays, "x"), (double[ELEMENTS]){1, 7, 7, 2, 7, -3, -3, -3, -3, -3, 1, 2, NAN, INFINITY, NAN},
           ELEMENTS * sizeof(double));
    ir = lower(NULL, "row_max(x)", NULL);
    gradient = vjp_of(ir, false);
    expect(gradient, arrays, "d_x", (double[]){0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 3, 0, 0}, ELEMENTS);
    zm_ir_free(gradient);
    zm_ir_free(ir);
    ir = lower(NULL, "row_min(-x)", NULL);
    gradient = vjp_of(ir, false);
    expect(gradient, arrays, "d_x", (double[]){0, -1, 0, 0, 0, -2, 0, 0, 0, 0, 0, 0, -3, 0, 0}, ELEMENTS);
    zm_ir_free(gradient);
    zm_ir_free(ir);
    free(arrays);
}

static bool has_input(const zm_ir *ir, const char *name) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (!strcmp(ir->inputs[i].name, name)) return true;
    return false;
}

static void test_saved_values(void **state) {
    (void)state;
    static const struct {
        const char *y, *wanted;
        bool from_result;
    } cases[] = {
        {"exp(x)", "x", false}, /* one array read either way */
        {"tanh(x)", "x", false},
        {"sigmoid(x)", "x", false},
        {"exp(x * w + u)", "u", true},         /* one array for three */
        {"exp(x * w + u)", "x", true},         /* y, w for x, w, u */
        {"exp(row_sum(x))", "x", true},        /* no elements at all */
        {"x * row_sum(x * x)", "x", false},    /* the result does not help */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_ir *ir = lower(NULL, cases[i].y, NULL), *gradient;
        bool wanted[ZM_IR_MAX_INPUTS];
        for (int k = 0; k < ir->n_inputs; k++) wanted[k] = !strcmp(ir->inputs[k].name, cases[i].wanted);
        zmlx_error error;
        assert_int_equal(zm_ir_vjp(&gradient, ir, wanted, true, &error), ZMLX_OK);
        if (has_input(gradient, "y") != cases[i].from_result) fail_msg("%s by %s", cases[i].y, cases[i].wanted);
        zm_ir_free(gradient);
        zm_ir_free(ir);
    }
    /* as many elements, but the sum is there already */
    zm_ir *ir = lower(NULL, "row_sum(x * x)", "x * row_sum(x * x)"), *gradient = vjp_of(ir, true);
    assert_true(has_input(gradient, "y") && has_input(gradient, "x") && !has_input(gradient, "z"));
    zm_ir_free(gradient);
    zm_ir_free(ir);
}

static void test_inputs(void **state) {
    (void)state;
    zm_ir *ir = lower(NULL, "x + w", "w * u"), *gradient;
    assert_int_equal(ir->n_inputs, 3);
    zmlx_error error;
    assert_int_equal(zm_ir_vjp(&gradient, ir, (bool[]){true, true, false}, false, &error), ZMLX_OK);
    assert_int_equal(gradient->n_inputs, 3); /* u and the cotangents, in order */
    assert_string_equal(gradient->inputs[0].name, "u");
    assert_string_equal(gradient->inputs[1].name, "cot_y");
    assert_string_equal(gradient->inputs[2].name, "cot_z");
    assert_int_equal(gradient->n_outputs, 2);
    assert_string_equal(gradient->outputs[0].name, "d_x");
    assert_string_equal(gradient->outputs[1].name, "d_w");
    assert_int_equal(gradient->n_parameters, 2);
    zm_ir_free(gradient);
    zm_ir_free(ir);
    ir = lower(NULL, "cot_y * t_x * x", NULL); /* names that are taken */
    gradient = vjp_of(ir, true);
    assert_true(has_input(gradient, "cot_y_"));
    zm_ir_free(gradient);
    assert_int_equal(zm_ir_jvp(&gradient, ir, (bool[]){true, true, true}, &error), ZMLX_OK);
    assert_true(has_input(gradient, "t_x_") && has_input(gradient, "t_t_x") && gradient->n_inputs == 6);
    zm_ir_free(gradient);
    zm_ir_free(ir);
}

/* With and without a place for the message. */
static void expect_refusal(const zm_ir *ir, const bool *chosen, bool forward, const char *name) {
    zmlx_error error;
    for (int i = 0; i < 2; i++) {
        zm_ir *made = (zm_ir *)1;
        zmlx_error *place = i ? NULL : &error;
        zmlx_status status = forward ? zm_ir_jvp(&made, ir, chosen, place) : zm_ir_vjp(&made, ir, chosen, true, place);
        assert_int_equal(status, ZMLX_ERROR_UNSUPPORTED);
        assert_null(made);
    }
    assert_non_null(strstr(error.message, name));
}

static void test_refusals(void **state) {
    (void)state;
    zm_ir *ir, *made;
    zmlx_error error;
    zm_reduce_text text = {.init = "0", .update = "acc * 0.5 + v"};
    assert_int_equal(zm_lower_reduce(&ir, &text, &error), ZMLX_OK);
    expect_refusal(ir, (bool[]){true}, false, "from left to right has no derivative");
    expect_refusal(ir, (bool[]){true}, true, "from left to right has no derivative");
    ir->failure = (zmlx_error){.code = ZMLX_ERROR_UNSUPPORTED, .message = "failed while it was made"};
    expect_refusal(ir, (bool[]){true}, false, "failed while");
    expect_refusal(ir, (bool[]){true}, true, "failed while");
    zm_ir_free(ir);
    ir = parse("kernel gather\n"
               "input x float element\n"
               "input w float element\n"
               "input i uint element\n"
               "output y element = %3\n"
               "%0 = load i\n"
               "%1 = row_gather x %0\n"
               "%2 = load w\n"
               "%3 = multiply %1 %2\n");
    expect_refusal(ir, (bool[]){true, false, false}, false, "row_gather with a column that differs by element has no");
    assert_int_equal(zm_ir_vjp(&made, ir, (bool[]){false, true, false}, false, &error), ZMLX_OK);
    zm_ir_free(made);
    assert_int_equal(zm_ir_jvp(&made, ir, (bool[]){true, true, false}, &error), ZMLX_OK);
    zm_ir_free(made);
    zm_ir_free(ir);
    zm_text wide = {0};
    for (int i = 0; i < ZM_IR_MAX_INPUTS; i++) zm_text_printf(&wide, "%sx%d", i ? " + " : "", i);
    const char *sum = zm_text_string(&wide), *name = "y";
    bool all[ZM_IR_MAX_INPUTS];
    for (int i = 0; i < ZM_IR_MAX_INPUTS; i++) all[i] = i < ZM_IR_MAX_OUTPUTS;
    const zm_map_text map = {.name = "wide", .outputs = &sum, .output_names = &name, .n_outputs = 1};
    assert_int_equal(zm_lower_map(&ir, &map, &error), ZMLX_OK);
    expect_refusal(ir, all, false, "a derivative takes more than 32 arrays");
    expect_refusal(ir, all, true, "a derivative takes more than 32 arrays");
    zm_text_free(&wide);
    zm_ir_free(ir);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_maps),         cmocka_unit_test(test_rows),
        cmocka_unit_test(test_levels),       cmocka_unit_test(test_zeros_and_ties),
        cmocka_unit_test(test_saved_values), cmocka_unit_test(test_inputs),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
