/* SPDX-License-Identifier: MIT */
/* What nodes of several blocks keep from token to token: the blocks, set up, and views of their weights. MLX spends
 * time on every input of a node, and what the program touches for each token comes from memory each time. */
#ifndef ZM_FUSED_BLOCK_PLAN_H
#define ZM_FUSED_BLOCK_PLAN_H

#include <stdatomic.h>

#include "fused/block/block.h"

/* Room for each field of a block's arguments once. */
enum {
    ZM_MAX_BLOCK_WEIGHTS = 13,
    ZM_MAX_BLOCK_FACTS = ZM_MAX_BLOCK_WEIGHTS * sizeof(zm_weight) + sizeof(zm_block_arguments) +
                         sizeof(zm_attention_arguments) + sizeof(zm_short_conv_arguments) +
                         sizeof(zm_delta_net_arguments) + sizeof(zm_gated_mlp_arguments) + sizeof(zm_moe_arguments)
};

/* What a block is made of, but for what comes with each call: the fields one behind the other, without the padding of
 * their structures, which holds anything. */
typedef struct zm_block_parts {
    size_t size;
    unsigned char facts[ZM_MAX_BLOCK_FACTS];
} zm_block_parts;

/* An array of a block: the view of a constant or, where input is not 0, that array of a call, counted from 1. */
typedef struct zm_source {
    int input;
    zm_view constant;
} zm_source;

typedef struct zm_planned_block {
    zm_block_parts parts;
    void *state; /* of zm_block_class */
    zm_source sources[ZM_MAX_BLOCK_INPUTS]; /* of the inputs behind x */
    int n_sources;
    zm_node_output outputs[ZM_STEP_OUTPUTS];
    int n_outputs;
    mlx_array others[ZM_MAX_BLOCK_INPUTS]; /* borrowed: what is not evaluated yet comes with the call, the only one */
    int n_others;
} zm_planned_block;

struct zm_blocks_plan {
    atomic_int references;
    zm_compute compute;
    mlx_dtype dtype; /* of x */
    int shape[3];
    mlx_vector_array constants; /* keeps them */
    int n_blocks;
    zm_planned_block blocks[];
};

/* *result, the caller's: *kept where that was made of the same, else a new plan, which replaces it. */
zmlx_status zm_blocks_plan_get(zm_blocks_plan **result, zm_blocks_plan **kept, mlx_array x,
                               const zm_block_arguments *arguments, int n_blocks, zm_compute compute,
                               zmlx_error *error);

/* The arrays of a call; arguments are those of the plan's block, with what comes with this call. */
zm_block_inputs zm_planned_block_call(const zm_planned_block *planned, const zm_block_arguments *arguments);

#endif
