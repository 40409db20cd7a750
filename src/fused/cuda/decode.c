/* SPDX-License-Identifier: MIT */
#include "fused/cuda/decode.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "fused/cuda/launch.h"
#include "fused/cuda/sizes.cuh"
#include "fused/cuda/timeline.h"
#include "mlx/streams.h"

enum {
    THREADS = WARP * DECODE_WARPS,
    ATTENTION_WARPS = KEY_WARPS / HEAD_BLOCKS, /* of a head */
    ATTENTION_BYTES = 8 * 1024, /* of a block besides its keys and values, about */
    ROWS_AT_ONCE = 8, /* of a warp's keys and values: launches change seldom */
    MOST_SHORT_KEYS = 1024, /* MLX's: from where on long attention goes in parts */
};

static const char name[] = "zmlx.decode";

static bool is_mxfp4(const zm_weight *weight) { return !strcmp(weight->quantization.mode, "mxfp4"); }

mlx_dtype zm_decode_dtype(const zm_weight *weight) {
    if (!is_mxfp4(weight)) return mlx_array_dtype(weight->scales);
    return zm_is_set(weight->bias) ? mlx_array_dtype(weight->bias) : MLX_BFLOAT16;
}

/* Scales, biases and the linear map's bias as the kernels read them. */
static bool serves_types(const zm_weight *weight, const char **reason) {
    *reason = "its scales (mxfp4: its bias) are neither bfloat16 nor float16, or not bytes in mxfp4";
    if (!zm_is_set(weight->scales) || (is_mxfp4(weight) && mlx_array_dtype(weight->scales) != MLX_UINT8)) return false;
    mlx_dtype dtype = zm_decode_dtype(weight);
    if (dtype != MLX_BFLOAT16 && dtype != MLX_FLOAT16) return false;
    *reason = "its scales and biases are of two types";
    if (!is_mxfp4(weight) && (!zm_is_set(weight->biases) || mlx_array_dtype(weight->biases) != dtype)) return false;
    *reason = "a linear map's bias is not of its scales' type";
    return !zm_is_set(weight->bias) || mlx_array_dtype(weight->bias) == dtype;
}

bool zm_decode_serves_layout(const zm_weight *weight, const char **reason) {
    zm_quantization quantization = weight->quantization;
    *reason = "its weights are neither affine nor mxfp4";
    if (!zm_weight_is_quantized(weight) || (strcmp(quantization.mode, "affine") != 0 && !is_mxfp4(weight)))
        return false;
    *reason = "its weights have other widths than MLX's vector kernel";
    if (quantization.bits < 2 || quantization.bits > 8 || quantization.bits == 7) return false;
    *reason = "its groups are not of 32, 64 or 128";
    if (quantization.group_size != 32 && quantization.group_size != 64 && quantization.group_size != 128) return false;
    if (!serves_types(weight, reason)) return false;
    /* There MLX sums in bfloat16; for experts of longer rows in float. */
    enum { LEAST_MXFP4 = 512 };
    *reason = "its mxfp4 weights are not those of experts with rows of 512 or more";
    if (is_mxfp4(weight) && (!weight->n_experts || weight->in_features < LEAST_MXFP4)) return false;
    *reason = "its weights are more than the kernels can count";
    if (mlx_array_size(weight->weight) / 2 > UINT32_MAX) return false;
    *reason = "its sizes are not multiples of 64 and 2";
    return weight->in_features % 64 == 0 && weight->in_features % quantization.group_size == 0 &&
           weight->out_features % 2 == 0;
}

/* The largest absolute scale (mxfp4: its byte), or NaN; false: it could not be read. */
static bool read_largest_scale(float *largest, const zm_weight *weight) {
    mlx_stream stream;
    if (zm_stream_new(&stream, MLX_GPU, NULL)) return false;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array scales = zm_flatten(&scope, weight->scales, 0, -1), both = zm_max(&scope, scales, 0, false);
    if (!is_mxfp4(weight)) both = zm_maximum(&scope, both, zm_max(&scope, zm_negative(&scope, scales), 0, false));
    both = zm_astype(&scope, both, MLX_FLOAT32);
    bool is_read = !zm_scope_failed(&scope) && !mlx_array_item_float32(largest, both);
    zm_scope_end(&scope, NULL);
    zm_stream_free(stream);
    return is_read;
}

/* The bounds are what the kernels' scaled codes leave: bfloat16.cuh, factors_of. */
bool zm_decode_serves_weight(const zm_weight *weight, const char **reason) {
    int bits = weight->quantization.bits;
    if (!zm_decode_serves_layout(weight, reason)) return false;
    bool is_scaled = bits == 4 || bits == 8;
    /* In float16 nothing bounds them. */
    if (!is_mxfp4(weight) && (!is_scaled || zm_decode_dtype(weight) == MLX_FLOAT16)) return true;
    float largest, bound = is_mxfp4(weight) ? 255.0f /* NaN */ : bits == 4 ? 0x1p-2f : 0x1p-6f;
    *reason = "its scales could not be read on the GPU";
    if (!read_largest_scale(&largest, weight)) return false;
    *reason = "a scale is too large for its kernels, or not a number";
    return largest < bound;
}

bool zm_decode_fits(const zm_weight *weight, int count) {
    return (int64_t)count * zm_launch_staged_bytes(weight) <= ZM_DECODE_MAX_STAGED;
}

zmlx_status zm_decode_prepare(const zm_weight *weight, int hidden_size, int head_dim, int top_k, zmlx_error *error) {
    const zm_decode_program *program;
    zmlx_status status =
        zm_decode_program_for(&program, weight, weight->in_features, hidden_size, head_dim, top_k, error);
    return status ? status : zm_decode_program_for(&program, weight, hidden_size, hidden_size, head_dim, top_k, error);
}

void zm_decode_begin(zm_decode *decode, zm_scope *scope, mlx_dtype dtype, int hidden_size, int head_dim, int top_k) {
    *decode =
        (zm_decode){.scope = scope, .dtype = dtype, .hidden_size = hidden_size, .head_dim = head_dim, .top_k = top_k};
    if (zm_scope_failed(scope)) return;
    decode->chain = zm_chain_new(name);
    if (!decode->chain) zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, name, "needs an MLX with CUDA, and memory");
}

void zm_decode_end(zm_decode *decode, mlx_array *results) {
    for (int i = 0; i < decode->n_outputs; i++) results[i] = (mlx_array){NULL};
    if (!decode->chain) return;
    if (zm_scope_failed(decode->scope)) {
        zm_chain_free(decode->chain);
        return;
    }
    mlx_array outputs[ZM_CHAIN_MAX_OUTPUTS];
    if (zm_chain_apply(outputs, decode->chain, decode->scope->stream, &decode->scope->failure)) return;
    for (int i = 0; i < decode->n_outputs; i++) results[i] = zm_scope_own(decode->scope, outputs[i]);
}

zm_place zm_decode_input(zm_decode *decode, mlx_array array) {
    return zm_decode_failed(decode) ? -1 : zm_chain_input(decode->chain, array);
}

static bool has_output_left(zm_decode *decode) {
    if (decode->n_outputs < ZM_CHAIN_MAX_OUTPUTS) {
        decode->n_outputs++;
        return true;
    }
    zm_scope_fail(decode->scope, ZMLX_ERROR_ARGUMENT, name, "more than %d outputs", ZM_CHAIN_MAX_OUTPUTS);
    return false;
}

zm_place zm_decode_output(zm_decode *decode, mlx_dtype dtype, int n_dims, const int *shape) {
    if (zm_decode_failed(decode) || !has_output_left(decode)) return -1;
    zm_node_output spec = {.n_dims = n_dims, .dtype = dtype};
    memcpy(spec.shape, shape, (size_t)n_dims * sizeof *shape);
    return zm_chain_output(decode->chain, &spec);
}

void zm_decode_publish(zm_decode *decode) { decode->publishes = true; }

zm_place zm_decode_embed(zm_decode *decode, mlx_array token, const zm_weight *table) {
    zm_timeline_restart(); /* a step begins */
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_embed, table);
    launch.record.grid = zm_divide_up(decode->hidden_size / 2, THREADS);
    zm_place h = zm_decode_residual(decode);
    zm_launch_add_place(&launch, zm_decode_input(decode, token));
    zm_launch_add_weight(&launch, table);
    zm_launch_add_place(&launch, h);
    zm_launch_add_int(&launch, table->out_features);
    launch.bytes /= (uint64_t)table->out_features;
    zm_launch_end(&launch);
    return h;
}

zm_place zm_decode_embedded(zm_decode *decode, mlx_array row) {
    zm_timeline_restart();
    return zm_decode_input(decode, row);
}

/* A linear map's plan, and its launch's part in that. */
static zm_product_plan spread_linear(zm_launch *launch, const zm_weight *weight) {
    zm_product_plan plan = {weight, .n_tasks = weight->out_features / 2, .task_rows = 2, .n_inputs = 1,
                            .n_ahead = LINEAR_AHEAD};
    launch->one_each = true;
    zm_launch_spread(launch, &plan);
    return plan;
}

/* is_early: the kernel behind this one begins before this one may read. */
static zm_place add_linear(zm_decode *decode, zm_place x, const zm_weight *weight, zm_place h, bool is_early) {
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_linear_add, weight);
    zm_place to = zm_decode_residual(decode);
    zm_product_plan plan = spread_linear(&launch, weight);
    zm_launch_add_place(&launch, x);
    zm_launch_add_weight(&launch, weight);
    zm_launch_add_constant(&launch, weight->bias);
    zm_launch_add_place(&launch, h);
    zm_launch_add_place(&launch, to);
    zm_launch_add_int(&launch, weight->out_features);
    zm_launch_add_ring(&launch, &plan);
    zm_launch_add_int(&launch, is_early);
    zm_launch_end(&launch);
    return to;
}

zm_place zm_decode_linear_add(zm_decode *decode, zm_place x, const zm_weight *weight, zm_place h) {
    return add_linear(decode, x, weight, h, false);
}

/* Of up to MOST_SHORT_KEYS keys: how many a warp has room for. */
static int kept_rows(int n_keys) { return zm_divide_up(n_keys, KEY_WARPS * ROWS_AT_ONCE) * ROWS_AT_ONCE; }

/* What a block of attention takes for them and as many values. */
static int row_bytes(const zm_decode *decode, int n_keys) {
    return 2 * kept_rows(n_keys) * ATTENTION_WARPS * decode->head_dim * (int)sizeof(uint16_t);
}

/* Room for blocks of an attention of few keys beside those of its queries', at the price of some warps of those;
 * without it they would crowd where the kernel before ends first, and have to wait until it does. */
static void leave_room(zm_launch *launch, zm_product_plan *plan, int n_keys) {
    enum { FEWER_WARPS = DECODE_WARPS / 2 };
    zm_decode *decode = launch->decode;
    zm_launch attention = zm_launch_begin(decode, ZM_DECODE_KERNEL_attention, plan->weight), fewer = *launch;
    zm_product_plan fewer_plan = *plan;
    attention.record.block = WARP * ATTENTION_WARPS * BLOCK_HEADS;
    attention.record.shared_bytes = row_bytes(decode, MOST_SHORT_KEYS) + ATTENTION_BYTES;
    decode->has_room = zm_launch_leaves(launch, &attention);
    if (decode->has_room || n_keys > MOST_SHORT_KEYS) return;
    fewer.most_warps = FEWER_WARPS;
    zm_launch_spread(&fewer, &fewer_plan);
    if (!zm_launch_leaves(&fewer, &attention)) return;
    *launch = fewer, *plan = fewer_plan;
    decode->has_room = true;
}

enum { MOST_WEIGHTS = 3 };

/* to = the products of up to three weights with norm(h), one behind the other. n_keys: of an attention that follows, or
 * 0. */
static void multiply_normed(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *const *weights,
                            int count, int n_keys, zm_place to) {
    int rows = 0;
    for (int i = 0; i < count; i++) rows += weights[i]->out_features;
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_norm_linear, weights[0]);
    zm_product_plan plan = {weights[0], .n_tasks = rows / 2, .task_rows = 2, .n_inputs = 1};
    launch.one_each = true;
    launch.is_alone = !n_keys;
    zm_launch_spread(&launch, &plan);
    if (n_keys) leave_room(&launch, &plan, n_keys);
    zm_launch_add_place(&launch, h);
    zm_launch_add_constant(&launch, norm.weight);
    static const zm_weight none;
    for (int i = 0; i < MOST_WEIGHTS; i++) zm_launch_add_weight(&launch, i < count ? weights[i] : &none);
    for (int i = 0; i < MOST_WEIGHTS; i++) zm_launch_add_constant(&launch, (i < count ? weights[i] : &none)->bias);
    zm_launch_add_place(&launch, to);
    zm_launch_add_float(&launch, norm.eps);
    for (int i = 0; i < MOST_WEIGHTS; i++) zm_launch_add_int(&launch, i < count ? weights[i]->out_features : 0);
    zm_launch_add_ring(&launch, &plan);
    zm_launch_add_int(&launch, !n_keys || n_keys > MOST_SHORT_KEYS || decode->has_room);
    zm_launch_end(&launch);
}

zm_place zm_decode_qkv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *q, const zm_weight *k,
                       const zm_weight *v, int n_keys) {
    zm_place qkv = zm_decode_temporary(decode, q->out_features + k->out_features + v->out_features);
    multiply_normed(decode, h, norm, (const zm_weight *const[]){q, k, v}, 3, n_keys, qkv);
    return qkv;
}

zm_place zm_decode_overwrite(zm_decode *decode, mlx_array array) {
    if (zm_decode_failed(decode) || !has_output_left(decode)) return -1;
    return zm_chain_overwrite(decode->chain, array);
}

/* What the kernels that take heads from qkv are told in the end. */
static void add_heads(zm_launch *launch, const zm_decode_attention_arguments *arguments) {
    zm_launch_add_float(launch, arguments->q_norm ? arguments->q_norm->eps : 0);
    zm_launch_add_float(launch, log2f(arguments->base));
    zm_launch_add_float(launch, arguments->input_scale);
    zm_launch_add_int(launch, arguments->offset);
    zm_launch_add_float(launch, arguments->position_scale);
    zm_launch_add_int(launch, arguments->n_heads);
    zm_launch_add_int(launch, arguments->n_kv_heads);
    zm_launch_add_int(launch, arguments->row);
    zm_launch_add_int(launch, arguments->n_rows);
}

static void add_qkv(zm_launch *launch, zm_place qkv, const zm_decode_attention_arguments *arguments) {
    zm_launch_add_place(launch, qkv);
    zm_launch_add_constant(launch, arguments->q_norm ? arguments->q_norm->weight : (mlx_array){NULL});
    zm_launch_add_constant(launch, arguments->k_norm ? arguments->k_norm->weight : (mlx_array){NULL});
    zm_launch_add_constant(launch, arguments->freqs);
}

void zm_decode_heads(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                     const zm_weight *weight, zm_place queries) {
    int heads = arguments->n_heads + 2 * arguments->n_kv_heads;
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_heads, weight);
    launch.record.block = WARP * HEAD_WARPS;
    launch.record.grid = zm_divide_up(heads, HEAD_WARPS);
    add_qkv(&launch, qkv, arguments);
    zm_launch_add_place(&launch, queries);
    zm_launch_add_place(&launch, arguments->keys);
    zm_launch_add_place(&launch, arguments->values);
    add_heads(&launch, arguments);
    zm_launch_end(&launch);
}

/* What attention kernels read, which stands before where their results go, and what comes behind it. */
static void add_caches(zm_launch *launch, zm_place qkv, const zm_decode_attention_arguments *arguments) {
    add_qkv(launch, qkv, arguments);
    zm_launch_add_place(launch, arguments->keys);
    zm_launch_add_place(launch, arguments->values);
    zm_launch_add_constant(launch, arguments->sinks);
}

/* scale_log2: that of the exponents of 2, as MLX's kernel for so many keys has it. */
static void add_keys(zm_launch *launch, const zm_decode_attention_arguments *arguments, float scale_log2) {
    add_heads(launch, arguments);
    zm_launch_add_float(launch, scale_log2);
    zm_launch_add_int(launch, arguments->n_keys);
}

static void attend_short(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                         const zm_weight *weight, bool is_early, zm_place y) {
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_attention, weight);
    int group = arguments->n_heads / arguments->n_kv_heads, heads = group % BLOCK_HEADS ? 1 : BLOCK_HEADS;
    launch.record.block = WARP * ATTENTION_WARPS * heads;
    launch.record.grid = arguments->n_heads / heads * HEAD_BLOCKS;
    launch.record.shared_bytes = row_bytes(decode, arguments->n_keys);
    add_caches(&launch, qkv, arguments);
    zm_launch_add_place(&launch, y);
    add_keys(&launch, arguments, (float)((double)arguments->scale * 1.44269504088896340736));
    zm_launch_add_int(&launch, kept_rows(arguments->n_keys));
    zm_launch_add_int(&launch, is_early);
    zm_launch_end(&launch);
}

static void attend_long(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                        const zm_weight *weight, zm_place y) {
    zm_launch parts = zm_launch_begin(decode, ZM_DECODE_KERNEL_attention_parts, weight);
    zm_launch merge = zm_launch_begin(decode, ZM_DECODE_KERNEL_attention_merge, weight);
    if (zm_decode_failed(decode)) return;
    size_t n_parts = (size_t)arguments->n_heads * LONG_BLOCKS;
    zm_place most = zm_chain_temporary(decode->chain, n_parts * sizeof(float));
    zm_place sums = zm_chain_temporary(decode->chain, n_parts * sizeof(float));
    zm_place values = zm_chain_temporary(decode->chain, n_parts * (size_t)decode->head_dim * sizeof(float));
    int pieces = zm_divide_up(arguments->n_heads / arguments->n_kv_heads, LONG_HEADS);
    parts.record.block = WARP * LONG_WARPS;
    parts.record.grid = arguments->n_kv_heads * pieces * LONG_BLOCKS;
    add_caches(&parts, qkv, arguments);
    zm_launch_add_place(&parts, most);
    zm_launch_add_place(&parts, sums);
    zm_launch_add_place(&parts, values);
    add_keys(&parts, arguments, arguments->scale * 1.44269504089f);
    zm_launch_end(&parts);
    merge.record.block = WARP * LONG_BLOCKS;
    merge.record.grid = arguments->n_heads;
    zm_launch_add_place(&merge, most);
    zm_launch_add_place(&merge, sums);
    zm_launch_add_place(&merge, values);
    zm_launch_add_place(&merge, y);
    zm_launch_end(&merge);
}

zm_place zm_decode_attention(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                             const zm_weight *o_proj, zm_place h) {
    zm_place y = zm_decode_temporary(decode, arguments->n_heads * decode->head_dim);
    /* Whether the next kernel begins before this one may read, and the one behind it too. With experts attention, which
     * has begun early itself, would wait longer for its keys beside the copies of weights, and a router's few blocks
     * would crowd. */
    bool is_early = decode->has_room && decode->top_k == 1;
    if (arguments->n_keys <= MOST_SHORT_KEYS) attend_short(decode, qkv, arguments, o_proj, is_early, y);
    else attend_long(decode, qkv, arguments, o_proj, y);
    return add_linear(decode, y, o_proj, h, is_early);
}

zm_place zm_decode_conv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *in_proj, mlx_array taps,
                        zm_place state) {
    int size = in_proj->out_features / 3;
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_conv, in_proj);
    zm_place y = zm_decode_temporary(decode, size);
    zm_product_plan plan = {in_proj, .n_tasks = size, .task_rows = 3, .n_inputs = 1};
    launch.one_each = launch.is_alone = true;
    zm_launch_spread(&launch, &plan);
    zm_launch_add_place(&launch, h);
    zm_launch_add_constant(&launch, norm.weight);
    zm_launch_add_weight(&launch, in_proj);
    zm_launch_add_constant(&launch, taps);
    zm_launch_add_place(&launch, state);
    zm_launch_add_place(&launch, y);
    zm_launch_add_float(&launch, norm.eps);
    zm_launch_add_int(&launch, size);
    zm_launch_add_ring(&launch, &plan);
    zm_launch_end(&launch);
    return y;
}

zm_place zm_decode_mlp(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *gate, const zm_weight *up,
                       const zm_weight *down, zm_activation activation) {
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_mlp_in, gate);
    zm_place act = zm_decode_temporary(decode, gate->out_features);
    zm_product_plan plan = {gate, .n_tasks = gate->out_features, .task_rows = 2, .n_inputs = 1};
    launch.one_each = true;
    zm_launch_spread(&launch, &plan);
    zm_launch next = {.decode = decode};
    zm_product_plan next_plan = spread_linear(&next, down);
    plan.n_left = zm_launch_left(&plan, &next_plan);
    zm_launch_add_place(&launch, h);
    zm_launch_add_constant(&launch, norm.weight);
    zm_launch_add_weight(&launch, gate);
    zm_launch_add_weight(&launch, up);
    zm_launch_add_constant(&launch, gate->bias);
    zm_launch_add_constant(&launch, up->bias);
    zm_launch_add_place(&launch, act);
    zm_launch_add_float(&launch, norm.eps);
    zm_launch_add_int(&launch, (int)activation);
    zm_launch_add_int(&launch, gate->out_features);
    zm_launch_add_ring_and_left(&launch, &plan);
    zm_launch_end(&launch);
    return zm_decode_linear_add(decode, act, down, h);
}

void zm_decode_head(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *weight, zm_place to) {
    multiply_normed(decode, h, norm, (const zm_weight *const[]){weight}, 1, 0, to);
}

zm_place zm_decode_logits(zm_decode *decode, const zm_weight *weight) {
    return zm_decode_temporary(decode, weight->out_features);
}

/* The threads of MLX's logsumexp, a vector of 8 each at a time. */
static int logsumexp_threads(int n) {
    int threads = 32;
    while (threads < 1024 && threads < zm_divide_up(n, 8)) threads *= 2;
    return threads;
}

zm_place zm_decode_kept_choice(zm_decode *decode) {
    return zm_decode_failed(decode) ? -1 : zm_chain_temporary(decode->chain, sizeof(int32_t));
}

zm_place zm_decode_choose(zm_decode *decode, zm_place logits, int n, const zm_weight *table,
                          const zm_decode_choice *choice) {
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_choose, table);
    launch.record.grid = CHOOSE_BLOCKS;
    launch.record.block = WARP * CHOOSE_WARPS;
    int threads = logsumexp_threads(n);
    launch.record.shared_bytes = zm_divide_up(zm_divide_up(n, 8), threads) * launch.record.block * 16;
    zm_place h = zm_decode_residual(decode);
    zm_launch_add_place(&launch, logits);
    zm_launch_add_place(&launch, choice->to);
    zm_launch_add_int(&launch, n);
    zm_launch_add_int(&launch, threads);
    zm_launch_add_weight(&launch, table);
    zm_launch_add_place(&launch, h);
    if (choice->has_last) zm_launch_add_place(&launch, choice->last), zm_launch_add_place(&launch, choice->last_to);
    else zm_launch_add_null(&launch), zm_launch_add_null(&launch);
    launch.bytes /= (uint64_t)table->out_features;
    zm_launch_end(&launch);
    return h;
}
