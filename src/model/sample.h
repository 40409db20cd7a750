/* SPDX-License-Identifier: MIT */
/* From logits to the next token, as mlx-lm's make_sampler and make_repetition_penalty. */
#ifndef ZM_MODEL_SAMPLE_H
#define ZM_MODEL_SAMPLE_H

#include "fused/fused.h"
#include "mlx/scope.h"
#include "zmlx/model.h"

typedef struct zm_sampler {
    double temperature, top_p, min_p, repetition_penalty;
    int top_k;
    uint64_t seed;
} zm_sampler;

/* Checks the ranges; a zeroed sampler is greedy. */
zmlx_status zm_sampler_init(zm_sampler *sampler, const zmlx_generate_options *options, int vocab_size,
                            zmlx_error *error);

/* Whether the token is simply the most likely one, so that zm_causal_lm_greedy gives it too. */
bool zm_sampler_is_greedy(const zm_sampler *sampler);

/* The most likely token of each position: logits (..., vocab_size) -> (...) uint32; ZM_NO_TOKEN where a logit is NaN or
 * infinity, or all are -infinity. */
mlx_array zm_choose_greedily(zm_scope *scope, mlx_array logits);

/* The same for one position with the sampler: (1, vocab_size) -> (1,) uint32. recent (1, n), the last
 * tokens, or empty; step numbers the token and, with the seed, fixes its random draw. */
mlx_array zm_sample(zm_scope *scope, const zm_sampler *sampler, mlx_array logits, mlx_array recent,
                    uint64_t step);

#endif
