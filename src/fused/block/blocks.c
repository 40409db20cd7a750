/* SPDX-License-Identifier: MIT */
/* Decoder blocks one behind the other as one node: for single tokens, what happens between two nodes takes as long as
 * a small product. */
#include <stdlib.h>
#include <string.h>

#include "fused/block/plan.h"

/* A block inside the node. Its x is the result before; its call's arrays begin at input `first` of the node, its
 * further outputs are [first_kept, first_kept + n_kept). */
typedef struct link {
    const zm_planned_block *planned;
    void *renewed; /* state for this token; NULL: the plan's */
    int first, first_kept, n_kept;
} link;

typedef struct blocks {
    zm_blocks_plan *plan;
    zm_workspace workspace;
    size_t places[2]; /* of results in between */
    link links[];
} blocks;

static const void *state_of(const link *of) { return of->renewed ? of->renewed : of->planned->state; }

static void read_sources(zm_view *views, const link *of, const zm_view *inputs) {
    for (int i = 0; i < of->planned->n_sources; i++) {
        const zm_source *from = &of->planned->sources[i];
        views[1 + i] = from->input ? inputs[of->first + from->input - 1] : from->constant;
    }
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const blocks *self = state;
    int n_blocks = self->plan->n_blocks;
    float *scratch = zm_workspace_open(&self->workspace);
    zm_view views[2][ZM_MAX_BLOCK_INPUTS] = {{inputs[0]}};
    read_sources(views[0], &self->links[0], inputs);
    for (int i = 0; i < n_blocks; i++) {
        const link *of = &self->links[i];
        zm_view *these = views[i % 2], *next = views[(i + 1) % 2], results[ZM_STEP_OUTPUTS] = {outputs[0]};
        zm_ahead following = {.count = 0};
        if (i + 1 < n_blocks) {
            results[0].data = scratch + self->places[i % 2];
            read_sources(next, of + 1, inputs);
            zm_block_ahead(&following, state_of(of + 1), next);
        }
        next[0] = results[0];
        memcpy(results + 1, outputs + of->first_kept, (size_t)of->n_kept * sizeof *results);
        zm_block_run(state_of(of), these, results, 1 + of->n_kept, &following);
    }
    zm_workspace_close(&self->workspace);
}

static void free_blocks(void *state) {
    blocks *self = state;
    if (!self) return;
    for (int i = 0; self->plan && i < self->plan->n_blocks; i++)
        if (self->links[i].renewed) zm_block_class.free_state(self->links[i].renewed);
    zm_blocks_plan_free(self->plan);
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

static zmlx_status add_block(link *of, parts *all, const zm_planned_block *planned, const zm_block_arguments *arguments,
                             zmlx_error *error) {
    zm_node_output outputs[ZM_STEP_OUTPUTS];
    zm_block_inputs call = zm_planned_block_call(planned, arguments);
    *of = (link){.planned = planned,
                 .first = all->n_inputs,
                 .first_kept = all->n_outputs,
                 .n_kept = planned->n_outputs - 1};
    memcpy(outputs, planned->outputs, sizeof outputs);
    if (arguments->attention)
        ZM_TRY(zm_block_renew(&of->renewed, outputs, planned->state, all->inputs[0], arguments, error));
    memcpy(all->inputs + all->n_inputs, call.arrays, (size_t)call.count * sizeof *call.arrays);
    all->n_inputs += call.count;
    for (int i = 1; i < planned->n_outputs; i++) {
        int continued = outputs[i].continues, replaced = outputs[i].replaces;
        if (continued) outputs[i].continues = of->first + planned->sources[continued - 1].input - 1;
        if (replaced > 1) outputs[i].replaces = of->first + planned->sources[replaced - 2].input;
        all->outputs[all->n_outputs++] = outputs[i];
    }
    all->outputs[0] = outputs[0];
    return ZMLX_OK;
}

static zmlx_status make(blocks **result, parts *all, const zm_block_arguments *arguments, int n_blocks,
                        zm_compute compute, zm_blocks_plan **plan, zmlx_error *error) {
    blocks *self = calloc(1, sizeof *self + (size_t)n_blocks * sizeof *self->links);
    if (!self) return zm_fail_memory(error);
    zmlx_status status = zm_blocks_plan_get(&self->plan, plan, all->inputs[0], arguments, n_blocks, compute, error);
    for (int i = 0; i < n_blocks && !status; i++)
        status = add_block(&self->links[i], all, &self->plan->blocks[i], &arguments[i], error);
    for (int i = 0; i < 2 && !status; i++)
        self->places[i] = zm_workspace_add(&self->workspace, 1, mlx_array_size(all->inputs[0]));
    if (!status) status = zm_workspace_reserve(&self->workspace, compute.pool, error);
    if (status) free_blocks(self);
    else *result = self;
    return status;
}

/* Makes the node; results are the outputs, each the caller's. */
static zmlx_status apply(mlx_array *results, parts *all, zm_scope *scope, const zm_block_arguments *arguments,
                         int n_blocks, zm_compute compute, zm_blocks_plan **plan) {
    blocks *self;
    ZM_TRY(make(&self, all, arguments, n_blocks, compute, plan, &scope->failure));
    return zm_node_apply(results, all->outputs, all->n_outputs, &blocks_class, self, all->inputs, all->n_inputs,
                         scope->stream, &scope->failure);
}

mlx_array zm_fused_blocks(zm_scope *scope, mlx_array (*kept)[2], mlx_array x, const zm_block_arguments *arguments,
                          int n_blocks, zm_compute compute, zm_blocks_plan **plan) {
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
        if (!apply(results, &all, scope, arguments, n_blocks, compute, plan)) {
            y = zm_scope_own(scope, results[0]);
            for (int i = 0, output = 1; i < n_blocks; i++) {
                int n_kept = arguments[i].short_conv ? 1 : 2;
                for (int j = 0; j < n_kept; j++) kept[i][j] = zm_scope_own(scope, results[output++]);
            }
        }
    }
    free(results);
    free(all.inputs);
    free(all.outputs);
    return y;
}
