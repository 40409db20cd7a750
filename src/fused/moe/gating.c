/* SPDX-License-Identifier: MIT */
#include "fused/moe/gating.h"

#include <math.h>

/* Whether a comes before b in the sorted order: ascending values, NaN last, equal ones by index. */
static bool precedes(const float *values, size_t a, size_t b) {
    bool a_nan = isnan(values[a]), b_nan = isnan(values[b]);
    if (a_nan != b_nan) return b_nan;
    if (!a_nan && values[a] != values[b]) return values[a] < values[b];
    return a < b;
}

/* The last k indices of the ascending order, or the first k of it. */
static void select_experts(uint32_t *experts, const float *values, size_t count, size_t k, bool last) {
    for (size_t done = 0; done < k; done++) {
        size_t previous = done ? experts[last ? k - done : done - 1] : 0;
        size_t best = count;
        for (size_t i = 0; i < count; i++) {
            if (done && !(last ? precedes(values, i, previous) : precedes(values, previous, i))) continue;
            if (best == count || (last ? precedes(values, best, i) : precedes(values, i, best))) best = i;
        }
        experts[last ? k - 1 - done : done] = (uint32_t)best;
    }
}

static void softmax(float *values, size_t count) {
    float largest = values[0], sum = 0;
    for (size_t i = 1; i < count; i++)
        if (values[i] > largest) largest = values[i];
    for (size_t i = 0; i < count; i++) {
        values[i] = expf(values[i] - largest);
        sum += values[i];
    }
    for (size_t i = 0; i < count; i++) values[i] /= sum;
}

/* The experts outside the top_groups groups with the largest sums of two choices get 0. scratch: n_experts floats. */
static void keep_groups(float *choice, const zm_gating_rule *rule, float *scratch) {
    size_t size = rule->n_experts / rule->n_groups, n_others = rule->n_groups - rule->top_groups;
    uint32_t two[2], *others = (uint32_t *)(void *)(scratch + rule->n_groups);
    for (size_t group = 0; n_others && group < rule->n_groups; group++) {
        const float *values = choice + group * size;
        select_experts(two, values, size, 2, true);
        scratch[group] = values[two[0]] + values[two[1]];
    }
    select_experts(others, scratch, rule->n_groups, n_others, false);
    for (size_t i = 0; i < n_others; i++)
        for (size_t j = 0; j < size; j++) choice[others[i] * size + j] = 0;
}

void zm_gating_choose(uint32_t *experts, float *weights, const zm_gating_rule *rule, const zm_cpu_level *level,
                      const float *logits, const float *expert_bias, float *scores) {
    size_t n = rule->n_experts, k = rule->top_k;
    bool groups = rule->gating == ZM_GATING_SIGMOID_GROUPS;
    bool low = groups || rule->gating == ZM_GATING_TOP_K_THEN_SOFTMAX_LOW;
    bool late = !groups && (low || rule->gating == ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH);
    float *choice = scores + n;
    for (size_t i = 0; i < n; i++) scores[i] = logits[i];
    if (groups || rule->gating == ZM_GATING_SIGMOID_BIAS) level->sigmoid(scores, logits, n);
    else if (!late) softmax(scores, n);
    for (size_t i = 0; i < n; i++) choice[i] = expert_bias ? scores[i] + expert_bias[i] : scores[i];
    if (groups) keep_groups(choice, rule, choice + n);
    for (size_t i = 0; low && i < n; i++) choice[i] = -choice[i];
    select_experts(experts, choice, n, k, !low);

    float sum = 0;
    for (size_t j = 0; j < k; j++) weights[j] = scores[experts[j]];
    if (late) softmax(weights, k);
    for (size_t j = 0; j < k; j++) sum += weights[j];
    for (size_t j = 0; j < k; j++) {
        if (rule->normalize_top_k) weights[j] /= sum + rule->normalize_epsilon;
        weights[j] *= rule->routed_scaling_factor;
    }
}
