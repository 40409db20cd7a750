/* SPDX-License-Identifier: MIT */
#include "fused/cuda/launch.h"

#include <stdint.h>
#include <string.h>

#include "fused/cuda/sizes.cuh"
#include "fused/cuda/timeline.h"

enum {
    VECTOR_BYTES = 16,
    LINE_BYTES = 128, /* shared memory's, with which pieces begin */
    MOST_STATIC_BYTES = 128, /* of two kernels of one_each */
    SCHEDULER_REGISTERS = 16 * 1024,
    REGISTER_UNIT = 8, /* a thread gets a multiple */
    WORD = 4, /* of scales and biases: bytes that are copied at once */
};

/* How rows go through the kernels: lanes.cuh, and layout of decode.cuh. */
typedef struct row_layout {
    int step;  /* elements that a warp takes at once */
    int steps; /* of a piece */
    int n_pieces;
    int staged_bytes; /* of x in shared memory */
    int step_bytes;   /* of codes */
    int group_bytes;  /* of scales and biases of a piece, as they are copied */
} row_layout;

/* Steps of a piece: so many that few are empty. */
static int steps_of(int row_steps) {
    if (row_steps <= 5) return row_steps;
    int in_5 = zm_divide_up(row_steps, 5) * 5, in_4 = zm_divide_up(row_steps, 4) * 4;
    int in_3 = zm_divide_up(row_steps, 3) * 3;
    return in_3 < in_4 && in_3 < in_5 ? 3 : in_5 < in_4 ? 5 : 4;
}

static row_layout layout_of(const zm_weight *weight) {
    enum { X_BYTES = 2 };
    zm_quantization quantization = weight->quantization;
    bool is_mxfp4 = !strcmp(quantization.mode, "mxfp4");
    int lane_elements = is_mxfp4 ? 32 : quantization.bits <= 4 ? 16 : 8, k = weight->in_features;
    row_layout row = {.step = WARP * lane_elements, .step_bytes = WARP * lane_elements * quantization.bits / 8};
    int row_steps = zm_divide_up(k, row.step);
    row.steps = steps_of(row_steps);
    row.n_pieces = zm_divide_up(row_steps, row.steps);
    row.staged_bytes = row.n_pieces * row.steps * row.step * (is_mxfp4 ? (int)sizeof(float) : X_BYTES);
    int bytes = is_mxfp4 ? 1 : 2, lists = is_mxfp4 ? 1 : 2;
    bool in_words = k / quantization.group_size * bytes % WORD == 0;
    int groups = row.steps * row.step / quantization.group_size;
    row.group_bytes = lists * zm_divide_up(groups * bytes + (in_words ? 0 : WORD / 2), WORD) * WORD;
    return row;
}

int zm_launch_staged_bytes(const zm_weight *weight) { return layout_of(weight).staged_bytes; }

int zm_launch_tile_bytes(const zm_weight *weight, int n_slots) {
    enum { VECTOR = 16 };
    int codes = n_slots * EXPERT_TILE_ROWS * EXPERT_TILE_SPACE(weight->quantization.bits);
    int lists = EXPERT_TILE_LISTS * EXPERT_TILE_LIST_SPACE(weight->quantization.group_size, weight->in_features);
    return (codes + lists) * VECTOR;
}

zm_weighting zm_launch_weighting(zm_gating gating, bool normalize_top_k, float epsilon, float scaling) {
    bool sigmoid = gating == ZM_GATING_SIGMOID_BIAS;
    bool normalizes = sigmoid || gating == ZM_GATING_SOFTMAX_THEN_TOP_K;
    return (zm_weighting){normalize_top_k && normalizes, sigmoid ? epsilon : 0, sigmoid ? scaling : 1};
}

bool zm_decode_failed(const zm_decode *decode) { return !decode->chain || zm_scope_failed(decode->scope); }

zm_place zm_decode_temporary(zm_decode *decode, int elements) {
    if (zm_decode_failed(decode)) return -1;
    return zm_chain_temporary(decode->chain, (size_t)elements * sizeof(uint16_t));
}

zm_place zm_decode_residual(zm_decode *decode) {
    if (!decode->publishes) return zm_decode_temporary(decode, decode->hidden_size);
    decode->publishes = false;
    return zm_decode_output(decode, decode->dtype, 3, (const int[]){1, 1, decode->hidden_size});
}

zm_launch zm_launch_begin(zm_decode *decode, zm_decode_kernel kernel, const zm_weight *weight) {
    zm_launch made = {.decode = decode, .kernel = kernel};
    made.record.block = WARP * DECODE_WARPS;
    made.record.grid = 1;
    if (zm_decode_failed(decode)) return made;
    const zm_decode_program *program;
    int k = zm_decode_kernel_is_hidden(kernel) ? decode->hidden_size : weight->in_features;
    if (!zm_decode_program_for(&program, weight, k, decode->hidden_size, decode->head_dim, decode->top_k,
                               &decode->scope->failure))
        made.record.kernel = program->kernels[kernel], made.registers = program->registers[kernel];
    return made;
}

void zm_launch_reserve(zm_launch *launch, zm_product_plan *plan, int warps, int n_tasks) {
    row_layout row = layout_of(plan->weight);
    int rounds = zm_divide_up(n_tasks, warps), n_pieces = rounds * row.n_pieces;
    int piece_bytes = plan->task_rows * (row.steps * row.step_bytes + row.group_bytes);
    int slot_bytes = zm_divide_up(piece_bytes, LINE_BYTES) * LINE_BYTES;
    if (!plan->n_ahead) plan->n_ahead = row.n_pieces == 1 ? 1 : MANY_PIECES_AHEAD;
    plan->round_bytes = warps * slot_bytes; /* a slot for each warp */
    plan->n_pieces = n_pieces;
    plan->n_slots = n_pieces < plan->n_ahead + 1 ? n_pieces : plan->n_ahead + 1;
    int n_without = plan->n_slots == n_pieces ? rounds * warps - n_tasks : 0; /* warps, that need no last slot */
    launch->record.block = WARP * warps;
    launch->record.shared_bytes =
        plan->n_inputs * row.staged_bytes + plan->n_slots * plan->round_bytes - n_without * slot_bytes;
}

/* Where one_each is set, a block takes so much shared memory that no multiprocessor has room for two of them. Some
 * would get two otherwise, and end last. If a block of the kernel before leaves no room for that, or that kernel has
 * one on each and another is to begin beside both, it is only so much that there is none for two beside the one
 * before. */
static int claimed_bytes(const zm_launch *launch) {
    const zm_decode *decode = launch->decode;
    int own = launch->record.shared_bytes + ZM_BLOCK_BYTES, last = decode->last_bytes;
    if (!launch->one_each) return own;
    const int all = ZM_MULTIPROCESSOR_BYTES - MOST_STATIC_BYTES;
    int alone = ZM_MULTIPROCESSOR_BYTES / 2 + VECTOR_BYTES;
    int beside_last = (ZM_MULTIPROCESSOR_BYTES - last) / 2 + VECTOR_BYTES;
    bool shares = last + own <= all && (last + alone > all || (decode->last_everywhere && !launch->is_alone));
    int least = shares ? beside_last : alone;
    return own < least ? least / VECTOR_BYTES * VECTOR_BYTES : own;
}

/* Tasks of the first of a multiprocessor's schedulers, which has no fewer than another, where warps take turns. */
static int scheduler_tasks(int n_tasks, int warps) {
    return n_tasks / warps * zm_divide_up(warps, SCHEDULERS) + zm_divide_up(n_tasks % warps, SCHEDULERS);
}

/* More warps, where schedulers have their tasks more evenly then and the block takes no more shared memory. */
static void even_out(zm_launch *launch, zm_product_plan *plan, int warps, int most) {
    int n_tasks = zm_divide_up(plan->n_tasks, launch->record.grid);
    zm_launch_reserve(launch, plan, warps, n_tasks);
    int bytes = claimed_bytes(launch);
    for (int more = warps + 1; more <= most; more++) {
        if (scheduler_tasks(n_tasks, more) >= scheduler_tasks(n_tasks, warps)) continue;
        zm_launch_reserve(launch, plan, more, n_tasks);
        if (claimed_bytes(launch) <= bytes) warps = more;
    }
    zm_launch_reserve(launch, plan, warps, n_tasks);
}

void zm_launch_spread(zm_launch *launch, zm_product_plan *plan) {
    enum { LEAST_WARPS = 4 };
    int most = launch->most_warps ? launch->most_warps : DECODE_WARPS, unit = launch->unit ? launch->unit : 1;
    for (;;) {
        int rounds = zm_divide_up(plan->n_tasks, MULTIPROCESSORS * most);
        int warps = zm_divide_up(plan->n_tasks, MULTIPROCESSORS * rounds);
        if (warps < LEAST_WARPS) warps = LEAST_WARPS;
        int least = zm_divide_up(plan->n_tasks, warps * rounds);
        int all = plan->n_tasks < MULTIPROCESSORS ? plan->n_tasks : MULTIPROCESSORS;
        int grid = launch->one_each ? all : least;
        launch->record.grid = grid < unit ? unit : grid / unit * unit;
        even_out(launch, plan, warps, most);
        if (launch->record.shared_bytes <= ZM_DECODE_MAX_SHARED || most == LEAST_WARPS) return;
        most--;
    }
}

int zm_launch_left(const zm_product_plan *plan, const zm_product_plan *next) {
    int first = next->n_slots < next->n_ahead ? next->n_slots : next->n_ahead;
    int left = 1 + zm_divide_up(first * next->round_bytes, plan->round_bytes), half = zm_divide_up(plan->n_pieces, 2);
    return left < half ? left : half;
}

static void add(zm_launch *launch, zm_chain_argument argument) {
    if (launch->record.n_arguments < ZM_CHAIN_MAX_ARGUMENTS)
        launch->record.arguments[launch->record.n_arguments++] = argument;
    else
        zm_scope_fail(launch->decode->scope, ZMLX_ERROR_ARGUMENT, zm_decode_kernel_name(launch->kernel),
                      "more than %d arguments", ZM_CHAIN_MAX_ARGUMENTS);
}
void zm_launch_add_place(zm_launch *launch, zm_place place) {
    add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_ARRAY, .place = place});
}
void zm_launch_add_null(zm_launch *launch) { add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_NULL}); }
void zm_launch_add_int(zm_launch *launch, int value) {
    add(launch, (zm_chain_argument){.kind = ZM_ARGUMENT_WORD, .word = (uint32_t)value});
}
void zm_launch_add_float(zm_launch *launch, float value) {
    zm_chain_argument argument = {.kind = ZM_ARGUMENT_WORD};
    memcpy(&argument.word, &value, sizeof value);
    add(launch, argument);
}
void zm_launch_add_ring(zm_launch *launch, const zm_product_plan *plan) {
    zm_launch_add_int(launch, plan->n_slots);
}
void zm_launch_add_ring_and_left(zm_launch *launch, const zm_product_plan *plan) {
    zm_launch_add_ring(launch, plan);
    zm_launch_add_int(launch, plan->n_left);
}

void zm_launch_add_constant(zm_launch *launch, mlx_array array) {
    if (!zm_is_set(array) || zm_decode_failed(launch->decode))
        zm_launch_add_null(launch);
    else
        zm_launch_add_place(launch, zm_chain_constant(launch->decode->chain, array));
}
static uint64_t bytes_of(mlx_array array) { return zm_is_set(array) ? mlx_array_nbytes(array) : 0; }

void zm_launch_add_weight(zm_launch *launch, const zm_weight *weight) {
    uint64_t bytes = bytes_of(weight->weight) + bytes_of(weight->scales) + bytes_of(weight->biases);
    launch->bytes += weight->n_experts ? bytes / (uint64_t)weight->n_experts * (uint64_t)launch->decode->top_k : bytes;
    zm_launch_add_constant(launch, weight->weight);
    zm_launch_add_constant(launch, weight->scales);
    zm_launch_add_constant(launch, weight->biases);
}

/* Of the first scheduler, which has no fewer warps of a block than another. */
static int scheduler_registers(const zm_launch *launch) {
    int warps = zm_divide_up(launch->record.block / WARP, SCHEDULERS);
    return warps * WARP * zm_divide_up(launch->registers, REGISTER_UNIT) * REGISTER_UNIT;
}

bool zm_launch_leaves(const zm_launch *launch, const zm_launch *next) {
    const zm_decode *decode = launch->decode;
    int bytes = decode->last_bytes + claimed_bytes(launch) + claimed_bytes(next);
    int registers = decode->last_registers + scheduler_registers(launch) + scheduler_registers(next);
    return bytes <= ZM_MULTIPROCESSOR_BYTES && registers <= SCHEDULER_REGISTERS;
}

int zm_launch_halve(zm_launch *launch, int n, int rows) {
    int halves = zm_divide_up(n, rows / 2), blocks = zm_divide_up(n, rows), n_whole = halves - MULTIPROCESSORS;
    bool fills = rows % 4 == 0 && n % (rows / 2) == 0 && blocks <= MULTIPROCESSORS && n_whole >= 0;
    launch->one_each = fills;
    launch->record.grid = fills ? MULTIPROCESSORS : blocks;
    return fills ? n_whole : blocks;
}

void zm_launch_end(zm_launch *launch) {
    if (zm_decode_failed(launch->decode)) return;
    zm_decode *decode = launch->decode;
    int own = claimed_bytes(launch);
    launch->record.shared_bytes = own - ZM_BLOCK_BYTES;
    decode->last_bytes = own;
    decode->last_registers = scheduler_registers(launch);
    decode->last_everywhere = launch->one_each && launch->record.grid >= MULTIPROCESSORS;
    zm_timeline_add(launch);
    zm_chain_launch(decode->chain, &launch->record);
}
