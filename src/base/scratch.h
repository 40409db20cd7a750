/* SPDX-License-Identifier: MIT */
/* Memory that computations take turns to use. It is reserved where they are set up, which can fail, and taken where
 * they run, which cannot; being kept, it is not cleared by the system again and again. */
#ifndef ZM_BASE_SCRATCH_H
#define ZM_BASE_SCRATCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>

#include "base/error.h"

typedef struct zm_scratch {
    pthread_mutex_t turn; /* held from take to give, and to grow: who reserves what is there already does not wait */
    unsigned char *data;
    atomic_size_t size;
    size_t used;
} zm_scratch;

enum { ZM_SCRATCH_ALIGNMENT = 64, ZM_SCRATCH_DEPTH = 3 };

void zm_scratch_init(zm_scratch *scratch);
void zm_scratch_end(zm_scratch *scratch);
/* Makes room for computations of up to `bytes` each, ZM_SCRATCH_DEPTH of them inside one another. */
zmlx_status zm_scratch_reserve(zm_scratch *scratch, size_t bytes, zmlx_error *error);
/* `bytes`, at most what was reserved; aligned, with any content. Waits while another thread has some. */
void *zm_scratch_take(zm_scratch *scratch, size_t bytes);
/* Gives back what this thread took last. */
void zm_scratch_give(zm_scratch *scratch, size_t bytes);

#endif
