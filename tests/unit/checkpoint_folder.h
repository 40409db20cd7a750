/* SPDX-License-Identifier: MIT */
/* For tests that need a checkpoint folder: a temporary folder and files in it. */
#ifndef ZM_TESTS_CHECKPOINT_FOLDER_H
#define ZM_TESTS_CHECKPOINT_FOLDER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "temporary.h"

static char folder[TEMPORARY_SIZE];

static inline int make_folder(void **state) {
    (void)state;
    return mkdtemp(temporary_template(folder)) ? 0 : -1;
}

static inline int remove_folder(void **state) {
    (void)state;
    return temporary_remove(folder);
}

static inline void write_bytes(const char *name, const void *bytes, size_t size) {
    char path[256];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static inline void write_text(const char *name, const char *text) { write_bytes(name, text, strlen(text)); }

/* header: the entries of a safetensors header, without braces. */
static inline void write_tensors(const char *name, const char *entries, const void *data, size_t data_size) {
    char bytes[8192];
    size_t length = strlen(entries) + 2;
    assert_true(8 + length + data_size <= sizeof bytes);
    for (int i = 0; i < 8; i++) bytes[i] = (char)((uint64_t)length >> (8 * i));
    bytes[8] = '{';
    memcpy(bytes + 9, entries, length - 2);
    bytes[8 + length - 1] = '}';
    memcpy(bytes + 8 + length, data, data_size);
    write_bytes(name, bytes, 8 + length + data_size);
}

#define ENTRY(name, dtype, shape, begin, end) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":[" #begin "," #end "]}"

#endif
