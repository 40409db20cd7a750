/* SPDX-License-Identifier: MIT */
/* A kernel of the catalogue by its name, with the numbers of --set. */
#ifndef CLI_CATALOG_H
#define CLI_CATALOG_H

#include "kernel.h"
#include "zmlx/catalog.h"

enum { CLI_MAX_ARRAYS = 32 };

typedef struct cli_catalog {
    const zmlx_catalog_entry *entry;
    zmlx_catalog_value values[CLI_MAX_TEXTS];
} cli_catalog;

/* Also tells the library where its cache is; see cli_kernel_open. */
int cli_catalog_open(cli_catalog *chosen, const cli_command *command, const char *name, const cli_texts *set,
                     int64_t n_threads);

/* zmlx run NAME: arrays by the names of inputs (one that is optional may be missing) and, where grad, of cotangents.
 * Sets results[0 .. *count) and their names, each the caller's. */
int cli_catalog_run(mlx_array *results, char names[][80], size_t *count, const cli_catalog *chosen,
                    const zmlx_arrays *file, const char *path, bool grad, mlx_stream stream);

/* "x[..., D], weight[D]: parameter; eps: float = 1e-6 in [0, inf) -> y[..., D]"; the caller's (free). */
char *cli_catalog_signature(const zmlx_catalog_entry *entry);

#endif
