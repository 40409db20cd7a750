/* SPDX-License-Identifier: MIT */
#include "base/scratch.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/pages.h"

static size_t padded(size_t bytes) {
    return (bytes + ZM_SCRATCH_ALIGNMENT - 1) / ZM_SCRATCH_ALIGNMENT * ZM_SCRATCH_ALIGNMENT;
}

void zm_scratch_init(zm_scratch *scratch) {
    pthread_mutexattr_t attributes;
    *scratch = (zm_scratch){.used = 0};
    pthread_mutexattr_init(&attributes);
    pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
    pthread_mutex_init(&scratch->turn, &attributes);
    pthread_mutexattr_destroy(&attributes);
}

void zm_scratch_end(zm_scratch *scratch) {
    free(scratch->data);
    pthread_mutex_destroy(&scratch->turn);
}

zmlx_status zm_scratch_reserve(zm_scratch *scratch, size_t bytes, zmlx_error *error) {
    if (bytes > SIZE_MAX / (2 * ZM_SCRATCH_DEPTH)) return zm_fail_memory(error);
    size_t size = ZM_SCRATCH_DEPTH * padded(bytes);
    zmlx_status status = ZMLX_OK;
    if (size <= atomic_load(&scratch->size)) return ZMLX_OK;
    pthread_mutex_lock(&scratch->turn);
    if (size > atomic_load(&scratch->size)) {
        unsigned char *larger = aligned_alloc(ZM_SCRATCH_ALIGNMENT, size);
        if (larger) {
            zm_want_large_pages(larger, size);
            free(scratch->data);
            scratch->data = larger;
            atomic_store(&scratch->size, size);
        } else {
            status = zm_fail_memory(error);
        }
    }
    pthread_mutex_unlock(&scratch->turn);
    return status;
}

void *zm_scratch_take(zm_scratch *scratch, size_t bytes) {
    pthread_mutex_lock(&scratch->turn);
    void *result = scratch->data + scratch->used;
    scratch->used += padded(bytes);
    return result;
}

void zm_scratch_give(zm_scratch *scratch, size_t bytes) {
    scratch->used -= padded(bytes);
    pthread_mutex_unlock(&scratch->turn);
}
