/* SPDX-License-Identifier: MIT */
#include "catalog.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"

int cli_catalog_open(cli_catalog *chosen, const cli_command *command, const char *name, const cli_texts *set,
                     int64_t n_threads) {
    zmlx_error error;
    *chosen = (cli_catalog){.entry = zmlx_catalog_find(name)};
    if (!chosen->entry) return cli_fail("there is no kernel %s; zmlx kernels lists them", name);
    const cli_texts none = {0};
    cli_kernel any;
    int status = cli_kernel_open(&any, command, "x", &none, n_threads); /* for what it tells the library */
    if (status) return status;
    cli_kernel_close(&any);
    zmlx_catalog_presets(chosen->values, chosen->entry);
    for (size_t i = 0; i < set->count; i++) {
        char number[65];
        size_t size = strcspn(set->items[i], "=");
        if (!set->items[i][size] || !size || size >= sizeof number)
            return cli_fail_usage(command, "--set: expected name=value, got \"%s\"", set->items[i]);
        snprintf(number, sizeof number, "%.*s", (int)size, set->items[i]);
        for (size_t j = 0; j < i; j++)
            if (!strncmp(set->items[j], set->items[i], size + 1))
                return cli_fail_usage(command, "--set: %s is given twice", number);
        if (zmlx_catalog_set(chosen->values, chosen->entry, number, set->items[i] + size + 1, &error))
            return cli_fail_error(&error);
    }
    return CLI_DONE;
}

static int find_array(mlx_array *array, const zmlx_arrays *file, const char *path, const char *prefix, const char *name,
                      bool is_optional) {
    char full[80];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    *array = zmlx_arrays_get(file, full);
    return array->ctx || is_optional ? CLI_DONE : cli_fail("%s: there is no array \"%s\"", path, full);
}

static int run_gradient(mlx_array *results, char names[][80], size_t *count, const cli_catalog *chosen,
                        const mlx_array *inputs, const zmlx_arrays *file, const char *path, mlx_stream stream) {
    const zmlx_catalog_entry *entry = chosen->entry;
    mlx_array cotangents[CLI_MAX_ARRAYS] = {{NULL}}, gradients[CLI_MAX_ARRAYS] = {{NULL}};
    zmlx_error error;
    for (size_t i = 0; i < entry->n_outputs; i++) {
        int status = find_array(&cotangents[i], file, path, "cot", entry->outputs[i].name, entry->n_outputs > 1);
        if (status) return status;
    }
    if (zmlx_catalog_apply_gradient(entry->name, gradients, inputs, entry->n_inputs, cotangents, chosen->values, stream,
                                    &error))
        return cli_fail_error(&error);
    for (size_t i = 0; i < entry->n_inputs; i++) {
        if (!gradients[i].ctx) continue;
        snprintf(names[*count], 80, "d%s", entry->inputs[i].name);
        results[(*count)++] = gradients[i];
    }
    return CLI_DONE;
}

int cli_catalog_run(mlx_array *results, char names[][80], size_t *count, const cli_catalog *chosen,
                    const zmlx_arrays *file, const char *path, bool grad, mlx_stream stream) {
    const zmlx_catalog_entry *entry = chosen->entry;
    mlx_array inputs[CLI_MAX_ARRAYS] = {{NULL}};
    zmlx_error error;
    for (size_t i = 0; i < entry->n_inputs; i++) {
        int status = find_array(&inputs[i], file, path, "", entry->inputs[i].name, entry->inputs[i].is_optional);
        if (status) return status;
    }
    if (zmlx_catalog_apply(entry->name, results, inputs, entry->n_inputs, chosen->values, stream, &error))
        return cli_fail_error(&error);
    for (size_t i = 0; i < entry->n_outputs; i++) snprintf(names[(*count)++], 80, "%s", entry->outputs[i].name);
    return grad ? run_gradient(results, names, count, chosen, inputs, file, path, stream) : CLI_DONE;
}

/* Appends to an owned text; NULL stays NULL. */
static void add(char **text, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(char **text, const char *format, ...) {
    char part[400];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(part, sizeof part, format, arguments);
    va_end(arguments);
    if (!*text) return;
    size_t old = strlen(*text), more = strlen(part);
    char *longer = realloc(*text, old + more + 1);
    if (!longer) {
        free(*text);
        *text = NULL;
        return;
    }
    memcpy(longer + old, part, more + 1);
    *text = longer;
}

char *cli_catalog_signature(const zmlx_catalog_entry *entry) {
    char *text = calloc(1, 1);
    for (size_t i = 0; i < entry->n_inputs; i++) {
        const zmlx_catalog_input *input = &entry->inputs[i];
        add(&text, "%s%s%s[%s]", i ? ", " : "", input->name, input->is_optional ? "?" : "", input->shape);
        if (strcmp(input->role, "data")) add(&text, ": %s", input->role);
    }
    for (size_t i = 0; i < entry->n_numbers; i++) {
        const zmlx_catalog_number *number = &entry->numbers[i];
        add(&text, "%s%s: %s", i ? ", " : "; ", number->name, number->kind);
        if (number->preset[0]) add(&text, " = %s", number->preset);
        if (number->range[0] && strcmp(number->range, number->preset)) add(&text, " in %s", number->range);
    }
    add(&text, " -> ");
    for (size_t i = 0; i < entry->n_outputs; i++) {
        add(&text, "%s%s[%s]", i ? ", " : "", entry->outputs[i].name, entry->outputs[i].shape);
        if (entry->outputs[i].type[0]) add(&text, ": %s", entry->outputs[i].type);
    }
    return text;
}
