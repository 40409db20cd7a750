/* SPDX-License-Identifier: MIT */
/* Sizes that kernels and those who launch them must agree on: the first part of every text of kernels, and included by
 * the host's files. */
enum {
    WARP = 32,
    MULTIPROCESSORS = 132,    /* of an H100 and an H200; elsewhere warps share the tasks less evenly */

    SCHEDULERS = 4,           /* of each of them; warps of a block take turns with them */

    /* decode*.cuh */
    DECODE_WARPS = 16,        /* of a block, at most */
    HEAD_WARPS = 4,           /* a head each */
    KEY_WARPS = 32,           /* that share a head's keys, up to MLX's limit for its vector attention in one part */
    HEAD_BLOCKS = 8,          /* a cluster, in which those warps are */
    BLOCK_HEADS = 2,          /* of a group, at most, that have those blocks together */
    LONG_BLOCKS = 32,         /* beyond that limit, for up to LONG_HEADS heads of a group */
    LONG_WARPS = 8,           /* of each of those blocks */
    LONG_HEADS = 4,           /* that meet their keys together */
    CHOOSE_BLOCKS = 8,        /* a cluster */
    CHOOSE_WARPS = 4,         /* of each of those blocks */
    DECODE_MOST_EXPERTS = 256,
    ROUTER_WARPS = 8,         /* of a block, an expert each: as many as hold the norm's weights */
    /* Pieces of rows that copies are ahead of products. */
    MANY_PIECES_AHEAD = 2,    /* where a row of the hidden state's length is more than one; else 1 */
    LINEAR_AHEAD = 3,         /* most or all of a row, while the kernel before is at work */
    EXPERTS_AHEAD = 3,        /* many, as nothing could be copied before the router's choice */
    EXPERTS_AHEAD_MXFP4 = 2,  /* of longer pieces, which leave fewer warps room */
    OUT_AHEAD = 2,            /* all of a warp's rows */
    OUT_AHEAD_LESS = 1,       /* in mxfp4 and of 8 bits, where they would take memory's time from the kernel before */
    OUT_MOST_ROUNDS = 4,      /* of rows, a warp of experts_out */
    EXPERT_TILE_ROWS = 16,    /* of weights: the tensor cores' first matrix */
    EXPERT_TILE_K = 256,      /* of a piece of those rows */
    EXPERT_TILE_SLOTS_4 = 8,  /* pieces of a warp in shared memory, at most, up to 4 bits */
    EXPERT_TILE_SLOTS_8 = 4,  /* and of more */
    EXPERT_TILE_LISTS = 8,    /* of 8 rows' scales, or biases, each: those of a task and the next */
    FEW_TWO_ROWS = 3,         /* of x, at most, where a task of decode_few.cuh is two rows of weights; else one */
    TILED_ROWS = 8,           /* of x, of a block of decode_tiles_prompt.cuh: the tensor cores' columns */
    TILED_WARPS = 8,          /* of such a block, at most */
    TILED_BLOCKS = 3,         /* that registers have room for on a multiprocessor */

    /* stamps.cuh: of a block, when */
    STAMP_BEGUN = 0,
    STAMP_WAITED,             /* the kernel before was complete */
    STAMP_READY,              /* x was in shared memory */
    STAMP_FIRST,              /* its first weights too */
    STAMP_ENDED,              /* its last warp was through */
    STAMPS = 8,               /* a row of them */
    STAMP_BLOCKS = 512,       /* rows of a launch; further blocks have the last one together */
    STAMP_LAUNCHES = 2048,    /* the last one's rows are those of all that are not shown */

    /* prompt.cuh */
    PROMPT_TILE_K = 64,
    PROMPT_STAGES = 4,        /* of x in shared memory */

    /* around.cuh, decode_route.cuh */
    AROUND_THREADS = 256,
    PLAN_THREADS = 1024,
    PROMPT_MOST_EXPERTS = 512,
    CONV_TOKENS = 4,          /* of a thread */
};

/* From so many chosen experts on MLX's gathered product is its matrix kernel, and experts go in tiles. */
#define EXPERT_TILE_LEAST_TOP_K 8

/* What a warp of experts' tiles has in shared memory, in vectors of 16 bytes: a row of a piece, with one vector more
 * where rows would begin in the same bank; pieces of a task; and 8 rows' scales, in whole lines. */
#define EXPERT_TILE_VECTORS(bits) (EXPERT_TILE_K * (bits) / 128)
#define EXPERT_TILE_SPACE(bits) (EXPERT_TILE_VECTORS(bits) + (EXPERT_TILE_VECTORS(bits) % 8 ? 1 : 0))
#define EXPERT_TILE_MOST_SLOTS(bits) ((bits) <= 4 ? EXPERT_TILE_SLOTS_4 : EXPERT_TILE_SLOTS_8)
#define EXPERT_TILE_SLOTS(bits, k) \
    ((k) / EXPERT_TILE_K < EXPERT_TILE_MOST_SLOTS(bits) ? (k) / EXPERT_TILE_K : EXPERT_TILE_MOST_SLOTS(bits))
#define EXPERT_TILE_LIST_SPACE(group_size, k) (((k) / (group_size) + 7) / 8 * 8)

/* The same of a warp of decode_tiles_prompt.cuh: where rows are short a slot less than they have pieces, so that more
 * blocks have room; and one row of x there, so that eight begin in different banks. */
#define TILED_PIECES(k) ((k) / EXPERT_TILE_K)
#define TILED_MOST_SLOTS(bits) ((bits) <= 4 ? 3 : 2)
#define TILED_SLOTS(bits, k)                                              \
    (TILED_PIECES(k) > TILED_MOST_SLOTS(bits) ? TILED_MOST_SLOTS(bits)    \
                                              : TILED_PIECES(k) - (TILED_PIECES(k) > 2 ? 1 : 0))
#define TILED_X_SPACE(k) ((k) / 8 + 4)
