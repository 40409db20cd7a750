/* SPDX-License-Identifier: MIT */
/* A kernel, or a region, that grows without repeating itself: the parts of zm_ir_simplify. */
#ifndef ZM_IR_REWRITE_H
#define ZM_IR_REWRITE_H

#include "base/map.h"
#include "ir/ir.h"

/* What is known of a value before any kernel runs. FLOAT values that are known are CONSTANTs; of the other types
 * there are none, so a comparison of constants stays, and its number is here. */
typedef struct zm_known {
    bool is_known;
    double number;
} zm_known;

typedef struct zm_rewriter {
    zm_ir *ir;       /* the new kernel, not owned; a failure is in ir->failure */
    zm_map *seen;    /* value -> its number */
    zm_arena *keys;  /* of seen */
    zm_known *known; /* by value */
    int known_capacity;
} zm_rewriter;

/* False when out of memory. */
bool zm_rewriter_init(zm_rewriter *rewriter, zm_ir *ir);
void zm_rewriter_clear(zm_rewriter *rewriter);

/* simplify.c: the value's number after folding and identities; -1 after a failure. Operands are values of
 * rewriter->ir. */
zm_id zm_rewrite_apply(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b, zm_id c);
/* fold.c: the number in terms of existing or fewer operations; -1: as it is. */
zm_id zm_rewrite_identity(zm_rewriter *rewriter, zm_op op, zm_id a, zm_id b, zm_id c);

/* cse.c: the number of this value: of the one that is there, or of a new one. The order of operands that may be
 * exchanged does not count. */
zm_id zm_rewrite_value(zm_rewriter *rewriter, zm_value value);
/* Takes fold as zm_ir_fold does. */
zm_id zm_rewrite_fold(zm_rewriter *rewriter, const zm_fold *fold);

#endif
