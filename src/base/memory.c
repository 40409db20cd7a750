/* SPDX-License-Identifier: MIT */
#include "base/memory.h"

#include <inttypes.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* UINT64_MAX where the file is not there or says "max". */
static uint64_t read_limit(const char *path) {
    uint64_t limit = UINT64_MAX;
    FILE *file = fopen(path, "r");
    if (!file) return limit;
    if (fscanf(file, "%" SCNu64, &limit) != 1) limit = UINT64_MAX;
    fclose(file);
    return limit;
}

/* A container often sees its own group as the topmost one, under whatever name it has outside: folders that are not
 * there are passed over. */
static uint64_t least_limit(const char *mount, char *group, const char *name) {
    uint64_t least = UINT64_MAX;
    for (;;) {
        char path[2 * PATH_MAX];
        snprintf(path, sizeof path, "%s%s/%s", mount, group, name);
        uint64_t limit = read_limit(path);
        if (limit < least) least = limit;
        char *end = strrchr(group, '/');
        if (!end) return least;
        *end = '\0';
    }
}

/* Lines of /proc/self/cgroup: HIERARCHY:CONTROLLERS:GROUP, and 0::GROUP of version 2 (cgroups(7)). */
static uint64_t limit_of_line(const char *root, char *line) {
    char mount[PATH_MAX], listed[PATH_MAX];
    char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return UINT64_MAX;
    *controllers++ = *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    bool is_version_2 = !*controllers;
    snprintf(listed, sizeof listed, ",%s,", controllers);
    if (!is_version_2 && !strstr(listed, ",memory,")) return UINT64_MAX;
    snprintf(mount, sizeof mount, "%s/sys/fs/cgroup%s", root, is_version_2 ? "" : "/memory");
    return least_limit(mount, group, is_version_2 ? "memory.max" : "memory.limit_in_bytes");
}

uint64_t zm_memory_limit(const char *root) {
    char path[PATH_MAX], line[PATH_MAX];
    uint64_t least = UINT64_MAX;
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    FILE *file = fopen(path, "r");
    if (!file) return least;
    while (fgets(line, sizeof line, file)) {
        uint64_t limit = limit_of_line(root, line);
        if (limit < least) least = limit;
    }
    fclose(file);
    return least;
}

uint64_t zm_memory_bytes(void) {
    long pages = sysconf(_SC_PHYS_PAGES), page_size = sysconf(_SC_PAGESIZE);
    if (pages <= 0 || page_size <= 0) return 0;
    uint64_t machine = (uint64_t)pages * (uint64_t)page_size, limit = zm_memory_limit("");
    return limit < machine ? limit : machine;
}
