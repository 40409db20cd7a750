/* SPDX-License-Identifier: MIT */
/* Streams that any thread can use.
 *
 * MLX's rule: an operation is evaluated only by the thread that made its stream (any other thread gets
 * "There is no Stream(cpu, n) in current thread"); default streams are one a thread. A stream from here is
 * free of that: every thread may build and evaluate on it, one thread at a time.
 *
 * MLX never ends a stream or its thread, so streams are pooled: a freed one is handed out again. */
#ifndef ZM_MLX_STREAMS_H
#define ZM_MLX_STREAMS_H

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

/* Streams of one device type in use at a time; more are refused. */
enum { ZM_MAX_CPU_STREAMS = 16, ZM_MAX_GPU_STREAMS = 8 };

zmlx_status zm_stream_new(mlx_stream *stream, mlx_device_type device, zmlx_error *error);
/* Returns the stream to the pool once its work is done. An empty handle is fine. */
void zm_stream_free(mlx_stream stream);

/* MLX makes the nodes of a derivative on the thread's default stream: on another than the function's, each would wait
 * for the other stream and back. begin makes stream the default of its device and gives the one before, for end; empty
 * after an exception. */
mlx_stream zm_default_stream_begin(mlx_stream stream);
void zm_default_stream_end(mlx_stream before);

#endif
