/* SPDX-License-Identifier: MIT */
/* Launches of decode kernels while they are put together, and how weights go through those kernels. */
#ifndef ZM_FUSED_CUDA_LAUNCH_H
#define ZM_FUSED_CUDA_LAUNCH_H

#include "fused/cuda/decode.h"
#include "fused/cuda/program.h"

typedef struct zm_launch {
    zm_decode *decode;
    zm_chain_launch_record record;
    zm_decode_kernel kernel;
    int registers;  /* of a thread */
    uint64_t bytes; /* of the weights that it reads */
    bool one_each;  /* a block for each multiprocessor, where nothing else is in the way */
    bool is_alone;  /* of one_each: nothing behind it is to begin beside it and the kernel before */
    int most_warps; /* of a block; 0: as many as there may be */
    int unit;       /* of blocks there are a multiple of this; 0: of 1 */
} zm_launch;

/* What the warps of a kernel multiply: tasks of a few rows of a weight, of which a piece at a time is in
 * shared memory. */
typedef struct zm_product_plan {
    const zm_weight *weight;
    int n_tasks, task_rows;
    int n_inputs; /* rows of x in shared memory */
    int n_slots;  /* for pieces, a warp; zm_launch_reserve sets it */
    int n_ahead;  /* pieces that copies are ahead of products, as the kernel has it; 0: HIDDEN_AHEAD */
    int n_left;   /* the next kernel begins when warps have so many pieces left; 0: when this one may read */
    int n_pieces, round_bytes; /* of a warp; of a piece for each warp of a block: zm_launch_reserve sets them */
} zm_product_plan;

/* n_left by which the next kernel begins when this one has its first pieces: what it copies was not known before. */
enum { ZM_ALL_LEFT = 1 << 16 };

/* Shared memory of an H100's and an H200's multiprocessor, and what a block takes of it besides. */
enum { ZM_MULTIPROCESSOR_BYTES = 228 * 1024, ZM_BLOCK_BYTES = 1024 };

static inline int zm_divide_up(int a, int b) { return (a + b - 1) / b; }

/* What a gating does with the chosen experts' scores (decode_choice.cuh), of what a model's fields say. */
typedef struct zm_weighting {
    bool normalizes;
    float epsilon, scaling;
} zm_weighting;
zm_weighting zm_launch_weighting(zm_gating gating, bool normalize_top_k, float epsilon, float scaling);

bool zm_decode_failed(const zm_decode *decode);
/* Memory for elements of 16 bits. */
zm_place zm_decode_temporary(zm_decode *decode, int elements);
/* Where a part leaves the residual stream. */
zm_place zm_decode_residual(zm_decode *decode);

/* Shared memory of a row of a product's x. */
int zm_launch_staged_bytes(const zm_weight *weight);
/* Shared memory that a warp needs for its weights: tile_ring of decode_tiles.cuh with so many slots. */
int zm_launch_tile_bytes(const zm_weight *weight, int n_slots);

/* A kernel of the program for the weight's quantisation: one block of all warps. */
zm_launch zm_launch_begin(zm_decode *decode, zm_decode_kernel kernel, const zm_weight *weight);
void zm_launch_end(zm_launch *launch);
/* Whether a multiprocessor has room for a block of `next` beside one of this kernel, which is to end, and one of the
 * kernel before: shared memory and registers. */
bool zm_launch_leaves(const zm_launch *launch, const zm_launch *next);
/* Blocks of `rows` rows of n; the result is how many have so many. Others behind them have half of that, an even
 * number, if each multiprocessor has a block so. */
int zm_launch_halve(zm_launch *launch, int n, int rows);
/* Blocks of so many warps that take turns with n_tasks of a block, and their shared memory. */
void zm_launch_reserve(zm_launch *launch, zm_product_plan *plan, int warps, int n_tasks);
/* Warps of one block a multiprocessor whose schedulers have the same number of tasks each, as nearly as there is such
 * a number. A block has its share of all tasks (b, b + blocks, ... or neighbours), with which its warps take turns. */
void zm_launch_spread(zm_launch *launch, zm_product_plan *plan);

/* n_left for which this kernel's last copies are under way when the next begins with its own: where more of both share
 * memory, this one ends later and that one has its weights too early. At most half of the pieces. */
int zm_launch_left(const zm_product_plan *plan, const zm_product_plan *next);

/* Arguments, in order. */
void zm_launch_add_place(zm_launch *launch, zm_place place);
void zm_launch_add_null(zm_launch *launch);
void zm_launch_add_int(zm_launch *launch, int value);
void zm_launch_add_float(zm_launch *launch, float value);
/* An evaluated array; an empty one is NULL. */
void zm_launch_add_constant(zm_launch *launch, mlx_array array);
/* Codes, scales and biases. */
void zm_launch_add_weight(zm_launch *launch, const zm_weight *weight);
/* The last arguments of a kernel that multiplies, and of one that says when the next begins. */
void zm_launch_add_ring(zm_launch *launch, const zm_product_plan *plan);
void zm_launch_add_ring_and_left(zm_launch *launch, const zm_product_plan *plan);

#endif
