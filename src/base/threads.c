/* SPDX-License-Identifier: MIT */
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/limits.h"

enum {
    LEAST_KEPT = 2, /* what a thread leaves of its part at first is 1/2 to 1/8 */
    MOST_KEPT = 8,
    TELLING_PIECES = 32, /* a thread, in a loop that tells whether threads end together */
    TELLING_SHARE = 16,  /* they do where none waits for more than that part of the loop */
    LINE = 64, /* bytes of a cache line */
    AHEAD_BYTES = 384 * 1024, /* a thread fetches before a loop: less than its second cache holds */
    AHEAD_ROUND = 1024,       /* between two pauses: processors drop what they are asked for faster than it comes */
    PAUSES_PER_LOOK = 32,   /* between two looks at the clock */
    SPIN_NANOSECONDS = 200000
};

typedef struct job {
    zm_range_body body;
    void *context;
    size_t count, grain;
    uint64_t kept; /* a thread leaves 1/kept of its part to those that come to an end before it */
    bool telling;
    zm_ahead ahead;
} job;

/* The pieces [first, last) that a thread has left, as first * 2^32 + last: it takes them from the front, one behind the
 * other, so that what it reads is one stream; threads that have none left take theirs from the back. */
typedef struct part {
    _Alignas(LINE) atomic_uint_least64_t pieces;
    atomic_int_least64_t end; /* when a telling loop had no more for it */
} part;

/* One loop runs at a time. The caller publishes it in `current`, opens it and then works on it itself;
 * a worker counts itself into `active` before it looks whether the loop is still open, so the caller, who
 * closes the loop and then waits until `active` is zero, never waits for a worker that has not started. */
struct zm_pool {
    job current;
    part *parts;               /* of the current loop; the caller's is the first */
    atomic_uint open;          /* the current loop may be entered */
    atomic_uint generation;    /* counts loops */
    atomic_int active;         /* workers inside the current loop */
    atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t turn;      /* held by the caller of the current loop */
    pthread_mutex_t sleep_lock;
    pthread_cond_t wake;
    zm_scratch scratch;
    atomic_int n_numbered;     /* workers that know which part is theirs */
    zm_ahead expected;         /* under turn, like the next */
    uint64_t kept;
    int n_workers;
    pthread_t workers[];
};

static void pause_processor(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

zmlx_status zm_check_stack(zmlx_error *error) {
    enum { LEAST_BYTES = 512 * 1024 };
    pthread_attr_t attributes;
    size_t bytes = LEAST_BYTES;
    if (!pthread_attr_init(&attributes)) {
        pthread_attr_getstacksize(&attributes, &bytes);
        pthread_attr_destroy(&attributes);
    }
    if (bytes >= LEAST_BYTES) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "threads",
                   "this process gives a thread a stack of %zu KB; kernels need %d (ulimit -s %d)", bytes / 1024,
                   LEAST_BYTES / 1024, LEAST_BYTES / 1024);
}

static uint64_t pack_pieces(uint64_t first, uint64_t last) { return first << 32 | last; }

static uint64_t first_piece(uint64_t pieces) { return pieces >> 32; }

static uint64_t pieces_left(uint64_t pieces) { return (pieces & UINT32_MAX) - first_piece(pieces); }

/* Splits pieces off, from the front all but 1/kept, from the back half; what it returns is the caller's alone. */
static bool take_pieces(part *from, bool front, uint64_t kept, uint64_t *taken) {
    uint64_t all = atomic_load_explicit(&from->pieces, memory_order_relaxed), rest;
    do {
        uint64_t first = first_piece(all), left = pieces_left(all);
        if (!left) return false;
        uint64_t size = front ? left - left / kept : (left + 1) / 2;
        *taken = front ? pack_pieces(first, first + size) : pack_pieces(first + left - size, first + left);
        rest = front ? pack_pieces(first + size, first + left) : pack_pieces(first, first + left - size);
    } while (!atomic_compare_exchange_weak_explicit(&from->pieces, &all, rest, memory_order_relaxed,
                                                    memory_order_relaxed));
    return true;
}

/* Makes half of what the thread with most pieces has left the thread's own. */
static bool take_over(zm_pool *pool, int thread) {
    for (;;) {
        int richest = thread;
        uint64_t most = 0, taken;
        for (int i = 0; i <= pool->n_workers; i++) {
            uint64_t left = pieces_left(atomic_load_explicit(&pool->parts[i].pieces, memory_order_relaxed));
            if (left > most) most = left, richest = i;
        }
        if (!most) return false;
        if (!take_pieces(&pool->parts[richest], false, 0, &taken)) continue;
        atomic_store_explicit(&pool->parts[thread].pieces, taken, memory_order_relaxed);
        return true;
    }
}

static void run_pieces(const job *loop, uint64_t pieces) {
    size_t begin = (size_t)first_piece(pieces) * loop->grain, size = (size_t)pieces_left(pieces) * loop->grain;
    loop->body(loop->context, begin, size < loop->count - begin ? begin + size : loop->count);
}

/* Long pieces first and short ones last, so that slow and fast threads end together. */
static void work_through(zm_pool *pool, int thread) {
    uint64_t pieces;
    do {
        while (take_pieces(&pool->parts[thread], true, pool->current.kept, &pieces)) run_pieces(&pool->current, pieces);
    } while (take_over(pool, thread));
    if (pool->current.telling)
        atomic_store_explicit(&pool->parts[thread].end, nanoseconds(), memory_order_relaxed);
}

/* Few long pieces read memory faster than many short ones, but a slow thread has to finish those that it began: where
 * threads end together pieces become longer, else short again. */
static void learn(zm_pool *pool, int64_t begin) {
    int64_t first = INT64_MAX, last = begin;
    for (int i = 0; i <= pool->n_workers; i++) {
        int64_t end = atomic_load_explicit(&pool->parts[i].end, memory_order_relaxed);
        if (end < begin) continue; /* it came too late for this loop */
        if (end < first) first = end;
        if (end > last) last = end;
    }
    if (last - first > (last - begin) / TELLING_SHARE) pool->kept = LEAST_KEPT;
    else if (pool->kept < MOST_KEPT) pool->kept++;
}

static void share_out(zm_pool *pool, size_t n_pieces) {
    size_t n_threads = (size_t)pool->n_workers + 1;
    for (size_t i = 0; i < n_threads; i++) {
        uint64_t first = (n_pieces * i + n_threads - 1) / n_threads;
        uint64_t last = (n_pieces * (i + 1) + n_threads - 1) / n_threads;
        atomic_store_explicit(&pool->parts[i].pieces, pack_pieces(first, last), memory_order_relaxed);
    }
}

/* How far a thread has fetched its part of what the next loop reads. */
typedef struct fetching {
    zm_ahead ahead; /* the thread's parts */
    size_t total, done;
} fetching;

static fetching start_fetching(const zm_ahead *ahead, size_t thread, size_t n_threads) {
    fetching of = {.ahead = *ahead};
    for (int i = 0; i < ahead->count; i++) {
        zm_stream *stream = &of.ahead.streams[i];
        size_t begin = stream->bytes / n_threads * thread;
        stream->data = (const unsigned char *)stream->data + begin;
        stream->bytes /= n_threads;
        of.total += stream->bytes;
    }
    return of;
}

/* Begins to fetch the next lines, as many of each stream as are read at about the same time; false: enough is. */
static bool fetch_some(fetching *of) {
    if (of->done >= of->total || of->done >= AHEAD_BYTES) return false;
    size_t done = of->done, next = done + AHEAD_ROUND < of->total ? done + AHEAD_ROUND : of->total;
    for (int i = 0; i < of->ahead.count; i++) {
        const zm_stream *stream = &of->ahead.streams[i];
        double share = (double)stream->bytes / (double)of->total;
        const unsigned char *data = stream->data;
        size_t last = (size_t)(share * (double)next);
        for (size_t at = (size_t)(share * (double)done) / LINE * LINE; at < last; at += LINE)
            __builtin_prefetch(data + at, 0, 2);
    }
    pause_processor();
    of->done = next;
    return true;
}

static bool has_work(zm_pool *pool, unsigned seen) {
    return atomic_load(&pool->generation) != seen || atomic_load(&pool->stop);
}

/* Fetches ahead, spins for a while and then sleeps. Each look at the clock also offers the processor to others. */
static void wait_for_work(zm_pool *pool, unsigned seen, fetching *next) {
    while (!has_work(pool, seen) && fetch_some(next)) continue;
    int64_t deadline = nanoseconds() + SPIN_NANOSECONDS;
    do {
        for (int i = 0; i < PAUSES_PER_LOOK; i++) {
            if (has_work(pool, seen)) return;
            pause_processor();
        }
        sched_yield();
    } while (nanoseconds() < deadline);
    pthread_mutex_lock(&pool->sleep_lock);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_work(pool, seen)) pthread_cond_wait(&pool->wake, &pool->sleep_lock);
    atomic_fetch_sub(&pool->sleepers, 1);
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void *work(void *argument) {
    zm_pool *pool = argument;
    int thread = 1 + atomic_fetch_add(&pool->n_numbered, 1);
    size_t n_threads = (size_t)pool->n_workers + 1;
    fetching next = {.total = 0};
    for (unsigned seen = 0;;) {
        wait_for_work(pool, seen, &next);
        if (atomic_load(&pool->stop)) return NULL;
        seen = atomic_load(&pool->generation);
        atomic_fetch_add(&pool->active, 1);
        if (atomic_load(&pool->open)) {
            next = start_fetching(&pool->current.ahead, (size_t)thread, n_threads);
            work_through(pool, thread);
        }
        atomic_fetch_sub(&pool->active, 1);
    }
}

static void wake_workers(zm_pool *pool, size_t wanted) {
    int sleepers = atomic_load(&pool->sleepers);
    if (!sleepers) return;
    pthread_mutex_lock(&pool->sleep_lock);
    if (wanted >= (size_t)sleepers) {
        pthread_cond_broadcast(&pool->wake);
    } else {
        for (size_t i = 0; i < wanted; i++) pthread_cond_signal(&pool->wake);
    }
    pthread_mutex_unlock(&pool->sleep_lock);
}

static void wait_for_workers(zm_pool *pool) {
    fetching next = start_fetching(&pool->current.ahead, 0, (size_t)pool->n_workers + 1);
    while (atomic_load(&pool->active) && fetch_some(&next)) continue;
    for (unsigned looks = 0; atomic_load(&pool->active); looks++) {
        if (looks % 1024 == 1023) sched_yield();
        pause_processor();
    }
}

void zm_pool_run_ahead(zm_pool *pool, size_t count, size_t grain, zm_range_body body, void *context,
                       const zm_ahead *ahead) {
    if (!count) return;
    if (!grain) grain = 1;
    if (!pool || !pool->n_workers || count <= grain) {
        body(context, 0, count);
        return;
    }
    if (count / grain > UINT32_MAX / 2) grain = count / (UINT32_MAX / 2);
    size_t n_pieces = (count - 1) / grain + 1;

    pthread_mutex_lock(&pool->turn);
    pool->current = (job){.body = body, .context = context, .count = count, .grain = grain};
    pool->current.ahead = ahead ? *ahead : pool->expected;
    pool->current.kept = pool->kept;
    pool->current.telling = n_pieces >= TELLING_PIECES * ((size_t)pool->n_workers + 1);
    int64_t begin = pool->current.telling ? nanoseconds() : 0;
    share_out(pool, n_pieces);
    atomic_store(&pool->open, 1);
    atomic_fetch_add(&pool->generation, 1);
    wake_workers(pool, n_pieces - 1);
    work_through(pool, 0);
    atomic_store(&pool->open, 0);
    wait_for_workers(pool);
    if (pool->current.telling) learn(pool, begin);
    pthread_mutex_unlock(&pool->turn);
}

void zm_pool_run(zm_pool *pool, size_t count, size_t grain, zm_range_body body, void *context) {
    zm_pool_run_ahead(pool, count, grain, body, context, NULL);
}

void zm_pool_expect(zm_pool *pool, const zm_ahead *ahead) {
    if (!pool) return;
    pthread_mutex_lock(&pool->turn);
    pool->expected = ahead ? *ahead : (zm_ahead){.count = 0};
    pthread_mutex_unlock(&pool->turn);
}

void zm_pool_rest(zm_pool *pool) {
    const struct timespec pause = {.tv_nsec = SPIN_NANOSECONDS / 4};
    while (pool && atomic_load(&pool->sleepers) < pool->n_workers) nanosleep(&pause, NULL);
}

static void stop_workers(zm_pool *pool, int n_started) {
    atomic_store(&pool->stop, true);
    pthread_mutex_lock(&pool->sleep_lock);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->sleep_lock);
    for (int i = 0; i < n_started; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->sleep_lock);
    pthread_mutex_destroy(&pool->turn);
    zm_scratch_end(&pool->scratch);
    free(pool->parts);
    free(pool);
}

zmlx_status zm_pool_new(zm_pool **result, int n_threads, zmlx_error *error) {
    *result = NULL;
    if (n_threads < 0 || n_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "threads", "expected 0 to %d, got %d", ZM_MAX_THREADS,
                       n_threads);
    if (!n_threads) n_threads = zm_processor_count();
    if (n_threads > ZM_MAX_THREADS) n_threads = ZM_MAX_THREADS;
    int n_workers = n_threads - 1;
    zm_pool *pool = calloc(1, sizeof *pool + (size_t)n_workers * sizeof pool->workers[0]);
    if (pool) pool->parts = aligned_alloc(LINE, (size_t)n_threads * sizeof *pool->parts);
    if (!pool || !pool->parts) {
        free(pool);
        return zm_fail_memory(error);
    }
    memset(pool->parts, 0, (size_t)n_threads * sizeof *pool->parts);
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    zm_scratch_init(&pool->scratch);
    pool->kept = LEAST_KEPT;
    pool->n_workers = n_workers;

    sigset_t all, previous; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    int started = 0, failure = 0;
    while (started < n_workers && !failure) {
        failure = pthread_create(&pool->workers[started], NULL, work, pool);
        if (!failure) started++;
    }
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (failure) {
        stop_workers(pool, started);
        return zm_fail(error, ZMLX_ERROR_MEMORY, "threads", "cannot start a thread: %s", strerror(failure));
    }
    *result = pool;
    return ZMLX_OK;
}

void zm_pool_free(zm_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->turn);
    pthread_mutex_unlock(&pool->turn);
    stop_workers(pool, pool->n_workers);
}

static zm_scratch shared_scratch;
static pthread_once_t shared_once = PTHREAD_ONCE_INIT;

static void init_shared(void) { zm_scratch_init(&shared_scratch); }

zm_scratch *zm_pool_scratch(zm_pool *pool) {
    if (pool) return &pool->scratch;
    pthread_once(&shared_once, init_shared);
    return &shared_scratch;
}

int zm_pool_threads(const zm_pool *pool) { return pool ? pool->n_workers + 1 : 1; }
