/* SPDX-License-Identifier: MIT */
/* What this process may use of the machine. A container's limits are those of its control groups (cgroups(7)). */
#ifndef ZM_BASE_LIMITS_H
#define ZM_BASE_LIMITS_H

#include <stdint.h>

/* Bytes that this process may use: the machine's memory or what a container allows of it; 0: unknown. */
uint64_t zm_memory_bytes(void);
/* Processors this process may run on, not more than a container gives it time on; at least 1. */
int zm_processor_count(void);

/* The least limit of this process's control groups and of those above them; UINT64_MAX: none. root stands before /proc
 * and /sys, "" but in tests.
 * Bytes: memory.max of cgroup v2, memory.limit_in_bytes of v1. */
uint64_t zm_memory_limit(const char *root);
/* Processors, rounded up: quota / period of cpu.max of cgroup v2, of cpu.cfs_quota_us and cpu.cfs_period_us of v1. More
 * threads than that would wait for the next period with their work undone. */
uint64_t zm_processor_limit(const char *root);

#endif
