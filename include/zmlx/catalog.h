/* SPDX-License-Identifier: MIT */
/* The catalogue: ready kernels by name. zmlx/kernels.h has a function for each of them:
 *
 *     mlx_array y = mlx_array_new();
 *     zmlx_rmsnorm(&y, x, weight, 1e-6f, stream, &error);
 *
 * This header is for programs that choose a kernel at run time:
 *
 *     zmlx_catalog_apply("rmsnorm", &y, (mlx_array[]){x, weight}, 2, NULL, stream, &error);
 *
 * Results are lazy and work under eval, async_eval, vjp and compile. Shapes, types and numbers are checked before
 * anything is launched; the error names the kernel and the argument. docs/kernels.md lists all kernels. */
#ifndef ZMLX_CATALOG_H
#define ZMLX_CATALOG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A shape such as "..., D": sizes by name, the same name the same size; "..." is any number of leading dimensions,
 * none included, the same ones for all arrays of a call, "I..." others, which broadcast together. "one": a single
 * element, (1,) or 0-d. "flat D": any shape of D elements. "S?": a first dimension that may be missing. "broadcast":
 * what broadcasts to the first input. */
typedef struct zmlx_catalog_input {
    const char *name, *shape;
    const char *role; /* "data": float32, float16, bfloat16, one type for all of a call; "parameter": any of the three;
                         "constant": the same without a gradient; "index": integers; "offset": of any sign;
                         "mask": bool or uint8; "code": uint8 or int8; "word": uint32; "state": float32 */
    bool is_optional; /* an empty handle leaves it out */
} zmlx_catalog_input;

typedef struct zmlx_catalog_number {
    const char *name;
    const char *kind;  /* "float", "int", "bool", "seed", "dtype", "choice" */
    const char *preset; /* as text */
    const char *range; /* "[0, inf)", the words of a choice "e4m3|e5m2"; "" without */
} zmlx_catalog_number;

typedef struct zmlx_catalog_output {
    const char *name, *shape;
    const char *type; /* "" that of the first data input, else a dtype or the name of a number of kind dtype */
} zmlx_catalog_output;

typedef struct zmlx_catalog_entry {
    const char *name, *family;
    const char *about;     /* one line */
    const char *same_as;   /* another kernel's name where this is another name of it; else NULL */
    const char *expression; /* in the language of docs/expr.md; NULL: composed of other kernels and operations of MLX */
    const char *gradient;  /* "derived", "given" or "none" */
    const char *tolerance; /* "exact", "elementwise", "reduction", "quantised", or "as MLX": its bits on the CPU */
    const zmlx_catalog_input *inputs;
    const zmlx_catalog_number *numbers;
    const zmlx_catalog_output *outputs;
    size_t n_inputs, n_numbers, n_outputs;
} zmlx_catalog_entry;

/* NULL past the last. Static storage. */
ZMLX_API const zmlx_catalog_entry *zmlx_catalog_get(size_t index);
ZMLX_API const zmlx_catalog_entry *zmlx_catalog_find(const char *name); /* NULL: none of this name */

/* One for each number of the entry, in order: seed for kind "seed"; else number, which is an mlx_dtype (-1: that of the
 * data) for "dtype", the place of the word for "choice", 0 or 1 for "bool". */
typedef struct zmlx_catalog_value {
    double number;
    uint64_t seed;
} zmlx_catalog_value;
/* Fills values[0 .. n_numbers) with the presets; NaN stands for none. */
ZMLX_API void zmlx_catalog_presets(zmlx_catalog_value *values, const zmlx_catalog_entry *entry);
/* Sets the value of a number given as text; a failure leaves it. */
ZMLX_API zmlx_status zmlx_catalog_set(zmlx_catalog_value *values, const zmlx_catalog_entry *entry, const char *name,
                                      const char *text, zmlx_error *error);

/* Sets outputs[0 .. n_outputs of the entry); each must be an empty or owned handle. inputs are borrowed. values NULL:
 * the presets. */
ZMLX_API zmlx_status zmlx_catalog_apply(const char *name, mlx_array *outputs, const mlx_array *inputs, size_t n_inputs,
                                        const zmlx_catalog_value *values, mlx_stream stream, zmlx_error *error);

/* gradients[i] for each input that has one (others become empty), from cotangents of the outputs; an empty cotangent
 * counts as zeros. */
ZMLX_API zmlx_status zmlx_catalog_apply_gradient(const char *name, mlx_array *gradients, const mlx_array *inputs,
                                                 size_t n_inputs, const mlx_array *cotangents,
                                                 const zmlx_catalog_value *values, mlx_stream stream,
                                                 zmlx_error *error);

/* The source text for a target as in zmlx_kernel_emit; of a composed kernel, of each of its parts. *text is the
 * caller's (free). */
ZMLX_API zmlx_status zmlx_catalog_emit(char **text, const char *name, const char *target, mlx_dtype dtype,
                                       bool gradient, zmlx_error *error);

/* Whether index inputs are read and checked before a kernel is applied, for the process: then one out of range is an
 * error, which names it and its place. Off by default. */
ZMLX_API void zmlx_catalog_check_indices(bool check);

#ifdef __cplusplus
}
#endif

#endif
