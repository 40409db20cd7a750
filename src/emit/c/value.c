/* SPDX-License-Identifier: MIT */
/* Values, their loads and their stores. */
#include <math.h>
#include <stdio.h>

#include "emit/c/frame.h"
#include "emit/print.h"

const char *const zm_c_types[] = {[ZM_TYPE_FLOAT] = "vf", [ZM_TYPE_BOOL] = "vi", [ZM_TYPE_UINT] = "vu"};

zm_c_name zm_c_name_of(const zm_c_frame *frame, zm_id id) {
    bool is_second = frame->is_second && frame->ir->values[id].level == ZM_LEVEL_ELEMENT;
    zm_c_name name;
    snprintf(name.text, sizeof name.text, "%c%d", is_second ? 'w' : 'v', (int)id);
    return name;
}

const char *zm_c_column(const zm_c_frame *frame) { return frame->is_second ? "c + ZM_WIDTH" : "c"; }

static const char *input_storage(const zm_c_frame *frame, int input) {
    return zm_storage_name(frame->request->inputs[input]);
}

static void write_operation(zm_c_frame *frame, const zm_value *value) {
    int arity = zm_op_get(value->op)->arity;
    zm_c_name names[3] = {0};
    const char *operands[3] = {names[0].text, names[1].text, names[2].text};
    for (int i = 0; i < arity; i++) names[i] = zm_c_name_of(frame, value->operands[i]);
    zmlx_status status = zm_print_operation(frame->text, value->op, operands, frame->error);
    if (status && !frame->status) frame->status = status;
}

static void write_gather(zm_c_frame *frame, const zm_value *value) {
    zm_text_printf(frame->text, "zm_gather_%s(in%d, %s, columns, call->layouts[%d] & 1)",
                   input_storage(frame, value->index), (int)value->index,
                   zm_c_name_of(frame, value->operands[0]).text, (int)value->index);
}

/* An expression for a value that is the same for the whole row. */
static void write_row_value(zm_c_frame *frame, const zm_value *value) {
    zm_text *text = frame->text;
    switch (value->op) {
    case ZM_OP_CONSTANT:
        zm_text_append_string(text, "zm_splat(");
        zm_print_number(text, value->number);
        zm_text_append_string(text, ")");
        break;
    case ZM_OP_LOAD:
        zm_text_printf(text, "zm_load_one_%s(call->inputs[%d], call->layouts[%d] & 2 ? row : 0)",
                       input_storage(frame, value->index), (int)value->index, (int)value->index);
        break;
    case ZM_OP_PARAMETER: zm_text_printf(text, "zm_splat(call->parameters[%d])", (int)value->index); break;
    case ZM_OP_COLUMNS: zm_text_append_string(text, "zm_splat((float)columns)"); break;
    case ZM_OP_ROW_GATHER: write_gather(frame, value); break;
    default: write_operation(frame, value);
    }
}

void zm_c_write_row_values(zm_c_frame *frame, const zm_pass *pass, zm_level level, const char *indent) {
    for (int i = 0; i < pass->n_row_values; i++) {
        zm_id id = pass->row_values[i];
        const zm_value *value = &frame->ir->values[id];
        if (value->level != level) continue;
        zm_text_printf(frame->text, "%sconst %s v%d = ", indent, zm_c_types[value->type], (int)id);
        write_row_value(frame, value);
        zm_text_append_string(frame->text, ";\n");
    }
}

static void write_load(zm_c_frame *frame, const zm_value *value, zm_c_extent extent) {
    const char *storage = input_storage(frame, value->index);
    int input = (int)value->index;
    zm_text_printf(frame->text, "varies%d ? ", input);
    if (extent == ZM_C_PART)
        zm_text_printf(frame->text, "count < ZM_WIDTH ? zm_load_part_%s(in%d, c, count) : ", storage, input);
    zm_text_printf(frame->text, "zm_load_%s(in%d, %s) : one%d", storage, input, zm_c_column(frame), input);
}

static void write_scan(zm_c_frame *frame, zm_id id, const zm_value *value, zm_c_extent extent) {
    const char *name = value->op == ZM_OP_ROW_CUMSUM_REVERSE ? "zm_cumsum_reverse" : "zm_cumsum";
    int operand = (int)value->operands[0];
    if (extent == ZM_C_PART)
        zm_text_printf(frame->text, "%s(zm_select(zm_first_lanes(count), v%d, zm_splat(0.0f)), &carry%d)", name,
                       operand, (int)id);
    else
        zm_text_printf(frame->text, "%s(v%d, &carry%d)", name, operand, (int)id);
}

/* A number that is not NaN and the other operand, for which an instruction is enough. */
static bool write_limit(zm_c_frame *frame, const zm_value *value) {
    for (int i = 0; i < 2; i++) {
        const zm_value *limit = &frame->ir->values[value->operands[i]];
        if (limit->op != ZM_OP_CONSTANT || isnan(limit->number)) continue;
        zm_text_printf(frame->text, "%s(%s, ", value->op == ZM_OP_MIN ? "zm_at_most" : "zm_at_least",
                       zm_c_name_of(frame, value->operands[1 - i]).text);
        zm_print_number(frame->text, limit->number);
        zm_text_append_string(frame->text, ")");
        return true;
    }
    return false;
}

static bool is_by_row(const zm_c_frame *frame, const zm_value *value) {
    return frame->whole_rows && frame->ir->values[value->operands[1]].level != ZM_LEVEL_ELEMENT &&
           !zm_emit_rounds_as_mlx(frame->request);
}

void zm_c_write_random_pairs(zm_c_frame *frame, zm_id id, const char *indent, int n) {
    zm_text_printf(
        frame->text,
        "%szm_two two%d[%d];\n%szm_random_pairs(&keys%d, (__UINT64_TYPE__)(row * columns + c), two%d, %d);\n", indent,
        (int)id, n, indent, (int)frame->ir->values[id].index, (int)id, n);
}

static void write_random(zm_c_frame *frame, zm_id id, const zm_value *value, zm_c_extent extent) {
    if (extent == ZM_C_PAIR)
        zm_text_printf(frame->text, "two%d[%s].%s", (int)id, frame->is_in_pairs ? "pair" : "0",
                       frame->is_second ? "second" : "first");
    else
        zm_text_printf(frame->text, "zm_random(&keys%d, (__UINT64_TYPE__)(row * columns + c))", (int)value->index);
}

static void write_element_value(zm_c_frame *frame, zm_id id, const zm_value *value, zm_c_extent extent) {
    switch (value->op) {
    case ZM_OP_MIN:
    case ZM_OP_MAX:
        if (!write_limit(frame, value)) write_operation(frame, value);
        break;
    case ZM_OP_DIVIDE:
        if (is_by_row(frame, value))
            zm_text_printf(frame->text, "zm_quotient(%s, %s)", zm_c_name_of(frame, value->operands[0]).text,
                           zm_c_name_of(frame, value->operands[1]).text);
        else
            write_operation(frame, value);
        break;
    case ZM_OP_LOAD: write_load(frame, value, extent); break;
    case ZM_OP_COLUMN:
        zm_text_printf(frame->text, "zm_iota() + zm_splat_uint((zm_uint)(%s))", zm_c_column(frame));
        break;
    case ZM_OP_RANDOM: write_random(frame, id, value, extent); break;
    case ZM_OP_ROW_GATHER: write_gather(frame, value); break;
    case ZM_OP_ROW_CUMSUM:
    case ZM_OP_ROW_CUMSUM_REVERSE: write_scan(frame, id, value, extent); break;
    default: write_operation(frame, value);
    }
}

/* Scratch rows hold the bits of any type; a part never touches what is behind it. */
static void write_keep(zm_c_frame *frame, zm_id id, zm_c_extent extent, const char *indent) {
    int row = frame->kept_row[id];
    if (extent == ZM_C_PART)
        zm_text_printf(frame->text,
                       "%sif (count < ZM_WIDTH) zm_store_part_float32(kept%d, c, (vf)v%d, count); else "
                       "zm_store_float32(kept%d, c, (vf)v%d);\n",
                       indent, row, (int)id, row, (int)id);
    else
        zm_text_printf(frame->text, "%szm_store_float32(kept%d, %s, (vf)%s);\n", indent, row, zm_c_column(frame),
                       zm_c_name_of(frame, id).text);
}

static void write_reload(zm_c_frame *frame, zm_id id, zm_c_extent extent) {
    const char *type = zm_c_types[frame->ir->values[id].type];
    int row = frame->kept_row[id];
    if (extent == ZM_C_PART)
        zm_text_printf(
            frame->text,
            "(%s)(count < ZM_WIDTH ? zm_load_part_float32(kept%d, c, count) : zm_load_float32(kept%d, c))", type,
            row, row);
    else
        zm_text_printf(frame->text, "(%s)zm_load_float32(kept%d, %s)", type, row, zm_c_column(frame));
}

bool zm_c_is_reload(const zm_c_frame *frame, zm_id id, int pass) {
    return frame->schedule.kept[id] && frame->schedule.kept_from[id] < pass;
}

static void write_element(zm_c_frame *frame, zm_id id, int pass_number, zm_c_extent extent, const char *indent) {
    const zm_value *value = &frame->ir->values[id];
    bool is_reload = zm_c_is_reload(frame, id, pass_number);
    if (value->op == ZM_OP_RANDOM && extent == ZM_C_PAIR && !is_reload && !frame->is_second && !frame->is_in_pairs)
        zm_c_write_random_pairs(frame, id, indent, 1);
    zm_text_printf(frame->text, "%sconst %s %s = ", indent, zm_c_types[value->type], zm_c_name_of(frame, id).text);
    if (is_reload)
        write_reload(frame, id, extent);
    else
        write_element_value(frame, id, value, extent);
    zm_text_append_string(frame->text, ";\n");
    if (frame->schedule.kept[id] && frame->schedule.kept_from[id] == pass_number) write_keep(frame, id, extent, indent);
}

void zm_c_write_element_values(zm_c_frame *frame, int pass_number, zm_c_extent extent, const char *indent) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    for (int i = 0; i < pass->n_element_values; i++) {
        for (int vector = 0; vector < (extent == ZM_C_PAIR ? 2 : 1); vector++) {
            frame->is_second = vector;
            write_element(frame, pass->element_values[i], pass_number, extent, indent);
        }
        frame->is_second = false;
    }
}

static void write_pair_store(zm_c_frame *frame, int output, const char *indent) {
    zm_id id = frame->ir->outputs[output].value;
    const char *storage = zm_storage_name(frame->request->outputs[output]);
    zm_c_name first = zm_c_name_of(frame, id);
    frame->is_second = true;
    zm_c_name second = zm_c_name_of(frame, id);
    frame->is_second = false;
    zm_text_printf(frame->text,
                   "%sif (stream%d) zm_stream_pair_%s(out%d, c, %s, %s); else zm_store_pair_%s(out%d, c, %s, %s);\n",
                   indent, output, storage, output, first.text, second.text, storage, output, first.text,
                   second.text);
}

/* Onto what is there. */
static void write_sum(zm_c_frame *frame, int output, zm_c_extent extent, const char *indent) {
    zm_id id = frame->ir->outputs[output].value;
    if (extent == ZM_C_PART) {
        zm_text_printf(
            frame->text,
            "%sif (count < ZM_WIDTH) zm_store_part_float32(out%d, c, zm_load_part_float32(out%d, c, count) + v%d, "
            "count); else zm_store_float32(out%d, c, zm_load_float32(out%d, c) + v%d);\n",
            indent, output, output, (int)id, output, output, (int)id);
        return;
    }
    for (int vector = 0; vector < (extent == ZM_C_PAIR ? 2 : 1); vector++) {
        frame->is_second = vector;
        zm_text_printf(frame->text, "%szm_store_float32(out%d, %s, zm_load_float32(out%d, %s) + %s);\n", indent, output,
                       zm_c_column(frame), output, zm_c_column(frame), zm_c_name_of(frame, id).text);
    }
    frame->is_second = false;
}

void zm_c_write_stores(zm_c_frame *frame, const zm_pass *pass, zm_c_extent extent, const char *indent) {
    for (int i = 0; i < pass->n_stores; i++) {
        int output = pass->stores[i], id = (int)frame->ir->outputs[output].value;
        const char *storage = zm_storage_name(frame->request->outputs[output]);
        if (zm_c_is_summed(frame, output))
            write_sum(frame, output, extent, indent);
        else if (extent == ZM_C_PART)
            zm_text_printf(
                frame->text,
                "%sif (count < ZM_WIDTH) zm_store_part_%s(out%d, c, v%d, count); else zm_store_%s(out%d, c, v%d);\n",
                indent, storage, output, id, storage, output, id);
        else if (extent == ZM_C_PAIR)
            write_pair_store(frame, output, indent);
        else
            zm_text_printf(frame->text,
                           "%sif (stream%d) zm_stream_%s(out%d, c, v%d); else zm_store_%s(out%d, c, v%d);\n",
                           indent, output, storage, output, id, storage, output, id);
    }
}

void zm_c_write_row_stores(zm_c_frame *frame, const zm_pass *pass) {
    for (int i = 0; i < pass->n_stores; i++) {
        int output = pass->stores[i], id = (int)frame->ir->outputs[output].value;
        zm_text_printf(frame->text, "        zm_store_one_%s(call->outputs[%d], row, v%d[0]);\n",
                       zm_storage_name(frame->request->outputs[output]), output, id);
    }
}
