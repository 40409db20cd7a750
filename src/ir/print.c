/* SPDX-License-Identifier: MIT */
/* The text form, a line each:
 *
 *     kernel NAME                         any text up to the end of the line
 *     input NAME float|uint row|element
 *     parameter NAME
 *     seed NAME
 *     output NAME row|element = %VALUE
 *     %NUMBER = OPERATION OPERANDS        numbered from 0 in order; operands are earlier %NUMBERs, or
 *                                         constant FLOAT, load INPUT, row_gather INPUT %INDEX, parameter NAME,
 *                                         random SEED, argument NUMBER, fold %INIT %CAPTURE...
 *
 * After a fold's line come `update`, the values of that region, `result %VALUE`, the same with `combine` where
 * there is one, and `end`. Empty lines and lines that begin with # are skipped. Types and levels of values
 * follow from the operations. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "ir/passes.h"
#include "ir/rule.h"

/* The shortest decimal that reads back as the same float; every NaN is nan. */
static void print_number(zm_text *text, float number) {
    char digits[40];
    if (isnan(number) || isinf(number)) {
        zm_text_append_string(text, isnan(number) ? "nan" : number > 0 ? "inf" : "-inf");
        return;
    }
    for (int precision = 1; precision <= 9; precision++) {
        snprintf(digits, sizeof digits, "%.*g", precision, (double)number);
        if (strtof(digits, NULL) == number) break;
    }
    for (char *c = digits; *c; c++) /* the locale's decimal point */
        if (!(*c >= '0' && *c <= '9') && *c != '-' && *c != '+' && *c != 'e') *c = '.';
    zm_text_append_string(text, digits);
}

static void print_operands(zm_text *text, const zm_value *value) {
    for (int i = 0; i < zm_op_get(value->op)->arity; i++) zm_text_printf(text, " %%%d", value->operands[i]);
}

static void print_fold(zm_text *text, const zm_ir *ir, const zm_fold *fold);

static void print_value(zm_text *text, const zm_ir *ir, const zm_value *value, int id, const char *indent) {
    zm_text_printf(text, "%s%%%d = %s", indent, id, zm_op_get(value->op)->name);
    switch (value->op) {
    case ZM_OP_CONSTANT:
        zm_text_append_string(text, " ");
        print_number(text, value->number);
        break;
    case ZM_OP_LOAD:
    case ZM_OP_ROW_GATHER: zm_text_printf(text, " %s", ir->inputs[value->index].name); break;
    case ZM_OP_PARAMETER:
    case ZM_OP_RANDOM: zm_text_printf(text, " %s", ir->parameters[value->index].name); break;
    case ZM_OP_ARGUMENT: zm_text_printf(text, " %d", value->index); break;
    case ZM_OP_FOLD: print_fold(text, ir, &ir->folds[value->index]); return;
    default: break;
    }
    print_operands(text, value);
    zm_text_append_string(text, "\n");
}

static void print_region(zm_text *text, const zm_ir *ir, const char *name, const zm_region *region) {
    zm_text_printf(text, "  %s\n", name);
    for (int i = 0; i < region->n_values; i++) print_value(text, ir, &region->values[i], i, "    ");
    zm_text_printf(text, "  result %%%d\n", region->result);
}

static void print_fold(zm_text *text, const zm_ir *ir, const zm_fold *fold) {
    zm_text_printf(text, " %%%d", fold->init);
    for (int i = 0; i < fold->n_captures; i++) zm_text_printf(text, " %%%d", fold->captures[i]);
    zm_text_append_string(text, "\n");
    print_region(text, ir, "update", &fold->update);
    if (fold->combine.n_values) print_region(text, ir, "combine", &fold->combine);
    zm_text_append_string(text, "end\n");
}

void zm_ir_print(zm_text *text, const zm_ir *ir) {
    zm_text_printf(text, "kernel %s\n", ir->name);
    for (int i = 0; i < ir->n_inputs; i++)
        zm_text_printf(text, "input %s %s %s\n", ir->inputs[i].name, zm_type_name(ir->inputs[i].type),
                       zm_level_name(ir->inputs[i].level));
    for (int i = 0; i < ir->n_parameters; i++)
        zm_text_printf(text, "%s %s\n", ir->parameters[i].is_seed ? "seed" : "parameter", ir->parameters[i].name);
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "output %s %s = %%%d\n", ir->outputs[i].name, zm_level_name(ir->outputs[i].level),
                       ir->outputs[i].value);
    for (int i = 0; i < ir->n_values; i++) print_value(text, ir, &ir->values[i], i, "");
}
