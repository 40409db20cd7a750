/* SPDX-License-Identifier: MIT */
/* JSON on jansson: strict loading of untrusted files and typed, range-checked fields.
 * Messages name the file and the field: "config.json: hidden_size" / "expected an integer ...". */
#ifndef ZM_BASE_JSON_H
#define ZM_BASE_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Where a field was looked for; makes the `where` of an error. */
typedef struct zm_json_object {
    json_t *value;    /* borrowed; an object */
    const char *file; /* shown before the field name */
} zm_json_object;

/* Parses a file (object at top level, no duplicate keys, at most limit bytes). *value is owned by
 * the caller: json_decref. A syntax error is ZMLX_ERROR_FORMAT with line and column. Integers beyond 64 bits become
 * reals. */
zmlx_status zm_json_load(json_t **value, const char *path, size_t limit, zmlx_error *error);
/* The same from memory; name is shown as the file. */
zmlx_status zm_json_parse(json_t **value, const char *text, size_t size, const char *name, zmlx_error *error);

/* NULL when the key is absent or null. */
json_t *zm_json_get(zm_json_object object, const char *key);

/* Required fields. An integer may be written as 5 or 5.0; a number may be an integer. Anything
 * missing, of another type or outside [minimum, maximum] is ZMLX_ERROR_FORMAT. */
zmlx_status zm_json_int(int64_t *result, zm_json_object object, const char *key, int64_t minimum,
                        int64_t maximum, zmlx_error *error);
zmlx_status zm_json_number(double *result, zm_json_object object, const char *key, zmlx_error *error);
/* null is false, as mlx-lm takes it: a default is for what is absent alone. */
zmlx_status zm_json_bool(bool *result, zm_json_object object, const char *key, zmlx_error *error);
/* *result is borrowed from the object. */
zmlx_status zm_json_string(const char **result, zm_json_object object, const char *key, zmlx_error *error);

/* The same for fields that may be absent or, but for booleans, null: *result then becomes fallback. */
zmlx_status zm_json_int_or(int64_t *result, zm_json_object object, const char *key, int64_t minimum,
                           int64_t maximum, int64_t fallback, zmlx_error *error);
zmlx_status zm_json_number_or(double *result, zm_json_object object, const char *key, double fallback,
                              zmlx_error *error);
zmlx_status zm_json_bool_or(bool *result, zm_json_object object, const char *key, bool fallback,
                            zmlx_error *error);

#endif
