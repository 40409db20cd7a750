/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "catalog.h"
#include "output.h"

typedef struct kernels_values {
    cli_general general;
} kernels_values;

static const cli_option options[] = {CLI_JSON_OPTION(kernels_values)};

static const cli_page page = {
    .arguments = "[NAME]",
    .about = "Lists the catalogue; with NAME what that kernel takes, gives and computes. docs/kernels.md\n"
             "says what the shapes mean. A kernel is the function zmlx_NAME, and runs by zmlx run NAME.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static json_t *describe(const zmlx_catalog_entry *entry) {
    json_t *object = json_object();
    char *signature = cli_catalog_signature(entry);
    cli_json_set(object, "name", cli_json_string(entry->name));
    cli_json_set(object, "family", cli_json_string(entry->family));
    cli_json_set(object, "about", cli_json_string(entry->about));
    cli_json_set(object, "same_as", entry->same_as ? cli_json_string(entry->same_as) : json_null());
    cli_json_set(object, "signature", signature ? cli_json_string(signature) : NULL);
    cli_json_set(object, "expression", entry->expression ? cli_json_string(entry->expression) : json_null());
    cli_json_set(object, "gradient", cli_json_string(entry->gradient));
    cli_json_set(object, "tolerance", cli_json_string(entry->tolerance));
    free(signature);
    return object;
}

static int show_one(const zmlx_catalog_entry *entry, bool as_json) {
    if (as_json) return cli_print_json(describe(entry));
    char *signature = cli_catalog_signature(entry);
    if (!signature) return cli_fail_memory();
    cli_print("%s: %s\n", entry->name, entry->about);
    if (entry->same_as) cli_print("  another name of %s\n", entry->same_as);
    cli_print("  %s\n", signature);
    if (entry->expression) cli_print("  expression: %s\n", entry->expression);
    cli_print("  family %s, gradient %s, tolerance %s\n", entry->family, entry->gradient, entry->tolerance);
    free(signature);
    return CLI_DONE;
}

static int show_all(bool as_json) {
    const zmlx_catalog_entry *entry;
    const char *family = "";
    if (as_json) {
        json_t *object = json_object(), *list = json_array();
        for (size_t i = 0; (entry = zmlx_catalog_get(i)); i++) cli_json_append(list, describe(entry));
        cli_json_set(object, "kernels", list);
        return cli_print_json(object);
    }
    for (size_t i = 0; (entry = zmlx_catalog_get(i)); i++) {
        if (strcmp(family, entry->family)) cli_print("%s%s\n", i ? "\n" : "", entry->family);
        family = entry->family;
        if (entry->same_as)
            cli_print("  %-28s %s\n", entry->name, entry->same_as);
        else
            cli_print("  %-28s %s\n", entry->name, entry->about);
    }
    return CLI_DONE;
}

int cli_kernels(const cli_command *command, int argc, char **argv) {
    kernels_values values = {0};
    const char *name = NULL;
    int status;
    if (!cli_parse(command, &page, &values, &name, argc, argv, &status)) return status;
    if (!name) return show_all(values.general.json);
    const zmlx_catalog_entry *entry = zmlx_catalog_find(name);
    if (!entry) return cli_fail("there is no kernel %s; zmlx kernels lists them", name);
    return show_one(entry, values.general.json);
}
