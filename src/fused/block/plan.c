/* SPDX-License-Identifier: MIT */
#include "fused/block/plan.h"

#include <stdlib.h>
#include <string.h>

static void add_fact(zm_block_parts *parts, const void *fact, size_t size) {
    memcpy(parts->facts + parts->size, fact, size);
    parts->size += size;
}

#define ADD(field) add_fact(parts, &(field), sizeof(field))

static void add_array(zm_block_parts *parts, mlx_array array) {
    uintptr_t id = zm_is_set(array) ? zm_array_id(array) : 0;
    ADD(id);
}

static void add_weight(zm_block_parts *parts, const zm_weight *weight) {
    add_array(parts, weight->weight);
    add_array(parts, weight->scales);
    add_array(parts, weight->biases);
    add_array(parts, weight->bias);
    add_array(parts, weight->edges);
    ADD(weight->first_exponent);
    ADD(weight->quantization.group_size);
    ADD(weight->quantization.bits);
    ADD(weight->quantization.mode);
    ADD(weight->in_features);
    ADD(weight->out_features);
    ADD(weight->n_experts);
}

static void add_attention(zm_block_parts *parts, const zm_attention_arguments *arguments) {
    add_weight(parts, arguments->q_proj);
    add_weight(parts, arguments->k_proj);
    add_weight(parts, arguments->v_proj);
    add_weight(parts, arguments->o_proj);
    add_array(parts, arguments->q_norm);
    add_array(parts, arguments->k_norm);
    ADD(arguments->q_norm_eps);
    ADD(arguments->k_norm_eps);
    add_array(parts, arguments->rotation.inverse_freqs);
    ADD(arguments->rotation.traditional);
    ADD(arguments->rotation.position_scale);
    ADD(arguments->rotation.input_scale);
    add_array(parts, arguments->sinks);
    ADD(arguments->n_heads);
    ADD(arguments->n_kv_heads);
    ADD(arguments->head_dim);
    ADD(arguments->has_output_gate);
    ADD(arguments->scale);
    ADD(arguments->window);
}

/* An array that comes with each call. */
static void add_kept(zm_block_parts *parts, mlx_array array) {
    bool is_there = zm_is_set(array);
    size_t size = is_there ? mlx_array_size(array) : 0;
    mlx_dtype dtype = is_there ? mlx_array_dtype(array) : MLX_FLOAT32;
    ADD(is_there);
    ADD(size);
    ADD(dtype);
}

static void add_short_conv(zm_block_parts *parts, const zm_short_conv_arguments *arguments) {
    add_weight(parts, arguments->in_proj);
    add_weight(parts, arguments->out_proj);
    add_array(parts, arguments->conv_weight);
    add_array(parts, arguments->conv_bias);
    add_kept(parts, arguments->last);
    ADD(arguments->taps);
}

static void add_delta_net(zm_block_parts *parts, const zm_delta_net_arguments *arguments) {
    for (int i = 0; i < arguments->n_in_proj; i++) add_weight(parts, arguments->in_proj[i]);
    add_weight(parts, arguments->out_proj);
    add_array(parts, arguments->conv_weight);
    add_array(parts, arguments->A_log);
    add_array(parts, arguments->dt_bias);
    add_array(parts, arguments->norm);
    ADD(arguments->norm_eps);
    ADD(arguments->n_k_heads);
    ADD(arguments->n_v_heads);
    ADD(arguments->head_k_dim);
    ADD(arguments->head_v_dim);
    ADD(arguments->taps);
    add_kept(parts, arguments->last);
    add_kept(parts, arguments->memory);
}

static void add_gated_mlp(zm_block_parts *parts, const zm_gated_mlp_arguments *arguments) {
    add_weight(parts, arguments->gate);
    add_weight(parts, arguments->up);
    add_weight(parts, arguments->down);
    ADD(arguments->activation);
}

static void add_moe(zm_block_parts *parts, const zm_moe_arguments *arguments) {
    add_weight(parts, arguments->router);
    add_array(parts, arguments->expert_bias);
    add_weight(parts, arguments->gate);
    add_weight(parts, arguments->up);
    add_weight(parts, arguments->down);
    ADD(arguments->activation);
    ADD(arguments->gating);
    ADD(arguments->top_k);
    ADD(arguments->n_groups);
    ADD(arguments->top_groups);
    ADD(arguments->normalize_top_k);
    ADD(arguments->normalize_epsilon);
    ADD(arguments->routed_scaling_factor);
    if (!arguments->shared_gate) return;
    add_weight(parts, arguments->shared_gate);
    add_weight(parts, arguments->shared_up);
    add_weight(parts, arguments->shared_down);
    if (arguments->shared_router) add_weight(parts, arguments->shared_router);
}

/* A block has one operator and one feed-forward part, or is refused later. */
static void take_parts(zm_block_parts *parts, const zm_block_arguments *arguments) {
    bool kinds[] = {arguments->attention, arguments->short_conv, arguments->delta_net, arguments->gated_mlp,
                    arguments->moe};
    parts->size = 0;
    ADD(kinds);
    add_array(parts, arguments->operator_norm);
    add_array(parts, arguments->feed_forward_norm);
    ADD(arguments->operator_eps);
    ADD(arguments->feed_forward_eps);
    if (arguments->attention) add_attention(parts, arguments->attention);
    else if (arguments->short_conv) add_short_conv(parts, arguments->short_conv);
    else if (arguments->delta_net) add_delta_net(parts, arguments->delta_net);
    if (arguments->gated_mlp) add_gated_mlp(parts, arguments->gated_mlp);
    else if (arguments->moe) add_moe(parts, arguments->moe);
}

static bool has_shape(const zm_blocks_plan *plan, mlx_array x) {
    if (plan->dtype != mlx_array_dtype(x) || mlx_array_ndim(x) != 3) return false;
    return !memcmp(plan->shape, mlx_array_shape(x), sizeof plan->shape);
}

static bool is_same(const zm_blocks_plan *plan, mlx_array x, const zm_block_arguments *arguments, int n_blocks,
                    zm_compute compute) {
    if (plan->n_blocks != n_blocks || plan->compute.pool != compute.pool ||
        plan->compute.precision != compute.precision || !has_shape(plan, x))
        return false;
    for (int i = 0; i < n_blocks; i++) {
        zm_block_parts parts;
        const zm_block_parts *planned = &plan->blocks[i].parts;
        take_parts(&parts, &arguments[i]);
        if (parts.size != planned->size || memcmp(parts.facts, planned->facts, parts.size) != 0) return false;
    }
    return true;
}

zm_block_inputs zm_planned_block_call(const zm_planned_block *planned, const zm_block_arguments *arguments) {
    zm_block_inputs call = {.count = 0};
    if (arguments->attention) {
        call.arrays[call.count++] = arguments->attention->keys;
        call.arrays[call.count++] = arguments->attention->values;
    } else if (arguments->short_conv && zm_is_set(arguments->short_conv->last)) {
        call.arrays[call.count++] = arguments->short_conv->last;
    } else if (arguments->delta_net) {
        if (zm_is_set(arguments->delta_net->last)) call.arrays[call.count++] = arguments->delta_net->last;
        if (zm_is_set(arguments->delta_net->memory)) call.arrays[call.count++] = arguments->delta_net->memory;
    }
    for (int i = 0; i < planned->n_others; i++) call.arrays[call.count++] = planned->others[i];
    return call;
}

static int find_array(const zm_block_inputs *in, mlx_array array) {
    for (int i = 0; i < in->count; i++)
        if (in->arrays[i].ctx == array.ctx) return 1 + i;
    return 0;
}

static zmlx_status plan_block(zm_blocks_plan *plan, zm_planned_block *of, mlx_array x,
                              const zm_block_arguments *arguments, zmlx_error *error) {
    zm_block_inputs inputs = {.arrays = {x}, .count = 1};
    ZM_TRY(zm_block_new(&of->state, &inputs, of->outputs, &of->n_outputs, arguments, plan->compute, error));
    take_parts(&of->parts, arguments);
    zm_block_inputs call = zm_planned_block_call(of, arguments);
    for (int i = 1; i < inputs.count; i++) {
        zm_source *from = &of->sources[of->n_sources++];
        mlx_array array = inputs.arrays[i];
        from->input = find_array(&call, array);
        if (from->input) continue;
        if (zm_view_of(&from->constant, array)) {
            if (mlx_vector_array_append_value(plan->constants, array)) return zm_fail_memory(error);
        } else {
            of->others[of->n_others++] = array;
            from->input = call.count + of->n_others;
        }
    }
    return ZMLX_OK;
}

static zmlx_status make(zm_blocks_plan **result, mlx_array x, const zm_block_arguments *arguments, int n_blocks,
                        zm_compute compute, zmlx_error *error) {
    zm_blocks_plan *plan = calloc(1, sizeof *plan + (size_t)n_blocks * sizeof *plan->blocks);
    if (!plan) return zm_fail_memory(error);
    atomic_init(&plan->references, 1);
    plan->compute = compute;
    plan->n_blocks = n_blocks;
    plan->constants = mlx_vector_array_new();
    zmlx_status status = plan->constants.ctx ? ZMLX_OK : zm_fail_memory(error);
    for (int i = 0; i < n_blocks && !status; i++) status = plan_block(plan, &plan->blocks[i], x, &arguments[i], error);
    if (status) {
        zm_blocks_plan_free(plan);
        return status;
    }
    plan->dtype = mlx_array_dtype(x);
    memcpy(plan->shape, mlx_array_shape(x), sizeof plan->shape);
    *result = plan;
    return ZMLX_OK;
}

zmlx_status zm_blocks_plan_get(zm_blocks_plan **result, zm_blocks_plan **kept, mlx_array x,
                               const zm_block_arguments *arguments, int n_blocks, zm_compute compute,
                               zmlx_error *error) {
    if (!*kept || !is_same(*kept, x, arguments, n_blocks, compute)) {
        zm_blocks_plan *made;
        ZM_TRY(make(&made, x, arguments, n_blocks, compute, error));
        zm_blocks_plan_free(*kept);
        *kept = made;
    }
    *result = *kept;
    atomic_fetch_add(&(*result)->references, 1);
    bool serves_again = true;
    for (int i = 0; i < n_blocks; i++) serves_again = serves_again && !(*kept)->blocks[i].n_others;
    if (!serves_again) {
        zm_blocks_plan_free(*kept);
        *kept = NULL;
    }
    return ZMLX_OK;
}

void zm_blocks_plan_free(zm_blocks_plan *plan) {
    if (!plan || atomic_fetch_sub(&plan->references, 1) > 1) return;
    for (int i = 0; i < plan->n_blocks; i++)
        if (plan->blocks[i].state) zm_block_class.free_state(plan->blocks[i].state);
    if (plan->constants.ctx) mlx_vector_array_free(plan->constants);
    free(plan);
}
