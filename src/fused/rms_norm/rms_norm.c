/* SPDX-License-Identifier: MIT */
/* y = x * (mean(x^2) + eps)^(-1/2) * weight over the last dimension as a node. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/step.h"
#include "fused/rms_norm/norm.h"

typedef struct rms_norm {
    const zm_cpu_level *level;
    size_t size, n_rows;
    float eps;
    zm_workspace workspace;
    size_t x_place, weight_place, y_place;
} rms_norm;

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const rms_norm *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    const float *x = zm_read_floats(self->level, &inputs[0], scratch + self->x_place);
    const float *weight = zm_read_floats(self->level, &inputs[1], scratch + self->weight_place);
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);
    for (size_t row = 0; row < self->n_rows; row++)
        zm_rms_norm_row(y + row * self->size, x + row * self->size, weight, self->size, self->eps);
    zm_round_floats(&outputs[0], y);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class rms_norm_class = {
    .name = "zmlx.rms_norm", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status set_up(rms_norm *self, zm_step *step, mlx_array weight, float eps, zmlx_error *error) {
    zm_storage storage;
    mlx_array x = step->inputs.arrays[0];
    if (!zm_is_set(weight) || mlx_array_ndim(weight) != 1 || !zm_dim(weight, 0) ||
        !zm_storage_of(&storage, mlx_array_dtype(weight)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, rms_norm_class.name,
                       "the weight is not a row of floating-point numbers");
    self->level = zm_fused_best_level();
    self->eps = eps;
    self->size = (size_t)zm_dim(weight, 0);
    ZM_TRY(zm_check_activations(x, self->size, rms_norm_class.name, error));
    self->n_rows = zm_token_count(x, self->size);
    bool widens_x = mlx_array_dtype(x) != MLX_FLOAT32, widens_weight = storage != ZM_STORAGE_FLOAT32;
    self->x_place = zm_workspace_add(&self->workspace, widens_x ? self->n_rows : 0, self->size);
    self->y_place = zm_workspace_add(&self->workspace, widens_x ? self->n_rows : 0, self->size);
    self->weight_place = zm_workspace_add(&self->workspace, widens_weight ? 1 : 0, self->size);
    zm_inputs_add(&step->inputs, weight);
    zm_step_add_output(step, zm_output_like(x, self->size));
    return zm_workspace_reserve(&self->workspace, NULL, error);
}

mlx_array zm_fused_rms_norm(zm_scope *scope, mlx_array x, mlx_array weight, float eps) {
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &rms_norm_class, sizeof(rms_norm), x, error) &&
        !zm_step_end(&step, set_up(step.state, &step, weight, eps, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
