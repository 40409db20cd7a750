/* SPDX-License-Identifier: MIT */
/* y = down(h(gate(x), up(x))) as one node: gate, up and the activation in one loop over the rows, then
 * down in a second. */
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/step.h"

typedef struct gated_mlp {
    zm_engine engine;
    zm_operand gate, up, down;
    zm_prepared gate_x, up_x, down_x;
    bool shared; /* gate and up read the same prepared x */
    zm_activation activation;
    size_t n_tokens;
    zm_workspace workspace;
    size_t gate_place, up_place, h_place, down_place, x_place, y_place;
} gated_mlp;

typedef struct gated_loop {
    zm_gated_rows rows;
    zm_token_list tokens;
    float *h;
    size_t h_stride;
} gated_loop;

static void run_rows(void *context, size_t begin, size_t end) {
    const gated_loop *loop = context;
    const zm_matrix *gate = loop->rows.gate;
    zm_gated_rows_run(&loop->rows, 0, loop->tokens, zm_block_row(gate, loop->tokens.count, begin),
                      zm_block_row(gate, loop->tokens.count, end), loop->h, loop->h_stride);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const gated_mlp *self = state;
    float *scratch = zm_workspace_open(&self->workspace), *h = scratch + self->h_place;
    zm_matrix gate = zm_operand_matrix(&self->gate, inputs), up = zm_operand_matrix(&self->up, inputs);
    zm_matrix down = zm_operand_matrix(&self->down, inputs);
    zm_prepared gate_x = self->gate_x, up_x = self->up_x, down_x = self->down_x;
    gate_x.data = scratch + self->gate_place;
    up_x.data = scratch + self->up_place;
    down_x.data = scratch + self->down_place;
    const float *x = zm_read_floats(self->engine.level, &inputs[0], scratch + self->x_place);
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);

    zm_prepare(self->engine, &gate_x, x, self->n_tokens);
    if (!self->shared) zm_prepare(self->engine, &up_x, x, self->n_tokens);
    gated_loop loop = {
        .rows = {.level = self->engine.level,
                 .gate = &gate,
                 .up = &up,
                 .gate_x = &gate_x,
                 .up_x = self->shared ? &gate_x : &up_x,
                 .activation = self->activation},
        .tokens = {.count = self->n_tokens},
        .h = h,
        .h_stride = gate.out_features,
    };
    zm_ahead next = {.count = 0};
    zm_ahead_add(&next, &down, 0);
    zm_pool_run_ahead(self->engine.pool, zm_row_blocks(&gate, self->n_tokens),
                      zm_row_grain(&gate, self->n_tokens, 2 * self->n_tokens), run_rows, &loop, &next);
    zm_prepare(self->engine, &down_x, h, self->n_tokens);
    zm_product_run(self->engine, &down, &down_x, self->n_tokens, y);
    zm_round_floats(&outputs[0], y);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class gated_mlp_class = {
    .name = "zmlx.gated_mlp", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status check_sizes(const gated_mlp *self, zmlx_error *error) {
    const zm_matrix *gate = &self->gate.matrix, *up = &self->up.matrix, *down = &self->down.matrix;
    if (gate->in_features != up->in_features || gate->out_features != up->out_features ||
        gate->out_features != down->in_features)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, gated_mlp_class.name,
                       "the projections do not fit together");
    if (gate->n_experts != 1 || up->n_experts != 1 || down->n_experts != 1)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, gated_mlp_class.name, "a weight is a stack of experts");
    return ZMLX_OK;
}

static zmlx_status make_workspace(gated_mlp *self, mlx_array x, zmlx_error *error) {
    const zm_matrix *gate = &self->gate.matrix, *down = &self->down.matrix;
    zm_workspace *workspace = &self->workspace;
    size_t tokens = zm_token_count(x, gate->in_features);
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : tokens;
    self->n_tokens = tokens;
    self->gate_x = zm_prepared_new(self->engine, gate);
    self->up_x = zm_prepared_new(self->engine, &self->up.matrix);
    self->down_x = zm_prepared_new(self->engine, down);
    self->shared = zm_matrix_same_order(gate, &self->up.matrix);
    self->gate_place = zm_workspace_add(workspace, tokens, self->gate_x.stride);
    self->up_place = zm_workspace_add(workspace, self->shared ? 0 : tokens, self->up_x.stride);
    self->h_place = zm_workspace_add(workspace, tokens, gate->out_features);
    self->down_place = zm_workspace_add(workspace, tokens, self->down_x.stride);
    self->x_place = zm_workspace_add(workspace, widened, gate->in_features);
    self->y_place = zm_workspace_add(workspace, widened, down->out_features);
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

static zmlx_status set_up(gated_mlp *self, zm_step *step, const zm_gated_mlp_arguments *arguments, zm_compute compute,
                          zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->gate, inputs, arguments->gate, "zmlx.gated_mlp: gate", error));
    ZM_TRY(zm_operand_new(&self->up, inputs, arguments->up, "zmlx.gated_mlp: up", error));
    ZM_TRY(zm_operand_new(&self->down, inputs, arguments->down, "zmlx.gated_mlp: down", error));
    ZM_TRY(check_sizes(self, error));
    self->activation = arguments->activation;
    mlx_array x = inputs->arrays[0];
    ZM_TRY(zm_check_activations(x, self->gate.matrix.in_features, gated_mlp_class.name, error));
    zm_step_add_first(step, &self->gate);
    zm_step_add_first(step, &self->up);
    zm_step_add_output(step, zm_output_like(x, self->down.matrix.out_features));
    return make_workspace(self, x, error);
}

zmlx_status zm_gated_mlp_step(zm_step *step, mlx_array x, const zm_gated_mlp_arguments *arguments, zm_compute compute,
                              zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &gated_mlp_class, sizeof(gated_mlp), x, error));
    return zm_step_end(step, set_up(step->state, step, arguments, compute, error));
}

mlx_array zm_fused_gated_mlp(zm_scope *scope, mlx_array x, const zm_gated_mlp_arguments *arguments,
                             zm_compute compute) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_gated_mlp_step(&step, x, arguments, compute, &scope->failure))
        zm_step_apply(scope, results, &step);
    return results[0];
}
