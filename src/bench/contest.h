/* SPDX-License-Identifier: MIT */
/* Two functions of the same arrays, timed in turn. */
#ifndef ZM_BENCH_CONTEST_H
#define ZM_BENCH_CONTEST_H

#include "bench/bandwidth.h"
#include "zmlx/kernel_bench.h"

/* Bytes of the memory that arrays of the stream's device share. */
zmlx_status zm_device_memory(double *bytes, mlx_stream stream, zmlx_error *error);

/* On a GPU calls take two sets of inputs in turn, so that none finds in the cache what a call before it read. */
enum { ZM_CONTEST_SETS = 2 };

/* Baseline and candidate; first_side 1: there is no baseline, sides[0] is not used. */
typedef struct zm_contest {
    mlx_closure sides[2];
    mlx_vector_array inputs[ZM_CONTEST_SETS]; /* taken in turn */
    int n_sets;
    int first_side;
    mlx_stream stream;         /* that of both sides, whose end is waited for; empty: the results are */
    zm_bandwidth_probe *probe; /* NULL at first */
} zm_contest;

zmlx_status zm_contest_run(zmlx_comparison *comparison, zm_contest *self,
                           const zmlx_bench_options *options /* may be NULL */, zmlx_error *error);

#endif
