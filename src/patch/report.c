/* SPDX-License-Identifier: MIT */
#include "patch/report.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

zmlx_status zm_report_new(zm_report **report, const char *family, zmlx_error *error) {
    *report = calloc(1, sizeof **report);
    if (!*report) return zm_fail_memory(error);
    (*report)->view.family = family;
    (*report)->arena = zm_arena_new();
    if ((*report)->arena) return ZMLX_OK;
    free(*report);
    *report = NULL;
    return zm_fail_memory(error);
}

void zm_report_free(zm_report *report) {
    if (!report) return;
    zm_arena_free(report->arena);
    free(report);
}

/* Room for one more element in an array of the arena. */
static zmlx_status grow(zm_report *report, void **elements, size_t count, size_t *capacity, size_t size,
                        zmlx_error *error) {
    if (count < *capacity) return ZMLX_OK;
    size_t larger = *capacity ? 2 * *capacity : 8;
    void *copy = zm_arena_alloc(report->arena, larger, size);
    if (!copy) return zm_fail_memory(error);
    if (count) memcpy(copy, *elements, count * size);
    *elements = copy;
    *capacity = larger;
    return ZMLX_OK;
}

zmlx_status zm_report_set_patterns(zm_report *report, const zm_patch_pattern *const *patterns,
                                   size_t n_patterns, zmlx_error *error) {
    const char **names = zm_arena_alloc(report->arena, n_patterns, sizeof *names);
    if (!names) return zm_fail_memory(error);
    for (size_t i = 0; i < n_patterns; i++) names[i] = patterns[i]->name;
    report->view.patterns = names;
    report->view.n_patterns = n_patterns;
    return ZMLX_OK;
}

/* Counts stay in alphabetical order. */
static zmlx_status count_one(zm_report *report, const char *pattern, zmlx_error *error) {
    size_t n_counts = report->view.n_counts, at = 0;
    while (at < n_counts && strcmp(report->counts[at].pattern, pattern) < 0) at++;
    if (at == n_counts || strcmp(report->counts[at].pattern, pattern)) {
        void *counts = report->counts;
        ZM_TRY(grow(report, &counts, n_counts, &report->count_capacity, sizeof *report->counts, error));
        report->counts = counts;
        memmove(&report->counts[at + 1], &report->counts[at], (n_counts - at) * sizeof *report->counts);
        report->counts[at] = (zmlx_patch_count){.pattern = pattern};
        report->view.counts = report->counts;
        report->view.n_counts++;
    }
    report->counts[at].count++;
    return ZMLX_OK;
}

zmlx_status zm_report_add_entry(zm_report *report, const char *path, const char *pattern, const char *reason,
                                zmlx_error *error) {
    void *entries = report->entries;
    ZM_TRY(grow(report, &entries, report->view.n_entries, &report->entry_capacity, sizeof *report->entries,
                error));
    report->entries = entries;
    if (!reason) ZM_TRY(count_one(report, pattern, error));
    report->entries[report->view.n_entries++] = (zmlx_patch_entry){path, pattern, reason};
    report->view.entries = report->entries;
    if (reason)
        report->view.skipped_count++;
    else
        report->view.patched_count++;
    return ZMLX_OK;
}

static zmlx_status keep_note(zm_report *report, const char *note, zmlx_error *error) {
    void *notes = report->notes;
    ZM_TRY(grow(report, &notes, report->view.n_notes, &report->note_capacity, sizeof *report->notes, error));
    report->notes = notes;
    const char *copy = zm_arena_copy(report->arena, note, strlen(note));
    if (!copy) return zm_fail_memory(error);
    report->notes[report->view.n_notes++] = copy;
    report->view.notes = report->notes;
    return ZMLX_OK;
}

zmlx_status zm_report_add_note(zm_report *report, zmlx_error *error, const char *format, ...) {
    char note[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(note, sizeof note, format, arguments);
    va_end(arguments);
    return keep_note(report, note, error);
}

zmlx_status zm_report_merge(zm_report *report, const zm_report *other, zmlx_error *error) {
    for (size_t i = 0; i < other->view.n_entries; i++) {
        const zmlx_patch_entry *entry = &other->entries[i];
        ZM_TRY(zm_report_add_entry(report, entry->path, entry->pattern, entry->reason, error));
    }
    for (size_t i = 0; i < other->view.n_notes; i++) ZM_TRY(keep_note(report, other->notes[i], error));
    return ZMLX_OK;
}

void zm_report_set_speedup(zm_report *report, const char *pattern, double speedup) {
    for (size_t i = 0; i < report->view.n_counts; i++)
        if (!strcmp(report->counts[i].pattern, pattern)) report->counts[i].speedup = speedup;
}

void zm_text_append_names(zm_text *text, const char *const *names, size_t n_names) {
    zm_text_append_string(text, "[");
    for (size_t i = 0; i < n_names; i++) zm_text_printf(text, "%s'%s'", i ? ", " : "", names[i]);
    zm_text_append_string(text, "]");
}

static const char *plural(size_t count) { return count == 1 ? "" : "s"; }

static void append_modules(zm_text *text, const zmlx_patch_report *report) {
    for (size_t i = 0; i < report->n_entries; i++) {
        const zmlx_patch_entry *entry = &report->entries[i];
        zm_text_printf(text, "  [zmlx.patch] %s: %s", entry->path[0] ? entry->path : "(root)",
                       entry->pattern);
        if (entry->reason) zm_text_printf(text, " skipped: %s", entry->reason);
        zm_text_append_string(text, "\n");
    }
}

char *zmlx_patch_report_text(const zmlx_patch_report *report, bool each_module) {
    zm_text text = {0};
    if (!report) return NULL;
    for (size_t i = 0; i < report->n_notes; i++) zm_text_printf(&text, "%s\n", report->notes[i]);
    zm_text_printf(&text, "[zmlx.patch] Applying %zu pattern%s: ", report->n_patterns,
                   plural(report->n_patterns));
    zm_text_append_names(&text, report->patterns, report->n_patterns);
    zm_text_append_string(&text, "\n");
    if (each_module) append_modules(&text, report);
    zm_text_printf(&text, "Patched %d module%s:\n", report->patched_count,
                   plural((size_t)report->patched_count));
    for (size_t i = 0; i < report->n_counts; i++) {
        const zmlx_patch_count *count = &report->counts[i];
        zm_text_printf(&text, "  %s: %d", count->pattern, count->count);
        if (count->speedup > 0) zm_text_printf(&text, " (%.3fx)", count->speedup);
        zm_text_append_string(&text, "\n");
    }
    if (report->skipped_count) zm_text_printf(&text, "  Skipped: %d\n", report->skipped_count);
    return zm_text_take(&text);
}
