/* SPDX-License-Identifier: MIT */
/* Row reductions. All are accumulated lane by lane in a[], an order that depends on the number of columns only.
 * Sums and folds are flushed block by block: a sum into a float64 number, a fold with a combine into a stack of
 * partial results that grows like a binary counter. Both keep the error of long rows at that of a block. */
#include <stdio.h>

#include "emit/c/frame.h"
#include "emit/print.h"

typedef struct kind {
    const char *neutral; /* of the accumulator's lanes */
    const char *merge;   /* of two vectors */
    const char *over;    /* the lanes of one */
} kind;

static kind get_kind(zm_op op) {
    switch (op) {
    case ZM_OP_ROW_PROD: return (kind){"zm_splat(1.0f)", "*", "zm_prod"};
    case ZM_OP_ROW_MAX: return (kind){"zm_splat(-ZM_INFINITY)", "zm_max", "zm_max"};
    case ZM_OP_ROW_MIN: return (kind){"zm_splat(ZM_INFINITY)", "zm_min", "zm_min"};
    case ZM_OP_ROW_ARGMAX: return (kind){"zm_splat(-ZM_INFINITY)", "", ""};
    default: return (kind){"zm_splat(0.0f)", "+", "zm_sum"};
    }
}

static const zm_fold *get_fold(const zm_c_frame *frame, zm_id id) {
    const zm_value *value = &frame->ir->values[id];
    return value->op == ZM_OP_FOLD ? &frame->ir->folds[value->index] : NULL;
}

static void write_neutral(zm_c_frame *frame, zm_id id) {
    const zm_fold *fold = get_fold(frame, id);
    if (fold)
        zm_text_printf(frame->text, "v%d", (int)fold->init);
    else
        zm_text_append_string(frame->text, get_kind(frame->ir->values[id].op).neutral);
}

static void write_reset(zm_c_frame *frame, zm_id id, int n_accumulators, const char *indent) {
    for (int i = 0; i < n_accumulators; i++) {
        zm_text_printf(frame->text, "%sa%d[%d] = ", indent, (int)id, i);
        write_neutral(frame, id);
        zm_text_append_string(frame->text, ";\n");
    }
}

void zm_c_write_accumulators(zm_c_frame *frame, zm_id id, int n_accumulators) {
    const zm_fold *fold = get_fold(frame, id);
    zm_op op = frame->ir->values[id].op;
    if (op == ZM_OP_ROW_EXP_SUM) {
        zm_text_printf(frame->text, "            zm_exps a%d = zm_no_exps();\n", (int)id);
        zm_text_printf(frame->text, "            vf t%d[%d];\n", (int)id, n_accumulators);
        return;
    }
    if (fold && !fold->combine.n_values) n_accumulators = 1;
    zm_text_printf(frame->text, "            vf a%d[%d];\n", (int)id, n_accumulators);
    write_reset(frame, id, n_accumulators, "            ");
    if (op == ZM_OP_ROW_SUM) zm_text_printf(frame->text, "            double total%d = 0;\n", (int)id);
    if (op == ZM_OP_ROW_ARGMAX) {
        zm_text_printf(frame->text, "            vu at%d[%d];\n", (int)id, n_accumulators);
        for (int i = 0; i < n_accumulators; i++)
            zm_text_printf(frame->text, "            at%d[%d] = zm_splat_uint(0xffffffffu);\n", (int)id, i);
    }
    if (fold && fold->combine.n_values)
        zm_text_printf(frame->text, "            zm_partials partials%d;\n            partials%d.n_blocks = 0;\n",
                       (int)id, (int)id);
}

/* update(accumulator, captures...), a capture of elements as one of its lanes where lane is not NULL. */
static void write_update(zm_c_frame *frame, zm_id id, const char *accumulator, const char *lane) {
    const zm_fold *fold = get_fold(frame, id);
    zm_text_printf(frame->text, "zm_update%d(a%d[%s]", (int)frame->ir->values[id].index, (int)id, accumulator);
    for (int i = 0; i < fold->n_captures; i++) {
        bool is_element = frame->ir->values[fold->captures[i]].level == ZM_LEVEL_ELEMENT;
        zm_c_name name = zm_c_name_of(frame, fold->captures[i]);
        zm_text_printf(frame->text, is_element && lane ? ", zm_splat(%s[%s])" : ", %s", name.text, lane);
    }
    zm_text_append_string(frame->text, ")");
}

static void write_fold_step(zm_c_frame *frame, zm_id id, zm_c_extent extent, const char *accumulator,
                            const char *indent) {
    zm_text *text = frame->text;
    if (!get_fold(frame, id)->combine.n_values) { /* strictly from left to right */
        zm_text_printf(text, "%sfor (int lane = 0; lane < %s; lane++) a%d[0] = ", indent,
                       extent == ZM_C_PART ? "count" : "ZM_WIDTH", (int)id);
        write_update(frame, id, "0", "lane");
        zm_text_append_string(text, ";\n");
        return;
    }
    zm_text_printf(text, "%sa%d[%s] = ", indent, (int)id, accumulator);
    if (extent == ZM_C_PART) zm_text_append_string(text, "zm_select(zm_first_lanes(count), ");
    write_update(frame, id, accumulator, NULL);
    if (extent == ZM_C_PART) zm_text_printf(text, ", a%d[%s])", (int)id, accumulator);
    zm_text_append_string(text, ";\n");
}

void zm_c_write_step(zm_c_frame *frame, zm_id id, bool reversed, zm_c_extent extent, const char *accumulator,
                     const char *indent) {
    const zm_value *value = &frame->ir->values[id];
    zm_text *text = frame->text;
    zm_c_name given = zm_c_name_of(frame, value->operands[0]);
    if (value->op == ZM_OP_FOLD) {
        write_fold_step(frame, id, extent, accumulator, indent);
        return;
    }
    kind self = get_kind(value->op);
    if (value->op == ZM_OP_ROW_EXP_SUM) {
        if (extent == ZM_C_PART)
            zm_text_printf(text, "%st%d[0] = zm_select(zm_first_lanes(count), %s, zm_splat(-ZM_INFINITY));\n", indent,
                           (int)id, given.text);
        else
            zm_text_printf(text, "%st%d[%s] = %s;\n", indent, (int)id, accumulator, given.text);
        return;
    }
    if (extent == ZM_C_PART) {
        zm_text_printf(text, "%sconst vf x%d = zm_select(zm_first_lanes(count), %s, %s);\n", indent, (int)id,
                       given.text, self.neutral);
        snprintf(given.text, sizeof given.text, "x%d", (int)id);
    }
    if (value->op == ZM_OP_ROW_ARGMAX)
        zm_text_printf(
            text, "%szm_argmax_step(&a%d[%s], &at%d[%s], %s, zm_iota() + zm_splat_uint((zm_uint)(%s)), %d);\n", indent,
            (int)id, accumulator, (int)id, accumulator, given.text, zm_c_column(frame), (int)reversed);
    else if (self.merge[0] == 'z')
        zm_text_printf(text, "%sa%d[%s] = %s(a%d[%s], %s);\n", indent, (int)id, accumulator, self.merge, (int)id,
                       accumulator, given.text);
    else
        zm_text_printf(text, "%sa%d[%s] = a%d[%s] %s %s;\n", indent, (int)id, accumulator, (int)id, accumulator,
                       self.merge, given.text);
}

void zm_c_write_step_end(zm_c_frame *frame, zm_id id, int n_vectors, const char *indent) {
    if (frame->ir->values[id].op == ZM_OP_ROW_EXP_SUM)
        zm_text_printf(frame->text, "%szm_add_exps(&a%d, t%d, %d);\n", indent, (int)id, (int)id, n_vectors);
}

/* One vector made of n accumulators, pairs first. */
static void write_merged(zm_c_frame *frame, zm_id id, int first, int n) {
    zm_text *text = frame->text;
    const zm_value *value = &frame->ir->values[id];
    if (n == 1) {
        zm_text_printf(text, "a%d[%d]", (int)id, first);
        return;
    }
    const char *merge = get_kind(value->op).merge;
    bool is_call = value->op == ZM_OP_FOLD || merge[0] == 'z';
    if (value->op == ZM_OP_FOLD)
        zm_text_printf(text, "zm_combine%d", (int)value->index);
    else if (is_call)
        zm_text_append_string(text, merge);
    zm_text_append_string(text, "(");
    write_merged(frame, id, first, n / 2);
    if (is_call)
        zm_text_append_string(text, ", ");
    else
        zm_text_printf(text, " %s ", merge);
    write_merged(frame, id, first + n / 2, n - n / 2);
    zm_text_append_string(text, ")");
}

void zm_c_write_flush(zm_c_frame *frame, zm_id id, int n_accumulators, const char *indent) {
    const zm_fold *fold = get_fold(frame, id);
    zm_text *text = frame->text;
    if (frame->ir->values[id].op == ZM_OP_ROW_EXP_SUM) {
        zm_text_printf(text, "%szm_flush_exps(&a%d);\n", indent, (int)id);
        return;
    }
    if (frame->ir->values[id].op == ZM_OP_ROW_SUM) {
        zm_text_printf(text, "%stotal%d += (double)zm_sum(", indent, (int)id);
        write_merged(frame, id, 0, n_accumulators);
        zm_text_append_string(text, ");\n");
    } else if (fold && fold->combine.n_values) {
        zm_text_printf(text, "%szm_push%d(&partials%d, ", indent, (int)frame->ir->values[id].index, (int)id);
        write_merged(frame, id, 0, n_accumulators);
        zm_text_append_string(text, ");\n");
    } else {
        return;
    }
    write_reset(frame, id, n_accumulators, indent);
}

void zm_c_write_result(zm_c_frame *frame, zm_id id, int n_accumulators) {
    const zm_fold *fold = get_fold(frame, id);
    zm_text *text = frame->text;
    zm_op op = frame->ir->values[id].op;
    zm_text_printf(text, "            v%d = ", (int)id);
    if (fold && !fold->combine.n_values) {
        zm_text_printf(text, "a%d[0];\n", (int)id);
    } else if (fold) {
        zm_text_printf(text, "zm_finish%d(&partials%d, ", (int)frame->ir->values[id].index, (int)id);
        write_merged(frame, id, 0, n_accumulators);
        zm_text_append_string(text, ");\n");
    } else if (op == ZM_OP_ROW_EXP_SUM) {
        zm_text_printf(text, "zm_exps_result(&a%d, columns);\n", (int)id);
    } else if (op == ZM_OP_ROW_ARGMAX) {
        zm_text_printf(text, "zm_splat_uint(zm_argmax_over(a%d, at%d, %d));\n", (int)id, (int)id, n_accumulators);
    } else {
        zm_text_append_string(text, op == ZM_OP_ROW_SUM ? "zm_splat((float)(" : "zm_splat(");
        if (op == ZM_OP_ROW_SUM) zm_text_printf(text, "total%d + (double)", (int)id);
        zm_text_printf(text, "%s(", get_kind(op).over);
        write_merged(frame, id, 0, n_accumulators);
        zm_text_append_string(text, op == ZM_OP_ROW_SUM ? ")));\n" : "));\n");
    }
}

void zm_c_write_fold_functions(zm_c_frame *frame) {
    const zm_print_style style = {
        .function = "ZM_FN",
        .types = {[ZM_TYPE_FLOAT] = "vf", [ZM_TYPE_BOOL] = "vi", [ZM_TYPE_UINT] = "vu"},
        .number_open = "zm_splat(",
        .number_close = ")",
    };
    for (int i = 0; i < frame->ir->n_folds; i++) {
        zmlx_status status = zm_print_fold(frame->text, &style, frame->ir, i, frame->error);
        if (status && !frame->status) frame->status = status;
        if (frame->ir->folds[i].combine.n_values)
            zm_text_printf(frame->text, "ZM_COMBINED_FOLD(zm_push%d, zm_finish%d, zm_combine%d)\n", i, i, i);
    }
}
