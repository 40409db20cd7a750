/* SPDX-License-Identifier: MIT */
/* Status codes and error details, shared by every zmlx function.
 *
 *     zmlx_error error;
 *     zmlx_model *model;
 *     if (zmlx_model_load(&model, "models/lfm2", NULL, &error))
 *         fprintf(stderr, "%s: %s\n", error.where, error.message);
 *
 * A function returns ZMLX_OK (0) or a code that says what kind of failure it was. Its result is the
 * first out-parameter, which must not be NULL, and is NULL (or zero) after a failure; handles of arrays keep what they
 * held. The last parameter, which may be NULL, receives the details. Other pointers may be NULL where that is said;
 * NULL for an object is an error or nothing. The library never exits, never prints and never reads the environment. */
#ifndef ZMLX_STATUS_H
#define ZMLX_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#if defined(__GNUC__)
#define ZMLX_API __attribute__((visibility("default")))
#else
#define ZMLX_API
#endif

typedef enum zmlx_status {
#define ZMLX_STATUS(name, text) ZMLX_##name,
#include "zmlx/status.def"
#undef ZMLX_STATUS
    ZMLX_STATUS_COUNT
} zmlx_status;

typedef struct zmlx_error {
    zmlx_status code;
    int column;         /* 1-based column in an expression; 0 where there is none */
    char where[256];    /* file, field or tensor at fault; "" where there is none */
    char message[1024]; /* one line, no trailing newline */
} zmlx_error;

/* Short text of a code, "unknown status" for a value outside the list. Never NULL; static storage. */
ZMLX_API const char *zmlx_status_text(zmlx_status status);

/* Version of the library, "MAJOR.MINOR.PATCH". Static storage. */
ZMLX_API const char *zmlx_version(void);

#ifdef __cplusplus
}
#endif

#endif
