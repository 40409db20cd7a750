/* SPDX-License-Identifier: MIT */
/* Kernels made from texts and evaluated in float64, for tests of the lowering. Include after cmocka.h. */
#ifndef ZM_TESTS_LOWER_TESTING_H
#define ZM_TESTS_LOWER_TESTING_H

#include <math.h>
#include <string.h>

#include "ir/lower.h"
#include "ir/passes.h"

#define COUNT(array) ((int)(sizeof(array) / sizeof *(array)))

static inline zm_ir *made_map(const zm_map_text *text) {
    zm_ir *ir = NULL;
    zmlx_error error = {0};
    if (zm_lower_map(&ir, text, &error)) fail_msg("%s: %s: %s", text->outputs[0], error.where, error.message);
    return ir;
}

/* One expression of the names a, b, c, in this order. */
static inline zm_ir *made_formula(const char *expression, const char *header) {
    static const char *const names[] = {"a", "b", "c"};
    return made_map(&(zm_map_text){
        .outputs = &expression, .n_outputs = 1, .input_names = names, .n_inputs = 3, .header = header});
}

static inline int count_op(const zm_ir *ir, zm_op op) {
    int n = 0;
    for (int i = 0; i < ir->n_values; i++) n += ir->values[i].op == op;
    return n;
}

static inline void evaluate(const zm_ir *ir, int64_t rows, int64_t columns, const double *const *inputs,
                            double *const *outputs) {
    zmlx_error error = {0};
    const zm_evaluation at = {.rows = rows, .columns = columns, .inputs = inputs, .outputs = outputs};
    if (zm_ir_evaluate(ir, &at, &error)) fail_msg("%s: %s", error.where, error.message);
}

/* The value of a kernel of three inputs at one point. */
static inline double value_at(const zm_ir *ir, double a, double b, double c) {
    double y = 0;
    evaluate(ir, 1, 1, (const double *[]){&a, &b, &c}, (double *[]){&y});
    return y;
}

static inline bool is_near(double got, double expected, double tolerance) {
    if (isnan(expected)) return isnan(got);
    return got == expected || fabs(got - expected) <= tolerance * fabs(expected);
}

static inline void assert_output(const zm_ir *ir, int i, const char *name, zm_level level) {
    assert_true(i < ir->n_outputs);
    assert_string_equal(ir->outputs[i].name, name);
    assert_int_equal(ir->outputs[i].level, level);
}

static inline void assert_contains(const char *message, const char *part) {
    if (!strstr(message, part)) fail_msg("`%s` is not in: %s", part, message);
}

#endif
