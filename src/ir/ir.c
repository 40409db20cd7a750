/* SPDX-License-Identifier: MIT */
#include "ir/ir.h"

#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ir/rule.h"

zm_ir *zm_ir_new(const char *name) {
    zm_arena *arena = zm_arena_new();
    zm_ir *ir = arena ? zm_arena_alloc(arena, 1, sizeof *ir) : NULL;
    if (!name || !name[0]) name = "kernel";
    char *copy = ir ? zm_arena_copy(arena, name, strlen(name)) : NULL;
    if (!copy) {
        zm_arena_free(arena);
        return NULL;
    }
    for (char *c = copy; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    ir->arena = arena;
    ir->name = copy;
    return ir;
}

zm_ir *zm_ir_new_like(const zm_ir *ir) {
    zm_ir *copy = zm_ir_new(ir->name);
    if (!copy) return NULL;
    for (int i = 0; i < ir->n_inputs; i++)
        zm_ir_add_input(copy, ir->inputs[i].name, ir->inputs[i].type, ir->inputs[i].level);
    for (int i = 0; i < ir->n_parameters; i++)
        zm_ir_add_parameter(copy, ir->parameters[i].name, ir->parameters[i].is_seed);
    return copy;
}

void zm_ir_free(zm_ir *ir) {
    if (ir) zm_arena_free(ir->arena);
}

zmlx_status zm_ir_status(const zm_ir *ir, zmlx_error *error) {
    if (ir->failure.code && error) *error = ir->failure;
    return ir->failure.code;
}

zmlx_status zm_ir_fail(zm_ir *ir, zmlx_status code, const char *where, const char *format, ...) {
    if (ir->failure.code) return ir->failure.code;
    char message[sizeof ir->failure.message];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return zm_fail(&ir->failure, code, where, "%s", message);
}

static void fail_memory(zm_ir *ir) { zm_ir_fail(ir, ZMLX_ERROR_MEMORY, NULL, "out of memory"); }

/* Room for one more behind count items: the storage doubles where count is a power of two. NULL, and a failure,
 * when out of memory. */
static void *with_room(zm_ir *ir, void *items, int count, size_t size) {
    if (count & (count - 1)) return items;
    void *larger = zm_arena_alloc(ir->arena, count ? (size_t)count * 2 : 1, size);
    if (!larger) {
        fail_memory(ir);
        return NULL;
    }
    if (count) memcpy(larger, items, (size_t)count * size);
    return larger;
}

/* A copy of a valid name that neither inputs nor parameters have. */
static const char *take_name(zm_ir *ir, const char *what, const char *name) {
    if (!zm_rule_name_is_valid(name)) {
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, what, "`%.40s` is no valid name", name ? name : "");
        return NULL;
    }
    bool taken = false;
    for (int i = 0; i < ir->n_inputs; i++) taken |= !strcmp(ir->inputs[i].name, name);
    for (int i = 0; i < ir->n_parameters; i++) taken |= !strcmp(ir->parameters[i].name, name);
    if (taken) {
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, what, "the name `%s` is taken", name);
        return NULL;
    }
    const char *copy = zm_arena_copy(ir->arena, name, strlen(name));
    if (!copy) fail_memory(ir);
    return copy;
}

int zm_ir_add_input(zm_ir *ir, const char *name, zm_type type, zm_level level) {
    if (ir->failure.code) return -1;
    if (type != ZM_TYPE_FLOAT && type != ZM_TYPE_UINT)
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "input", "an array holds no %s", zm_type_name(type));
    if (level != ZM_LEVEL_ELEMENT && level != ZM_LEVEL_ROW)
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "input", "neither by row nor by element");
    if (ir->n_inputs >= ZM_IR_MAX_INPUTS)
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, "input", "more than %d", ZM_IR_MAX_INPUTS);
    if (ir->failure.code) return -1;
    const char *copy = take_name(ir, "input", name);
    zm_input *inputs = copy ? with_room(ir, ir->inputs, ir->n_inputs, sizeof *inputs) : NULL;
    if (!inputs) return -1;
    ir->inputs = inputs;
    inputs[ir->n_inputs] = (zm_input){copy, type, level};
    return ir->n_inputs++;
}

int zm_ir_add_parameter(zm_ir *ir, const char *name, bool is_seed) {
    if (ir->failure.code) return -1;
    if (ir->n_parameters >= ZM_IR_MAX_PARAMETERS) {
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, "parameter", "more than %d", ZM_IR_MAX_PARAMETERS);
        return -1;
    }
    const char *copy = take_name(ir, "parameter", name);
    zm_parameter *parameters = copy ? with_room(ir, ir->parameters, ir->n_parameters, sizeof *parameters) : NULL;
    if (!parameters) return -1;
    ir->parameters = parameters;
    parameters[ir->n_parameters] = (zm_parameter){copy, is_seed};
    return ir->n_parameters++;
}

static void check_output(zm_ir *ir, const char *name, zm_id value, zm_level level) {
    if (ir->n_outputs >= ZM_IR_MAX_OUTPUTS)
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, "output", "more than %d", ZM_IR_MAX_OUTPUTS);
    if (!zm_rule_name_is_valid(name))
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "output", "`%.40s` is no valid name", name ? name : "");
    if (value < 0 || value >= ir->n_values) zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "output", "no such value");
    if (ir->failure.code) return;
    for (int i = 0; i < ir->n_outputs; i++)
        if (!strcmp(ir->outputs[i].name, name))
            zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "output", "the name `%s` is taken", name);
    if (ir->values[value].type == ZM_TYPE_BOOL)
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "output", "%s is bool; convert it", name);
    if ((level != ZM_LEVEL_ELEMENT && level != ZM_LEVEL_ROW) || ir->values[value].level > level)
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, "output", "%s: the value's level is above the output's", name);
}

void zm_ir_add_output(zm_ir *ir, const char *name, zm_id value, zm_level level) {
    if (ir->failure.code) return;
    check_output(ir, name, value, level);
    if (ir->failure.code) return;
    const char *copy = zm_arena_copy(ir->arena, name, strlen(name));
    if (!copy) fail_memory(ir);
    zm_output *outputs = copy ? with_room(ir, ir->outputs, ir->n_outputs, sizeof *outputs) : NULL;
    if (!outputs) return;
    ir->outputs = outputs;
    outputs[ir->n_outputs++] = (zm_output){copy, value, level};
}

zm_id zm_ir_append(zm_ir *ir, zm_value value) {
    if (ir->failure.code) return -1;
    if (ir->n_values >= ZM_IR_MAX_VALUES) {
        zm_ir_fail(ir, ZMLX_ERROR_UNSUPPORTED, ir->name, "more than %d values", ZM_IR_MAX_VALUES);
        return -1;
    }
    const zm_value_scope scope = {ir, ir->values, ir->n_values, false, INT_MAX};
    if (zm_rule_apply(&value, &scope, ZMLX_ERROR_ARGUMENT, &ir->failure)) return -1;
    if (ir->n_values == ir->values_capacity) {
        int capacity = ir->values_capacity ? ir->values_capacity * 2 : 32;
        zm_value *values = zm_arena_alloc(ir->arena, (size_t)capacity, sizeof *values);
        if (!values) {
            fail_memory(ir);
            return -1;
        }
        if (ir->n_values) memcpy(values, ir->values, (size_t)ir->n_values * sizeof *values);
        ir->values = values;
        ir->values_capacity = capacity;
    }
    ir->values[ir->n_values] = value;
    return ir->n_values++;
}

zm_id zm_ir_constant(zm_ir *ir, float number) {
    return zm_ir_append(ir, (zm_value){.op = ZM_OP_CONSTANT, .operands = {-1, -1, -1}, .number = number});
}

static zm_id indexed(zm_ir *ir, zm_op op, int32_t index, zm_id operand) {
    return zm_ir_append(ir, (zm_value){.op = op, .operands = {operand, -1, -1}, .index = index});
}

zm_id zm_ir_load(zm_ir *ir, int input) { return indexed(ir, ZM_OP_LOAD, input, -1); }
zm_id zm_ir_parameter(zm_ir *ir, int parameter) { return indexed(ir, ZM_OP_PARAMETER, parameter, -1); }
zm_id zm_ir_random(zm_ir *ir, int parameter) { return indexed(ir, ZM_OP_RANDOM, parameter, -1); }
zm_id zm_ir_argument(zm_ir *ir, int number) { return indexed(ir, ZM_OP_ARGUMENT, number, -1); }
zm_id zm_ir_gather(zm_ir *ir, int input, zm_id index) { return indexed(ir, ZM_OP_ROW_GATHER, input, index); }

zm_id zm_ir_apply(zm_ir *ir, zm_op op, zm_id a, zm_id b, zm_id c) {
    if (ir->failure.code) return -1;
    if ((int)op < 0 || op >= ZM_OP_COUNT) {
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, NULL, "operation %d: unknown", (int)op);
        return -1;
    }
    zm_rule rule = zm_op_get(op)->rule;
    bool leaf = rule == ZM_RULE_LEAF && op != ZM_OP_COLUMN && op != ZM_OP_COLUMNS;
    if (leaf || rule == ZM_RULE_GATHER || rule == ZM_RULE_FOLD) {
        zm_ir_fail(ir, ZMLX_ERROR_ARGUMENT, NULL, "%s: needs more than operands", zm_op_get(op)->name);
        return -1;
    }
    return zm_ir_append(ir, (zm_value){.op = op, .operands = {a, b, c}});
}

zm_id zm_ir_fold(zm_ir *ir, const zm_fold *fold) {
    if (ir->failure.code) return -1;
    zm_fold *folds = with_room(ir, ir->folds, ir->n_folds, sizeof *folds);
    if (!folds) return -1;
    ir->folds = folds;
    folds[ir->n_folds++] = *fold;
    return indexed(ir, ZM_OP_FOLD, ir->n_folds - 1, -1);
}

bool zm_region_copy(zm_region *copy, zm_arena *arena, const zm_region *region) {
    *copy = *region;
    if (!region->n_values) return true;
    copy->values = zm_arena_alloc(arena, (size_t)region->n_values, sizeof *copy->values);
    if (!copy->values) return false;
    memcpy(copy->values, region->values, (size_t)region->n_values * sizeof *copy->values);
    return true;
}

static zm_id copy_fold(zm_ir *ir, const zm_fold *fold, const zm_id *map) {
    zm_fold copy = {.init = map[fold->init], .n_captures = fold->n_captures};
    copy.captures = zm_arena_alloc(ir->arena, (size_t)fold->n_captures, sizeof *copy.captures);
    if (!copy.captures || !zm_region_copy(&copy.update, ir->arena, &fold->update) ||
        !zm_region_copy(&copy.combine, ir->arena, &fold->combine)) {
        fail_memory(ir);
        return -1;
    }
    for (int i = 0; i < fold->n_captures; i++) copy.captures[i] = map[fold->captures[i]];
    return zm_ir_fold(ir, &copy);
}

zm_id zm_ir_copy_value(zm_ir *ir, const zm_ir *from, zm_id value, const zm_id *map) {
    zm_value copy = from->values[value];
    if (copy.op == ZM_OP_FOLD) return ir->failure.code ? -1 : copy_fold(ir, &from->folds[copy.index], map);
    for (int i = 0; i < 3; i++)
        if (copy.operands[i] >= 0) copy.operands[i] = map[copy.operands[i]];
    return zm_ir_append(ir, copy);
}

int zm_ir_operand_count(const zm_ir *ir, zm_id value) {
    const zm_value *item = &ir->values[value];
    return item->op == ZM_OP_FOLD ? 1 + ir->folds[item->index].n_captures : zm_op_get(item->op)->arity;
}

zm_id zm_ir_operand(const zm_ir *ir, zm_id value, int i) {
    const zm_value *item = &ir->values[value];
    if (item->op != ZM_OP_FOLD) return item->operands[i];
    const zm_fold *fold = &ir->folds[item->index];
    return i ? fold->captures[i - 1] : fold->init;
}

bool zm_ir_has_rows(const zm_ir *ir) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (ir->inputs[i].level == ZM_LEVEL_ROW) return true;
    for (int i = 0; i < ir->n_outputs; i++)
        if (ir->outputs[i].level == ZM_LEVEL_ROW) return true;
    for (int i = 0; i < ir->n_values; i++) {
        zm_op op = ir->values[i].op;
        if (zm_op_get(op)->rule >= ZM_RULE_REDUCE || op == ZM_OP_COLUMNS || op == ZM_OP_COLUMN) return true;
    }
    return false;
}
