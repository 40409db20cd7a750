/* SPDX-License-Identifier: MIT */
/* The output projection with the greedy choice of the token as a node. The logits of a position are scratch. */
#include <math.h>
#include <stdlib.h>

#include "fused/cpu/product.h"
#include "fused/step.h"
#include "runtime/shape.h"

/* Logits are summed up in pieces of fixed places, so that the sum does not depend on the threads. */
enum { PIECE = 4096 };

typedef struct lm_head {
    zm_engine engine;
    zm_operand weight;
    zm_prepared prepared;
    zm_storage storage; /* of x */
    size_t n_tokens, n_pieces;
    zm_workspace workspace;
    size_t prepared_place, x_place, logits_place, stored_place, largest_place, sums_place;
} lm_head;

typedef struct run {
    const lm_head *self;
    float *logits; /* of one token */
    float *largest, *sums;
    float shift;
} run;

static size_t piece_size(const lm_head *self, size_t piece) {
    size_t rest = self->weight.matrix.out_features - piece * PIECE;
    return rest < PIECE ? rest : PIECE;
}

static void find_largest(void *context, size_t begin, size_t end) {
    const run *of = context;
    for (size_t i = begin; i < end; i++)
        of->largest[i] = of->self->engine.level->largest(of->logits + i * PIECE, piece_size(of->self, i));
}

static void sum_pieces(void *context, size_t begin, size_t end) {
    const run *of = context;
    for (size_t i = begin; i < end; i++)
        of->sums[i] =
            of->self->engine.level->sum_exponentials(of->logits + i * PIECE, piece_size(of->self, i), of->shift);
}

/* As a value of x's type would hold it. */
static float round_to(zm_storage storage, float value) {
    uint16_t half;
    zm_view view = {.data = &half, .dtype = zm_dtype_from_storage(storage), .size = 1};
    if (storage == ZM_STORAGE_FLOAT32) return value;
    zm_round_floats(&view, &value);
    zm_fused_best_level()->widen(&value, &half, storage, 1);
    return value;
}

/* Rounding keeps the order, so the best piece is the first whose largest logit gives the best difference. */
static uint32_t choose(run *of) {
    const lm_head *self = of->self;
    zm_pool *pool = self->engine.pool;
    zm_pool_run(pool, self->n_pieces, 1, find_largest, of);
    of->shift = self->engine.level->largest(of->largest, self->n_pieces);
    zm_pool_run(pool, self->n_pieces, 1, sum_pieces, of);
    float sum = 0;
    for (size_t i = 0; i < self->n_pieces; i++) sum += of->sums[i];
    float total = round_to(self->storage, of->shift + logf(sum));
    float best = round_to(self->storage, of->shift - total);
    for (size_t i = 0; i < self->n_pieces; i++) {
        if (!(round_to(self->storage, of->largest[i] - total) >= best)) continue;
        const float *logits = of->logits + i * PIECE;
        for (size_t j = 0; j < piece_size(self, i); j++)
            if (round_to(self->storage, logits[j] - total) >= best) return (uint32_t)(i * PIECE + j);
    }
    return ZM_NO_TOKEN; /* no number compares */
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const lm_head *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    zm_matrix matrix = zm_operand_matrix(&self->weight, inputs);
    const float *x = zm_read_floats(self->engine.level, &inputs[0], scratch + self->x_place);
    uint32_t *tokens = outputs[0].data;
    run of = {.self = self,
              .logits = scratch + self->logits_place,
              .largest = scratch + self->largest_place,
              .sums = scratch + self->sums_place};
    for (size_t t = 0; t < self->n_tokens; t++) {
        zm_prepared prepared = self->prepared;
        prepared.data = scratch + self->prepared_place;
        zm_prepare(self->engine, &prepared, x + t * matrix.in_features, 1);
        zm_product_run(self->engine, &matrix, &prepared, 1, of.logits);
        if (self->storage != ZM_STORAGE_FLOAT32) {
            zm_view stored = {.data = scratch + self->stored_place,
                              .dtype = inputs[0].dtype,
                              .size = matrix.out_features};
            zm_round_floats(&stored, of.logits);
            zm_copy_floats(self->engine.level, &stored, of.logits);
        }
        tokens[t] = choose(&of);
    }
    zm_workspace_close(&self->workspace);
}

static const zm_node_class lm_head_class = {
    .name = "zmlx.lm_head", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status set_up(lm_head *self, zm_step *step, const zm_weight *weight, zm_compute compute,
                          zmlx_error *error) {
    const zm_matrix *matrix = &self->weight.matrix;
    mlx_array x = step->inputs.arrays[0];
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->weight, &step->inputs, weight, lm_head_class.name, error));
    ZM_TRY(zm_check_activations(x, matrix->in_features, lm_head_class.name, error));
    if (weight->n_experts || mlx_array_ndim(x) != 3)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, lm_head_class.name, "not one matrix and (batch, length, in)");
    zm_storage_of(&self->storage, mlx_array_dtype(x));
    bool widens = self->storage != ZM_STORAGE_FLOAT32;
    self->n_tokens = zm_token_count(x, matrix->in_features);
    self->n_pieces = (matrix->out_features + PIECE - 1) / PIECE;
    self->prepared = zm_prepared_new(self->engine, matrix);
    self->prepared_place = zm_workspace_add(&self->workspace, 1, self->prepared.stride);
    self->x_place = zm_workspace_add(&self->workspace, widens ? self->n_tokens : 0, matrix->in_features);
    self->logits_place = zm_workspace_add(&self->workspace, 1, matrix->out_features);
    self->stored_place = zm_workspace_add(&self->workspace, widens ? 1 : 0, matrix->out_features);
    self->largest_place = zm_workspace_add(&self->workspace, 1, self->n_pieces);
    self->sums_place = zm_workspace_add(&self->workspace, 1, self->n_pieces);
    zm_step_add_output(
        step, (zm_node_output){.shape = {zm_dim(x, 0), zm_dim(x, 1)}, .n_dims = 2, .dtype = MLX_UINT32});
    return zm_workspace_reserve(&self->workspace, self->engine.pool, error);
}

mlx_array zm_fused_lm_head(zm_scope *scope, mlx_array x, const zm_weight *weight, zm_compute compute) {
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &lm_head_class, sizeof(lm_head), x, error) &&
        !zm_step_end(&step, set_up(step.state, &step, weight, compute, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
