/* SPDX-License-Identifier: MIT */
/* What the examples share: they end with the library's message when something fails. */
#ifndef EXAMPLE_H
#define EXAMPLE_H

#include <stdio.h>
#include <stdlib.h>

#include "zmlx/zmlx.h"

static zmlx_error error;

#define CHECK(call)                                                     \
    do {                                                                \
        if (call) {                                                     \
            fprintf(stderr, "%s: %s\n", error.where, error.message);    \
            exit(1);                                                    \
        }                                                               \
    } while (0)

/* Evaluates and prints a float32 array. */
static inline void show(const char *name, mlx_array array) {
    if (mlx_array_eval(array)) exit(1);
    printf("%s:", name);
    const float *values = mlx_array_data_float32(array);
    for (size_t i = 0; i < mlx_array_size(array); i++) printf(" %.6f", (double)values[i]);
    printf("\n");
}

#endif
