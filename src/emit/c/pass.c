/* SPDX-License-Identifier: MIT */
/* The loops of a pass, of three forms:
 *   stores only    any vector may start anywhere, so stores past the caches are aligned first
 *   reductions     an accumulator per vector of a step, block by block, from column 0
 *   a scan or an ordered fold: one vector after the other, from either end
 * The first two take vectors in pairs. */
#include "emit/c/frame.h"

enum { N_ACCUMULATORS = 4, MOST_ACCUMULATORS = 8 };
enum { MAX_UNROLLED_CALLS = 1, MAX_UNROLLED_VALUES = 16, MAX_PAIRED_CALLS = 6, MAX_PAIRED_VALUES = 40 };

/* Element value i of the pass as a scan made by it, or -1. */
static zm_id get_scan(const zm_c_frame *frame, int pass_number, int i) {
    zm_id id = frame->schedule.passes[pass_number].element_values[i];
    bool is_scan = zm_op_get(frame->ir->values[id].op)->rule == ZM_RULE_SCAN;
    return is_scan && !zm_c_is_reload(frame, id, pass_number) ? id : -1;
}

static bool is_ordered(const zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    for (int i = 0; i < pass->n_element_values; i++)
        if (get_scan(frame, pass_number, i) >= 0) return true;
    for (int i = 0; i < pass->n_reductions; i++) {
        const zm_value *value = &frame->ir->values[pass->reductions[i]];
        if (value->op == ZM_OP_FOLD && !frame->ir->folds[value->index].combine.n_values) return true;
    }
    return pass->reversed;
}

/* Short bodies gain from unrolling and all but the longest from pairs; others would only take longer to compile. */
static bool has_at_most(const zm_c_frame *frame, int pass_number, int max_values, int max_calls) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    int n_calls = 0;
    for (int i = 0; i < pass->n_element_values; i++) {
        zm_id id = pass->element_values[i];
        const zm_op_info *info = zm_op_get(frame->ir->values[id].op);
        bool is_call = info->form == ZM_FORM_CALL && info->rule == ZM_RULE_FLOAT;
        n_calls += is_call && !zm_c_is_reload(frame, id, pass_number);
    }
    return pass->n_element_values <= max_values && n_calls <= max_calls;
}
static zm_c_extent get_extent(const zm_c_frame *frame, int pass_number) {
    if (is_ordered(frame, pass_number)) return ZM_C_FULL;
    return has_at_most(frame, pass_number, MAX_PAIRED_VALUES, MAX_PAIRED_CALLS) ? ZM_C_PAIR : ZM_C_FULL;
}
static int count_vectors(zm_c_extent extent) { return extent == ZM_C_PAIR ? 2 : 1; }
static int count_accumulators(const zm_c_frame *frame, int pass_number) {
    zm_c_extent extent = get_extent(frame, pass_number);
    bool is_short = has_at_most(frame, pass_number, MAX_UNROLLED_VALUES, MAX_UNROLLED_CALLS), sums_exps = false;
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    for (int i = 0; i < pass->n_reductions; i++)
        sums_exps |= frame->ir->values[pass->reductions[i]].op == ZM_OP_ROW_EXP_SUM;
    if (extent != ZM_C_PAIR || !is_short) return count_vectors(extent);
    return sums_exps ? MOST_ACCUMULATORS : N_ACCUMULATORS; /* the more of them, the less often their sum is scaled */
}

static void write_step_ends(zm_c_frame *frame, const zm_pass *pass, int n_vectors, const char *indent) {
    for (int i = 0; i < pass->n_reductions; i++) zm_c_write_step_end(frame, pass->reductions[i], n_vectors, indent);
}

/* accumulators: of the vectors, where there are reductions. */
static void write_body(zm_c_frame *frame, int pass_number, zm_c_extent extent, const char *const accumulators[2],
                       const char *indent) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    zm_c_write_element_values(frame, pass_number, extent, indent);
    for (int vector = 0; vector < count_vectors(extent); vector++) {
        frame->is_second = vector;
        for (int i = 0; i < pass->n_reductions; i++)
            zm_c_write_step(frame, pass->reductions[i], pass->reversed, extent, accumulators[vector], indent);
    }
    frame->is_second = false;
    zm_c_write_stores(frame, pass, extent, indent);
}

static const char *const only_accumulator[2] = {"0"};

/* Of each output: are its vectors from this column on aligned? */
static void write_stream_flags(zm_c_frame *frame, const zm_pass *pass, const char *column) {
    for (int i = 0; i < pass->n_stores; i++) {
        int output = pass->stores[i];
        if (zm_c_is_summed(frame, output)) continue;
        zm_text_printf(frame->text,
                       "            const int stream%d = call->stream_stores && zm_is_aligned(out%d, %s, %d);\n",
                       output, output, column, zm_storage_bytes(frame->request->outputs[output]));
    }
}

/* What the first pass reads comes from memory: the processor's own prefetching stops at pages and begins anew, and
 * leaves the memory idle where a vector takes long to compute. */
static void write_fetch(zm_c_frame *frame, int pass_number, zm_c_extent extent, const char *indent) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    for (int i = 0; !pass_number && i < pass->n_element_values; i++) {
        const zm_value *value = &frame->ir->values[pass->element_values[i]];
        if (value->op == ZM_OP_LOAD)
            zm_text_printf(frame->text, "%sif (varies%d) zm_fetch(in%d, c, fetch_end, %d, %d);\n", indent,
                           (int)value->index, (int)value->index, zm_storage_bytes(frame->request->inputs[value->index]),
                           count_vectors(extent));
    }
}

/* The last pass finds its row in the caches and would leave the memory idle but for its stores: it fetches the next
 * row. */
static void write_prefetch(zm_c_frame *frame, int pass_number, zm_c_extent extent, const char *indent) {
    const zm_pass *first = &frame->schedule.passes[0];
    if (!pass_number || pass_number + 1 != frame->schedule.n_passes) return;
    for (int i = 0; i < first->n_element_values; i++) {
        const zm_value *value = &frame->ir->values[first->element_values[i]];
        if (value->op != ZM_OP_LOAD) continue;
        int bytes = zm_storage_bytes(frame->request->inputs[value->index]);
        zm_text_printf(frame->text, "%szm_fetch_row(in%d + ahead%d + c * %d, %d, %d);\n", indent, (int)value->index,
                       (int)value->index, bytes, bytes, count_vectors(extent));
    }
}

/* Random numbers of two pairs of vectors are computed side by side. */
static void write_random_loop(zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    bool has_any = false;
    for (int i = 0; i < pass->n_element_values; i++) {
        zm_id id = pass->element_values[i];
        if (frame->ir->values[id].op != ZM_OP_RANDOM || zm_c_is_reload(frame, id, pass_number)) continue;
        if (!has_any) zm_text_append_string(frame->text, "                    while (last - c >= 2 * step) {\n");
        zm_c_write_random_pairs(frame, id, "                        ", 2);
        has_any = true;
    }
    if (!has_any) return;
    frame->is_in_pairs = true;
    zm_text_append_string(frame->text, "                        ZM_UNROLL\n"
                                       "                        for (int pair = 0; pair < 2; pair++, c += step) {\n");
    write_fetch(frame, pass_number, ZM_C_PAIR, "                            ");
    write_body(frame, pass_number, ZM_C_PAIR, only_accumulator, "                            ");
    zm_text_append_string(frame->text, "                        }\n                    }\n");
    frame->is_in_pairs = false;
}

static void write_store_loop(zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    zm_c_extent extent = get_extent(frame, pass_number);
    zm_text *text = frame->text;
    const char *first = frame->whole_rows ? "0" : "first_column",
               *last = frame->whole_rows ? "columns" : "last_column";
    zm_text_printf(text, "            const zm_index last = %s;\n            zm_index c = %s, head = 0;\n", last,
                   first);
    if (pass->n_stores && !zm_c_is_summed(frame, pass->stores[0]))
        zm_text_printf(text, "            if (call->stream_stores) head = zm_head(out%d, c, %d, last - c);\n",
                       pass->stores[0], zm_storage_bytes(frame->request->outputs[pass->stores[0]]));
    write_stream_flags(frame, pass, "c + head");
    zm_text_printf(text,
                   "            while (c < last) {\n"
                   "                int count = head < ZM_WIDTH ? (int)head : ZM_WIDTH;\n"
                   "                head -= count;\n"
                   "                if (count == 0) {\n"
                   "                    const zm_index step = %d * ZM_WIDTH;\n",
                   count_vectors(extent));
    if (extent == ZM_C_PAIR) write_random_loop(frame, pass_number);
    zm_text_append_string(text, "                    for (; last - c >= step; c += step) {\n");
    write_prefetch(frame, pass_number, extent, "                        ");
    write_fetch(frame, pass_number, extent, "                        ");
    write_body(frame, pass_number, extent, only_accumulator, "                        ");
    zm_text_append_string(text, "                    }\n"
                                "                    count = last - c < ZM_WIDTH ? (int)(last - c) : ZM_WIDTH;\n"
                                "                }\n"
                                "                if (count > 0) {\n");
    write_body(frame, pass_number, ZM_C_PART, only_accumulator, "                    ");
    zm_text_append_string(text, "                }\n"
                                "                c += count;\n"
                                "            }\n");
}

static void write_flushes(zm_c_frame *frame, const zm_pass *pass, int n_accumulators, const char *indent) {
    for (int i = 0; i < pass->n_reductions; i++)
        zm_c_write_flush(frame, pass->reductions[i], n_accumulators, indent);
}

static void write_forward_loops(zm_c_frame *frame, int pass_number, int n) {
    static const char *const accumulators[MOST_ACCUMULATORS] = {"0", "1", "2", "3", "4", "5", "6", "7"};
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    zm_c_extent extent = get_extent(frame, pass_number);
    int n_vectors = count_vectors(extent);
    zm_text *text = frame->text;
    zm_text_printf(text,
                   "            for (;;) {\n"
                   "                const zm_index end = c + zm_whole(columns - c, %d);\n"
                   "                while (c < end) {\n",
                   n);
    for (int i = 0; i < n; i += n_vectors) {
        zm_text_append_string(text, "                    {\n");
        write_prefetch(frame, pass_number, extent, "                        ");
        write_fetch(frame, pass_number, extent, "                        ");
        write_body(frame, pass_number, extent, accumulators + i, "                        ");
        zm_text_printf(text, "                    }\n                    c += %d * ZM_WIDTH;\n", n_vectors);
    }
    write_step_ends(frame, pass, n, "                    ");
    zm_text_printf(text,
                   "                }\n"
                   "                if (columns - c < %d * ZM_WIDTH) break;\n",
                   n);
    write_flushes(frame, pass, n, "                ");
    zm_text_append_string(
        text, "            }\n"
              "            for (; c < columns; c += ZM_WIDTH) {\n"
              "                const int count = columns - c < ZM_WIDTH ? (int)(columns - c) : ZM_WIDTH;\n");
    write_body(frame, pass_number, ZM_C_PART, only_accumulator, "                ");
    write_step_ends(frame, pass, 1, "                ");
    zm_text_append_string(text, "            }\n");
}

static void write_backward_loops(zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    zm_text *text = frame->text;
    zm_text_append_string(text, "            const int count = (int)(columns % ZM_WIDTH);\n"
                                "            c = columns - count;\n"
                                "            if (count > 0) {\n");
    write_body(frame, pass_number, ZM_C_PART, only_accumulator, "                ");
    write_step_ends(frame, pass, 1, "                ");
    zm_text_append_string(text, "            }\n"
                                "            while (c > 0) {\n"
                                "                const zm_index end = c - zm_whole(c, 1);\n"
                                "                while (c > end) {\n"
                                "                    c -= ZM_WIDTH;\n");
    write_body(frame, pass_number, ZM_C_FULL, only_accumulator, "                    ");
    write_step_ends(frame, pass, 1, "                    ");
    zm_text_append_string(text, "                }\n");
    write_flushes(frame, pass, 1, "                ");
    zm_text_append_string(text, "            }\n");
}

static void write_row_loops(zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    int n = count_accumulators(frame, pass_number);
    zm_text_append_string(frame->text, "            zm_index c = 0;\n");
    write_stream_flags(frame, pass, "c");
    for (int i = 0; i < pass->n_reductions; i++) zm_c_write_accumulators(frame, pass->reductions[i], n);
    for (int i = 0; i < pass->n_element_values; i++) {
        zm_id scan = get_scan(frame, pass_number, i);
        if (scan >= 0) zm_text_printf(frame->text, "            double carry%d = 0;\n", (int)scan);
    }
    if (pass->reversed)
        write_backward_loops(frame, pass_number);
    else
        write_forward_loops(frame, pass_number, n);
    for (int i = 0; i < pass->n_reductions; i++) zm_c_write_result(frame, pass->reductions[i], n);
}

void zm_c_write_pass(zm_c_frame *frame, int pass_number) {
    const zm_pass *pass = &frame->schedule.passes[pass_number];
    for (int i = 0; i < pass->n_reductions; i++) {
        zm_id id = pass->reductions[i];
        zm_text_printf(frame->text, "        %s v%d;\n", zm_c_types[frame->ir->values[id].type], (int)id);
    }
    zm_text_append_string(frame->text, "        {\n");
    if (pass->n_reductions || is_ordered(frame, pass_number))
        write_row_loops(frame, pass_number);
    else
        write_store_loop(frame, pass_number);
    zm_text_append_string(frame->text, "        }\n");
}
