/* SPDX-License-Identifier: MIT */
/* The k largest of each row on the CPU, for the instruction set that runtime/prebuilt.h names. */
#ifndef ZM_KERNELS_SELECT_ROWS_H
#define ZM_KERNELS_SELECT_ROWS_H

#include <stdint.h>

#include "emit/storage.h"

enum { ZM_SELECT_ROWS_MAX = 64 };

/* Rows of columns floats; of each the k <= ZM_SELECT_ROWS_MAX largest in the order of zm_select_topk. */
typedef struct zm_select_rows_task {
    const void *x;
    zm_storage storage;
    int columns, k;
    void *values;      /* k a row, of x's type */
    uint32_t *indices; /* k a row */
    float *below_largest; /* not NULL: instead of values k a row, each less the row's largest; -inf in a row of -inf */
} zm_select_rows_task;

void zm_select_rows(const zm_select_rows_task *task, int64_t begin, int64_t end);

#endif
