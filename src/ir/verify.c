/* SPDX-License-Identifier: MIT */
#include <string.h>

#include "ir/passes.h"
#include "ir/rule.h"

/* A name of this kind that no earlier one equals. */
static zmlx_status check_name(const zm_ir *ir, const char *what, const char *name, int n_inputs, int n_parameters,
                              zmlx_error *error) {
    if (!zm_rule_name_is_valid(name))
        return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "%s: `%.40s` is no valid name", what, name ? name : "");
    bool taken = false;
    for (int i = 0; i < n_inputs; i++) taken |= !strcmp(ir->inputs[i].name, name);
    for (int i = 0; i < n_parameters; i++) taken |= !strcmp(ir->parameters[i].name, name);
    return taken ? zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "%s: the name `%s` is taken", what, name) : ZMLX_OK;
}

static zmlx_status check_counts(const zm_ir *ir, zmlx_error *error) {
    const struct {
        const char *what;
        int count, least, most;
    } counts[] = {{"inputs", ir->n_inputs, 0, ZM_IR_MAX_INPUTS},
                  {"parameters", ir->n_parameters, 0, ZM_IR_MAX_PARAMETERS},
                  {"outputs", ir->n_outputs, 1, ZM_IR_MAX_OUTPUTS},
                  {"values", ir->n_values, 1, ZM_IR_MAX_VALUES},
                  {"folds", ir->n_folds, 0, ZM_IR_MAX_VALUES}};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++)
        if (counts[i].count < counts[i].least || counts[i].count > counts[i].most)
            return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "%d %s, not %d to %d", counts[i].count, counts[i].what,
                           counts[i].least, counts[i].most);
    return ZMLX_OK;
}

static zmlx_status check_frame(const zm_ir *ir, zmlx_error *error) {
    for (int i = 0; i < ir->n_inputs; i++) {
        const zm_input *input = &ir->inputs[i];
        ZM_TRY(check_name(ir, "input", input->name, i, 0, error));
        if (input->type != ZM_TYPE_FLOAT && input->type != ZM_TYPE_UINT)
            return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "input %s: neither float nor uint", input->name);
        if (input->level != ZM_LEVEL_ROW && input->level != ZM_LEVEL_ELEMENT)
            return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "input %s: neither row nor element", input->name);
    }
    for (int i = 0; i < ir->n_parameters; i++)
        ZM_TRY(check_name(ir, "parameter", ir->parameters[i].name, ir->n_inputs, i, error));
    return ZMLX_OK;
}

static zmlx_status fail_value(zm_id id, zmlx_error *error) {
    char reason[sizeof error->message] = "";
    if (error) memcpy(reason, error->message, sizeof reason);
    return zm_fail(error, ZMLX_ERROR_FORMAT, NULL, "%%%d: %.1000s", id, reason);
}

static zmlx_status check_values(const zm_ir *ir, zmlx_error *error) {
    zm_value_scope scope = {ir, ir->values, 0, false, 0};
    for (; scope.n_values < ir->n_values; scope.n_values++) {
        const zm_value *value = &ir->values[scope.n_values];
        zm_value expected = *value;
        if (zm_rule_apply(&expected, &scope, ZMLX_ERROR_FORMAT, error)) return fail_value(scope.n_values, error);
        if (expected.type != value->type || expected.level != value->level)
            return zm_fail(error, ZMLX_ERROR_FORMAT, NULL, "%%%d: %s: %s not by the rule", scope.n_values,
                           zm_op_get(value->op)->name, expected.type != value->type ? "type" : "level");
    }
    return ZMLX_OK;
}

static zmlx_status check_outputs(const zm_ir *ir, zmlx_error *error) {
    for (int i = 0; i < ir->n_outputs; i++) {
        const zm_output *output = &ir->outputs[i];
        ZM_TRY(check_name(ir, "output", output->name, 0, 0, error));
        const char *reason = NULL;
        for (int j = 0; j < i; j++)
            if (!strcmp(ir->outputs[j].name, output->name)) reason = "the name is taken";
        if (output->level != ZM_LEVEL_ROW && output->level != ZM_LEVEL_ELEMENT) reason = "neither row nor element";
        if (output->value < 0 || output->value >= ir->n_values)
            reason = "no such value";
        else if (ir->values[output->value].type == ZM_TYPE_BOOL)
            reason = "its value is bool";
        else if (ir->values[output->value].level > output->level)
            reason = "its value's level is above the output's";
        if (reason) return zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "output %s: %s", output->name, reason);
    }
    return ZMLX_OK;
}

zmlx_status zm_ir_verify(const zm_ir *ir, zmlx_error *error) {
    ZM_TRY(zm_ir_status(ir, error));
    for (const char *c = ir->name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return zm_fail(error, ZMLX_ERROR_FORMAT, NULL, "the kernel's name has a control character");
    ZM_TRY(check_counts(ir, error));
    ZM_TRY(check_frame(ir, error));
    ZM_TRY(check_values(ir, error));
    return check_outputs(ir, error);
}
