/* SPDX-License-Identifier: MIT */
/* The catalogue from inside. A family is a folder with
 *
 *   <family>.def     a row a kernel: ZM_KERNEL(name, fields of zm_row...), see families.def
 *   <family>_ref.c   zm_ref_<name> for each row, see oracle.h; compiled into the tests only
 *   <family>.c       the functions of composed rows, where there are any
 *
 * and two lines in families.def. The row is the whole registration: public functions, command line, documentation,
 * kernels compiled at build time, tests and benchmarks read these lists. */
#ifndef ZM_KERNELS_CATALOG_H
#define ZM_KERNELS_CATALOG_H

#include "base/error.h"
#include "kernels/signature.h"
#include "zmlx/catalog.h"

typedef enum zm_tolerance_class { ZM_EXACT, ZM_ELEMENTWISE, ZM_REDUCTION, ZM_QUANTISED } zm_tolerance_class;

struct zm_catalog_call;
typedef void zm_compose(struct zm_catalog_call *call);

typedef struct zm_row {
    const char *name;
    const char *family;     /* set where a family begins */
    const char *signature;  /* see signature.h */
    const char *body; /* of an expression row: the outputs' names are assigned, or the only output is the result */
    const char *header;     /* its functions, as zmlx_map takes them */
    zm_compose *compose;    /* of a composed row, see compose.h */
    const char *parts;      /* composed: names of the rows it uses, separated by spaces */
    const char *gradients[ZM_SIGNATURE_MAX_INPUTS]; /* expressions in g or cot_<output>, inputs and, where all results
                                                     * are float32, these; none: derived */
    const char *no_gradient; /* why there is none */
    zm_tolerance_class tolerance;
    const char *same_as;    /* another row's name: only that, family and about are set */
    const char *profile_of; /* another row's name: its values with MLX's roundings. Signature, header and
                               no_gradient are as there where not set, derivatives are */
    bool is_part;           /* of composed rows only: no function, not listed */
    const char *cases;      /* what is tested, see tests/kernels/cases.h; NULL: sizes of D, all presets */
    const char *about;
} zm_row;

/* All rows of families.def; one without a name begins a family. */
const zm_row *zm_catalog_rows(int *count);

/* A row with its parsed signature; made once for the process. Of another name of a kernel, row is that kernel's. */
typedef struct zm_kernel_entry {
    zmlx_catalog_entry entry; /* first, so that the public one is this one */
    const zm_row *row;
    zm_signature signature;
} zm_kernel_entry;
/* All rows, parts included; NULL past the last. */
const zm_kernel_entry *zm_catalog_at(int index);
const zm_kernel_entry *zm_catalog_lookup(const char *name); /* NULL: none */
/* The first row that is wrong. */
zmlx_status zm_catalog_check(zmlx_error *error);

#endif
