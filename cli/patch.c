/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "output.h"

typedef struct patch_values {
    cli_general general;
    const char *patterns;
    int activations;
} patch_values;

static const cli_option options[] = {
    {"patterns", CLI_TEXT, offsetof(patch_values, patterns), "auto|P1,P2",
     "the proven patterns of this model, or these\n(auto)", 0, 0},
    CLI_ACTIVATIONS_OPTION(patch_values),
    CLI_GENERAL_OPTIONS(patch_values),
};

static const cli_page page = {
    .arguments = "MODEL",
    .about = "Shows which modules of the checkpoint MODEL would be replaced by fused kernels, and why\n"
             "each other candidate would not. Nothing is written and nothing is run.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

static json_t *describe_modules(const zmlx_patch_report *report, bool applied) {
    json_t *array = json_array();
    for (size_t i = 0; i < report->n_entries; i++) {
        const zmlx_patch_entry *entry = &report->entries[i];
        if ((entry->reason == NULL) != applied) continue;
        json_t *object = json_object();
        cli_json_set(object, "path", cli_json_string(entry->path));
        cli_json_set(object, "pattern", cli_json_string(entry->pattern));
        if (!applied) cli_json_set(object, "reason", cli_json_string(entry->reason));
        cli_json_append(array, object);
    }
    return array;
}

static int show_json(const zmlx_model *model, const char *folder, const zmlx_patch_report *report) {
    const zmlx_model_info *info = zmlx_model_get_info(model);
    json_t *object = json_object();
    cli_json_set(object, "model", cli_json_string(folder));
    cli_json_set(object, "family", cli_json_string(report->family));
    cli_json_set(object, "device", cli_json_string(info->device));
    cli_json_set(object, "dtype", cli_json_string(info->dtype));
    cli_json_set(object, "patterns", cli_json_strings(report->patterns, report->n_patterns));
    cli_json_set(object, "patched", cli_json_counts(report->counts, report->n_counts));
    cli_json_set(object, "modules", describe_modules(report, true));
    cli_json_set(object, "skipped", describe_modules(report, false));
    cli_json_set(object, "notes", cli_json_strings(report->notes, report->n_notes));
    return cli_print_json(object);
}

static bool has_entry(const zmlx_patch_report *report, const char *pattern) {
    for (size_t i = 0; i < report->n_entries; i++)
        if (!strcmp(report->entries[i].pattern, pattern)) return true;
    return false;
}

static int show_text(const zmlx_model *model, const zmlx_patch_report *report, bool explicit_patterns) {
    const zmlx_model_info *info = zmlx_model_get_info(model);
    cli_print("%s (family %s) on the %s in %s; what patching would do:\n", info->model_type, report->family,
              info->device, info->dtype);
    char *text = zmlx_patch_report_text(report, true);
    if (!text) return cli_fail_memory();
    cli_print("%s", text);
    free(text);
    for (size_t i = 0; i < report->n_patterns && explicit_patterns; i++)
        if (!has_entry(report, report->patterns[i]))
            cli_print("  %s: no module of this kind\n", report->patterns[i]);
    return CLI_DONE;
}

int cli_patch(const cli_command *command, int argc, char **argv) {
    patch_values values = {.patterns = "auto"};
    const char *folder;
    int status;
    if (!cli_parse(command, &page, &values, &folder, argc, argv, &status)) return status;
    cli_patterns patterns;
    zmlx_model *model = NULL;
    status = cli_patterns_parse(&patterns, command, values.patterns, values.activations, false);
    if (!status) status = cli_model_load(&model, folder, &values.general);
    if (!status) {
        zmlx_patch_options choice = cli_patterns_options(&patterns);
        choice.dry_run = true;
        const zmlx_patch_report *report;
        zmlx_error error;
        if (zmlx_patch(&report, model, &choice, &error))
            status = cli_fail_error(&error);
        else
            status = values.general.json ? show_json(model, folder, report)
                                         : show_text(model, report, !patterns.automatic);
    }
    zmlx_model_free(model);
    cli_patterns_free(&patterns);
    return status;
}
