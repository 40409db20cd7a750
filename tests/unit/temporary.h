/* SPDX-License-Identifier: MIT */
/* Names for temporary files and folders. */
#ifndef ZM_TESTS_TEMPORARY_H
#define ZM_TESTS_TEMPORARY_H

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

enum { TEMPORARY_SIZE = 200 };

/* The template that mkstemp and mkdtemp fill, in TMPDIR or /tmp; they refuse one cut short. */
static inline char *temporary_template(char path[static TEMPORARY_SIZE]) {
    const char *parent = getenv("TMPDIR");
    snprintf(path, TEMPORARY_SIZE, "%s/zmlx-test-XXXXXX", parent && *parent ? parent : "/tmp");
    return path;
}

static inline int temporary_remove_item(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info, (void)kind, (void)place;
    return remove(path) && errno != ENOENT; /* a compiler behind a kernel may be tidying up too */
}

/* Removes a folder with all below it; 0 if it is gone. */
static inline int temporary_remove(const char *folder) {
    return nftw(folder, temporary_remove_item, 8, FTW_DEPTH | FTW_PHYS);
}

#endif
