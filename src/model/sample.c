/* SPDX-License-Identifier: MIT */
#include "model/sample.h"

#include <math.h>

#include "base/random.h"

static const double LOWEST_TEMPERATURE = 1e-6, LOWEST_PENALTY = 1e-6;

zmlx_status zm_sampler_init(zm_sampler *sampler, const zmlx_generate_options *options, int vocab_size,
                            zmlx_error *error) {
    *sampler = (zm_sampler){
        .temperature = options->temperature,
        .top_p = options->top_p,
        .min_p = options->min_p,
        .repetition_penalty = options->repetition_penalty,
        .top_k = options->top_k,
        .seed = options->seed,
    };
    bool is_greedy = sampler->temperature >= 0 && sampler->temperature <= 0;
    if (!is_greedy && !(sampler->temperature >= LOWEST_TEMPERATURE && sampler->temperature <= 1e6))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "temperature", "expected 0 or %g to 1e+06, got %g",
                       LOWEST_TEMPERATURE, sampler->temperature);
    if (!(sampler->top_p >= 0 && sampler->top_p <= 1))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "top_p", "expected a number from 0 to 1, got %g",
                       sampler->top_p);
    if (!(sampler->min_p >= 0 && sampler->min_p <= 1))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "min_p", "expected a number from 0 to 1, got %g",
                       sampler->min_p);
    if (sampler->top_k < 0 || sampler->top_k >= vocab_size)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "top_k", "expected an integer from 0 to %d, got %d",
                       vocab_size - 1, sampler->top_k);
    bool is_off = sampler->repetition_penalty >= 0 && sampler->repetition_penalty <= 0;
    if (!is_off && !(sampler->repetition_penalty >= LOWEST_PENALTY && sampler->repetition_penalty <= 1e6))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "repetition_penalty", "expected 0 or %g to 1e+06, got %g",
                       LOWEST_PENALTY, sampler->repetition_penalty);
    return ZMLX_OK;
}

/* A logit of a recent token moves away from being chosen (https://arxiv.org/abs/1909.05858). */
static mlx_array penalize(zm_scope *scope, mlx_array logits, mlx_array recent, double penalty) {
    mlx_array factor = zm_scalar_like(scope, penalty, logits);
    mlx_array chosen = zm_take_along_axis(scope, logits, recent, -1);
    mlx_array negative = zm_less(scope, chosen, zm_scalar_like(scope, 0, chosen));
    chosen = zm_where(scope, negative, zm_multiply(scope, chosen, factor), zm_divide(scope, chosen, factor));
    return zm_put_along_axis(scope, logits, recent, chosen, -1);
}

/* Keeps the most likely tokens whose probabilities sum to at least top_p, and those as likely as the last of
 * them; always the most likely one. */
static mlx_array apply_top_p(zm_scope *scope, mlx_array logprobs, double top_p) {
    mlx_array sorted = zm_sort(scope, logprobs, -1);
    mlx_array probabilities = zm_exp(scope, zm_astype(scope, sorted, MLX_FLOAT32));
    mlx_array above = zm_cumsum(scope, probabilities, -1, true, false);
    mlx_array total = zm_add(scope, zm_slice_axis(scope, above, -1, 0, 1, 1),
                             zm_slice_axis(scope, probabilities, -1, 0, 1, 1));
    mlx_array limit = zm_multiply(scope, total, zm_scalar(scope, top_p, MLX_FLOAT32));
    mlx_array dropped =
        zm_sum(scope, zm_astype(scope, zm_greater_equal(scope, above, limit), MLX_INT32), -1, true);
    mlx_array most = zm_scalar(scope, zm_dim(logprobs, -1) - 1, MLX_INT32);
    mlx_array threshold = zm_take_along_axis(scope, sorted, zm_minimum(scope, dropped, most), -1);
    return zm_where(scope, zm_less(scope, logprobs, threshold), zm_scalar_like(scope, -INFINITY, logprobs),
                    logprobs);
}

static mlx_array apply_min_p(zm_scope *scope, mlx_array logprobs, double min_p) {
    mlx_array top = zm_max(scope, logprobs, -1, true);
    mlx_array threshold = zm_add(scope, top, zm_scalar_like(scope, log(min_p), top));
    return zm_where(scope, zm_less(scope, logprobs, threshold), zm_scalar_like(scope, -INFINITY, logprobs),
                    logprobs);
}

static mlx_array apply_top_k(zm_scope *scope, mlx_array logprobs, int top_k) {
    mlx_array order = zm_argpartition(scope, zm_negative(scope, logprobs), top_k - 1, -1);
    mlx_array dropped = zm_slice_axis(scope, order, -1, top_k, zm_dim(logprobs, -1), 1);
    return zm_put_along_axis(scope, logprobs, dropped, zm_scalar_like(scope, -INFINITY, logprobs), -1);
}

static mlx_array draw(zm_scope *scope, const zm_sampler *sampler, mlx_array logprobs, uint64_t step) {
    mlx_array key = mlx_array_new();
    if (mlx_random_key(&key, zm_splitmix64(sampler->seed, step))) {
        mlx_array_free(key);
        if (!zm_scope_failed(scope)) zm_mlx_fail(&scope->failure, "random_key");
        return (mlx_array){NULL};
    }
    zm_scope_own(scope, key);
    mlx_array wide = zm_astype(scope, logprobs, MLX_FLOAT32); /* the factor may exceed a half type's range */
    mlx_array scaled = zm_multiply(scope, wide, zm_scalar_like(scope, 1 / sampler->temperature, wide));
    return zm_categorical(scope, scaled, -1, key);
}

bool zm_sampler_is_greedy(const zm_sampler *sampler) {
    return sampler->temperature <= 0 && sampler->repetition_penalty <= 0;
}

/* Of tokens (...), with total (..., 1) the logarithm of the sum behind them: that times 0 is 0, or NaN if it is not
 * finite. */
static mlx_array only_of_numbers(zm_scope *scope, mlx_array tokens, mlx_array total) {
    mlx_array zero = zm_multiply(scope, zm_squeeze(scope, total, -1), zm_scalar_like(scope, 0, total));
    mlx_array is_number = zm_less(scope, zero, zm_scalar_like(scope, 1, zero));
    return zm_where(scope, is_number, tokens, zm_scalar(scope, ZM_NO_TOKEN, MLX_UINT32));
}

/* The arg-max is of log probabilities: the subtraction can create ties that the logits do not have. */
mlx_array zm_choose_greedily(zm_scope *scope, mlx_array logits) {
    mlx_array total = zm_logsumexp(scope, logits, -1, true);
    return only_of_numbers(scope, zm_argmax(scope, zm_subtract(scope, logits, total), -1, false), total);
}

mlx_array zm_sample(zm_scope *scope, const zm_sampler *sampler, mlx_array logits, mlx_array recent,
                    uint64_t step) {
    if (sampler->repetition_penalty > 0 && zm_is_set(recent))
        logits = penalize(scope, logits, recent, sampler->repetition_penalty);
    if (sampler->temperature <= 0) return zm_choose_greedily(scope, logits);
    mlx_array total = zm_logsumexp(scope, logits, -1, true), logprobs = zm_subtract(scope, logits, total);
    if (sampler->top_p > 0 && sampler->top_p < 1) logprobs = apply_top_p(scope, logprobs, sampler->top_p);
    if (sampler->min_p > 0) logprobs = apply_min_p(scope, logprobs, sampler->min_p);
    if (sampler->top_k > 0) logprobs = apply_top_k(scope, logprobs, sampler->top_k);
    return only_of_numbers(scope, draw(scope, sampler, logprobs, step), total);
}
