/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "output.h"
#include "report.h"
#include "zmlx/validate.h"

typedef struct validate_values {
    cli_general general;
    cli_prompt_values prompt;
    const char *patterns, *report;
    int64_t max_tokens, n_runs;
    int activations;
    bool ignore_eos;
} validate_values;

#define AT(member) offsetof(validate_values, member)
static const cli_option options[] = {
    {"max-tokens", CLI_INTEGER, AT(max_tokens), "N", "tokens to compare (200)", 1, 1e9},
    {"runs", CLI_INTEGER, AT(n_runs), "N", "runs of each kind (3)", 1, 1000},
    {"patterns", CLI_TEXT, AT(patterns), "auto|none|P1,P2",
     "what to patch: the proven patterns of this\nmodel, nothing, or these (auto)", 0, 0},
    CLI_ACTIVATIONS_OPTION(validate_values),
    {"report", CLI_TEXT, AT(report), "FILE", "write the result as JSON to FILE too", 0, 0},
    {"ignore-eos", CLI_FLAG, AT(ignore_eos), NULL, "go on after the end-of-text token", 0, 0},
    CLI_PROMPT_OPTIONS(validate_values),
    CLI_GENERAL_OPTIONS(validate_values),
};

static const cli_page page = {
    .arguments = "MODEL",
    .about = "Generates greedily with the model unpatched and patched in turn and compares the tokens, then\n"
             "compares the logits of both on the same text. Without a prompt a fixed text is used.\n"
             "Exit status: 0 PASS, 1 FAIL, 2 no verdict or no report. With int8 activations the agreement is\n"
             "reported and nothing claimed: APPROXIMATE, exit status 0.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

typedef struct validate_job {
    const validate_values *values;
    const char *folder;
    char *command; /* as it was typed */
    zmlx_system_info system;
    zmlx_model *model;
    cli_prompt prompt;
    cli_patterns patterns;
    zmlx_validation validation;
} validate_job;

static void draw_run(void *context, const char *step, int done, int total) {
    cli_progress *progress = context;
    static char label[64];
    snprintf(label, sizeof label, "%.63s", step);
    progress->label = label;
    cli_progress_draw(progress, (uint64_t)done, (uint64_t)total);
}

/* The command line with every argument that needs it in single quotes. */
static char *quote_command(const cli_command *command, int argc, char **argv) {
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789@%+=:,./_-";
    char *text = NULL;
    size_t size;
    FILE *stream = open_memstream(&text, &size);
    if (!stream) return NULL;
    fprintf(stream, "zmlx %s", command->name);
    for (int i = 0; i < argc; i++) {
        fputc(' ', stream);
        if (argv[i][0] && strspn(argv[i], plain) == strlen(argv[i])) {
            fputs(argv[i], stream);
            continue;
        }
        fputc('\'', stream);
        for (const char *byte = argv[i]; *byte; byte++)
            if (*byte == '\'')
                fputs("'\\''", stream);
            else
                fputc(*byte, stream);
        fputc('\'', stream);
    }
    if (fclose(stream) == 0) return text;
    free(text);
    return NULL;
}

static int prepare(validate_job *job, const cli_command *command, int64_t *max_tokens) {
    const validate_values *values = job->values;
    zmlx_error error;
    int status = cli_patterns_parse(&job->patterns, command, values->patterns, values->activations, true);
    if (!status)
        status = cli_prompt_read(&job->prompt, command, &values->prompt, zmlx_validate_default_prompt());
    if (!status && values->report) status = cli_report_check(values->report);
    if (!status && zmlx_system_get_info(&job->system, &error)) status = cli_fail_error(&error);
    if (!status) status = cli_model_load(&job->model, job->folder, &values->general);
    if (!status) status = cli_prompt_encode(&job->prompt, job->model, job->folder, max_tokens);
    return status;
}

static int compare(validate_job *job, const cli_command *command, int64_t max_tokens) {
    const validate_values *values = job->values;
    cli_progress progress;
    cli_progress_start(&progress, "");
    zmlx_patch_options patch = cli_patterns_options(&job->patterns);
    zmlx_validate_options choice = {
        .max_tokens = (size_t)max_tokens,
        .n_runs = (int)values->n_runs,
        .patch = &patch,
        .ignore_eos = values->ignore_eos,
        .progress = draw_run,
        .progress_context = &progress,
    };
    zmlx_error error;
    cli_end_on_interrupt();
    zmlx_status status = zmlx_validate(&job->validation, job->model, job->prompt.tokens, job->prompt.n_tokens,
                                       &choice, &error);
    cli_progress_end(&progress);
    cli_catch_interrupt();
    if (status) return cli_fail_option(command, &page, &error);
    for (size_t i = 0; i < job->validation.n_notes; i++) cli_print_note(job->validation.notes[i]);
    if (!job->validation.n_counts && values->general.json) cli_note("%s", cli_report_nothing_patched);
    return CLI_DONE;
}

/* The verdict is shown before the report is written, so a failure there loses nothing. */
static int show(const validate_job *job) {
    validate_subject subject = {job->folder,  job->model,           &job->system,
                                job->command, job->prompt.n_tokens, &job->validation};
    int status = CLI_DONE;
    if (job->values->general.json)
        status = cli_print_json(cli_report_json(&subject));
    else
        cli_report_print(&subject);
    cli_flush();
    if (job->values->report && !status) {
        char *text = cli_json_text(cli_report_json(&subject), true);
        status = text ? cli_report_write(job->values->report, text) : CLI_BAD;
        free(text);
    }
    if (status) return status;
    return job->validation.passed || job->validation.approximate ? CLI_DONE : CLI_NEGATIVE;
}

int cli_validate(const cli_command *command, int argc, char **argv) {
    validate_values values = {.patterns = "auto", .max_tokens = 200, .n_runs = 3};
    validate_job job = {.values = &values};
    int status;
    if (!cli_parse(command, &page, &values, &job.folder, argc, argv, &status)) return status;
    int64_t max_tokens = values.max_tokens;
    job.command = quote_command(command, argc, argv);
    status = job.command ? prepare(&job, command, &max_tokens) : cli_fail_memory();
    if (!status) status = compare(&job, command, max_tokens);
    if (!status) status = show(&job);
    zmlx_validation_clear(&job.validation);
    zmlx_model_free(job.model);
    cli_prompt_free(&job.prompt);
    cli_patterns_free(&job.patterns);
    free(job.command);
    return status;
}
