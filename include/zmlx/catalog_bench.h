/* SPDX-License-Identifier: MIT */
/* Timing a kernel of the catalogue against the same formula in MLX's own operations.
 *
 *     zmlx_comparison comparison;
 *     zmlx_bench_catalog(&comparison, "rmsnorm", (const int[]){16384, 1024}, 2, NULL, stream, NULL, &error);
 *     printf("%.2fx\n", comparison.ratio); // above 1: the kernel is faster */
#ifndef ZMLX_CATALOG_BENCH_H
#define ZMLX_CATALOG_BENCH_H

#include "zmlx/catalog.h"
#include "zmlx/kernel_bench.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Where an option is absent it is 0 or NULL; a zeroed struct is all defaults. */
typedef struct zmlx_catalog_bench {
    mlx_dtype dtype;                  /* of data and parameters, where has_dtype; else float32 */
    bool has_dtype;
    bool gradient;                    /* the outputs and the gradients of all inputs for given cotangents */
    const zmlx_catalog_value *values; /* as in zmlx_catalog_apply */
    zmlx_bench_baseline baseline;     /* MLX operation by operation, through mlx_compile, or none */
} zmlx_catalog_bench;

/* Random inputs: the first of this shape, the others as the signature says; one whose sizes the first does not tell,
 * or of which the device's memory cannot hold two, is ZMLX_ERROR_ARGUMENT (leading dimensions that it does not tell
 * are one, as long as its first). Optional inputs of a composed kernel are left out. Without a baseline, an
 * optimizer's step goes on from the results of the one before. A kernel that is composed, or has an operation that
 * MLX has not, is ZMLX_ERROR_UNSUPPORTED with a baseline: there is nothing to compare it with. */
ZMLX_API zmlx_status zmlx_bench_catalog(zmlx_comparison *comparison, const char *name, const int *shape, int n_dims,
                                        const zmlx_catalog_bench *bench /* may be NULL */, mlx_stream stream,
                                        const zmlx_bench_options *options /* may be NULL */, zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
