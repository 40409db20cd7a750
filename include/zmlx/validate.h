/* SPDX-License-Identifier: MIT */
/* Proof that patching keeps the tokens, and what it gains.
 *
 *     zmlx_validation validation;
 *     zmlx_validate(&validation, model, prompt, n_prompt, NULL, &error);
 *     puts(validation.passed ? "PASS" : "FAIL");
 *     zmlx_validation_clear(&validation);
 *
 * Greedy runs of the unpatched and the patched model alternate; every run is compared with the first
 * unpatched one. Then both models are fed the same (baseline) tokens and their logits compared: an unpatched
 * model whose logits are NaN is an error, a patched one is a failure. */
#ifndef ZMLX_VALIDATE_H
#define ZMLX_VALIDATE_H

#include "zmlx/patch.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_validate_options {
    size_t max_tokens; /* 0: 200 */
    int n_runs;        /* 0: 3 */
    const zmlx_patch_options *patch; /* NULL: the proven patterns; dry_run does not count */
    bool ignore_eos;
    /* Told about each finished run, e.g. "baseline run 1/3"; may be NULL. */
    void (*progress)(void *context, const char *step, int done, int total);
    void *progress_context;
} zmlx_validate_options;

typedef struct zmlx_validate_side {
    double *prefill_tok_s, *decode_tok_s; /* one a run */
    int n_runs;
    double median_prefill_tok_s, median_decode_tok_s;
    uint64_t peak_memory_bytes;
} zmlx_validate_side;

typedef struct zmlx_validation {
    bool passed;          /* every run gave the baseline's tokens, and there were some; false where approximate */
    bool approximate;     /* int8 activations: equal tokens are counted, never claimed */
    bool baseline_stable; /* the baseline repeated itself */
    size_t matched, total; /* of the worst run; total is the longer length */
    bool diverged;
    size_t first_divergence;           /* index of the first differing token, of the worst run */
    int32_t baseline_token, patched_token; /* there; -1 where one side had ended */
    double margin;                     /* baseline logit of its token minus that of the next best, there */
    size_t positions, argmax_agree;    /* teacher forced */
    double max_abs_logit_diff, mean_kl; /* KL(baseline || patched), natural log */
    zmlx_validate_side baseline, patched;
    double decode_speedup, prefill_speedup; /* patched / baseline medians */
    int32_t *baseline_tokens; /* of the first baseline run */
    size_t n_baseline_tokens;
    zmlx_patch_count *counts; /* patched modules by pattern */
    size_t n_counts;
    char **notes; /* exclusions and warnings of the choice of patterns, one line each */
    size_t n_notes;
} zmlx_validation;

/* Leaves model unpatched, as it must be when given. */
ZMLX_API zmlx_status zmlx_validate(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                                   size_t n_prompt, const zmlx_validate_options *options, zmlx_error *error);
ZMLX_API void zmlx_validation_clear(zmlx_validation *validation);

/* The fixed default prompt of `zmlx validate`. Static storage. */
ZMLX_API const char *zmlx_validate_default_prompt(void);

#ifdef __cplusplus
}
#endif

#endif
