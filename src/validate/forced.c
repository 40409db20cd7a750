/* SPDX-License-Identifier: MIT */
/* Teacher forcing: both models see the same tokens, so every position's logits can be compared. */
#include <math.h>
#include <stdlib.h>

#include "validate/validate.h"

enum { BASELINE = 0, PATCHED = 1 };

typedef struct forced_run {
    zmlx_model *model;
    zmlx_session *sessions[2];
    float *logits[2];
    size_t vocab_size;
    zmlx_error *error;
} forced_run;

static zmlx_status feed_both(forced_run *run, const int32_t *tokens, size_t n_tokens, bool wants_logits) {
    zmlx_status status = ZMLX_OK;
    for (int side = BASELINE; side <= PATCHED && !status; side++) {
        zm_patch_switch(run->model, 0, side == PATCHED);
        status = zmlx_session_feed(run->sessions[side], tokens, n_tokens,
                                   wants_logits ? run->logits[side] : NULL, false, run->error);
    }
    return status;
}

static size_t argmax(const float *values, size_t count) {
    size_t best = 0;
    for (size_t i = 1; i < count; i++)
        if (values[i] > values[best]) best = i;
    return best;
}

static double log_sum_exp(const float *values, size_t count) {
    double maximum = (double)values[argmax(values, count)], sum = 0;
    for (size_t i = 0; i < count; i++) sum += exp((double)values[i] - maximum);
    return maximum + log(sum);
}

/* Sum over tokens of p (log p - log q), p and q being the softmax of the logits. */
static double divergence(const float *p_logits, const float *q_logits, size_t count) {
    double p_norm = log_sum_exp(p_logits, count), q_norm = log_sum_exp(q_logits, count), sum = 0;
    for (size_t i = 0; i < count; i++) {
        double log_p = (double)p_logits[i] - p_norm, log_q = (double)q_logits[i] - q_norm;
        double p = exp(log_p);
        if (p > 0) sum += p * (log_p - log_q);
    }
    return sum < 0 ? 0 : sum; /* rounding can leave it just below 0 */
}

/* The logit of token less the largest other one. */
static double margin_of(const float *logits, size_t count, size_t token) {
    double next = -HUGE_VAL;
    for (size_t i = 0; i < count; i++)
        if (i != token && (double)logits[i] > next) next = (double)logits[i];
    return (double)logits[token] - next;
}

/* -inf is a token that cannot follow. */
static bool are_logits(const float *values, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (!(values[i] < INFINITY)) return false;
    return true;
}

zmlx_status zm_validate_no_numbers(size_t token, zmlx_error *error) {
    return zm_fail(error, ZMLX_ERROR_FORMAT, "model",
                   "unpatched, its logits of token %zu are not all numbers: equal tokens would prove nothing", token);
}

static zmlx_status compare_position(zmlx_validation *validation, const forced_run *run, size_t position) {
    const float *baseline = run->logits[BASELINE], *patched = run->logits[PATCHED];
    size_t count = run->vocab_size;
    if (!are_logits(baseline, count)) return zm_validate_no_numbers(position, run->error);
    if (!are_logits(patched, count)) validation->passed = validation->approximate = false;
    for (size_t i = 0; i < count; i++) {
        double difference = baseline[i] == patched[i] ? 0 : fabs((double)baseline[i] - (double)patched[i]);
        /* A NaN counts, and stays. */
        if (difference > validation->max_abs_logit_diff || isnan(difference))
            validation->max_abs_logit_diff = difference;
    }
    validation->positions++;
    validation->argmax_agree += argmax(baseline, count) == argmax(patched, count);
    validation->mean_kl += divergence(baseline, patched, count);
    if (validation->diverged && position == validation->first_divergence && validation->baseline_token >= 0)
        validation->margin = margin_of(baseline, count, (size_t)validation->baseline_token);
    return ZMLX_OK;
}

static zmlx_status force(zmlx_validation *validation, forced_run *run, const int32_t *prompt,
                         size_t n_prompt) {
    for (size_t done = 0; done + 1 < n_prompt;) {
        size_t count = n_prompt - 1 - done < ZM_PREFILL_CHUNK ? n_prompt - 1 - done : ZM_PREFILL_CHUNK;
        ZM_TRY(feed_both(run, prompt + done, count, false));
        done += count;
    }
    int32_t token = prompt[n_prompt - 1];
    for (size_t i = 0; i < validation->n_baseline_tokens; i++) {
        ZM_TRY(feed_both(run, &token, 1, true));
        ZM_TRY(compare_position(validation, run, i));
        token = validation->baseline_tokens[i];
    }
    if (validation->positions) validation->mean_kl /= (double)validation->positions;
    return ZMLX_OK;
}

zmlx_status zm_validate_forced(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                               size_t n_prompt, zmlx_error *error) {
    forced_run run = {.model = model, .vocab_size = (size_t)model->info.vocab_size, .error = error};
    zmlx_status status = ZMLX_OK;
    for (int side = BASELINE; side <= PATCHED && !status; side++) {
        run.logits[side] = calloc(run.vocab_size, sizeof(float));
        status =
            run.logits[side] ? zmlx_session_new(&run.sessions[side], model, error) : zm_fail_memory(error);
    }
    zm_patch_switch(model, 0, false); /* the sides take turns at every token: too often to fit the weights to each */
    if (!status) status = zm_patch_fit(model, error);
    if (!status) status = force(validation, &run, prompt, n_prompt);
    for (int side = BASELINE; side <= PATCHED; side++) {
        zmlx_session_free(run.sessions[side]);
        free(run.logits[side]);
    }
    zm_patch_switch(model, 0, true);
    return status;
}
