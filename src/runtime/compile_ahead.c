/* SPDX-License-Identifier: MIT */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/text.h"
#include "runtime/cache.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int n_running;
static bool is_ending;

typedef struct rest {
    zm_cuda_source source;
    zm_text text; /* its own copy */
} rest;

static void free_rest(rest *self) {
    zm_text_free(&self->text);
    free(self);
}

static bool is_stopped(void) {
    pthread_mutex_lock(&lock);
    bool stopped = is_ending;
    pthread_mutex_unlock(&lock);
    return stopped;
}

static void *compile_rest(void *context) {
    rest *self = context;
    const zm_text *cubin;
    for (int part = 0; part < self->source.n_parts && !is_stopped(); part++)
        if (part != self->source.first) zm_compile_cuda(&cubin, NULL, &self->source, part, NULL); /* a failure is met when it is needed */
    free_rest(self);
    pthread_mutex_lock(&lock);
    n_running--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    return NULL;
}

/* A compiler must not run while the process takes its libraries down. */
static void end(void) {
    pthread_mutex_lock(&lock);
    is_ending = true;
    while (n_running) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}
static void want_end(void) { atexit(end); }

static bool start(rest *self) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, want_end);
    pthread_mutex_lock(&lock);
    pthread_t thread;
    bool started = !is_ending && !pthread_create(&thread, NULL, compile_rest, self);
    if (started) n_running++;
    pthread_mutex_unlock(&lock);
    if (started) pthread_detach(thread);
    return started;
}

void zm_compile_cuda_rest(const zm_cuda_source *source) {
    rest *self = calloc(1, sizeof *self);
    if (!self) return;
    zm_text_append(&self->text, source->text, source->size);
    self->source = *source;
    self->source.text = self->text.data;
    if (self->text.failed || !start(self)) free_rest(self);
}
