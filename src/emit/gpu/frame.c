/* SPDX-License-Identifier: MIT */
#include <stdio.h>

#include "emit/gpu/frame.h"
#include "emit/print.h"
#include "emit/target.h"

#define NAME(prefix, number) prefix #number
#define NAMES_16(prefix)                                                                                       \
    NAME(prefix, 0), NAME(prefix, 1), NAME(prefix, 2), NAME(prefix, 3), NAME(prefix, 4), NAME(prefix, 5),       \
        NAME(prefix, 6), NAME(prefix, 7), NAME(prefix, 8), NAME(prefix, 9), NAME(prefix, 10), NAME(prefix, 11), \
        NAME(prefix, 12), NAME(prefix, 13), NAME(prefix, 14), NAME(prefix, 15)
#define NAMES_NEXT_16(prefix)                                                                                     \
    NAME(prefix, 16), NAME(prefix, 17), NAME(prefix, 18), NAME(prefix, 19), NAME(prefix, 20), NAME(prefix, 21),    \
        NAME(prefix, 22), NAME(prefix, 23), NAME(prefix, 24), NAME(prefix, 25), NAME(prefix, 26), NAME(prefix, 27), \
        NAME(prefix, 28), NAME(prefix, 29), NAME(prefix, 30), NAME(prefix, 31)

static const char *const input_names[ZM_IR_MAX_INPUTS] = {NAMES_16("zm_in"), NAMES_NEXT_16("zm_in")};
static const char *const output_names[ZM_IR_MAX_OUTPUTS] = {NAMES_16("zm_out")};

const char *zm_gpu_input_name(int input) { return input_names[input]; }
const char *zm_gpu_output_name(int output) { return output_names[output]; }

const char *zm_gpu_type(zm_type type) {
    switch (type) {
    case ZM_TYPE_BOOL: return "bool";
    case ZM_TYPE_UINT: return "uint";
    default: return "float";
    }
}

const char *zm_gpu_storage_word(zm_storage storage) {
    switch (zm_storage_bytes(storage)) {
    case 1: return "uchar";
    case 2: return "ushort";
    default: return "uint";
    }
}

int zm_gpu_frame_threads(const zm_gpu_frame *frame) {
    return frame->has_rows ? ZM_GPU_MAX_ROW_THREADS : ZM_GPU_MAP_THREADS;
}

int zm_gpu_frame_shared_words(const zm_gpu_frame *frame) {
    return frame->has_rows ? (frame->n_slots + 1) * ZM_GPU_SLOT : 0;
}

/* Operations with a definition that the frame has its own code for: rows that are read again in every pass have a sum
 * of exponentials from the pass that finds their largest. */
static bool has_spelling(zm_op op) { return op == ZM_OP_ROW_EXP_SUM; }

static bool has_spellings(const zm_ir *ir) {
    for (zm_id id = 0; id < ir->n_values; id++)
        if (has_spelling(ir->values[id].op)) return true;
    return false;
}

zmlx_status zm_gpu_frame_begin(zm_gpu_frame *frame, const zm_emit_request *request, zmlx_error *error) {
    *frame = (zm_gpu_frame){.request = request, .error = error};
    ZM_TRY(zm_emit_prepare(&frame->ir, request, has_spelling, error));
    frame->resident_ir = frame->ir;
    if (has_spellings(frame->ir)) {
        zmlx_status status = zm_emit_prepare(&frame->resident_ir, request, NULL, error);
        if (status) {
            zm_gpu_frame_end(frame);
            return status;
        }
    }
    frame->has_rows = zm_ir_has_rows(request->ir); /* as the launch plan sees it */
    frame->vector = zm_gpu_vector(request);
    frame->items = zm_gpu_row_items(request);
    return ZMLX_OK;
}

void zm_gpu_frame_end(zm_gpu_frame *frame) {
    if (frame->resident_ir != frame->ir) zm_ir_free(frame->resident_ir);
    zm_ir_free(frame->ir);
}

static zmlx_status print_operation(zm_gpu_frame *frame, const zm_value *value) {
    char names[3][16];
    const char *operands[3] = {names[0], names[1], names[2]};
    for (int i = 0; i < 3; i++) snprintf(names[i], sizeof names[i], "v%d", (int)value->operands[i]);
    return zm_print_operation(frame->text, value->op, operands, frame->error);
}

/* e to a - the largest a of the row. */
static bool is_exp_to_largest(const zm_ir *ir, const zm_value *value) {
    if (value->op != ZM_OP_EXP) return false;
    const zm_value *operand = &ir->values[value->operands[0]];
    if (operand->op != ZM_OP_SUBTRACT) return false;
    const zm_value *largest = &ir->values[operand->operands[1]];
    return largest->op == ZM_OP_ROW_MAX && largest->operands[0] == operand->operands[0];
}

/* Nothing but sums over the row read it. */
static bool is_only_summed(const zm_ir *ir, zm_id id) {
    for (int i = 0; i < ir->n_outputs; i++)
        if (ir->outputs[i].value == id) return false;
    for (zm_id reader = 0; reader < ir->n_values; reader++)
        for (int i = 0; i < zm_ir_operand_count(ir, reader); i++)
            if (zm_ir_operand(ir, reader, i) == id && ir->values[reader].op != ZM_OP_ROW_SUM) return false;
    return true;
}

zmlx_status zm_gpu_print_expression(zm_gpu_frame *frame, zm_id id) {
    const zm_value *value = &frame->ir->values[id];
    zm_text *text = frame->text;
    switch (value->op) {
    case ZM_OP_CONSTANT: zm_print_number(text, value->number); return ZMLX_OK;
    case ZM_OP_PARAMETER: zm_text_printf(text, "p%d", (int)value->index); return ZMLX_OK;
    case ZM_OP_COLUMNS: zm_text_append_string(text, "float(columns)"); return ZMLX_OK;
    case ZM_OP_COLUMN: zm_text_append_string(text, "zm_column(at, j)"); return ZMLX_OK;
    case ZM_OP_RANDOM: zm_text_printf(text, "q%d[j]", (int)id); return ZMLX_OK;
    case ZM_OP_LOAD: /* of a row; vectors are loaded before */
        zm_text_printf(text, "zm_load_one<zm_%s>(zm_in%d, row * zm_row_stride(layout%d, columns))",
                       zm_storage_name(frame->request->inputs[value->index]), (int)value->index, (int)value->index);
        return ZMLX_OK;
    case ZM_OP_ROW_GATHER:
        zm_text_printf(text, "zm_gather<zm_%s>(zm_in%d, row, v%d, columns, layout%d)",
                       zm_storage_name(frame->request->inputs[value->index]), (int)value->index,
                       (int)value->operands[0], (int)value->index);
        return ZMLX_OK;
    default: break;
    }
    if (frame->has_rows && value->op == ZM_OP_DIVIDE && value->level == ZM_LEVEL_ELEMENT &&
        frame->ir->values[value->operands[1]].level != ZM_LEVEL_ELEMENT) {
        zm_text_printf(text, "zm_quotient(v%d, v%d)", (int)value->operands[0], (int)value->operands[1]);
        return ZMLX_OK;
    }
    if (is_exp_to_largest(frame->ir, value)) {
        const char *function = is_only_summed(frame->ir, id) ? "zm_fast_exp" : "zm_exp_to_largest";
        zm_text_printf(text, "%s(v%d)", function, (int)value->operands[0]);
        return ZMLX_OK;
    }
    if (value->op == ZM_OP_DIVIDE) { /* its accuracy is the prelude's choice */
        zm_text_printf(text, "zm_divide(v%d, v%d)", (int)value->operands[0], (int)value->operands[1]);
        return ZMLX_OK;
    }
    return print_operation(frame, value);
}

const char *zm_gpu_output_stride(const zm_gpu_frame *frame) {
    return frame->request->joins_outputs ? "2 * columns" : "columns";
}

void zm_gpu_print_random(zm_gpu_frame *frame, const char *indent, zm_id id) {
    zm_text_printf(frame->text, "%sfloat q%d[V];\n%szm_random<V>(q%d, p%d, zm_index(at, 0));\n", indent, (int)id,
                   indent, (int)id, (int)frame->ir->values[id].index);
}

zmlx_status zm_gpu_print_value(zm_gpu_frame *frame, const char *indent, zm_id id) {
    zm_text_printf(frame->text, "%sconst %s v%d = ", indent, zm_gpu_type(frame->ir->values[id].type), (int)id);
    ZM_TRY(zm_gpu_print_expression(frame, id));
    zm_text_append_string(frame->text, ";\n");
    return ZMLX_OK;
}

static void print_condition(zm_gpu_frame *frame) {
    for (int i = 0; i < frame->ir->n_inputs; i++)
        zm_text_printf(frame->text, "%szm_is_aligned(zm_in%d)", i ? " && " : "", i);
    for (int i = 0; i < frame->ir->n_outputs; i++) zm_text_printf(frame->text, " && zm_is_aligned(zm_out%d)", i);
}

/* From the arrays to the numbers, what both functions have. */
static void print_parameters(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "I%d zm_in%d, ", i, i);
    for (int i = 0; i < ir->n_outputs; i++)
        zm_text_printf(text, "ZM_DEVICE %s *zm_out%d, ", zm_gpu_storage_word(frame->request->outputs[i]), i);
    zm_text_append_string(text, "zm_long rows, zm_long columns, uint threads_per_row,\n    ");
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "uint layout%d, ", i);
    for (int i = 0; i < ir->n_parameters; i++)
        zm_text_printf(text, "%s p%d, ", ir->parameters[i].is_seed ? "zm_seed" : "float", i);
    zm_text_append_string(text, "zm_thread self, ZM_SHARED uint *shared");
}

static void print_arguments(zm_gpu_frame *frame, const char *extent) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "zm_in%d, ", i);
    for (int i = 0; i < ir->n_outputs; i++) zm_text_printf(text, "zm_out%d, ", i);
    zm_text_printf(text, "%s, threads_per_row, ", extent);
    for (int i = 0; i < ir->n_inputs; i++) zm_text_printf(text, "layout%d, ", i);
    for (int i = 0; i < ir->n_parameters; i++) zm_text_printf(text, "p%d, ", i);
    zm_text_append_string(text, "self, shared");
}

void zm_gpu_print_function(zm_gpu_frame *frame, const char *name, const char *constants, const char *more_parameters) {
    zm_text *text = frame->text;
    if (constants || frame->ir->n_inputs) zm_text_printf(text, "template <%s", constants ? constants : "");
    for (int i = 0; i < frame->ir->n_inputs; i++) zm_text_printf(text, "%sclass I%d", i || constants ? ", " : "", i);
    if (constants || frame->ir->n_inputs) zm_text_append_string(text, ">\n");
    zm_text_printf(text, "ZM_FUNCTION void %s(", name);
    print_parameters(frame);
    zm_text_printf(text, "%s) {\n", more_parameters);
}

static void print_call(zm_gpu_frame *frame, const char *function, const char *extent, const char *rest) {
    zm_text_printf(frame->text, "%s(", function);
    print_arguments(frame, extent);
    zm_text_printf(frame->text, "%s);\n", rest);
}

static void print_row_choice(zm_gpu_frame *frame) {
    zm_text *text = frame->text;
    char streamed[32];
    snprintf(streamed, sizeof streamed, "zm_streamed<%d>", frame->vector);
    zm_text_append_string(text, "    if (!(whole && wide))\n        ");
    print_call(frame, "zm_streamed<1>", "rows, columns", "");
    if (frame->resident_words) {
        char resident[32];
        snprintf(resident, sizeof resident, "zm_resident<%d, 0>", frame->items / frame->vector);
        zm_text_printf(text, "    else if (columns <= zm_long(threads_per_row) * %d)\n        ", frame->items);
        print_call(frame, resident, "rows, columns", "");
    }
    zm_text_append_string(text, "    else\n        ");
    print_call(frame, streamed, "rows, columns", "");
}

/* The elements from `begin` to `end`, as vectors or one by one. */
static void print_map_call(zm_gpu_frame *frame, int vector, int n_vectors, bool is_whole, const char *extent,
                           const char *range) {
    char part[48];
    snprintf(part, sizeof part, "    zm_part<%d, %d, %s>", vector, n_vectors, is_whole ? "true" : "false");
    print_call(frame, part, extent, range);
}

void zm_gpu_print_choice(zm_gpu_frame *frame) {
    zm_text *text = frame->text;
    int n_vectors = zm_gpu_map_vectors(frame->ir);
    zm_gpu_print_function(frame, "zm_frame", NULL, "");
    zm_text_printf(text, "    const bool whole = columns %% %d == 0, wide = ", frame->vector);
    print_condition(frame);
    zm_text_append_string(text, ";\n");
    if (frame->has_rows) {
        print_row_choice(frame);
    } else {
        zm_text_printf(text,
                       "    const zm_long elements = rows * columns;\n"
                       "    const zm_long split = wide && (whole || rows == 1) ? elements - elements %% %d : 0;\n",
                       frame->vector);
        print_map_call(frame, frame->vector, n_vectors, false, "rows, columns", ", zm_long(0), split");
        print_map_call(frame, 1, ZM_GPU_ODD_VECTORS, false, "rows, columns", ", split, elements");
    }
    zm_text_append_string(text, "}\n");
}

void zm_gpu_print_map_frame(zm_gpu_frame *frame, int part) {
    zm_text *text = frame->text;
    int n_vectors = zm_gpu_map_vectors(frame->ir);
    zm_gpu_print_function(frame, "zm_frame", NULL, "");
    zm_text_append_string(text, "    const zm_long elements = rows * columns;\n");
    if (part == ZM_GPU_FLAT_MAP) {
        zm_text_printf(text,
                       "    const zm_long tiles = elements - elements %% %d, split = elements - elements %% %d;\n",
                       ZM_GPU_MAP_THREADS * n_vectors * frame->vector, frame->vector);
        print_map_call(frame, frame->vector, n_vectors, true, "zm_long(1), elements", ", zm_long(0), tiles");
        print_map_call(frame, frame->vector, 1, false, "zm_long(1), elements", ", tiles, split");
        print_map_call(frame, 1, 1, false, "zm_long(1), elements", ", split, elements");
    } else if (part == ZM_GPU_ROWS_MAP) {
        zm_text_printf(text, "    const zm_long split = elements - elements %% %d;\n", frame->vector);
        print_map_call(frame, frame->vector, n_vectors, false, "rows, columns", ", zm_long(0), split");
        print_map_call(frame, 1, 1, false, "rows, columns", ", split, elements");
    } else {
        int vector = part == ZM_GPU_PLAIN_MAP ? frame->vector : 1;
        if (vector == 1) n_vectors = ZM_GPU_ODD_VECTORS;
        print_map_call(frame, vector, n_vectors, false, "rows, columns", ", zm_long(0), elements");
    }
    zm_text_append_string(text, "}\n\n");
}

zmlx_status zm_gpu_frame_print(zm_gpu_frame *frame, zm_text *text) {
    static const zm_print_style style = {"ZM_FUNCTION", {"float", "bool", "uint"}, "", ""};
    frame->text = text;
    for (int i = 0; i < frame->ir->n_folds; i++) {
        ZM_TRY(zm_print_fold(text, &style, frame->ir, i, frame->error));
        if (!frame->ir->folds[i].combine.n_values) continue;
        const char *type = zm_gpu_type(frame->ir->values[frame->ir->folds[i].init].type);
        zm_text_printf(text,
                       "struct zm_fold%d { enum { is_symmetric = 0 }; static ZM_FUNCTION %s apply(%s a, %s b) { return "
                       "zm_combine%d(a, b); } };\n",
                       i, type, type, type, i);
    }
    ZM_TRY(frame->has_rows ? zm_gpu_print_rows(frame) : zm_gpu_print_map(frame));
    return text->failed ? zm_fail_memory(frame->error) : ZMLX_OK;
}
