/* SPDX-License-Identifier: MIT */
#include "fused/cuda/decode.h"

#include <math.h>
#include <stdint.h>
#include <string.h>

#include "fused/cuda/program.h"
#include "mlx/streams.h"

/* As in decode*.cuh. */
enum {
    WARPS = 16,
    THREADS = 32 * WARPS,
    ROUTER_BLOCKS = 8, /* a cluster */
    ROUTER_WARPS = 8,
    CHOOSE_BLOCKS = 8, /* likewise */
    CHOOSE_WARPS = 4,
    HEAD_WARPS = 4,
    ATTENTION_BLOCKS = 4, /* a cluster for each head */
    ATTENTION_WARPS = 8,
    OUT_WARP_ROWS = 4,
    VECTOR_BYTES = 16,
    WORD_BYTES = 8, /* of weights that a lane takes in a step */
    /* Pieces of weights that copies are ahead of products: one less is faster where a row is a single short piece. */
    MOST_AHEAD = 2,
    SHORT_ROW = 4, /* steps */
    MOST_SHORT_KEYS = 1024, /* MLX's: from where on long attention goes in parts */
    LONG_BLOCKS = 32,
};
enum { MULTIPROCESSORS = 132 }; /* of an H100; elsewhere warps share the tasks less evenly */

static const char name[] = "zmlx.decode";

bool zm_decode_serves_layout(const zm_weight *weight, const char **reason) {
    zm_quantization quantization = weight->quantization;
    *reason = "its weights are not affine";
    if (!zm_weight_is_quantized(weight) || strcmp(quantization.mode, "affine") != 0) return false;
    *reason = "its weights have neither 4 nor 8 bits";
    if (quantization.bits != 4 && quantization.bits != 8) return false;
    *reason = "its groups are not of 32, 64 or 128";
    if (quantization.group_size != 32 && quantization.group_size != 64 && quantization.group_size != 128) return false;
    *reason = "a linear map has a bias";
    if (zm_is_set(weight->bias)) return false;
    *reason = "its scales are not bfloat16";
    if (!zm_is_set(weight->scales) || !zm_is_set(weight->biases) || mlx_array_dtype(weight->scales) != MLX_BFLOAT16 ||
        mlx_array_dtype(weight->biases) != MLX_BFLOAT16)
        return false;
    *reason = "its weights are more than the kernels can count";
    if (mlx_array_size(weight->weight) / 2 > UINT32_MAX) return false;
    *reason = "its sizes are not multiples of 64 and 2";
    return weight->in_features % 64 == 0 && weight->in_features % quantization.group_size == 0 &&
           weight->out_features % 2 == 0;
}

/* The largest absolute scale, or NaN. */
static float largest_scale(const zm_weight *weight) {
    float largest = NAN;
    mlx_stream stream;
    if (zm_stream_new(&stream, MLX_GPU, NULL)) return largest;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array scales = zm_flatten(&scope, weight->scales, 0, -1);
    mlx_array both = zm_maximum(&scope, zm_max(&scope, scales, 0, false),
                                zm_max(&scope, zm_negative(&scope, scales), 0, false));
    both = zm_astype(&scope, both, MLX_FLOAT32);
    if (!zm_scope_failed(&scope) && mlx_array_item_float32(&largest, both)) largest = NAN;
    zm_scope_end(&scope, NULL);
    zm_stream_free(stream);
    return largest;
}

/* The bounds are what the kernels' scaled codes leave: decode.cuh, scale_and_bias. */
bool zm_decode_serves_weight(const zm_weight *weight, const char **reason) {
    if (!zm_decode_serves_layout(weight, reason)) return false;
    *reason = "a scale is too large for its kernels";
    return largest_scale(weight) < (weight->quantization.bits == 4 ? 0x1p-2f : 0x1p-6f);
}

static int divide_up(int a, int b) { return (a + b - 1) / b; }

/* Elements of a row that a warp takes in a step. */
static int step_of(int bits) { return bits == 4 ? 512 : 256; }

/* How rows of k elements go through the kernels: layout of decode.cuh. */
typedef struct row_layout {
    int steps; /* of a piece */
    int n_pieces;
    int staged_bytes; /* of x in shared memory */
} row_layout;

static row_layout layout_of(int k, int bits) {
    int row_steps = divide_up(k, step_of(bits)), steps = row_steps;
    if (steps > 5) steps = divide_up(row_steps, 5) * 5 < divide_up(row_steps, 4) * 4 ? 5 : 4;
    int n_pieces = divide_up(row_steps, steps);
    return (row_layout){steps, n_pieces, n_pieces * steps * step_of(bits) / 8 * VECTOR_BYTES};
}

bool zm_decode_fits(const zm_weight *weight, int count) {
    row_layout row = layout_of(weight->in_features, weight->quantization.bits);
    return (int64_t)count * row.staged_bytes <= ZM_DECODE_MAX_STAGED;
}

static zmlx_status get_program(const zm_decode_program **program, const zm_weight *weight, int k, int hidden_size,
                               int head_dim, int top_k, zmlx_error *error) {
    zm_decode_settings settings = {.bits = weight->quantization.bits,
                                   .group_size = weight->quantization.group_size,
                                   .k = k,
                                   .hidden_size = hidden_size,
                                   .head_dim = head_dim,
                                   .top_k = top_k};
    return zm_decode_program_get(program, settings, error);
}

zmlx_status zm_decode_prepare(const zm_weight *weight, int hidden_size, int head_dim, int top_k, zmlx_error *error) {
    const zm_decode_program *program;
    zmlx_status status = get_program(&program, weight, weight->in_features, hidden_size, head_dim, top_k, error);
    return status ? status : get_program(&program, weight, hidden_size, hidden_size, head_dim, top_k, error);
}

void zm_decode_begin(zm_decode *decode, zm_scope *scope, int hidden_size, int head_dim, int top_k) {
    *decode = (zm_decode){.scope = scope, .hidden_size = hidden_size, .head_dim = head_dim, .top_k = top_k};
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

static bool failed(const zm_decode *decode) { return !decode->chain || zm_scope_failed(decode->scope); }

zm_place zm_decode_input(zm_decode *decode, mlx_array array) {
    return failed(decode) ? -1 : zm_chain_input(decode->chain, array);
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
    if (failed(decode) || !has_output_left(decode)) return -1;
    zm_node_output spec = {.n_dims = n_dims, .dtype = dtype};
    memcpy(spec.shape, shape, (size_t)n_dims * sizeof *shape);
    return zm_chain_output(decode->chain, &spec);
}

/* Launches while they are put together. */
typedef struct kernel_launch {
    zm_decode *decode;
    zm_chain_launch_record record;
} kernel_launch;

/* A kernel of the program for the weight's quantisation. */
static kernel_launch begin_launch(zm_decode *decode, zm_decode_kernel kernel, const zm_weight *weight) {
    kernel_launch made = {.decode = decode};
    made.record.block = THREADS;
    made.record.grid = 1;
    if (failed(decode)) return made;
    const zm_decode_program *program;
    int k = zm_decode_kernel_is_hidden(kernel) ? decode->hidden_size : weight->in_features;
    if (!get_program(&program, weight, k, decode->hidden_size, decode->head_dim, decode->top_k, &decode->scope->failure))
        made.record.kernel = program->kernels[kernel];
    return made;
}

/* What the warps of a kernel multiply: tasks of a few rows of a weight, of which a piece at a time is in shared memory. */
typedef struct product_plan {
    const zm_weight *weight;
    int n_tasks, task_rows;
    int n_inputs; /* rows of x in shared memory */
    int n_slots;  /* for pieces, a warp */
    int n_ahead;  /* pieces that copies are ahead of products; 0: as the rows' length suggests */
} product_plan;

/* Shared memory of a block of so many warps that take `rounds` tasks each. */
static void reserve(kernel_launch *launch, product_plan *plan, int warps, int rounds) {
    zm_quantization quantization = plan->weight->quantization;
    row_layout row = layout_of(plan->weight->in_features, quantization.bits);
    int n_pieces = rounds * row.n_pieces, groups = row.steps * step_of(quantization.bits) / quantization.group_size;
    int slot_bytes = plan->task_rows * (row.steps * 32 * WORD_BYTES + 2 * groups * (int)sizeof(uint16_t));
    int all_bytes = warps * divide_up(slot_bytes, VECTOR_BYTES) * VECTOR_BYTES; /* a slot for each warp */
    if (!plan->n_ahead) plan->n_ahead = row.n_pieces == 1 && row.steps <= SHORT_ROW ? 1 : MOST_AHEAD;
    plan->n_slots = n_pieces < plan->n_ahead + 1 ? n_pieces : plan->n_ahead + 1;
    launch->record.block = 32 * warps;
    launch->record.shared_bytes = plan->n_inputs * row.staged_bytes + plan->n_slots * all_bytes;
}

/* Warps of one block a multiprocessor that take the same number of tasks each, as nearly as there is such a number. */
static void spread(kernel_launch *launch, product_plan *plan) {
    enum { LEAST_WARPS = 4 };
    int most = WARPS;
    for (;;) {
        int rounds = divide_up(plan->n_tasks, MULTIPROCESSORS * most);
        int warps = divide_up(plan->n_tasks, MULTIPROCESSORS * rounds);
        if (warps < LEAST_WARPS) warps = LEAST_WARPS;
        launch->record.grid = divide_up(plan->n_tasks, warps * rounds);
        reserve(launch, plan, warps, rounds);
        if (launch->record.shared_bytes <= ZM_DECODE_MAX_SHARED || most == LEAST_WARPS) return;
        most--;
    }
}

static void add(kernel_launch *launch, zm_chain_argument argument) {
    if (launch->record.n_arguments < ZM_CHAIN_MAX_ARGUMENTS)
        launch->record.arguments[launch->record.n_arguments++] = argument;
}
static void add_place(kernel_launch *launch, zm_place place) {
    add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_ARRAY, .place = place});
}
static void add_null(kernel_launch *launch) { add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_NULL}); }
static void add_int(kernel_launch *launch, int value) {
    add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_WORD, .word = (uint32_t)value});
}
static void add_float(kernel_launch *launch, float value) {
    zm_chain_argument argument = {.kind = ZM_ARGUMENT_WORD};
    memcpy(&argument.word, &value, sizeof value);
    add(launch, argument);
}
/* The last arguments of a kernel that multiplies. */
static void add_ring(kernel_launch *launch, const product_plan *plan) {
    add_int(launch, plan->n_slots);
    add_int(launch, plan->n_ahead);
}

/* An evaluated array; an empty one is NULL. */
static void add_constant(kernel_launch *launch, mlx_array array) {
    if (!zm_is_set(array) || failed(launch->decode)) add_null(launch);
    else add_place(launch, zm_chain_constant(launch->decode->chain, array));
}
static void add_weight(kernel_launch *launch, const zm_weight *weight) {
    add_constant(launch, weight->weight);
    add_constant(launch, weight->scales);
    add_constant(launch, weight->biases);
}

static void finish(const kernel_launch *launch) {
    if (!failed(launch->decode)) zm_chain_launch(launch->decode->chain, &launch->record);
}

/* Memory for elements in bfloat16. */
static zm_place temporary(zm_decode *decode, int elements) {
    if (failed(decode)) return -1;
    return zm_chain_temporary(decode->chain, (size_t)elements * sizeof(uint16_t));
}

void zm_decode_publish(zm_decode *decode) { decode->publishes = true; }

/* Where a part leaves the residual stream. */
static zm_place residual(zm_decode *decode) {
    if (!decode->publishes) return temporary(decode, decode->hidden_size);
    decode->publishes = false;
    return zm_decode_output(decode, MLX_BFLOAT16, 3, (const int[]){1, 1, decode->hidden_size});
}

zm_place zm_decode_embed(zm_decode *decode, mlx_array token, const zm_weight *table) {
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_embed, table);
    launch.record.grid = divide_up(decode->hidden_size / 2, THREADS);
    zm_place h = residual(decode);
    add_place(&launch, zm_decode_input(decode, token));
    add_weight(&launch, table);
    add_place(&launch, h);
    finish(&launch);
    return h;
}

zm_place zm_decode_linear_add(zm_decode *decode, zm_place x, const zm_weight *weight, zm_place h) {
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_linear_add, weight);
    zm_place to = residual(decode);
    product_plan plan = {weight, .n_tasks = weight->out_features / 2, .task_rows = 2, .n_inputs = 1, .n_ahead = MOST_AHEAD};
    spread(&launch, &plan);
    add_place(&launch, x);
    add_weight(&launch, weight);
    add_place(&launch, h);
    add_place(&launch, to);
    add_int(&launch, weight->out_features);
    add_ring(&launch, &plan);
    finish(&launch);
    return to;
}

enum { MOST_WEIGHTS = 3 };

/* to = the products of up to three weights with norm(h), one behind the other. */
static void multiply_normed(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *const *weights, int count,
                            zm_place to) {
    int rows = 0;
    for (int i = 0; i < count; i++) rows += weights[i]->out_features;
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_norm_linear, weights[0]);
    product_plan plan = {weights[0], .n_tasks = rows / 2, .task_rows = 2, .n_inputs = 1};
    spread(&launch, &plan);
    add_place(&launch, h);
    add_constant(&launch, norm.weight);
    for (int i = 0; i < MOST_WEIGHTS; i++) add_weight(&launch, weights[i < count ? i : 0]);
    add_place(&launch, to);
    add_float(&launch, norm.eps);
    for (int i = 0; i < MOST_WEIGHTS; i++) add_int(&launch, i < count ? weights[i]->out_features : 0);
    add_ring(&launch, &plan);
    finish(&launch);
}

zm_place zm_decode_qkv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *q, const zm_weight *k,
                       const zm_weight *v) {
    zm_place qkv = temporary(decode, q->out_features + k->out_features + v->out_features);
    multiply_normed(decode, h, norm, (const zm_weight *const[]){q, k, v}, 3, qkv);
    return qkv;
}

zm_place zm_decode_overwrite(zm_decode *decode, mlx_array array) {
    if (failed(decode) || !has_output_left(decode)) return -1;
    return zm_chain_overwrite(decode->chain, array);
}

/* What the kernels that take heads from qkv are told in the end. */
static void add_heads(kernel_launch *launch, const zm_decode_attention_arguments *arguments) {
    add_float(launch, arguments->q_norm ? arguments->q_norm->eps : 0);
    add_float(launch, log2f(arguments->base));
    add_int(launch, arguments->offset);
    add_float(launch, arguments->position_scale);
    add_int(launch, arguments->n_heads);
    add_int(launch, arguments->n_kv_heads);
    add_int(launch, arguments->n_rows);
}

static void add_qkv(kernel_launch *launch, zm_place qkv, const zm_decode_attention_arguments *arguments) {
    add_place(launch, qkv);
    add_constant(launch, arguments->q_norm ? arguments->q_norm->weight : (mlx_array){NULL});
    add_constant(launch, arguments->k_norm ? arguments->k_norm->weight : (mlx_array){NULL});
    add_constant(launch, arguments->freqs);
}

void zm_decode_heads(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                     const zm_weight *weight, zm_place queries) {
    int heads = arguments->n_heads + 2 * arguments->n_kv_heads;
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_heads, weight);
    launch.record.block = 32 * HEAD_WARPS;
    launch.record.grid = divide_up(heads, HEAD_WARPS);
    add_qkv(&launch, qkv, arguments);
    add_place(&launch, queries);
    add_place(&launch, arguments->keys);
    add_place(&launch, arguments->values);
    add_heads(&launch, arguments);
    finish(&launch);
}

static void attend_short(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                         const zm_weight *weight, zm_place y) {
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_attention, weight);
    launch.record.block = 32 * ATTENTION_WARPS;
    launch.record.grid = arguments->n_heads * ATTENTION_BLOCKS;
    add_qkv(&launch, qkv, arguments);
    add_place(&launch, arguments->keys);
    add_place(&launch, arguments->values);
    add_place(&launch, y);
    add_heads(&launch, arguments);
    add_float(&launch, arguments->scale);
    finish(&launch);
}

static void attend_long(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                        const zm_weight *weight, zm_place y) {
    zm_place queries = temporary(decode, arguments->n_heads * decode->head_dim);
    zm_decode_heads(decode, qkv, arguments, weight, queries);
    kernel_launch parts = begin_launch(decode, ZM_DECODE_KERNEL_attention_parts, weight);
    kernel_launch merge = begin_launch(decode, ZM_DECODE_KERNEL_attention_merge, weight);
    if (failed(decode)) return;
    size_t n_parts = (size_t)arguments->n_heads * LONG_BLOCKS;
    zm_place most = zm_chain_temporary(decode->chain, n_parts * sizeof(float));
    zm_place sums = zm_chain_temporary(decode->chain, n_parts * sizeof(float));
    zm_place values = zm_chain_temporary(decode->chain, n_parts * (size_t)decode->head_dim * sizeof(float));
    parts.record.block = 256;
    parts.record.grid = (int)n_parts;
    add_place(&parts, queries);
    add_place(&parts, arguments->keys);
    add_place(&parts, arguments->values);
    add_place(&parts, most);
    add_place(&parts, sums);
    add_place(&parts, values);
    add_float(&parts, arguments->scale);
    add_int(&parts, arguments->offset + 1);
    add_int(&parts, arguments->n_rows);
    add_int(&parts, arguments->n_heads / arguments->n_kv_heads);
    finish(&parts);
    merge.record.block = 1024;
    merge.record.grid = arguments->n_heads;
    add_place(&merge, most);
    add_place(&merge, sums);
    add_place(&merge, values);
    add_place(&merge, y);
    finish(&merge);
}

zm_place zm_decode_attention(zm_decode *decode, zm_place qkv, const zm_decode_attention_arguments *arguments,
                             const zm_weight *o_proj, zm_place h) {
    zm_place y = temporary(decode, arguments->n_heads * decode->head_dim);
    if (arguments->offset < MOST_SHORT_KEYS) attend_short(decode, qkv, arguments, o_proj, y);
    else attend_long(decode, qkv, arguments, o_proj, y);
    return zm_decode_linear_add(decode, y, o_proj, h);
}

zm_place zm_decode_conv(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *in_proj, mlx_array taps,
                        zm_place state) {
    int size = in_proj->out_features / 3;
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_conv, in_proj);
    zm_place y = temporary(decode, size);
    product_plan plan = {in_proj, .n_tasks = size, .task_rows = 3, .n_inputs = 1};
    spread(&launch, &plan);
    add_place(&launch, h);
    add_constant(&launch, norm.weight);
    add_weight(&launch, in_proj);
    add_constant(&launch, taps);
    add_place(&launch, state);
    add_place(&launch, y);
    add_float(&launch, norm.eps);
    add_int(&launch, size);
    add_ring(&launch, &plan);
    finish(&launch);
    return y;
}

zm_place zm_decode_mlp(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *gate, const zm_weight *up,
                       const zm_weight *down) {
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_mlp_in, gate);
    zm_place act = temporary(decode, gate->out_features);
    product_plan plan = {gate, .n_tasks = gate->out_features, .task_rows = 2, .n_inputs = 1};
    spread(&launch, &plan);
    add_place(&launch, h);
    add_constant(&launch, norm.weight);
    add_weight(&launch, gate);
    add_weight(&launch, up);
    add_place(&launch, act);
    add_float(&launch, norm.eps);
    add_int(&launch, gate->out_features);
    add_ring(&launch, &plan);
    finish(&launch);
    return zm_decode_linear_add(decode, act, down, h);
}

/* Places of a token's normed hidden state and choice of experts. */
typedef struct routed {
    zm_place normed, experts, weights;
} routed;

static routed route(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_moe_arguments *arguments) {
    const zm_weight *router = arguments->router;
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_router, router);
    product_plan plan = {router, .n_tasks = router->out_features, .task_rows = 1, .n_inputs = 1};
    launch.record.grid = ROUTER_BLOCKS;
    reserve(&launch, &plan, ROUTER_WARPS, divide_up(plan.n_tasks, ROUTER_BLOCKS * ROUTER_WARPS));
    routed places = {-1, -1, -1};
    if (failed(decode)) return places;
    places.normed = temporary(decode, decode->hidden_size);
    places.experts = zm_chain_temporary(decode->chain, (size_t)decode->top_k * sizeof(int32_t));
    places.weights = temporary(decode, decode->top_k);
    add_place(&launch, h);
    add_constant(&launch, norm.weight);
    add_weight(&launch, router);
    add_constant(&launch, arguments->expert_bias);
    add_place(&launch, places.normed);
    add_place(&launch, places.experts);
    add_place(&launch, places.weights);
    add_float(&launch, norm.eps);
    add_int(&launch, router->out_features);
    add_int(&launch, decode->top_k);
    add_int(&launch, arguments->normalize_top_k);
    add_float(&launch, arguments->normalize_epsilon);
    add_float(&launch, arguments->routed_scaling_factor);
    add_ring(&launch, &plan);
    finish(&launch);
    return places;
}

zm_place zm_decode_moe(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_moe_arguments *arguments) {
    const zm_weight *gate = arguments->gate, *down = arguments->down;
    routed places = route(decode, h, norm, arguments);
    int n = gate->out_features;
    kernel_launch in = begin_launch(decode, ZM_DECODE_KERNEL_experts_in, gate);
    zm_place act = temporary(decode, decode->top_k * n);
    product_plan in_plan = {gate, .n_tasks = decode->top_k * n, .task_rows = 2, .n_inputs = 1, .n_ahead = MOST_AHEAD};
    spread(&in, &in_plan);
    add_place(&in, places.normed);
    add_place(&in, places.experts);
    add_weight(&in, gate);
    add_weight(&in, arguments->up);
    add_place(&in, act);
    add_int(&in, n);
    add_ring(&in, &in_plan);
    finish(&in);

    kernel_launch out = begin_launch(decode, ZM_DECODE_KERNEL_experts_out, down);
    int groups = WARPS / decode->top_k, rows = OUT_WARP_ROWS * groups; /* of a block */
    out.record.grid = divide_up(down->out_features, rows);
    product_plan out_plan = {down, .task_rows = 2, .n_inputs = decode->top_k, .n_ahead = 1};
    reserve(&out, &out_plan, decode->top_k * groups, OUT_WARP_ROWS / out_plan.task_rows);
    zm_place to = residual(decode);
    add_place(&out, act);
    add_place(&out, places.experts);
    add_place(&out, places.weights);
    add_weight(&out, down);
    add_place(&out, h);
    add_place(&out, to);
    add_int(&out, down->out_features);
    add_ring(&out, &out_plan);
    finish(&out);
    return to;
}

void zm_decode_head(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_weight *weight, zm_place to) {
    multiply_normed(decode, h, norm, (const zm_weight *const[]){weight}, 1, to);
}

zm_place zm_decode_logits(zm_decode *decode, const zm_weight *weight) { return temporary(decode, weight->out_features); }

/* The threads of MLX's logsumexp, a vector of 8 each at a time. */
static int logsumexp_threads(int n) {
    int threads = 32;
    while (threads < 1024 && threads < divide_up(n, 8)) threads *= 2;
    return threads;
}

void zm_decode_choose(zm_decode *decode, zm_place logits, const zm_weight *weight, zm_place to) {
    kernel_launch launch = begin_launch(decode, ZM_DECODE_KERNEL_choose, weight);
    launch.record.grid = CHOOSE_BLOCKS;
    launch.record.block = 32 * CHOOSE_WARPS;
    add_place(&launch, logits);
    add_place(&launch, to);
    add_int(&launch, weight->out_features);
    add_int(&launch, logsumexp_threads(weight->out_features));
    finish(&launch);
}
