/* SPDX-License-Identifier: MIT */
/* y = x * (mean(x^2) + eps)^(-1/2) * weight over the last dimension as a node. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/operand.h"
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

static zmlx_status set_up(rms_norm *self, mlx_array x, mlx_array weight, zmlx_error *error) {
    zm_storage storage;
    if (!zm_is_set(weight) || mlx_array_ndim(weight) != 1 || !zm_dim(weight, 0) ||
        !zm_storage_of(&storage, mlx_array_dtype(weight)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, rms_norm_class.name,
                       "the weight is not a row of floating-point numbers");
    self->level = zm_fused_best_level();
    self->size = (size_t)zm_dim(weight, 0);
    ZM_TRY(zm_check_activations(x, self->size, rms_norm_class.name, error));
    self->n_rows = zm_token_count(x, self->size);
    bool widens_x = mlx_array_dtype(x) != MLX_FLOAT32, widens_weight = storage != ZM_STORAGE_FLOAT32;
    self->x_place = zm_workspace_add(&self->workspace, widens_x ? self->n_rows : 0, self->size);
    self->y_place = zm_workspace_add(&self->workspace, widens_x ? self->n_rows : 0, self->size);
    self->weight_place = zm_workspace_add(&self->workspace, widens_weight ? 1 : 0, self->size);
    return zm_workspace_reserve(&self->workspace, NULL, error);
}

mlx_array zm_fused_rms_norm(zm_scope *scope, mlx_array x, mlx_array weight, float eps) {
    if (zm_scope_failed(scope)) return (mlx_array){NULL};
    rms_norm *state = calloc(1, sizeof *state);
    if (!state) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, rms_norm_class.name, "out of memory");
    state->eps = eps;
    if (set_up(state, x, weight, &scope->failure)) {
        free(state);
        return (mlx_array){NULL};
    }
    zm_node_output output = zm_output_like(x, state->size);
    const mlx_array inputs[2] = {x, weight};
    return zm_node(scope, &output, &rms_norm_class, state, inputs, 2);
}
