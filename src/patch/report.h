/* SPDX-License-Identifier: MIT */
/* A patch report while it grows. Texts given to it are borrowed where they outlive the model's tree
 * (paths, names, reasons); notes are copied. */
#ifndef ZM_PATCH_REPORT_H
#define ZM_PATCH_REPORT_H

#include "base/arena.h"
#include "base/text.h"
#include "patch/pattern.h"
#include "zmlx/patch.h"

typedef struct zm_report {
    zmlx_patch_report view; /* what the caller sees; its arrays are the three below */
    zm_arena *arena;
    zmlx_patch_entry *entries;
    zmlx_patch_count *counts;
    const char **notes;
    size_t entry_capacity, count_capacity, note_capacity;
} zm_report;

zmlx_status zm_report_new(zm_report **report, const char *family, zmlx_error *error);
void zm_report_free(zm_report *report); /* NULL is fine */

zmlx_status zm_report_set_patterns(zm_report *report, const zm_patch_pattern *const *patterns,
                                   size_t n_patterns, zmlx_error *error);
/* reason NULL: the pattern was applied, and its count grows. */
zmlx_status zm_report_add_entry(zm_report *report, const char *path, const char *pattern, const char *reason,
                                zmlx_error *error);
zmlx_status zm_report_add_note(zm_report *report, zmlx_error *error, const char *format, ...) ZM_PRINTF(3, 4);
/* Appends everything of other but its patterns. */
zmlx_status zm_report_merge(zm_report *report, const zm_report *other, zmlx_error *error);
void zm_report_set_speedup(zm_report *report, const char *pattern, double speedup);

/* Appends "['a', 'b']". */
void zm_text_append_names(zm_text *text, const char *const *names, size_t n_names);

#endif
