/* SPDX-License-Identifier: MIT */
/* How the runtime calls a compiled C kernel. The emitted text carries this struct's text itself (prelude.h), so a
 * change here is a change there; a test compares their sizes. */
#ifndef ZM_EMIT_C_ABI_H
#define ZM_EMIT_C_ABI_H

#include <stdint.h>

typedef struct zm_c_call {
    const void *const *inputs;
    void *const *outputs;
    const int32_t *layouts; /* a ZM_LAYOUT_ mask per input */
    int64_t rows, columns;
    int64_t output_stride; /* elements from one row of an output to the next: columns, or more */
    const float *parameters;
    const uint64_t *seeds;
    float *scratch; /* this thread's: *<entry>_scratch rows of columns floats, each rounded up to 16 floats; 64-byte
                       aligned */
    int32_t stream_stores; /* not 0: outputs are larger than the caches, write past them; 2: the caller fences */
} zm_c_call;

/* Symbol <entry>: rows [first_row, last_row), columns [first_column, last_column). A kernel with row operations
 * ignores the columns and does whole rows. Any alignment of arrays; any thread. */
typedef void zm_c_kernel(const zm_c_call *call, int64_t first_row, int64_t last_row, int64_t first_column,
                         int64_t last_column);
/* Symbol <entry>_scratch: const int32_t, the number of scratch rows. */

#endif
