/* SPDX-License-Identifier: MIT */
#include "ir/rule.h"

#include <string.h>

static const char *const level_names[] = {"uniform", "row", "element"};

const char *zm_level_name(zm_level level) { return level_names[level]; }

bool zm_rule_name_is_valid(const char *name) {
    if (!name) return false;
    size_t size = strlen(name);
    if (!size || size > ZM_IR_MAX_NAME || (name[0] >= '0' && name[0] <= '9')) return false;
    for (size_t i = 0; i < size; i++) {
        char c = name[i];
        bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
        if (!letter && c != '_' && !(c >= '0' && c <= '9')) return false;
    }
    return true;
}

static zm_level highest(zm_level a, zm_level b) { return a > b ? a : b; }

/* One failing value: its operation and where to say so. */
typedef struct refusal {
    const char *name;
    zmlx_status code;
    zmlx_error *error;
} refusal;

static zmlx_status refuse(const refusal *from, const char *what) {
    return zm_fail(from->error, from->code, NULL, "%s: %s", from->name, what);
}

static zmlx_status refuse_type(const refusal *from, int operand, zm_type got, zm_type expected) {
    return zm_fail(from->error, from->code, NULL, "%s: operand %d is %s, expected %s", from->name, operand + 1,
                   zm_type_name(got), zm_type_name(expected));
}

static zmlx_status check_operands(const zm_value *value, const zm_value_scope *scope, int arity,
                                  const refusal *from) {
    for (int i = 0; i < 3; i++) {
        zm_id id = value->operands[i];
        if (i >= arity ? id != -1 : id < 0 || id >= scope->n_values)
            return zm_fail(from->error, from->code, NULL,
                           i >= arity ? "%s: more than %d operands" : "%s: operand %d is missing or no earlier value",
                           from->name, i >= arity ? arity : i + 1);
    }
    return ZMLX_OK;
}

static zmlx_status check_types(const zm_value *const operands[3], int arity, zm_type expected, const refusal *from) {
    for (int i = 0; i < arity; i++)
        if (operands[i]->type != expected) return refuse_type(from, i, operands[i]->type, expected);
    return ZMLX_OK;
}

static zmlx_status leaf(zm_value *value, const zm_value_scope *scope, const refusal *from) {
    const zm_ir *ir = scope->ir;
    value->type = ZM_TYPE_FLOAT;
    value->level = ZM_LEVEL_UNIFORM;
    if (value->op == ZM_OP_ARGUMENT) {
        if (value->index < 0 || value->index >= scope->n_arguments) return refuse(from, "no such argument here");
        value->level = ZM_LEVEL_ELEMENT;
        return ZMLX_OK;
    }
    if (value->op == ZM_OP_CONSTANT) return ZMLX_OK;
    if (scope->is_region) return refuse(from, "not allowed in a fold's region");
    switch (value->op) {
    case ZM_OP_LOAD:
        if (value->index < 0 || value->index >= ir->n_inputs) return refuse(from, "no such input");
        value->type = ir->inputs[value->index].type;
        value->level = ir->inputs[value->index].level;
        break;
    case ZM_OP_PARAMETER:
    case ZM_OP_RANDOM:
        if (value->index < 0 || value->index >= ir->n_parameters) return refuse(from, "no such parameter");
        if (ir->parameters[value->index].is_seed != (value->op == ZM_OP_RANDOM))
            return refuse(from, value->op == ZM_OP_RANDOM ? "its parameter is no seed" : "its parameter is a seed");
        if (value->op == ZM_OP_RANDOM) value->level = ZM_LEVEL_ELEMENT;
        break;
    case ZM_OP_COLUMN:
        value->type = ZM_TYPE_UINT;
        value->level = ZM_LEVEL_ELEMENT;
        break;
    default: break;
    }
    return ZMLX_OK;
}

static zmlx_status compare(zm_value *value, const zm_value *const operands[3], const refusal *from) {
    value->type = ZM_TYPE_BOOL;
    if (operands[0]->type == ZM_TYPE_BOOL) return refuse_type(from, 0, ZM_TYPE_BOOL, ZM_TYPE_FLOAT);
    return check_types(operands, 2, operands[0]->type, from);
}

static zmlx_status select_rule(zm_value *value, const zm_value *const operands[3], const refusal *from) {
    value->type = operands[1]->type;
    ZM_TRY(check_types(operands, 1, ZM_TYPE_BOOL, from));
    return operands[2]->type == value->type ? ZMLX_OK : refuse_type(from, 2, operands[2]->type, value->type);
}

static zmlx_status convert(zm_value *value, const zm_value *const operands[3], const refusal *from) {
    value->type = value->op == ZM_OP_TO_UINT ? ZM_TYPE_UINT : ZM_TYPE_FLOAT;
    zm_type expected = value->op == ZM_OP_TO_UINT    ? ZM_TYPE_FLOAT
                       : value->op == ZM_OP_FROM_BOOL ? ZM_TYPE_BOOL
                                                      : ZM_TYPE_UINT;
    return check_types(operands, 1, expected, from);
}

static zmlx_status gather(zm_value *value, const zm_value *const operands[3], const zm_value_scope *scope,
                          const refusal *from) {
    value->type = ZM_TYPE_FLOAT;
    value->level = highest(operands[0]->level, ZM_LEVEL_ROW);
    if (value->index < 0 || value->index >= scope->ir->n_inputs) return refuse(from, "no such input");
    const zm_input *input = &scope->ir->inputs[value->index];
    if (input->type != ZM_TYPE_FLOAT || input->level != ZM_LEVEL_ELEMENT)
        return zm_fail(from->error, from->code, NULL, "%s: input %s is no row of floats", from->name, input->name);
    return check_types(operands, 1, ZM_TYPE_UINT, from);
}

static zmlx_status fold(zm_value *value, const zm_value_scope *scope, const refusal *from) {
    const zm_ir *ir = scope->ir;
    if (value->index < 0 || value->index >= ir->n_folds) return refuse(from, "no such fold");
    const zm_fold *item = &ir->folds[value->index];
    value->type = ZM_TYPE_FLOAT;
    value->level = ZM_LEVEL_ROW;
    if (item->n_captures < 0 || item->n_captures > ZM_IR_MAX_CAPTURES) return refuse(from, "too many captures");
    for (int i = 0; i <= item->n_captures; i++) {
        zm_id id = i ? item->captures[i - 1] : item->init;
        if (id < 0 || id >= scope->n_values)
            return zm_fail(from->error, from->code, NULL, "%s: operand %d is missing or no earlier value", from->name,
                           i + 1);
        if (scope->values[id].type != ZM_TYPE_FLOAT)
            return refuse_type(from, i, scope->values[id].type, ZM_TYPE_FLOAT);
    }
    if (scope->values[item->init].level == ZM_LEVEL_ELEMENT) return refuse(from, "init differs by element");
    ZM_TRY(zm_rule_check_region(ir, &item->update, "update", item->n_captures + 1, from->code, from->error));
    if (!item->combine.n_values) return ZMLX_OK;
    return zm_rule_check_region(ir, &item->combine, "combine", 2, from->code, from->error);
}

static bool is_pointwise(zm_rule rule) { return rule >= ZM_RULE_FLOAT && rule <= ZM_RULE_CONVERT; }

static zmlx_status pointwise(zm_value *value, const zm_value *const operands[3], const zm_op_info *info,
                             const refusal *from) {
    value->level = ZM_LEVEL_UNIFORM;
    for (int i = 0; i < info->arity; i++) value->level = highest(value->level, operands[i]->level);
    value->type = info->rule == ZM_RULE_FLOAT ? ZM_TYPE_FLOAT : ZM_TYPE_BOOL;
    switch (info->rule) {
    case ZM_RULE_COMPARE: return compare(value, operands, from);
    case ZM_RULE_SELECT: return select_rule(value, operands, from);
    case ZM_RULE_CONVERT: return convert(value, operands, from);
    case ZM_RULE_LOGIC: return check_types(operands, info->arity, ZM_TYPE_BOOL, from);
    default: return check_types(operands, info->arity, ZM_TYPE_FLOAT, from);
    }
}

zmlx_status zm_rule_apply(zm_value *value, const zm_value_scope *scope, zmlx_status code, zmlx_error *error) {
    if ((int)value->op < 0 || value->op >= ZM_OP_COUNT)
        return zm_fail(error, code, NULL, "operation %d: unknown", (int)value->op);
    const zm_op_info *info = zm_op_get(value->op);
    const refusal from = {.name = info->name, .code = code, .error = error};
    ZM_TRY(check_operands(value, scope, info->arity, &from));
    const zm_value *operands[3] = {NULL, NULL, NULL};
    for (int i = 0; i < info->arity; i++) operands[i] = &scope->values[value->operands[i]];
    if (info->rule == ZM_RULE_LEAF) return leaf(value, scope, &from);
    if (is_pointwise(info->rule)) return pointwise(value, operands, info, &from);
    if (scope->is_region) return refuse(&from, "not allowed in a fold's region");
    if (info->rule == ZM_RULE_GATHER) return gather(value, operands, scope, &from);
    if (info->rule == ZM_RULE_FOLD) return fold(value, scope, &from);
    value->type = value->op == ZM_OP_ROW_ARGMAX ? ZM_TYPE_UINT : ZM_TYPE_FLOAT;
    value->level = info->rule == ZM_RULE_SCAN ? ZM_LEVEL_ELEMENT : ZM_LEVEL_ROW;
    return check_types(operands, 1, ZM_TYPE_FLOAT, &from);
}

static zmlx_status fail_in_region(const char *what, int value, zmlx_status code, zmlx_error *error) {
    char reason[sizeof error->message] = "";
    if (error) memcpy(reason, error->message, sizeof reason);
    return zm_fail(error, code, NULL, "fold: %s: %%%d: %.900s", what, value, reason);
}

zmlx_status zm_rule_check_region(const zm_ir *ir, const zm_region *region, const char *what, int n_arguments,
                                 zmlx_status code, zmlx_error *error) {
    if (region->n_arguments != n_arguments)
        return zm_fail(error, code, NULL, "fold: %s: %d arguments, expected %d", what, region->n_arguments,
                       n_arguments);
    if (region->n_values < 0 || region->n_values > ZM_IR_MAX_VALUES || region->result < 0 ||
        region->result >= region->n_values)
        return zm_fail(error, code, NULL, "fold: %s: no result", what);
    zm_value_scope scope = {ir, region->values, 0, true, n_arguments};
    for (; scope.n_values < region->n_values; scope.n_values++) {
        const zm_value *value = &region->values[scope.n_values];
        zm_value expected = *value;
        if (zm_rule_apply(&expected, &scope, code, error)) return fail_in_region(what, scope.n_values, code, error);
        if (expected.type != value->type || expected.level != value->level)
            return zm_fail(error, code, NULL, "fold: %s: %%%d: type or level not by the rule", what, scope.n_values);
    }
    if (region->values[region->result].type != ZM_TYPE_FLOAT)
        return zm_fail(error, code, NULL, "fold: %s: the result is no float", what);
    return ZMLX_OK;
}
