/* SPDX-License-Identifier: MIT */
/* The threads that run kernels on the CPU: one pool for the process, made when first used. */
#ifndef ZM_RUNTIME_WORKERS_H
#define ZM_RUNTIME_WORKERS_H

#include "base/threads.h"

/* NULL (one thread) where no pool could be made. */
zm_pool *zm_workers(void);

#endif
