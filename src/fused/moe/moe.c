/* SPDX-License-Identifier: MIT */
/* A mixture of experts as one node. The experts are in-place rows of the stacked weights. A first loop
 * computes h(gate, up) for all (token, chosen expert, rows); a second one computes the rows of down and
 * adds them up in the order of the chosen list, so that the sum does not depend on the threads. */
#include <stdlib.h>
#include <string.h>

#include "fused/cpu/product.h"
#include "fused/moe/gating.h"
#include "fused/step.h"

typedef struct moe {
    zm_engine engine;
    zm_operand router, gate, up, down;
    int expert_bias; /* input; -1: none */
    zm_prepared router_x, gate_x, up_x, down_x;
    bool gate_shared, up_shared; /* gate reads the router's prepared x; up reads gate's */
    zm_activation activation;
    zm_gating_rule rule;
    size_t n_tokens;
    zm_workspace workspace;
    size_t router_place, gate_place, up_place, down_place, h_place;
    size_t logits_place, scores_place, weights_place, experts_place, x_place, y_place;
} moe;

/* One evaluation. A pair is a token and one of its experts. */
typedef struct run {
    const moe *self;
    zm_matrix router, gate, up, down;
    zm_prepared router_x, gate_x, up_x, down_x;
    uint32_t *experts; /* n_tokens times top_k */
    float *weights, *h, *y;
} run;

static void choose_experts(const run *of, const float *logits, const float *expert_bias, float *scores) {
    const zm_gating_rule *rule = &of->self->rule;
    for (size_t token = 0; token < of->self->n_tokens; token++)
        zm_gating_choose(of->experts + token * rule->top_k, of->weights + token * rule->top_k, rule,
                         of->self->engine.level, logits + token * rule->n_experts, expert_bias, scores);
}

/* Calls a function for each row range of an index range over (item, row block). */
typedef void (*item_rows)(const run *of, size_t item, size_t row_begin, size_t row_end);

static void for_items(const run *of, const zm_matrix *matrix, size_t begin, size_t end, item_rows function) {
    size_t blocks = zm_row_blocks(matrix);
    while (begin < end) {
        size_t item = begin / blocks, first = begin % blocks;
        size_t last = first + (end - begin);
        if (last > blocks) last = blocks;
        function(of, item, zm_block_row(matrix, first), zm_block_row(matrix, last));
        begin += last - first;
    }
}

static void gated_pair(const run *of, size_t pair, size_t row_begin, size_t row_end) {
    const moe *self = of->self;
    zm_gated_rows rows = {.level = self->engine.level,
                          .gate = &of->gate,
                          .up = &of->up,
                          .gate_x = &of->gate_x,
                          .up_x = &of->up_x,
                          .activation = self->activation};
    zm_token_range token = {.first = pair / self->rule.top_k, .count = 1};
    size_t stride = of->gate.out_features;
    zm_gated_rows_run(&rows, of->experts[pair], token, row_begin, row_end, of->h + pair * stride, stride);
}

static void run_gated(void *context, size_t begin, size_t end) {
    const run *of = context;
    for_items(of, &of->gate, begin, end, gated_pair);
}

/* Rows of one token's result: the sum over its experts. */
static void combine_token(const run *of, size_t token, size_t row_begin, size_t row_end) {
    enum { PART = 64 };
    const moe *self = of->self;
    size_t k = self->rule.top_k;
    float part[PART];
    for (size_t row = row_begin; row < row_end; row += PART) {
        size_t end = row_end - row < PART ? row_end : row + PART;
        float *y = of->y + token * of->down.out_features + row;
        memset(y, 0, (end - row) * sizeof *y);
        for (size_t j = 0; j < k; j++) {
            size_t pair = token * k + j;
            zm_product product = {.matrix = &of->down,
                                  .expert = of->experts[pair],
                                  .n_tokens = 1,
                                  .prepared = of->down_x.data + pair * of->down_x.stride,
                                  .prepared_stride = of->down_x.stride,
                                  .y = part,
                                  .y_stride = PART};
            self->engine.level->multiply(&product, row, end);
            for (size_t i = 0; i < end - row; i++) y[i] += of->weights[pair] * part[i];
        }
    }
}

static void run_combine(void *context, size_t begin, size_t end) {
    const run *of = context;
    for_items(of, &of->down, begin, end, combine_token);
}

static void start_run(run *of, const moe *self, const zm_view *inputs, zm_view *output) {
    float *scratch = self->workspace.data;
    *of = (run){.self = self,
                .router = zm_operand_matrix(&self->router, inputs),
                .gate = zm_operand_matrix(&self->gate, inputs),
                .up = zm_operand_matrix(&self->up, inputs),
                .down = zm_operand_matrix(&self->down, inputs),
                .router_x = self->router_x,
                .gate_x = self->gate_x,
                .up_x = self->up_x,
                .down_x = self->down_x,
                .experts = (uint32_t *)(void *)(scratch + self->experts_place),
                .weights = scratch + self->weights_place,
                .h = scratch + self->h_place,
                .y = zm_result_floats(output, scratch + self->y_place)};
    of->router_x.data = scratch + self->router_place;
    of->gate_x.data = self->gate_shared ? of->router_x.data : scratch + self->gate_place;
    of->up_x.data = self->up_shared ? of->gate_x.data : scratch + self->up_place;
    of->down_x.data = scratch + self->down_place;
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const moe *self = state;
    zm_engine engine = self->engine;
    size_t tokens = self->n_tokens, pairs = tokens * self->rule.top_k;
    float *scratch = self->workspace.data, *logits = scratch + self->logits_place;
    run of;
    start_run(&of, self, inputs, &outputs[0]);
    const float *x = zm_read_floats(engine.level, &inputs[0], scratch + self->x_place);
    const float *expert_bias = self->expert_bias < 0 ? NULL : inputs[self->expert_bias].data;

    zm_prepare(engine, &of.router_x, x, tokens);
    if (!self->gate_shared) zm_prepare(engine, &of.gate_x, x, tokens);
    if (!self->up_shared) zm_prepare(engine, &of.up_x, x, tokens);
    zm_product_run(engine, &of.router, &of.router_x, tokens, logits);
    choose_experts(&of, logits, expert_bias, scratch + self->scores_place);
    zm_pool_run(engine.pool, pairs * zm_row_blocks(&of.gate), zm_row_grain(&of.gate, 2), run_gated, &of);
    zm_prepare(engine, &of.down_x, of.h, pairs);
    zm_pool_run(engine.pool, tokens * zm_row_blocks(&of.down), zm_row_grain(&of.down, self->rule.top_k),
                run_combine, &of);
    zm_round_floats(&outputs[0], of.y);
}

static void free_moe(void *state) {
    moe *self = state;
    if (self) free(self->workspace.data);
    free(self);
}

static const zm_node_class moe_class = {
    .name = "zmlx.moe", .evaluate_cpu = evaluate, .free_state = free_moe};

static zmlx_status check_sizes(const moe *self, const zm_moe_arguments *arguments, zmlx_error *error) {
    const zm_matrix *router = &self->router.matrix, *gate = &self->gate.matrix;
    const zm_matrix *up = &self->up.matrix, *down = &self->down.matrix;
    bool fits = router->in_features == gate->in_features && gate->in_features == up->in_features &&
                gate->out_features == up->out_features && gate->out_features == down->in_features;
    fits = fits && !arguments->router->n_experts && router->out_features == gate->n_experts &&
           gate->n_experts == up->n_experts && gate->n_experts == down->n_experts;
    fits = fits && arguments->gate->n_experts && arguments->up->n_experts && arguments->down->n_experts;
    if (!fits)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, moe_class.name, "the weights do not fit together");
    if (arguments->top_k < 1 || (size_t)arguments->top_k > gate->n_experts)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, moe_class.name, "top_k is %d with %zu experts",
                       arguments->top_k, gate->n_experts);
    mlx_array bias = arguments->expert_bias;
    if (!zm_is_set(bias)) return ZMLX_OK;
    if (mlx_array_ndim(bias) != 1 || (size_t)mlx_array_shape(bias)[0] != gate->n_experts ||
        mlx_array_dtype(bias) != MLX_FLOAT32)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, moe_class.name,
                       "the expert bias is not %zu float32 numbers", gate->n_experts);
    return ZMLX_OK;
}

static zmlx_status make_workspace(moe *self, mlx_array x, zmlx_error *error) {
    const zm_matrix *router = &self->router.matrix, *gate = &self->gate.matrix;
    const zm_matrix *up = &self->up.matrix, *down = &self->down.matrix;
    zm_workspace *workspace = &self->workspace;
    size_t tokens = zm_token_count(x, gate->in_features), pairs = tokens * self->rule.top_k;
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : tokens;
    self->n_tokens = tokens;
    self->router_x = zm_prepared_new(self->engine, router);
    self->gate_x = zm_prepared_new(self->engine, gate);
    self->up_x = zm_prepared_new(self->engine, up);
    self->down_x = zm_prepared_new(self->engine, down);
    self->gate_shared = zm_matrix_same_order(router, gate);
    self->up_shared = zm_matrix_same_order(gate, up);
    self->router_place = zm_workspace_add(workspace, tokens, self->router_x.stride);
    self->gate_place = zm_workspace_add(workspace, self->gate_shared ? 0 : tokens, self->gate_x.stride);
    self->up_place = zm_workspace_add(workspace, self->up_shared ? 0 : tokens, self->up_x.stride);
    self->down_place = zm_workspace_add(workspace, pairs, self->down_x.stride);
    self->h_place = zm_workspace_add(workspace, pairs, gate->out_features);
    self->logits_place = zm_workspace_add(workspace, tokens, router->out_features);
    self->scores_place = zm_workspace_add(workspace, 2, router->out_features);
    self->weights_place = zm_workspace_add(workspace, pairs, 1);
    self->experts_place = zm_workspace_add(workspace, pairs, 1);
    self->x_place = zm_workspace_add(workspace, widened, gate->in_features);
    self->y_place = zm_workspace_add(workspace, widened, down->out_features);
    return zm_workspace_alloc(workspace, error);
}

/* inputs holds x alone; the weights follow. */
static zmlx_status set_up(moe *self, zm_inputs *inputs, const zm_moe_arguments *arguments,
                          zmlx_error *error) {
    ZM_TRY(zm_operand_new(&self->router, inputs, arguments->router, "zmlx.moe: router", error));
    ZM_TRY(zm_operand_new(&self->gate, inputs, arguments->gate, "zmlx.moe: gate", error));
    ZM_TRY(zm_operand_new(&self->up, inputs, arguments->up, "zmlx.moe: up", error));
    ZM_TRY(zm_operand_new(&self->down, inputs, arguments->down, "zmlx.moe: down", error));
    ZM_TRY(check_sizes(self, arguments, error));
    mlx_array x = inputs->arrays[0];
    ZM_TRY(zm_check_activations(x, self->gate.matrix.in_features, moe_class.name, error));
    self->expert_bias = -1;
    if (zm_is_set(arguments->expert_bias))
        self->expert_bias = zm_inputs_add(inputs, arguments->expert_bias);
    self->activation = arguments->activation;
    self->rule = (zm_gating_rule){.gating = arguments->gating,
                                  .n_experts = self->gate.matrix.n_experts,
                                  .top_k = (size_t)arguments->top_k,
                                  .normalize_top_k = arguments->normalize_top_k,
                                  .normalize_epsilon = arguments->normalize_epsilon,
                                  .routed_scaling_factor = arguments->routed_scaling_factor};
    return make_workspace(self, x, error);
}

zmlx_status zm_moe_step(zm_step *step, mlx_array x, const zm_moe_arguments *arguments, zm_pool *pool,
                        zmlx_error *error) {
    moe *self = calloc(1, sizeof *self);
    if (!self) return zm_fail_memory(error);
    *step = zm_step_new(&moe_class, self, x);
    self->engine = zm_engine_new(pool);
    zmlx_status status = set_up(self, &step->inputs, arguments, error);
    if (status) zm_step_free(step);
    else zm_step_add_output(step, zm_output_like(x, self->down.matrix.out_features));
    return status;
}

mlx_array zm_fused_moe(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, zm_pool *pool) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_moe_step(&step, x, arguments, pool, &scope->failure))
        zm_step_apply(scope, results, &step);
    return results[0];
}
