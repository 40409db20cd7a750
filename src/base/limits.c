/* SPDX-License-Identifier: MIT */
#include "base/limits.h"

#include <inttypes.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A limit that a group's folder states, UINT64_MAX without one. */
typedef uint64_t (*group_limit)(const char *folder, bool is_version_2);

/* How many of the first two numbers the file has. */
static int read_numbers(const char *folder, const char *name, int64_t numbers[2]) {
    char path[3 * PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "r");
    if (!file) return 0;
    int count = fscanf(file, "%" SCNd64 "%" SCNd64, &numbers[0], &numbers[1]);
    fclose(file);
    return count < 0 ? 0 : count;
}

/* Files without a limit say "max". */
static uint64_t memory_limit(const char *folder, bool is_version_2) {
    int64_t numbers[2];
    int count = read_numbers(folder, is_version_2 ? "memory.max" : "memory.limit_in_bytes", numbers);
    return count && numbers[0] >= 0 ? (uint64_t)numbers[0] : UINT64_MAX;
}

/* Files without a limit say "max" and the period, or -1. */
static uint64_t processor_limit(const char *folder, bool is_version_2) {
    int64_t numbers[2] = {-1, -1};
    if (is_version_2) read_numbers(folder, "cpu.max", numbers);
    else if (read_numbers(folder, "cpu.cfs_period_us", numbers)) {
        numbers[1] = numbers[0];
        if (!read_numbers(folder, "cpu.cfs_quota_us", numbers)) numbers[0] = -1;
    }
    if (numbers[0] <= 0 || numbers[1] <= 0) return UINT64_MAX;
    return (uint64_t)((numbers[0] - 1) / numbers[1] + 1);
}

/* A container often sees its own group as the topmost one, under whatever name it has outside: folders that are not
 * there are passed over. */
static uint64_t least_limit(const char *mount, char *group, bool is_version_2, group_limit limit_of) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        char folder[2 * PATH_MAX];
        snprintf(folder, sizeof folder, "%s%s", mount, group);
        uint64_t limit = limit_of(folder, is_version_2);
        if (limit < least) least = limit;
        char *end = strrchr(group, '/');
        if (!end) return least;
        *end = '\0';
    }
}

/* Lines of /proc/self/cgroup: HIERARCHY:CONTROLLERS:GROUP, and 0::GROUP of version 2 (cgroups(7)). */
static uint64_t limit_of_line(const char *root, char *line, const char *controller, group_limit limit_of) {
    char mount[PATH_MAX], listed[PATH_MAX], wanted[32];
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return UINT64_MAX;
    *controllers++ = *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    bool is_version_2 = !*controllers;
    snprintf(listed, sizeof listed, ",%s,", controllers);
    snprintf(wanted, sizeof wanted, ",%s,", controller);
    if (!is_version_2 && !strstr(listed, wanted)) return UINT64_MAX;
    snprintf(mount, sizeof mount, "%s/sys/fs/cgroup/%s", root, is_version_2 ? "" : controller);
    return least_limit(mount, group, is_version_2, limit_of);
}

static uint64_t limit_of_groups(const char *root, const char *controller, group_limit limit_of) {
    char path[PATH_MAX], line[PATH_MAX];
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return least;
    while (fgets(line, sizeof line, file)) {
        uint64_t limit = limit_of_line(root, line, controller, limit_of);
        if (limit < least) least = limit;
    }
    fclose(file);
    return least;
}

uint64_t zm_memory_limit(const char *root) { return limit_of_groups(root, "memory", memory_limit); }

uint64_t zm_processor_limit(const char *root) { return limit_of_groups(root, "cpu", processor_limit); }

uint64_t zm_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page_size <= 0) return 0;
    uint64_t machine = (uint64_t)pages * (uint64_t)page_size, limit = zm_memory_limit("");
    return limit < machine ? limit : machine;
}

/* Of the machine, or those that the process is bound to. */
static long usable_processors(void) {
#if defined(__linux__)
    cpu_set_t set;
    if (!sched_getaffinity(0, sizeof set, &set) && CPU_COUNT(&set) > 0) return CPU_COUNT(&set);
#endif
    long count = sysconf(_SC_NPROCESSORS_ONLN);
    return count < 1 ? 1 : count > INT_MAX ? INT_MAX : count;
}

int zm_processor_count(void) {
    uint64_t count = (uint64_t)usable_processors(), limit = zm_processor_limit("");
    return (int)(limit < count ? limit : count);
}
