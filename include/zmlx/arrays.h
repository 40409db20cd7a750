/* SPDX-License-Identifier: MIT */
/* Named arrays from and to a safetensors file, and streams to work on them, for programs without mlx-c.
 *
 *     zmlx_arrays *inputs;
 *     zmlx_arrays_load(&inputs, "x.safetensors", &error);
 *     mlx_array x = zmlx_arrays_get(inputs, "x"); */
#ifndef ZMLX_ARRAYS_H
#define ZMLX_ARRAYS_H

#include <stddef.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_arrays zmlx_arrays;

/* The file is untrusted: its header is checked before a tensor is read. All tensors are read. */
ZMLX_API zmlx_status zmlx_arrays_load(zmlx_arrays **arrays, const char *path, zmlx_error *error);
ZMLX_API size_t zmlx_arrays_count(const zmlx_arrays *arrays);
/* In the file's order; NULL past the last. Borrowed, as is the array. */
ZMLX_API const char *zmlx_arrays_name(const zmlx_arrays *arrays, size_t index);
/* An empty handle if there is none of this name. */
ZMLX_API mlx_array zmlx_arrays_get(const zmlx_arrays *arrays, const char *name);
ZMLX_API void zmlx_arrays_free(zmlx_arrays *arrays);

/* Evaluates and writes. path holds the old content or the new, never a part; a symbolic link stays and its target is
 * written, and a file that is there must be writable. */
ZMLX_API zmlx_status zmlx_arrays_save(const char *path, const char *const *names, const mlx_array *values, size_t count,
                                      zmlx_error *error);

/* A stream that any thread may use, one at a time. There are 16 on the CPU and 8 on a GPU, models have theirs of them;
 * one more is ZMLX_ERROR_MLX. */
ZMLX_API zmlx_status zmlx_stream_new(mlx_stream *stream, mlx_device_type device, zmlx_error *error);
/* Behind the evaluation of what was made with it: another thread may get it next. */
ZMLX_API void zmlx_stream_free(mlx_stream stream);

#ifdef __cplusplus
}
#endif

#endif
