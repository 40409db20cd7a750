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

/* The function of a kernel without parameters for storages of its inputs, then its outputs; lives as long as the
 * process. */
zmlx_status zm_row_function_get(zm_row_function *function, const char *name, const zm_storage *storages,
                                zmlx_error *error);

/* One row of columns elements: each input has one for each of them, or, bit i of `single`, one for all. output may be
 * an input. streams: it is written past the caches, and needs the fence before its piece of work ends. */
void zm_row_apply(const zm_row_function *function, void *output, const void *const *inputs, unsigned single,
                  int64_t columns, bool streams);
/* Whether a result is so large that its rows are better written past the caches. */
bool zm_row_streams(size_t bytes);
void zm_row_fence(void);

#endif
