/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_MEMORY_H
#define ZM_BASE_MEMORY_H

#include <stdint.h>

/* Bytes that this process may use: the machine's memory or what a container allows of it; 0: unknown. */
uint64_t zm_memory_bytes(void);

/* The least limit in bytes of this process's control groups and of those above them: memory.max of cgroup v2,
 * memory.limit_in_bytes of v1; UINT64_MAX: none. root stands before /proc and /sys, "" but in tests. */
uint64_t zm_memory_limit(const char *root);

#endif
