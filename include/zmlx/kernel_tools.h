/* SPDX-License-Identifier: MIT */
/* Looking into kernels: names, source texts, checks, the cache of compiled ones. */
#ifndef ZMLX_KERNEL_TOOLS_H
#define ZMLX_KERNEL_TOOLS_H

#include "zmlx/kernel.h"

#ifdef __cplusplus
extern "C" {
#endif

/* What a kernel takes and gives; borrowed from the kernel. */
typedef struct zmlx_kernel_info {
    const char *name;
    const char *const *inputs, *const *outputs, *const *parameters, *const *seeds;
    size_t n_inputs, n_outputs, n_parameters, n_seeds;
    bool has_rows; /* works along the last dimension */
} zmlx_kernel_info;
ZMLX_API zmlx_status zmlx_kernel_get_info(zmlx_kernel_info *info, zmlx_kernel *kernel, zmlx_error *error);

/* The gradient as a kernel of its own, the caller's. Its inputs are those of the kernel that it needs, then cotangents
 * cot_<output>; its outputs d_<input> for all inputs, which must be at most 16. */
ZMLX_API zmlx_status zmlx_kernel_gradient(zmlx_kernel **gradient, zmlx_kernel *kernel, zmlx_error *error);

/* gradients[i], one for each input, from cotangents of the outputs (as mlx_vjp gives them); handles as in
 * zmlx_kernel_apply. */
ZMLX_API zmlx_status zmlx_kernel_apply_gradient(zmlx_kernel *kernel, mlx_array *gradients, const mlx_array *inputs,
                                                size_t n_inputs, const mlx_array *cotangents, size_t n_cotangents,
                                                const zmlx_kernel_numbers *numbers, mlx_stream stream,
                                                zmlx_error *error);

/* The source text for a target: "c", "cuda", "metal" (all arrays of dtype), or "ir" (the typed operations). *text is
 * NUL-terminated and the caller's (free). "check" gives an empty text, or the reason why not. */
ZMLX_API zmlx_status zmlx_kernel_emit(char **text, zmlx_kernel *kernel, const char *target, mlx_dtype dtype,
                                      zmlx_error *error);

/* Compares the gradient given in the options with the derived one on many points in float64, relative to the larger;
 * writes the first of the worst differences. OK without a given gradient. A difference above 1e-6 is
 * ZMLX_ERROR_ARGUMENT. */
ZMLX_API zmlx_status zmlx_kernel_check_gradient(double *worst, zmlx_kernel *kernel, zmlx_error *error);

/* Where compiled kernels are kept, and the C compiler: for the process, before the first kernel is applied. The folder
 * is made where only it is missing. NULL: ~/.cache/zmlx/kernels of the user's home in the system's user list, or where
 * that cannot be written, a folder in the system's temporary one; the compiler that built this library, or
 * /usr/bin/cc. */
ZMLX_API zmlx_status zmlx_kernel_set_cache(const char *folder, const char *compiler, zmlx_error *error);

/* Threads of kernels on the CPU, 0 for the processors: for the process, before the first kernel is applied. */
ZMLX_API zmlx_status zmlx_kernel_set_threads(int n_threads, zmlx_error *error);

/* Since the process began. */
typedef struct zmlx_kernel_counts {
    uint64_t compiled; /* runs of a compiler */
    uint64_t loaded;   /* kernels taken from the cache on disk */
} zmlx_kernel_counts;
ZMLX_API zmlx_kernel_counts zmlx_kernel_get_counts(void);

#ifdef __cplusplus
}
#endif

#endif
