/* SPDX-License-Identifier: MIT */
/* Writes what is generated from the catalogue's lists:
 *
 *   header | functions | docs      zmlx/kernels.h, its definitions, docs/kernels.md, on standard output */
#include <stdio.h>
#include <string.h>

#include "kernels/catalog.h"

static const char *type_of(const char *kind) {
    static const char *const types[][2] = {{"float", "float "},      {"int", "int "},           {"bool", "bool "},
                                           {"seed", "uint64_t "}, {"dtype", "mlx_dtype "}, {"choice", "const char *"}};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i][0], kind)) return types[i][1];
    return "";
}

/* "zmlx_status zmlx_rmsnorm(...)", broken before column 120. */
static void print_prototype(const zmlx_catalog_entry *entry, const char *prefix) {
    char part[160], indent[120];
    int column = printf("%szmlx_status zmlx_%s(", prefix, entry->name), width = column;
    size_t n_parts = entry->n_outputs + entry->n_inputs + entry->n_numbers + 2;
    snprintf(indent, sizeof indent, "%*s", width, "");
    for (size_t i = 0; i < n_parts; i++) {
        size_t input = i - entry->n_outputs, number = input - entry->n_inputs;
        const char *end = i + 1 < n_parts ? "," : ")";
        if (i < entry->n_outputs)
            snprintf(part, sizeof part, "mlx_array *%s%s", entry->outputs[i].name, end);
        else if (input < entry->n_inputs)
            snprintf(part, sizeof part, "mlx_array %s%s%s", entry->inputs[input].name,
                     entry->inputs[input].is_optional ? " /* may be empty */" : "", end);
        else if (number < entry->n_numbers)
            snprintf(part, sizeof part, "%s%s%s", type_of(entry->numbers[number].kind), entry->numbers[number].name,
                     end);
        else
            snprintf(part, sizeof part, i + 1 < n_parts ? "mlx_stream stream%s" : "zmlx_error *error%s", end);
        if (i && column + (int)strlen(part) + 1 > 118) column = printf("\n%s", indent) - 1;
        else if (i) column += printf(" ");
        column += printf("%s", part);
    }
}

static void print_comment_line(const char *text) {
    int column = 3;
    printf("/* ");
    while (*text) {
        size_t size = strcspn(text, " ");
        if (column + (int)size + 1 > 112) column = printf("\n * ") - 1;
        column += printf("%.*s", (int)size, text);
        text += size;
        if (*text == ' ') {
            column += printf(" ");
            text++;
        }
    }
}

/* x(..., D), weight(D,): as the page has them. */
static void print_shapes(const zmlx_catalog_entry *entry) {
    for (size_t i = 0; i < entry->n_inputs; i++)
        printf("%s%s[%s]", i ? ", " : "", entry->inputs[i].name, entry->inputs[i].shape);
    printf(" -> ");
    for (size_t i = 0; i < entry->n_outputs; i++)
        printf("%s%s[%s]", i ? ", " : "", entry->outputs[i].name, entry->outputs[i].shape);
}

static void print_presets(const zmlx_catalog_entry *entry) {
    for (size_t i = 0; i < entry->n_numbers; i++) {
        const zmlx_catalog_number *number = &entry->numbers[i];
        printf("%s%s", i ? ", " : "", number->name);
        if (!strcmp(number->kind, "choice"))
            printf(" one of %s", number->range);
        else if (number->range[0])
            printf(" in %s", number->range);
        if (number->preset[0] && strcmp(number->kind, "choice")) printf(", usually %s", number->preset);
    }
}

static void write_header(void) {
    const char *family = "";
    printf("/* SPDX-License-Identifier: MIT */\n"
           "/* The catalogue's kernels, one function each, generated from its lists; docs/kernels.md has the same as "
           "tables.\n"
           " *\n"
           " * A result's handle must be empty or owned; inputs are borrowed; results are lazy. Sizes are named: the "
           "same\n"
           " * name is the same size, \"...\" any number of leading dimensions, none included. Unless a line says "
           "otherwise, arrays\n"
           " * are float32, float16 or bfloat16, those that are no parameters of one type, which is the result's. A "
           "wrong\n"
           " * shape, type or number is ZMLX_ERROR_ARGUMENT: the message names the argument, and where is the "
           "function. */\n"
           "#ifndef ZMLX_KERNELS_H\n#define ZMLX_KERNELS_H\n\n#include \"zmlx/catalog.h\"\n\n"
           "#ifdef __cplusplus\nextern \"C\" {\n#endif\n");
    const zmlx_catalog_entry *entry;
    for (size_t i = 0; (entry = zmlx_catalog_get(i)); i++) {
        if (strcmp(family, entry->family)) printf("\n/* %s */\n", entry->family);
        family = entry->family;
        printf("\n");
        print_comment_line(entry->about);
        printf("\n *     ");
        print_shapes(entry);
        if (entry->n_numbers) {
            printf("\n *     ");
            print_presets(entry);
        }
        printf(" */\n");
        print_prototype(entry, "ZMLX_API ");
        printf(";\n");
    }
    printf("\n#ifdef __cplusplus\n}\n#endif\n\n#endif\n");
}

static void write_values(const zmlx_catalog_entry *entry) {
    bool has_choice = false;
    printf("    %szmlx_catalog_value values_[] = {", entry->n_numbers ? "" : "const ");
    for (size_t i = 0; i < entry->n_numbers; i++) {
        const char *kind = entry->numbers[i].kind, *name = entry->numbers[i].name;
        bool is_choice = !strcmp(kind, "choice");
        has_choice |= is_choice;
        if (i) printf(", ");
        if (is_choice)
            printf("{0, 0}");
        else if (!strcmp(kind, "seed"))
            printf("{0, %s}", name);
        else
            printf("{(double)%s, 0}", name);
    }
    printf("%s};\n", entry->n_numbers ? "" : "{0, 0}");
    for (size_t i = 0; i < entry->n_numbers && has_choice; i++)
        if (!strcmp(entry->numbers[i].kind, "choice"))
            printf("    if (zmlx_catalog_set(values_, zmlx_catalog_find(\"%s\"), \"%s\", %s ? %s : \"\", error))\n"
                   "        return ZMLX_ERROR_ARGUMENT;\n",
                   entry->name, entry->numbers[i].name, entry->numbers[i].name, entry->numbers[i].name);
}

static void write_functions(void) {
    const zmlx_catalog_entry *entry;
    printf("/* SPDX-License-Identifier: MIT */\n#include \"zmlx/kernels.h\"\n");
    for (size_t i = 0; (entry = zmlx_catalog_get(i)); i++) {
        printf("\n");
        print_prototype(entry, "");
        printf(" {\n    const mlx_array inputs_[] = {%s", entry->n_inputs ? "" : "{0}");
        for (size_t j = 0; j < entry->n_inputs; j++) printf("%s%s", j ? ", " : "", entry->inputs[j].name);
        printf("};\n");
        write_values(entry);
        printf("    mlx_array outputs_[] = {");
        for (size_t j = 0; j < entry->n_outputs; j++) printf("%s*%s", j ? ", " : "", entry->outputs[j].name);
        printf("};\n    zmlx_status status_ = zmlx_catalog_apply(\"%s\", outputs_, inputs_, %zu, values_, stream, "
               "error);\n",
               entry->name, entry->n_inputs);
        for (size_t j = 0; j < entry->n_outputs; j++) printf("    *%s = outputs_[%zu];\n", entry->outputs[j].name, j);
        printf("    return status_;\n}\n");
    }
}

/* A cell of a table: | stands for itself. */
static void print_cell(const char *text) {
    for (; *text; text++) printf(*text == '|' ? "\\|" : "%c", *text);
}

static void print_arguments(const zmlx_catalog_entry *entry) {
    printf("`");
    for (size_t i = 0; i < entry->n_inputs; i++) {
        const zmlx_catalog_input *input = &entry->inputs[i];
        printf("%s%s%s[%s]", i ? ", " : "", input->name, input->is_optional ? "?" : "", input->shape);
        if (strcmp(input->role, "data")) printf(": %s", input->role);
    }
    for (size_t i = 0; i < entry->n_numbers; i++) {
        const zmlx_catalog_number *number = &entry->numbers[i];
        printf("%s%s: %s", i ? ", " : "; ", number->name, number->kind);
        if (number->preset[0]) printf(" = "), print_cell(number->preset);
        if (number->range[0] && strcmp(number->range, number->preset)) printf(" in %s", number->range);
    }
    printf(" -> ");
    for (size_t i = 0; i < entry->n_outputs; i++) {
        printf("%s%s[%s]", i ? ", " : "", entry->outputs[i].name, entry->outputs[i].shape);
        if (entry->outputs[i].type[0]) printf(": %s", entry->outputs[i].type);
    }
    printf("`");
}

static void write_docs(void) {
    const char *family = "";
    const zmlx_catalog_entry *entry;
    size_t count = 0;
    while (zmlx_catalog_get(count)) count++;
    printf("# Kernels\n\n"
           "The catalogue's %zu kernels, generated from `src/kernels/*/*.def`. Each is `zmlx_<name>` in "
           "`zmlx/kernels.h`, and\n"
           "runs by `zmlx run <name>`; `zmlx kernels <name>` shows one of them.\n\n"
           "- Arrays are float32, float16 or bfloat16. Data arrays of a call have one type, which is the result's "
           "unless one is\n"
           "  named; a *parameter* may have any of the three. Arithmetic is float32, each result is rounded once.\n"
           "- `...` is any number of leading dimensions, none included; the same name is the same size; nothing "
           "broadcasts except\n"
           "  where `broadcast` stands. `I...` are other leading dimensions, which broadcast together, `flat D` "
           "is any shape of D\n"
           "  elements, a first size with `?` may be missing. Any memory layout is accepted. A 0-d array counts as "
           "`[1]` where a last\n"
           "  dimension is named.\n"
           "- Gradients are derived from the expression, or *given* where a better form is known, and have the type of "
           "their\n"
           "  argument; sums over rows are float32. Indices, masks, codes, constants and numbers have none.\n"
           "- Tolerances are those of `zmlx/kernel_test.h`; *exact* is the correctly rounded result.\n"
           "- `<name>_mlx` is a kernel's profile for models whose tokens must not change: it rounds after each step as "
           "MLX's own\n"
           "  operations do, so on the CPU it has their bits (in float32 but for gelu, whose tanh is another). *as "
           "MLX*: that is tested\n"
           "  with every number of both half types. On GPUs the steps are those of MLX's GPU operations, norms and "
           "convolutions MLX's\n"
           "  own. Derivatives are those of the kernel itself.\n",
           count);
    for (size_t i = 0; (entry = zmlx_catalog_get(i)); i++) {
        if (strcmp(family, entry->family))
            printf("\n## %s\n\n| name | arguments | result | gradient | tolerance |\n|:--|:--|:--|:--|:--|\n",
                   entry->family);
        family = entry->family;
        printf("| `%s` | ", entry->name);
        print_arguments(entry);
        printf(" | ");
        if (entry->same_as)
            printf("`%s` under another name", entry->same_as);
        else
            print_cell(entry->about);
        printf(" | %s | %s |\n", entry->gradient, entry->tolerance);
    }
}

int main(int argc, char **argv) {
    zmlx_error error;
    const char *what = argc == 2 ? argv[1] : "";
    if (zm_catalog_check(&error)) {
        fprintf(stderr, "%s: %s\n", error.where, error.message);
        return 1;
    }
    if (!strcmp(what, "header")) write_header();
    else if (!strcmp(what, "functions")) write_functions();
    else if (!strcmp(what, "docs")) write_docs();
    else return 2;
    return ferror(stdout) || fflush(stdout) ? 1 : 0;
}
