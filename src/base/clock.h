/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_CLOCK_H
#define ZM_BASE_CLOCK_H

#include <time.h>

/* Seconds of a clock that never goes back; only differences mean something. */
static inline double zm_clock_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

#endif
