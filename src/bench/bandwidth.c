/* SPDX-License-Identifier: MIT */
/* How fast this machine reads memory: sums of a buffer larger than its caches. */
#include <stdatomic.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/threads.h"
#include "zmlx/system.h"

enum { PIECE_BYTES = 1 << 20, PIECE_WORDS = PIECE_BYTES / 8, LANES = 16 };
enum { MAX_PIECES = 16384, MAX_SECONDS = 3600 };
static const size_t DEFAULT_BYTES = (size_t)512 << 20;

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

static zmlx_status measure(double *bytes_per_second, buffer *this, size_t n_pieces, zm_pool *pool,
                           double seconds, zmlx_error *error) {
    size_t n_words = n_pieces * PIECE_WORDS;
    uint64_t expected = (uint64_t)n_words * (n_words - 1) / 2; /* n_words is even and below 2^32 */
    zm_pool_run(pool, n_pieces, 1, fill, this);
    double start = zm_clock_seconds(), best = 0, before = start;
    do {
        atomic_store(&this->sum, 0);
        zm_pool_run(pool, n_pieces, 1, read_pieces, this);
        if (atomic_load(&this->sum) != expected)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "memory",
                           "a buffer did not read back as it was written");
        double after = zm_clock_seconds(), rate = (double)(n_pieces * PIECE_BYTES) / (after - before);
        if (rate > best) best = rate;
        before = after;
    } while (before - start < seconds);
    *bytes_per_second = best;
    return ZMLX_OK;
}

zmlx_status zmlx_system_read_bandwidth(double *bytes_per_second, int n_threads, size_t buffer_bytes,
                                       double seconds, zmlx_error *error) {
    *bytes_per_second = 0;
    size_t n_pieces = (buffer_bytes ? buffer_bytes : DEFAULT_BYTES) / PIECE_BYTES;
    if (!n_pieces) n_pieces = 1;
    if (n_pieces > MAX_PIECES)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "buffer size", "expected at most %d MiB, got %zu",
                       MAX_PIECES, n_pieces);
    if (n_threads < 0 || n_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "threads", "expected 0 to %d, got %d", ZM_MAX_THREADS,
                       n_threads);
    if (!(seconds >= 0 && seconds <= MAX_SECONDS))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "seconds", "expected 0 to %d, got %g", MAX_SECONDS,
                       seconds);
    buffer this = {.words = aligned_alloc(4096, n_pieces * PIECE_BYTES)};
    if (!this.words) return zm_fail_memory(error);
    zm_pool *pool;
    zmlx_status status = zm_pool_new(&pool, n_threads, error);
    if (!status) {
        status = measure(bytes_per_second, &this, n_pieces, pool, seconds, error);
        zm_pool_free(pool);
    }
    free(this.words);
    return status;
}
