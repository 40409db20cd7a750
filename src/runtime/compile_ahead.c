/* SPDX-License-Identifier: MIT */
/* CUDA programs that nobody waits for yet. One thread compiles them, one after the other, whenever no other has asked
 * for a program for a while: NVRTC takes one at a time, so each would make those that are waited for later. */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "runtime/cache_parts.h"

enum { PAUSE_MILLISECONDS = 50 };

typedef struct rest {
    struct rest *next;
    zm_cuda_source source;
    zm_text text; /* its own copy */
    int part;     /* the next one */
} rest;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of what follows */
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static rest *queue;
static int n_asking; /* calls of zm_compile_cuda */
static double last_asked;
static bool is_ending;
static pthread_t thread;
static _Atomic(pid_t) owner; /* the process that has the thread; 0: none */

static void free_rest(rest *self) {
    zm_text_free(&self->text);
    free(self);
}

static void count_asking(int change) {
    pthread_mutex_lock(&lock);
    n_asking += change;
    last_asked = zm_clock_seconds();
    if (!n_asking) pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

zmlx_status zm_compile_cuda(const zm_text **cubin, int *compiled, const zm_cuda_source *source, int part,
                            zmlx_error *error) {
    count_asking(1);
    zmlx_status status = zm_cuda_part_get(cubin, compiled, source, part, error);
    count_asking(-1);
    return status;
}

static void wait_for_pause(void) {
    struct timespec until;
    timespec_get(&until, TIME_UTC);
    until.tv_nsec += PAUSE_MILLISECONDS * 1000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_cond_timedwait(&changed, &lock, &until);
}

/* With the lock held. NULL: the process ends. */
static rest *wait_for_work(void) {
    while (!is_ending) {
        if (!queue || n_asking)
            pthread_cond_wait(&changed, &lock);
        else if (zm_clock_seconds() - last_asked < 1e-3 * PAUSE_MILLISECONDS)
            wait_for_pause();
        else
            return queue;
    }
    return NULL;
}

static void *compile_queue(void *unused) {
    (void)unused;
    pthread_mutex_lock(&lock);
    for (rest *self; (self = wait_for_work());) {
        int part = self->part++;
        if (part == self->source.n_parts) {
            queue = self->next;
            free_rest(self);
        } else if (part != self->source.first) {
            pthread_mutex_unlock(&lock);
            const zm_text *cubin;
            zm_cuda_part_get(&cubin, NULL, &self->source, part, NULL); /* a failure is met when it is needed */
            pthread_mutex_lock(&lock);
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* A compiler must not run while the process takes its libraries down. A child of fork has no thread to wait for. */
static void end(void) {
    if (atomic_load(&owner) != getpid()) return;
    pthread_mutex_lock(&lock);
    is_ending = true;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    for (rest *next; queue; queue = next) {
        next = queue->next;
        free_rest(queue);
    }
    atomic_store(&owner, 0);
}

/* With the lock held. */
static bool need_thread(void) {
    if (is_ending || atomic_load(&owner)) return !is_ending;
    if (atexit(end)) return false;
    sigset_t all, previous; /* signals are for the program's own threads */
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &previous);
    bool started = !pthread_create(&thread, NULL, compile_queue, NULL);
    pthread_sigmask(SIG_SETMASK, &previous, NULL);
    if (started) atomic_store(&owner, getpid());
    return started;
}

static bool append(rest *self) {
    pthread_mutex_lock(&lock);
    bool has_thread = need_thread();
    if (has_thread) {
        rest **link = &queue;
        while (*link) link = &(*link)->next;
        *link = self;
        pthread_cond_broadcast(&changed);
    }
    pthread_mutex_unlock(&lock);
    return has_thread;
}

void zm_compile_cuda_rest(const zm_cuda_source *source) {
    if (!zm_nvrtc_has_run()) return;
    rest *self = calloc(1, sizeof *self);
    if (!self) return;
    zm_text_append(&self->text, source->text, source->size);
    self->source = *source;
    self->source.text = self->text.data;
    if (self->text.failed || !append(self)) free_rest(self);
}
