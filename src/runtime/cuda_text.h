/* SPDX-License-Identifier: MIT */
/* Kernels written in CUDA by hand: where an expression cannot say which rows are read, or what is found in one.
 *
 * A text (topk.cuh: zm_cuda_topk) is compiled behind the preludes of emitted kernels, once for each set of definitions.
 * Where there is no CUDA, a composition does with operations of MLX. */
#ifndef ZM_RUNTIME_CUDA_TEXT_H
#define ZM_RUNTIME_CUDA_TEXT_H

#include "emit/storage.h"
#include "mlx/scope.h"

extern const char zm_cuda_topk[], zm_cuda_rows[], zm_cuda_rotate[], zm_cuda_sum_rows[];

enum { ZM_CUDA_MAX_DEFINITIONS = 256 };

typedef struct zm_cuda_code {
    const char *cubin; /* lives as long as the process */
    size_t size;
} zm_cuda_code;

/* Whether what this scope makes runs with CUDA. */
bool zm_scope_is_on_cuda(const zm_scope *scope);

/* The cubin of a text for definitions such as "#define S zm_float16\n". */
zmlx_status zm_cuda_code_get(zm_cuda_code *code, const char *text, const char *definitions, zmlx_error *error);

/* "zm_float16" for MLX_FLOAT16. */
const char *zm_cuda_storage(mlx_dtype dtype);

#endif
