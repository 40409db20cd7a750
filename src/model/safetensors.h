/* SPDX-License-Identifier: MIT */
/* The header of a safetensors file: 8 bytes little-endian length n, n bytes of JSON
 * {"name": {"dtype", "shape", "data_offsets"}, ..., "__metadata__": {...}}, then the data.
 *
 * The file is untrusted. What is accepted is what the format allows: known types, byte ranges that match
 * type and shape, and ranges that fill the data section exactly, without overlap, hole or rest. */
#ifndef ZM_MODEL_SAFETENSORS_H
#define ZM_MODEL_SAFETENSORS_H

#include <stdint.h>

#include "base/arena.h"
#include "base/error.h"
#include "mlx/c/mlx.h"

enum { ZM_TENSOR_MAX_DIMS = 8, ZM_SAFETENSORS_MAX_HEADER = 100000000 };

typedef struct zm_tensor_header {
    const char *name;
    mlx_dtype dtype; /* 8-bit floats are MLX_UINT8, as MLX reads them */
    int n_dims;
    int shape[ZM_TENSOR_MAX_DIMS];
    uint64_t offset, size; /* bytes, from the start of the file */
} zm_tensor_header;

typedef struct zm_safetensors {
    zm_tensor_header *tensors; /* by offset */
    size_t n_tensors;
    uint64_t file_size;
} zm_safetensors;

/* Reads and checks the header of an open file; path is shown in errors. Memory comes from arena. */
zmlx_status zm_safetensors_read(zm_safetensors *file, int descriptor, const char *path, zm_arena *arena,
                                zmlx_error *error);
/* The same for the first size bytes of a file of file_size bytes. */
zmlx_status zm_safetensors_parse(zm_safetensors *file, const char *bytes, size_t size, uint64_t file_size,
                                 const char *path, zm_arena *arena, zmlx_error *error);

#endif
