/* SPDX-License-Identifier: MIT */
#include <stdio.h>
#include <string.h>

#include "common.h"
#include "output.h"

typedef struct smart_values {
    cli_general general;
    cli_prompt_values prompt;
    const char *patterns;
    double threshold;
    int64_t n_warmup, n_runs;
} smart_values;

#define AT(member) offsetof(smart_values, member)
static const cli_option options[] = {
    {"patterns", CLI_TEXT, AT(patterns), "auto|P1,P2", "candidates, in this order (auto: the proven ones)", 0,
     0},
    {"threshold", CLI_NUMBER, AT(threshold), "X", "keep what is at least X times as fast (0.995)", 0.001,
     1000},
    {"warmup", CLI_INTEGER, AT(n_warmup), "N", "runs before timing, at most (3)", 1, 1000},
    {"runs", CLI_INTEGER, AT(n_runs), "N",
     "timed runs, at most (5); where they take long,\ntwo that leave no doubt are enough", 1, 1000},
    CLI_PROMPT_OPTIONS(smart_values),
    CLI_GENERAL_OPTIONS(smart_values),
};

static const cli_page page = {
    .arguments = "MODEL",
    .about =
        "Times each pattern on this machine, alternating with the model as it stands, checks that the\n"
        "tokens stay the same and keeps what is not slower. Without a prompt a short fixed one is used.\n",
    .options = options,
    .n_options = CLI_COUNT(options),
};

/* Where the table goes, and what is at work meanwhile. */
typedef struct smart_output {
    bool json; /* then the table is a message */
    cli_progress progress;
    char label[64]; /* of the progress */
} smart_output;

static void log_line(void *context, const char *line) {
    smart_output *output = context;
    cli_progress_end(&output->progress);
    if (output->json) {
        fprintf(stderr, "%s\n", line);
    } else {
        cli_print("%s\n", line);
        cli_flush();
    }
}

static void draw_step(void *context, const char *pattern, const char *step, int done, int total) {
    smart_output *output = context;
    snprintf(output->label, sizeof output->label, "%s: %s", pattern, step);
    output->progress.label = output->label;
    cli_progress_draw(&output->progress, (uint64_t)done, (uint64_t)total);
}

static const char *choice_name(zmlx_smart_choice choice) {
    switch (choice) {
    case ZMLX_SMART_KEEP: return "keep";
    case ZMLX_SMART_REVERT: return "revert";
    case ZMLX_SMART_NO_MATCH: return "no_match";
    }
    return "?";
}

static int show_json(const char *folder, const zmlx_smart_report *report) {
    json_t *object = json_object(), *results = json_array(), *kept = json_array(), *reverted = json_array();
    for (size_t i = 0; i < report->n_results; i++) {
        const zmlx_smart_result *result = &report->results[i];
        bool measured = result->choice != ZMLX_SMART_NO_MATCH;
        json_t *row = json_object();
        cli_json_set(row, "pattern", cli_json_string(result->pattern));
        cli_json_set(row, "choice", json_string(choice_name(result->choice)));
        cli_json_set(row, "modules", json_integer(result->n_modules));
        cli_json_set(row, "decode_speedup", cli_json_measured(result->decode_speedup));
        cli_json_set(row, "prefill_speedup", cli_json_measured(result->prefill_speedup));
        cli_json_set(row, "runs", json_integer(result->n_runs));
        cli_json_set(row, "same_tokens", measured ? json_boolean(result->same_tokens) : json_null());
        cli_json_set(row, "reason", cli_json_string(result->reason));
        cli_json_append(results, row);
        if (result->choice == ZMLX_SMART_KEEP) cli_json_append(kept, cli_json_string(result->pattern));
        if (result->choice == ZMLX_SMART_REVERT) cli_json_append(reverted, cli_json_string(result->pattern));
    }
    cli_json_set(object, "model", cli_json_string(folder));
    cli_json_set(object, "baseline_ms", cli_json_number(report->baseline_ms));
    cli_json_set(object, "final_ms", cli_json_number(report->final_ms));
    cli_json_set(object, "speedup", cli_json_number(report->baseline_ms / report->final_ms));
    cli_json_set(object, "results", results);
    cli_json_set(object, "kept", kept);
    cli_json_set(object, "reverted", reverted);
    return cli_print_json(object);
}

static int measure(const smart_values *values, const char *folder, zmlx_model *model,
                   const cli_patterns *patterns, const cli_prompt *prompt) {
    zmlx_patch_options chosen = cli_patterns_options(patterns);
    smart_output output = {.json = values->general.json};
    cli_progress_start(&output.progress, "");
    zmlx_smart_patch_options choice = {
        .patterns = chosen.patterns,
        .n_patterns = chosen.n_patterns,
        .sample = prompt->tokens,
        .n_sample = prompt->n_tokens,
        .threshold = values->threshold,
        .n_warmup = (int)values->n_warmup,
        .n_runs = (int)values->n_runs,
        .vector_attention = chosen.vector_attention,
        .log = log_line,
        .log_context = &output,
        .progress = draw_step,
        .progress_context = &output,
    };
    zmlx_smart_report report;
    zmlx_error error;
    const zmlx_patch_report *preview;
    chosen.dry_run = true;
    if (zmlx_patch(&preview, model, &chosen, &error)) return cli_fail_error(&error);
    for (size_t i = 0; i < preview->n_notes; i++) cli_print_note(preview->notes[i]);
    cli_end_on_interrupt();
    zmlx_status result = zmlx_smart_patch(&report, model, &choice, &error);
    cli_catch_interrupt();
    cli_progress_end(&output.progress);
    if (result) return cli_fail_error(&error);
    int status = values->general.json ? show_json(folder, &report) : CLI_DONE;
    zmlx_smart_report_clear(&report);
    return status;
}

int cli_smart_patch(const cli_command *command, int argc, char **argv) {
    smart_values values = {.patterns = "auto", .threshold = 0.995, .n_warmup = 3, .n_runs = 5};
    const char *folder;
    int status;
    if (!cli_parse(command, &page, &values, &folder, argc, argv, &status)) return status;
    bool has_prompt = values.prompt.text || values.prompt.file || values.prompt.tokens;
    int64_t max_tokens = 1;
    cli_patterns patterns;
    cli_prompt prompt = {0};
    zmlx_model *model = NULL;
    status = cli_patterns_parse(&patterns, command, values.patterns, 0, false);
    if (!status && has_prompt) status = cli_prompt_read(&prompt, command, &values.prompt, NULL);
    if (!status) status = cli_model_load(&model, folder, &values.general);
    if (!status && has_prompt) status = cli_prompt_encode(&prompt, model, folder, &max_tokens);
    if (!status) status = measure(&values, folder, model, &patterns, &prompt);
    zmlx_model_free(model);
    cli_prompt_free(&prompt);
    cli_patterns_free(&patterns);
    return status;
}
