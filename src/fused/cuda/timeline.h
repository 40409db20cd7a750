/* SPDX-License-Identifier: MIT */
/* Where the time of a decode step goes, by stamps that its kernels' blocks leave in one buffer (stamps.cuh).
 *
 *     zm_timeline_begin(error);        // steps that are made from here on leave stamps, each over the last one's
 *     ...                              // steps; MLX has run them all
 *     zm_timeline_end(rows, &n, error);
 *
 * One at a time in a process, and nobody else makes steps meanwhile. A kernel with stamps takes some percent longer. */
#ifndef ZM_FUSED_CUDA_TIMELINE_H
#define ZM_FUSED_CUDA_TIMELINE_H

#include "fused/cuda/launch.h"
#include "zmlx/timeline.h"

typedef struct zm_timed_launch {
    zm_decode_kernel kernel;
    int grid;
    uint64_t bytes;
} zm_timed_launch;

zmlx_status zm_timeline_begin(zmlx_error *error);
/* Of the last step, in the order in which kernels first come; up to ZMLX_TIMELINE_ROWS. Switches stamps off,
 * whatever it returns; rows NULL: does that alone. Where there was no such step: ZMLX_ERROR_UNSUPPORTED. */
zmlx_status zm_timeline_end(zmlx_timeline_row *rows, int *n_rows, zmlx_error *error);

/* Rows of a step's launches, and how many; stamps: (launches, STAMP_BLOCKS, STAMPS) of nanoseconds, 0 where there is
 * none, each two words, the low half first. */
int zm_timeline_summarize(zmlx_timeline_row *rows, const uint32_t *stamps, const zm_timed_launch *launches,
                          int n_launches);

/* For those who make steps. */
bool zm_timeline_is_on(void);
void zm_timeline_restart(void);
/* Adds the kernel's last arguments, if stamps are on. */
void zm_timeline_add(zm_launch *launch);

#endif
