/* SPDX-License-Identifier: MIT */
/* Where the time of a CUDA decode step goes (zmlx_bench_model's option `timeline`). */
#ifndef ZMLX_TIMELINE_H
#define ZMLX_TIMELINE_H

#include <stdint.h>

/* Launches of one kernel, with weights of one size, of the last decode step: of one token, or of several that are one
 * chain. They are of a run of its own in which the kernels tell the time (and take some percent longer). Medians over
 * the launches, in seconds behind a launch's release: the time at which its first block learns that the kernel before
 * is complete. */
typedef struct zmlx_timeline_row {
    const char *kernel; /* static */
    int n_launches, n_blocks;
    uint64_t bytes;     /* of weights, a launch */
    double seconds;     /* until the next launch's release */
    double gap;         /* from the end of the launch before to the release */
    double begun;       /* the last block's begin; negative where that is early */
    double ready;       /* a median block has its input in shared memory, */
    double first;       /* and its first weights; both 0 in kernels that have no such moment */
    double ended, last_ended; /* a median block; the last one */
} zmlx_timeline_row;

enum { ZMLX_TIMELINE_ROWS = 32 };

#endif
