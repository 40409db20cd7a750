/* SPDX-License-Identifier: MIT */
/* Decoder blocks one behind the other as one node: for single tokens, what happens between two nodes takes as long as
 * a small product. */
#include <stdlib.h>
#include <string.h>

#include "fused/block/block.h"

/* A block inside the node. Its x is the result before; the rest are inputs [first, first + count) and outputs
 * [first_kept, first_kept + n_kept) of the node. */
typedef struct link {
    void *state;
    int first, count, first_kept, n_kept;
} link;

typedef struct blocks {
    int n_blocks;
    zm_workspace workspace;
    size_t places[2]; /* of results in between */
    link links[];
} blocks;

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const blocks *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    zm_view x = inputs[0];
    for (int i = 0; i < self->n_blocks; i++) {
        const link *of = &self->links[i];
        zm_view views[ZM_MAX_BLOCK_INPUTS] = {x}, results[ZM_STEP_OUTPUTS] = {outputs[0]};
        if (i + 1 < self->n_blocks) results[0].data = scratch + self->places[i % 2];
        memcpy(views + 1, inputs + of->first, (size_t)of->count * sizeof *views);
        memcpy(results + 1, outputs + of->first_kept, (size_t)of->n_kept * sizeof *results);
        x = results[0];
        zm_ahead following = {.count = 0};
        if (i + 1 < self->n_blocks) zm_block_ahead(&following, of[1].state, inputs + of[1].first - 1);
        zm_block_run(of->state, views, results, 1 + of->n_kept, &following);
    }
    zm_workspace_close(&self->workspace);
}

static void free_blocks(void *state) {
    blocks *self = state;
    if (!self) return;
    for (int i = 0; i < self->n_blocks; i++)
        if (self->links[i].state) zm_block_class.free_state(self->links[i].state);
    free(self);
}

static const zm_node_class blocks_class = {
    .name = "zmlx.blocks", .evaluate_cpu = evaluate, .free_state = free_blocks};

/* The arrays of the node while it is made. */
typedef struct parts {
    mlx_array *inputs;
    zm_node_output *outputs;
    int n_inputs, n_outputs;
} parts;

static zmlx_status add_block(link *of, parts *all, const zm_block_arguments *arguments, zm_compute compute,
                             zmlx_error *error) {
    zm_block_inputs inputs = {.arrays = {all->inputs[0]}, .count = 1};
    zm_node_output outputs[ZM_STEP_OUTPUTS];
    int n_outputs;
    ZM_TRY(zm_block_new(&of->state, &inputs, outputs, &n_outputs, arguments, compute, error));
    of->first = all->n_inputs;
    of->count = inputs.count - 1;
    of->first_kept = all->n_outputs;
    of->n_kept = n_outputs - 1;
    memcpy(all->inputs + all->n_inputs, inputs.arrays + 1, (size_t)of->count * sizeof *inputs.arrays);
    for (int i = 1; i < n_outputs; i++) {
        if (outputs[i].continues) outputs[i].continues += of->first - 1;
        all->outputs[all->n_outputs++] = outputs[i];
    }
    all->outputs[0] = outputs[0];
    all->n_inputs += of->count;
    return ZMLX_OK;
}

static zmlx_status make(blocks **result, parts *all, const zm_block_arguments *arguments, int n_blocks,
                        zm_compute compute, zmlx_error *error) {
    blocks *self = calloc(1, sizeof *self + (size_t)n_blocks * sizeof *self->links);
    if (!self) return zm_fail_memory(error);
    self->n_blocks = n_blocks;
    zmlx_status status = ZMLX_OK;
    for (int i = 0; i < n_blocks && !status; i++)
        status = add_block(&self->links[i], all, &arguments[i], compute, error);
    for (int i = 0; i < 2 && !status; i++)
        self->places[i] = zm_workspace_add(&self->workspace, 1, mlx_array_size(all->inputs[0]));
    if (!status) status = zm_workspace_reserve(&self->workspace, compute.pool, error);
    if (status) free_blocks(self);
    else *result = self;
    return status;
}

/* Makes the node; results are the outputs, each the caller's. */
static zmlx_status apply(mlx_array *results, parts *all, zm_scope *scope, const zm_block_arguments *arguments,
                         int n_blocks, zm_compute compute) {
    blocks *self;
    ZM_TRY(make(&self, all, arguments, n_blocks, compute, &scope->failure));
    return zm_node_apply(results, all->outputs, all->n_outputs, &blocks_class, self, all->inputs, all->n_inputs,
                         scope->stream, &scope->failure);
}

mlx_array zm_fused_blocks(zm_scope *scope, mlx_array (*kept)[2], mlx_array x, const zm_block_arguments *arguments,
                          int n_blocks, zm_compute compute) {
    size_t count = n_blocks > 0 ? (size_t)n_blocks : 0;
    mlx_array y = {NULL}, *results = calloc(1 + 2 * count, sizeof *results);
    parts all = {.inputs = calloc(1 + count * ZM_MAX_BLOCK_INPUTS, sizeof *all.inputs),
                 .outputs = calloc(1 + 2 * count, sizeof *all.outputs),
                 .n_inputs = 1,
                 .n_outputs = 1};
    memset(kept, 0, count * sizeof *kept);
    if (!results || !all.inputs || !all.outputs || !count) {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, blocks_class.name, "out of memory");
    } else if (!zm_scope_failed(scope)) {
        all.inputs[0] = x;
        if (!apply(results, &all, scope, arguments, n_blocks, compute)) {
            y = zm_scope_own(scope, results[0]);
            for (int i = 0, output = 1; i < n_blocks; i++) {
                int n_kept = arguments[i].attention ? 2 : 1;
                for (int j = 0; j < n_kept; j++) kept[i][j] = zm_scope_own(scope, results[output++]);
            }
        }
    }
    free(results);
    free(all.inputs);
    free(all.outputs);
    return y;
}
