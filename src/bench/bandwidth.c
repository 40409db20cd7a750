/* SPDX-License-Identifier: MIT */
/* How fast this machine reads memory: sums of a buffer larger than its caches. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/limits.h"
#include "base/pages.h"
#include "base/threads.h"
#include "bench/bandwidth.h"
#include "zmlx/system.h"

enum { PIECE_BYTES = 1 << 20, PIECE_WORDS = PIECE_BYTES / 8, LANES = 16 };
enum { WAKING_PIECES = 64 }; /* read before the clock starts, until all threads run */
enum { MAX_PIECES = 16384, MAX_SECONDS = 3600 };

typedef struct buffer {
    uint64_t *words;
    _Atomic uint64_t sum; /* its use keeps the loads */
} buffer;

static void fill(void *context, size_t begin, size_t end) {
    buffer *this = context;
    for (size_t i = begin * PIECE_WORDS; i < end * PIECE_WORDS; i++) this->words[i] = i;
}

static void read_pieces(void *context, size_t begin, size_t end) {
    buffer *this = context;
    uint64_t sums[LANES] = {0}, sum = 0;
    for (const uint64_t *at = this->words + begin * PIECE_WORDS; at < this->words + end * PIECE_WORDS;
         at += LANES)
        for (int lane = 0; lane < LANES; lane++) sums[lane] += at[lane];
    for (int lane = 0; lane < LANES; lane++) sum += sums[lane];
    atomic_fetch_add_explicit(&this->sum, sum, memory_order_relaxed);
}

struct zm_bandwidth_probe {
    buffer buffer;
    zm_pool *pool;
    size_t n_pieces;
};

/* A quarter of the memory: other programs, and what is timed between the passes, need some, too. */
static size_t most_pieces(void) {
    uint64_t quarter = zm_memory_bytes() / 4 / PIECE_BYTES;
    return quarter && quarter < MAX_PIECES ? (size_t)quarter : MAX_PIECES;
}

zmlx_status zm_bandwidth_probe_new(zm_bandwidth_probe **probe, int n_threads, size_t bytes, zmlx_error *error) {
    *probe = NULL;
    zm_bandwidth_probe *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    size_t n_pieces = bytes / PIECE_BYTES ? bytes / PIECE_BYTES : 1, most = most_pieces();
    made->n_pieces = n_pieces < most ? n_pieces : most;
    made->buffer.words = aligned_alloc(4096, made->n_pieces * PIECE_BYTES);
    zmlx_status status = made->buffer.words ? zm_pool_new(&made->pool, n_threads, error) : zm_fail_memory(error);
    if (status) {
        zm_bandwidth_probe_free(made);
        return status;
    }
    zm_want_large_pages(made->buffer.words, made->n_pieces * PIECE_BYTES);
    zm_pool_run(made->pool, made->n_pieces, 1, fill, &made->buffer);
    *probe = made;
    return ZMLX_OK;
}

void zm_bandwidth_probe_free(zm_bandwidth_probe *probe) {
    if (!probe) return;
    if (probe->pool) zm_pool_free(probe->pool);
    free(probe->buffer.words);
    free(probe);
}

zmlx_status zm_bandwidth_probe_pass(double *bytes_per_second, zm_bandwidth_probe *probe, zmlx_error *error) {
    uint64_t n_words = (uint64_t)probe->n_pieces * PIECE_WORDS;
    uint64_t expected = n_words * (n_words - 1) / 2; /* n_words is even and below 2^32 */
    size_t n_waking = probe->n_pieces < WAKING_PIECES ? probe->n_pieces : WAKING_PIECES;
    zm_pool_run(probe->pool, n_waking, 1, read_pieces, &probe->buffer);
    double before = zm_clock_seconds();
    atomic_store(&probe->buffer.sum, 0);
    zm_pool_run(probe->pool, probe->n_pieces, 1, read_pieces, &probe->buffer);
    *bytes_per_second = (double)(probe->n_pieces * PIECE_BYTES) / (zm_clock_seconds() - before);
    zm_pool_rest(probe->pool);
    if (atomic_load(&probe->buffer.sum) != expected)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "memory", "a buffer did not read back as it was written");
    return ZMLX_OK;
}

zmlx_status zmlx_system_read_bandwidth(double *bytes_per_second, int n_threads, size_t buffer_bytes,
                                       double seconds, zmlx_error *error) {
    *bytes_per_second = 0;
    size_t n_pieces = buffer_bytes / PIECE_BYTES, most = most_pieces();
    if (n_pieces > most)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "buffer size", "expected at most %zu MiB, got %zu", most, n_pieces);
    if (n_threads < 0 || n_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "threads", "expected 0 to %d, got %d", ZM_MAX_THREADS,
                       n_threads);
    if (!(seconds >= 0 && seconds <= MAX_SECONDS))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "seconds", "expected 0 to %d, got %g", MAX_SECONDS,
                       seconds);
    zm_bandwidth_probe *probe;
    ZM_TRY(zm_bandwidth_probe_new(&probe, n_threads, buffer_bytes ? buffer_bytes : ZM_BANDWIDTH_BYTES, error));
    zmlx_status status;
    double start = zm_clock_seconds(), rate;
    do {
        status = zm_bandwidth_probe_pass(&rate, probe, error);
        if (!status && rate > *bytes_per_second) *bytes_per_second = rate;
    } while (!status && zm_clock_seconds() - start < seconds);
    zm_bandwidth_probe_free(probe);
    return status;
}
