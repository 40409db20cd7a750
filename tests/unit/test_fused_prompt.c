/* SPDX-License-Identifier: MIT */
/* Products of many rows on a CUDA device (fused/cuda/prompt.h): every bit against MLX's own operations on the same
 * device, values against float64. Skipped where there is no such device. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/random.h"
#include "fused/cuda/prompt.h"
#include "mlx/streams.h"
#include "model/layers.h"

enum { SKIPPED = 77 };

static mlx_stream stream, host_stream;
static uint64_t drawn;
static bool is_float16; /* the type of rows and scales; otherwise bfloat16 */
static zmlx_error error;

static int open_streams(void **state) {
    (void)state;
    return zm_stream_new(&host_stream, MLX_CPU, NULL) || zm_stream_new(&stream, MLX_GPU, NULL);
}

static int close_streams(void **state) {
    (void)state;
    zm_stream_free(stream);
    zm_stream_free(host_stream);
    return 0;
}

static void *allocate(size_t bytes) {
    void *memory = malloc(bytes);
    assert_non_null(memory);
    return memory;
}

static uint32_t draw(void) { return (uint32_t)(zm_splitmix64(7, drawn++) >> 32); }

static uint16_t narrow(float value) {
    return is_float16 ? zm_float16_from_float(value) : zm_bfloat16_from_float(value);
}
static double widen(uint16_t half) {
    return (double)(is_float16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half));
}
static mlx_dtype half_type(void) { return is_float16 ? MLX_FLOAT16 : MLX_BFLOAT16; }

/* Halves between -size and size. */
static uint16_t *draw_halves(size_t count, float size) {
    uint16_t *halves = allocate(count * sizeof *halves);
    for (size_t i = 0; i < count; i++) halves[i] = narrow(size * ((float)draw() * 0x1p-31f - 1));
    return halves;
}

static mlx_array halves_array(zm_scope *scope, const uint16_t *halves, const int *shape, int n_dims) {
    return zm_from_data(scope, halves, shape, n_dims, half_type());
}

/* A weight and its numbers: (experts, out, in), each rounded to a half as a product takes it. */
typedef struct drawn_weight {
    zm_weight weight;
    uint32_t *words;
    uint16_t *scales, *biases, *bias;
    uint8_t *exponents; /* mxfp4 */
} drawn_weight;

static drawn_weight draw_weight(zm_scope *scope, int n_experts, int out, int in, int bits, int group_size) {
    drawn_weight made = {.weight = {.quantization = {group_size, bits, "affine"},
                                    .in_features = in,
                                    .out_features = out,
                                    .n_experts = n_experts}};
    size_t rows = (size_t)(n_experts ? n_experts : 1) * (size_t)out;
    size_t n_words = rows * (size_t)in * (size_t)bits / 32, n_groups = rows * (size_t)(in / group_size);
    made.words = allocate(n_words * sizeof *made.words);
    for (size_t i = 0; i < n_words; i++) made.words[i] = draw();
    made.scales = draw_halves(n_groups, 0.02f);
    made.biases = draw_halves(n_groups, 0.1f);
    made.bias = draw_halves(rows, 0.5f);
    made.exponents = allocate(2 * n_groups);
    for (size_t i = 0; i < 2 * n_groups; i++) made.exponents[i] = (uint8_t)(119 + draw() % 5);
    int skip = n_experts ? 0 : 1, shape[3] = {n_experts, out, in * bits / 32};
    made.weight.weight = zm_from_data(scope, made.words, shape + skip, 3 - skip, MLX_UINT32);
    shape[2] = in / group_size;
    made.weight.scales = halves_array(scope, made.scales, shape + skip, 3 - skip);
    made.weight.biases = halves_array(scope, made.biases, shape + skip, 3 - skip);
    return made;
}

/* The codes of groups of 64 in mxfp4, with groups of 32, and a bias for each row. */
static void turn_to_mxfp4(zm_scope *scope, drawn_weight *weight) {
    zm_weight *own = &weight->weight;
    int shape[3] = {own->n_experts, own->out_features, own->in_features / 32};
    own->quantization = (zm_quantization){32, 4, "mxfp4"};
    own->scales = zm_from_data(scope, weight->exponents, shape, 3, MLX_UINT8);
    own->biases = (mlx_array){NULL};
    own->bias = halves_array(scope, weight->bias, shape, 2);
}

static void free_weight(const drawn_weight *weight) {
    free(weight->words);
    free(weight->bias);
    free(weight->exponents);
    free(weight->scales);
    free(weight->biases);
}

/* The numbers of an array of halves, whichever device has it, exactly; the caller frees. */
static float *numbers_of(zm_scope *scope, mlx_array array) {
    if (zm_scope_failed(scope)) fail_msg("%s: %s", scope->failure.where, scope->failure.message);
    assert_int_equal(mlx_array_dtype(array), half_type());
    if (mlx_array_eval(array)) {
        zm_mlx_fail(&error, "evaluation");
        fail_msg("%s", error.message);
    }
    zm_scope host;
    mlx_array kept = {NULL};
    zm_scope_begin(&host, host_stream);
    zm_scope_keep(&host, &kept, zm_astype(&host, array, MLX_FLOAT32));
    assert_int_equal(zm_scope_end(&host, &error), 0);
    assert_int_equal(mlx_array_eval(kept), 0);
    size_t bytes = mlx_array_nbytes(kept);
    float *numbers = allocate(bytes);
    memcpy(numbers, mlx_array_data_float32(kept), bytes);
    mlx_array_free(kept);
    return numbers;
}

static size_t n_different(const float *a, const float *b, size_t count) {
    size_t different = 0;
    for (size_t i = 0; i < count; i++) different += memcmp(&a[i], &b[i], sizeof *a) != 0;
    return different;
}

static void end_well(zm_scope *scope) {
    if (zm_scope_end(scope, &error)) fail_msg("%s: %s", error.where, error.message);
}

static double number_of(const drawn_weight *of, size_t row, int column) {
    int bits = of->weight.quantization.bits, group_size = of->weight.quantization.group_size;
    size_t element = row * (size_t)of->weight.in_features + (size_t)column;
    uint32_t code = 0;
    for (size_t i = 0; i < (size_t)bits; i++) {
        size_t bit = element * (size_t)bits + i;
        code |= (of->words[bit / 32] >> bit % 32 & 1) << i;
    }
    double scale = widen(of->scales[element / (size_t)group_size]);
    double bias = widen(of->biases[element / (size_t)group_size]);
    return widen(narrow((float)(code * scale + bias)));
}

/* y within a place of its type of the sum in float64, and what sums in float32 of K/16 steps may lose, or those in
 * halves where few rows of x are multiplied. */
static void expect_sum(float y, const drawn_weight *weight, size_t row, const uint16_t *x, bool few) {
    double sum = 0, size = 0;
    for (int k = 0; k < weight->weight.in_features; k++) {
        double product = widen(x[k]) * number_of(weight, row, k);
        sum += product;
        size += fabs(product);
    }
    double tolerance = (is_float16 ? 0x1p-11 : 0x1p-8) * fabs(sum) + (few ? 0x1p-8 : 0x1p-20) * size;
    if (!(fabs((double)y - sum) <= tolerance)) fail_msg("%.9g, expected %.9g", (double)y, sum);
}

typedef struct linear_case {
    int bits, group_size, rows, n, k;
} linear_case;

static void compare_linear(const linear_case *of) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    drawn_weight weight = draw_weight(&scope, 0, of->n, of->k, of->bits, of->group_size);
    const char *reason;
    bool few = of->rows < ZM_PROMPT_LEAST_ROWS;
    assert_true(few ? zm_prompt_serves_few(&weight.weight, (size_t)of->rows, &reason)
                    : zm_prompt_serves(&weight.weight, &reason));
    uint16_t *numbers = draw_halves((size_t)of->rows * (size_t)of->k, 2);
    mlx_array x = halves_array(&scope, numbers, (const int[]){1, of->rows, of->k}, 3);
    const zm_weight *w = &weight.weight;
    float *expected =
        numbers_of(&scope, zm_quantized_matmul(&scope, x, w->weight, w->scales, w->biases, w->quantization));
    float *actual = numbers_of(&scope, zm_prompt_linear(&scope, x, w));
    size_t count = (size_t)of->rows * (size_t)of->n, different = n_different(actual, expected, count);
    print_message("%d bits, groups of %3d, %4d x %4d x %4d: %zu of %zu differ\n", of->bits, of->group_size, of->rows,
                  of->n, of->k, different, count);
    for (size_t i = 0; i < 64; i++) {
        size_t row = draw() % (size_t)of->rows, column = draw() % (size_t)of->n;
        expect_sum(actual[row * (size_t)of->n + column], &weight, column, numbers + row * (size_t)of->k, few);
    }
    if (different) fail_msg("%zu of %zu numbers differ from MLX's", different, count);
    free(expected);
    free(actual);
    free(numbers);
    free_weight(&weight);
    end_well(&scope);
}

/* Rows that fill no tile, widths that are no multiple of one, long and short sums. */
static void test_linear(void **state) {
    (void)state;
    static const linear_case cases[] = {
        {4, 64, 512, 256, 2048}, {4, 64, 65, 384, 1792}, {4, 64, 300, 6144, 256}, {4, 64, 64, 128, 384},
        {4, 64, 16, 256, 2048},  {4, 64, 8, 128, 7168},  {4, 64, 9, 2048, 512},   {4, 64, 31, 256, 1024},
        {4, 64, 512, 32, 2048},  {4, 64, 70, 98, 2048},  {8, 64, 300, 256, 1024}, {8, 64, 13, 384, 2048},
        {8, 64, 128, 32, 256},   {4, 32, 100, 256, 448}, {4, 128, 100, 256, 768}, {4, 128, 100, 256, 1024},
        {2, 64, 300, 256, 2048}, {2, 64, 9, 98, 1792},   {2, 32, 100, 256, 448},  {3, 64, 300, 256, 2048},
        {3, 64, 13, 128, 1792},  {3, 64, 65, 98, 384},   {5, 64, 300, 256, 2048}, {5, 64, 8, 384, 1792},
        {5, 128, 100, 256, 768}, {6, 64, 31, 98, 384},   {6, 64, 300, 256, 2048},
        /* few rows in tiles of eight: by blocks of all warps and of few, of one piece and many; and in no such tiles */
        {4, 64, 8, 9728, 2560},  {4, 64, 11, 2048, 4096}, {4, 64, 40, 1024, 2048}, {4, 64, 8, 16, 256},
        {8, 64, 8, 6144, 2048},  {8, 32, 10, 256, 512},   {2, 32, 8, 256, 512},    {3, 128, 11, 256, 768},
        {5, 32, 16, 256, 1024},  {6, 128, 9, 64, 256},    {4, 64, 12, 128, 384},   {8, 64, 9, 98, 2048},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) compare_linear(&cases[i]);
}

/* Fewer rows than MLX's matrix kernels take, with the bits of its vector kernel. */
static void test_few(void **state) {
    (void)state;
    static const linear_case cases[] = {
        {4, 64, 2, 256, 2048}, {4, 64, 3, 98, 1792},   {4, 64, 4, 512, 2048}, {4, 64, 7, 130, 7168},
        {8, 64, 5, 256, 2048}, {8, 64, 2, 98, 1792},   {4, 32, 6, 256, 448},  {4, 128, 4, 256, 768},
        {8, 32, 7, 130, 320},  {4, 64, 2, 4096, 8192}, {2, 64, 3, 256, 2048}, {2, 32, 7, 98, 448},
        {3, 64, 2, 256, 2048}, {3, 64, 7, 130, 1792},  {3, 128, 4, 98, 384},  {5, 64, 2, 256, 2048},
        {5, 32, 7, 130, 896},  {6, 64, 4, 256, 2048},  {6, 64, 7, 98, 1792},  {6, 128, 3, 130, 640},
        {3, 64, 2, 98, 192},   {5, 64, 7, 130, 2880}}; /* rows that are no whole vectors of 16 bytes */
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) compare_linear(&cases[i]);
}

/* Gate, up and activation at once against the three operations. */
static void test_gated(void **state) {
    (void)state;
    static const linear_case cases[] = {{4, 64, 200, 896, 1024}, {4, 64, 12, 384, 512},  {4, 64, 8, 8192, 2048},
                                        {8, 32, 9, 264, 1024},   {4, 64, 20, 100, 384}, {8, 64, 100, 256, 512},
                                        {3, 64, 100, 256, 512},  {6, 64, 12, 256, 512}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const linear_case *of = &cases[i];
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        drawn_weight gate = draw_weight(&scope, 0, of->n, of->k, of->bits, of->group_size);
        drawn_weight up = draw_weight(&scope, 0, of->n, of->k, of->bits, of->group_size);
        uint16_t *numbers = draw_halves((size_t)of->rows * (size_t)of->k, 1);
        mlx_array x = halves_array(&scope, numbers, (const int[]){1, of->rows, of->k}, 3);
        const zm_weight *g = &gate.weight, *u = &up.weight;
        mlx_array gates = zm_quantized_matmul(&scope, x, g->weight, g->scales, g->biases, g->quantization);
        mlx_array ups = zm_quantized_matmul(&scope, x, u->weight, u->scales, u->biases, u->quantization);
        float *expected = numbers_of(&scope, zm_activation_apply(&scope, ZM_ACTIVATION_SWIGLU, gates, ups));
        float *actual = numbers_of(&scope, zm_prompt_gated(&scope, x, g, u));
        size_t count = (size_t)of->rows * (size_t)of->n, different = n_different(actual, expected, count);
        print_message("gated, %d bits, %d x %d x %d: %zu of %zu differ\n", of->bits, of->rows, of->n, of->k, different,
                      count);
        assert_int_equal(different, 0);
        free(expected);
        free(actual);
        free(numbers);
        free_weight(&gate);
        free_weight(&up);
        end_well(&scope);
    }
}

typedef struct expert_case {
    int bits, tokens, n_experts, top_k, hidden_size, n;
    int n_used; /* only the first so many experts are chosen */
} expert_case;

/* Different experts for each token. */
static uint32_t *draw_experts(const expert_case *of) {
    uint32_t *chosen = allocate((size_t)of->tokens * (size_t)of->top_k * sizeof *chosen);
    for (int t = 0; t < of->tokens; t++)
        for (int i = 0; i < of->top_k; i++) {
            uint32_t *own = chosen + (size_t)t * (size_t)of->top_k;
            bool is_new = false;
            while (!is_new) {
                own[i] = draw() % (uint32_t)of->n_used;
                is_new = true;
                for (int j = 0; j < i; j++) is_new = is_new && own[j] != own[i];
            }
        }
    return chosen;
}

/* is_gpt_oss: mxfp4, biases and clipped units. */
static size_t compare_experts(const expert_case *of, bool is_gpt_oss, bool spoil) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    drawn_weight gate = draw_weight(&scope, of->n_experts, of->n, of->hidden_size, of->bits, 64);
    drawn_weight up = draw_weight(&scope, of->n_experts, of->n, of->hidden_size, of->bits, 64);
    drawn_weight down = draw_weight(&scope, of->n_experts, of->hidden_size, of->n, of->bits, 64);
    if (is_gpt_oss) turn_to_mxfp4(&scope, &gate), turn_to_mxfp4(&scope, &up), turn_to_mxfp4(&scope, &down);
    uint16_t *numbers = draw_halves((size_t)of->tokens * (size_t)of->hidden_size, 1);
    uint16_t *shares = draw_halves((size_t)of->tokens * (size_t)of->top_k, 1);
    uint32_t *experts = draw_experts(of);
    const int chosen_shape[3] = {1, of->tokens, of->top_k};
    mlx_array x = halves_array(&scope, numbers, (const int[]){1, of->tokens, of->hidden_size}, 3);
    mlx_array weights = halves_array(&scope, shares, chosen_shape, 3);
    mlx_array chosen = zm_from_data(&scope, experts, chosen_shape, 3, MLX_UINT32);

    zm_linear linears[3] = {{.weight = gate.weight}, {.weight = up.weight}, {.weight = down.weight}};
    zm_switch_glu standard = {.gate_proj = &linears[0], .up_proj = &linears[1], .down_proj = &linears[2],
                              .activation = is_gpt_oss ? ZM_ACTIVATION_SWIGLU_OAI : ZM_ACTIVATION_SWIGLU};
    mlx_array y = zm_switch_glu_call(&standard, &scope, x, chosen);
    y = zm_sum(&scope, zm_multiply(&scope, y, zm_expand_dims(&scope, weights, -1)), -2, false);
    float *expected = numbers_of(&scope, y);
    if (spoil) { /* the last token's last expert is another one */
        uint32_t *last = experts + of->tokens * of->top_k - 1;
        *last = (*last + 1) % (uint32_t)of->n_experts;
        chosen = zm_from_data(&scope, experts, chosen_shape, 3, MLX_UINT32);
    }
    zm_moe_arguments arguments = {.gate = &gate.weight,
                                  .up = &up.weight,
                                  .down = &down.weight,
                                  .activation = standard.activation};
    float *actual = numbers_of(&scope, zm_prompt_experts(&scope, x, &arguments, chosen, weights));
    size_t count = (size_t)of->tokens * (size_t)of->hidden_size, different = n_different(actual, expected, count);
    print_message("experts%s, %d bits, %d tokens, %d of %d experts (%d used), %d and %d: %zu of %zu differ\n",
                  is_gpt_oss ? " of gpt_oss" : "", of->bits, of->tokens, of->top_k, of->n_experts, of->n_used,
                  of->hidden_size, of->n, different, count);
    free(expected);
    free(actual);
    free(numbers);
    free(shares);
    free(experts);
    free_weight(&gate);
    free_weight(&up);
    free_weight(&down);
    end_well(&scope);
    return different;
}

static void test_experts(void **state) {
    (void)state;
    static const expert_case cases[] = {
        {4, 512, 32, 4, 256, 384, 32}, /* as many rows an expert as a tile has */
        {4, 700, 8, 2, 256, 384, 8},   /* more */
        {4, 200, 32, 4, 256, 256, 5},  /* most experts have none */
        {4, 333, 4, 1, 256, 256, 1},   /* one has all */
        {4, 100, 128, 8, 256, 256, 128},
        {4, 2, 32, 4, 256, 384, 32},   {4, 13, 32, 4, 512, 256, 32}, /* the first: as few as MLX multiplies so */
        {8, 150, 16, 4, 256, 256, 16}, {2, 100, 16, 8, 256, 256, 16}, {3, 300, 16, 4, 512, 384, 16},
        {5, 13, 16, 4, 256, 256, 16},  {6, 300, 16, 4, 512, 384, 16},
        {4, 4, 32, 4, 2048, 1792, 32}, {4, 16, 128, 8, 2048, 768, 128}, {8, 8, 16, 4, 512, 768, 16},
        {4, 60, 32, 4, 512, 256, 5}, /* experts with many tiles of eight rows, and most with none */
        {3, 9, 16, 4, 512, 256, 16},   {2, 16, 16, 8, 256, 512, 16},    {6, 7, 16, 4, 1024, 256, 16},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(compare_experts(&cases[i], false, false), 0);
}

static void test_sees_a_difference(void **state) {
    (void)state;
    static const expert_case of = {4, 100, 32, 4, 256, 384, 32};
    size_t different = compare_experts(&of, false, true);
    assert_true(different > 0 && different <= 256);
}

/* In the order of MLX's vector kernel, and of one token's other expert. */
static void test_mxfp4_experts(void **state) {
    (void)state;
    static const expert_case cases[] = {{4, 100, 32, 4, 576, 704, 32}, {4, 2, 32, 4, 576, 704, 32},
                                        {4, 13, 8, 4, 2880, 576, 8},   {4, 40, 4, 2, 2880, 2880, 3}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_int_equal(compare_experts(&cases[i], true, false), 0);
    size_t different = compare_experts(&cases[0], true, true);
    assert_true(different > 0 && different <= 576);
}

/* Logits of few different values, so that many are equal; some are NaN. */
static void test_route(void **state) {
    (void)state;
    static const struct {
        zm_gating gating;
        int n_tokens, n_experts, top_k;
        bool has_bias, normalize;
        float scaling;
    } cases[] = {
        {ZM_GATING_SIGMOID_BIAS, 511, 32, 4, true, true, 1},
        {ZM_GATING_SIGMOID_BIAS, 100, 64, 4, true, true, 2.5f},
        {ZM_GATING_SIGMOID_BIAS, 77, 128, 8, false, true, 1},
        {ZM_GATING_SIGMOID_BIAS, 9, 8, 2, true, false, 1},
        {ZM_GATING_SOFTMAX_THEN_TOP_K, 511, 128, 8, false, true, 1},
        {ZM_GATING_SOFTMAX_THEN_TOP_K, 2, 60, 4, false, false, 1},
        {ZM_GATING_SOFTMAX_THEN_TOP_K, 100, 256, 8, false, true, 1},
        {ZM_GATING_TOP_K_THEN_SOFTMAX_LOW, 300, 8, 2, false, false, 1},
        {ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, 300, 32, 4, false, false, 1},
        {ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, 8, 128, 4, false, false, 1}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        int n_experts = cases[i].n_experts, shape[3] = {1, cases[i].n_tokens, n_experts};
        size_t count = (size_t)shape[1] * (size_t)n_experts, n_chosen = (size_t)shape[1] * (size_t)cases[i].top_k;
        uint16_t *numbers = draw_halves(count, 3);
        for (size_t j = 0; j < count; j += 3) numbers[j] = numbers[j] & 0xffc0;
        numbers[5] = 0x7fc0;
        float *biases = allocate((size_t)n_experts * sizeof *biases);
        for (int j = 0; j < n_experts; j++) biases[j] = (float)(j % 3) * 0.01f;
        mlx_array logits = halves_array(&scope, numbers, shape, 3), none = {NULL};
        mlx_array bias = cases[i].has_bias ? zm_from_data(&scope, biases, &n_experts, 1, MLX_FLOAT32) : none;
        zm_gating_arguments gating = {.expert_bias = bias, .gating = cases[i].gating, .n_experts = n_experts,
                                      .top_k = cases[i].top_k, .normalize_top_k = cases[i].normalize,
                                      .normalize_epsilon = 1e-6f, .routed_scaling_factor = cases[i].scaling};
        zm_moe moe = {.expert_bias = bias, .gating = gating.gating, .n_experts = n_experts, .top_k = gating.top_k,
                      .normalize_top_k = gating.normalize_top_k, .normalize_epsilon = gating.normalize_epsilon,
                      .routed_scaling_factor = gating.routed_scaling_factor};
        const char *reason;
        assert_true(zm_prompt_serves_gating(&gating, &reason));
        zm_routing expected = zm_moe_route(&moe, &scope, logits, half_type()), actual;
        zm_prompt_route(&scope, &actual.indices, &actual.weights, logits, &gating);
        float *results[4] = {numbers_of(&scope, expected.weights), numbers_of(&scope, actual.weights),
                             numbers_of(&scope, zm_astype(&scope, expected.indices, half_type())),
                             numbers_of(&scope, zm_astype(&scope, actual.indices, half_type()))};
        size_t weights = n_different(results[1], results[0], n_chosen),
               experts = n_different(results[3], results[2], n_chosen);
        print_message("route %d, %d tokens, %d of %d experts: %zu weights and %zu experts of %zu differ\n",
                      (int)cases[i].gating, shape[1], cases[i].top_k, n_experts, weights, experts, n_chosen);
        assert_int_equal(weights + experts, 0);
        for (int j = 0; j < 4; j++) free(results[j]);
        free(numbers);
        free(biases);
        end_well(&scope);
    }
}

/* Rows of a table against MLX's gathered and dequantised ones; one token is another one where spoil. */
static size_t compare_rows(int bits, int group_size, bool spoil) {
    enum { N_TOKENS = 99, N_ROWS = 1000, SIZE = 384 };
    const int shape[2] = {1, N_TOKENS};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    drawn_weight table = draw_weight(&scope, 0, N_ROWS, SIZE, bits, group_size);
    int32_t tokens[N_TOKENS];
    for (int i = 0; i < N_TOKENS; i++) tokens[i] = (int32_t)(draw() % N_ROWS);
    mlx_array names = zm_from_data(&scope, tokens, shape, 2, MLX_INT32);
    const zm_weight *w = &table.weight;
    mlx_array rows = zm_dequantize(&scope, zm_take(&scope, w->weight, names, 0), zm_take(&scope, w->scales, names, 0),
                                   zm_take(&scope, w->biases, names, 0), w->quantization);
    float *expected = numbers_of(&scope, rows);
    if (spoil) {
        tokens[7] = (tokens[7] + 1) % N_ROWS;
        names = zm_from_data(&scope, tokens, shape, 2, MLX_INT32);
    }
    float *actual = numbers_of(&scope, zm_prompt_embed(&scope, names, w));
    size_t different = n_different(actual, expected, N_TOKENS * SIZE);
    print_message("rows of a table, %d bits, groups of %d: %zu of %d differ\n", bits, group_size, different,
                  N_TOKENS * SIZE);
    free(expected);
    free(actual);
    free_weight(&table);
    end_well(&scope);
    return different;
}

static void test_embed(void **state) {
    (void)state;
    assert_int_equal(compare_rows(4, 64, false), 0);
    assert_int_equal(compare_rows(4, 32, false), 0);
    assert_int_equal(compare_rows(8, 64, false), 0);
    assert_int_equal(compare_rows(2, 64, false), 0);
    assert_int_equal(compare_rows(3, 64, false), 0);
    assert_int_equal(compare_rows(5, 64, false), 0);
    assert_int_equal(compare_rows(6, 32, false), 0);
    assert_int_not_equal(compare_rows(4, 64, true), 0);
}

/* Against the product, the concatenation, MLX's convolution and the second product. */
static void test_convolve(void **state) {
    (void)state;
    static const struct {
        int length;
        bool is_first;
    } cases[] = {{2, false}, {9, false}, {64, true}, {511, false}, {2047, true}};
    enum { SIZE = 256 };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        int length = cases[i].length;
        uint16_t *numbers = draw_halves((size_t)length * 3 * SIZE, 2),
                 *earlier = draw_halves(2 * SIZE, cases[i].is_first ? 0 : 2), *tap = draw_halves(3 * SIZE, 1);
        mlx_array projected = halves_array(&scope, numbers, (const int[]){1, length, 3 * SIZE}, 3), last;
        mlx_array before = halves_array(&scope, earlier, (const int[]){1, 2, SIZE}, 3);
        mlx_array taps = halves_array(&scope, tap, (const int[]){SIZE, 3, 1}, 3), thirds[3];
        for (int j = 0; j < 3; j++) thirds[j] = zm_slice_axis(&scope, projected, -1, j * SIZE, (j + 1) * SIZE, 1);
        mlx_array x = zm_concatenate(&scope, before, zm_multiply(&scope, thirds[0], thirds[2]), 1);
        float *expected = numbers_of(&scope, zm_multiply(&scope, thirds[1], zm_conv1d(&scope, x, taps, SIZE)));
        float *expected_last = numbers_of(&scope, zm_slice_axis(&scope, x, 1, -2, length + 2, 1));
        float *actual = numbers_of(&scope, zm_prompt_convolve(&scope, &last, projected, taps,
                                                              cases[i].is_first ? (mlx_array){NULL} : before));
        float *actual_last = numbers_of(&scope, last);
        size_t count = (size_t)length * SIZE, different = n_different(actual, expected, count);
        print_message("convolution, %d tokens: %zu of %zu differ\n", length, different, count);
        assert_int_equal(different + n_different(actual_last, expected_last, 2 * SIZE), 0);
        free(expected);
        free(expected_last);
        free(actual);
        free(actual_last);
        free(numbers);
        free(earlier);
        free(tap);
        end_well(&scope);
    }
}

/* A result that is dropped before its kernel has run keeps its memory from another stream's results. */
static void test_streams(void **state) {
    (void)state;
    enum { ROWS = 64, K = 4096, N = 256, DELAYS = 100 };
    mlx_stream other;
    assert_int_equal(zm_stream_new(&other, MLX_GPU, &error), 0);
    zm_scope scope, late;
    zm_scope_begin(&scope, stream);
    drawn_weight weight = draw_weight(&scope, 0, N, K, 4, 64);
    uint16_t *numbers = draw_halves((size_t)ROWS * K, 2);
    mlx_array x = halves_array(&scope, numbers, (const int[]){1, ROWS, K}, 3);
    mlx_array zero = zm_zeros(&scope, (const int[]){K, K}, 2, MLX_BFLOAT16);
    float *expected = numbers_of(&scope, zm_prompt_linear(&scope, x, &weight.weight));

    zm_scope_begin(&late, other);
    mlx_array delay = zero;
    for (int i = 0; i < DELAYS; i++) delay = zm_matmul(&late, delay, zero);
    mlx_array dropped = zm_prompt_linear(&late, zm_matmul(&late, x, delay), &weight.weight);
    mlx_vector_array begun = mlx_vector_array_new();
    mlx_vector_array_append_value(begun, dropped);
    assert_int_equal(mlx_async_eval(begun), 0);
    mlx_vector_array_free(begun);
    assert_int_equal(zm_scope_end(&late, &error), 0);

    mlx_array y = zm_prompt_linear(&scope, x, &weight.weight);
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(mlx_synchronize(other), 0);
    float *actual = numbers_of(&scope, y);
    assert_int_equal(n_different(actual, expected, (size_t)ROWS * N), 0);
    free(expected);
    free(actual);
    free(numbers);
    assert_int_equal(zm_scope_end(&scope, &error), 0);
    free_weight(&weight);
    zm_stream_free(other);
}

static void test_refusals(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    drawn_weight weight = draw_weight(&scope, 0, 128, 256, 4, 64);
    const char *reason;
    assert_true(zm_prompt_serves(&weight.weight, &reason));
    zm_weight other = weight.weight;
    other.in_features = 64; /* one group: another kernel of MLX */
    assert_false(zm_prompt_serves(&other, &reason));
    other = weight.weight;
    other.quantization.bits = 7;
    assert_false(zm_prompt_serves(&other, &reason));
    other = weight.weight;
    other.scales = zm_astype(&scope, other.scales, MLX_FLOAT32);
    assert_false(zm_prompt_serves(&other, &reason));
    other = weight.weight;
    other.quantization.bits = 7;
    assert_false(zm_prompt_serves_few(&other, 2, &reason));
    free_weight(&weight);
    end_well(&scope);
}

static int use_float16(void **state) {
    (void)state;
    is_float16 = true;
    return 0;
}

static int use_bfloat16(void **state) {
    (void)state;
    is_float16 = false;
    return 0;
}

/* An argument chooses tests by a pattern of cmocka's. */
int main(int argc, char **argv) {
    if (argc > 1) cmocka_set_test_filter(argv[1]);
    if (!zm_prompt_available()) {
        print_message("no CUDA device: skipped\n");
        return SKIPPED;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),      cmocka_unit_test(test_few),     cmocka_unit_test(test_linear),
        cmocka_unit_test(test_gated),         cmocka_unit_test(test_experts), cmocka_unit_test(test_sees_a_difference),
        cmocka_unit_test(test_mxfp4_experts), cmocka_unit_test(test_route),   cmocka_unit_test(test_embed),
        cmocka_unit_test(test_convolve),      cmocka_unit_test(test_streams),
#define FLOAT16(name) {"float16_" #name, test_##name, use_float16, use_bfloat16, NULL}
        FLOAT16(few), FLOAT16(linear), FLOAT16(gated), FLOAT16(experts),
        FLOAT16(mxfp4_experts), FLOAT16(route), FLOAT16(embed), FLOAT16(convolve),
#undef FLOAT16
    };
    return cmocka_run_group_tests(tests, open_streams, close_streams);
}
