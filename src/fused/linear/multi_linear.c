/* SPDX-License-Identifier: MIT */
/* y = x W^T with a matrix for each head, as a node. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/step.h"

typedef struct multi_linear {
    zm_engine engine;
    zm_operand weight;
    zm_prepared prepared;
    size_t n_heads, n_tokens; /* of a head */
    size_t x_heads;           /* n_heads, or 1: x is the same for all */
    zm_workspace workspace;
    size_t prepared_place, x_place, y_place;
} multi_linear;

typedef struct run {
    const multi_linear *self;
    zm_matrix matrix;
    zm_prepared x;
    float *y;
} run;

/* An index range over (head, row block). */
static void multiply_blocks(void *context, size_t begin, size_t end) {
    const run *of = context;
    const zm_matrix *matrix = &of->matrix;
    size_t n_tokens = of->self->n_tokens, blocks = zm_row_blocks(matrix, n_tokens);
    while (begin < end) {
        size_t head = begin / blocks, first = begin % blocks, last = first + (end - begin);
        if (last > blocks) last = blocks;
        size_t row = zm_block_row(matrix, n_tokens, first);
        zm_product product = {.matrix = matrix,
                              .expert = head,
                              .n_tokens = n_tokens,
                              .prepared = of->x.data + head % of->self->x_heads * n_tokens * of->x.stride,
                              .prepared_stride = of->x.stride,
                              .limbs = of->x.order.limbs,
                              .y = of->y + head * n_tokens * matrix->out_features + row,
                              .y_stride = matrix->out_features};
        of->self->engine.level->multiply(&product, row, zm_block_row(matrix, n_tokens, last));
        begin += last - first;
    }
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const multi_linear *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    run of = {.self = self,
              .matrix = zm_operand_matrix(&self->weight, inputs),
              .x = self->prepared,
              .y = zm_result_floats(&outputs[0], scratch + self->y_place)};
    of.x.data = scratch + self->prepared_place;
    const float *x = zm_read_floats(self->engine.level, &inputs[0], scratch + self->x_place);
    zm_prepare(self->engine, &of.x, x, self->x_heads * self->n_tokens);
    zm_pool_run(self->engine.pool, self->n_heads * zm_row_blocks(&of.matrix, self->n_tokens),
                zm_row_grain(&of.matrix, self->n_tokens, self->n_tokens), multiply_blocks, &of);
    zm_round_floats(&outputs[0], of.y);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class multi_linear_class = {
    .name = "zmlx.multi_linear", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status set_up(multi_linear *self, zm_step *step, const zm_weight *weight, zm_compute compute,
                          zmlx_error *error) {
    const zm_matrix *matrix = &self->weight.matrix;
    mlx_array x = step->inputs.arrays[0];
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->weight, &step->inputs, weight, multi_linear_class.name, error));
    ZM_TRY(zm_check_activations(x, matrix->in_features, multi_linear_class.name, error));
    if (!weight->n_experts || zm_is_set(weight->bias) || mlx_array_ndim(x) != 4 || zm_dim(x, 0) != 1 ||
        (zm_dim(x, 1) != weight->n_experts && zm_dim(x, 1) != 1))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, multi_linear_class.name,
                       "x is not one sequence with a matrix without bias for each of its heads");
    self->n_heads = matrix->n_experts;
    self->x_heads = (size_t)zm_dim(x, 1);
    self->n_tokens = (size_t)zm_dim(x, 2);
    bool is_half = mlx_array_dtype(x) != MLX_FLOAT32;
    size_t rows = self->x_heads * self->n_tokens;
    self->prepared = zm_prepared_new(self->engine, matrix);
    self->prepared_place = zm_workspace_add(&self->workspace, rows, self->prepared.stride);
    self->x_place = zm_workspace_add(&self->workspace, is_half ? rows : 0, matrix->in_features);
    size_t results = is_half ? self->n_heads * self->n_tokens : 0;
    self->y_place = zm_workspace_add(&self->workspace, results, matrix->out_features);
    zm_node_output output = zm_output_like(x, matrix->out_features);
    output.shape[1] = weight->n_experts;
    zm_step_add_output(step, output);
    return zm_workspace_reserve(&self->workspace, self->engine.pool, error);
}

mlx_array zm_fused_multi_linear(zm_scope *scope, mlx_array x, const zm_weight *weight, zm_compute compute) {
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &multi_linear_class, sizeof(multi_linear), x, error) &&
        !zm_step_end(&step, set_up(step.state, &step, weight, compute, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
