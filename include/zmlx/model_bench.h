/* SPDX-License-Identifier: MIT */
/* Timing a patched model against the same model unpatched.
 *
 *     zmlx_model_bench bench;
 *     zmlx_bench_model(&bench, model, NULL, &error);
 *     printf("%.1f tok/s, %.1fx\n", bench.patched.decode_tok_s, bench.decode_speedup);
 *
 * The two sides alternate in one process on the same random prompt, greedily; the first, short runs are not counted.
 * What is generated is not compared: that is zmlx_validate. */
#ifndef ZMLX_MODEL_BENCH_H
#define ZMLX_MODEL_BENCH_H

#include "zmlx/kernel_bench.h"
#include "zmlx/patch.h"
#include "zmlx/timeline.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_model_bench_options {
    const zmlx_patch_options *patch; /* NULL: the proven patterns; dry_run does not count */
    size_t n_prompt, n_tokens;       /* 0: 128 and 64 */
    int n_runs;                      /* of each side; 0: 3 */
    bool patched_only;               /* leaves the baseline out, which may take minutes */
    double bandwidth;                /* bytes a second to compare with; 0: none */
    int probe_threads; /* above 0: instead, so many threads read memory before each run and after every 0.1 s of its
                          decoding, which is halted meanwhile */
    bool timeline;     /* says where a token's time goes; without CUDA and the pattern decode ZMLX_ERROR_UNSUPPORTED */
    /* Told about each finished run; may be NULL. */
    void (*progress)(void *context, const char *step, int done, int total);
    void *progress_context;
} zmlx_model_bench_options;

typedef struct zmlx_model_bench_side {
    zmlx_timing prefill, decode;        /* seconds from the prompt to the first token, and of one token after it */
    double prefill_tok_s, decode_tok_s; /* at the medians */
    double bandwidth;                   /* bytes of weights a second while decoding */
    /* Of the bench's bandwidth. Where that is measured: the median of the stretches of decoding, each compared with
     * what was measured right before and behind it, and their quartiles, which are 0 otherwise. */
    double share, share_lower, share_upper;
    uint64_t peak_memory_bytes;         /* that MLX held */
} zmlx_model_bench_side;

typedef struct zmlx_model_bench {
    zmlx_model_bench_side baseline, patched; /* baseline is zero with patched_only */
    double prefill_speedup, decode_speedup;  /* ratios of the medians; 0 without a baseline */
    uint64_t token_bytes; /* of weights that a token must read: experts that are not chosen and other rows of
                             the embedding are not counted */
    double bandwidth;     /* to compare with: the options', or the median of what was measured */
    size_t n_prompt, n_tokens;
    int n_runs;
    int n_patched; /* modules */
    zmlx_timeline_row timeline[ZMLX_TIMELINE_ROWS]; /* in the order in which a step first comes to them */
    int n_timeline;
} zmlx_model_bench;

/* Leaves model unpatched, as it must be when given. */
ZMLX_API zmlx_status zmlx_bench_model(zmlx_model_bench *bench, zmlx_model *model,
                                      const zmlx_model_bench_options *options /* may be NULL */, zmlx_error *error);

typedef struct zmlx_moe_bench_row {
    int n_tokens;
    zmlx_timing baseline, patched; /* seconds of the first layer's call, from the call to its result */
    double speedup;                /* of the medians */
    /* Seconds a call of one evaluation of as many as take 50 ms alone, at most 100: of one such layer after another,
     * with other states each. Calls that do not need each other may overlap; the time to put them together is left
     * out. */
    zmlx_timing chained_baseline, chained_patched;
    double chained_speedup;
} zmlx_moe_bench_row;

/* Layers of experts called with n_tokens random hidden states, patched against unpatched, alternating. A
 * model without one is ZMLX_ERROR_UNSUPPORTED. Leaves model unpatched. */
ZMLX_API zmlx_status zmlx_bench_moe(zmlx_moe_bench_row *row, zmlx_model *model, int n_tokens,
                                    const zmlx_model_bench_options *options /* patch and n_runs count; may be NULL */,
                                    zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
