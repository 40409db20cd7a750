/* SPDX-License-Identifier: MIT */
#include "base/threads.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum {
    SHARE = 2,              /* a thread takes 1/SHARE of its even part of what is left */
    PAUSES_PER_LOOK = 32,   /* between two looks at the clock */
    SPIN_NANOSECONDS = 30000
};

typedef struct job {
    zm_range_body body;
    void *context;
    size_t count, grain, n_threads;
} job;

/* One loop runs at a time. The caller publishes it in `current`, opens it and then works on it itself;
 * a worker counts itself into `active` before it looks whether the loop is still open, so the caller, who
 * closes the loop and then waits until `active` is zero, never waits for a worker that has not started. */
struct zm_pool {
    job current;
    atomic_size_t next;        /* first index nobody has taken */
    atomic_uint open;          /* the current loop may be entered */
    atomic_uint generation;    /* counts loops */
    atomic_int active;         /* workers inside the current loop */
    atomic_int sleepers;
    atomic_bool stop;
    pthread_mutex_t turn;      /* held by the caller of the current loop */
    pthread_mutex_t sleep_lock;
    pthread_cond_t wake;
    zm_scratch scratch;
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

int zm_processor_count(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set)) {
        int count = CPU_COUNT(&set);
        if (count > 0) return count;
    }
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > ZM_MAX_THREADS ? ZM_MAX_THREADS : (int)count;
}

/* Long pieces first, which memory delivers fastest, and short ones last, so that slow and fast threads end together. */
static void take_pieces(zm_pool *pool) {
    const job *loop = &pool->current;
    size_t begin = atomic_load_explicit(&pool->next, memory_order_relaxed);
    while (begin < loop->count) {
        size_t left = loop->count - begin, size = left / (SHARE * loop->n_threads);
        if (size < loop->grain) size = loop->grain < left ? loop->grain : left;
        if (!atomic_compare_exchange_weak_explicit(&pool->next, &begin, begin + size, memory_order_relaxed,
                                                   memory_order_relaxed))
            continue;
        loop->body(loop->context, begin, begin + size);
        begin = atomic_load_explicit(&pool->next, memory_order_relaxed);
    }
}

static bool has_work(zm_pool *pool, unsigned seen) {
    return atomic_load(&pool->generation) != seen || atomic_load(&pool->stop);
}

/* Spins for a while and then sleeps. Each look at the clock also offers the processor to others. */
static void wait_for_work(zm_pool *pool, unsigned seen) {
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
    for (unsigned seen = 0;;) {
        wait_for_work(pool, seen);
        if (atomic_load(&pool->stop)) return NULL;
        seen = atomic_load(&pool->generation);
        atomic_fetch_add(&pool->active, 1);
        if (atomic_load(&pool->open)) take_pieces(pool);
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
    for (unsigned looks = 0; atomic_load(&pool->active); looks++) {
        if (looks % 1024 == 1023) sched_yield();
        pause_processor();
    }
}

void zm_pool_run(zm_pool *pool, size_t count, size_t grain, zm_range_body body, void *context) {
    if (!count) return;
    if (!grain) grain = 1;
    if (!pool || !pool->n_workers || count <= grain) {
        body(context, 0, count);
        return;
    }
    size_t n_threads = (size_t)pool->n_workers + 1, n_pieces = (count - 1) / grain + 1;

    pthread_mutex_lock(&pool->turn);
    pool->current =
        (job){.body = body, .context = context, .count = count, .grain = grain, .n_threads = n_threads};
    atomic_store(&pool->next, 0);
    atomic_store(&pool->open, 1);
    atomic_fetch_add(&pool->generation, 1);
    wake_workers(pool, n_pieces - 1);
    take_pieces(pool);
    atomic_store(&pool->open, 0);
    wait_for_workers(pool);
    pthread_mutex_unlock(&pool->turn);
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
    if (!pool) return zm_fail_memory(error);
    pthread_mutex_init(&pool->turn, NULL);
    pthread_mutex_init(&pool->sleep_lock, NULL);
    pthread_cond_init(&pool->wake, NULL);
    zm_scratch_init(&pool->scratch);
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
