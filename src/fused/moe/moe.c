/* SPDX-License-Identifier: MIT */
/* A mixture of experts as one node. The experts are in-place rows of the stacked weights. The tokens are
 * grouped by expert. A first loop computes h(gate, up) for the rows of each expert and its tokens; a second one
 * computes the rows of down and adds them up in the order of each token's chosen list, so that a sum depends
 * neither on the other tokens nor on the threads. */
#include <stdlib.h>
#include <string.h>

#include "fused/cpu/product.h"
#include "fused/moe/gating.h"
#include "fused/step.h"

enum {
    SLICE = 512, /* tokens at a time: bounds the scratch memory */
    ROWS = 64    /* of down, for all experts of several tokens, before they are added up */
};

typedef struct moe {
    zm_engine engine;
    zm_operand router, gate, up, down, shared_router;
    int expert_bias; /* input; -1: none */
    zm_prepared router_x, gate_x, up_x, down_x, shared_router_x;
    bool gate_shared, up_shared; /* gate reads the router's prepared x; up reads gate's */
    zm_activation activation;
    zm_gating_rule rule;
    zm_step shared;   /* the MLP of every token; its arrays but x are the inputs from first_shared on */
    int first_shared;
    bool has_shared_router;
    size_t n_tokens;
    zm_workspace workspace;
    size_t router_place, gate_place, up_place, down_place, h_place, outputs_place;
    size_t logits_place, scores_place, weights_place, experts_place, tokens_place, slots_place, groups_place;
    size_t x_place, y_place, shared_place, added_place, shared_router_place, shared_weights_place;
} moe;

/* An expert and its tokens: slots [first, first + count) of the order by expert. */
typedef struct group {
    uint32_t expert, first, count;
} group;

/* One evaluation over a slice of the tokens. A pair is a token and one of its experts. */
typedef struct run {
    const moe *self;
    zm_matrix router, gate, up, down;
    zm_prepared router_x, gate_x, up_x, down_x;
    size_t n_tokens, n_groups;
    uint32_t *experts; /* n_tokens times top_k */
    uint32_t *tokens;  /* of each slot */
    uint32_t *slots;   /* of each pair */
    group *groups;
    float *weights;
    float *scratch;
    float *h, *outputs; /* a row a slot */
    float *y;
} run;

static size_t slice_size(size_t n_tokens) { return n_tokens < SLICE ? n_tokens : SLICE; }

static void choose_experts(const run *of, const float *logits, const float *expert_bias, float *scores) {
    const zm_gating_rule *rule = &of->self->rule;
    for (size_t token = 0; token < of->n_tokens; token++)
        zm_gating_choose(of->experts + token * rule->top_k, of->weights + token * rule->top_k, rule,
                         of->self->engine.level, logits + token * rule->n_experts, expert_bias, scores);
}

/* Sorts the pairs by expert. */
static void group_tokens(run *of) {
    size_t top_k = of->self->rule.top_k, n_experts = of->self->rule.n_experts, n_pairs = of->n_tokens * top_k;
    group *groups = of->groups;
    memset(groups, 0, n_experts * sizeof *groups);
    for (size_t pair = 0; pair < n_pairs; pair++) groups[of->experts[pair]].count++;
    uint32_t first = 0;
    for (uint32_t expert = 0; expert < n_experts; expert++) {
        groups[expert].expert = expert;
        groups[expert].first = first;
        first += groups[expert].count;
    }
    for (size_t pair = 0; pair < n_pairs; pair++) {
        uint32_t slot = groups[of->experts[pair]].first++;
        of->tokens[slot] = (uint32_t)(pair / top_k);
        of->slots[pair] = slot;
    }
    of->n_groups = 0;
    for (size_t expert = 0; expert < n_experts; expert++) {
        if (!groups[expert].count) continue;
        groups[expert].first -= groups[expert].count;
        groups[of->n_groups++] = groups[expert];
    }
}

static void gated_group(const run *of, const group *some, size_t row_begin, size_t row_end) {
    const moe *self = of->self;
    zm_gated_rows rows = {.level = self->engine.level,
                          .gate = &of->gate,
                          .up = &of->up,
                          .gate_x = &of->gate_x,
                          .up_x = &of->up_x,
                          .activation = self->activation};
    size_t stride = of->gate.out_features;
    zm_token_list tokens = {.indices = of->tokens + some->first, .count = some->count};
    zm_gated_rows_run(&rows, some->expert, tokens, row_begin, row_end, of->h + some->first * stride, stride);
}

/* An index range over (group, row block). */
static void run_gated(void *context, size_t begin, size_t end) {
    const run *of = context;
    size_t blocks = zm_row_blocks(&of->gate, of->n_tokens);
    while (begin < end) {
        size_t first = begin % blocks, last = first + (end - begin);
        if (last > blocks) last = blocks;
        gated_group(of, &of->groups[begin / blocks], zm_block_row(&of->gate, of->n_tokens, first),
                    zm_block_row(&of->gate, of->n_tokens, last));
        begin += last - first;
    }
}

/* Rows of each token's result: the sum over its experts. */
static void combine_rows(const run *of, size_t row_begin, size_t row_end) {
    size_t out = of->down.out_features, k = of->self->rule.top_k;
    for (size_t token = 0; token < of->n_tokens; token++) {
        float *y = of->y + token * out;
        memset(y + row_begin, 0, (row_end - row_begin) * sizeof *y);
        for (size_t pair = token * k; pair < (token + 1) * k; pair++) {
            const float *output = of->outputs + of->slots[pair] * out;
            for (size_t row = row_begin; row < row_end; row++) y[row] += of->weights[pair] * output[row];
        }
    }
}

static void run_down(void *context, size_t begin, size_t end) {
    const run *of = context;
    const zm_matrix *down = &of->down;
    size_t row_end = zm_block_row(down, of->n_tokens, end), out = down->out_features;
    size_t step = of->n_tokens == 1 ? out : ROWS; /* a token's rows are read as long streams */
    for (size_t row = zm_block_row(down, of->n_tokens, begin); row < row_end; row += step) {
        size_t last = row_end - row < step ? row_end : row + step;
        for (size_t i = 0; i < of->n_groups; i++) {
            const group *some = &of->groups[i];
            zm_product product = {.matrix = down,
                                  .expert = some->expert,
                                  .n_tokens = some->count,
                                  .prepared = of->down_x.data + some->first * of->down_x.stride,
                                  .prepared_stride = of->down_x.stride,
                                  .limbs = of->down_x.order.limbs,
                                  .y = of->outputs + some->first * out + row,
                                  .y_stride = out};
            of->self->engine.level->multiply(&product, row, last);
        }
        combine_rows(of, row, last);
    }
}

static void start_run(run *of, const moe *self, const zm_view *inputs, zm_view *output) {
    float *scratch = zm_workspace_open(&self->workspace);
    *of = (run){.self = self,
                .scratch = scratch,
                .router = zm_operand_matrix(&self->router, inputs),
                .gate = zm_operand_matrix(&self->gate, inputs),
                .up = zm_operand_matrix(&self->up, inputs),
                .down = zm_operand_matrix(&self->down, inputs),
                .router_x = self->router_x,
                .gate_x = self->gate_x,
                .up_x = self->up_x,
                .down_x = self->down_x,
                .experts = (uint32_t *)(void *)(scratch + self->experts_place),
                .tokens = (uint32_t *)(void *)(scratch + self->tokens_place),
                .slots = (uint32_t *)(void *)(scratch + self->slots_place),
                .groups = (group *)(void *)(scratch + self->groups_place),
                .weights = scratch + self->weights_place,
                .h = scratch + self->h_place,
                .outputs = scratch + self->outputs_place,
                .y = zm_result_floats(output, scratch + self->y_place)};
    of->router_x.data = scratch + self->router_place;
    of->gate_x.data = self->gate_shared ? of->router_x.data : scratch + self->gate_place;
    of->up_x.data = self->up_shared ? of->gate_x.data : scratch + self->up_place;
    of->down_x.data = scratch + self->down_place;
}

static void run_slice(run *of, const float *x, const float *expert_bias) {
    const moe *self = of->self;
    zm_engine engine = self->engine;
    size_t tokens = of->n_tokens, pairs = tokens * self->rule.top_k;
    float *scratch = of->scratch, *logits = scratch + self->logits_place;
    zm_prepare(engine, &of->router_x, x, tokens);
    if (!self->gate_shared) zm_prepare(engine, &of->gate_x, x, tokens);
    if (!self->up_shared) zm_prepare(engine, &of->up_x, x, tokens);
    zm_product_run(engine, &of->router, &of->router_x, tokens, logits);
    choose_experts(of, logits, expert_bias, scratch + self->scores_place);
    group_tokens(of);
    size_t mean_count = pairs / of->n_groups; /* tokens of an expert */
    zm_ahead next = {.count = 0};
    for (size_t i = 0; i < of->n_groups && tokens == 1; i++)
        zm_ahead_add(&next, &of->down, of->groups[i].expert);
    zm_pool_run_ahead(engine.pool, of->n_groups * zm_row_blocks(&of->gate, tokens),
                      zm_row_grain(&of->gate, tokens, 2 * mean_count), run_gated, of, &next);
    zm_prepare(engine, &of->down_x, of->h, pairs);
    zm_pool_run(engine.pool, zm_row_blocks(&of->down, tokens), zm_row_grain(&of->down, tokens, pairs), run_down, of);
}

typedef struct addition {
    float *y;
    const float *with;
    const float *weights; /* a token; NULL: 1 */
    size_t size;
} addition;

static void add_rows(void *context, size_t begin, size_t end) {
    const addition *of = context;
    for (size_t token = begin; token < end; token++) {
        const float *with = of->with + token * of->size;
        float *y = of->y + token * of->size, weight = of->weights ? of->weights[token] : 1;
        for (size_t i = 0; i < of->size; i++) y[i] += weight * with[i];
    }
}

/* The sigmoid of the shared router's result, a token; x as floats. */
static float *weigh_shared(const moe *self, float *scratch, const float *x, const zm_view *inputs) {
    zm_matrix router = zm_operand_matrix(&self->shared_router, inputs);
    zm_prepared prepared = self->shared_router_x;
    float *weights = scratch + self->shared_weights_place;
    prepared.data = scratch + self->shared_router_place;
    for (size_t token = 0; token < self->n_tokens; token += SLICE) {
        size_t count = slice_size(self->n_tokens - token);
        zm_prepare(self->engine, &prepared, x + token * router.in_features, count);
        zm_product_run(self->engine, &router, &prepared, count, weights + token);
    }
    self->engine.level->sigmoid(weights, weights, self->n_tokens);
    return weights;
}

/* y += the shared MLP's result, which has the type of the output as it has as a node. x: that of inputs, as floats. */
static void add_shared(const moe *self, float *scratch, float *y, const float *x, const zm_view *inputs,
                       const zm_view *output) {
    const zm_step *step = &self->shared;
    zm_view views[ZM_MAX_INPUTS] = {inputs[0]}, result = *output;
    memcpy(views + 1, inputs + self->first_shared, (size_t)(step->inputs.count - 1) * sizeof *views);
    result.data = scratch + self->shared_place;
    step->node_class->evaluate_cpu(step->state, views, step->inputs.count, &result, 1);
    addition sum = {.y = y,
                    .with = zm_read_floats(self->engine.level, &result, scratch + self->added_place),
                    .weights = self->has_shared_router ? weigh_shared(self, scratch, x, inputs) : NULL,
                    .size = self->down.matrix.out_features};
    zm_pool_run(self->engine.pool, self->n_tokens, zm_value_grain(sum.size), add_rows, &sum);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const moe *self = state;
    run of;
    start_run(&of, self, inputs, &outputs[0]);
    const float *x = zm_read_floats(self->engine.level, &inputs[0], of.scratch + self->x_place);
    const float *expert_bias = self->expert_bias < 0 ? NULL : inputs[self->expert_bias].data;
    float *y = of.y;
    for (size_t token = 0; token < self->n_tokens; token += SLICE) {
        of.n_tokens = slice_size(self->n_tokens - token);
        of.y = y + token * of.down.out_features;
        run_slice(&of, x + token * of.gate.in_features, expert_bias);
    }
    if (self->shared.node_class) add_shared(self, of.scratch, y, x, inputs, &outputs[0]);
    zm_round_floats(&outputs[0], y);
    zm_workspace_close(&self->workspace);
}

static void free_moe(void *state) {
    moe *self = state;
    zm_step_free(&self->shared);
    free(self);
}

static const zm_node_class moe_class = {.name = "zmlx.moe", .evaluate_cpu = evaluate, .free_state = free_moe};

static zmlx_status check_groups(const zm_moe_arguments *arguments, size_t n_experts, zmlx_error *error) {
    int n_groups = arguments->n_groups, top_groups = arguments->top_groups;
    if (arguments->gating != ZM_GATING_SIGMOID_GROUPS) return ZMLX_OK;
    if (n_groups >= 1 && top_groups >= 1 && top_groups <= n_groups && n_experts % (size_t)n_groups == 0 &&
        (n_groups == 1 || n_experts / (size_t)n_groups > 1))
        return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, moe_class.name, "%d of %d groups of %zu experts", top_groups, n_groups,
                   n_experts);
}

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
    ZM_TRY(check_groups(arguments, gate->n_experts, error));
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
    self->n_tokens = zm_token_count(x, gate->in_features);
    size_t tokens = slice_size(self->n_tokens), pairs = tokens * self->rule.top_k;
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : self->n_tokens;
    zm_engine exactly = self->engine; /* a choice of experts turns on small differences */
    exactly.precision = ZM_PRECISION_FLOAT32;
    self->router_x = zm_prepared_new(exactly, router);
    self->gate_x = zm_prepared_new(self->engine, gate);
    self->up_x = zm_prepared_new(self->engine, up);
    self->down_x = zm_prepared_new(self->engine, down);
    self->gate_shared = zm_matrix_same_order(router, gate) && self->engine.precision == ZM_PRECISION_FLOAT32;
    self->up_shared = zm_matrix_same_order(gate, up);
    self->router_place = zm_workspace_add(workspace, tokens, self->router_x.stride);
    self->gate_place = zm_workspace_add(workspace, self->gate_shared ? 0 : tokens, self->gate_x.stride);
    self->up_place = zm_workspace_add(workspace, self->up_shared ? 0 : tokens, self->up_x.stride);
    self->down_place = zm_workspace_add(workspace, pairs, self->down_x.stride);
    self->h_place = zm_workspace_add(workspace, pairs, gate->out_features);
    self->outputs_place = zm_workspace_add(workspace, pairs, down->out_features);
    self->tokens_place = zm_workspace_add(workspace, pairs, 1);
    self->slots_place = zm_workspace_add(workspace, pairs, 1);
    self->groups_place = zm_workspace_add(workspace, self->rule.n_experts, sizeof(group) / sizeof(float));
    self->logits_place = zm_workspace_add(workspace, tokens, router->out_features);
    self->scores_place = zm_workspace_add(workspace, 3, router->out_features);
    self->weights_place = zm_workspace_add(workspace, pairs, 1);
    self->experts_place = zm_workspace_add(workspace, pairs, 1);
    self->x_place = zm_workspace_add(workspace, widened, gate->in_features);
    self->y_place = zm_workspace_add(workspace, widened, down->out_features);
    size_t shared = self->shared.node_class ? self->n_tokens : 0, weighed = self->has_shared_router ? tokens : 0;
    if (weighed) self->shared_router_x = zm_prepared_new(exactly, &self->shared_router.matrix);
    self->shared_router_place = zm_workspace_add(workspace, weighed, self->shared_router_x.stride);
    self->shared_weights_place = zm_workspace_add(workspace, weighed ? self->n_tokens : 0, 1);
    self->shared_place = zm_workspace_add(workspace, shared, down->out_features);
    self->added_place = zm_workspace_add(workspace, widened ? shared : 0, down->out_features);
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

/* Sets the shared MLP up, whose inputs come last. */
static zmlx_status set_up_shared(moe *self, zm_inputs *inputs, const zm_moe_arguments *arguments, zm_compute compute,
                                 zmlx_error *error) {
    if (!arguments->shared_gate) return ZMLX_OK;
    zm_gated_mlp_arguments shared = {arguments->shared_gate, arguments->shared_up, arguments->shared_down,
                                     arguments->activation};
    ZM_TRY(zm_gated_mlp_step(&self->shared, inputs->arrays[0], &shared, compute, error));
    self->first_shared = inputs->count;
    for (int i = 1; i < self->shared.inputs.count; i++) zm_inputs_add(inputs, self->shared.inputs.arrays[i]);
    bool fits = (size_t)arguments->shared_down->out_features == self->down.matrix.out_features;
    if (self->has_shared_router) {
        const zm_matrix *router = &self->shared_router.matrix;
        fits = fits && router->in_features == self->gate.matrix.in_features && router->out_features == 1 &&
               router->n_experts == 1;
    }
    if (fits) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, moe_class.name, "the shared MLP does not fit");
}

static zmlx_status set_up(moe *self, zm_step *step, const zm_moe_arguments *arguments, zm_compute compute,
                          zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->router, inputs, arguments->router, "zmlx.moe: router", error));
    ZM_TRY(zm_operand_new(&self->gate, inputs, arguments->gate, "zmlx.moe: gate", error));
    ZM_TRY(zm_operand_new(&self->up, inputs, arguments->up, "zmlx.moe: up", error));
    ZM_TRY(zm_operand_new(&self->down, inputs, arguments->down, "zmlx.moe: down", error));
    self->has_shared_router = arguments->shared_gate && arguments->shared_router;
    if (self->has_shared_router)
        ZM_TRY(zm_operand_new(&self->shared_router, inputs, arguments->shared_router, "zmlx.moe: shared router",
                              error));
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
                                  .n_groups = (size_t)arguments->n_groups,
                                  .top_groups = (size_t)arguments->top_groups,
                                  .normalize_top_k = arguments->normalize_top_k,
                                  .normalize_epsilon = arguments->normalize_epsilon,
                                  .routed_scaling_factor = arguments->routed_scaling_factor};
    ZM_TRY(set_up_shared(self, inputs, arguments, compute, error));
    zm_step_add_first(step, &self->router);
    zm_step_add_output(step, zm_output_like(x, self->down.matrix.out_features));
    return make_workspace(self, x, error);
}

zmlx_status zm_moe_step(zm_step *step, mlx_array x, const zm_moe_arguments *arguments, zm_compute compute,
                        zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &moe_class, sizeof(moe), x, error));
    return zm_step_end(step, set_up(step->state, step, arguments, compute, error));
}

mlx_array zm_fused_moe(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, zm_compute compute) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_moe_step(&step, x, arguments, compute, &scope->failure))
        zm_step_apply(scope, results, &step);
    return results[0];
}
