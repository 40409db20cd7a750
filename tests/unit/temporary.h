/* SPDX-License-Identifier: MIT */
/* Names for temporary files and folders. */
#ifndef ZM_TESTS_TEMPORARY_H
#define ZM_TESTS_TEMPORARY_H

#include <stdio.h>
#include <stdlib.h>

enum { TEMPORARY_SIZE = 200 };

/* The template that mkstemp and mkdtemp fill, in TMPDIR or /tmp; they refuse one cut short. */
static inline char *temporary_template(char path[static TEMPORARY_SIZE]) {
    const char *parent = getenv("TMPDIR");
    snprintf(path, TEMPORARY_SIZE, "%s/zmlx-test-XXXXXX", parent && *parent ? parent : "/tmp");
    return path;
}

#endif
