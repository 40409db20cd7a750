/* SPDX-License-Identifier: MIT */
/* Calls: functions of the header are put in place, others are operations. */
#include <string.h>

#include "ir/lower_scope.h"

static zmlx_status check_arity(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr, int expected) {
    if (expr->n_children == expected) return ZMLX_OK;
    return ZM_FAIL_AT(lowerer, frame, expr, NULL, "%s takes %d argument%s, got %d", expr->name, expected,
                      expected == 1 ? "" : "s", expr->n_children);
}

static zmlx_status lower_arguments(zm_id *arguments, zm_lowerer *lowerer, const zm_frame *frame,
                                   const zm_expr *expr) {
    for (int i = 0; i < expr->n_children; i++) {
        zm_id value;
        ZM_TRY(zm_lower_expr(&value, lowerer, frame, expr->children[i]));
        arguments[i] = zm_lower_to_float(lowerer->ir, value);
    }
    return ZMLX_OK;
}

static const zm_function *find_function(const zm_lowerer *lowerer, const char *name) {
    for (int i = 0; i < lowerer->functions.count; i++)
        if (!strcmp(lowerer->functions.items[i].name, name)) return &lowerer->functions.items[i];
    return NULL;
}

/* The function's body with its parameters bound; it sees nothing else of the caller. */
static zmlx_status lower_function_body(zm_id *result, zm_lowerer *lowerer, const zm_frame *caller,
                                       const zm_function *function, const zm_id *arguments) {
    zm_frame frame = {.what = "header", .text = function->body->text, .function = function, .caller = caller};
    size_t room = (size_t)(function->n_parameters + function->body->n_statements);
    frame.bindings = zm_arena_alloc(lowerer->scratch, room, sizeof *frame.bindings);
    if (!frame.bindings) return zm_fail_memory(lowerer->error);
    for (int i = 0; i < function->n_parameters; i++)
        frame.bindings[frame.n_bindings++] = (zm_binding){function->parameters[i], arguments[i]};
    ZM_TRY(zm_lower_statements(result, lowerer, &frame, function->body));
    *result = zm_lower_to_float(lowerer->ir, *result);
    return ZMLX_OK;
}

static zmlx_status lower_function(zm_id *result, zm_lowerer *lowerer, const zm_frame *caller, const zm_expr *expr,
                                  const zm_function *function) {
    ZM_TRY(check_arity(lowerer, caller, expr, function->n_parameters));
    for (const zm_frame *frame = caller; frame; frame = frame->caller)
        if (frame->function == function)
            return ZM_FAIL_AT(lowerer, caller, expr, NULL, "%s calls itself; recursion is not supported",
                              expr->name);
    zm_id arguments[ZM_EXPR_MAX_ARGUMENTS];
    ZM_TRY(lower_arguments(arguments, lowerer, caller, expr));
    return lower_function_body(result, lowerer, caller, function, arguments);
}

zmlx_status zm_lower_call(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    const zm_function *function = find_function(lowerer, expr->name);
    if (function) return lower_function(result, lowerer, frame, expr, function);
    const zm_builtin *builtin = zm_builtin_find(expr->name);
    if (builtin) {
        ZM_TRY(check_arity(lowerer, frame, expr, builtin->arity));
        return builtin->lower(result, lowerer, frame, expr);
    }
    int op = zm_lower_find_op(expr->name);
    if (op < 0) return zm_lower_unknown_function(lowerer, frame, expr);
    ZM_TRY(check_arity(lowerer, frame, expr, zm_op_get((zm_op)op)->arity));
    zm_id arguments[ZM_EXPR_MAX_ARGUMENTS] = {-1, -1, -1};
    ZM_TRY(lower_arguments(arguments, lowerer, frame, expr));
    *result = zm_ir_apply(lowerer->ir, (zm_op)op, arguments[0], arguments[1], arguments[2]);
    return ZMLX_OK;
}

static zmlx_status check_function(zm_lowerer *lowerer, const zm_function *function) {
    lowerer->ir = zm_ir_new("header");
    lowerer->scratch = zm_arena_new();
    zm_id arguments[ZM_EXPR_MAX_ARGUMENTS], result;
    zmlx_status status = lowerer->ir && lowerer->scratch ? ZMLX_OK : zm_fail_memory(lowerer->error);
    if (!status) {
        for (int i = 0; i < function->n_parameters; i++) arguments[i] = zm_ir_argument(lowerer->ir, i);
        status = lower_function_body(&result, lowerer, NULL, function, arguments);
    }
    zm_arena_free(lowerer->scratch);
    zm_ir_free(lowerer->ir);
    return status;
}

zmlx_status zm_lower_check_functions(const zm_functions *functions, zmlx_error *error) {
    zm_lowerer lowerer = {.functions = *functions, .error = error};
    for (int i = 0; i < functions->count; i++) ZM_TRY(check_function(&lowerer, &functions->items[i]));
    return ZMLX_OK;
}
