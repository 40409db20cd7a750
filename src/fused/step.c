/* SPDX-License-Identifier: MIT */
#include "fused/step.h"

#include <stdlib.h>

zmlx_status zm_step_begin(zm_step *step, const zm_node_class *node_class, size_t state_size, mlx_array x,
                          zmlx_error *error) {
    void *state = calloc(1, state_size);
    if (!state) return zm_fail_memory(error);
    *step = (zm_step){.node_class = node_class, .state = state, .inputs = {.arrays = {x}, .count = 1}};
    return ZMLX_OK;
}

zmlx_status zm_step_end(zm_step *step, zmlx_status status) {
    if (status) zm_step_free(step);
    return status;
}

void zm_step_add_output(zm_step *step, zm_node_output output) { step->outputs[step->n_outputs++] = output; }

void zm_step_add_first(zm_step *step, const zm_operand *weight) { step->first[step->n_first++] = weight; }

void zm_step_free(zm_step *step) {
    if (step->node_class) step->node_class->free_state(step->state);
    step->node_class = NULL;
}

void zm_step_apply(zm_scope *scope, mlx_array *results, zm_step *step) {
    for (int i = 0; i < step->n_outputs; i++) results[i] = (mlx_array){NULL};
    if (zm_scope_failed(scope)) {
        zm_step_free(step);
        return;
    }
    if (zm_node_apply(results, step->outputs, step->n_outputs, step->node_class, step->state, step->inputs.arrays,
                      step->inputs.count, scope->stream, &scope->failure))
        return;
    for (int i = 0; i < step->n_outputs; i++) results[i] = zm_scope_own(scope, results[i]);
}
