/* SPDX-License-Identifier: MIT */
/* A fused operation that is checked and set up, but not a node yet: it becomes one, or a part of a larger one. */
#ifndef ZM_FUSED_STEP_H
#define ZM_FUSED_STEP_H

#include "fused/operand.h"

enum { ZM_STEP_OUTPUTS = 3, ZM_STEP_FIRST = 2 };

typedef struct zm_step {
    const zm_node_class *node_class; /* NULL: no step */
    void *state;                     /* owned until it goes to a node */
    zm_inputs inputs;                /* arrays[0] is x */
    zm_node_output outputs[ZM_STEP_OUTPUTS]; /* outputs[0] is y */
    int n_outputs;
    const zm_operand *first[ZM_STEP_FIRST]; /* the state's: weights that are read first */
    int n_first;
} zm_step;

/* A step without outputs on x alone, with a zeroed state. */
zmlx_status zm_step_begin(zm_step *step, const zm_node_class *node_class, size_t state_size, mlx_array x,
                          zmlx_error *error);
/* status: of setting it up, which is returned. A failure frees the state. */
zmlx_status zm_step_end(zm_step *step, zmlx_status status);
void zm_step_add_output(zm_step *step, zm_node_output output);
void zm_step_add_first(zm_step *step, const zm_operand *weight);
/* Frees the state of a step that became no node. */
void zm_step_free(zm_step *step);
/* Makes the node; results (n_outputs of the scope's arrays, empty after a failure) are its outputs. */
void zm_step_apply(zm_scope *scope, mlx_array *results, zm_step *step);

/* The steps of fused.h's operations. A failure leaves nothing to free. */
zmlx_status zm_attention_step(zm_step *step, mlx_array x, const zm_attention_arguments *arguments, zm_compute compute,
                              zmlx_error *error);
/* The same for another call, whose arguments differ in the cache alone. */
zmlx_status zm_attention_renew(zm_step *step, const void *state, mlx_array x, const zm_attention_arguments *arguments,
                               zmlx_error *error);
zmlx_status zm_short_conv_step(zm_step *step, mlx_array x, const zm_short_conv_arguments *arguments, zm_compute compute,
                               zmlx_error *error);
zmlx_status zm_delta_net_step(zm_step *step, mlx_array x, const zm_delta_net_arguments *arguments, zm_compute compute,
                              zmlx_error *error);
zmlx_status zm_gated_mlp_step(zm_step *step, mlx_array x, const zm_gated_mlp_arguments *arguments, zm_compute compute,
                              zmlx_error *error);
zmlx_status zm_moe_step(zm_step *step, mlx_array x, const zm_moe_arguments *arguments, zm_compute compute,
                        zmlx_error *error);

#endif
