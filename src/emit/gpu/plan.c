/* SPDX-License-Identifier: MIT */
#include "emit/gpu/frame.h"

enum {
    MAX_GRID = 1 << 30,
    MULTIPROCESSORS = 132 /* of an H100: kernels that sum over rows have a few blocks for each, which go on to further
                             rows */
};

int zm_gpu_vector(const zm_emit_request *request) {
    int bytes = 4;
    for (int i = 0; i < request->ir->n_inputs; i++)
        if (zm_storage_bytes(request->inputs[i]) < bytes) bytes = 2;
    for (int i = 0; i < request->ir->n_outputs; i++)
        if (zm_storage_bytes(request->outputs[i]) < bytes) bytes = 2;
    return 16 / bytes;
}

int zm_gpu_map_vectors(const zm_ir *ir) {
    for (zm_id id = 0; id < ir->n_values; id++)
        if (ir->values[id].op == ZM_OP_RANDOM) return 2;
    return 1;
}

/* Registers for one element a thread of all that is read by element, in half words. */
static int count_halves(const zm_emit_request *request) {
    int halves = 0;
    for (int i = 0; i < request->ir->n_inputs; i++)
        if (request->ir->inputs[i].level == ZM_LEVEL_ELEMENT)
            halves += zm_storage_bytes(request->inputs[i]) > 2 ? 2 : 1;
    return halves;
}

static bool has_scan(const zm_emit_request *request) {
    for (zm_id id = 0; id < request->ir->n_values; id++)
        if (zm_op_get(request->ir->values[id].op)->rule == ZM_RULE_SCAN) return true;
    return false;
}

int zm_gpu_row_items(const zm_emit_request *request) {
    bool fits = ZM_GPU_HALF_ROW_ITEMS * count_halves(request) / 2 <= ZM_GPU_ROW_WORDS;
    return zm_gpu_vector(request) == 8 && fits && !has_scan(request) && !request->summed_outputs ? ZM_GPU_HALF_ROW_ITEMS
                                                                                                 : ZM_GPU_ROW_ITEMS;
}

static zm_gpu_plan plan_map(const zm_emit_request *request, int64_t rows, int64_t columns) {
    int64_t tile = (int64_t)ZM_GPU_MAP_THREADS * zm_gpu_vector(request) * zm_gpu_map_vectors(request->ir);
    return (zm_gpu_plan){.blocks = (rows * columns - 1) / tile + 1, .threads = ZM_GPU_MAP_THREADS};
}

static bool gives_elements(const zm_emit_request *request) {
    for (int i = 0; i < request->ir->n_outputs; i++)
        if (request->ir->outputs[i].level == ZM_LEVEL_ELEMENT) return true;
    return false;
}

/* As many as have place: they keep two rows and the sums in registers. Long rows need fewer. */
static int count_summing_blocks(int threads) {
    int blocks = ZM_GPU_SUMMING_THREADS / threads;
    return (blocks > 2 ? blocks : 2) * MULTIPROCESSORS;
}

/* How many reductions wait for one another. */
static int count_rounds(const zm_ir *ir) {
    enum { MOST = 256 };
    int rounds[MOST];
    int most = 0;
    for (zm_id id = 0; id < ir->n_values; id++) {
        const zm_value *value = &ir->values[id];
        if (ir->n_values > MOST) return 2;
        rounds[id] = 0;
        bool reduces = false;
        for (int i = 0; i < zm_ir_operand_count(ir, id); i++) {
            zm_id operand = zm_ir_operand(ir, id, i);
            if (rounds[operand] > rounds[id]) rounds[id] = rounds[operand];
            reduces |= value->level == ZM_LEVEL_ROW && ir->values[operand].level == ZM_LEVEL_ELEMENT;
        }
        rounds[id] += reduces ? (value->op == ZM_OP_ROW_EXP_SUM ? 2 : 1) : 0;
        if (rounds[id] > most) most = rounds[id];
    }
    return most;
}

/* Rows have numbers of their own, which threads wait for. */
static bool has_row_inputs(const zm_ir *ir) {
    for (int i = 0; i < ir->n_inputs; i++)
        if (ir->inputs[i].level == ZM_LEVEL_ROW) return true;
    return false;
}

/* Elements of a thread, where a row has threads for it: many have more on their way, few wait less for one another. */
static int choose_items(const zm_emit_request *request, int most) {
    if (request->summed_outputs) return 2 * zm_gpu_vector(request);
    if (most < ZM_GPU_HALF_ROW_ITEMS || !gives_elements(request) || has_row_inputs(request->ir)) return most;
    return count_rounds(request->ir) > 1 ? ZM_GPU_ROW_ITEMS : ZM_GPU_FEW_ITEMS;
}

/* Depends on the columns alone, so a row's bits do not depend on the other rows. */
static zm_gpu_plan plan_rows(const zm_emit_request *request, int64_t rows, int64_t columns) {
    int items = zm_gpu_row_items(request), chosen = choose_items(request, items);
    int many = request->summed_outputs ? ZM_GPU_MAX_ROW_THREADS : ZM_GPU_WIDE_ROW_THREADS;
    int threads_per_row = ZM_GPU_WARP;
    while (threads_per_row < many && (int64_t)threads_per_row * chosen < columns)
        threads_per_row *= 2;
    while (threads_per_row < ZM_GPU_MAX_ROW_THREADS && (int64_t)threads_per_row * items < columns)
        threads_per_row *= 2;
    /* What is read once needs many rows at a time; what is read again should find it in the cache. */
    if (!gives_elements(request) && (int64_t)threads_per_row * items < columns) threads_per_row = ZM_GPU_ROW_THREADS;
    /* Small blocks make place for the next one sooner; but those of sums are few, and a block of very short rows is
     * little work. */
    bool is_small = columns >= ZM_GPU_ROW_ITEMS * ZM_GPU_WARP;
    int least = request->summed_outputs ? ZM_GPU_SUMMING_BLOCK : is_small ? ZM_GPU_SMALL_BLOCK : ZM_GPU_ROW_THREADS;
    int threads = threads_per_row > least ? threads_per_row : least;
    int64_t rows_per_block = threads / threads_per_row;
    int64_t blocks = (rows - 1) / rows_per_block + 1;
    if (request->summed_outputs && blocks > count_summing_blocks(threads)) blocks = count_summing_blocks(threads);
    return (zm_gpu_plan){.blocks = blocks, .threads = threads, .threads_per_row = threads_per_row};
}

static bool vary_by_column(const zm_emit_request *request, const int32_t *layouts) {
    for (int i = 0; i < request->ir->n_inputs && layouts; i++)
        if (request->ir->inputs[i].level == ZM_LEVEL_ELEMENT && !(layouts[i] & ZM_LAYOUT_COLUMN)) return false;
    return layouts;
}

static int choose_row_part(const zm_emit_request *request, int threads_per_row, int64_t columns, bool are_plain) {
    int64_t chunk = (int64_t)threads_per_row * zm_gpu_vector(request);
    if (columns > (int64_t)threads_per_row * zm_gpu_row_items(request)) return ZM_GPU_LONG_ROWS;
    if (!are_plain) return ZM_GPU_SHORT_ROWS;
    return ZM_GPU_GENERAL_PARTS + 2 * (int)((columns - 1) / chunk) + (columns % chunk != 0);
}

static int choose_part(const zm_emit_request *request, int threads_per_row, int64_t rows, int64_t columns,
                       bool are_plain, bool is_aligned) {
    bool is_whole = columns % zm_gpu_vector(request) == 0;
    if (!threads_per_row) {
        if (is_aligned && rows == 1) return are_plain ? ZM_GPU_FLAT_MAP : ZM_GPU_ROWS_MAP;
        if (!is_aligned || !is_whole) return ZM_GPU_ODD_MAP;
        return are_plain ? ZM_GPU_PLAIN_MAP : ZM_GPU_ROWS_MAP;
    }
    return is_aligned && is_whole ? choose_row_part(request, threads_per_row, columns, are_plain) : ZM_GPU_ODD_ROWS;
}

zm_gpu_plan zm_gpu_plan_launch(const zm_emit_request *request, int64_t rows, int64_t columns, const int32_t *layouts,
                               bool is_aligned) {
    zm_gpu_plan plan = zm_ir_has_rows(request->ir) ? plan_rows(request, rows, columns)
                                                   : plan_map(request, rows, columns);
    plan.part = choose_part(request, plan.threads_per_row, rows, columns, vary_by_column(request, layouts), is_aligned);
    /* Blocks take further tiles or rows, so a grid's threads are a number that all interfaces take. */
    if (plan.blocks > MAX_GRID / plan.threads) plan.blocks = MAX_GRID / plan.threads;
    return plan;
}
