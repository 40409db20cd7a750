/* SPDX-License-Identifier: MIT */
/* Activations and widening at every level of instruction set this machine has, and the choice of experts. */
#include "fused_testing.h"

#include "fused/moe/gating.h"

static double sigmoid(double x) { return 1 / (1 + exp(-x)); }

static double unit(double gate, double up, zm_activation activation) {
    if (activation == ZM_ACTIVATION_SWIGLU) return gate * sigmoid(gate) * up;
    if (activation == ZM_ACTIVATION_GEGLU) {
        double u = sqrt(2 / acos(-1)) * (gate + 0.044715 * gate * gate * gate);
        double one_plus_tanh = u > 20 ? 2 : exp(u) / cosh(u); /* without the cancellation of 1 + tanh(u) */
        return 0.5 * gate * one_plus_tanh * up;
    }
    gate = fmin(gate, 7);
    up = fmax(-7, fmin(up, 7));
    return (up + 1) * gate * sigmoid(1.702 * gate);
}

/* The argument of an exponential carries its own rounding, so the bound grows with it. */
static void activations_are_right(void **state) {
    (void)state;
    enum { N = 3001 };
    static float gate[N], up[N], result[N];
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        for (int a = ZM_ACTIVATION_SWIGLU; a <= ZM_ACTIVATION_SWIGLU_OAI; a++) {
            for (int i = 0; i < N; i++) {
                gate[i] = random_float() * (i % 3 ? 8.0f : 60.0f);
                up[i] = random_float() * 10;
            }
            (*level)->activate(result, gate, up, N, (zm_activation)a);
            for (int i = 0; i < N; i++) {
                double g = (double)gate[i], expected = unit(g, (double)up[i], (zm_activation)a);
                double argument = a == ZM_ACTIVATION_GEGLU ? 1.6 * fabs(g + 0.045 * g * g * g) : 2 * fabs(g);
                double bound = (12 + 4 * argument) * 0x1p-24 * fabs(expected) + 1e-36;
                if (!(fabs((double)result[i] - expected) <= bound) && fabs(expected) > 1e-30)
                    fail_msg("%s: activation %d of %g, %g is %g, expected %g", (*level)->name, a, g,
                             (double)up[i], (double)result[i], expected);
                float alone; /* the same bits wherever it stands */
                (*level)->activate(&alone, &gate[i], &up[i], 1, (zm_activation)a);
                assert_memory_equal(&alone, &result[i], sizeof alone);
            }
        }
    }
}

static void sigmoid_is_within_four_ulp(void **state) {
    (void)state;
    enum { N = 4099 };
    static float x[N], y[N];
    for (int i = 0; i < N; i++) x[i] = (float)(i - N / 2) * 0.05f + random_float() * 0.02f;
    x[0] = -INFINITY, x[1] = INFINITY, x[2] = NAN, x[3] = 0.0f;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        (*level)->sigmoid(y, x, N);
        assert_true(y[0] == 0.0f && y[1] == 1.0f && isnan(y[2]) && y[3] == 0.5f);
        for (int i = 3; i < N; i++) {
            double expected = sigmoid((double)x[i]);
            assert_true(fabs((double)y[i] - expected) <= 4 * 0x1p-24 * expected + 0x1p-149);
        }
    }
}

static void widening_is_exact(void **state) {
    (void)state;
    enum { N = 0x10000 };
    uint16_t *halves = allocate(N * sizeof *halves);
    float *wide = allocate((N + 1) * sizeof *wide);
    for (unsigned i = 0; i < N; i++) halves[i] = (uint16_t)i;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        for (int storage = ZM_STORAGE_FLOAT16; storage <= ZM_STORAGE_BFLOAT16; storage++) {
            for (size_t count = N - 17; count <= N; count++) {
                wide[count] = 5;
                (*level)->widen(wide, halves, (zm_storage)storage, count);
                assert_true(wide[count] == 5.0f);
            }
            for (unsigned i = 0; i < N; i++) {
                double expected = stored_value((unsigned char *)halves, (zm_storage)storage, i);
                assert_true((double)wide[i] == expected || (isnan(wide[i]) && isnan(expected)));
            }
        }
    }
    free(halves);
    free(wide);
}

typedef struct gating_case {
    zm_gating_rule rule;
    const float *logits, *bias;
    uint32_t experts[4];
    double weights[4];
} gating_case;

#define RULE(kind, k, normalize, epsilon, factor)                                                          \
    {.gating = kind, .n_experts = 5, .n_groups = 1, .top_groups = 1, .top_k = k, .normalize_top_k = normalize, \
     .normalize_epsilon = epsilon, .routed_scaling_factor = factor}
/* Three groups of two. */
#define GROUPS(n_kept, k, normalize, factor)                                                           \
    {.gating = ZM_GATING_SIGMOID_GROUPS, .n_experts = 6, .n_groups = 3, .top_groups = n_kept, .top_k = k, \
     .normalize_top_k = normalize, .routed_scaling_factor = factor}

static void check_gating(const gating_case *test) {
    uint32_t experts[5];
    float weights[5], scores[18];
    zm_gating_choose(experts, weights, &test->rule, zm_fused_best_level(), test->logits, test->bias, scores);
    for (size_t j = 0; j < test->rule.top_k; j++) {
        assert_int_equal(experts[j], test->experts[j]);
        assert_true(fabs((double)weights[j] - test->weights[j]) <= 1e-6);
    }
}

/* Weights worked out by hand from the logarithms of small fractions. */
static void gating_follows_its_rule(void **state) {
    (void)state;
    const float odds[5] = {logf(1), logf(3), logf(0.25f), logf(3), logf(1)}; /* sigmoid 1/2 3/4 1/5 3/4 1/2 */
    const float bias[5] = {0, -0.5f, 1, 0, 0};
    const float parts[5] = {logf(2), logf(3), logf(1), logf(3), logf(1)}; /* softmax .2 .3 .1 .3 .1 */
    const gating_case cases[] = {
        {RULE(ZM_GATING_SIGMOID_BIAS, 2, true, 0, 1), odds, NULL, {1, 3}, {0.5, 0.5}},
        {RULE(ZM_GATING_SIGMOID_BIAS, 2, true, 0.05f, 2), odds, bias, {3, 2}, {1.5, 0.4}},
        {RULE(ZM_GATING_SIGMOID_BIAS, 1, false, 0, 1), odds, NULL, {3}, {0.75}},
        {RULE(ZM_GATING_SOFTMAX_THEN_TOP_K, 3, false, 0, 1), parts, NULL, {0, 1, 3}, {0.2, 0.3, 0.3}},
        {RULE(ZM_GATING_SOFTMAX_THEN_TOP_K, 4, true, 0, 1), parts, NULL, {4, 0, 1, 3},
         {1.0 / 9, 2.0 / 9, 3.0 / 9, 3.0 / 9}},
        {RULE(ZM_GATING_TOP_K_THEN_SOFTMAX_LOW, 1, false, 0, 1), parts, NULL, {1}, {1}},
        {RULE(ZM_GATING_TOP_K_THEN_SOFTMAX_LOW, 4, false, 0, 1), parts, NULL, {1, 3, 0, 2},
         {3.0 / 9, 3.0 / 9, 2.0 / 9, 1.0 / 9}},
        {RULE(ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH, 4, false, 0, 1), parts, NULL, {4, 0, 1, 3},
         {1.0 / 9, 2.0 / 9, 3.0 / 9, 3.0 / 9}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_gating(&cases[i]);
}

static void groups_are_chosen_first(void **state) {
    (void)state;
    const float odds[6] = {logf(1), logf(3), logf(0.25f), logf(3), logf(1), logf(4)}; /* 1/2 3/4  1/5 3/4  1/2 4/5 */
    const float bias[6] = {0, 0, 0.4f, 0, 0, 0}, equal[6] = {0};
    const gating_case cases[] = {
        /* Choices .5 .75 .2 .75 .5 .8: sums 1.25, .95, 1.3. What is left out counts as 0, and can still be taken. */
        {GROUPS(3, 2, false, 1), odds, NULL, {5, 1}, {0.8, 0.75}},
        {GROUPS(1, 2, true, 2), odds, NULL, {5, 4}, {1.6 / 1.3, 1 / 1.3}},
        {GROUPS(1, 3, true, 1), odds, NULL, {5, 4, 0}, {8.0 / 18, 5.0 / 18, 5.0 / 18}},
        /* The bias makes the second group's sum 1.35; weights are without it. */
        {GROUPS(2, 3, false, 1), odds, bias, {5, 3, 2}, {0.8, 0.75, 0.2}},
        {GROUPS(1, 2, false, 1), equal, NULL, {4, 5}, {0.5, 0.5}},
        {GROUPS(3, 2, false, 1), equal, NULL, {0, 1}, {0.5, 0.5}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) check_gating(&cases[i]);
}

static void hostile_logits_stay_in_range(void **state) {
    (void)state;
    const float rows[][5] = {{NAN, NAN, NAN, NAN, NAN},
                             {INFINITY, -INFINITY, NAN, INFINITY, 0},
                             {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY},
                             {0, 0, 0, 0, 0}};
    for (size_t r = 0; r < 4; r++) {
        for (int gating = ZM_GATING_SIGMOID_BIAS; gating <= ZM_GATING_SIGMOID_GROUPS; gating++) {
            for (size_t k = 1; k <= 5; k++) {
                zm_gating_rule rule = RULE((zm_gating)gating, k, true, 0, 1);
                uint32_t experts[5];
                float weights[5], scores[15];
                unsigned seen = 0;
                zm_gating_choose(experts, weights, &rule, zm_fused_best_level(), rows[r], NULL, scores);
                for (size_t j = 0; j < k; j++) {
                    assert_true(experts[j] < 5);
                    assert_false(seen >> experts[j] & 1);
                    seen |= 1u << experts[j];
                }
            }
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(activations_are_right),   cmocka_unit_test(sigmoid_is_within_four_ulp),
        cmocka_unit_test(widening_is_exact),       cmocka_unit_test(gating_follows_its_rule),
        cmocka_unit_test(groups_are_chosen_first),
        cmocka_unit_test(hostile_logits_stay_in_range),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
