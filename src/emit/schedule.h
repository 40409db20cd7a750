/* SPDX-License-Identifier: MIT */
/* A kernel as passes over the row: shared by all targets.
 *
 * Pass p is one loop over the columns. Before it, `row_values` are computed once a row; in it, `element_values`
 * for each element, in order; then the operands of `reductions` are accumulated and `stores` made. Element values
 * needed in several passes are computed again in each (they come from loads), except those `kept`: computed in
 * their first pass and kept for the row. After the last pass, `row_values` of the extra entry passes[n_passes] (it
 * has no loop) lead to row outputs, its `stores`. */
#ifndef ZM_EMIT_SCHEDULE_H
#define ZM_EMIT_SCHEDULE_H

#include "ir/ir.h"

typedef struct zm_pass {
    zm_id *row_values; /* UNIFORM and ROW values, operands first, each in the first pass that can have it */
    int n_row_values;
    zm_id *element_values; /* ELEMENT values; loads and scans included; one kept by an earlier pass is a reload */
    int n_element_values;
    zm_id *reductions; /* REDUCE and FOLD values finished by this loop */
    int n_reductions;
    int *stores; /* output numbers */
    int n_stores;
    bool reversed; /* the loop runs from the last column: it holds a row_cumsum_reverse, and no
                      row_cumsum and no fold without a combine */
} zm_pass;

typedef struct zm_schedule {
    const zm_ir *ir; /* borrowed */
    zm_pass *passes; /* n_passes + 1 */
    int n_passes;    /* at least 1 where an output is at ELEMENT */
    bool *kept;      /* by value */
    int *kept_from;  /* by value: the pass that computes a kept value */
    int n_kept;
} zm_schedule;

/* keep_cost: values at least this costly (a load 1, an add 1, a division 4, exp 10, a product of costs along the
 * operands) that several passes need are kept; a target that cannot keep gives INT_MAX, then only what must be (a
 * scan of the other direction) is. The schedule lives in arena. */
zmlx_status zm_schedule_make(zm_schedule *schedule, zm_arena *arena, const zm_ir *ir, int keep_cost,
                             zmlx_error *error);

#endif
