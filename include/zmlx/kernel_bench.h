/* SPDX-License-Identifier: MIT */
/* Timing one function of arrays against another.
 *
 *     zmlx_comparison comparison;
 *     zmlx_bench_compare(&comparison, mlx_side, kernel_side, inputs, NULL, &error);
 *     printf("%.2fx\n", comparison.ratio);       // above 1: the candidate is faster
 *
 * The two sides alternate in one process on the same inputs; the first runs are not counted. On the CPU a run
 * evaluates a batch of independent applications at once. On a GPU it is up to eight groups of them, each put together
 * and submitted while the one before runs, as in a loop of steps; timed are all but the first, from its end. */
#ifndef ZMLX_KERNEL_BENCH_H
#define ZMLX_KERNEL_BENCH_H

#include "zmlx/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_bench_options {
    int n_warmup, n_runs; /* 0: 3 and 15 */
    int batch;            /* applications a run, up to 10000, whose results the device's memory must hold (on a GPU of a
                           * quarter of them); 0: as many as take about 20 ms, at most 64 */
    double bandwidth;     /* bytes a second to compare with; 0: none */
    int probe_threads;    /* above 0: instead, so many threads read memory after each run; compared with their median */
} zmlx_bench_options;

/* Seconds an application. */
typedef struct zmlx_timing {
    double median, minimum, maximum, lower_quartile, upper_quartile;
} zmlx_timing;

typedef struct zmlx_comparison {
    zmlx_timing baseline, candidate;
    double ratio;   /* baseline / candidate medians */
    uint64_t bytes; /* of all inputs and outputs: what one application must move at least */
    double baseline_bandwidth, candidate_bandwidth; /* bytes a second at the medians */
    double bandwidth;                               /* given or measured; 0 without */
    double baseline_share, candidate_share;         /* of it; 0 without */
    int n_runs, batch;
    double first_use;     /* seconds of the candidate's first application: compilation, launch, result */
    bool first_compiled;  /* a compiler ran for it; false: it came from the cache */
} zmlx_comparison;

/* Times two functions of the same inputs (evaluated first). A function that fails gives ZMLX_ERROR_MLX. */
ZMLX_API zmlx_status zmlx_bench_compare(zmlx_comparison *comparison, mlx_closure baseline, mlx_closure candidate,
                                        mlx_vector_array inputs, const zmlx_bench_options *options /* may be NULL */,
                                        zmlx_error *error);

/* What a kernel is compared with: the same operations in MLX, one by one or through mlx_compile; or nothing, then what
 * the comparison says of the baseline is 0. */
typedef enum zmlx_bench_baseline { ZMLX_BENCH_MLX, ZMLX_BENCH_MLX_COMPILED, ZMLX_BENCH_NONE } zmlx_bench_baseline;

/* A kernel on random inputs, all of one shape and dtype, against MLX. numbers as in zmlx_kernel_apply_with. A
 * shape of which the device's memory cannot hold two arrays is ZMLX_ERROR_ARGUMENT; an operation that MLX has not is
 * ZMLX_ERROR_UNSUPPORTED, naming it. */
ZMLX_API zmlx_status zmlx_bench_kernel(zmlx_comparison *comparison, zmlx_kernel *kernel, const int *shape, int n_dims,
                                       mlx_dtype dtype, const zmlx_kernel_numbers *numbers,
                                       zmlx_bench_baseline baseline, mlx_stream stream,
                                       const zmlx_bench_options *options, zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
