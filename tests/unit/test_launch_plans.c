/* SPDX-License-Identifier: MIT */
/* What launches of decode's kernels plan, by going through tasks, rings and rows as the kernels do, and what is refused
 * before, without a GPU. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "fused/cuda/launch.h"
#include "fused/cuda/sizes.cuh"
#include "mlx/streams.h"

enum { MOST_TASKS = 16384, MOST_SLOTS = 8, EMPTY = -1 };

static int most(int a, int b) { return a > b ? a : b; }
static void expect(const char *where, const char *what, int actual, int expected) {
    if (actual != expected) fail_msg("%s: %s: %d instead of %d", where, what, actual, expected);
}

/* Tasks of a weight, and what decode.cuh makes of its rows, by hand. A step is 512 elements of 4 bits, 256 of 8, 1024
 * in mxfp4; a slot task_rows * (codes + scales and biases), up to the next 128 bytes. */
typedef struct task_form {
    zm_quantization quantization;
    int k, task_rows, n_pieces, slot_bytes, x_bytes;
} task_form;

static const task_form one_piece = {{64, 4, "affine"}, 2048, 2, 1, 2304, 4096};
static const task_form channel = {{64, 4, "affine"}, 2048, 3, 1, 3456, 4096};
static const task_form two_pieces = {{64, 4, "affine"}, 4096, 2, 2, 2304, 8192};
static const task_form three_pieces = {{64, 4, "affine"}, 7168, 2, 3, 2944, 15360};
static const task_form eight_bits = {{64, 8, "affine"}, 2048, 2, 2, 2176, 4096};
static const task_form mxfp4 = {{32, 4, "mxfp4"}, 5120, 2, 1, 5504, 20480};

/* The plan by hand: fewest and tasks_before are the least warps with so few tasks each, and what the busiest scheduler
 * has then; warps and tasks what becomes of them. last_bytes: of a kernel before that is everywhere. n_idle: slots at
 * the end that nobody touches. */
static const struct product {
    const char *name;
    const task_form *form;
    int n_tasks, n_ahead, grid, fewest, tasks_before, warps, tasks, unit, most_warps, last_bytes, n_idle;
    bool shares; /* not one_each */
} products[] = {
    {"experts of LFM2", &one_piece, 7168, 3, 132, 14, 16, 16, .tasks = 14, .unit = 4},
    {"the same, where more warps take more memory", &eight_bits, 7168, 3, 132, 14, 16, 14, .tasks = 16, .unit = 4},
    {"qkv of Qwen3-30B", &one_piece, 2560, 0, 132, 10, 6, 12, .tasks = 5},
    {"the same of up to 8 warps", &one_piece, 2560, 0, 132, 7, 6, 8, .tasks = 5, .most_warps = 8},
    {"blocks that share", &one_piece, 2560, 0, 122, 7, 6, 7, .tasks = 6, .most_warps = 8, .shares = true},
    {"a large kernel before", &one_piece, 2560, 0, 132, 7, 6, 7, .tasks = 6, .most_warps = 8, .last_bytes = 170000},
    {"convolution", &channel, 2048, 0, 132, 16, 4, 16, .tasks = 4},
    {"two pieces", &two_pieces, 2560, 0, 132, 10, 6, 12, .tasks = 5, .n_idle = 4},
    {"three pieces", &three_pieces, 1024, 3, 132, 8, 2, 8, .tasks = 2},
    {"five experts", &one_piece, 5000, 3, 130, 13, 12, 16, .tasks = 10, .unit = 5},
    {"experts without room for 16 warps", &mxfp4, 11520, 3, 132, 9, 29, 9, .tasks = 29, .unit = 4},
    {"a task each", &one_piece, 100, 0, 100, 4, 1, 4, .tasks = 1},
    {"two tasks of an expert", &one_piece, 8, 0, 4, 4, 1, 4, .tasks = 1, .unit = 4, .shares = true},
};

typedef struct turns {
    int first, stride, end; /* tasks of a warp: first, first + stride, ... below end */
} turns;

/* Blocks take turns with all tasks or, in units, as experts_in has it, have neighbouring ones of an expert. */
static turns turns_of(const struct product *of, int grid, int warps, int block, int warp) {
    if (!of->unit) return (turns){block + warp * grid, grid * warps, of->n_tasks};
    int n = of->n_tasks / of->unit, blocks = grid / of->unit, n_rows = (n + blocks - 1) / blocks;
    int first = block / of->unit * n_rows, end = first + n_rows < n ? first + n_rows : n, at = block % of->unit * n;
    return (turns){at + first + warp, warps, at + end};
}

static int busiest_tasks(const struct product *of, int grid, int warps) {
    int busiest = 0;
    for (int i = 0; i < grid * SCHEDULERS; i++) {
        int tasks = 0;
        for (int warp = i % SCHEDULERS; warp < warps; warp += SCHEDULERS) {
            turns own = turns_of(of, grid, warps, i / SCHEDULERS, warp);
            for (int task = own.first; task < own.end; task += own.stride) tasks++;
        }
        busiest = most(busiest, tasks);
    }
    return busiest;
}

/* multiply of decode.cuh for a warp's pieces, of which one is copied while that of n_ahead before is multiplied. The
 * result is where the last byte that it touches ends. */
static int multiply(const struct product *of, int n_pieces, int warp, int warps, const zm_product_plan *plan) {
    int held[MOST_SLOTS], touched = 0;
    for (int i = 0; i < plan->n_slots; i++) held[i] = EMPTY;
    for (int i = -plan->n_ahead; i < n_pieces; i++) {
        int copied = i + plan->n_ahead, to = copied % plan->n_slots;
        if (copied < n_pieces) {
            expect(of->name, "a copy's slot", held[to], EMPTY);
            held[to] = copied;
            touched = most(touched, of->form->x_bytes + (to * warps + warp + 1) * of->form->slot_bytes);
        }
        if (i >= 0) held[i % plan->n_slots] = EMPTY;
    }
    return touched;
}

static void tasks_have_a_warp_and_slots(void **state) {
    (void)state;
    static uint8_t done[MOST_TASKS];
    for (const struct product *of = products; of < products + sizeof products / sizeof *products; of++) {
        zm_weight weight = {.quantization = of->form->quantization, .in_features = of->form->k, .out_features = 2};
        zm_decode decode = {.last_bytes = of->last_bytes, .last_everywhere = of->last_bytes > 0};
        zm_launch launch = {.decode = &decode, .one_each = !of->shares, .unit = of->unit, .most_warps = of->most_warps};
        zm_product_plan plan = {&weight, of->n_tasks, of->form->task_rows, .n_inputs = 1, .n_ahead = of->n_ahead};
        zm_launch_spread(&launch, &plan);
        int grid = launch.record.grid, warps = launch.record.block / WARP, touched = 0;
        int hidden_ahead = of->form->n_pieces > 1 ? 2 : 1;
        expect(of->name, "blocks", grid, of->grid);
        expect(of->name, "warps", warps, of->warps);
        expect(of->name, "pieces ahead", plan.n_ahead, of->n_ahead ? of->n_ahead : hidden_ahead);
        expect(of->name, "bytes of a round", plan.round_bytes, warps * of->form->slot_bytes);
        expect(of->name, "tasks before", busiest_tasks(of, grid, of->fewest), of->tasks_before);
        expect(of->name, "tasks", busiest_tasks(of, grid, warps), of->tasks);
        expect(of->name, "slots for a warp", plan.n_slots > 0 && plan.n_slots <= MOST_SLOTS, true);
        memset(done, 0, sizeof done);
        for (int i = 0; i < grid * warps; i++) {
            turns own = turns_of(of, grid, warps, i / warps, i % warps);
            int n_pieces = 0;
            for (int task = own.first; task < own.end; task += own.stride) done[task]++, n_pieces += of->form->n_pieces;
            touched = most(touched, multiply(of, n_pieces, i % warps, warps, &plan));
        }
        for (int task = 0; task < of->n_tasks; task++) expect(of->name, "warps of a task", done[task], 1);
        expect(of->name, "bytes", launch.record.shared_bytes, touched + of->n_idle * of->form->slot_bytes);
        expect(of->name, "room", launch.record.shared_bytes <= ZM_DECODE_MAX_SHARED, true);
    }
}

/* Blocks stay whole where rows do not end with a half, halves are of an odd number or fewer than multiprocessors, or
 * blocks are more than those. */
static const struct halving {
    int n, rows, grid, n_whole;
} halvings[] = {
    {2048, 16, 132, 124}, {2880, 24, 132, 108}, {4096, 32, 132, 124}, {1056, 16, 132, 0}, {2112, 16, 132, 132},
    {2050, 16, 129, 129}, {768, 6, 128, 128},   {635, 5, 127, 127},   {1048, 16, 66, 66}, {2120, 16, 133, 133},
};

static void halves_cover_rows_once(void **state) {
    (void)state;
    for (const struct halving *of = halvings; of < halvings + sizeof halvings / sizeof *halvings; of++) {
        bool fills = of->grid == MULTIPROCESSORS;
        char name[32];
        snprintf(name, sizeof name, "%d by %d", of->n, of->rows);
        zm_launch launch = {.one_each = !fills};
        expect(name, "whole blocks", zm_launch_halve(&launch, of->n, of->rows), of->n_whole);
        expect(name, "blocks", launch.record.grid, of->grid);
        expect(name, "a block each", launch.one_each, fills);
        int row = 0;
        for (int block = 0; block < of->grid; block++) {
            int first = block * of->rows - (most(block, of->n_whole) - of->n_whole) * (of->rows / 2);
            expect(name, "first_row of decode.cuh", first, row);
            expect(name, "a block has rows", row < of->n, true);
            row += block < of->n_whole ? of->rows : of->rows / 2;
        }
        expect(name, "all rows", fills ? row == of->n : row >= of->n, true);
    }
}

enum { MULTIPROCESSOR_BYTES = 228 * 1024, BLOCK_BYTES = 1024, REGISTERS = 65536 / SCHEDULERS, UNIT = 8 };

static zm_launch launch_of(zm_decode *decode, int warps, int registers, int bytes) {
    zm_chain_launch_record record = {.block = warps * WARP, .shared_bytes = bytes};
    return (zm_launch){.decode = decode, .record = record, .registers = registers};
}

/* Of the first scheduler, whose warps' threads get a unit at a time. */
static int registers_of(int warps, int registers) {
    int taken = 0;
    for (int warp = 0; warp < warps; warp += SCHEDULERS)
        for (int given = 0; given < registers; given += UNIT) taken += UNIT * WARP;
    return taken;
}

static void registers_are_counted(void **state) {
    (void)state;
    enum { LAST = 4096, WARPS = 12, OWN = 56, MOST_REGISTERS = 255 };
    zm_decode decode = {.last_registers = LAST};
    zm_launch launch = launch_of(&decode, WARPS, OWN, 0), next = launch_of(&decode, 9, 72, 0);
    assert_true(zm_launch_leaves(&launch, &next)); /* 4096 + 3 * 32 * (56 + 72) are all */
    next.registers++;
    assert_false(zm_launch_leaves(&launch, &next));
    for (int i = 0; i < DECODE_WARPS * MOST_REGISTERS; i++) {
        next = launch_of(&decode, i / MOST_REGISTERS + 1, i % MOST_REGISTERS + 1, 0);
        int all = LAST + registers_of(WARPS, OWN) + registers_of(i / MOST_REGISTERS + 1, i % MOST_REGISTERS + 1);
        expect("a block", "beside one before it", zm_launch_leaves(&launch, &next), all <= REGISTERS);
        expect("a block", "beside one behind it", zm_launch_leaves(&next, &launch), all <= REGISTERS);
    }
}

/* What a block of 30000 bytes takes then; of one_each at least more than half of what may be left, or of all where it
 * must wait for the kernel before, or is alone and need not. */
static const struct claim {
    int last_bytes, bytes;
    bool everywhere, one_each, alone;
} claims[] = {
    {60000, 31024, true, false, false}, {0, 116752, false, true, false},     {60000, 116752, false, true, false},
    {60000, 86752, true, true, false},  {116700, 58400, false, true, false}, {190000, 31024, true, true, false},
    {202320, 31024, true, true, false}, {202321, 116752, true, true, false}, {202321, 116752, false, true, false},
    {60000, 116752, true, true, true},  {116592, 116752, true, true, true},  {116593, 58448, true, true, true},
};

static void shared_memory_is_counted(void **state) {
    (void)state;
    for (const struct claim *of = claims; of < claims + sizeof claims / sizeof *claims; of++) {
        zm_decode decode = {.last_bytes = of->last_bytes, .last_everywhere = of->everywhere};
        int left = MULTIPROCESSOR_BYTES - of->last_bytes - of->bytes - BLOCK_BYTES;
        zm_launch launch = launch_of(&decode, 4, 32, 30000), next = launch_of(&decode, 4, 32, left);
        launch.one_each = of->one_each, launch.is_alone = of->alone;
        assert_true(zm_launch_leaves(&launch, &next));
        next.record.shared_bytes++;
        assert_false(zm_launch_leaves(&launch, &next));
    }
}

/* Hidden layers of mxfp4 that fit by themselves, but not with the pieces of weights beside them. */
static void experts_that_do_not_fit_are_refused(void **state) {
    (void)state;
    static const struct {
        int hidden_size, k, top_k;
        bool fits;
    } cases[] = {{2880, 2880, 4, true}, {2880, 6400, 3, false}, {2880, 8192, 3, false}, {2880, 14336, 1, false}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_quantization quantization = mxfp4.quantization;
        int k = cases[i].k, hidden_size = cases[i].hidden_size;
        zm_weight gate = {.quantization = quantization, .in_features = hidden_size, .out_features = k};
        zm_weight down = {.quantization = quantization, .in_features = k, .out_features = hidden_size};
        const char *reason = NULL;
        assert_true(zm_decode_fits(&down, cases[i].top_k));
        bool serves = zm_decode_serves_experts(&gate, &down, ZM_ACTIVATION_SWIGLU_OAI, cases[i].top_k, &reason);
        expect("experts", "served", serves, cases[i].fits);
        if (!serves) assert_string_equal(reason, "its hidden layer does not fit shared memory");
    }
}

/* Where there is no stream of a GPU left, or no GPU. */
static void unread_scales_are_named(void **state) {
    (void)state;
    mlx_stream host, taken[ZM_MAX_GPU_STREAMS];
    zm_scope scope;
    const char *reason = NULL;
    int n_taken = 0;
    assert_int_equal(zm_stream_new(&host, MLX_CPU, NULL), ZMLX_OK);
    zm_scope_begin(&scope, host);
    zm_weight weight = {.quantization = {64, 4, "affine"}, .in_features = 64, .out_features = 2};
    weight.weight = zm_zeros(&scope, (const int[]){2, 8}, 2, MLX_UINT32);
    weight.scales = weight.biases = zm_zeros(&scope, (const int[]){2, 1}, 2, MLX_BFLOAT16);
    while (n_taken < ZM_MAX_GPU_STREAMS && !zm_stream_new(&taken[n_taken], MLX_GPU, NULL)) n_taken++;
    assert_true(zm_decode_serves_layout(&weight, &reason));
    assert_false(zm_decode_serves_weight(&weight, &reason));
    assert_string_equal(reason, "its scales could not be read on the GPU");
    while (n_taken) zm_stream_free(taken[--n_taken]);
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_OK);
    zm_stream_free(host);
}

static void arguments_that_have_no_place_fail(void **state) {
    (void)state;
    zm_scope scope = {0};
    zm_decode decode = {.scope = &scope};
    zm_launch launch = {.decode = &decode, .kernel = ZM_DECODE_KERNEL_router};
    for (int i = 0; i < ZM_CHAIN_MAX_ARGUMENTS; i++) zm_launch_add_int(&launch, i);
    assert_false(zm_scope_failed(&scope));
    zm_launch_add_int(&launch, 0);
    assert_int_equal(scope.failure.code, ZMLX_ERROR_ARGUMENT);
    assert_string_equal(scope.failure.where, "router");
    assert_string_equal(scope.failure.message, "more than 24 arguments");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tasks_have_a_warp_and_slots), cmocka_unit_test(halves_cover_rows_once),
        cmocka_unit_test(registers_are_counted), cmocka_unit_test(shared_memory_is_counted),
        cmocka_unit_test(experts_that_do_not_fit_are_refused), cmocka_unit_test(unread_scales_are_named),
        cmocka_unit_test(arguments_that_have_no_place_fail)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
