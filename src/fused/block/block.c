/* SPDX-License-Identifier: MIT */
/* A decoder block as one node: h = x + operator(norm(x)), y = h + feed_forward(norm(h)). Operator and feed-forward part
 * are the steps that are nodes elsewhere: the same bits, without the graph between them. */
#include <stdlib.h>
#include <string.h>

#include "fused/block/block.h"
#include "fused/cpu/product.h"
#include "fused/rms_norm/norm.h"

enum { GRAIN_VALUES = 16 * 1024 }; /* below, waking a thread costs more than it brings */

/* A step inside the node. Its x is the block's own scratch; the rest are inputs [first, first + count) of the node. */
typedef struct part {
    const zm_node_class *node_class;
    void *state;
    bool shared; /* the state is another block's */
    int first, count;
    const zm_operand *weights[ZM_STEP_FIRST]; /* that are read first */
    int n_weights;
} part;

typedef struct block {
    const zm_cpu_level *level;
    zm_pool *pool;
    part operator, feed_forward;
    float operator_eps, feed_forward_eps;
    size_t n_tokens, size;
    zm_workspace workspace;
    size_t x_place, h_place, normed_place, stored_place, result_place, operator_norm_place, feed_forward_norm_place;
} block;

enum { OPERATOR_NORM = 1, FEED_FORWARD_NORM = 2 }; /* inputs */

static void run_part(const part *of, zm_view x, const zm_view *inputs, zm_view *outputs, int n_outputs) {
    zm_view views[ZM_MAX_INPUTS] = {x};
    memcpy(views + 1, inputs + of->first, (size_t)of->count * sizeof *views);
    of->node_class->evaluate_cpu(of->state, views, of->count + 1, outputs, n_outputs);
}

static void add_ahead(zm_ahead *ahead, const part *of, const zm_view *inputs) {
    for (int i = 0; i < of->n_weights; i++) {
        zm_matrix matrix = zm_operand_matrix(of->weights[i], inputs + of->first - 1); /* its inputs count from x */
        zm_ahead_add(ahead, &matrix, 0);
    }
}

void zm_block_ahead(zm_ahead *ahead, const void *state, const zm_view *inputs) {
    const block *self = state;
    add_ahead(ahead, &self->operator, inputs);
}

typedef struct rows {
    const float *x, *with; /* rows; the norm's weight, or rows to add */
    float *results;
    size_t size;
    float eps;
} rows;

static void norm_rows(void *context, size_t begin, size_t end) {
    const rows *of = context;
    for (size_t t = begin; t < end; t++)
        zm_rms_norm_row(of->results + t * of->size, of->x + t * of->size, of->with, of->size, of->eps);
}

static void add_rows(void *context, size_t begin, size_t end) {
    const rows *of = context;
    for (size_t i = begin * of->size; i < end * of->size; i++) of->results[i] = of->x[i] + of->with[i];
}

/* The norm of all tokens, stored in the type of the activations; the result's data is scratch. */
static zm_view norm_tokens(const block *self, float *scratch, zm_view like, const float *x, const zm_view *weight,
                           size_t weight_place, float eps) {
    float *normed = scratch + self->normed_place;
    rows of = {.x = x,
               .with = zm_read_floats(self->level, weight, scratch + weight_place),
               .results = normed,
               .size = self->size,
               .eps = eps};
    zm_pool_run(self->pool, self->n_tokens, 1 + GRAIN_VALUES / self->size, norm_rows, &of);
    like.data = like.dtype == MLX_FLOAT32 ? normed : scratch + self->stored_place;
    zm_round_floats(&like, normed);
    return like;
}

/* sum = x + the numbers of result, rounded to its type, which gets them too; sum may be x. */
static void add_result(const block *self, float *scratch, float *sum, const float *x, zm_view *result) {
    rows of = {.x = x,
               .with = zm_read_floats(self->level, result, scratch + self->normed_place),
               .results = result->dtype == MLX_FLOAT32 ? result->data : sum,
               .size = self->size};
    zm_pool_run(self->pool, self->n_tokens, 1 + GRAIN_VALUES / self->size, add_rows, &of);
    zm_round_floats(result, sum);
    zm_copy_floats(self->level, result, sum);
}

void zm_block_run(const void *state, const zm_view *inputs, zm_view *outputs, int n_outputs, const zm_ahead *following) {
    const block *self = state;
    zm_ahead feed_forward = {.count = 0};
    add_ahead(&feed_forward, &self->feed_forward, inputs);
    zm_pool_expect(self->pool, &feed_forward);
    float *scratch = zm_workspace_open(&self->workspace), *h = scratch + self->h_place;
    const float *x = zm_read_floats(self->level, &inputs[0], scratch + self->x_place);

    zm_view normed = norm_tokens(self, scratch, inputs[0], x, &inputs[OPERATOR_NORM], self->operator_norm_place,
                                 self->operator_eps);
    zm_view results[ZM_STEP_OUTPUTS] = {inputs[0]};
    results[0].data = scratch + self->result_place;
    memcpy(results + 1, outputs + 1, (size_t)(n_outputs - 1) * sizeof *results);
    run_part(&self->operator, normed, inputs, results, n_outputs);
    add_result(self, scratch, h, x, &results[0]);

    normed = norm_tokens(self, scratch, inputs[0], h, &inputs[FEED_FORWARD_NORM], self->feed_forward_norm_place,
                         self->feed_forward_eps);
    zm_pool_expect(self->pool, following);
    run_part(&self->feed_forward, normed, inputs, &outputs[0], 1);
    add_result(self, scratch, h, h, &outputs[0]);
    zm_workspace_close(&self->workspace);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    zm_block_run(state, inputs, outputs, n_outputs, NULL);
}

static void free_part(part *of) {
    if (of->node_class && !of->shared) of->node_class->free_state(of->state);
}

static void free_block(void *state) {
    block *self = state;
    if (!self) return;
    free_part(&self->operator);
    free_part(&self->feed_forward);
    free(self);
}

const zm_node_class zm_block_class = {.name = "zmlx.block", .evaluate_cpu = evaluate, .free_state = free_block};

/* Takes the step's state over and its arrays but x into the node's. */
static void take_step(part *of, zm_block_inputs *inputs, const zm_step *step) {
    *of = (part){.node_class = step->node_class,
                 .state = step->state,
                 .first = inputs->count,
                 .count = step->inputs.count - 1,
                 .n_weights = step->n_first};
    memcpy(of->weights, step->first, sizeof of->weights);
    memcpy(inputs->arrays + inputs->count, step->inputs.arrays + 1, (size_t)of->count * sizeof *inputs->arrays);
    inputs->count += of->count;
}

static zmlx_status add_norm(zm_block_inputs *inputs, mlx_array weight, size_t size, zmlx_error *error) {
    zm_storage storage;
    if (!zm_is_set(weight) || mlx_array_ndim(weight) != 1 || mlx_array_size(weight) != size ||
        !zm_storage_of(&storage, mlx_array_dtype(weight)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name, "a norm's weight does not fit");
    inputs->arrays[inputs->count++] = weight;
    return ZMLX_OK;
}

static zmlx_status add_parts(block *self, zm_block_inputs *inputs, zm_step *operator,
                             const zm_block_arguments *arguments, zm_compute compute, zmlx_error *error) {
    mlx_array x = inputs->arrays[0];
    zm_step feed_forward;
    if (!arguments->attention == !arguments->short_conv || !arguments->gated_mlp == !arguments->moe)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name, "not one operator and one feed-forward part");
    if (arguments->attention) ZM_TRY(zm_attention_step(operator, x, arguments->attention, compute, error));
    else ZM_TRY(zm_short_conv_step(operator, x, arguments->short_conv, compute, error));
    take_step(&self->operator, inputs, operator);
    if (arguments->moe) ZM_TRY(zm_moe_step(&feed_forward, x, arguments->moe, compute, error));
    else ZM_TRY(zm_gated_mlp_step(&feed_forward, x, arguments->gated_mlp, compute, error));
    take_step(&self->feed_forward, inputs, &feed_forward);
    int size = (int)self->size;
    if (operator->outputs[0].shape[2] != size || feed_forward.outputs[0].shape[2] != size)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name, "the parts do not keep the size of x");
    return ZMLX_OK;
}

static zmlx_status make_workspace(block *self, zmlx_error *error) {
    zm_workspace *workspace = &self->workspace;
    self->x_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->h_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->normed_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->stored_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->result_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->operator_norm_place = zm_workspace_add(workspace, 1, self->size);
    self->feed_forward_norm_place = zm_workspace_add(workspace, 1, self->size);
    return zm_workspace_reserve(workspace, self->pool, error);
}

static zmlx_status set_up(block *self, zm_block_inputs *inputs, zm_step *operator, const zm_block_arguments *arguments,
                          zm_compute compute, zmlx_error *error) {
    mlx_array x = inputs->arrays[0];
    if (!zm_is_set(x) || mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1 || !zm_dim(x, 2))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, zm_block_class.name, "the input is not one sequence");
    self->level = zm_fused_best_level();
    self->pool = compute.pool;
    self->size = (size_t)zm_dim(x, 2);
    self->n_tokens = zm_token_count(x, self->size);
    self->operator_eps = arguments->operator_eps;
    self->feed_forward_eps = arguments->feed_forward_eps;
    ZM_TRY(zm_check_activations(x, self->size, zm_block_class.name, error));
    ZM_TRY(add_norm(inputs, arguments->operator_norm, self->size, error));
    ZM_TRY(add_norm(inputs, arguments->feed_forward_norm, self->size, error));
    ZM_TRY(add_parts(self, inputs, operator, arguments, compute, error));
    return make_workspace(self, error);
}

/* The outputs of the node: y and what the operator keeps, whose inputs have moved. */
static int node_outputs(zm_node_output *outputs, const block *self, const zm_step *operator) {
    for (int i = 0; i < operator->n_outputs; i++) {
        outputs[i] = operator->outputs[i];
        if (outputs[i].continues) outputs[i].continues += self->operator.first - 1;
    }
    return operator->n_outputs;
}

zmlx_status zm_block_new(void **state, zm_block_inputs *inputs, zm_node_output *outputs, int *n_outputs,
                         const zm_block_arguments *arguments, zm_compute compute, zmlx_error *error) {
    block *self = calloc(1, sizeof *self);
    if (!self) return zm_fail_memory(error);
    zm_step operator;
    zmlx_status status = set_up(self, inputs, &operator, arguments, compute, error);
    if (status) {
        free_block(self);
        return status;
    }
    *n_outputs = node_outputs(outputs, self, &operator);
    *state = self;
    return ZMLX_OK;
}

zmlx_status zm_block_renew(void **renewed, zm_node_output *outputs, const void *state, mlx_array x,
                           const zm_block_arguments *arguments, zmlx_error *error) {
    const block *old = state;
    zm_step operator;
    block *self = malloc(sizeof *self);
    if (!self) return zm_fail_memory(error);
    memcpy(self, old, sizeof *self);
    self->feed_forward.shared = true;
    zmlx_status status = zm_attention_renew(&operator, old->operator.state, x, arguments->attention, error);
    if (status) {
        free(self);
        return status;
    }
    self->operator.state = operator.state;
    node_outputs(outputs, self, &operator);
    *renewed = self;
    return ZMLX_OK;
}

mlx_array zm_fused_block(zm_scope *scope, mlx_array kept[2], mlx_array x, const zm_block_arguments *arguments,
                         zm_compute compute) {
    zm_block_inputs inputs = {.arrays = {x}, .count = 1};
    zm_node_output outputs[ZM_STEP_OUTPUTS];
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    void *state;
    int n_outputs;
    kept[0] = kept[1] = (mlx_array){NULL};
    if (zm_scope_failed(scope) ||
        zm_block_new(&state, &inputs, outputs, &n_outputs, arguments, compute, &scope->failure) ||
        zm_node_apply(results, outputs, n_outputs, &zm_block_class, state, inputs.arrays, inputs.count, scope->stream,
                      &scope->failure))
        return (mlx_array){NULL};
    for (int i = 1; i < n_outputs; i++) kept[i - 1] = zm_scope_own(scope, results[i]);
    return zm_scope_own(scope, results[0]);
}
