/* SPDX-License-Identifier: MIT */
/* Filling a zmlx_error and passing failures on. */
#ifndef ZM_BASE_ERROR_H
#define ZM_BASE_ERROR_H

#include "zmlx/status.h"

#if defined(__GNUC__)
#define ZM_PRINTF(format_index, first_argument) \
    __attribute__((format(printf, format_index, first_argument)))
#else
#define ZM_PRINTF(format_index, first_argument)
#endif

enum { ZM_WHERE_ROOM = 4096 + 256 }; /* for a path and a field of the file, as text */

/* Records code, where (may be NULL) and the formatted message in error (may be NULL); control
 * characters in either text become '?', so the result is one line. Returns code. */
zmlx_status zm_fail(zmlx_error *error, zmlx_status code, const char *where, const char *format, ...)
    ZM_PRINTF(4, 5);

/* Sets error's where alone. Of one too long the end stays, behind "...": it has the file's own name and the field. */
void zm_error_place(zmlx_error *error, const char *where);

/* zm_fail(error, ZMLX_ERROR_MEMORY, NULL, "out of memory"). */
zmlx_status zm_fail_memory(zmlx_error *error);

/* An argument that must not be NULL is. */
zmlx_status zm_fail_null(zmlx_error *error, const char *where);

/* Empties error (may be NULL): OK, no texts. */
void zm_error_clear(zmlx_error *error);

/* Returns from the calling function when expression is not ZMLX_OK. */
#define ZM_TRY(expression)                                \
    do {                                                  \
        zmlx_status zm_try_status_ = (expression);        \
        if (zm_try_status_ != ZMLX_OK) return zm_try_status_; \
    } while (0)

#endif
