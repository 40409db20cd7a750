/* SPDX-License-Identifier: MIT */
/* Kernels written as expressions: one text becomes a compiled, cached, differentiable MLX operation.
 *
 *     zmlx_kernel *mish;
 *     mlx_array y = mlx_array_new();
 *     zmlx_elementwise(&mish, "mish", "x * tanh(log(1 + exp(x)))", NULL, &error);
 *     zmlx_kernel_apply(mish, &y, (mlx_array[]){x}, 1, stream, &error);
 *     zmlx_kernel_free(mish);
 *
 * The result is lazy and works under eval, async_eval, vjp, jvp, vmap and compile. It is compiled when first
 * applied to arrays of given types on the stream's device: on the CPU by the system's C compiler, with CUDA by
 * NVRTC, with Metal by MLX; one compiled kernel serves all shapes, parameters and seeds. Inputs are float32, float16 or
 * bfloat16; arithmetic is float32, rounded once when stored; an integer or bool input is an error. docs/expr.md
 * describes the language. Arrays have at most 8 dimensions. A kernel may be used by several threads at once. */
#ifndef ZMLX_KERNEL_H
#define ZMLX_KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_kernel zmlx_kernel;

/* Where an option is absent it is NULL; a zeroed struct is all defaults. */
typedef struct zmlx_elementwise_options {
    const char *gradient; /* dx in terms of g, x and y; default: derived from the expression, as tangents always are */
    const char *gradient_prelude; /* statements before it */
    const char *header;   /* function definitions in the same language */
    bool input_only;      /* the gradient may not use y (the seed's use_output = False) */
    const char *compute_type; /* "float32", the only one */
} zmlx_elementwise_options;

/* y = expression(x), the shape and type of x. name labels messages and profiles; NULL: "elementwise". */
ZMLX_API zmlx_status zmlx_elementwise(zmlx_kernel **kernel, const char *name, const char *expression,
                                      const zmlx_elementwise_options *options, zmlx_error *error);

/* Up to 32 inputs, 16 outputs, and 16 parameters and seeds together; for derivatives inputs and outputs, or inputs and
 * tangents, are at most 32. Inputs broadcast as MLX broadcasts, and each may have any of the three types; outputs have
 * that of the first input. Row functions (row_sum, row_max, ...) work along the last dimension. */
typedef struct zmlx_map_options {
    const char *const *inputs; /* names; NULL: the free names of the expressions in order of appearance */
    size_t n_inputs;
    const char *const *outputs; /* names; NULL: as the expressions say, else y or y0, y1, ... */
    const char *const *parameters; /* floats given when applied */
    size_t n_parameters;
    const char *const *seeds; /* 64-bit numbers for random(seed), given when applied */
    size_t n_seeds;
    const char *prelude, *header;
    const char *const *gradients; /* one an input, in terms of g (cot_<output>), y (the outputs) and the inputs */
    const char *gradient_prelude;
    bool input_only;
    const char *compute_type;
} zmlx_map_options;
ZMLX_API zmlx_status zmlx_map(zmlx_kernel **kernel, const char *name, const char *const *expressions,
                              size_t n_expressions, const zmlx_map_options *options, zmlx_error *error);

/* y = expression(a, b); `x` also names a. Same shape and type, else broadcast. */
ZMLX_API zmlx_status zmlx_binary(zmlx_kernel **kernel, const char *name, const char *expression, zmlx_error *error);

/* x(..., D) -> (...): acc = init; acc = update for each element v; y = finalize in terms of acc, s and D. combine
 * merges what two parts of the row gave, a and b, in any order; derived for sums, products, maxima and minima; without
 * one the row runs left to right. Where update is none of these four, the result has no derivative. */
typedef struct zmlx_reduce_options {
    const char *finalize, *combine, *header, *compute_type;
} zmlx_reduce_options;
ZMLX_API zmlx_status zmlx_reduce(zmlx_kernel **kernel, const char *name, const char *init, const char *update,
                                 const zmlx_reduce_options *options, zmlx_error *error);

/* x(..., D) -> same shape, by two reductions over the row: s1 and s2, then write in terms of x, s1, s2 and D.
 * update is in terms of acc1 (acc2), x and s1; reduce of a and b, in any order; init must be neutral for reduce.
 * Derivatives as of zmlx_reduce. */
typedef struct zmlx_pass {
    const char *init, *update, *reduce;
} zmlx_pass;
typedef struct zmlx_map_reduce_options {
    const char *const *inputs; /* further inputs, shaped like x or (D,); x is then also named inp */
    size_t n_inputs;
    int threadgroup; /* a hint: 0, or a power of two up to 1024 */
    const char *header, *compute_type;
} zmlx_map_reduce_options;
ZMLX_API zmlx_status zmlx_map_reduce(zmlx_kernel **kernel, const char *name, const zmlx_pass *pass1,
                                     const zmlx_pass *pass2, const char *write,
                                     const zmlx_map_reduce_options *options, zmlx_error *error);

/* Sets outputs[0 .. n_outputs of the kernel) to lazy results; each must be an empty or owned handle, as in
 * mlx-c. inputs are borrowed. numbers gives the parameters and seeds, in the kernel's order; NULL without any. */
typedef struct zmlx_kernel_numbers {
    const float *parameters;
    const uint64_t *seeds;
} zmlx_kernel_numbers;
ZMLX_API zmlx_status zmlx_kernel_apply(zmlx_kernel *kernel, mlx_array *outputs, const mlx_array *inputs,
                                       size_t n_inputs, mlx_stream stream, zmlx_error *error);
ZMLX_API zmlx_status zmlx_kernel_apply_with(zmlx_kernel *kernel, mlx_array *outputs, const mlx_array *inputs,
                                            size_t n_inputs, const zmlx_kernel_numbers *numbers, mlx_stream stream,
                                            zmlx_error *error);

/* Graphs made with a kernel outlive it. NULL is fine. */
ZMLX_API void zmlx_kernel_free(zmlx_kernel *kernel);

#ifdef __cplusplus
}
#endif

#endif
