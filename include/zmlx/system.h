/* SPDX-License-Identifier: MIT */
/* What this machine and this build can do: for reports and `zmlx doctor`. */
#ifndef ZMLX_SYSTEM_H
#define ZMLX_SYSTEM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_system_info {
    char mlx_version[32];
    char cpu_name[128];
    char cpu_features[256]; /* space-separated: "avx2 fma f16c avx512f ..." */
    char kernel_level[32];  /* instruction set the fused CPU kernels use here */
    char operating_system[128];
    int n_processors;       /* usable by this process */
    uint64_t memory_bytes;  /* that this process may use: a container's limit counts */
    bool has_gpu;           /* MLX has a GPU backend and finds a device */
    char gpu_name[128];     /* "" without */
    uint64_t gpu_memory_bytes;
} zmlx_system_info;

ZMLX_API zmlx_status zmlx_system_get_info(zmlx_system_info *info, zmlx_error *error);

/* Read bandwidth in bytes a second, n_threads threads reading a buffer of buffer_bytes for about `seconds`; the best of
 * the passes. At most 16 GiB and a quarter of the memory; 0: 512 MB, or that quarter. */
ZMLX_API zmlx_status zmlx_system_read_bandwidth(double *bytes_per_second, int n_threads, size_t buffer_bytes,
                                                double seconds, zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
