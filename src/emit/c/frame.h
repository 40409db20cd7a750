/* SPDX-License-Identifier: MIT */
/* The C target's text. A kernel becomes
 *
 *   static inline void zm_body(call, ranges, a flag per input) {
 *       uniform values
 *       for each row { row values; pass 0; row values; pass 1; ...; row outputs }
 *   }
 *
 * and the entry, which calls it with constant flags where every input varies by column. Values are vectors: v<id>,
 * those of a row with all lanes equal; of a pair of vectors the second is w<id>. Per input i: in<i>, its row;
 * varies<i>, the flag; one<i>, its value where it does not vary. */
#ifndef ZM_EMIT_C_FRAME_H
#define ZM_EMIT_C_FRAME_H

#include "base/text.h"
#include "emit/emit.h"
#include "emit/schedule.h"

/* Text being written; the first failure is kept. */
typedef struct zm_c_frame {
    zm_text *text;
    const zm_ir *ir; /* legalised */
    const zm_emit_request *request;
    zm_schedule schedule;
    int *kept_row; /* by value: row of the scratch, or -1 */
    int n_kept;
    bool *is_varying; /* by input: loaded by element, so it has a flag */
    bool whole_rows;  /* else the caller's range of columns */
    bool is_second;   /* of a pair of vectors this one is being written */
    bool is_in_pairs; /* random numbers of several pairs are there: the loop's `pair` says which */
    zmlx_status status;
    zmlx_error *error;
} zm_c_frame;

/* How much a piece of text handles. */
typedef enum zm_c_extent {
    ZM_C_PAIR, /* two vectors, value by value: what one waits for the other fills */
    ZM_C_FULL,
    ZM_C_PART /* `count` lanes of 1 ... ZM_WIDTH */
} zm_c_extent;

extern const char *const zm_c_types[]; /* of variables, by zm_type */

typedef struct zm_c_name {
    char text[16];
} zm_c_name;
zm_c_name zm_c_name_of(const zm_c_frame *frame, zm_id id);
const char *zm_c_column(const zm_c_frame *frame); /* of the vector's first element */

/* Added up over rows instead of stored. */
static inline bool zm_c_is_summed(const zm_c_frame *frame, int output) {
    return frame->request->summed_outputs >> output & 1;
}

/* value.c */
bool zm_c_is_reload(const zm_c_frame *frame, zm_id id, int pass); /* kept by an earlier pass */
void zm_c_write_row_values(zm_c_frame *frame, const zm_pass *pass, zm_level level, const char *indent);
void zm_c_write_element_values(zm_c_frame *frame, int pass, zm_c_extent extent, const char *indent);
/* Declares two<id>: random numbers of n pairs of vectors from c on. */
void zm_c_write_random_pairs(zm_c_frame *frame, zm_id id, const char *indent, int n);
void zm_c_write_stores(zm_c_frame *frame, const zm_pass *pass, zm_c_extent extent, const char *indent);
void zm_c_write_row_stores(zm_c_frame *frame, const zm_pass *pass);

/* reduction.c: of one reduction: its variables before the loops of the pass, a step for a vector of its operands
 * (accumulator: its index), the end of a step of several vectors, the flush between blocks, the result after the
 * loops. */
void zm_c_write_accumulators(zm_c_frame *frame, zm_id id, int n_accumulators);
void zm_c_write_step(zm_c_frame *frame, zm_id id, bool reversed, zm_c_extent extent, const char *accumulator,
                     const char *indent);
void zm_c_write_step_end(zm_c_frame *frame, zm_id id, int n_vectors, const char *indent);
void zm_c_write_flush(zm_c_frame *frame, zm_id id, int n_accumulators, const char *indent);
void zm_c_write_result(zm_c_frame *frame, zm_id id, int n_accumulators);

void zm_c_write_fold_functions(zm_c_frame *frame); /* what the steps of folds call */

/* pass.c: pass number `pass` with its loops. */
void zm_c_write_pass(zm_c_frame *frame, int pass);

#endif
