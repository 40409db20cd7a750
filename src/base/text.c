/* SPDX-License-Identifier: MIT */
#include "base/text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool reserve(zm_text *text, size_t extra) {
    if (text->failed || extra > SIZE_MAX / 2 - text->size - 1) {
        text->failed = true;
        return false;
    }
    size_t needed = text->size + extra + 1;
    if (needed <= text->capacity) return true;
    size_t capacity = text->capacity ? text->capacity : 64;
    while (capacity < needed) capacity *= 2;
    char *data = realloc(text->data, capacity);
    if (!data) {
        text->failed = true;
        return false;
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void zm_text_append(zm_text *text, const char *bytes, size_t size) {
    if (!reserve(text, size)) return;
    if (size) memcpy(text->data + text->size, bytes, size);
    text->size += size;
    text->data[text->size] = '\0';
}

void zm_text_append_string(zm_text *text, const char *string) {
    zm_text_append(text, string, strlen(string));
}

void zm_text_printf(zm_text *text, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    int size = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (size < 0 || !reserve(text, (size_t)size)) {
        text->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(text->data + text->size, (size_t)size + 1, format, arguments);
    va_end(arguments);
    text->size += (size_t)size;
}

void zm_text_clear(zm_text *text) {
    text->size = 0;
    text->failed = false;
    if (text->data) text->data[0] = '\0';
}

void zm_text_free(zm_text *text) {
    free(text->data);
    *text = (zm_text){0};
}

char *zm_text_take(zm_text *text) {
    if (!reserve(text, 0)) {
        zm_text_free(text);
        return NULL;
    }
    text->data[text->size] = '\0';
    char *data = text->data;
    *text = (zm_text){0};
    return data;
}

const char *zm_text_string(const zm_text *text) { return text->data ? text->data : ""; }
