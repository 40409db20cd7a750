/* SPDX-License-Identifier: MIT */
/* Point-wise kernels of the catalogue called row by row on the CPU, from nodes that choose the rows. */
#ifndef ZM_KERNELS_ROW_FUNCTION_H
#define ZM_KERNELS_ROW_FUNCTION_H

#include "kernels/compose.h"

enum { ZM_ROW_MAX_INPUTS = 8 };

typedef struct zm_row_function {
    zm_c_kernel *function;
    int n_inputs;
} zm_row_function;

/* The function of a kernel without parameters for storages of its inputs, then its outputs; lives as long as the process. */
zmlx_status zm_row_function_get(zm_row_function *function, const char *name, const zm_storage *storages, zmlx_error *error);

/* One row of columns elements: each input has one for each of them. output may be an input. */
void zm_row_apply(const zm_row_function *function, void *output, const void *const *inputs, int64_t columns);

#endif
