/* SPDX-License-Identifier: MIT */
/* What CUDA and Metal share: the frame of a kernel and the launch that belongs to it.
 *
 * Arguments in order: inputs, outputs, then scalars as 32-bit words: rows low, rows high, columns low, columns high,
 * threads_per_row, a layout per input, a float per parameter, two words (low, high) per seed, in the
 * kernel's order (a seed parameter has no float, a float parameter no words).
 *
 * A map gives each thread some consecutive elements, by 16-byte accesses where layout and address allow. A
 * kernel with row operations gives each row threads_per_row threads (whole warps; a block holds one or more rows); a
 * row that fits keeps its kept values in registers, a longer one is read again in each pass. */
#ifndef ZM_EMIT_GPU_GPU_H
#define ZM_EMIT_GPU_GPU_H

#include "emit/emit.h"

/* The programs of a CUDA kernel: its text compiled with ZM_PART defined as their number. The first ones serve all
 * shapes; behind them, of rows, two for each number of chunks of a short one, the last chunk whole or not, where inputs
 * of elements vary by column. */
enum { ZM_GPU_GENERAL_PARTS = 3, ZM_GPU_MAX_CHUNKS = 4, ZM_GPU_PARTS = ZM_GPU_GENERAL_PARTS + 2 * ZM_GPU_MAX_CHUNKS };
enum {
    ZM_GPU_SHORT_ROWS, /* of whole vectors, all that is read of one fits into the registers of its threads */
    ZM_GPU_LONG_ROWS,  /* of whole vectors */
    ZM_GPU_ODD_ROWS    /* any */
};
enum {
    ZM_GPU_FLAT_MAP, /* one row, all inputs vary by column */
    ZM_GPU_ROWS_MAP, /* one row, or rows of whole vectors */
    ZM_GPU_ODD_MAP,  /* any */
    ZM_GPU_PLAIN_MAP, /* rows of whole vectors, all inputs vary by column */
    ZM_GPU_MAP_PARTS
};

typedef struct zm_gpu_plan {
    int part;
    int64_t blocks;
    int threads;         /* a block */
    int threads_per_row; /* 0 for a map */
    int shared_bytes;    /* dynamic; 0 where declared in the text */
} zm_gpu_plan;

/* Rows of an array of sums over rows: as many as a grid has at a time. */
static inline int64_t zm_gpu_sum_rows(const zm_gpu_plan *plan) {
    return plan->threads_per_row ? plan->blocks * (plan->threads / plan->threads_per_row) : 0;
}

/* The launch for an emitted kernel; the same for both targets, but that Metal's has no parts. rows and columns are at
 * least 1. layouts: of the inputs (emit.h); NULL: unknown. is_aligned: all arrays begin at a multiple of 16 bytes. */
zm_gpu_plan zm_gpu_plan_launch(const zm_emit_request *request, int64_t rows, int64_t columns, const int32_t *layouts,
                               bool is_aligned);

/* The names of arguments, the same for all kernels: a user's names may be words of the target's language. */
const char *zm_gpu_input_name(int input);   /* zm_in<input>, below ZM_IR_MAX_INPUTS */
const char *zm_gpu_output_name(int output); /* zm_out<output>, below ZM_IR_MAX_OUTPUTS */

/* Metal through MLX's custom kernel, which writes the kernel's signature itself: `header` goes before it (prelude and
 * a function with the whole frame), `body` calls that. The scalars arrive as one uint32 input named zm_scalars
 * after the kernel's inputs; arrays have the names above. The target's emit gives the same text with a signature of
 * its own. */
zmlx_status zm_metal_emit_parts(zm_text *header, zm_text *body, const zm_emit_request *request, zmlx_error *error);

#endif
