/* SPDX-License-Identifier: MIT */
/* h = x + residual and its RMS norm as one node. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/rms_norm/norm.h"
#include "fused/step.h"

typedef struct add_rms_norm {
    const zm_cpu_level *level;
    size_t size, n_rows;
    float eps;
    zm_workspace workspace;
    size_t x_place, residual_place, weight_place, normed_place;
} add_rms_norm;

enum { X, RESIDUAL, WEIGHT }; /* inputs */

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const add_rms_norm *self = state;
    float *scratch = zm_workspace_open(&self->workspace), *sums = scratch + self->x_place;
    const float *x = zm_read_floats(self->level, &inputs[X], sums);
    const float *residual = zm_read_floats(self->level, &inputs[RESIDUAL], scratch + self->residual_place);
    const float *weight = zm_read_floats(self->level, &inputs[WEIGHT], scratch + self->weight_place);
    float *normed = zm_result_floats(&outputs[0], scratch + self->normed_place);
    for (size_t i = 0; i < self->n_rows * self->size; i++) sums[i] = x[i] + residual[i];
    zm_store_floats(&outputs[1], sums);
    const float *h = zm_read_floats(self->level, &outputs[1], sums);
    for (size_t row = 0; row < self->n_rows; row++)
        zm_rms_norm_row(normed + row * self->size, h + row * self->size, weight, self->size, self->eps);
    zm_round_floats(&outputs[0], normed);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class add_rms_norm_class = {
    .name = "zmlx.add_rms_norm", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status check(mlx_array x, mlx_array residual, mlx_array weight, zmlx_error *error) {
    zm_storage storage;
    bool fits = zm_is_set(weight) && mlx_array_ndim(weight) == 1 && zm_dim(weight, 0) &&
                zm_storage_of(&storage, mlx_array_dtype(weight));
    if (!fits)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, add_rms_norm_class.name,
                       "the weight is not a row of floating-point numbers");
    ZM_TRY(zm_check_activations(x, (size_t)zm_dim(weight, 0), add_rms_norm_class.name, error));
    fits = zm_is_set(residual) && mlx_array_ndim(residual) == mlx_array_ndim(x) &&
           mlx_array_dtype(residual) == mlx_array_dtype(x);
    for (int i = 0; fits && i < (int)mlx_array_ndim(x); i++) fits = zm_dim(x, i) == zm_dim(residual, i);
    return fits ? ZMLX_OK
                : zm_fail(error, ZMLX_ERROR_ARGUMENT, add_rms_norm_class.name, "the residual is not like x");
}

static zmlx_status set_up(add_rms_norm *self, zm_step *step, mlx_array residual, mlx_array weight, float eps,
                          zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    mlx_array x = inputs->arrays[0];
    self->eps = eps;
    zm_workspace *workspace = &self->workspace;
    ZM_TRY(check(x, residual, weight, error));
    zm_inputs_add(inputs, residual);
    zm_inputs_add(inputs, weight);
    self->level = zm_fused_best_level();
    self->size = (size_t)zm_dim(weight, 0);
    self->n_rows = zm_token_count(x, self->size);
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : self->n_rows;
    self->x_place = zm_workspace_add(workspace, self->n_rows, self->size);
    self->residual_place = zm_workspace_add(workspace, widened, self->size);
    self->normed_place = zm_workspace_add(workspace, widened, self->size);
    self->weight_place = zm_workspace_add(workspace, 1, self->size);
    zm_step_add_output(step, zm_output_like(x, self->size));
    zm_step_add_output(step, zm_output_like(x, self->size));
    return zm_workspace_reserve(workspace, NULL, error);
}

mlx_array zm_fused_add_rms_norm(zm_scope *scope, mlx_array *h, mlx_array x, mlx_array residual, mlx_array weight,
                                float eps) {
    *h = (mlx_array){NULL};
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (zm_scope_failed(scope) || zm_step_begin(&step, &add_rms_norm_class, sizeof(add_rms_norm), x, error) ||
        zm_step_end(&step, set_up(step.state, &step, residual, weight, eps, error)))
        return *h;
    zm_step_apply(scope, results, &step);
    *h = results[1];
    return results[0];
}
