/* SPDX-License-Identifier: MIT */
/* A pool of threads that shares out the index range of a loop.
 *
 * The caller of zm_pool_run works too. Waiting threads spin for some microseconds, then sleep, so a
 * chain of short loops wakes them fast and an idle program uses no processor time. Pieces are
 * [begin, end) ranges; which thread takes which is not fixed, so a body must write each index's result
 * alone: then results are the same bits for any number of threads. */
#ifndef ZM_BASE_THREADS_H
#define ZM_BASE_THREADS_H

#include <stddef.h>

#include "base/error.h"
#include "base/scratch.h"

typedef struct zm_pool zm_pool;
typedef void (*zm_range_body)(void *context, size_t begin, size_t end);

enum { ZM_MAX_THREADS = 256, ZM_MAX_STREAMS = 24 };

/* Memory that a loop will read in the order of its indices. Only a hint: nothing is read through it. */
typedef struct zm_stream {
    const void *data;
    size_t bytes;
} zm_stream;

typedef struct zm_ahead {
    zm_stream streams[ZM_MAX_STREAMS];
    int count;
} zm_ahead;

/* n_threads counts the caller, up to ZM_MAX_THREADS; 0 means the processors this process may use. */
zmlx_status zm_pool_new(zm_pool **pool, int n_threads, zmlx_error *error);
void zm_pool_free(zm_pool *pool); /* waits for a running loop; NULL is fine */
int zm_pool_threads(const zm_pool *pool);
/* Returns when no thread of the pool spins any more, so that none is in the way of what is timed next. */
void zm_pool_rest(zm_pool *pool);

/* Calls body over [0, count) in pieces of at least grain indices and returns when all are done.
 * pool NULL, one piece or one thread: one plain call. Calls from several threads take turns; a body runs no loop on
 * its own pool. */
void zm_pool_run(zm_pool *pool, size_t count, size_t grain, zm_range_body body, void *context);

/* The same. Threads that find no more to do meanwhile fetch the beginning of their parts of what the loop after this
 * one will read into their caches; ahead NULL: of what zm_pool_expect named. */
void zm_pool_run_ahead(zm_pool *pool, size_t count, size_t grain, zm_range_body body, void *context,
                       const zm_ahead *ahead);
/* What is read after loops that do not tell; NULL: nothing known. */
void zm_pool_expect(zm_pool *pool, const zm_ahead *ahead);

/* Memory for the computations that use this pool, one at a time. pool NULL: one for all of them. */
zm_scratch *zm_pool_scratch(zm_pool *pool);

/* Kernels run on MLX's threads and on a pool's, which all have the process's default stack; the largest, of a block of
 * many tokens, takes 280 KB of it. ZMLX_ERROR_UNSUPPORTED where that default is less than 512 KB. */
zmlx_status zm_check_stack(zmlx_error *error);

#endif
