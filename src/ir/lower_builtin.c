/* SPDX-License-Identifier: MIT */
/* Functions of expressions that are no operation of their own. */
#include <string.h>

#include "ir/lower_scope.h"

static const char *const synonyms[][2] = {
#define ZM_SYNONYM(spelling, name) {spelling, name},
#include "ir/synonyms.def"
#undef ZM_SYNONYM
};

const char *zm_synonym_get(int index, const char **op_name) {
    if ((size_t)index >= sizeof synonyms / sizeof *synonyms) return NULL;
    if (op_name) *op_name = synonyms[index][1];
    return synonyms[index][0];
}

int zm_lower_find_op(const char *name) {
    const char *op_name = name, *target;
    for (int i = 0; zm_synonym_get(i, &target); i++)
        if (!strcmp(zm_synonym_get(i, NULL), name)) op_name = target;
    for (int op = 0; op < ZM_OP_COUNT; op++)
        if (zm_op_get((zm_op)op)->is_function && !strcmp(zm_op_get((zm_op)op)->name, op_name)) return op;
    return -1;
}

static zmlx_status row_mean(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_ir *ir = lowerer->ir;
    zm_id a;
    ZM_TRY(zm_lower_expr(&a, lowerer, frame, expr->children[0]));
    zm_id sum = zm_ir_apply(ir, ZM_OP_ROW_SUM, zm_lower_to_float(ir, a), -1, -1);
    *result = zm_ir_apply(ir, ZM_OP_DIVIDE, sum, zm_ir_apply(ir, ZM_OP_COLUMNS, -1, -1, -1), -1);
    return ZMLX_OK;
}

/* A fold without a combine, which runs from left to right on every target. */
static zmlx_status row_sum_in_order(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_ir *ir = lowerer->ir, *step = zm_ir_new("sum");
    zm_id element;
    zmlx_status status = step ? zm_lower_expr(&element, lowerer, frame, expr->children[0]) : ZMLX_ERROR_MEMORY;
    zm_id *captured = status ? NULL : zm_arena_alloc(ir->arena, 1, sizeof *captured);
    zm_fold fold = {.captures = captured, .n_captures = 1};
    if (captured) {
        *captured = zm_lower_to_float(ir, element);
        fold.init = zm_ir_constant(ir, 0);
        zm_id sum = zm_ir_argument(step, 0);
        sum = zm_ir_apply(step, ZM_OP_ADD, sum, zm_ir_argument(step, 1), -1);
        const zm_region made = {step->values, step->n_values, sum, 2};
        if (zm_region_copy(&fold.update, ir->arena, &made)) *result = zm_ir_fold(ir, &fold);
    }
    if (!fold.update.n_values && !status) status = ZMLX_ERROR_MEMORY;
    zm_ir_free(step);
    return status == ZMLX_ERROR_MEMORY ? zm_fail_memory(lowerer->error) : status;
}

static zmlx_status column(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    (void)frame;
    (void)expr;
    *result = zm_ir_apply(lowerer->ir, ZM_OP_COLUMN, -1, -1, -1);
    return ZMLX_OK;
}

static zmlx_status random_number(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    const zm_expr *seed = expr->children[0];
    int parameter = seed->kind == ZM_EXPR_NAME ? zm_lower_find_parameter(lowerer, frame, seed->name) : -1;
    if (parameter < 0 || !lowerer->ir->parameters[parameter].is_seed)
        return ZM_FAIL_AT(lowerer, frame, seed, NULL, "random takes the name of a seed");
    *result = zm_ir_random(lowerer->ir, parameter);
    return ZMLX_OK;
}

static zmlx_status row_gather(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    const zm_expr *from = expr->children[0];
    int input = from->kind == ZM_EXPR_NAME ? zm_lower_find_input(lowerer, frame, from->name) : -1;
    if (input < 0) return ZM_FAIL_AT(lowerer, frame, from, NULL, "row_gather takes the name of an input first");
    zm_id index;
    ZM_TRY(zm_lower_expr(&index, lowerer, frame, expr->children[1]));
    *result = zm_ir_gather(lowerer->ir, input, zm_lower_to_uint(lowerer->ir, index));
    return ZMLX_OK;
}

/* Metal's order: the condition comes last. */
static zmlx_status select_value(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_expr conditional = *expr;
    conditional.kind = ZM_EXPR_CONDITIONAL;
    for (int i = 0; i < 3; i++) conditional.children[i] = expr->children[2 - i];
    return zm_lower_expr(result, lowerer, frame, &conditional);
}

static const zm_builtin builtins[] = {
    {"row_mean", 1, row_mean},     {"column", 0, column},       {"random", 1, random_number},
    {"row_gather", 2, row_gather}, {"select", 3, select_value},
    {"row_sum_in_order", 1, row_sum_in_order},
};

const zm_builtin *zm_builtin_get(int index) {
    return (size_t)index < sizeof builtins / sizeof *builtins ? &builtins[index] : NULL;
}

const zm_builtin *zm_builtin_find(const char *name) {
    for (size_t i = 0; i < sizeof builtins / sizeof *builtins; i++)
        if (!strcmp(builtins[i].name, name)) return &builtins[i];
    return NULL;
}
