/* SPDX-License-Identifier: MIT */
/* Writes the C texts of the catalogue, to be compiled with the library, and the table by which they are found:
 *
 *   emit FOLDER FAMILY...      FOLDER/prebuilt_<family>.c and FOLDER/prebuilt_table.c
 *
 * Each family's file begins with the prelude, then has the rest of each text with its symbols renamed by its hash. A
 * file that would not change is left alone, so that only what changed is compiled again. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/map.h"
#include "runtime/prebuilt.h"
#include "variants.h"

extern const char zm_prelude_c[];

enum { MAX_FAMILIES = 64 };

typedef struct text_record {
    uint64_t hash;
    size_t size;
    int scratch_rows;
} text_record;

typedef struct writer {
    char **families;
    zm_text parts[MAX_FAMILIES];
    int n_families;
    text_record *records;
    int count, capacity;
} writer;

static bool is_known(const writer *self, uint64_t hash) {
    for (int i = 0; i < self->count; i++)
        if (self->records[i].hash == hash) return true;
    return false;
}

static int read_scratch(const char *text, const char *entry) {
    char start[200];
    snprintf(start, sizeof start, "const __INT32_TYPE__ %.150s_scratch = ", entry);
    const char *found = strstr(text, start);
    return found ? atoi(found + strlen(start)) : -1;
}

static zm_text *find_part(writer *self, const char *family) {
    for (int i = 0; i < self->n_families; i++)
        if (!strcmp(self->families[i], family)) return &self->parts[i];
    return NULL;
}

static zmlx_status record(writer *self, const text_record *made, zmlx_error *error) {
    if (self->count == self->capacity) {
        self->capacity = self->capacity ? 2 * self->capacity : 256;
        self->records = realloc(self->records, (size_t)self->capacity * sizeof *self->records);
        if (!self->records) return zm_fail_memory(error);
    }
    self->records[self->count++] = *made;
    return ZMLX_OK;
}

/* The functions of a text's folds, by the hash or no longer. */
static void name_folds(zm_text *part, int n_folds, uint64_t hash, bool begin) {
    static const char *const names[] = {"update", "combine", "push", "finish"};
    for (int i = 0; i < n_folds; i++)
        for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
            if (begin)
                zm_text_printf(part, "#define zm_%s%d ZM_NAME(%s%d, %016" PRIx64 ")\n", names[k], i, names[k], i, hash);
            else
                zm_text_printf(part, "#undef zm_%s%d\n", names[k], i);
        }
}

static zmlx_status write_text(void *context, const zm_kernel_entry *entry, const zm_emit_request *request,
                              zmlx_error *error) {
    writer *self = context;
    zm_text text = {0}, *part = find_part(self, entry->entry.family);
    if (!part) return zm_fail(error, ZMLX_ERROR_ARGUMENT, entry->entry.family, "is not among the families given");
    ZM_TRY(zm_target_find("c")->emit(&text, request, error));
    text_record made = {zm_hash(text.data, text.size), text.size, read_scratch(text.data, request->entry)};
    zmlx_status status = ZMLX_OK;
    if (!is_known(self, made.hash)) {
        status = record(self, &made, error);
        const char *name = request->entry;
        zm_text_printf(part,
                       "#define zm_body ZM_NAME(body, %016" PRIx64 ")\n#define %s ZM_NAME(kernel, %016" PRIx64 ")\n"
                       "#define %s_scratch ZM_NAME(scratch, %016" PRIx64 ")\n",
                       made.hash, name, made.hash, name, made.hash);
        name_folds(part, request->ir->n_folds, made.hash, true);
        zm_text_append_string(part, text.data + strlen(zm_prelude_c));
        name_folds(part, request->ir->n_folds, made.hash, false);
        zm_text_printf(part, "#undef zm_body\n#undef %s\n#undef %s_scratch\n", name, name);
    }
    zm_text_free(&text);
    return status;
}

static int by_hash(const void *a, const void *b) {
    uint64_t left = ((const text_record *)a)->hash, right = ((const text_record *)b)->hash;
    return left < right ? -1 : left > right;
}

static void write_table(writer *self, zm_text *table) {
    qsort(self->records, (size_t)self->count, sizeof *self->records, by_hash);
    zm_text_append_string(
        table,
        "/* SPDX-License-Identifier: MIT */\n#include \"runtime/prebuilt.h\"\n\n"
        "#define NAME(hash, level) zm_prebuilt_kernel_##hash##_##level\n"
        "#if ZM_LEVELS > 1\n"
        "#define ROW(hash, size, scratch) {0x##hash, size, scratch, {NAME(hash, 0), NAME(hash, 1), NAME(hash, 2)}},\n"
        "#define DECLARE(hash) extern zm_c_kernel NAME(hash, 0), NAME(hash, 1), NAME(hash, 2);\n"
        "#else\n"
        "#define ROW(hash, size, scratch) {0x##hash, size, scratch, {NAME(hash, 0)}},\n"
        "#define DECLARE(hash) extern zm_c_kernel NAME(hash, 0);\n#endif\n\n");
    for (int i = 0; i < self->count; i++) zm_text_printf(table, "DECLARE(%016" PRIx64 ")\n", self->records[i].hash);
    zm_text_append_string(table, "\nstatic const zm_prebuilt items[] = {\n");
    for (int i = 0; i < self->count; i++)
        zm_text_printf(table, "    ROW(%016" PRIx64 ", %zu, %d)\n", self->records[i].hash, self->records[i].size,
                       self->records[i].scratch_rows);
    zm_text_append_string(table,
                          "};\n\nconst zm_prebuilts zm_prebuilt_table = {items, sizeof items / sizeof *items};\n");
}

static zmlx_status write_file(const char *folder, const char *name, const zm_text *text, zmlx_error *error) {
    char path[4096];
    char *old;
    size_t size;
    snprintf(path, sizeof path, "%s/prebuilt_%s.c", folder, name);
    if (text->failed) return zm_fail_memory(error);
    if (!zm_file_read(&old, &size, path, (size_t)1 << 28, NULL)) {
        bool same = size == text->size && !memcmp(old, text->data, size);
        free(old);
        if (same) return ZMLX_OK;
    }
    return zm_file_write(path, text->data, text->size, error);
}

static zmlx_status write_all(writer *self, const char *folder, zmlx_error *error) {
    zm_text table = {0};
    for (int i = 0; i < self->n_families; i++) {
        zm_text_append_string(&self->parts[i], zm_prelude_c);
        zm_text_append_string(&self->parts[i],
                              "#define ZM_NAME_3(kind, hash, level) zm_prebuilt_##kind##_##hash##_##level\n"
                              "#define ZM_NAME_2(kind, hash, level) ZM_NAME_3(kind, hash, level)\n"
                              "#define ZM_NAME(kind, hash) ZM_NAME_2(kind, hash, ZM_LEVEL)\n");
    }
    ZM_TRY(visit_variants(write_text, self, error));
    write_table(self, &table);
    ZM_TRY(write_file(folder, "table", &table, error));
    for (int i = 0; i < self->n_families; i++)
        ZM_TRY(write_file(folder, self->families[i], &self->parts[i], error));
    zm_text_free(&table);
    return ZMLX_OK;
}

int main(int argc, char **argv) {
    writer self = {.families = argv + 2, .n_families = argc - 2};
    zmlx_error error = {0};
    if (self.n_families < 1 || self.n_families > MAX_FAMILIES) return 2;
    zmlx_status status = write_all(&self, argv[1], &error);
    if (status) fprintf(stderr, "%s: %s\n", error.where, error.message);
    for (int i = 0; i < self.n_families; i++) zm_text_free(&self.parts[i]);
    free(self.records);
    return status ? 1 : 0;
}
