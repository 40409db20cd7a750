/* SPDX-License-Identifier: MIT */
/* Writes the C texts of the catalogue, to be compiled with the library, and the table by which they are found:
 *
 *   emit FOLDER N      FOLDER/prebuilt_0.c ... prebuilt_<N-1>.c, and FOLDER/prebuilt_table.c
 *
 * Each part begins with the prelude, then has the rest of each text with its symbols renamed. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "runtime/prebuilt.h"
#include "variants.h"

extern const char zm_prelude_c[];

enum { MAX_PARTS = 64 };

typedef struct text_record {
    uint64_t hash;
    size_t size;
    int number, scratch_rows;
} text_record;

typedef struct writer {
    FILE *parts[MAX_PARTS];
    int n_parts;
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

static zmlx_status write_text(void *context, const zm_emit_request *request, zmlx_error *error) {
    writer *self = context;
    zm_text text = {0};
    size_t prelude = strlen(zm_prelude_c);
    zmlx_status status = zm_target_find("c")->emit(&text, request, error);
    uint64_t hash = status ? 0 : zm_hash(text.data, text.size);
    if (!status && !is_known(self, hash)) {
        int number = self->count;
        if (self->count == self->capacity) {
            self->capacity = self->capacity ? 2 * self->capacity : 256;
            self->records = realloc(self->records, (size_t)self->capacity * sizeof *self->records);
            if (!self->records) return zm_fail_memory(error);
        }
        self->records[self->count++] = (text_record){hash, text.size, number, read_scratch(text.data, request->entry)};
        FILE *part = self->parts[number % self->n_parts];
        fprintf(part, "#define zm_body ZM_NAME(body, %d)\n#define %s ZM_NAME(kernel, %d)\n#define %s_scratch ZM_NAME(scratch, %d)\n",
                number, request->entry, number, request->entry, number);
        fputs(text.data + prelude, part);
        fprintf(part, "#undef zm_body\n#undef %s\n#undef %s_scratch\n", request->entry, request->entry);
    }
    zm_text_free(&text);
    return status;
}

static int by_hash(const void *a, const void *b) {
    uint64_t left = ((const text_record *)a)->hash, right = ((const text_record *)b)->hash;
    return left < right ? -1 : left > right;
}

static void write_table(writer *self, FILE *file) {
    qsort(self->records, (size_t)self->count, sizeof *self->records, by_hash);
    fprintf(file, "/* SPDX-License-Identifier: MIT */\n#include \"runtime/prebuilt.h\"\n\n"
                  "#if ZM_LEVELS > 1\n#define ROW(hash, size, scratch, n) {hash, size, scratch, "
                  "{zm_prebuilt_kernel_##n##_0, zm_prebuilt_kernel_##n##_1, zm_prebuilt_kernel_##n##_2}},\n"
                  "#define DECLARE(n) extern zm_c_kernel zm_prebuilt_kernel_##n##_0, zm_prebuilt_kernel_##n##_1, "
                  "zm_prebuilt_kernel_##n##_2;\n"
                  "#else\n#define ROW(hash, size, scratch, n) {hash, size, scratch, {zm_prebuilt_kernel_##n##_0}},\n"
                  "#define DECLARE(n) extern zm_c_kernel zm_prebuilt_kernel_##n##_0;\n#endif\n\n");
    for (int i = 0; i < self->count; i++) fprintf(file, "DECLARE(%d)\n", self->records[i].number);
    fprintf(file, "\nstatic const zm_prebuilt items[] = {\n");
    for (int i = 0; i < self->count; i++)
        fprintf(file, "    ROW(0x%016" PRIx64 ", %zu, %d, %d)\n", self->records[i].hash, self->records[i].size,
                self->records[i].scratch_rows, self->records[i].number);
    fprintf(file, "};\n\nconst zm_prebuilts zm_prebuilt_table = {items, sizeof items / sizeof *items};\n");
}

static FILE *open_file(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (!file) perror(path);
    return file;
}

int main(int argc, char **argv) {
    writer self = {.n_parts = argc == 3 ? atoi(argv[2]) : 0};
    zmlx_error error = {0};
    if (self.n_parts < 1 || self.n_parts > MAX_PARTS) return 2;
    for (int i = 0; i < self.n_parts; i++) {
        char name[40];
        snprintf(name, sizeof name, "prebuilt_%d.c", i);
        if (!(self.parts[i] = open_file(argv[1], name))) return 1;
        fputs(zm_prelude_c, self.parts[i]);
        fputs("#define ZM_NAME_3(kind, n, level) zm_prebuilt_##kind##_##n##_##level\n"
              "#define ZM_NAME_2(kind, n, level) ZM_NAME_3(kind, n, level)\n"
              "#define ZM_NAME(kind, n) ZM_NAME_2(kind, n, ZM_LEVEL)\n", self.parts[i]);
    }
    if (visit_variants(write_text, &self, &error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 1;
    }
    FILE *table = open_file(argv[1], "prebuilt_table.c");
    if (!table) return 1;
    write_table(&self, table);
    int failed = fclose(table);
    for (int i = 0; i < self.n_parts; i++) failed |= fclose(self.parts[i]);
    free(self.records);
    return failed ? 1 : 0;
}
