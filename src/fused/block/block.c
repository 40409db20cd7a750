/* SPDX-License-Identifier: MIT */
/* A decoder block, or one of its halves, as one node: h = x + operator(norm(x)), y = h + feed_forward(norm(h)).
 * Operator and feed-forward part are the steps that are nodes elsewhere: the same bits, without the graph between
 * them. */
#include <stdlib.h>
#include <string.h>

#include "fused/block/block.h"
#include "fused/cpu/product.h"
#include "fused/rms_norm/norm.h"

enum { MOST_PARTS = 2, FIRST_NORM = 1 }; /* the norms' inputs, one behind the other */

/* A norm and a step inside the node. The step's x is the block's own scratch; the rest are inputs [first, first +
 * count) of the node. */
typedef struct part {
    const zm_node_class *node_class;
    void *state;
    bool shared; /* the state is another block's */
    int first, count;
    const zm_operand *weights[ZM_STEP_FIRST]; /* that are read first */
    int n_weights;
    float eps;
    size_t norm_place;
} part;

typedef struct block {
    const zm_cpu_level *level;
    zm_pool *pool;
    part parts[MOST_PARTS]; /* the operator, the feed-forward part, or one of them */
    int n_parts;
    size_t n_tokens, size;
    zm_workspace workspace;
    size_t x_place, h_place, normed_place, stored_place, result_place;
} block;

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
    add_ahead(ahead, &self->parts[0], inputs);
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

/* The norm of all tokens before part i, stored in the type of the activations; the result's data is scratch. */
static zm_view norm_tokens(const block *self, int i, float *scratch, const zm_view *inputs, const float *x) {
    const part *of = &self->parts[i];
    zm_view stored = inputs[0];
    float *normed = scratch + self->normed_place;
    rows all = {.x = x,
                .with = zm_read_floats(self->level, &inputs[FIRST_NORM + i], scratch + of->norm_place),
                .results = normed,
                .size = self->size,
                .eps = of->eps};
    zm_pool_run(self->pool, self->n_tokens, zm_value_grain(self->size), norm_rows, &all);
    stored.data = stored.dtype == MLX_FLOAT32 ? normed : scratch + self->stored_place;
    zm_round_floats(&stored, normed);
    return stored;
}

/* sum = x + the numbers of result, rounded to its type, which gets them too; sum may be x. */
static void add_result(const block *self, float *scratch, float *sum, const float *x, zm_view *result) {
    rows of = {.x = x,
               .with = zm_read_floats(self->level, result, scratch + self->normed_place),
               .results = result->dtype == MLX_FLOAT32 ? result->data : sum,
               .size = self->size};
    zm_pool_run(self->pool, self->n_tokens, zm_value_grain(self->size), add_rows, &of);
    zm_round_floats(result, sum);
    zm_copy_floats(self->level, result, sum);
}

void zm_block_run(const void *state, const zm_view *inputs, zm_view *outputs, int n_outputs,
                  const zm_ahead *following) {
    const block *self = state;
    float *scratch = zm_workspace_open(&self->workspace), *h = scratch + self->h_place;
    const float *x = zm_read_floats(self->level, &inputs[0], scratch + self->x_place);
    for (int i = 0; i < self->n_parts; i++) {
        bool is_last = i + 1 == self->n_parts;
        zm_ahead next = {.count = 0};
        if (!is_last) add_ahead(&next, &self->parts[i + 1], inputs);
        zm_pool_expect(self->pool, is_last ? following : &next);
        zm_view results[ZM_STEP_OUTPUTS] = {outputs[0]};
        if (!is_last) results[0].data = scratch + self->result_place;
        if (i == 0) memcpy(results + 1, outputs + 1, (size_t)(n_outputs - 1) * sizeof *results);
        zm_view normed = norm_tokens(self, i, scratch, inputs, x);
        run_part(&self->parts[i], normed, inputs, results, i == 0 ? n_outputs : 1);
        add_result(self, scratch, h, x, &results[0]);
        x = h;
    }
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
    for (int i = 0; i < MOST_PARTS; i++) free_part(&self->parts[i]);
    free(self);
}

const zm_node_class zm_block_class = {.name = "zmlx.block", .evaluate_cpu = evaluate, .free_state = free_block};

/* Takes the step's state over and its arrays but x into the node's. */
static zmlx_status take_step(block *self, int i, zm_block_inputs *inputs, const zm_step *step, zmlx_error *error) {
    part *of = &self->parts[i];
    of->node_class = step->node_class;
    of->state = step->state;
    of->first = inputs->count;
    of->count = step->inputs.count - 1;
    of->n_weights = step->n_first;
    memcpy(of->weights, step->first, sizeof of->weights);
    memcpy(inputs->arrays + inputs->count, step->inputs.arrays + 1, (size_t)of->count * sizeof *inputs->arrays);
    inputs->count += of->count;
    if (step->outputs[0].shape[2] == (int)self->size) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name, "the parts do not keep the size of x");
}

/* Adds a part with its norm. */
static zmlx_status add_norm(block *self, zm_block_inputs *inputs, mlx_array weight, float eps, zmlx_error *error) {
    zm_storage storage;
    if (!zm_is_set(weight) || mlx_array_ndim(weight) != 1 || mlx_array_size(weight) != self->size ||
        !zm_storage_of(&storage, mlx_array_dtype(weight)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name, "a norm's weight does not fit");
    inputs->arrays[inputs->count++] = weight;
    self->parts[self->n_parts++].eps = eps;
    return ZMLX_OK;
}

static int n_operators(const zm_block_arguments *arguments) {
    return (arguments->attention != NULL) + (arguments->short_conv != NULL) + (arguments->delta_net != NULL);
}
static bool has_operator(const zm_block_arguments *arguments) { return n_operators(arguments) > 0; }
static bool has_feed_forward(const zm_block_arguments *arguments) { return arguments->gated_mlp || arguments->moe; }

static zmlx_status add_norms(block *self, zm_block_inputs *inputs, const zm_block_arguments *arguments,
                             zmlx_error *error) {
    bool is_twofold = n_operators(arguments) > 1 || (arguments->gated_mlp && arguments->moe);
    if (is_twofold || (!has_operator(arguments) && !has_feed_forward(arguments)))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, zm_block_class.name,
                       "several operators or feed-forward parts, or none");
    if (has_operator(arguments))
        ZM_TRY(add_norm(self, inputs, arguments->operator_norm, arguments->operator_eps, error));
    if (has_feed_forward(arguments))
        ZM_TRY(add_norm(self, inputs, arguments->feed_forward_norm, arguments->feed_forward_eps, error));
    return ZMLX_OK;
}

/* first: of the node, whose outputs are its first part's. */
static zmlx_status add_parts(block *self, zm_block_inputs *inputs, zm_step *first, const zm_block_arguments *arguments,
                             zm_compute compute, zmlx_error *error) {
    mlx_array x = inputs->arrays[0];
    zm_step feed_forward;
    if (has_operator(arguments)) {
        if (arguments->attention) ZM_TRY(zm_attention_step(first, x, arguments->attention, compute, error));
        else if (arguments->delta_net) ZM_TRY(zm_delta_net_step(first, x, arguments->delta_net, compute, error));
        else ZM_TRY(zm_short_conv_step(first, x, arguments->short_conv, compute, error));
        ZM_TRY(take_step(self, 0, inputs, first, error));
    }
    if (has_feed_forward(arguments)) {
        if (arguments->moe) ZM_TRY(zm_moe_step(&feed_forward, x, arguments->moe, compute, error));
        else ZM_TRY(zm_gated_mlp_step(&feed_forward, x, arguments->gated_mlp, compute, error));
        ZM_TRY(take_step(self, self->n_parts - 1, inputs, &feed_forward, error));
        if (self->n_parts == 1) *first = feed_forward;
    }
    return ZMLX_OK;
}

static zmlx_status make_workspace(block *self, zmlx_error *error) {
    zm_workspace *workspace = &self->workspace;
    self->x_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->h_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->normed_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->stored_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    self->result_place = zm_workspace_add(workspace, self->n_tokens, self->size);
    for (int i = 0; i < self->n_parts; i++) self->parts[i].norm_place = zm_workspace_add(workspace, 1, self->size);
    return zm_workspace_reserve(workspace, self->pool, error);
}

static zmlx_status set_up(block *self, zm_block_inputs *inputs, zm_step *first, const zm_block_arguments *arguments,
                          zm_compute compute, zmlx_error *error) {
    mlx_array x = inputs->arrays[0];
    if (!zm_is_set(x) || mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1 || !zm_dim(x, 2))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, zm_block_class.name, "the input is not one sequence");
    self->level = zm_fused_best_level();
    self->pool = compute.pool;
    self->size = (size_t)zm_dim(x, 2);
    self->n_tokens = zm_token_count(x, self->size);
    ZM_TRY(zm_check_activations(x, self->size, zm_block_class.name, error));
    ZM_TRY(add_norms(self, inputs, arguments, error));
    ZM_TRY(add_parts(self, inputs, first, arguments, compute, error));
    return make_workspace(self, error);
}

/* The outputs of the node: y and what the operator keeps, whose inputs have moved. */
static int node_outputs(zm_node_output *outputs, const block *self, const zm_step *first) {
    for (int i = 0; i < first->n_outputs; i++) {
        outputs[i] = first->outputs[i];
        if (outputs[i].continues) outputs[i].continues += self->parts[0].first - 1;
        if (outputs[i].replaces > 0) outputs[i].replaces += self->parts[0].first - 1;
    }
    return first->n_outputs;
}

zmlx_status zm_block_new(void **state, zm_block_inputs *inputs, zm_node_output *outputs, int *n_outputs,
                         const zm_block_arguments *arguments, zm_compute compute, zmlx_error *error) {
    block *self = calloc(1, sizeof *self);
    if (!self) return zm_fail_memory(error);
    zm_step first;
    zmlx_status status = set_up(self, inputs, &first, arguments, compute, error);
    if (status) {
        free_block(self);
        return status;
    }
    *n_outputs = node_outputs(outputs, self, &first);
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
    self->parts[1].shared = true;
    zmlx_status status = zm_attention_renew(&operator, old->parts[0].state, x, arguments->attention, error);
    if (status) {
        free(self);
        return status;
    }
    self->parts[0].state = operator.state;
    node_outputs(outputs, self, &operator);
    *renewed = self;
    return ZMLX_OK;
}

/* One node; kept gets the further results. */
static mlx_array apply(zm_scope *scope, mlx_array kept[2], mlx_array x, const zm_block_arguments *arguments,
                       zm_compute compute) {
    zm_block_inputs inputs = {.arrays = {x}, .count = 1};
    zm_node_output outputs[ZM_STEP_OUTPUTS];
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    void *state;
    int n_outputs;
    if (zm_scope_failed(scope) ||
        zm_block_new(&state, &inputs, outputs, &n_outputs, arguments, compute, &scope->failure) ||
        zm_node_apply(results, outputs, n_outputs, &zm_block_class, state, inputs.arrays, inputs.count, scope->stream,
                      &scope->failure))
        return (mlx_array){NULL};
    for (int i = 1; i < n_outputs; i++) kept[i - 1] = zm_scope_own(scope, results[i]);
    return zm_scope_own(scope, results[0]);
}

mlx_array zm_fused_block(zm_scope *scope, mlx_array kept[2], mlx_array x, const zm_block_arguments *arguments,
                         zm_compute compute) {
    kept[0] = kept[1] = (mlx_array){NULL};
    bool has_tokens = zm_is_set(x) && mlx_array_ndim(x) == 3 && zm_dim(x, 1) > 1;
    if (!has_tokens || !has_operator(arguments) || !has_feed_forward(arguments))
        return apply(scope, kept, x, arguments, compute);
    zm_block_arguments operator = *arguments, feed_forward = *arguments;
    operator.gated_mlp = NULL, operator.moe = NULL;
    feed_forward.attention = NULL, feed_forward.short_conv = NULL, feed_forward.delta_net = NULL;
    mlx_array h = apply(scope, kept, x, &operator, compute);
    return apply(scope, NULL, h, &feed_forward, compute);
}
