/* SPDX-License-Identifier: MIT */
#include "base/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const status_texts[] = {
#define ZMLX_STATUS(name, text) text,
#include "zmlx/status.def"
#undef ZMLX_STATUS
};

const char *zmlx_status_text(zmlx_status status) {
    if ((int)status < 0 || status >= ZMLX_STATUS_COUNT) return "unknown status";
    return status_texts[status];
}

const char *zmlx_version(void) { return ZMLX_VERSION; }

static void make_one_line(char *text) {
    for (; *text; text++)
        if ((unsigned char)*text < 0x20 || *text == 0x7f) *text = '?';
}

void zm_error_place(zmlx_error *error, const char *where) {
    const char *cut = "";
    size_t size = strlen(where), room = sizeof error->where - 1;
    if (size > room) {
        cut = "...";
        where += size - room + strlen(cut);
        while ((*where & 0xc0) == 0x80) where++; /* not in the middle of a character */
    }
    snprintf(error->where, sizeof error->where, "%s%s", cut, where);
    make_one_line(error->where);
}

zmlx_status zm_fail(zmlx_error *error, zmlx_status code, const char *where, const char *format, ...) {
    if (!error) return code;
    error->code = code;
    error->column = 0;
    zm_error_place(error, where ? where : "");
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error->message, sizeof error->message, format, arguments);
    va_end(arguments);
    make_one_line(error->message);
    return code;
}

zmlx_status zm_fail_memory(zmlx_error *error) {
    return zm_fail(error, ZMLX_ERROR_MEMORY, NULL, "out of memory");
}

zmlx_status zm_fail_null(zmlx_error *error, const char *where) {
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, where, "it is NULL");
}

void zm_error_clear(zmlx_error *error) {
    if (!error) return;
    error->code = ZMLX_OK;
    error->column = 0;
    error->where[0] = '\0';
    error->message[0] = '\0';
}
