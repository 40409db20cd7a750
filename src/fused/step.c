/* SPDX-License-Identifier: MIT */
#include "fused/step.h"

zm_step zm_step_new(const zm_node_class *node_class, void *state, mlx_array x) {
    return (zm_step){.node_class = node_class, .state = state, .inputs = {.arrays = {x}, .count = 1}};
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
