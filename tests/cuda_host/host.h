/* SPDX-License-Identifier: MIT */
/* A part of a decode step or of a prompt, put together by decode.c or prompt.c as for a GPU, of which a chain (chain.c)
 * or a node (prompts.c) runs each kernel on the host from two libraries and compares what they leave. */
#ifndef CUDA_HOST_HOST_H
#define CUDA_HOST_HOST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/mlx.h"
#include "runtime.h"

/* What main takes as NAME=NUMBER, and what stands for it otherwise. */
#define HOST_OPTIONS(OPTION)                                                        \
    OPTION(bits, 4)                                                                 \
    OPTION(group, 64)                                                               \
    OPTION(mxfp4, 0)                                                                \
    OPTION(float16, 0)                                                              \
    OPTION(hidden, 2048)                                                            \
    OPTION(inner, 768)                                                              \
    OPTION(top_k, 4)                                                                \
    OPTION(experts, 16)                                                             \
    OPTION(tokens, 8) /* of a prompt */                                             \
    OPTION(gatings, 4) /* of how many kinds a mixture's choice is made */           \
    OPTION(biases, 1)  /* also with biases */                                       \
    OPTION(kinds, 3)   /* of numbers: how many of host_kind */                      \
    OPTION(every, 1)   /* which blocks run */                                       \
    OPTION(modes, 3)   /* of the second library: how late copies, orders of warps */

typedef struct host_options {
#define OPTION(name, value) int name;
    HOST_OPTIONS(OPTION)
#undef OPTION
} host_options;

extern host_options options;

/* Cancelling: sums that come out small, so that their order, which changes last bits, shows in what is rounded. */
typedef enum host_kind { HOST_USUAL, HOST_CANCELLING, HOST_EXTREME, HOST_TINY } host_kind;

/* inputs.c: what an mlx_array's ctx is here. Behind its end is a page that nobody may touch. */
typedef struct host_array {
    char *data;
    size_t bytes;
    mlx_dtype dtype;
    int shape[3], n_dims; /* where someone asks: host_shape */
} host_array;

mlx_array host_new(size_t bytes, mlx_dtype dtype);
mlx_array host_halves(size_t n, host_kind kind);
mlx_array host_floats(size_t n);
mlx_array host_codes(size_t bytes);
/* Scales and biases of n groups; in mxfp4 *biases stays empty. */
void host_groups(mlx_array *scales, mlx_array *biases, size_t n, int bits, bool is_mxfp4, host_kind kind);
/* For sums that nearly cancel: group i of each row like group i - 1, for i = 2, 4 and so on, of weights and norms. Of
 * what they are multiplied with: negated but for a few last bits, and zeros in the groups that have no such pair. */
void host_repeat_groups(mlx_array array, size_t rows, size_t group_bytes);
void host_negate_groups(mlx_array array, size_t group);
/* The array itself, with that shape: (1, rows, columns). */
mlx_array host_shape(mlx_array array, int rows, int columns);
void host_free_all(void);
float host_half_value(uint16_t half);

/* chain.c: libraries lie in these folders; NULL: each program's text is printed instead, and nothing runs. Kernels that
 * skipped names between commas run from the second alone. */
void host_compare_libraries(const char *first, const char *second, const char *skipped);
/* A kernel of the program, from arrays (of which the last n_written are written) and words. */
void host_launch_kernel(const char *program, const char *symbol, const host_launch *launch, const mlx_array *arrays,
                        int n_arrays, int n_written, const uint32_t *words, int n_words);
/* What runs now, for messages. */
void host_describe(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Prints what came of it. 0: all was the same; 1: something was not; 2: nothing could be compared. */
int host_verdict(void);

#endif
