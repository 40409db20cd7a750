/* SPDX-License-Identifier: MIT */
/* y = x W^T (+ bias) as a node. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/step.h"

typedef struct linear {
    zm_engine engine;
    zm_operand weight;
    zm_prepared prepared;
    size_t n_tokens;
    zm_workspace workspace;
    size_t prepared_place, x_place, y_place;
} linear;

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const linear *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    zm_matrix matrix = zm_operand_matrix(&self->weight, inputs);
    zm_prepared prepared = self->prepared;
    prepared.data = scratch + self->prepared_place;
    const float *x = zm_read_floats(self->engine.level, &inputs[0], scratch + self->x_place);
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);
    zm_prepare(self->engine, &prepared, x, self->n_tokens);
    zm_product_run(self->engine, &matrix, &prepared, self->n_tokens, y);
    zm_round_floats(&outputs[0], y);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class linear_class = {
    .name = "zmlx.linear", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status set_up(linear *self, zm_step *step, const zm_weight *weight, zm_compute compute, zmlx_error *error) {
    const zm_matrix *matrix = &self->weight.matrix;
    mlx_array x = step->inputs.arrays[0];
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->weight, &step->inputs, weight, linear_class.name, error));
    ZM_TRY(zm_check_activations(x, matrix->in_features, linear_class.name, error));
    if (weight->n_experts)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, linear_class.name, "the weight is a stack of experts");
    self->n_tokens = zm_token_count(x, matrix->in_features);
    self->prepared = zm_prepared_new(self->engine, matrix);
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : self->n_tokens;
    self->prepared_place = zm_workspace_add(&self->workspace, self->n_tokens, self->prepared.stride);
    self->x_place = zm_workspace_add(&self->workspace, widened, matrix->in_features);
    self->y_place = zm_workspace_add(&self->workspace, widened, matrix->out_features);
    zm_step_add_output(step, zm_output_like(x, matrix->out_features));
    return zm_workspace_reserve(&self->workspace, self->engine.pool, error);
}

mlx_array zm_fused_linear(zm_scope *scope, mlx_array x, const zm_weight *weight, zm_compute compute) {
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &linear_class, sizeof(linear), x, error) &&
        !zm_step_end(&step, set_up(step.state, &step, weight, compute, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
