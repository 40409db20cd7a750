/* SPDX-License-Identifier: MIT */
#include "bench/timing.h"

#include <stdlib.h>

static int compare_seconds(const void *a, const void *b) {
    double left = *(const double *)a, right = *(const double *)b;
    return (left > right) - (left < right);
}

zmlx_timing zm_timing_of(double *seconds, int n_runs) {
    qsort(seconds, (size_t)n_runs, sizeof *seconds, compare_seconds);
    return (zmlx_timing){.median = (seconds[(n_runs - 1) / 2] + seconds[n_runs / 2]) / 2,
                         .minimum = seconds[0],
                         .maximum = seconds[n_runs - 1],
                         .lower_quartile = seconds[(n_runs - 1) / 4],
                         .upper_quartile = seconds[n_runs - 1 - (n_runs - 1) / 4]};
}
