/* SPDX-License-Identifier: MIT */
/* Passes over a buffer larger than the caches, to be timed between other things: what else uses a machine's memory
 * changes its bandwidth from second to second. */
#ifndef ZM_BENCH_BANDWIDTH_H
#define ZM_BENCH_BANDWIDTH_H

#include <stddef.h>

#include "base/error.h"

enum { ZM_BANDWIDTH_BYTES = 512 << 20 };

typedef struct zm_bandwidth_probe zm_bandwidth_probe;

/* bytes: of the buffer, rounded down to pieces of 1 MiB and to a quarter of the memory. The caller's. */
zmlx_status zm_bandwidth_probe_new(zm_bandwidth_probe **probe, int n_threads, size_t bytes, zmlx_error *error);
void zm_bandwidth_probe_free(zm_bandwidth_probe *probe);
/* Reads the buffer once, all threads together, which sleep when it returns. */
zmlx_status zm_bandwidth_probe_pass(double *bytes_per_second, zm_bandwidth_probe *probe, zmlx_error *error);

#endif
