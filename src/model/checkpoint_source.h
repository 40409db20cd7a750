/* SPDX-License-Identifier: MIT */
/* The open files of a checkpoint and the lazy arrays read from them.
 *
 * Each array is a graph node that reads its bytes from the file straight into MLX's buffer when it is
 * evaluated. A failing read (a file cut short, a bad disk) cannot stop an evaluation: it is remembered, and
 * whoever evaluated asks zm_source_failure before using the result. Arrays keep the source alive. */
#ifndef ZM_MODEL_CHECKPOINT_SOURCE_H
#define ZM_MODEL_CHECKPOINT_SOURCE_H

#include "model/safetensors.h"

typedef struct zm_source zm_source;

zmlx_status zm_source_new(zm_source **source, zmlx_error *error);
/* Drops the caller's hold; files are closed when the last array is gone too. */
void zm_source_release(zm_source *source);

/* Opens a safetensors file; its tensors are in *file, in memory of the source. */
zmlx_status zm_source_open(zm_safetensors *file, int *file_index, zm_source *source, const char *path,
                           zmlx_error *error);
const char *zm_source_path(const zm_source *source, int file_index);

/* A lazy array of a tensor; stream must be a CPU stream. */
zmlx_status zm_source_array(mlx_array *array, zm_source *source, int file_index,
                            const zm_tensor_header *tensor, mlx_stream stream, zmlx_error *error);

uint64_t zm_source_bytes_read(const zm_source *source);
/* ZMLX_OK, or the first read that failed. */
zmlx_status zm_source_failure(zm_source *source, zmlx_error *error);

#endif
