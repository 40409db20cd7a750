/* SPDX-License-Identifier: MIT */
/* The mixture of experts as a node: against a float64 computation from the dequantised weights, and
 * against MLX's own gathered product. */
#include "fused_node_testing.h"

enum { EXPERTS = 8, GROUPS = 4, IN = 128, HIDDEN = 192, OUT = 70, TOKENS = 5, MANY = 600 /* more than one slice */ };

/* A linear map in float64: value[expert][row][i], bias[expert][row]. */
typedef struct exact_map {
    double *value, *bias;
    size_t in, out;
} exact_map;

static exact_map exact(zm_scope *scope, const zm_weight *weight) {
    mlx_array full = weight->weight;
    if (weight->quantization.mode)
        full = zm_dequantize(scope, full, weight->scales, weight->biases, weight->quantization);
    exact_map map = {.in = (size_t)weight->in_features, .out = (size_t)weight->out_features};
    map.value = numbers(scope, full);
    if (zm_is_set(weight->bias)) map.bias = numbers(scope, weight->bias);
    return map;
}

static void free_map(exact_map *map) {
    free(map->value);
    free(map->bias);
}

static void apply(double *y, const exact_map *map, size_t expert, const double *x) {
    for (size_t row = 0; row < map->out; row++) {
        size_t place = expert * map->out + row;
        y[row] = map->bias ? map->bias[place] : 0;
        for (size_t i = 0; i < map->in; i++) y[row] += map->value[place * map->in + i] * x[i];
    }
}

static double unit(double gate, double up, zm_activation activation) {
    double scale = activation == ZM_ACTIVATION_SWIGLU_OAI ? 1.702 : 1;
    if (activation == ZM_ACTIVATION_GEGLU)
        return 0.5 * gate * (1 + tanh(sqrt(2 / acos(-1)) * (gate + 0.044715 * gate * gate * gate))) * up;
    if (activation == ZM_ACTIVATION_SWIGLU_OAI) {
        gate = fmin(gate, 7);
        up = fmax(-7, fmin(up, 7)) + 1;
    }
    return up * gate / (1 + exp(-scale * gate));
}

typedef struct mixture {
    zm_weight router, gate, up, down, shared_gate, shared_up, shared_down, shared_router;
    zm_moe_arguments arguments;
} mixture;

/* Experts outside the best groups, by the sums of their two experts, count as 0. */
static void keep_groups(double *choice, int n_kept) {
    double sum[GROUPS];
    for (int g = 0; g < GROUPS; g++) sum[g] = choice[2 * g] + choice[2 * g + 1];
    for (int g = 0; g < GROUPS; g++) {
        int n_better = 0;
        for (int other = 0; other < GROUPS; other++) n_better += sum[other] > sum[g];
        if (n_better >= n_kept) choice[2 * g] = choice[2 * g + 1] = 0;
    }
}

/* The weight of every expert for one token; 0 where it is not chosen. */
static void route(double *weights, const double *logits, const double *bias,
                  const zm_moe_arguments *arguments) {
    double score[EXPERTS], choice[EXPERTS], softmax_sum = 0, sum = 0;
    bool groups = arguments->gating == ZM_GATING_SIGMOID_GROUPS;
    bool late = !groups && arguments->gating >= ZM_GATING_TOP_K_THEN_SOFTMAX_LOW;
    for (int e = 0; e < EXPERTS; e++) {
        score[e] = exp(logits[e]);
        softmax_sum += score[e];
    }
    for (int e = 0; e < EXPERTS; e++) {
        if (groups || arguments->gating == ZM_GATING_SIGMOID_BIAS) score[e] = 1 / (1 + exp(-logits[e]));
        else if (!late) score[e] /= softmax_sum;
        choice[e] = score[e] + (bias ? bias[e] : 0);
        weights[e] = 0;
    }
    if (groups) keep_groups(choice, arguments->top_groups);
    for (int k = 0; k < arguments->top_k; k++) {
        int best = -1;
        for (int e = 0; e < EXPERTS; e++)
            if (weights[e] == 0 && (best < 0 || choice[e] > choice[best])) best = e;
        weights[best] = score[best];
        sum += score[best];
    }
    for (int e = 0; e < EXPERTS; e++) {
        if (late) weights[e] /= sum;
        else if (arguments->normalize_top_k) weights[e] /= sum + (double)arguments->normalize_epsilon;
        weights[e] *= (double)arguments->routed_scaling_factor;
    }
}

/* The shared MLP's part of a token's result. */
static void add_shared(zm_scope *scope, double *y, const double *x, const mixture *of) {
    if (!of->arguments.shared_gate) return;
    exact_map gate = exact(scope, &of->shared_gate), up = exact(scope, &of->shared_up);
    exact_map down = exact(scope, &of->shared_down);
    double gates[HIDDEN], ups[HIDDEN], part[OUT];
    apply(gates, &gate, 0, x);
    apply(ups, &up, 0, x);
    for (size_t i = 0; i < HIDDEN; i++) gates[i] = unit(gates[i], ups[i], of->arguments.activation);
    apply(part, &down, 0, gates);
    double weight = 1;
    if (of->arguments.shared_router) {
        exact_map router = exact(scope, &of->shared_router);
        apply(&weight, &router, 0, x);
        weight = 1 / (1 + exp(-weight));
        free_map(&router);
    }
    for (size_t i = 0; i < OUT; i++) y[i] += weight * part[i];
    free_map(&gate), free_map(&up), free_map(&down);
}

static double *expected_result(zm_scope *scope, mlx_array x_array, const mixture *of, size_t tokens) {
    exact_map router = exact(scope, &of->router), gate = exact(scope, &of->gate);
    exact_map up = exact(scope, &of->up), down = exact(scope, &of->down);
    double *x = numbers(scope, x_array), *y = calloc(tokens * OUT, sizeof *y);
    double *bias = zm_is_set(of->arguments.expert_bias) ? numbers(scope, of->arguments.expert_bias) : NULL;
    assert_non_null(y);
    for (size_t t = 0; t < tokens; t++) {
        double logits[EXPERTS], weights[EXPERTS], gates[HIDDEN], ups[HIDDEN], part[OUT];
        apply(logits, &router, 0, x + t * IN);
        route(weights, logits, bias, &of->arguments);
        for (size_t e = 0; e < EXPERTS; e++) {
            if (weights[e] == 0) continue;
            apply(gates, &gate, e, x + t * IN);
            apply(ups, &up, e, x + t * IN);
            for (size_t i = 0; i < HIDDEN; i++) gates[i] = unit(gates[i], ups[i], of->arguments.activation);
            apply(part, &down, e, gates);
            for (size_t i = 0; i < OUT; i++) y[t * OUT + i] += weights[e] * part[i];
        }
        add_shared(scope, y + t * OUT, x + t * IN, of);
    }
    free_map(&router), free_map(&gate), free_map(&up), free_map(&down);
    free(x);
    free(bias);
    return y;
}

static void random_mixture(mixture *of, zm_scope *scope, zm_gating gating, zm_quantization format,
                           bool biases) {
    zm_quantization router = format.mode ? (zm_quantization){64, 8, "affine"} : format;
    *of = (mixture){.router = random_weight(scope, 0, EXPERTS, IN, router, MLX_FLOAT32),
                    .gate = random_weight(scope, EXPERTS, HIDDEN, IN, format, MLX_FLOAT32),
                    .up = random_weight(scope, EXPERTS, HIDDEN, IN, format, MLX_FLOAT32),
                    .down = random_weight(scope, EXPERTS, OUT, HIDDEN, format, MLX_FLOAT32)};
    if (biases) {
        of->router.bias = random_array(scope, (const int[]){EXPERTS}, 1, MLX_FLOAT32, 1);
        of->gate.bias = random_array(scope, (const int[]){EXPERTS, HIDDEN}, 2, MLX_BFLOAT16, 3);
        of->up.bias = random_array(scope, (const int[]){EXPERTS, HIDDEN}, 2, MLX_FLOAT16, 3);
        of->down.bias = random_array(scope, (const int[]){EXPERTS, OUT}, 2, MLX_FLOAT32, 3);
    }
    of->arguments = (zm_moe_arguments){.router = &of->router,
                                       .gate = &of->gate,
                                       .up = &of->up,
                                       .down = &of->down,
                                       .activation = (zm_activation)((int)gating % 3),
                                       .gating = gating,
                                       .top_k = 3,
                                       .routed_scaling_factor = 1};
    if (gating == ZM_GATING_SIGMOID_GROUPS) {
        of->arguments.n_groups = GROUPS;
        of->arguments.top_groups = biases ? 2 : GROUPS;
    }
    if (gating == ZM_GATING_SOFTMAX_THEN_TOP_K) {
        of->shared_router = random_weight(scope, 0, 1, IN, router, MLX_FLOAT32);
        of->arguments.shared_router = &of->shared_router;
    }
    if (gating == ZM_GATING_SIGMOID_GROUPS || gating == ZM_GATING_SOFTMAX_THEN_TOP_K) {
        of->shared_gate = random_weight(scope, 0, HIDDEN, IN, format, MLX_FLOAT32);
        of->shared_up = random_weight(scope, 0, HIDDEN, IN, format, MLX_FLOAT32);
        of->shared_down = random_weight(scope, 0, OUT, HIDDEN, format, MLX_FLOAT32);
        of->arguments.shared_gate = &of->shared_gate;
        of->arguments.shared_up = &of->shared_up;
        of->arguments.shared_down = &of->shared_down;
    }
    if (gating == ZM_GATING_SIGMOID_BIAS || gating == ZM_GATING_SIGMOID_GROUPS) {
        of->arguments.expert_bias = random_array(scope, (const int[]){EXPERTS}, 1, MLX_FLOAT32, 0.5f);
        of->arguments.normalize_top_k = true;
        of->arguments.normalize_epsilon = 0.01f;
        of->arguments.routed_scaling_factor = 1.5f;
    }
    if (gating == ZM_GATING_SOFTMAX_THEN_TOP_K) of->arguments.normalize_top_k = biases;
    if (gating == ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH) of->arguments.activation = ZM_ACTIVATION_SWIGLU_OAI;
}

enum { N_GATINGS = ZM_GATING_SIGMOID_GROUPS + 1 };
static const zm_quantization stacks[] = {
    {64, 4, "affine"}, {32, 4, "mxfp4"}, {0, 0, NULL}, {32, 5, "affine"}};

static void every_gating_agrees_with_float64(void **state) {
    (void)state;
    for (size_t f = 0; f < 4; f++) {
        for (int gating = 0; gating < N_GATINGS; gating++) {
            for (int biases = 0; biases < 2; biases++) {
                zm_scope scope;
                zm_scope_begin(&scope, stream);
                mixture of;
                random_mixture(&of, &scope, (zm_gating)gating, stacks[f], biases);
                mlx_array x = random_array(&scope, (const int[]){1, TOKENS, IN}, 3, MLX_FLOAT32, 1);
                mlx_array y = zm_fused_moe(&scope, x, &of.arguments, compute);
                double *expected = expected_result(&scope, x, &of, TOKENS), *actual = numbers(&scope, y);
                double error = relative_error(actual, expected, TOKENS * OUT);
                if (!(error <= 1e-5)) fail_msg("format %zu gating %d: relative error %.3g", f, gating, error);
                free(expected);
                free(actual);
                end_well(&scope);
            }
        }
    }
}

/* One expert's scale 1 % off: the comparison above must notice where the expert is chosen. */
static void a_wrong_expert_scale_is_noticed(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mixture of;
    random_mixture(&of, &scope, ZM_GATING_SIGMOID_BIAS, stacks[0], false);
    of.arguments.top_k = EXPERTS;
    mlx_array x = random_array(&scope, (const int[]){TOKENS, IN}, 2, MLX_FLOAT32, 1);
    double *expected = expected_result(&scope, x, &of, TOKENS);
    float factors[EXPERTS] = {1, 1, 1, 1.01f, 1, 1, 1, 1};
    mlx_array factor = zm_from_data(&scope, factors, (const int[]){EXPERTS, 1, 1}, 3, MLX_FLOAT32);
    zm_weight wrong = of.down;
    wrong.scales = zm_multiply(&scope, wrong.scales, factor);
    for (int broken = 0; broken < 2; broken++) {
        of.arguments.down = broken ? &wrong : &of.down;
        double *actual = numbers(&scope, zm_fused_moe(&scope, x, &of.arguments, compute));
        assert_int_equal(relative_error(actual, expected, TOKENS * OUT) > 1e-5, broken);
        free(actual);
    }
    free(expected);
    end_well(&scope);
}

static void check_bits(zm_gating gating) {
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mixture of;
    random_mixture(&of, &scope, gating, stacks[0], true);
    mlx_array x = random_array(&scope, (const int[]){MANY, IN}, 2, MLX_FLOAT32, 1);
    double *expected = numbers(&scope, zm_fused_moe(&scope, x, &of.arguments, (zm_compute){0}));
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        zm_pool *threads;
        assert_int_equal(zm_pool_new(&threads, n_threads, NULL), ZMLX_OK);
        double *actual = numbers(&scope, zm_fused_moe(&scope, x, &of.arguments, (zm_compute){.pool = threads}));
        assert_memory_equal(actual, expected, MANY * OUT * sizeof *actual);
        free(actual);
        for (int token = 0; token < MANY; token += 97) {
            mlx_array row = zm_slice_axis(&scope, x, 0, token, token + 1, 1);
            actual = numbers(&scope, zm_fused_moe(&scope, row, &of.arguments, (zm_compute){.pool = threads}));
            assert_memory_equal(actual, expected + token * OUT, OUT * sizeof *actual);
            free(actual);
        }
        zm_pool_free(threads);
    }
    free(expected);
    end_well(&scope);
}

static void tokens_and_threads_do_not_change_the_bits(void **state) {
    (void)state;
    check_bits(ZM_GATING_SOFTMAX_THEN_TOP_K);
    check_bits(ZM_GATING_SIGMOID_GROUPS);
}

/* With one expert the mixture is that expert's MLP, by MLX's gathered products. */
static void one_expert_agrees_with_mlx(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mixture of;
    random_mixture(&of, &scope, ZM_GATING_TOP_K_THEN_SOFTMAX_LOW, stacks[0], false);
    of.arguments.top_k = 1;
    of.arguments.activation = ZM_ACTIVATION_SWIGLU;
    mlx_array x = random_array(&scope, (const int[]){1, IN}, 2, MLX_FLOAT32, 1);
    mlx_array logits = zm_quantized_matmul(&scope, x, of.router.weight, of.router.scales, of.router.biases,
                                           of.router.quantization);
    mlx_array index = zm_reshape(&scope, zm_argmax(&scope, logits, -1, false), (const int[]){1}, 1);
    const zm_weight *weights[] = {&of.gate, &of.up, &of.down};
    mlx_array results[3], input = zm_reshape3(&scope, x, 1, 1, IN);
    for (int i = 0; i < 3; i++) {
        const zm_weight *weight = weights[i];
        if (i == 2) {
            mlx_array silu = zm_multiply(&scope, results[0], zm_sigmoid(&scope, results[0]));
            input = zm_multiply(&scope, silu, results[1]);
        }
        results[i] = zm_gather_qmm(&scope, input, weight->weight, weight->scales, weight->biases, index,
                                   weight->quantization, false);
    }
    expect_same(&scope, zm_fused_moe(&scope, x, &of.arguments, compute), results[2], 1e-5);
    end_well(&scope);
}

static void wrong_arguments_are_refused(void **state) {
    (void)state;
    for (int i = 0; i < 12; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mixture of;
        random_mixture(&of, &scope, i < 6 ? ZM_GATING_SIGMOID_BIAS : ZM_GATING_SIGMOID_GROUPS, stacks[0], false);
        mlx_array x = random_array(&scope, (const int[]){1, IN}, 2, MLX_FLOAT32, 1);
        zm_weight other = random_weight(&scope, EXPERTS + 1, HIDDEN, IN, stacks[0], MLX_FLOAT32);
        if (i == 0) of.arguments.top_k = 0;
        if (i == 1) of.arguments.top_k = EXPERTS + 1;
        if (i == 2) of.arguments.up = &other;
        if (i == 3) of.arguments.down = &of.gate;
        if (i == 4) of.arguments.expert_bias = zm_astype(&scope, of.arguments.expert_bias, MLX_FLOAT16);
        if (i == 5) of.arguments.router = &of.gate;
        if (i == 6) of.arguments.n_groups = 3;
        if (i == 7) of.arguments.n_groups = EXPERTS;
        if (i == 8) of.arguments.top_groups = 0;
        if (i == 9) of.arguments.top_groups = GROUPS + 1;
        if (i == 11) of.arguments.shared_router = &of.router;
        if (i == 10) of.shared_down = random_weight(&scope, 0, IN, HIDDEN, stacks[0], MLX_FLOAT32);
        assert_false(zm_is_set(zm_fused_moe(&scope, x, &of.arguments, compute)));
        zmlx_error error;
        assert_int_equal(zm_scope_end(&scope, &error), ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.where, "zmlx.moe");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gating_agrees_with_float64),
        cmocka_unit_test(a_wrong_expert_scale_is_noticed),
        cmocka_unit_test(tokens_and_threads_do_not_change_the_bits),
        cmocka_unit_test(one_expert_agrees_with_mlx),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
