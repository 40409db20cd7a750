/* SPDX-License-Identifier: MIT */
/* Writes the catalogue's Metal texts as C++ for the host (tests/metal/metal_standin.hpp), each behind an adapter that
 * is called as a C kernel is, and the table by which the runtime finds them in place of those:
 *
 *   metal_texts FOLDER N      FOLDER/part_<i>.cpp, FOLDER/table.cpp */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/map.h"
#include "emit/gpu/gpu.h"
#include "variants.h"

extern const char zm_prelude_metal[], zm_prelude_gpu[];

enum { MAX_PARTS = 16 };

typedef struct record {
    uint64_t hash;
    size_t size;
    int number;
} record;

typedef struct writer {
    FILE *parts[MAX_PARTS], *table;
    int n_parts, count;
    record records[8192];
} writer;

/* threadgroup variables become static, as tests/metal/run.sh makes them. */
static void put_text(FILE *file, const char *text) {
    for (const char *line = text; *line; line += strcspn(line, "\n") + 1) {
        size_t size = strcspn(line, "\n"), space = strspn(line, " ");
        static const char shared[] = "threadgroup uint zm_shared", define[] = "#define ZM_SHARED threadgroup";
        if (!strncmp(line + space, shared, sizeof shared - 1))
            fprintf(file, "static uint zm_shared%.*s\n", (int)(size - space - sizeof shared + 1),
                    line + space + sizeof shared - 1);
        else if (!strncmp(line, define, sizeof define - 1))
            fputs("#define ZM_SHARED\n", file);
        else
            fprintf(file, "%.*s\n", (int)size, line);
        if (!line[size]) break;
    }
}

/* One worker does all rows: the caller's pieces are those of the C target. */
static void put_adapter(FILE *file, const zm_emit_request *request, const char *kernel, int n) {
    const zm_ir *ir = request->ir;
    fprintf(file, "STANDIN_RUNNER(zm_metal_run_%d, text_%d::%s)\n", n, n, kernel);
    fprintf(file,
            "extern \"C\" void zm_metal_kernel_%d(const zm_c_call *call, int64_t first_row, int64_t, int64_t "
            "first_column, int64_t) {\n"
            "    if (first_row || first_column) return;\n"
            "    uint32_t words[128], blocks, threads;\n    int n = 5;\n"
            "    std::memcpy(words, &call->rows, 8);\n    std::memcpy(words + 2, &call->columns, 8);\n"
            "    uintptr_t places = 0;\n"
            "    for (int i = 0; i < %d; i++) places |= (uintptr_t)call->inputs[i];\n"
            "    for (int i = 0; i < %d; i++) places |= (uintptr_t)call->outputs[i];\n"
            "    zm_metal_plan(%d, call->rows, call->columns, places %% 16 == 0, &blocks, &threads, &words[4]);\n"
            "    for (int i = 0; i < %d; i++) words[n++] = (uint32_t)call->layouts[i];\n",
            n, ir->n_inputs, ir->n_outputs, n, ir->n_inputs);
    for (int i = 0; i < ir->n_parameters; i++)
        fprintf(file, ir->parameters[i].is_seed ? "    std::memcpy(words + n, &call->seeds[%d], 8);\n    n += 2;\n"
                                                : "    std::memcpy(words + n++, &call->parameters[%d], 4);\n", i);
    /* Metal's texts write whole rows: those that lie apart are spread afterwards; and a sum over rows in more parts. */
    fprintf(file, "    const int sizes[] = {");
    for (int i = 0; i < ir->n_outputs; i++)
        fprintf(file, "%d, ", ir->outputs[i].level == ZM_LEVEL_ELEMENT ? zm_storage_bytes(request->outputs[i]) : 0);
    fprintf(file, "};\n    const unsigned summed = %uu", request->summed_outputs);
    fprintf(file,
            ";\n"
            "    const int64_t parts = words[4] ? (int64_t)%s * (threads / words[4]) : 0;\n"
            "    void *outputs[%d];\n    std::vector<char> rows[%d];\n"
            "    for (int i = 0; i < %d; i++) {\n"
            "        outputs[i] = call->outputs[i];\n"
            "        const bool is_sum = summed >> i & 1;\n"
            "        if (!is_sum && (call->output_stride == call->columns || !sizes[i])) continue;\n"
            "        rows[i].resize((size_t)((is_sum ? parts : call->rows) * call->columns * sizes[i]));\n"
            "        outputs[i] = rows[i].data();\n"
            "    }\n"
            "    zm_metal_run_%d(call->inputs, outputs, words, blocks, threads, %d);\n"
            "    for (int i = 0; i < %d; i++)\n"
            "        if (summed >> i & 1)\n"
            "            for (int64_t j = 0; j < parts * call->columns; j++)\n"
            "                ((float *)call->outputs[i])[j %% call->columns] += ((float *)rows[i].data())[j];\n"
            "        else for (int64_t row = 0; !rows[i].empty() && row < call->rows; row++)\n"
            "            std::memcpy((char *)call->outputs[i] + row * call->output_stride * sizes[i],\n"
            "                        rows[i].data() + row * call->columns * sizes[i], (size_t)(call->columns * "
            "sizes[i]));\n}\n",
            n % 2 ? "((blocks + 1) / 2 * 2)" : "blocks", /* an odd order's grid is of two rows */
            ir->n_outputs, ir->n_outputs, ir->n_outputs, n, n % 2, ir->n_outputs);
}

static zmlx_status write_text(void *context, const zm_kernel_entry *entry, const zm_emit_request *request,
                              zmlx_error *error) {
    (void)entry;
    writer *self = context;
    zm_text c = {0}, metal = {0};
    int n = self->count++;
    char kernel[160];
    FILE *part = self->parts[n % self->n_parts];
    ZM_TRY(zm_target_find("c")->emit(&c, request, error));
    ZM_TRY(zm_target_find("metal")->emit(&metal, request, error));
    self->records[n] = (record){zm_hash(c.data, c.size), c.size, n};
    snprintf(kernel, sizeof kernel, "%.150s", request->entry);
    fprintf(part, "namespace text_%d {\n", n);
    put_text(part, metal.data + strlen(zm_prelude_metal) + strlen(zm_prelude_gpu));
    fprintf(part, "}\n");
    put_adapter(part, request, kernel, n);
    zm_text_free(&c);
    zm_text_free(&metal);
    return ZMLX_OK;
}

static int by_hash(const void *a, const void *b) {
    uint64_t left = ((const record *)a)->hash, right = ((const record *)b)->hash;
    return left < right ? -1 : left > right;
}

static void write_table(writer *self) {
    fprintf(self->table, "extern \"C\" {\n#include \"runtime/prebuilt.h\"\n}\n");
    for (int i = 0; i < self->count; i++)
        fprintf(self->table,
                "extern \"C\" void zm_metal_kernel_%d(const zm_c_call *, int64_t, int64_t, int64_t, int64_t);\n", i);
    fprintf(self->table, "static const zm_prebuilt items[] = {\n");
    qsort(self->records, (size_t)self->count, sizeof *self->records, by_hash);
    int n_items = 0;
    for (int i = 0; i < self->count; i++) {
        if (i && self->records[i].hash == self->records[i - 1].hash) continue;
        fprintf(self->table, "    {0x%016" PRIx64 ", %zu, 0, {zm_metal_kernel_%d}},\n", self->records[i].hash,
                self->records[i].size, self->records[i].number);
        n_items++;
    }
    fprintf(
        self->table,
        "};\nextern \"C\" __attribute__((visibility(\"default\"))) const zm_prebuilts zm_metal_table = {items, %d};\n"
        "extern \"C\" __attribute__((visibility(\"default\"))) "
        "void (*zm_metal_plan)(int, int64_t, int64_t, int, uint32_t *, uint32_t *, uint32_t *) = nullptr;\n",
        n_items);
}

static FILE *open_file(const char *folder, const char *name) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "w");
    if (!file) perror(path);
    return file;
}

int main(int argc, char **argv) {
    static writer self;
    zmlx_error error = {0};
    self.n_parts = argc == 3 ? atoi(argv[2]) : 0;
    if (self.n_parts < 1 || self.n_parts > MAX_PARTS || !(self.table = open_file(argv[1], "table.cpp"))) return 2;
    for (int i = 0; i < self.n_parts; i++) {
        char name[40];
        snprintf(name, sizeof name, "part_%d.cpp", i);
        if (!(self.parts[i] = open_file(argv[1], name))) return 1;
        fputs("extern \"C\" {\n#include \"emit/c/abi.h\"\n}\n#include <vector>\n#include \"metal_standin.hpp\"\n"
              "extern \"C\" void (*zm_metal_plan)(int, int64_t, int64_t, int, uint32_t *, uint32_t *, uint32_t *);\n",
              self.parts[i]);
        put_text(self.parts[i], zm_prelude_metal);
        put_text(self.parts[i], zm_prelude_gpu);
    }
    if (visit_variants(write_text, &self, &error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 1;
    }
    write_table(&self);
    int failed = fclose(self.table);
    for (int i = 0; i < self.n_parts; i++) failed |= fclose(self.parts[i]);
    return failed ? 1 : 0;
}
