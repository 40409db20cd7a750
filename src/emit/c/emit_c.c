/* SPDX-License-Identifier: MIT */
/* The target of generated C. */
#include "emit/c/frame.h"
#include "emit/target.h"

enum { KEEP_COST = 8 }; /* from here on, a float is cheaper to store and load */

extern const char zm_prelude_c[];

static void write_signature(zm_c_frame *frame, const char *name) {
    zm_text_printf(
        frame->text,
        "%s(const zm_c_call *call, zm_index first_row, zm_index last_row, zm_index first_column, zm_index last_column",
        name);
}

/* By input: is it gathered from? Of those loaded by element, is_varying says so. */
static bool is_gathered(const zm_c_frame *frame, int input) {
    for (zm_id id = 0; id < frame->ir->n_values; id++)
        if (frame->ir->values[id].op == ZM_OP_ROW_GATHER && frame->ir->values[id].index == input) return true;
    return false;
}

static void write_row_pointers(zm_c_frame *frame) {
    zm_text *text = frame->text;
    for (int i = 0; i < frame->ir->n_inputs; i++) {
        if (!frame->is_varying[i] && !is_gathered(frame, i)) continue;
        zm_text_printf(text,
                       "        const char *const in%d = (const char *)call->inputs[%d] + "
                       "zm_row_start(call->layouts[%d], row, columns) * %d;\n",
                       i, i, i, zm_storage_bytes(frame->request->inputs[i]));
        if (!frame->is_varying[i]) continue;
        const char *type = zm_c_types[frame->ir->inputs[i].type];
        zm_text_printf(
            text, "        const zm_index ahead%d = zm_bytes_ahead(call->layouts[%d], last_row - row, columns, %d);\n",
            i, i, zm_storage_bytes(frame->request->inputs[i]));
        zm_text_printf(text, "        const %s one%d = varies%d ? (%s){0} : zm_load_one_%s(in%d, 0);\n", type, i,
                       i, type, zm_storage_name(frame->request->inputs[i]), i);
    }
    for (int i = 0; i < frame->ir->n_outputs; i++) {
        if (frame->ir->outputs[i].level != ZM_LEVEL_ELEMENT) continue;
        if (zm_c_is_summed(frame, i)) {
            zm_text_printf(text, "        char *const out%d = call->outputs[%d];\n", i, i);
            continue;
        }
        zm_text_printf(text,
                       "        char *const out%d = (char *)call->outputs[%d] + row * call->output_stride * %d;\n", i,
                       i, zm_storage_bytes(frame->request->outputs[i]));
    }
    for (int i = 0; i < frame->n_kept; i++)
        zm_text_printf(text, "        float *const kept%d = call->scratch + %d * ((columns + 15) / 16 * 16);\n", i,
                       i);
}

static void write_kernel_body(zm_c_frame *frame) {
    const zm_schedule *schedule = &frame->schedule;
    zm_text *text = frame->text;
    write_signature(frame, "ZM_FN void zm_body");
    for (int i = 0; i < frame->ir->n_inputs; i++)
        if (frame->is_varying[i]) zm_text_printf(text, ", const int varies%d", i);
    zm_text_append_string(
        text, ") {\n    const zm_index columns = call->columns;\n    (void)first_column, (void)last_column;\n"
              "    const zm_index fetch_end = ");
    /* Stores that go through the caches, in place at that: the processor's own prefetching is faster. */
    if (!frame->whole_rows) zm_text_append_string(text, "!call->stream_stores ? 0 : ");
    zm_text_append_string(text, "call->rows > 1 ? call->rows * columns : columns;\n    (void)fetch_end;\n");
    for (int i = 0; i < frame->ir->n_parameters; i++)
        if (frame->ir->parameters[i].is_seed)
            zm_text_printf(text, "    const zm_keys keys%d = zm_keys_of(call->seeds[%d]);\n", i, i);
    zm_c_write_row_values(frame, &schedule->passes[0], ZM_LEVEL_UNIFORM, "    ");
    zm_text_append_string(text, "    for (zm_index row = first_row; row < last_row; row++) {\n");
    write_row_pointers(frame);
    for (int i = 0; i < schedule->n_passes; i++) {
        zm_c_write_row_values(frame, &schedule->passes[i], ZM_LEVEL_ROW, "        ");
        zm_c_write_pass(frame, i);
    }
    zm_c_write_row_values(frame, &schedule->passes[schedule->n_passes], ZM_LEVEL_ROW, "        ");
    zm_c_write_row_stores(frame, &schedule->passes[schedule->n_passes]);
    zm_text_append_string(text, "    }\n    if (call->stream_stores == 1) zm_stream_fence();\n}\n");
}

static void write_call(zm_c_frame *frame, bool is_constant, const char *indent) {
    zm_text_printf(frame->text, "%szm_body(call, first_row, last_row, first_column, last_column", indent);
    for (int i = 0; i < frame->ir->n_inputs; i++) {
        if (!frame->is_varying[i]) continue;
        if (is_constant)
            zm_text_append_string(frame->text, ", 1");
        else
            zm_text_printf(frame->text, ", call->layouts[%d] & 1", i);
    }
    zm_text_append_string(frame->text, ");\n");
}

static void write_entry(zm_c_frame *frame) {
    zm_text *text = frame->text;
    const char *entry = frame->request->entry;
    zm_text_append_string(text, "#pragma GCC visibility push(default)\n");
    zm_text_printf(text, "const __INT32_TYPE__ %s_scratch = %d;\nvoid ", entry, frame->n_kept);
    write_signature(frame, entry);
    zm_text_append_string(text, ") {\n");
    int n_varying = 0;
    for (int i = 0; i < frame->ir->n_inputs; i++) {
        if (!frame->is_varying[i]) continue;
        zm_text_printf(text, n_varying++ ? " & call->layouts[%d]" : "    if (1 & call->layouts[%d]", i);
    }
    if (n_varying) {
        zm_text_append_string(text, ")\n");
        write_call(frame, true, "        ");
        zm_text_append_string(text, "    else\n    ");
    }
    write_call(frame, false, "    ");
    zm_text_append_string(text, "}\n#pragma GCC visibility pop\n");
}

static zmlx_status prepare(zm_c_frame *frame) {
    const zm_ir *ir = frame->ir;
    ZM_TRY(zm_schedule_make(&frame->schedule, ir->arena, ir, KEEP_COST, frame->error));
    frame->kept_row = zm_arena_alloc(ir->arena, (size_t)ir->n_values + 1, sizeof *frame->kept_row);
    frame->is_varying = zm_arena_alloc(ir->arena, (size_t)ir->n_inputs + 1, sizeof *frame->is_varying);
    if (!frame->kept_row || !frame->is_varying) return zm_fail_memory(frame->error);
    for (zm_id id = 0; id < ir->n_values; id++) {
        frame->kept_row[id] = frame->schedule.kept[id] ? frame->n_kept++ : -1;
        const zm_value *value = &ir->values[id];
        if (value->op == ZM_OP_LOAD && value->level == ZM_LEVEL_ELEMENT) frame->is_varying[value->index] = true;
    }
    frame->whole_rows = zm_ir_has_rows(frame->request->ir) || zm_ir_has_rows(ir);
    return ZMLX_OK;
}

/* A sum of exponentials in the pass that finds their largest. Where elements are results, the exponentials are mostly
 * needed again: then they are kept, and it has its definition. */
static bool has_spelling(zm_op op) { return op == ZM_OP_ROW_EXP_SUM; }

static bool gives_elements(const zm_ir *ir) {
    for (int i = 0; i < ir->n_outputs; i++)
        if (ir->outputs[i].level == ZM_LEVEL_ELEMENT) return true;
    return false;
}

static zmlx_status emit_c(zm_text *source, const zm_emit_request *request, zmlx_error *error) {
    zm_ir *ir;
    ZM_TRY(zm_emit_prepare(&ir, request, gives_elements(request->ir) ? NULL : has_spelling, error));
    zm_c_frame frame = {.text = source, .ir = ir, .request = request, .error = error};
    zmlx_status status = prepare(&frame);
    if (!status) {
        bool is_narrow = zm_emit_is_narrow(request);
        zm_text_append_string(source, zm_prelude_c);
        if (is_narrow)
            zm_text_append_string(source, "#define zm_exp zm_narrow_exp\n#define zm_sigmoid zm_narrow_sigmoid\n");
        bool has_storage = zm_emit_begin_storage(source, request);
        zm_c_write_fold_functions(&frame);
        write_kernel_body(&frame);
        write_entry(&frame);
        if (is_narrow) zm_text_append_string(source, "#undef zm_exp\n#undef zm_sigmoid\n");
        if (has_storage) zm_text_append_string(source, "#undef zm_stored\n#undef zm_stored_sigmoid\n");
        status = frame.status;
    }
    if (!status && source->failed) status = zm_fail_memory(error);
    zm_ir_free(ir);
    return status;
}

const zm_target zm_target_c = {"c", "c", emit_c};
