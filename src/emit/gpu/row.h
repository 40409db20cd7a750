/* SPDX-License-Identifier: MIT */
/* One body of a row frame: the passes of a schedule, over elements in registers (resident) or read in every pass. */
#ifndef ZM_EMIT_GPU_ROW_H
#define ZM_EMIT_GPU_ROW_H

#include "emit/gpu/frame.h"

typedef struct zm_gpu_body {
    zm_gpu_frame *frame;
    const zm_schedule *schedule;
    bool is_resident;
    int next_slot;
    int next_carry;
    bool *is_declared; /* by value: its variables are declared */
    int *carry_area; /* by value: of a scan that a pass of the other direction needs, where chunks are not resident; or
                        -1 */
    int *slots;      /* by value: of reductions and scans */
    /* Of the pass that is printed. */
    int pass;
    bool is_collective; /* threads without elements take part in its loop */
    const char *loaded; /* behind the name of a load's vector: "[k]", "[u]" or nothing */
    bool *is_listed;  /* by value: an element value of it */
    bool *is_needed;  /* by value: read in the segment that is printed */
    int *segment;     /* by value: loop over the vector that computes it; a scan ends its segment */
    int *last_needed; /* by value: last segment that reads it */
    int n_segments;
    const zm_pass *parts; /* what reductions and stores the loop has; NULL: none */
} zm_gpu_body;

static inline bool zm_gpu_is_scan(const zm_value *value) { return zm_op_get(value->op)->rule == ZM_RULE_SCAN; }
static inline bool zm_gpu_is_element(const zm_gpu_body *body, zm_id id) {
    return body->schedule->ir->values[id].level == ZM_LEVEL_ELEMENT;
}
/* Kept by an earlier pass and there in registers. */
static inline bool zm_gpu_is_reload(const zm_gpu_body *body, zm_id id) {
    return body->is_resident && body->schedule->kept[id] && body->schedule->kept_from[id] < body->pass;
}

/* The code for one vector of each thread, `at` and, resident, `k` being set: listed values and what follows. */
zmlx_status zm_gpu_print_chunk(zm_gpu_body *body);

/* reduction.c: accumulators before the loop, in it for element j, after each vector, after the loop. */
void zm_gpu_print_accumulators(zm_gpu_body *body, const zm_pass *pass);
void zm_gpu_print_vector_parts(zm_gpu_body *body, const zm_pass *pass);
void zm_gpu_print_accumulate(zm_gpu_body *body, zm_id reduction);
void zm_gpu_print_vector_end(zm_gpu_body *body, const zm_pass *pass);
void zm_gpu_print_results(zm_gpu_body *body, const zm_pass *pass);
bool zm_gpu_is_ordered(const zm_ir *ir, zm_id reduction); /* a fold without combine */

#endif
