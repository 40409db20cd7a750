/* SPDX-License-Identifier: MIT */
/* The table of the catalogue: every kernel on a device, by type, value and gradient, against the float64 oracles.
 *
 * A kernel is tried on the cases of its row, separated by "|": assignments "NAME=VALUE" to numbers, "NAME=SIZE" to
 * sizes, "NAME=" to leave an optional input out, "...=2,3" ("I...=2") for leading dimensions, "t...=2,3" for trailing
 * ones. A case without sizes runs over lengths of the last dimension; other sizes are small. */
#ifndef KERNEL_TABLE_H
#define KERNEL_TABLE_H

#include "kernels/compose.h"
#include "kernels/oracle.h"

typedef enum table_layout { LAYOUT_PLAIN, LAYOUT_TRANSPOSED, LAYOUT_SLICED } table_layout;
typedef enum table_data { DATA_PLAIN, DATA_INFINITE, DATA_NAN, DATA_OFFSET, DATA_KINDS } table_data;

typedef struct table_shape {
    int rest[ZM_SIGNATURE_MAX_DIMS], n_rest;
    int columns;    /* of the varying size; -1: 0-d */
    table_layout layout;
    table_data data;
} table_shape;

/* One application. Arrays in float64 live in the arena. */
typedef struct table_run {
    zm_arena *arena;
    const zm_kernel_entry *entry;
    zm_oracle_function *oracle;
    mlx_stream stream, cpu;
    mlx_dtype dtype;
    bool gradient;
    bool wide_parameters; /* float32 beside half data */
    zmlx_catalog_value values[ZM_SIGNATURE_MAX_NUMBERS];
    bool absent[ZM_SIGNATURE_MAX_INPUTS];
    zm_sizes sizes;
    table_shape shape;
    zm_oracle_input inputs[ZM_SIGNATURE_MAX_INPUTS], cotangents[ZM_SIGNATURE_MAX_OUTPUTS];
    mlx_array arrays[ZM_SIGNATURE_MAX_INPUTS], cotangent_arrays[ZM_SIGNATURE_MAX_OUTPUTS];
    zm_oracle_output outputs[ZM_SIGNATURE_MAX_OUTPUTS], gradients[ZM_SIGNATURE_MAX_INPUTS];
    char message[400]; /* "": passed */
    double worst;      /* error over bound */
} table_run;

/* cases.c: calls run for each application of a kernel; stops where it returns false. */
typedef bool table_visitor(void *context, table_run *run);
void table_visit(const zm_kernel_entry *entry, bool gradient, table_visitor *visit, void *context);

/* arrays.c: makes inputs; false with a message. */
bool table_make_inputs(table_run *run);
bool table_make_cotangents(table_run *run);
void table_free_arrays(table_run *run);
/* Float64 values of an array, in the arena. */
double *table_read(table_run *run, mlx_array array);

/* compare.c: applies the kernel and compares; false with a message. */
bool table_apply(table_run *run);
/* The oracle's gradients against finite differences of its values, in float64; false with a message. */
bool table_check_oracle(table_run *run);
void table_prepare_oracle(table_run *run, zm_oracle *call);

/* oracles.c */
zm_oracle_function *table_find_oracle(const char *name);

bool table_is_float(zm_role role);

#endif
