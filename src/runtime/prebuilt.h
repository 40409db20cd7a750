/* SPDX-License-Identifier: MIT */
/* Kernels that were compiled with the library: emitted C texts and their code, for each level of instruction set. A
 * text is known by its hash, so what is found is what would have been compiled, and a changed emitter finds nothing.
 * tools/catalog/emit.c writes the table. */
#ifndef ZM_RUNTIME_PREBUILT_H
#define ZM_RUNTIME_PREBUILT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "emit/c/abi.h"

enum { ZM_PREBUILT_LEVELS = 3 }; /* any processor of the architecture; AVX2, FMA, F16C; AVX-512 F, BW, DQ, VL */

typedef struct zm_prebuilt {
    uint64_t hash; /* zm_hash of the text */
    size_t size;   /* of the text */
    int scratch_rows;
    zm_c_kernel *functions[ZM_PREBUILT_LEVELS]; /* NULL: none for this level */
} zm_prebuilt;

typedef struct zm_prebuilts {
    const zm_prebuilt *items; /* by hash, ascending */
    size_t count;
} zm_prebuilts;

/* Defined by the generated table. */
extern const zm_prebuilts zm_prebuilt_table;

/* The code of a text for this processor; false: none is built in. */
bool zm_prebuilt_find(void **symbol, int *scratch_rows, const char *source, size_t size);

/* The level of this processor. */
int zm_prebuilt_level(void);

/* Other code instead, for tests: NULL is the table. Before the first kernel is applied. */
void zm_prebuilt_use(const zm_prebuilts *table, int highest_level);

#endif
