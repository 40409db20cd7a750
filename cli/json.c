/* SPDX-License-Identifier: MIT */
/* The JSON part of output.h. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

static bool json_failed;

void cli_json_set(json_t *object, const char *key, json_t *value) {
    if (json_object_set_new(object, key, value)) json_failed = true;
}

void cli_json_append(json_t *array, json_t *value) {
    if (json_array_append_new(array, value)) json_failed = true;
}

json_t *cli_json_number(double number) { return isfinite(number) ? json_real(number) : json_null(); }

json_t *cli_json_measured(double number) { return number > 0 ? cli_json_number(number) : json_null(); }

/* Length of the UTF-8 character at bytes, 0 when there is none. */
static size_t character_size(const unsigned char *bytes, size_t size) {
    static const uint32_t smallest[5] = {0, 0, 0x80, 0x800, 0x10000};
    size_t length = bytes[0] < 0x80         ? 1
                    : bytes[0] >> 5 == 0x06 ? 2
                    : bytes[0] >> 4 == 0x0e ? 3
                    : bytes[0] >> 3 == 0x1e ? 4
                                            : 0;
    if (length == 0 || length > size) return 0;
    uint32_t code = length == 1 ? bytes[0] : bytes[0] & (0x7fu >> length);
    for (size_t i = 1; i < length; i++) {
        if (bytes[i] >> 6 != 2) return 0;
        code = code << 6 | (bytes[i] & 0x3fu);
    }
    bool surrogate = code >= 0xd800 && code <= 0xdfff;
    return code < smallest[length] || code > 0x10ffff || surrogate ? 0 : length;
}

json_t *cli_json_bytes(const char *bytes, size_t size) {
    json_t *string = json_stringn(bytes ? bytes : "", size);
    if (string || size == 0) return string;
    char *valid = size > SIZE_MAX / 3 ? NULL : malloc(3 * size);
    if (!valid) return NULL;
    size_t end = 0;
    for (size_t i = 0; i < size;) {
        size_t length = character_size((const unsigned char *)bytes + i, size - i);
        if (length)
            memcpy(valid + end, bytes + i, length);
        else
            memcpy(valid + end, "\xef\xbf\xbd", 3);
        end += length ? length : 3;
        i += length ? length : 1;
    }
    string = json_stringn(valid, end);
    free(valid);
    return string;
}

json_t *cli_json_string(const char *string) {
    return string ? cli_json_bytes(string, strlen(string)) : json_null();
}

json_t *cli_json_strings(const char *const *strings, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++) cli_json_append(array, cli_json_string(strings[i]));
    return array;
}

json_t *cli_json_counts(const zmlx_patch_count *counts, size_t count) {
    json_t *object = json_object();
    for (size_t i = 0; i < count; i++) cli_json_set(object, counts[i].pattern, json_integer(counts[i].count));
    return object;
}

char *cli_json_text(json_t *object, bool indented) {
    size_t layout = indented ? JSON_INDENT(2) : 0;
    char *text = object && !json_failed ? json_dumps(object, layout | JSON_REAL_PRECISION(9)) : NULL;
    json_decref(object);
    if (!text) cli_fail_memory();
    return text;
}

int cli_print_json(json_t *object) {
    char *text = cli_json_text(object, false);
    if (!text) return CLI_BAD;
    cli_print("%s\n", text);
    free(text);
    return CLI_DONE;
}
