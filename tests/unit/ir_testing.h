/* SPDX-License-Identifier: MIT */
/* Kernels for tests: from text, and random ones. */
#ifndef ZM_TESTS_IR_TESTING_H
#define ZM_TESTS_IR_TESTING_H

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/random.h"
#include "ir/passes.h"

static inline zm_ir *parse_kernel(const char *text) {
    zm_ir *ir;
    zmlx_error error = {0};
    if (zm_ir_parse(&ir, text, strlen(text), &error)) fail_msg("%s\n%s", error.message, text);
    return ir;
}

/* The caller frees it. */
static inline char *print_kernel(const zm_ir *ir) {
    zm_text text = {0};
    zm_ir_print(&text, ir);
    return zm_text_take(&text);
}

static inline zm_ir *simplify_kernel(const zm_ir *ir) {
    zm_ir *simplified;
    zmlx_error error = {0};
    if (zm_ir_simplify(&simplified, ir, &error)) fail_msg("%s", error.message);
    return simplified;
}

typedef struct kernel_generator {
    zm_ir *ir;
    uint64_t seed, drawn;
    bool is_body;
    bool may_be_constant[256]; /* folding may find the value's number */
} kernel_generator;

static inline int draw_below(kernel_generator *from, int bound) {
    return (int)(zm_splitmix64(from->seed, from->drawn++) >> 33) % bound;
}

/* A value of this type among the last ones; -1: there is none. */
static inline zm_id draw_value(kernel_generator *from, zm_type type) {
    for (int attempt = 0; attempt < 60; attempt++) {
        zm_id id = draw_below(from, from->ir->n_values);
        if (from->ir->values[id].type == type) return id;
    }
    return -1;
}

static inline bool is_exact_on_constants(zm_op op) {
    return op == ZM_OP_ADD || op == ZM_OP_SUBTRACT || op == ZM_OP_MULTIPLY || op == ZM_OP_NEGATE || op == ZM_OP_ABS ||
           op == ZM_OP_MIN || op == ZM_OP_MAX || op == ZM_OP_FLOOR;
}

/* Constant folding rounds to float32: operations on constants must be exact for results in float64 to stay. */
static inline bool is_allowed(const kernel_generator *from, zm_op op, const zm_id *operands, int arity) {
    const zm_value *values = from->ir->values;
    if (op == ZM_OP_POW && values[operands[1]].op == ZM_OP_CONSTANT) {
        float exponent = values[operands[1]].number;
        return exponent == 0 || exponent == 1; /* others are only correctly rounded */
    }
    if (zm_op_get(op)->rule != ZM_RULE_FLOAT) return true;
    bool all_may = true, all_are = true;
    for (int i = 0; i < arity; i++) {
        all_may &= from->may_be_constant[operands[i]];
        all_are &= values[operands[i]].op == ZM_OP_CONSTANT;
    }
    return !all_may || (all_are && is_exact_on_constants(op));
}

static inline void note_constant(kernel_generator *from, zm_op op, const zm_id *operands, int arity, zm_id id) {
    bool all = true, any = false;
    for (int i = 0; i < arity; i++) {
        all &= from->may_be_constant[operands[i]];
        any |= from->may_be_constant[operands[i]];
    }
    bool by_any = op == ZM_OP_SELECT || op == ZM_OP_AND || op == ZM_OP_OR || op == ZM_OP_POW;
    bool pointwise = zm_op_get(op)->rule <= ZM_RULE_CONVERT;
    from->may_be_constant[id] = arity && pointwise && (by_any ? any : all);
}

static inline zm_type draw_operand_type(kernel_generator *from, const zm_op_info *info, zm_op op, int i,
                                        zm_type first) {
    switch (info->rule) {
    case ZM_RULE_LOGIC: return ZM_TYPE_BOOL;
    case ZM_RULE_COMPARE: return i ? first : draw_below(from, 4) ? ZM_TYPE_FLOAT : ZM_TYPE_UINT;
    case ZM_RULE_SELECT: return i == 0 ? ZM_TYPE_BOOL : i == 1 ? (zm_type)draw_below(from, ZM_TYPE_COUNT) : first;
    case ZM_RULE_CONVERT:
        return op == ZM_OP_FROM_BOOL ? ZM_TYPE_BOOL : op == ZM_OP_FROM_UINT ? ZM_TYPE_UINT : ZM_TYPE_FLOAT;
    case ZM_RULE_GATHER: return ZM_TYPE_UINT;
    default: return ZM_TYPE_FLOAT;
    }
}

static inline void draw_fold(kernel_generator *from);

static inline zm_id draw_number(kernel_generator *from) {
    static const float numbers[] = {0, -0.0f, 1, -1, 2, 0.5f, -4, INFINITY, NAN};
    return zm_ir_constant(from->ir, numbers[draw_below(from, (int)(sizeof numbers / sizeof *numbers))]);
}

/* Appends any operation whose operands are there. */
static inline void draw_operation(kernel_generator *from) {
    zm_op op = (zm_op)draw_below(from, ZM_OP_COUNT);
    if (draw_below(from, 3) == 0) { /* more of those that have identities */
        static const zm_op favourites[] = {ZM_OP_ADD, ZM_OP_SUBTRACT, ZM_OP_MULTIPLY, ZM_OP_DIVIDE, ZM_OP_NEGATE,
                                           ZM_OP_SELECT, ZM_OP_NOT, ZM_OP_FROM_BOOL, ZM_OP_NOT_EQUAL, ZM_OP_LESS};
        op = favourites[draw_below(from, (int)(sizeof favourites / sizeof *favourites))];
    }
    const zm_op_info *info = zm_op_get(op);
    if (from->is_body && (info->rule == ZM_RULE_LEAF || info->rule >= ZM_RULE_REDUCE)) return;
    zm_id operands[3] = {-1, -1, -1};
    zm_type type = ZM_TYPE_FLOAT;
    for (int i = 0; i < info->arity; i++) {
        type = draw_operand_type(from, info, op, i, type);
        operands[i] = draw_value(from, type);
        if (operands[i] < 0) return;
    }
    if (!is_allowed(from, op, operands, info->arity)) return;
    zm_id id = from->ir->n_values;
    note_constant(from, op, operands, info->arity, id);
    switch (op) {
    case ZM_OP_CONSTANT:
        draw_number(from);
        from->may_be_constant[id] = true;
        break;
    case ZM_OP_LOAD: zm_ir_load(from->ir, draw_below(from, from->ir->n_inputs)); break;
    case ZM_OP_PARAMETER: zm_ir_parameter(from->ir, 0); break;
    case ZM_OP_RANDOM: zm_ir_random(from->ir, 1); break;
    case ZM_OP_ARGUMENT: break;
    case ZM_OP_FOLD: draw_fold(from); break;
    case ZM_OP_ROW_GATHER: zm_ir_gather(from->ir, 0, operands[0]); break;
    default: zm_ir_apply(from->ir, op, operands[0], operands[1], operands[2]); break;
    }
}

static inline zm_region draw_region(kernel_generator *from, int n_arguments) {
    kernel_generator body = {zm_ir_new("body"), zm_splitmix64(from->seed, from->drawn++), 0, true, {false}};
    zm_region region, built = {.n_arguments = n_arguments};
    for (int i = 0; i < n_arguments; i++) zm_ir_argument(body.ir, i);
    for (int i = 0; i < 3; i++) {
        body.may_be_constant[body.ir->n_values] = true;
        draw_number(&body);
    }
    for (int steps = 3 + draw_below(&body, 10); steps; steps--) draw_operation(&body);
    built.values = body.ir->values;
    built.n_values = body.ir->n_values;
    built.result = draw_value(&body, ZM_TYPE_FLOAT);
    assert_int_equal(body.ir->failure.code, ZMLX_OK);
    assert_true(zm_region_copy(&region, from->ir->arena, &built));
    zm_ir_free(body.ir);
    return region;
}

static inline void draw_fold(kernel_generator *from) {
    zm_fold fold = {.init = draw_value(from, ZM_TYPE_FLOAT), .n_captures = draw_below(from, 4)};
    fold.captures = zm_arena_alloc(from->ir->arena, 4, sizeof *fold.captures);
    if (fold.init < 0 || from->ir->values[fold.init].level == ZM_LEVEL_ELEMENT) return;
    for (int i = 0; i < fold.n_captures; i++)
        if ((fold.captures[i] = draw_value(from, ZM_TYPE_FLOAT)) < 0) return;
    fold.update = draw_region(from, 1 + fold.n_captures);
    if (draw_below(from, 2)) fold.combine = draw_region(from, 2);
    zm_ir_fold(from->ir, &fold);
}

/* Inputs x, r (by row) and n (integers), a parameter p, a seed s, up to 50 values, 1 to 3 outputs. */
static inline zm_ir *random_kernel(uint64_t seed) {
    kernel_generator from = {zm_ir_new("random kernel"), seed, 0, false, {false}};
    zm_ir *ir = from.ir;
    zm_ir_add_input(ir, "x", ZM_TYPE_FLOAT, ZM_LEVEL_ELEMENT);
    zm_ir_add_input(ir, "r", ZM_TYPE_FLOAT, ZM_LEVEL_ROW);
    zm_ir_add_input(ir, "n", ZM_TYPE_UINT, ZM_LEVEL_ELEMENT);
    zm_ir_add_parameter(ir, "p", false);
    zm_ir_add_parameter(ir, "s", true);
    for (int i = 0; i < 3; i++) zm_ir_load(ir, i);
    zm_ir_apply(ir, ZM_OP_COLUMNS, -1, -1, -1);
    zm_ir_parameter(ir, 0);
    for (int i = 0; i < 3; i++) {
        from.may_be_constant[ir->n_values] = true;
        draw_number(&from);
    }
    zm_ir_apply(ir, ZM_OP_LESS, 0, 1, -1);
    for (int steps = 5 + draw_below(&from, 35); steps; steps--) draw_operation(&from);
    static const char *const names[] = {"y", "z", "x"}; /* an output may be called as an input */
    for (int i = 0, count = 1 + draw_below(&from, 3); i < count; i++) {
        zm_id value = i ? draw_value(&from, ZM_TYPE_FLOAT) : ir->n_values - 1;
        if (ir->values[value].type == ZM_TYPE_BOOL) value = zm_ir_apply(ir, ZM_OP_FROM_BOOL, value, -1, -1);
        bool by_row = ir->values[value].level < ZM_LEVEL_ELEMENT && draw_below(&from, 2);
        zm_ir_add_output(ir, names[i], value, by_row ? ZM_LEVEL_ROW : ZM_LEVEL_ELEMENT);
    }
    if (ir->failure.code) fail_msg("%s", ir->failure.message);
    return ir;
}

#endif
