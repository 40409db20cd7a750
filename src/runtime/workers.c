/* SPDX-License-Identifier: MIT */
#include "runtime/workers.h"

#include <pthread.h>

#include "zmlx/kernel_tools.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int n_wanted;
static bool is_made;
static zm_pool *pool;

zm_pool *zm_workers(void) {
    pthread_mutex_lock(&lock);
    if (!is_made) {
        zm_pool_new(&pool, n_wanted, NULL);
        is_made = true;
    }
    zm_pool *made = pool;
    pthread_mutex_unlock(&lock);
    return made;
}

zmlx_status zmlx_kernel_set_threads(int n_threads, zmlx_error *error) {
    zmlx_status status = ZMLX_OK;
    zm_error_clear(error);
    if (n_threads < 0 || n_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "n_threads", "expected 0 to %d, got %d", ZM_MAX_THREADS, n_threads);
    pthread_mutex_lock(&lock);
    if (is_made)
        status = zm_fail(error, ZMLX_ERROR_ARGUMENT, "n_threads", "kernels have run already");
    else
        n_wanted = n_threads;
    pthread_mutex_unlock(&lock);
    return status;
}
