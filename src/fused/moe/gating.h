/* SPDX-License-Identifier: MIT */
/* From a router's logits to the chosen experts and their weights. */
#ifndef ZM_FUSED_MOE_GATING_H
#define ZM_FUSED_MOE_GATING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "fused/cpu/level.h"

typedef struct zm_gating_rule {
    zm_gating gating;
    size_t n_experts, top_k;
    size_t n_groups, top_groups; /* ZM_GATING_SIGMOID_GROUPS: of two experts or more each, or one group */
    bool normalize_top_k;
    float normalize_epsilon, routed_scaling_factor;
} zm_gating_rule;

/* Chooses top_k experts and sets their weights; both lists are in the order of MLX's argpartition on its
 * sorting back ends: ascending scores, or descending ones with ZM_GATING_TOP_K_THEN_SOFTMAX_LOW and
 * ZM_GATING_SIGMOID_GROUPS. NaN counts as the last of the ascending order, so experts are in range whatever the logits.
 * expert_bias: n_experts numbers or NULL. scores: scratch of 3 n_experts floats. */
void zm_gating_choose(uint32_t *experts, float *weights, const zm_gating_rule *rule, const zm_cpu_level *level,
                      const float *logits, const float *expert_bias, float *scores);

#endif
