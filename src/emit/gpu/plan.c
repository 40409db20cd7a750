/* SPDX-License-Identifier: MIT */
#include "emit/gpu/frame.h"

enum {
    MAX_GRID = 1 << 30,
    SUMMING_BLOCKS = 264 /* of kernels that sum over rows: two for each multiprocessor of an H100, which go on to further rows */
};

int zm_gpu_vector(const zm_emit_request *request) {
    int bytes = 4;
    for (int i = 0; i < request->ir->n_inputs; i++)
        if (zm_storage_bytes(request->inputs[i]) < bytes) bytes = 2;
    for (int i = 0; i < request->ir->n_outputs; i++)
        if (zm_storage_bytes(request->outputs[i]) < bytes) bytes = 2;
    return 16 / bytes;
}

int zm_gpu_row_items(const zm_emit_request *request) {
    int words = 0;
    for (int i = 0; i < request->ir->n_inputs; i++)
        if (request->ir->inputs[i].level == ZM_LEVEL_ELEMENT)
            words += ZM_GPU_HALF_ROW_ITEMS * zm_storage_bytes(request->inputs[i]) / 4;
    for (int i = 0; i < request->ir->n_outputs; i++)
        if (zm_gpu_is_summed(request, i)) words += ZM_GPU_HALF_ROW_ITEMS;
    bool is_scan = false;
    for (zm_id id = 0; id < request->ir->n_values; id++)
        is_scan |= zm_op_get(request->ir->values[id].op)->rule == ZM_RULE_SCAN;
    return zm_gpu_vector(request) == 8 && words <= ZM_GPU_ROW_WORDS && !is_scan ? ZM_GPU_HALF_ROW_ITEMS : ZM_GPU_ROW_ITEMS;
}

static zm_gpu_plan plan_map(const zm_emit_request *request, int64_t rows, int64_t columns) {
    int64_t tile = (int64_t)ZM_GPU_MAP_THREADS * zm_gpu_vector(request) * ZM_GPU_MAP_VECTORS;
    return (zm_gpu_plan){.blocks = (rows * columns - 1) / tile + 1, .threads = ZM_GPU_MAP_THREADS};
}

/* Depends on the columns alone, so a row's bits do not depend on the other rows. */
static zm_gpu_plan plan_rows(const zm_emit_request *request, int64_t rows, int64_t columns) {
    int items = zm_gpu_row_items(request);
    int threads_per_row = ZM_GPU_WARP;
    while (threads_per_row < ZM_GPU_MAX_ROW_THREADS && (int64_t)threads_per_row * items < columns)
        threads_per_row *= 2;
    int threads = threads_per_row > ZM_GPU_ROW_THREADS ? threads_per_row : ZM_GPU_ROW_THREADS;
    int64_t rows_per_block = threads / threads_per_row;
    int64_t blocks = (rows - 1) / rows_per_block + 1;
    if (request->summed_outputs && blocks > SUMMING_BLOCKS) blocks = SUMMING_BLOCKS;
    return (zm_gpu_plan){.blocks = blocks, .threads = threads, .threads_per_row = threads_per_row};
}

static int choose_part(const zm_emit_request *request, const zm_gpu_plan *plan, int64_t rows, int64_t columns,
                       bool is_aligned) {
    bool is_whole = columns % zm_gpu_vector(request) == 0;
    if (!plan->threads_per_row) {
        if (is_aligned && rows == 1) return ZM_GPU_FLAT_MAP;
        return is_aligned && is_whole ? ZM_GPU_ROWS_MAP : ZM_GPU_ODD_MAP;
    }
    if (!is_aligned || !is_whole) return ZM_GPU_ODD_ROWS;
    return columns <= (int64_t)plan->threads_per_row * zm_gpu_row_items(request) ? ZM_GPU_SHORT_ROWS : ZM_GPU_LONG_ROWS;
}

zm_gpu_plan zm_gpu_plan_launch(const zm_emit_request *request, int64_t rows, int64_t columns, bool is_aligned) {
    zm_gpu_plan plan = zm_ir_has_rows(request->ir) ? plan_rows(request, rows, columns) : plan_map(request, rows, columns);
    plan.part = choose_part(request, &plan, rows, columns, is_aligned);
    /* Blocks take further tiles or rows, so a grid's threads are a number that all interfaces take. */
    if (plan.blocks > MAX_GRID / plan.threads) plan.blocks = MAX_GRID / plan.threads;
    return plan;
}
