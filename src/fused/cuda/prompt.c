/* SPDX-License-Identifier: MIT */
#include "fused/cuda/prompt.h"

#include <string.h>

#include "fused/cuda/launch.h"
#include "fused/cuda/prompt_node.h"
#include "fused/cuda/sizes.cuh"
#include "mlx/gpu.h"

enum { THREADS = AROUND_THREADS, VECTOR = 8 };
enum { CAPABILITY = 90 };

bool zm_prompt_available(void) {
    int capability;
    return zm_gpu_get(&capability) == ZM_GPU_CUDA && capability == CAPABILITY;
}

static bool is_mxfp4(const zm_weight *weight) { return !strcmp(weight->quantization.mode, "mxfp4"); }

/* Of experts in mxfp4 MLX takes sorted rows to a matrix kernel where a weight's rows are a multiple of 128, and all
 * others to its vector kernel where they are long. */
static bool serves_mxfp4(const zm_weight *weight, const char **reason) {
    enum { MLX_COLUMNS = 128, UNIT = 4 };
    if (!zm_decode_serves_layout(weight, reason)) return false;
    *reason = "MLX has another kernel for mxfp4 weights of its size";
    if (!weight->n_experts || weight->out_features % MLX_COLUMNS == 0 || weight->out_features % UNIT) return false;
    *reason = "it has too many experts, or rows that do not fit shared memory";
    return weight->n_experts <= PROMPT_MOST_EXPERTS &&
           ZM_PROMPT_SORTED_ROWS * zm_launch_staged_bytes(weight) <= ZM_DECODE_MAX_SHARED;
}

bool zm_prompt_serves(const zm_weight *weight, const char **reason) {
    zm_quantization quantization = weight->quantization;
    if (zm_weight_is_quantized(weight) && is_mxfp4(weight)) return serves_mxfp4(weight, reason);
    *reason = "its weights are not affine";
    if (!zm_weight_is_quantized(weight) || strcmp(quantization.mode, "affine") != 0) return false;
    *reason = "its weights have other widths than MLX's matrix kernels";
    if (quantization.bits < 2 || quantization.bits > 8 || quantization.bits == 7) return false;
    *reason = "its groups are not of 32, 64 or 128";
    if (quantization.group_size != 32 && quantization.group_size != 64 && quantization.group_size != 128) return false;
    *reason = "its scales are neither bfloat16 nor float16";
    if (!zm_is_set(weight->scales) || !zm_is_set(weight->biases)) return false;
    mlx_dtype dtype = mlx_array_dtype(weight->scales);
    if ((dtype != MLX_BFLOAT16 && dtype != MLX_FLOAT16) || mlx_array_dtype(weight->biases) != dtype) return false;
    *reason = "it has too many experts";
    if (weight->n_experts > PROMPT_MOST_EXPERTS) return false;
    /* MLX has another kernel for rows of one group. */
    *reason = "its sizes are not multiples of 64 and 2, or its rows are one group or an odd number of them";
    return weight->in_features % PROMPT_TILE_K == 0 && weight->in_features % (2 * quantization.group_size) == 0 &&
           weight->out_features % 2 == 0;
}

bool zm_prompt_serves_gating(const zm_gating_arguments *gating, const char **reason) {
    *reason = "its gating is by groups, or of more than 256 experts, or chooses more than 8";
    if (gating->gating == ZM_GATING_SIGMOID_GROUPS || gating->n_experts > DECODE_MOST_EXPERTS || gating->top_k > 8)
        return false;
    *reason = "its expert bias is not float32, or does not belong to its gating";
    return !zm_is_set(gating->expert_bias) || (gating->gating == ZM_GATING_SIGMOID_BIAS &&
                                               mlx_array_dtype(gating->expert_bias) == MLX_FLOAT32);
}

enum { MOST_INPUTS = 10 };

typedef struct inputs {
    mlx_array arrays[MOST_INPUTS];
    int count;
} inputs;

static void add(inputs *to, mlx_array array) { to->arrays[to->count++] = array; }
static void add_weight(inputs *to, const zm_weight *weight) {
    add(to, weight->weight);
    add(to, weight->scales);
    add(to, weight->biases);
}

/* What is asked of a product beside its inputs. */
typedef struct request {
    const zm_weight *weight; /* one of those, where there are several */
    int kind, tile_rows, weight_rows, n_tiles;
    int rows, top_k; /* top_k: of ZM_PROMPT_FIRST */
} request;

/* The scales of a row that begin at a multiple of as many bytes are brought together. */
static zm_prompt_code_key code_of(const zm_weight *weight, int kind, int weight_rows) {
    zm_quantization quantization = weight->quantization;
    int n_groups = weight->in_features / quantization.group_size;
    return (zm_prompt_code_key){.kind = kind,
                                .bits = quantization.bits,
                                .group_size = quantization.group_size,
                                .weight_rows = weight_rows,
                                .is_float16 = zm_decode_dtype(weight) == MLX_FLOAT16,
                                .span = n_groups % 8 == 0   ? 8
                                        : n_groups % 4 == 0 ? 4
                                                            : 2};
}

static int columns_of(const request *of) { return of->kind & ZM_PROMPT_GATED ? of->weight_rows / 2 : of->weight_rows; }

/* Shared memory of a block of zm_tiled. */
static int tiled_bytes(const zm_weight *weight, int warps) {
    enum { VECTOR_BYTES = VECTOR * (int)sizeof(uint16_t) };
    int bits = weight->quantization.bits, k = weight->in_features;
    return TILED_ROWS * TILED_X_SPACE(k) * VECTOR_BYTES + warps * zm_launch_tile_bytes(weight, TILED_SLOTS(bits, k));
}

/* Of the result, a task of zm_tiled. */
static int tiled_columns(int kind) { return kind & ZM_PROMPT_GATED ? EXPERT_TILE_ROWS / 2 : EXPERT_TILE_ROWS; }

static int64_t n_tiled_tasks(const request *of) {
    return (int64_t)of->n_tiles * (of->weight->out_features / tiled_columns(of->kind));
}

static bool has_room_for_two(const zm_weight *weight, int warps) {
    return 2 * (tiled_bytes(weight, warps) + ZM_BLOCK_BYTES) <= ZM_MULTIPROCESSOR_BYTES;
}

/* Warps of a block of zm_tiled: few where there are few tasks, so that each multiprocessor gets some; and no more than
 * leave it room for two blocks, of which one multiplies while the other gets x. Where rows are too long for that, one
 * block of as many. 0: the kernel does not serve the weight. */
static int tiled_warps(const request *of) {
    enum { FEW_WARPS = 4 };
    const zm_weight *weight = of->weight;
    if (weight->in_features % EXPERT_TILE_K || weight->out_features % tiled_columns(of->kind)) return 0;
    int most = n_tiled_tasks(of) <= FEW_WARPS * MULTIPROCESSORS ? FEW_WARPS : TILED_WARPS;
    for (int warps = most; warps >= FEW_WARPS; warps--)
        if (has_room_for_two(weight, warps)) return warps;
    return tiled_bytes(weight, most) <= ZM_DECODE_MAX_SHARED ? most : 0;
}

static mlx_array multiply_tiles(zm_scope *scope, const request *of, int warps, const inputs *from,
                                const zm_node_output *spec) {
    const zm_weight *weight = of->weight;
    zm_quantization quantization = weight->quantization;
    int n_tasks = weight->out_features / tiled_columns(of->kind), n_parts = zm_divide_up(n_tasks, warps);
    zm_prompt_kernel kernel = {
        .code = {.kind = of->kind | ZM_PROMPT_TILED,
                 .bits = quantization.bits,
                 .group_size = quantization.group_size,
                 .is_float16 = zm_decode_dtype(weight) == MLX_FLOAT16,
                 .k = weight->in_features},
        .block = WARP * warps,
        .n_blocks = (int64_t)of->n_tiles * n_parts,
        .shared_bytes = tiled_bytes(weight, warps),
    };
    const int words[] = {weight->out_features, of->rows, of->top_k, n_parts};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) zm_prompt_add_word(&kernel, words[i]);
    mlx_array y;
    zm_prompt_launch(scope, &y, spec, 1, &kernel, from->arrays, from->count);
    return y;
}

static mlx_array multiply(zm_scope *scope, const request *of, const inputs *from, const zm_node_output *spec) {
    const zm_weight *weight = of->weight;
    int warps = of->tile_rows == TILED_ROWS ? tiled_warps(of) : 0;
    if (warps) return multiply_tiles(scope, of, warps, from, spec);
    int n_blocks_n = zm_divide_up(weight->out_features, columns_of(of));
    zm_prompt_kernel kernel = {
        .code = code_of(weight, of->kind, of->weight_rows),
        .tile_rows = of->tile_rows,
        .block = 2 * of->weight_rows,
        .n_blocks = (int64_t)of->n_tiles * n_blocks_n,
    };
    zm_prompt_add_word(&kernel, weight->out_features);
    zm_prompt_add_word(&kernel, weight->in_features);
    zm_prompt_add_word(&kernel, of->rows);
    zm_prompt_add_word(&kernel, of->tile_rows);
    zm_prompt_add_word(&kernel, of->top_k);
    zm_prompt_add_word(&kernel, n_blocks_n);
    mlx_array y;
    zm_prompt_launch(scope, &y, spec, 1, &kernel, from->arrays, from->count);
    return y;
}

/* x's shape with another last dimension. */
static zm_node_output shaped_like(mlx_array x, int last, mlx_dtype dtype) {
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(x), .dtype = dtype};
    memcpy(spec.shape, mlx_array_shape(x), (size_t)spec.n_dims * sizeof(int));
    spec.shape[spec.n_dims - 1] = last;
    return spec;
}

static int rows_of(mlx_array x) { return (int)(mlx_array_size(x) / (size_t)zm_dim(x, -1)); }

/* Without experts: whether rows go in tiles of TILED_ROWS, which are then of->n_tiles. More of them read the weights
 * once more; that is hidden where each warp of the device has but one task. */
static bool takes_tiles(request *of) {
    of->tile_rows = TILED_ROWS;
    of->n_tiles = zm_divide_up(of->rows, TILED_ROWS);
    return tiled_warps(of) && (of->n_tiles == 1 || n_tiled_tasks(of) <= TILED_WARPS * MULTIPROCESSORS);
}

/* Without experts: in those tiles, or the largest ones that give nearly every multiprocessor a block. */
static mlx_array multiply_rows(zm_scope *scope, mlx_array x, const zm_weight *weight, int kind, const inputs *from) {
    static const struct {
        int rows, weight_rows;
    } tiles[] = {{128, ZM_PROMPT_MANY_WEIGHTS}, {64, ZM_PROMPT_FEW_WEIGHTS}, {32, ZM_PROMPT_FEW_WEIGHTS}};
    enum { COUNT = sizeof tiles / sizeof *tiles, LEAST_BLOCKS = 9 * MULTIPROCESSORS / 10 };
    request of = {.weight = weight, .kind = kind, .rows = rows_of(x)};
    bool tiled = takes_tiles(&of);
    for (int i = 0; i < COUNT && !tiled; i++) {
        of.tile_rows = tiles[i].rows;
        of.weight_rows = tiles[i].weight_rows;
        of.n_tiles = zm_divide_up(of.rows, of.tile_rows);
        if (of.n_tiles * zm_divide_up(weight->out_features, columns_of(&of)) >= LEAST_BLOCKS) break;
    }
    zm_node_output spec = shaped_like(x, weight->out_features, mlx_array_dtype(x));
    return multiply(scope, &of, from, &spec);
}

bool zm_prompt_gains(const zm_weight *weight, size_t rows) {
    enum { SMALLEST_MLX_TILE = 16 };
    bool is_wide = weight->out_features / 2 > weight->in_features;
    if (weight->quantization.bits != 8 || rows < ZM_PROMPT_LEAST_ROWS || rows > SMALLEST_MLX_TILE || !is_wide)
        return true;
    request of = {.weight = weight, .rows = (int)rows};
    return takes_tiles(&of) && has_room_for_two(weight, tiled_warps(&of)); /* as was measured */
}

bool zm_prompt_serves_few(const zm_weight *weight, size_t rows, const char **reason) {
    if (!zm_decode_serves_layout(weight, reason)) return false;
    *reason = "its weights are in mxfp4";
    if (is_mxfp4(weight)) return false;
    *reason = "so few rows do not fit shared memory";
    return rows >= ZM_PROMPT_LEAST_FEW && rows < ZM_PROMPT_LEAST_ROWS &&
           (int)rows * zm_launch_staged_bytes(weight) <= ZM_DECODE_MAX_SHARED;
}

static zm_prompt_code_key few_code(const zm_weight *weight, int rows) {
    zm_quantization quantization = weight->quantization;
    return (zm_prompt_code_key){.kind = ZM_PROMPT_FEW,
                                .bits = quantization.bits,
                                .group_size = quantization.group_size,
                                .is_float16 = zm_decode_dtype(weight) == MLX_FLOAT16,
                                .k = weight->in_features,
                                .count = rows};
}

static mlx_array multiply_few(zm_scope *scope, mlx_array x, const zm_weight *weight, const inputs *from) {
    int rows = rows_of(x), task_rows = rows <= FEW_TWO_ROWS ? 2 : 1;
    int n_blocks = zm_divide_up(weight->out_features / task_rows, DECODE_WARPS);
    zm_prompt_kernel kernel = {
        .code = few_code(weight, rows),
        .block = WARP * DECODE_WARPS,
        .n_blocks = n_blocks < MULTIPROCESSORS ? n_blocks : MULTIPROCESSORS,
        .shared_bytes = rows * zm_launch_staged_bytes(weight),
    };
    zm_prompt_add_word(&kernel, weight->out_features);
    zm_node_output spec = shaped_like(x, weight->out_features, mlx_array_dtype(x));
    mlx_array y;
    zm_prompt_launch(scope, &y, &spec, 1, &kernel, from->arrays, from->count);
    return y;
}

mlx_array zm_prompt_linear(zm_scope *scope, mlx_array x, const zm_weight *weight) {
    if (zm_scope_failed(scope)) return x;
    inputs from = {0};
    add(&from, x);
    add_weight(&from, weight);
    bool few = rows_of(x) < ZM_PROMPT_LEAST_ROWS;
    mlx_array y = few ? multiply_few(scope, x, weight, &from) : multiply_rows(scope, x, weight, 0, &from);
    return zm_is_set(weight->bias) ? zm_add(scope, y, weight->bias) : y;
}

mlx_array zm_prompt_gated(zm_scope *scope, mlx_array x, const zm_weight *gate, const zm_weight *up) {
    if (zm_scope_failed(scope)) return x;
    inputs from = {0};
    add(&from, x);
    add_weight(&from, gate);
    add_weight(&from, up);
    return multiply_rows(scope, x, gate, ZM_PROMPT_GATED, &from);
}

void zm_prompt_route(zm_scope *scope, mlx_array *chosen, mlx_array *weights, mlx_array logits,
                     const zm_gating_arguments *gating) {
    *chosen = *weights = (mlx_array){NULL};
    if (zm_scope_failed(scope)) return;
    int n_tokens = rows_of(logits), tokens_of_block = THREADS / WARP;
    bool has_bias = zm_is_set(gating->expert_bias);
    mlx_dtype dtype = mlx_array_dtype(logits);
    zm_prompt_kernel kernel = {.code = {.kind = ZM_PROMPT_ROUTE,
                                        .is_float16 = dtype == MLX_FLOAT16,
                                        .count = gating->top_k},
                               .block = THREADS,
                               .n_blocks = zm_divide_up(n_tokens, tokens_of_block)};
    zm_weighting own = zm_launch_weighting(gating->gating, gating->normalize_top_k, gating->normalize_epsilon,
                                           gating->routed_scaling_factor);
    const int words[] = {n_tokens, gating->n_experts, (int)gating->gating, has_bias, own.normalizes};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) zm_prompt_add_word(&kernel, words[i]);
    zm_prompt_add_float(&kernel, own.epsilon);
    zm_prompt_add_float(&kernel, own.scaling);
    const zm_node_output specs[2] = {shaped_like(logits, gating->top_k, MLX_UINT32),
                                     shaped_like(logits, gating->top_k, dtype)};
    const mlx_array given[2] = {logits, has_bias ? gating->expert_bias : logits};
    mlx_array results[2];
    zm_prompt_launch(scope, results, specs, 2, &kernel, given, 2);
    *chosen = results[0];
    *weights = results[1];
}

/* order_and_tiles: as around.cuh says. */
static void plan_experts(zm_scope *scope, mlx_array order_and_tiles[2], mlx_array chosen, int n_experts,
                         const request *of) {
    zm_prompt_kernel kernel = {.code = {.kind = ZM_PROMPT_PLAN}, .block = PLAN_THREADS, .n_blocks = 1};
    zm_prompt_add_word(&kernel, of->rows);
    zm_prompt_add_word(&kernel, n_experts);
    zm_prompt_add_word(&kernel, of->tile_rows);
    zm_prompt_add_word(&kernel, of->n_tiles);
    const zm_node_output specs[2] = {{.shape = {of->rows}, .n_dims = 1, .dtype = MLX_UINT32},
                                     {.shape = {of->n_tiles, 4}, .n_dims = 2, .dtype = MLX_UINT32}};
    zm_prompt_launch(scope, order_and_tiles, specs, 2, &kernel, &chosen, 1);
}

static mlx_array combine(zm_scope *scope, mlx_array y, mlx_array weights, const zm_node_output *spec, int rows) {
    int row_vectors = spec->shape[spec->n_dims - 1] / VECTOR, n_vectors = rows * row_vectors;
    zm_prompt_kernel kernel = {.code = {.kind = ZM_PROMPT_COMBINE, .is_float16 = spec->dtype == MLX_FLOAT16},
                               .block = THREADS,
                               .n_blocks = zm_divide_up(n_vectors, THREADS)};
    zm_prompt_add_word(&kernel, n_vectors);
    zm_prompt_add_word(&kernel, row_vectors);
    zm_prompt_add_word(&kernel, zm_dim(weights, -1));
    mlx_array sum;
    zm_prompt_launch(scope, &sum, spec, 1, &kernel, (const mlx_array[]){y, weights}, 2);
    return sum;
}

/* Codes, scales and bias of mxfp4. */
static void add_sorted_weight(inputs *to, const zm_weight *weight) {
    add(to, weight->weight);
    add(to, weight->scales);
    add(to, zm_is_set(weight->bias) ? weight->bias : weight->scales);
}

static zm_prompt_code_key sorted_code(const zm_weight *weight, int kind) {
    return (zm_prompt_code_key){.kind = kind,
                                .bits = weight->quantization.bits,
                                .group_size = weight->quantization.group_size,
                                .is_float16 = zm_decode_dtype(weight) == MLX_FLOAT16,
                                .k = weight->in_features};
}

/* Of ZM_PROMPT_SORTED_IN gate, up and activation, of SORTED_OUT down: (of->rows, out_features). */
static mlx_array multiply_sorted(zm_scope *scope, const request *of, const inputs *from, bool clips) {
    enum { PARTS = 8 }; /* blocks that share a tile's columns */
    const zm_weight *weight = of->weight;
    zm_prompt_kernel kernel = {
        .code = sorted_code(weight, of->kind),
        .block = WARP * ZM_PROMPT_SORTED_WARPS,
        .n_blocks = (int64_t)of->n_tiles * PARTS,
        .shared_bytes = ZM_PROMPT_SORTED_ROWS * zm_launch_staged_bytes(weight),
    };
    const int words[] = {weight->out_features, of->top_k, PARTS, zm_is_set(weight->bias), clips};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) zm_prompt_add_word(&kernel, words[i]);
    mlx_dtype dtype = zm_decode_dtype(weight);
    const zm_node_output spec = {.shape = {of->rows, weight->out_features}, .n_dims = 2, .dtype = dtype};
    mlx_array y;
    zm_prompt_launch(scope, &y, &spec, 1, &kernel, from->arrays, from->count);
    return y;
}

/* The products of chosen experts in mxfp4, a row behind the other: of has rows, top_k and tiles. */
static mlx_array apply_sorted(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, request of,
                              const mlx_array order_and_tiles[2]) {
    inputs from = {0};
    add(&from, x);
    add_sorted_weight(&from, arguments->gate);
    add_sorted_weight(&from, arguments->up);
    add(&from, order_and_tiles[0]);
    add(&from, order_and_tiles[1]);
    of.kind = ZM_PROMPT_SORTED_IN;
    mlx_array hidden = multiply_sorted(scope, &of, &from, arguments->activation == ZM_ACTIVATION_SWIGLU_OAI);
    from = (inputs){0};
    add(&from, hidden);
    add_sorted_weight(&from, arguments->down);
    add(&from, order_and_tiles[0]);
    add(&from, order_and_tiles[1]);
    of.weight = arguments->down;
    of.kind = ZM_PROMPT_SORTED_OUT;
    return multiply_sorted(scope, &of, &from, false);
}

static mlx_array apply_affine(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, request of,
                              const mlx_array order_and_tiles[2]) {
    const zm_weight *gate = arguments->gate, *up = arguments->up, *down = arguments->down;
    inputs from = {0};
    add(&from, x);
    add_weight(&from, gate);
    add_weight(&from, up);
    add(&from, order_and_tiles[0]);
    add(&from, order_and_tiles[1]);
    mlx_dtype dtype = mlx_array_dtype(x);
    const zm_node_output hidden_spec = {.shape = {of.rows, gate->out_features}, .n_dims = 2, .dtype = dtype};
    of.kind = ZM_PROMPT_GATED | ZM_PROMPT_FIRST;
    mlx_array hidden = multiply(scope, &of, &from, &hidden_spec);

    of.weight = down;
    of.kind = ZM_PROMPT_SECOND;
    from = (inputs){0};
    add(&from, hidden);
    add_weight(&from, down);
    add(&from, order_and_tiles[0]);
    add(&from, order_and_tiles[1]);
    const zm_node_output y_spec = {.shape = {of.rows, down->out_features}, .n_dims = 2, .dtype = dtype};
    return multiply(scope, &of, &from, &y_spec);
}

/* Sets the tiles' rows and their number, at most: each expert that is used may leave one part empty. Where an expert
 * has but TILED_ROWS rows on average, weights are what takes time. */
static void cut_experts(request *of, const zm_weight *down) {
    int n_experts = of->weight->n_experts, most_used = of->rows < n_experts ? of->rows : n_experts;
    of->tile_rows = TILED_ROWS;
    of->n_tiles = of->rows / of->tile_rows + most_used;
    request second = *of;
    second.weight = down;
    second.kind = ZM_PROMPT_SECOND;
    bool mxfp4 = is_mxfp4(of->weight), few = of->rows <= TILED_ROWS * n_experts;
    if (!mxfp4 && few && tiled_warps(of) && tiled_warps(&second)) return;
    of->tile_rows = mxfp4 ? ZM_PROMPT_SORTED_ROWS : ZM_PROMPT_MOST_ROWS;
    of->n_tiles = of->rows / of->tile_rows + most_used;
}

mlx_array zm_prompt_experts(zm_scope *scope, mlx_array x, const zm_moe_arguments *arguments, mlx_array chosen,
                            mlx_array weights) {
    if (zm_scope_failed(scope)) return x;
    const zm_weight *gate = arguments->gate;
    int n_experts = gate->n_experts, top_k = zm_dim(chosen, -1);
    request of = {.weight = gate,
                  .kind = ZM_PROMPT_GATED | ZM_PROMPT_FIRST,
                  .rows = (int)mlx_array_size(chosen),
                  .top_k = top_k,
                  .weight_rows = ZM_PROMPT_MANY_WEIGHTS};
    cut_experts(&of, arguments->down);
    mlx_array order_and_tiles[2];
    plan_experts(scope, order_and_tiles, chosen, n_experts, &of);

    mlx_array y = (is_mxfp4(gate) ? apply_sorted : apply_affine)(scope, x, arguments, of, order_and_tiles);
    if (zm_scope_failed(scope)) return x;
    const zm_node_output spec = shaped_like(x, arguments->down->out_features, mlx_array_dtype(x));
    return combine(scope, y, weights, &spec, of.rows / top_k);
}

mlx_array zm_prompt_embed(zm_scope *scope, mlx_array tokens, const zm_weight *table) {
    if (zm_scope_failed(scope)) return tokens;
    int n_tokens = (int)mlx_array_size(tokens), vectors = table->in_features / VECTOR;
    int64_t n_threads = (int64_t)n_tokens * vectors;
    mlx_dtype dtype = zm_decode_dtype(table);
    zm_quantization quantization = table->quantization;
    zm_prompt_kernel kernel = {.code = {.kind = ZM_PROMPT_EMBED,
                                        .bits = quantization.bits,
                                        .group_size = quantization.group_size,
                                        .is_float16 = dtype == MLX_FLOAT16},
                               .block = THREADS,
                               .n_blocks = (n_threads + THREADS - 1) / THREADS};
    zm_prompt_add_word(&kernel, n_tokens);
    zm_prompt_add_word(&kernel, vectors);
    zm_prompt_add_word(&kernel, table->out_features);
    zm_node_output spec = {.n_dims = (int)mlx_array_ndim(tokens) + 1, .dtype = dtype};
    memcpy(spec.shape, mlx_array_shape(tokens), (size_t)(spec.n_dims - 1) * sizeof(int));
    spec.shape[spec.n_dims - 1] = table->in_features;
    inputs from = {0};
    add(&from, tokens);
    add_weight(&from, table);
    mlx_array rows;
    zm_prompt_launch(scope, &rows, &spec, 1, &kernel, from.arrays, from.count);
    return rows;
}

mlx_array zm_prompt_convolve(zm_scope *scope, mlx_array *last, mlx_array projected, mlx_array taps, mlx_array before) {
    *last = (mlx_array){NULL};
    if (zm_scope_failed(scope)) return projected;
    int n_tokens = rows_of(projected), size = zm_dim(projected, -1) / 3;
    int64_t n_threads = (int64_t)zm_divide_up(n_tokens, CONV_TOKENS) * (size / VECTOR);
    mlx_dtype dtype = mlx_array_dtype(projected);
    zm_prompt_kernel kernel = {.code = {.kind = ZM_PROMPT_CONVOLVE, .is_float16 = dtype == MLX_FLOAT16},
                               .block = THREADS,
                               .n_blocks = (n_threads + THREADS - 1) / THREADS};
    zm_prompt_add_word(&kernel, n_tokens);
    zm_prompt_add_word(&kernel, size / VECTOR);
    zm_prompt_add_word(&kernel, zm_is_set(before));
    const zm_node_output specs[2] = {shaped_like(projected, size, dtype),
                                     {.shape = {1, 2, size}, .n_dims = 3, .dtype = dtype}};
    mlx_array results[2];
    zm_prompt_launch(scope, results, specs, 2, &kernel,
                     (const mlx_array[]){projected, taps, zm_is_set(before) ? before : taps}, 3);
    *last = results[1];
    return results[0];
}

zmlx_status zm_prompt_prepare(const zm_weight *weight, zmlx_error *error) {
    const zm_text *cubin;
    const char *reason;
    zm_prompt_code_key key = zm_prompt_serves(weight, &reason) ? code_of(weight, 0, ZM_PROMPT_MANY_WEIGHTS)
                                                               : few_code(weight, ZM_PROMPT_LEAST_FEW);
    if (is_mxfp4(weight)) key = sorted_code(weight, ZM_PROMPT_SORTED_OUT);
    return zm_prompt_code_get(&cubin, key, error);
}
