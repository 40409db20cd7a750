/* SPDX-License-Identifier: MIT */
#include "model/tokenizer/field.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static json_t *present(json_t *value) { return json_is_null(value) ? NULL : value; }

zm_field zm_field_get(const zm_field *object, const char *key) {
    zm_field field = {.value = present(json_object_get(object->value, key)), .file = object->file};
    snprintf(field.path, sizeof field.path, "%.80s%s%.32s", object->path, object->path[0] ? "." : "", key);
    return field;
}

zm_field zm_field_at(const zm_field *array, size_t index) {
    zm_field field = {.value = present(json_array_get(array->value, index)), .file = array->file};
    snprintf(field.path, sizeof field.path, "%.90s[%zu]", array->path, index);
    return field;
}

const char *zm_field_where(const zm_field *field, char *buffer, size_t size) {
    snprintf(buffer, size, "%s%s%s", field->file, field->path[0] ? ": " : "", field->path);
    return buffer;
}

zmlx_status zm_field_fail(const zm_field *field, zmlx_error *error, zmlx_status code, const char *format,
                          ...) {
    char where[ZM_WHERE_ROOM], message[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    return zm_fail(error, code, zm_field_where(field, where, sizeof where), "%s", message);
}

static const char *type_name(const json_t *value) {
    if (!value) return "nothing";
    switch (json_typeof(value)) {
    case JSON_OBJECT: return "an object";
    case JSON_ARRAY: return "an array";
    case JSON_STRING: return "a string";
    case JSON_INTEGER: return "an integer";
    case JSON_REAL: return "a number";
    case JSON_TRUE: return "true";
    case JSON_FALSE: return "false";
    case JSON_NULL: break;
    }
    return "null";
}

static zmlx_status expected(const zm_field *field, const char *what, zmlx_error *error) {
    return zm_field_fail(field, error, ZMLX_ERROR_FORMAT, "expected %s, found %s", what,
                         type_name(field->value));
}

zmlx_status zm_field_object(const zm_field *field, zmlx_error *error) {
    return json_is_object(field->value) ? ZMLX_OK : expected(field, "an object", error);
}

zmlx_status zm_field_array(const zm_field *field, zmlx_error *error) {
    return json_is_array(field->value) ? ZMLX_OK : expected(field, "an array", error);
}

zmlx_status zm_field_string(const zm_field *field, const char **text, size_t *size, zmlx_error *error) {
    *text = "";
    *size = 0;
    if (!json_is_string(field->value)) return expected(field, "a string", error);
    *text = json_string_value(field->value);
    *size = json_string_length(field->value);
    return ZMLX_OK;
}

zmlx_status zm_field_integer(const zm_field *field, int64_t *value, int64_t low, int64_t high,
                             zmlx_error *error) {
    *value = low;
    if (!json_is_integer(field->value)) return expected(field, "an integer", error);
    *value = json_integer_value(field->value);
    if (*value >= low && *value <= high) return ZMLX_OK;
    return zm_field_fail(field, error, ZMLX_ERROR_FORMAT, "expected an integer from %lld to %lld, found %lld",
                         (long long)low, (long long)high, (long long)*value);
}

zmlx_status zm_field_bool(const zm_field *field, bool *value, bool fallback, zmlx_error *error) {
    *value = fallback;
    if (!field->value) return ZMLX_OK;
    if (!json_is_boolean(field->value)) return expected(field, "true or false", error);
    *value = json_is_true(field->value);
    return ZMLX_OK;
}

bool zm_field_is(const zm_field *field, const char *text) {
    return json_is_string(field->value) && json_string_length(field->value) == strlen(text) &&
           !strcmp(json_string_value(field->value), text);
}
