/* SPDX-License-Identifier: MIT */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "expr/expr.h"

enum {
    MAX_PART = 60,   /* bytes of the text in a message */
    MAX_BEFORE = 25, /* of them before the column */
    MAX_REASON = 800 /* so that the rest fits into a message */
};

/* One line: white space is ' ', other non-printing bytes are '?'. */
static char printed(char byte) {
    if (byte && strchr(" \t\r\n\v\f", byte)) return ' ';
    return byte > 0x20 && byte < 0x7f ? byte : '?';
}

/* Writes the text around [begin, end) with these bytes marked. Room: MAX_PART + 13. */
static void mark_part(char *part, const char *text, int length, int begin, int end) {
    int first = begin > MAX_BEFORE ? begin - MAX_BEFORE : 0;
    int last = length - first > MAX_PART ? first + MAX_PART : length, n = 0;
    if (last == length) first = length > MAX_PART ? length - MAX_PART : 0;
    if (end > last) end = last;
    if (first > 0) n += sprintf(part + n, "...");
    for (int i = first; i <= last; i++) {
        if (i == begin) n += sprintf(part + n, ">>>");
        if (i == end) n += sprintf(part + n, "<<<");
        if (i < last) part[n++] = printed(text[i]);
    }
    sprintf(part + n, last < length ? "..." : "");
}

zmlx_status zm_expr_fail(zmlx_error *error, const char *what, const char *text, int column, int size,
                         const char *suggestion, const char *format, ...) {
    if (!error) return ZMLX_ERROR_FORMAT;
    char reason[MAX_REASON], part[MAX_PART + 16];
    va_list arguments;
    va_start(arguments, format);
    int reason_size = vsnprintf(reason, sizeof reason, format, arguments);
    va_end(arguments);
    if (reason_size >= MAX_REASON) memcpy(reason + MAX_REASON - 4, "...", 4);
    int length = (int)strnlen(text, ZM_EXPR_MAX_BYTES);
    int begin = column < 1 ? 0 : column - 1 > length ? length : column - 1;
    int end = size < 0 ? begin : size > length - begin ? length : begin + size;
    mark_part(part, text, length, begin, end);
    zm_fail(error, ZMLX_ERROR_FORMAT, what, "%s; at column %d: `%s`%s%.*s%s", reason, begin + 1, part,
            suggestion ? "; did you mean " : "", ZM_EXPR_MAX_NAME, suggestion ? suggestion : "",
            suggestion ? "?" : "");
    error->column = begin + 1;
    return ZMLX_ERROR_FORMAT;
}

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* Insertions, deletions, replacements and swaps of neighbours that turn a into b, without regard to case. */
static int edit_distance(const char *a, int a_size, const char *b, int b_size) {
    int rows[3][ZM_EXPR_MAX_NAME + 1];
    int *before = rows[0], *previous = rows[1], *current = rows[2];
    for (int j = 0; j <= b_size; j++) current[j] = j;
    for (int i = 1; i <= a_size; i++) {
        int *free_row = before;
        before = previous;
        previous = current;
        current = free_row;
        current[0] = i;
        for (int j = 1; j <= b_size; j++) {
            bool same = lower(a[i - 1]) == lower(b[j - 1]);
            int best = previous[j - 1] + !same;
            if (previous[j] + 1 < best) best = previous[j] + 1;
            if (current[j - 1] + 1 < best) best = current[j - 1] + 1;
            bool swapped =
                i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]);
            if (swapped && before[j - 2] + 1 < best) best = before[j - 2] + 1;
            current[j] = best;
        }
    }
    return current[b_size];
}

const char *zm_nearest_name(const char *name, const char *const *candidates, int count) {
    size_t size = strnlen(name, ZM_EXPR_MAX_NAME + 1);
    if (size > ZM_EXPR_MAX_NAME) return NULL;
    int nearest = size < 2 ? 0 : size < 5 ? 1 : size < 9 ? 2 : 3;
    const char *found = NULL;
    for (int i = 0; i < count; i++) {
        size_t other = strnlen(candidates[i], ZM_EXPR_MAX_NAME + 1);
        if (other > ZM_EXPR_MAX_NAME) continue;
        int distance = edit_distance(name, (int)size, candidates[i], (int)other);
        if (distance > nearest || (found && distance == nearest)) continue;
        nearest = distance;
        found = candidates[i];
    }
    return found;
}
