/* SPDX-License-Identifier: MIT */
/* A decoder block that is set up, for a node of one or of several. */
#ifndef ZM_FUSED_BLOCK_BLOCK_H
#define ZM_FUSED_BLOCK_BLOCK_H

#include "fused/step.h"

enum { ZM_MAX_BLOCK_INPUTS = 3 + 2 * ZM_MAX_INPUTS };

typedef struct zm_block_inputs {
    mlx_array arrays[ZM_MAX_BLOCK_INPUTS]; /* borrowed */
    int count;
} zm_block_inputs;

extern const zm_node_class zm_block_class;

/* Evaluates the node's state; following: what is read behind it, or NULL. */
void zm_block_run(const void *state, const zm_view *inputs, zm_view *outputs, int n_outputs, const zm_ahead *following);
/* Adds what that reads first. */
void zm_block_ahead(zm_ahead *ahead, const void *state, const zm_view *inputs);

/* A copy of a state with attention for another token; what else it has stays with the first, which must outlive it. */
zmlx_status zm_block_renew(void **renewed, zm_node_output *outputs, const void *state, mlx_array x,
                           const zm_block_arguments *arguments, zmlx_error *error);

/* *state: of zm_block_class, the caller's. inputs holds x, of which only shape and type count; the weights and the
 * cache follow. outputs (ZM_STEP_OUTPUTS): y and what the operator keeps. */
zmlx_status zm_block_new(void **state, zm_block_inputs *inputs, zm_node_output *outputs, int *n_outputs,
                         const zm_block_arguments *arguments, zm_compute compute, zmlx_error *error);

#endif
