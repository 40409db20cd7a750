/* SPDX-License-Identifier: MIT */
/* A kernel with row operations: threads_per_row threads go over a row in chunks of a vector each, so that element c
 * belongs to thread c / V mod threads_per_row. V is 1 where rows are not whole vectors. A row of few elements a thread
 * is loaded once and stays in registers: C chunks, of which all threads have the first WHOLE. A longer one is read
 * again in every pass.
 *
 * Where a pass runs against a scan of an earlier one, a long row cannot keep the scan's elements: the sum at the start
 * of every step-th chunk is kept in shared memory, and the scan repeated from there. */
#include <limits.h>

#include "emit/gpu/row.h"

enum {
    MAX_RESIDENT_VALUES = 5,
    EARLY_WORDS = 32, /* registers of all loads that begin at once */
    MAX_SHARED_BYTES = 32 * 1024,
    STREAMED_VECTORS = 4 /* of a long row, on their way at once; half as many where several inputs are read */
};

static void list_values(zm_gpu_body *body, const zm_pass *pass) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values; id++) body->is_listed[id] = false;
    for (int i = 0; i < pass->n_element_values; i++) body->is_listed[pass->element_values[i]] = true;
    for (zm_id id = ir->n_values - 1; id >= 0 && !body->is_resident; id--) /* for scans to repeat */
        for (int i = 0; body->is_listed[id] && i < zm_ir_operand_count(ir, id); i++)
            if (zm_gpu_is_element(body, zm_ir_operand(ir, id, i))) body->is_listed[zm_ir_operand(ir, id, i)] = true;
}

/* A scan of an earlier pass that this one, against its direction, repeats. */
static bool is_repeated(const zm_gpu_body *body, zm_id id) {
    const zm_value *value = &body->schedule->ir->values[id];
    return !body->is_resident && body->is_listed[id] && zm_gpu_is_scan(value) &&
           (value->op == ZM_OP_ROW_CUMSUM_REVERSE) != body->schedule->passes[body->pass].reversed;
}

static void print_load(zm_gpu_body *body, const char *indent, zm_id id, const char *chunk) {
    int input = body->schedule->ir->values[id].index;
    zm_text_printf(body->frame->text, "%szm_load<zm_%s, V>(x%d%s, row_in%d, at, layout%d);\n", indent,
                   zm_storage_name(body->frame->request->inputs[input]), (int)id, chunk, input, input);
}

/* A row's columns are an int, and the vectors of a last round that lie behind it fit into 32 bits. */
static void print_place(zm_gpu_body *body, const char *indent) {
    zm_text_printf(body->frame->text,
                   body->is_resident
                       ? "%sconst zm_place at = zm_place_in_chunk<V>(row, k, k < WHOLE, int(columns), active, group);\n"
                       : "%sconst zm_place at = zm_place_in_row<V, uint>(row, k, uint(columns), active, group);\n",
                   indent);
}

/* A group that sums goes over many rows, and would wait for each of them: the next one is loaded meanwhile. What all
 * rows share is loaded once. */
static void print_next_load(zm_gpu_body *body, zm_id id) {
    int input = body->schedule->ir->values[id].index;
    zm_text_printf(body->frame->text,
                   "            x%d[k] = n%d[k];\n"
                   "            if (row_next < rows && (layout%d & 2u) != 0u)\n"
                   "                zm_load<zm_%s, V>(n%d[k], zm_in%d + zm_row_start(layout%d, row_next, columns), at, "
                   "layout%d);\n",
                   (int)id, (int)id, input, zm_storage_name(body->frame->request->inputs[input]), (int)id, input, input,
                   input);
}

/* Of the first row. */
static void print_first_loads(zm_gpu_frame *frame) {
    const zm_ir *ir = frame->ir;
    zm_text *text = frame->text;
    for (zm_id id = 0; id < ir->n_values; id++)
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "    zm_packed<zm_%s, V> n%d[C];\n",
                           zm_storage_name(frame->request->inputs[ir->values[id].index]), (int)id);
    zm_text_append_string(
        text,
        "    const zm_long first_row = self.block * group.rows + group.number;\n"
        "#pragma unroll\n    for (int k = 0; k < C; ++k) {\n"
        "        const zm_place at = zm_place_in_chunk<V>(0, k, k < WHOLE, int(columns), first_row < rows, group);\n");
    for (zm_id id = 0; id < ir->n_values; id++) {
        int input = ir->values[id].index;
        if (zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text,
                           "        zm_load<zm_%s, V>(n%d[k], zm_in%d + zm_row_start(layout%d, first_row < rows ? "
                           "first_row : rows - 1, columns),\n            at, layout%d);\n",
                           zm_storage_name(frame->request->inputs[input]), (int)id, input, input, input);
    }
    zm_text_append_string(text, "    }\n");
}

/* A load that has not begun: of this pass, or of any, where the registers suffice. */
static bool begins_here(const zm_gpu_body *body, zm_id id) {
    bool is_early = body->frame->request->summed_outputs || body->frame->resident_words <= EARLY_WORDS;
    return zm_gpu_is_vector_load(&body->schedule->ir->values[id]) && !body->is_declared[id] &&
           (is_early || body->is_listed[id]);
}

/* All new vectors of a resident row at once, so that they are on their way together. */
static void print_resident_loads(zm_gpu_body *body) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    bool any = false;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!begins_here(body, id)) continue;
        zm_text_printf(text, "        zm_packed<zm_%s, V> x%d[C];\n",
                       zm_storage_name(body->frame->request->inputs[ir->values[id].index]), (int)id);
        any = true;
    }
    if (!any) return;
    zm_text_append_string(text, "#pragma unroll\n        for (int k = 0; k < C; ++k) {\n");
    print_place(body, "            ");
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!begins_here(body, id)) continue;
        if (body->frame->request->summed_outputs)
            print_next_load(body, id);
        else
            print_load(body, "            ", id, "[k]");
        body->is_declared[id] = true;
    }
    zm_text_append_string(text, "        }\n");
}

static void print_streamed_loads(zm_gpu_body *body) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!body->is_listed[id] || !zm_gpu_is_vector_load(&ir->values[id])) continue;
        zm_text_printf(body->frame->text, "            zm_packed<zm_%s, V> x%d;\n",
                       zm_storage_name(body->frame->request->inputs[ir->values[id].index]), (int)id);
        print_load(body, "            ", id, "");
    }
}

/* Whether threads without elements must take part in the loop. */
static bool is_collective(const zm_gpu_body *body, const zm_pass *pass) {
    for (zm_id id = 0; id < body->schedule->ir->n_values; id++)
        if (body->is_listed[id] && zm_gpu_is_scan(&body->schedule->ir->values[id]) && !zm_gpu_is_reload(body, id))
            return true;
    for (int i = 0; i < pass->n_reductions; i++)
        if (zm_gpu_is_ordered(body->schedule->ir, pass->reductions[i])) return true;
    return false;
}

/* Several vectors are loaded before the first is computed. */
static zmlx_status print_streamed_loop(zm_gpu_body *body, const zm_pass *pass) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    int n_loads = 0;
    for (zm_id id = 0; id < ir->n_values; id++)
        n_loads += body->is_listed[id] && zm_gpu_is_vector_load(&ir->values[id]);
    int n_vectors = n_loads > 1 ? STREAMED_VECTORS / 2 : STREAMED_VECTORS;
    zm_text_printf(text, "#pragma unroll 1\n        for (uint first = 0u; first < uint(chunks); first += %du) {\n",
                   n_vectors);
    for (zm_id id = 0; id < ir->n_values; id++)
        if (body->is_listed[id] && zm_gpu_is_vector_load(&ir->values[id]))
            zm_text_printf(text, "            zm_packed<zm_%s, V> x%d[%d];\n",
                           zm_storage_name(body->frame->request->inputs[ir->values[id].index]), (int)id, n_vectors);
    for (int step = 0; step < 2; step++) {
        zm_text_printf(
            text,
            "#pragma unroll\n            for (int u = 0; u < %d; ++u) {\n            const uint k = first + uint(u);\n",
            n_vectors);
        print_place(body, "            ");
        for (zm_id id = 0; id < ir->n_values && !step; id++)
            if (body->is_listed[id] && zm_gpu_is_vector_load(&ir->values[id]))
                print_load(body, "            ", id, "[u]");
        if (step) {
            zm_text_append_string(text, "            if (at.exists) {\n");
            body->parts = pass;
            body->loaded = "[u]";
            ZM_TRY(zm_gpu_print_chunk(body));
            zm_text_append_string(text, "            }\n");
        }
        zm_text_append_string(text, "            }\n");
    }
    zm_text_append_string(text, "        }\n");
    return ZMLX_OK;
}

/* Before the loop: accumulators, the sums of scans, arrays of what is kept. */
static void print_state(zm_gpu_body *body, const zm_pass *pass) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    zm_gpu_print_accumulators(body, pass);
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!body->is_listed[id] || zm_gpu_is_reload(body, id)) continue;
        if (zm_gpu_is_scan(&ir->values[id])) {
            body->slots[id] = body->next_slot++;
            zm_text_printf(text,
                           body->is_declared[id] ? "        carry%d = zm_no_sum();\n"
                                                 : "        zm_sum carry%d = zm_no_sum();\n",
                           (int)id);
            body->is_declared[id] = true;
        }
        if (body->is_resident && body->schedule->kept[id] && body->schedule->kept_from[id] == body->pass)
            zm_text_printf(text, "        %s k%d[C][V];\n", zm_gpu_type(ir->values[id].type), (int)id);
    }
}

static int carry_word(const zm_gpu_body *body, zm_id id) { return body->carry_area[id] * ZM_GPU_CARRIES; }

/* In the first pass that has the scan. */
static void print_kept_carries(zm_gpu_body *body) {
    const zm_ir *ir = body->schedule->ir;
    for (zm_id id = 0; id < ir->n_values && body->frame->n_carried && !body->is_resident; id++) {
        if (!body->is_listed[id] || !zm_gpu_is_scan(&ir->values[id]) || body->carry_area[id] >= 0) continue;
        body->carry_area[id] = body->next_carry++;
        zm_text_printf(body->frame->text, "            zm_keep_carry(carries + %d, i, step, carry%d, group);\n",
                       carry_word(body, id), (int)id);
    }
}

/* Sets the sums of the scans to repeat to what they are at the start of chunk k. */
static zmlx_status print_repetition(zm_gpu_body *body, const zm_pass *pass) {
    const zm_ir *ir = body->schedule->ir;
    zm_text *text = body->frame->text;
    bool any = false;
    for (zm_id id = 0; id < ir->n_values; id++) {
        if (!is_repeated(body, id)) continue;
        any = true;
        zm_text_printf(text, "            carry%d = zm_kept_carry(carries + %d, chunks - 1 - i, step, group);\n",
                       (int)id, carry_word(body, id));
    }
    if (!any) return ZMLX_OK;
    for (zm_id id = 0; id < ir->n_values; id++) body->is_needed[id] = is_repeated(body, id);
    for (zm_id id = ir->n_values - 1; id >= 0; id--) {
        body->is_listed[id] = body->is_needed[id];
        for (int i = 0; body->is_needed[id] && i < zm_ir_operand_count(ir, id); i++)
            if (zm_gpu_is_element(body, zm_ir_operand(ir, id, i))) body->is_needed[zm_ir_operand(ir, id, i)] = true;
    }
    zm_text_printf(
        text,
        "            for (zm_long other = (chunks - 1 - i) / step * step; other < chunks - 1 - i; ++other) {\n"
        "            const zm_long k = %s;\n",
        pass->reversed ? "other" : "chunks - 1 - other");
    print_place(body, "            ");
    print_streamed_loads(body);
    body->parts = NULL;
    ZM_TRY(zm_gpu_print_chunk(body));
    zm_text_append_string(text, "            }\n");
    list_values(body, pass);
    return ZMLX_OK;
}

static void print_loop_head(zm_gpu_body *body, const zm_pass *pass) {
    zm_text *text = body->frame->text;
    if (body->is_resident)
        zm_text_printf(text,
                       "#pragma unroll\n        for (int i = 0; i < C; ++i) {\n            const int k = %s;\n",
                       pass->reversed ? "C - 1 - i" : "i");
    else
        zm_text_printf(
            text,
            "#pragma unroll 1\n        for (zm_long i = 0; i < chunks; ++i) {\n            const zm_long k = %s;\n",
            pass->reversed ? "chunks - 1 - i" : "i");
}

static zmlx_status print_pass(zm_gpu_body *body, int number) {
    const zm_pass *pass = &body->schedule->passes[number];
    zm_text *text = body->frame->text;
    body->pass = number;
    list_values(body, pass);
    if (body->is_resident) print_resident_loads(body); /* first, so that values of the row do not hold them up */
    for (int i = 0; i < pass->n_row_values; i++)
        ZM_TRY(zm_gpu_print_value(body->frame, "        ", pass->row_values[i]));
    print_state(body, pass);
    bool repeats = false;
    for (zm_id id = 0; id < body->schedule->ir->n_values; id++) repeats = repeats || is_repeated(body, id);
    if (repeats) zm_text_append_string(text, "        zm_barrier();\n");
    body->is_collective = is_collective(body, pass);
    body->loaded = body->is_resident ? "[k]" : "";
    if (!body->is_resident && !body->is_collective && !pass->reversed && !repeats) {
        ZM_TRY(print_streamed_loop(body, pass));
        zm_gpu_print_results(body, pass);
        return ZMLX_OK;
    }
    print_loop_head(body, pass);
    if (!body->is_resident) ZM_TRY(print_repetition(body, pass));
    print_place(body, "            ");
    zm_text_append_string(text, body->is_collective ? "            {\n" : "            if (at.exists) {\n");
    print_kept_carries(body);
    if (!body->is_resident) print_streamed_loads(body);
    body->parts = pass;
    ZM_TRY(zm_gpu_print_chunk(body));
    zm_text_append_string(text, "            }\n        }\n");
    zm_gpu_print_results(body, pass);
    return ZMLX_OK;
}

static zmlx_status print_row_outputs(zm_gpu_body *body) {
    const zm_schedule *schedule = body->schedule;
    const zm_pass *last = &schedule->passes[schedule->n_passes];
    for (int i = 0; i < last->n_row_values; i++)
        ZM_TRY(zm_gpu_print_value(body->frame, "        ", last->row_values[i]));
    for (int i = 0; i < last->n_stores; i++)
        zm_text_printf(body->frame->text,
                       "        if (active && group.index == 0u) zm_store_one<zm_%s>(zm_out%d, row, v%d);\n",
                       zm_storage_name(body->frame->request->outputs[last->stores[i]]), last->stores[i],
                       (int)schedule->ir->outputs[last->stores[i]].value);
    return ZMLX_OK;
}

static zmlx_status print_body(zm_gpu_frame *frame, const zm_schedule *schedule, bool is_resident) {
    zm_arena *arena = frame->ir->arena;
    size_t n = (size_t)schedule->ir->n_values + 1;
    zm_gpu_body body = {.frame = frame, .schedule = schedule, .is_resident = is_resident};
    body.next_slot = frame->n_carried * (ZM_GPU_CARRIES / ZM_GPU_SLOT); /* behind the carries */
    body.is_declared = zm_arena_alloc(arena, n, sizeof *body.is_declared);
    body.is_listed = zm_arena_alloc(arena, n, sizeof *body.is_listed);
    body.is_needed = zm_arena_alloc(arena, n, sizeof *body.is_needed);
    body.segment = zm_arena_alloc(arena, n, sizeof *body.segment);
    body.last_needed = zm_arena_alloc(arena, n, sizeof *body.last_needed);
    body.carry_area = zm_arena_alloc(arena, n, sizeof *body.carry_area);
    body.slots = zm_arena_alloc(arena, n, sizeof *body.slots);
    if (!body.is_declared || !body.is_listed || !body.is_needed || !body.segment || !body.last_needed ||
        !body.carry_area || !body.slots)
        return zm_fail_memory(frame->error);
    for (size_t i = 0; i < n; i++) body.carry_area[i] = -1;
    for (int pass = 0; pass < schedule->n_passes; pass++) ZM_TRY(print_pass(&body, pass));
    ZM_TRY(print_row_outputs(&body));
    if (body.next_slot > frame->n_slots) frame->n_slots = body.next_slot;
    return ZMLX_OK;
}

/* Words that a thread keeps of a row; 0: more than registers are for. */
static int count_resident_words(const zm_gpu_frame *frame, const zm_schedule *schedule) {
    int words = schedule->n_kept * frame->items, n_values = schedule->n_kept;
    for (zm_id id = 0; id < schedule->ir->n_values; id++) {
        const zm_value *value = &schedule->ir->values[id];
        if (!zm_gpu_is_vector_load(value)) continue;
        words += frame->items * zm_storage_bytes(frame->request->inputs[value->index]) / 4;
        n_values++;
    }
    for (int i = 0; i < schedule->ir->n_outputs; i++)
        if (zm_gpu_is_summed(frame->request, i)) words += frame->items;
    return n_values <= MAX_RESIDENT_VALUES && schedule->n_passes > 0 ? words : 0;
}

/* What is summed over rows begins with zeros: in registers, or where the sums go. */
static void print_sums(zm_gpu_frame *frame, bool is_resident) {
    zm_text *text = frame->text;
    for (int i = 0; i < frame->ir->n_outputs; i++) {
        if (!zm_gpu_is_summed(frame->request, i)) continue;
        zm_text_printf(
            text,
            "    ZM_DEVICE uint *const sum_out%d = zm_out%d + (self.block * group.rows + group.number) * columns;\n", i,
            i);
        if (is_resident)
            zm_text_printf(
                text, "    float z%d[C][V];\n#pragma unroll\n    for (int k = 0; k < C; ++k) zm_zero<V>(z%d[k]);\n", i,
                i);
        else
            zm_text_printf(text,
                           "    for (zm_long k = 0; k < chunks; ++k) {\n"
                           "        const zm_place at = zm_place_in_row<V, zm_long>(0, k, columns, true, group);\n"
                           "        float none[V];\n        zm_zero<V>(none);\n"
                           "        if (at.exists) zm_store<zm_float32, V>(sum_out%d, none, at);\n    }\n",
                           i);
    }
}

static void print_sums_end(zm_gpu_frame *frame) {
    for (int i = 0; i < frame->ir->n_outputs; i++)
        if (zm_gpu_is_summed(frame->request, i))
            zm_text_printf(frame->text,
                           "#pragma unroll\n    for (int k = 0; k < C; ++k) {\n"
                           "        const zm_place at = zm_place_in_row<V, int>(0, k, int(columns), true, group);\n"
                           "        if (at.exists) zm_store<zm_float32, V>(sum_out%d, z%d[k], at);\n    }\n",
                           i, i);
}

static void print_rows_head(zm_gpu_frame *frame, bool is_resident) {
    zm_text *text = frame->text;
    if (is_resident) zm_text_printf(text, "    constexpr int V = %d;\n", frame->vector);
    zm_text_append_string(text, "    const zm_group group = zm_group_of(self, threads_per_row);\n");
    if (!is_resident)
        zm_text_append_string(text, "    const zm_long chunks = (((columns - 1) / V) >> group.shift) + 1;\n");
    if (!is_resident && frame->n_carried)
        zm_text_printf(text,
                       "    const zm_long step = (chunks - 1) / %d + 1;\n"
                       "    ZM_SHARED uint *carries = shared;\n",
                       ZM_GPU_CARRIES);
    print_sums(frame, is_resident);
    if (is_resident && frame->request->summed_outputs) print_first_loads(frame);
    zm_text_append_string(
        text, "#pragma unroll 1\n"
              "    for (zm_long base = self.block * group.rows; base < rows; base += self.blocks * group.rows) {\n"
              "        const bool active = base + group.number < rows;\n"
              "        const zm_long row = active ? base + group.number : rows - 1;\n");
    if (is_resident && frame->request->summed_outputs)
        zm_text_append_string(text,
                              "        const zm_long row_next = base + self.blocks * group.rows + group.number;\n");
    for (int i = 0; i < frame->ir->n_inputs; i++)
        if (frame->ir->inputs[i].level == ZM_LEVEL_ELEMENT)
            zm_text_printf(text, "        const I%d row_in%d = zm_in%d + zm_row_start(layout%d, row, columns);\n", i, i,
                           i, i);
    for (int i = 0; i < frame->ir->n_outputs; i++)
        if (frame->ir->outputs[i].level == ZM_LEVEL_ELEMENT && !zm_gpu_is_summed(frame->request, i))
            zm_text_printf(text, "        ZM_DEVICE %s *row_out%d = zm_out%d + row * %s;\n",
                           zm_gpu_storage_word(frame->request->outputs[i]), i, i, zm_gpu_output_stride(frame));
}

static zmlx_status print_rows_function(zm_gpu_frame *frame, const zm_schedule *schedule, bool is_resident) {
    zm_gpu_print_function(frame, is_resident ? "zm_resident" : "zm_streamed",
                          is_resident ? "int C, int WHOLE" : "int V", "");
    print_rows_head(frame, is_resident);
    ZM_TRY(print_body(frame, schedule, is_resident));
    /* Shared memory is used again, where there are several warps to a row or sums of scans are kept in it. */
    zm_text_printf(frame->text, "        if (%sbase + self.blocks * group.rows < rows) zm_barrier();\n    }\n",
                   frame->n_carried ? "" : "group.warps > 1u && ");
    if (is_resident) print_sums_end(frame);
    zm_text_append_string(frame->text, "}\n");
    return ZMLX_OK;
}

/* What several passes need is computed again: that is cheaper than the registers to keep it. */
static zmlx_status make_schedule(zm_schedule *schedule, zm_gpu_frame *frame, const zm_ir *ir) {
    return zm_schedule_make(schedule, ir->arena, ir, INT_MAX, frame->error);
}

static zmlx_status print_resident(zm_gpu_frame *frame) {
    zm_schedule schedule;
    zm_ir *long_rows = frame->ir;
    ZM_TRY(make_schedule(&schedule, frame, frame->resident_ir));
    frame->resident_words = count_resident_words(frame, &schedule);
    if (!frame->resident_words) return ZMLX_OK;
    frame->ir = frame->resident_ir;
    zmlx_status status = print_rows_function(frame, &schedule, true);
    frame->ir = long_rows;
    return status;
}

zmlx_status zm_gpu_print_rows(zm_gpu_frame *frame) {
    zm_schedule schedule;
    ZM_TRY(make_schedule(&schedule, frame, frame->ir));
    for (zm_id id = 0; id < frame->ir->n_values && schedule.n_kept; id++)
        frame->n_carried += zm_gpu_is_scan(&frame->ir->values[id]);
    ZM_TRY(print_resident(frame));
    ZM_TRY(print_rows_function(frame, &schedule, false));
    if (zm_gpu_frame_shared_words(frame) * 4 > MAX_SHARED_BYTES)
        return zm_fail(frame->error, ZMLX_ERROR_UNSUPPORTED, frame->ir->name,
                       "more row operations than the shared memory of a block holds");
    return ZMLX_OK;
}
