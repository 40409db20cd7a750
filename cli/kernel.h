/* SPDX-License-Identifier: MIT */
/* What run, emit and bench share: a kernel from --expr and --set. */
#ifndef CLI_KERNEL_H
#define CLI_KERNEL_H

#include "options.h"
#include "zmlx/arrays.h"
#include "zmlx/kernel.h"
#include "zmlx/kernel_tools.h"

/* The kernel options; values holds them in members `expr` and `set`. */
#define CLI_EXPR_OPTION(type)                                                             \
    {"expr", CLI_TEXT, offsetof(type, expr), "EXPR",                                      \
     "the kernel: one expression, or statements such as\n\"y = a * b; z = a + b\"", 0, 0}
#define CLI_SET_OPTION(type)                                                              \
    {"set", CLI_TEXTS, offsetof(type, set), "name=value",                                 \
     "a number the kernel is given when it runs, or the\nseed of random(name); may be given several times", 0, 0}

typedef struct cli_kernel {
    zmlx_kernel *kernel;
    zmlx_kernel_info info;
    float parameters[CLI_MAX_TEXTS];
    uint64_t seeds[CLI_MAX_TEXTS];
    zmlx_kernel_numbers numbers;
    char names[CLI_MAX_TEXTS][65]; /* of --set; at most 64 bytes, as in an expression */
} cli_kernel;

/* Also tells the library where its cache is ($ZMLX_CACHE_DIR or $XDG_CACHE_HOME/zmlx/kernels) and how many threads
 * to use. Return CLI_DONE to go on, or the exit status after their message. */
int cli_kernel_open(cli_kernel *kernel, const cli_command *command, const char *expr, const cli_texts *set,
                    int64_t n_threads);
void cli_kernel_close(cli_kernel *kernel);

/* A stream on the device of --device. */
int cli_stream_open(mlx_stream *stream, int device);

#endif
