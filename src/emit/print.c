/* SPDX-License-Identifier: MIT */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "emit/print.h"

enum { NAME_SIZE = 16 };

void zm_print_number(zm_text *text, float number) {
    char digits[32];
    if (isnan(number)) {
        zm_text_append_string(text, "ZM_NAN");
    } else if (isinf(number)) {
        zm_text_append_string(text, number > 0 ? "ZM_INFINITY" : "(-ZM_INFINITY)");
    } else {
        snprintf(digits, sizeof digits, "%.9g", (double)number); /* 9 digits tell any two floats apart */
        for (char *c = digits; *c; c++)                          /* the locale's decimal point */
            if (!(*c >= '0' && *c <= '9') && *c != '-' && *c != '+' && *c != 'e') *c = '.';
        zm_text_printf(text, signbit(number) ? "(%s%sf)" : "%s%sf", digits, strpbrk(digits, ".e") ? "" : ".0");
    }
}

zmlx_status zm_print_operation(zm_text *text, zm_op op, const char *const *operands, zmlx_error *error) {
    const zm_op_info *info = zm_op_get(op);
    if (info->form == ZM_FORM_INFIX && info->arity == 1) {
        zm_text_printf(text, "(%s%s)", info->spelling, operands[0]);
    } else if (info->form == ZM_FORM_INFIX) {
        zm_text_printf(text, "(%s %s %s)", operands[0], info->spelling, operands[1]);
    } else if (info->form == ZM_FORM_CALL) {
        zm_text_printf(text, "zm_%s(", info->name);
        for (int i = 0; i < info->arity; i++) zm_text_printf(text, "%s%s", i ? ", " : "", operands[i]);
        zm_text_append_string(text, ")");
    } else {
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL, "the operation %s has no spelling here", info->name);
    }
    return ZMLX_OK;
}

static zmlx_status print_region_value(zm_text *text, const zm_print_style *style, const zm_value *value,
                                      zmlx_error *error) {
    char names[3][NAME_SIZE];
    const char *operands[3] = {names[0], names[1], names[2]};
    switch (value->op) {
    case ZM_OP_ARGUMENT: zm_text_printf(text, "a%d", (int)value->index); return ZMLX_OK;
    case ZM_OP_CONSTANT:
        zm_text_append_string(text, style->number_open);
        zm_print_number(text, value->number);
        zm_text_append_string(text, style->number_close);
        return ZMLX_OK;
    default:
        for (int i = 0; i < 3; i++) snprintf(names[i], NAME_SIZE, "v%d", (int)value->operands[i]);
        return zm_print_operation(text, value->op, operands, error);
    }
}

zmlx_status zm_print_region(zm_text *text, const zm_print_style *style, const zm_region *region,
                            const zm_type *argument_types, const char *name, zmlx_error *error) {
    zm_text_printf(text, "%s %s %s(", style->function, style->types[region->values[region->result].type], name);
    for (int i = 0; i < region->n_arguments; i++)
        zm_text_printf(text, "%s%s a%d", i ? ", " : "", style->types[argument_types[i]], i);
    zm_text_append_string(text, ") {\n");
    for (int i = 0; i < region->n_values; i++) {
        zm_text_printf(text, "    %s v%d = ", style->types[region->values[i].type], i);
        ZM_TRY(print_region_value(text, style, &region->values[i], error));
        zm_text_append_string(text, ";\n");
    }
    zm_text_printf(text, "    return v%d;\n}\n", (int)region->result);
    return ZMLX_OK;
}

zmlx_status zm_print_fold(zm_text *text, const zm_print_style *style, const zm_ir *ir, int fold,
                          zmlx_error *error) {
    const zm_fold *self = &ir->folds[fold];
    zm_type type = ir->values[self->init].type;
    zm_type *types = zm_arena_alloc(ir->arena, (size_t)self->n_captures + 2, sizeof *types);
    if (!types) return zm_fail_memory(error);
    char name[NAME_SIZE + 16];
    types[0] = type;
    for (int i = 0; i < self->n_captures; i++) types[i + 1] = ir->values[self->captures[i]].type;
    snprintf(name, sizeof name, "zm_update%d", fold);
    ZM_TRY(zm_print_region(text, style, &self->update, types, name, error));
    if (!self->combine.n_values) return ZMLX_OK;
    types[1] = type;
    snprintf(name, sizeof name, "zm_combine%d", fold);
    return zm_print_region(text, style, &self->combine, types, name, error);
}
