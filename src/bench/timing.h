/* SPDX-License-Identifier: MIT */
#ifndef ZM_BENCH_TIMING_H
#define ZM_BENCH_TIMING_H

#include "zmlx/kernel_bench.h"

/* Of n_runs >= 1 times in seconds, which are sorted; quartiles by the nearest rank. */
zmlx_timing zm_timing_of(double *seconds, int n_runs);

#endif
