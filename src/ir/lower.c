/* SPDX-License-Identifier: MIT */
/* Expressions and statements to values. */
#include "ir/lower.h"

#include <string.h>

#include "ir/lower_scope.h"

static bool is_type(const zm_ir *ir, zm_id value, zm_type type) {
    return value >= 0 && ir->values[value].type == type;
}

zm_id zm_lower_to_float(zm_ir *ir, zm_id value) {
    if (is_type(ir, value, ZM_TYPE_BOOL)) return zm_ir_apply(ir, ZM_OP_FROM_BOOL, value, -1, -1);
    if (is_type(ir, value, ZM_TYPE_UINT)) return zm_ir_apply(ir, ZM_OP_FROM_UINT, value, -1, -1);
    return value;
}

zm_id zm_lower_to_bool(zm_ir *ir, zm_id value) {
    if (is_type(ir, value, ZM_TYPE_BOOL)) return value;
    return zm_ir_apply(ir, ZM_OP_NOT_EQUAL, zm_lower_to_float(ir, value), zm_ir_constant(ir, 0), -1);
}

zm_id zm_lower_to_uint(zm_ir *ir, zm_id value) {
    if (is_type(ir, value, ZM_TYPE_UINT)) return value;
    return zm_ir_apply(ir, ZM_OP_TO_UINT, zm_lower_to_float(ir, value), -1, -1);
}

zmlx_status zm_lower_check(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    const zmlx_error *failure = &lowerer->ir->failure;
    if (!failure->code) return ZMLX_OK;
    if (failure->code == ZMLX_ERROR_MEMORY) return zm_fail_memory(lowerer->error);
    return ZM_FAIL_AT(lowerer, frame, expr, NULL, "%s", failure->message);
}

/* Greater is less with the operands swapped. */
static const struct {
    int operation;
    zm_op op;
    bool swapped;
} operators[] = {
    {ZM_EXPR_ADD, ZM_OP_ADD, false},
    {ZM_EXPR_SUBTRACT, ZM_OP_SUBTRACT, false},
    {ZM_EXPR_MULTIPLY, ZM_OP_MULTIPLY, false},
    {ZM_EXPR_DIVIDE, ZM_OP_DIVIDE, false},
    {ZM_EXPR_LESS, ZM_OP_LESS, false},
    {ZM_EXPR_LESS_EQUAL, ZM_OP_LESS_EQUAL, false},
    {ZM_EXPR_GREATER, ZM_OP_LESS, true},
    {ZM_EXPR_GREATER_EQUAL, ZM_OP_LESS_EQUAL, true},
    {ZM_EXPR_EQUAL, ZM_OP_EQUAL, false},
    {ZM_EXPR_NOT_EQUAL, ZM_OP_NOT_EQUAL, false},
    {ZM_EXPR_AND, ZM_OP_AND, false},
    {ZM_EXPR_OR, ZM_OP_OR, false},
};

static zm_id apply_operator(zm_ir *ir, zm_op op, zm_id a, zm_id b) {
    zm_rule rule = zm_op_get(op)->rule;
    if (rule == ZM_RULE_LOGIC) {
        a = zm_lower_to_bool(ir, a);
        b = zm_lower_to_bool(ir, b);
    } else if (rule != ZM_RULE_COMPARE || !is_type(ir, a, ZM_TYPE_UINT) || !is_type(ir, b, ZM_TYPE_UINT)) {
        a = zm_lower_to_float(ir, a);
        b = zm_lower_to_float(ir, b);
    }
    return zm_ir_apply(ir, op, a, b, -1);
}

static zmlx_status lower_binary(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_id a, b;
    ZM_TRY(zm_lower_expr(&a, lowerer, frame, expr->children[0]));
    ZM_TRY(zm_lower_expr(&b, lowerer, frame, expr->children[1]));
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++)
        if (operators[i].operation == expr->operation) {
            bool swapped = operators[i].swapped;
            *result = apply_operator(lowerer->ir, operators[i].op, swapped ? b : a, swapped ? a : b);
            return ZMLX_OK;
        }
    return ZM_FAIL_AT(lowerer, frame, expr, NULL, "unknown operator");
}

static zmlx_status lower_unary(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_ir *ir = lowerer->ir;
    zm_id a;
    ZM_TRY(zm_lower_expr(&a, lowerer, frame, expr->children[0]));
    *result = expr->operation == ZM_EXPR_NOT ? zm_ir_apply(ir, ZM_OP_NOT, zm_lower_to_bool(ir, a), -1, -1)
                                             : zm_ir_apply(ir, ZM_OP_NEGATE, zm_lower_to_float(ir, a), -1, -1);
    return ZMLX_OK;
}

static zmlx_status lower_conditional(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame,
                                     const zm_expr *expr) {
    zm_ir *ir = lowerer->ir;
    zm_id condition, a, b;
    ZM_TRY(zm_lower_expr(&condition, lowerer, frame, expr->children[0]));
    ZM_TRY(zm_lower_expr(&a, lowerer, frame, expr->children[1]));
    ZM_TRY(zm_lower_expr(&b, lowerer, frame, expr->children[2]));
    if (!is_type(ir, a, ZM_TYPE_UINT) || !is_type(ir, b, ZM_TYPE_UINT)) {
        a = zm_lower_to_float(ir, a);
        b = zm_lower_to_float(ir, b);
    }
    *result = zm_ir_apply(ir, ZM_OP_SELECT, zm_lower_to_bool(ir, condition), a, b);
    return ZMLX_OK;
}

static zmlx_status lower_kind(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    switch (expr->kind) {
    case ZM_EXPR_NUMBER: *result = zm_ir_constant(lowerer->ir, (float)expr->number); return ZMLX_OK;
    case ZM_EXPR_NAME: return zm_lower_name(result, lowerer, frame, expr);
    case ZM_EXPR_CALL: return zm_lower_call(result, lowerer, frame, expr);
    case ZM_EXPR_UNARY: return lower_unary(result, lowerer, frame, expr);
    case ZM_EXPR_BINARY: return lower_binary(result, lowerer, frame, expr);
    case ZM_EXPR_CONDITIONAL: return lower_conditional(result, lowerer, frame, expr);
    }
    return ZM_FAIL_AT(lowerer, frame, expr, NULL, "unknown kind of expression");
}

zmlx_status zm_lower_expr(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    *result = -1;
    if (lowerer->depth >= ZM_LOWER_MAX_DEPTH)
        return ZM_FAIL_AT(lowerer, frame, expr, NULL, "nested more than %d deep through functions",
                          ZM_LOWER_MAX_DEPTH);
    if (++lowerer->steps > ZM_LOWER_MAX_STEPS)
        return ZM_FAIL_AT(lowerer, frame, expr, NULL, "more than %d operations once its functions are put in",
                          ZM_LOWER_MAX_STEPS);
    lowerer->depth++;
    zmlx_status status = lower_kind(result, lowerer, frame, expr);
    lowerer->depth--;
    return status ? status : zm_lower_check(lowerer, frame, expr);
}

zmlx_status zm_lower_statements(zm_id *result, zm_lowerer *lowerer, zm_frame *frame, const zm_body *body) {
    *result = -1;
    for (int i = 0; i < body->n_statements; i++) {
        const zm_statement *statement = &body->statements[i];
        bool is_kernels = zm_lower_find_input(lowerer, frame, statement->name) >= 0 ||
                          zm_lower_find_parameter(lowerer, frame, statement->name) >= 0;
        if (statement->declared && is_kernels)
            return zm_expr_fail(lowerer->error, frame->what, frame->text, statement->column,
                                (int)strlen(statement->name), NULL,
                                "`%s` is an input or parameter; leave the type out to give it another value",
                                statement->name);
        zm_binding local = {.name = statement->name};
        ZM_TRY(zm_lower_expr(&local.value, lowerer, frame, statement->value));
        frame->bindings[frame->n_bindings++] = local;
    }
    return body->result ? zm_lower_expr(result, lowerer, frame, body->result) : ZMLX_OK;
}

/* Lowers body over copies of the bindings. */
static zmlx_status lower_in_scratch(zm_id *result, zm_binding *locals, zm_lowerer *lowerer,
                                    const zm_lowering *lowering, const zm_body *body, bool sees_kernel) {
    size_t n = (size_t)lowering->n_bindings;
    zm_frame frame = {.what = lowering->what, .text = body->text, .sees_kernel = sees_kernel};
    frame.bindings = zm_arena_alloc(lowerer->scratch, n + (size_t)body->n_statements, sizeof *frame.bindings);
    if (!frame.bindings) return zm_fail_memory(lowerer->error);
    if (n) memcpy(frame.bindings, lowering->bindings, n * sizeof *frame.bindings);
    frame.n_bindings = lowering->n_bindings;
    ZM_TRY(zm_lower_statements(result, lowerer, &frame, body));
    if (locals && body->n_statements)
        memcpy(locals, frame.bindings + n, (size_t)body->n_statements * sizeof *locals);
    return ZMLX_OK;
}

static zm_lowerer lowerer_of(const zm_lowering *lowering, zm_arena *scratch, zmlx_error *error) {
    return (zm_lowerer){.ir = lowering->ir, .functions = lowering->functions, .scratch = scratch, .error = error};
}

zmlx_status zm_lower_body(zm_id *result, zm_binding *locals, int *n_locals, const zm_lowering *lowering,
                          const zm_body *body, zmlx_error *error) {
    *result = -1;
    if (n_locals) *n_locals = 0;
    zm_arena *scratch = zm_arena_new();
    if (!scratch) return zm_fail_memory(error);
    zm_lowerer lowerer = lowerer_of(lowering, scratch, error);
    zmlx_status status = lower_in_scratch(result, locals, &lowerer, lowering, body, true);
    if (!status && n_locals) *n_locals = body->n_statements;
    zm_arena_free(scratch);
    return status;
}

zmlx_status zm_lower_formula(zm_id *result, zm_ir *ir, const char *text, const zm_binding *bindings,
                             int n_bindings, zmlx_error *error) {
    *result = -1;
    zm_arena *scratch = zm_arena_new();
    if (!scratch) return zm_fail_memory(error);
    zm_lowering lowering = {.ir = ir, .bindings = bindings, .n_bindings = n_bindings, .what = "formula"};
    zm_lowerer lowerer = lowerer_of(&lowering, scratch, error);
    const zm_body *body;
    zmlx_status status = zm_body_parse(&body, scratch, lowering.what, text, strlen(text), error);
    if (!status) status = lower_in_scratch(result, NULL, &lowerer, &lowering, body, false);
    if (!status) *result = zm_lower_to_float(ir, *result);
    zm_arena_free(scratch);
    return status ? status : zm_ir_status(ir, error);
}
