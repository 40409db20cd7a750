/* SPDX-License-Identifier: MIT */
#include "ir/grad.h"

#include <string.h>

#include "ir/lower.h"

static const char *text_of(const zm_grad *grad, zm_id value, int i) {
    zm_op op = grad->from->values[value].op;
    return op == ZM_OP_FOLD ? NULL : zm_op_get(op)->vjp[i];
}

bool zm_grad_enters(const zm_grad *grad, zm_id value, int i) {
    if (!grad->active[zm_ir_operand(grad->from, value, i)]) return false;
    const char *text = text_of(grad, value, i);
    return !text || text[0];
}

static bool is_active(const zm_grad *grad, zm_id id, const bool *chosen) {
    const zm_value *value = &grad->from->values[id];
    if (value->type != ZM_TYPE_FLOAT) return false;
    if (value->op == ZM_OP_LOAD || value->op == ZM_OP_ROW_GATHER) return chosen[value->index];
    for (int i = 0; i < zm_ir_operand_count(grad->from, id); i++)
        if (zm_grad_enters(grad, id, i)) return true;
    return false;
}

zmlx_status zm_grad_begin(zm_grad *grad, const zm_ir *from, const char *suffix, const bool *chosen,
                          zmlx_error *error) {
    *grad = (zm_grad){.from = from};
    ZM_TRY(zm_ir_status(from, error));
    zm_ir *ir = grad->ir = zm_ir_new_like(from);
    if (!ir) return zm_fail_memory(error);
    size_t n = (size_t)from->n_values;
    grad->map = zm_arena_alloc(ir->arena, n, sizeof *grad->map);
    grad->active = zm_arena_alloc(ir->arena, n, sizeof *grad->active);
    ir->name = zm_arena_printf(ir->arena, "%s%s", from->name, suffix);
    if (!grad->map || !grad->active || !ir->name) {
        zm_grad_end(grad);
        return zm_fail_memory(error);
    }
    for (int i = 0; i < from->n_values; i++) {
        grad->map[i] = -1;
        grad->active[i] = is_active(grad, i, chosen);
    }
    return ZMLX_OK;
}

void zm_grad_end(zm_grad *grad) {
    zm_ir_free(grad->ir);
    *grad = (zm_grad){0};
}

static bool is_taken(const zm_ir *ir, const char *name) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (!strcmp(ir->inputs[i].name, name)) return true;
    for (int i = 0; i < ir->n_parameters; i++)
        if (!strcmp(ir->parameters[i].name, name)) return true;
    return false;
}

static void fail_memory(zm_ir *ir) { zm_ir_fail(ir, ZMLX_ERROR_MEMORY, NULL, "out of memory"); }

int zm_grad_add_input(zm_grad *grad, const char *prefix, const char *name, zm_level level) {
    zm_ir *ir = grad->ir;
    char *full = zm_arena_printf(ir->arena, "%s%s", prefix, name);
    while (full && is_taken(ir, full)) full = zm_arena_printf(ir->arena, "%s_", full);
    if (!full) fail_memory(ir);
    if (full && ir->n_inputs == ZM_IR_MAX_INPUTS)
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, grad->from->name,
                   "a derivative takes more than %d arrays: inputs and cotangents, or inputs and tangents",
                   ZM_IR_MAX_INPUTS);
    return full ? zm_ir_add_input(ir, full, ZM_TYPE_FLOAT, level) : -1;
}

zmlx_status zm_grad_copy_values(zm_grad *grad, zmlx_error *error) {
    for (int i = 0; i < grad->from->n_values; i++) {
        if (grad->map[i] < 0) grad->map[i] = zm_ir_copy_value(grad->ir, grad->from, i, grad->map);
        ZM_TRY(zm_ir_status(grad->ir, error));
    }
    return ZMLX_OK;
}

zmlx_status zm_grad_refuse(const zm_grad *grad, zm_id value, zmlx_error *error) {
    zm_op op = grad->from->values[value].op;
    const char *what = op == ZM_OP_FOLD         ? "a reduction by steps of its own or from left to right"
                       : op == ZM_OP_ROW_GATHER ? "row_gather with a column that differs by element"
                                                : zm_op_get(op)->name;
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, grad->from->name, "%s has no derivative", what);
}

zmlx_status zm_grad_text(zm_id *result, zm_grad *grad, zm_id value, int i, zm_id g, zmlx_error *error) {
    static const char *const names[] = {"a", "b", "c"};
    const char *text = text_of(grad, value, i);
    if (!text) return zm_grad_refuse(grad, value, error);
    ZM_TRY(zm_ir_status(grad->ir, error));
    zm_binding bindings[5] = {{"g", g}, {"y", grad->map[value]}};
    int n_bindings = 2;
    for (int k = 0; k < zm_ir_operand_count(grad->from, value); k++)
        bindings[n_bindings++] = (zm_binding){names[k], grad->map[zm_ir_operand(grad->from, value, k)]};
    return zm_lower_formula(result, grad->ir, text, bindings, n_bindings, error);
}

zm_id zm_grad_sum_row(zm_grad *grad, zm_id value) {
    zm_ir *ir = grad->ir;
    if (ir->failure.code) return -1;
    if (ir->values[value].level == ZM_LEVEL_ELEMENT) return zm_ir_apply(ir, ZM_OP_ROW_SUM, value, -1, -1);
    return zm_ir_apply(ir, ZM_OP_MULTIPLY, value, zm_ir_apply(ir, ZM_OP_COLUMNS, -1, -1, -1), -1);
}

void zm_grad_add_output(zm_grad *grad, const char *prefix, const char *name, zm_id value, zm_level level) {
    zm_ir *ir = grad->ir;
    if (ir->failure.code) return;
    const char *full = zm_arena_printf(ir->arena, "%s%s", prefix, name);
    if (!full)
        fail_memory(ir);
    else
        zm_ir_add_output(ir, full, value < 0 ? zm_ir_constant(ir, 0) : value, level);
}

zmlx_status zm_grad_finish(zm_ir **finished, const zm_grad *grad, zmlx_error *error) {
    ZM_TRY(zm_ir_status(grad->ir, error));
    return zm_ir_simplify(finished, grad->ir, error);
}
