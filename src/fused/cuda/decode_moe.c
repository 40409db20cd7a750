/* SPDX-License-Identifier: MIT */
/* Mixtures of experts: the router and the chosen experts. */
#include <stdint.h>
#include <string.h>

#include "fused/cuda/launch.h"
#include "fused/cuda/sizes.cuh"

/* Places of a token's normed hidden state, of the experts' scores, from which blocks choose, and of words with the
 * choice. */
typedef struct routed {
    zm_place normed, scores, words;
} routed;

static void add_place(zm_launch *launch, zm_place place) {
    if (place < 0) zm_launch_add_null(launch);
    else zm_launch_add_place(launch, place);
}

/* norm: without a weight h is normed already. */
static routed route(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_moe_arguments *arguments) {
    const zm_weight *router = arguments->router;
    zm_launch launch = zm_launch_begin(decode, ZM_DECODE_KERNEL_router, router);
    launch.record.grid = zm_divide_up(router->out_features, ROUTER_WARPS);
    launch.record.block = WARP * ROUTER_WARPS;
    launch.record.shared_bytes = zm_launch_staged_bytes(router);
    routed places = {-1, -1, -1};
    if (zm_decode_failed(decode)) return places;
    bool has_norm = zm_is_set(norm.weight);
    places.normed = has_norm ? zm_decode_temporary(decode, decode->hidden_size) : h;
    places.scores = zm_chain_temporary(decode->chain, DECODE_MOST_EXPERTS * sizeof(float));
    places.words = zm_chain_temporary(decode->chain, (size_t)decode->top_k * sizeof(uint32_t));
    zm_launch_add_place(&launch, h);
    zm_launch_add_constant(&launch, norm.weight);
    zm_launch_add_weight(&launch, router);
    zm_launch_add_constant(&launch, router->bias);
    add_place(&launch, has_norm ? places.normed : -1);
    zm_launch_add_place(&launch, places.scores);
    zm_launch_add_place(&launch, places.words);
    zm_launch_add_float(&launch, norm.eps);
    zm_launch_add_int(&launch, router->out_features);
    zm_launch_add_int(&launch, (int)arguments->gating);
    zm_launch_end(&launch);
    return places;
}

/* How the chosen experts' weights are made. */
static void add_weighting(zm_launch *launch, const zm_moe_arguments *arguments) {
    zm_weighting own = zm_launch_weighting(arguments->gating, arguments->normalize_top_k, arguments->normalize_epsilon,
                                           arguments->routed_scaling_factor);
    zm_launch_add_int(launch, (int)arguments->gating);
    zm_launch_add_int(launch, own.normalizes);
    zm_launch_add_float(launch, own.epsilon);
    zm_launch_add_float(launch, own.scaling);
}

static bool is_mxfp4(const zm_weight *weight) { return !strcmp(weight->quantization.mode, "mxfp4"); }

/* experts_out with its blocks and shared memory; the result is the rows of a block that is whole. */
static int plan_vector_out(zm_launch *out, zm_product_plan *plan, const zm_weight *down, int top_k) {
    bool is_large = is_mxfp4(down) || down->quantization.bits == 8; /* as experts_out asks */
    *plan = (zm_product_plan){down, .task_rows = 2, .n_inputs = top_k,
                              .n_ahead = is_large ? OUT_AHEAD_LESS : OUT_AHEAD,
                              .n_left = is_large ? ZM_ALL_LEFT : 0};
    /* As many rows of a block as leave one for each multiprocessor. */
    int groups = DECODE_WARPS / top_k, round_rows = plan->task_rows * groups;
    int rounds = zm_divide_up(down->out_features, round_rows * MULTIPROCESSORS);
    if (rounds > OUT_MOST_ROUNDS) rounds = OUT_MOST_ROUNDS;
    zm_launch_reserve(out, plan, top_k * groups, top_k * groups * rounds);
    return round_rows * rounds;
}

/* Experts' launches: the vector kernels of decode_mlp.cuh or, on tensor cores, those of decode_tiles_experts.cuh. */
static void plan_vector_experts(zm_launch *in, zm_launch *out, const zm_weight *gate, const zm_weight *down) {
    int top_k = in->decode->top_k;
    zm_product_plan in_plan = {gate, .n_tasks = top_k * gate->out_features, .task_rows = 2, .n_inputs = 1,
                               .n_ahead = is_mxfp4(gate) ? EXPERTS_AHEAD_MXFP4 : EXPERTS_AHEAD};
    in->one_each = true;
    in->unit = top_k; /* a block has one expert's tasks */
    zm_launch_spread(in, &in_plan);
    zm_product_plan out_plan;
    int block_rows = plan_vector_out(out, &out_plan, down, top_k);
    int n_whole = zm_launch_halve(out, down->out_features, block_rows);
    /* Where most copies begin at once, the next kernel does when the first has come. */
    bool is_long = in_plan.n_pieces > 2 * EXPERTS_AHEAD;
    in_plan.n_left = is_long ? zm_launch_left(&in_plan, &out_plan) : ZM_ALL_LEFT;
    zm_launch_add_ring_and_left(in, &in_plan);
    zm_launch_add_int(out, block_rows);
    zm_launch_add_int(out, n_whole);
    zm_launch_add_ring_and_left(out, &out_plan);
}

static int tile_bytes(const zm_weight *weight) {
    return zm_launch_tile_bytes(weight, EXPERT_TILE_SLOTS(weight->quantization.bits, weight->in_features));
}

static void plan_tiled_experts(zm_launch *in, zm_launch *out, const zm_weight *gate, const zm_weight *down) {
    enum {
        OUT_ROWS = EXPERT_TILE_ROWS,
        IN_ROWS = OUT_ROWS / 2, /* half gate's, half up's */
        CHOOSERS = 1,           /* warps that only choose */
    };
    int top_k = in->decode->top_k, n_tasks = top_k * gate->out_features / IN_ROWS;
    int x_bytes = gate->in_features * (int)sizeof(uint16_t), warp_bytes = tile_bytes(gate);
    int most = (ZM_DECODE_MAX_SHARED - x_bytes) / warp_bytes;
    if (most > DECODE_WARPS - CHOOSERS) most = DECODE_WARPS - CHOOSERS;
    int rounds = zm_divide_up(n_tasks, MULTIPROCESSORS * most),
        warps = zm_divide_up(n_tasks, MULTIPROCESSORS * rounds);
    in->one_each = true;
    in->record.grid = n_tasks < MULTIPROCESSORS ? n_tasks : MULTIPROCESSORS;
    in->record.block = WARP * (warps + CHOOSERS);
    in->record.shared_bytes = x_bytes + warps * warp_bytes;
    zm_launch_add_int(out, zm_launch_halve(out, down->out_features, OUT_ROWS));
    out->record.block = WARP * top_k;
    out->record.shared_bytes = top_k * (down->in_features * (int)sizeof(uint16_t) + tile_bytes(down));
}

bool zm_decode_serves_experts(const zm_weight *gate, const zm_weight *down, zm_activation activation, int top_k,
                              const char **reason) {
    enum { MLX_COLUMNS = 128 };
    if (!zm_decode_takes_tiles(top_k)) {
        *reason = "its hidden layer does not fit shared memory";
        zm_launch out = {0};
        zm_product_plan plan;
        plan_vector_out(&out, &plan, down, top_k);
        return zm_decode_fits(down, top_k) && out.record.shared_bytes <= ZM_DECODE_MAX_SHARED;
    }
    *reason = "its many chosen experts are in mxfp4, have biases or are clipped";
    if (activation != ZM_ACTIVATION_SWIGLU || strcmp(gate->quantization.mode, "affine") != 0 ||
        strcmp(down->quantization.mode, "affine") != 0 || zm_is_set(gate->bias) || zm_is_set(down->bias))
        return false;
    *reason = "its experts' sizes are not those of MLX's matrix kernel that its own for many chosen experts follow";
    if (gate->in_features % EXPERT_TILE_K || down->in_features % EXPERT_TILE_K || gate->out_features % MLX_COLUMNS ||
        down->out_features % MLX_COLUMNS)
        return false;
    *reason = "its experts do not fit shared memory";
    return top_k <= DECODE_WARPS &&
           tile_bytes(gate) + gate->in_features * (int)sizeof(uint16_t) <= ZM_DECODE_MAX_SHARED &&
           top_k * (down->in_features * (int)sizeof(uint16_t) + tile_bytes(down)) <= ZM_DECODE_MAX_SHARED;
}

/* to = h (-1: nothing) + the experts' weighted sum. */
static void mix(zm_decode *decode, routed places, zm_place h, zm_place to, const zm_moe_arguments *arguments) {
    const zm_weight *gate = arguments->gate, *down = arguments->down;
    zm_launch in = zm_launch_begin(decode, ZM_DECODE_KERNEL_experts_in, gate);
    zm_launch out = zm_launch_begin(decode, ZM_DECODE_KERNEL_experts_out, down);
    zm_place act = zm_decode_temporary(decode, decode->top_k * gate->out_features);
    bool tiled = zm_decode_takes_tiles(decode->top_k);
    zm_launch_add_place(&in, places.normed);
    zm_launch_add_place(&in, places.scores);
    zm_launch_add_constant(&in, arguments->expert_bias);
    zm_launch_add_place(&in, places.words);
    zm_launch_add_weight(&in, gate);
    zm_launch_add_weight(&in, arguments->up);
    if (!tiled) zm_launch_add_constant(&in, gate->bias);
    if (!tiled) zm_launch_add_constant(&in, arguments->up->bias);
    zm_launch_add_place(&in, act);
    zm_launch_add_int(&in, arguments->router->out_features);
    zm_launch_add_int(&in, (int)arguments->gating);
    if (!tiled) zm_launch_add_int(&in, (int)arguments->activation);
    zm_launch_add_int(&in, gate->out_features);
    zm_launch_add_place(&out, act);
    zm_launch_add_place(&out, places.words);
    zm_launch_add_weight(&out, down);
    if (!tiled) zm_launch_add_constant(&out, down->bias);
    add_place(&out, h);
    zm_launch_add_place(&out, to);
    add_weighting(&out, arguments);
    zm_launch_add_int(&out, down->out_features);
    if (tiled) plan_tiled_experts(&in, &out, gate, down);
    else plan_vector_experts(&in, &out, gate, down);
    zm_launch_end(&in);
    zm_launch_end(&out);
}

zm_place zm_decode_moe(zm_decode *decode, zm_place h, zm_decode_norm norm, const zm_moe_arguments *arguments) {
    routed places = route(decode, h, norm, arguments);
    zm_place to = zm_decode_residual(decode);
    mix(decode, places, h, to, arguments);
    return to;
}

mlx_array zm_decode_moe_alone(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments) {
    enum { ANY_HEAD_DIM = 64 };
    zm_decode decode;
    mlx_array y = {NULL};
    if (zm_scope_failed(scope)) return y;
    zm_decode_begin(&decode, scope, mlx_array_dtype(x), zm_dim(x, -1), ANY_HEAD_DIM, arguments->top_k);
    zm_place in = zm_decode_input(&decode, x);
    zm_place out = zm_decode_output(&decode, decode.dtype, (int)mlx_array_ndim(x), mlx_array_shape(x));
    mix(&decode, route(&decode, in, (zm_decode_norm){0}, arguments), -1, out, arguments);
    zm_decode_end(&decode, &y);
    return y;
}
