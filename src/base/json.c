/* SPDX-License-Identifier: MIT */
#include "base/json.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"

/* The end of the number at text, which ends in NUL. */
static char *round_integer(char *text) {
    static const char exponent[] = "e03";
    char *end = text + strspn(text, "+-.0123456789eE"), *digits = text + (*text == '-');
    bool is_integer = end > digits && digits + strspn(digits, "0123456789") == end;
    errno = 0;
    if (is_integer && strtoll(text, NULL, 10) && errno == ERANGE) memcpy(end - 3, exponent, 3);
    return end;
}

/* Integers beyond 64 bits become reals of as many characters, so that places in errors stay what they are. */
static void round_integers(char *text) {
    for (bool in_string = false; *text;) {
        if (in_string && *text == '\\' && text[1]) {
            text += 2;
        } else if (!in_string && (*text == '-' || (*text >= '0' && *text <= '9'))) {
            text = round_integer(text);
        } else {
            in_string ^= *text == '"';
            text++;
        }
    }
}

/* Python's integers have no bounds, and transformers writes 10^30 as model_max_length where there is none. */
static json_t *parse_rounded(const char *text, size_t size, json_error_t *detail) {
    char *copy = malloc(size + 1);
    if (!copy) return NULL;
    memcpy(copy, text, size);
    copy[size] = '\0';
    round_integers(copy);
    json_t *value = json_loadb(copy, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, detail);
    free(copy);
    return value;
}

zmlx_status zm_json_parse(json_t **value, const char *text, size_t size, const char *name, zmlx_error *error) {
    json_error_t detail;
    *value = json_loadb(text, size, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &detail);
    if (!*value && json_error_code(&detail) == json_error_numeric_overflow)
        *value = parse_rounded(text, size, &detail);
    if (!*value)
        return zm_fail(error, ZMLX_ERROR_FORMAT, name, "not valid JSON: line %d, column %d: %s",
                       detail.line, detail.column, detail.text);
    if (!json_is_object(*value)) {
        json_decref(*value);
        *value = NULL;
        return zm_fail(error, ZMLX_ERROR_FORMAT, name, "expected a JSON object");
    }
    return ZMLX_OK;
}

zmlx_status zm_json_load(json_t **value, const char *path, size_t limit, zmlx_error *error) {
    *value = NULL;
    char *text;
    size_t size;
    ZM_TRY(zm_file_read(&text, &size, path, limit, error));
    zmlx_status status = zm_json_parse(value, text, size, path, error);
    free(text);
    return status;
}

json_t *zm_json_get(zm_json_object object, const char *key) {
    json_t *value = json_object_get(object.value, key);
    return json_is_null(value) ? NULL : value;
}

static zmlx_status fail_field(zm_json_object object, const char *key, const char *expected, zmlx_error *error) {
    const json_t *value = json_object_get(object.value, key);
    char where[ZM_WHERE_ROOM];
    snprintf(where, sizeof where, "%s: %s", object.file, key);
    if (!value) return zm_fail(error, ZMLX_ERROR_FORMAT, where, "missing; expected %s", expected);
    char *text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
    zmlx_status status =
        zm_fail(error, ZMLX_ERROR_FORMAT, where, "expected %s, got %.60s", expected, text ? text : "?");
    free(text);
    return status;
}

zmlx_status zm_json_int(int64_t *result, zm_json_object object, const char *key, int64_t minimum,
                        int64_t maximum, zmlx_error *error) {
    *result = 0;
    json_t *value = zm_json_get(object, key);
    char expected[96];
    snprintf(expected, sizeof expected, "an integer from %lld to %lld", (long long)minimum,
             (long long)maximum);
    int64_t number;
    if (json_is_integer(value)) {
        number = json_integer_value(value);
    } else if (json_is_real(value) && fabs(json_real_value(value)) < 9e15 &&
               json_real_value(value) == floor(json_real_value(value))) {
        number = (int64_t)json_real_value(value);
    } else {
        return fail_field(object, key, expected, error);
    }
    if (number < minimum || number > maximum) return fail_field(object, key, expected, error);
    *result = number;
    return ZMLX_OK;
}

zmlx_status zm_json_number(double *result, zm_json_object object, const char *key, zmlx_error *error) {
    *result = 0;
    json_t *value = zm_json_get(object, key);
    if (!json_is_number(value)) return fail_field(object, key, "a number", error);
    *result = json_number_value(value);
    return ZMLX_OK;
}

zmlx_status zm_json_bool(bool *result, zm_json_object object, const char *key, zmlx_error *error) {
    *result = false;
    json_t *value = json_object_get(object.value, key);
    if (json_is_null(value)) return ZMLX_OK;
    if (!json_is_boolean(value)) return fail_field(object, key, "true or false", error);
    *result = json_is_true(value);
    return ZMLX_OK;
}

zmlx_status zm_json_string(const char **result, zm_json_object object, const char *key, zmlx_error *error) {
    *result = NULL;
    json_t *value = zm_json_get(object, key);
    if (!json_is_string(value)) return fail_field(object, key, "a string", error);
    *result = json_string_value(value);
    return ZMLX_OK;
}

zmlx_status zm_json_int_or(int64_t *result, zm_json_object object, const char *key, int64_t minimum,
                           int64_t maximum, int64_t fallback, zmlx_error *error) {
    if (zm_json_get(object, key)) return zm_json_int(result, object, key, minimum, maximum, error);
    *result = fallback;
    return ZMLX_OK;
}

zmlx_status zm_json_number_or(double *result, zm_json_object object, const char *key, double fallback,
                              zmlx_error *error) {
    if (zm_json_get(object, key)) return zm_json_number(result, object, key, error);
    *result = fallback;
    return ZMLX_OK;
}

zmlx_status zm_json_bool_or(bool *result, zm_json_object object, const char *key, bool fallback,
                            zmlx_error *error) {
    if (json_object_get(object.value, key)) return zm_json_bool(result, object, key, error);
    *result = fallback;
    return ZMLX_OK;
}
