/* SPDX-License-Identifier: MIT */
/* What a name in an expression stands for. */
#include <string.h>

#include "ir/lower_scope.h"

static const char columns_name[] = "D";

static const zm_binding *find_binding(const zm_frame *frame, const char *name) {
    for (int i = frame->n_bindings - 1; i >= 0; i--)
        if (!strcmp(frame->bindings[i].name, name)) return &frame->bindings[i];
    return NULL;
}

int zm_lower_find_input(const zm_lowerer *lowerer, const zm_frame *frame, const char *name) {
    if (!frame->sees_kernel || find_binding(frame, name)) return -1;
    for (int i = 0; i < lowerer->ir->n_inputs; i++)
        if (!strcmp(lowerer->ir->inputs[i].name, name)) return i;
    return -1;
}

int zm_lower_find_parameter(const zm_lowerer *lowerer, const zm_frame *frame, const char *name) {
    if (!frame->sees_kernel || find_binding(frame, name)) return -1;
    for (int i = 0; i < lowerer->ir->n_parameters; i++)
        if (!strcmp(lowerer->ir->parameters[i].name, name)) return i;
    return -1;
}

/* Names to choose from, each once. */
typedef struct candidates {
    const char **names;
    int count;
} candidates;

static void add_candidate(candidates *list, const char *name) {
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->names[i], name)) return;
    list->names[list->count++] = name;
}

static zmlx_status list_names(candidates *list, const zm_lowerer *lowerer, const zm_frame *frame) {
    const zm_ir *ir = lowerer->ir;
    size_t most = (size_t)(frame->n_bindings + ir->n_inputs + ir->n_parameters + 1);
    list->names = zm_arena_alloc(lowerer->scratch, most, sizeof *list->names);
    if (!list->names) return zm_fail_memory(lowerer->error);
    for (int i = 0; frame->sees_kernel && i < ir->n_inputs; i++) add_candidate(list, ir->inputs[i].name);
    for (int i = 0; frame->sees_kernel && i < ir->n_parameters; i++) add_candidate(list, ir->parameters[i].name);
    for (int i = 0; i < frame->n_bindings; i++) add_candidate(list, frame->bindings[i].name);
    add_candidate(list, columns_name);
    return ZMLX_OK;
}

static zmlx_status list_functions(candidates *list, const zm_lowerer *lowerer) {
    size_t most = (size_t)lowerer->functions.count + ZM_OP_COUNT;
    for (int i = 0; zm_builtin_get(i); i++) most++;
    for (int i = 0; zm_synonym_get(i, NULL); i++) most++;
    list->names = zm_arena_alloc(lowerer->scratch, most, sizeof *list->names);
    if (!list->names) return zm_fail_memory(lowerer->error);
    for (int i = 0; i < lowerer->functions.count; i++) add_candidate(list, lowerer->functions.items[i].name);
    for (int i = 0; i < ZM_OP_COUNT; i++)
        if (zm_op_get((zm_op)i)->is_function) add_candidate(list, zm_op_get((zm_op)i)->name);
    for (int i = 0; zm_builtin_get(i); i++) add_candidate(list, zm_builtin_get(i)->name);
    for (int i = 0; zm_synonym_get(i, NULL); i++) add_candidate(list, zm_synonym_get(i, NULL));
    return ZMLX_OK;
}

static bool is_listed(const candidates *list, const char *name) {
    for (int i = 0; i < list->count; i++)
        if (!strcmp(list->names[i], name)) return true;
    return false;
}

static zmlx_status fail_unknown(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    enum { MAX_LIST = 500 /* bytes */ };
    candidates names = {0}, functions = {0};
    ZM_TRY(list_names(&names, lowerer, frame));
    ZM_TRY(list_functions(&functions, lowerer));
    if (is_listed(&functions, expr->name))
        return ZM_FAIL_AT(lowerer, frame, expr, NULL, "`%s` is a function: give it arguments", expr->name);
    zm_text list = {0};
    for (int i = 0; i < names.count && list.size < MAX_LIST; i++) {
        bool fits = list.size + strlen(names.names[i]) < MAX_LIST;
        zm_text_printf(&list, "%s%s", i ? ", " : "", fits ? names.names[i] : "...");
    }
    zmlx_status status = ZM_FAIL_AT(lowerer, frame, expr, zm_nearest_name(expr->name, names.names, names.count),
                                    "unknown name `%s`; there are %s", expr->name, zm_text_string(&list));
    zm_text_free(&list);
    return status;
}

zmlx_status zm_lower_unknown_function(zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    candidates names = {0}, functions = {0};
    ZM_TRY(list_names(&names, lowerer, frame));
    ZM_TRY(list_functions(&functions, lowerer));
    if (is_listed(&names, expr->name))
        return ZM_FAIL_AT(lowerer, frame, expr, NULL, "`%s` is a value, not a function", expr->name);
    return ZM_FAIL_AT(lowerer, frame, expr, zm_nearest_name(expr->name, functions.names, functions.count),
                      "unknown function `%s`", expr->name);
}

zmlx_status zm_lower_name(zm_id *result, zm_lowerer *lowerer, const zm_frame *frame, const zm_expr *expr) {
    zm_ir *ir = lowerer->ir;
    const zm_binding *binding = find_binding(frame, expr->name);
    if (binding) {
        *result = binding->value;
        return ZMLX_OK;
    }
    int input = zm_lower_find_input(lowerer, frame, expr->name);
    int parameter = zm_lower_find_parameter(lowerer, frame, expr->name);
    if (parameter >= 0 && ir->parameters[parameter].is_seed)
        return ZM_FAIL_AT(lowerer, frame, expr, NULL, "`%s` is a seed: its only use is random(%s)", expr->name,
                          expr->name);
    if (input >= 0)
        *result = zm_ir_load(ir, input);
    else if (parameter >= 0)
        *result = zm_ir_parameter(ir, parameter);
    else if (!strcmp(expr->name, columns_name))
        *result = zm_ir_apply(ir, ZM_OP_COLUMNS, -1, -1, -1);
    else
        return fail_unknown(lowerer, frame, expr);
    return ZMLX_OK;
}
