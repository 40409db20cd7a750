/* SPDX-License-Identifier: MIT */
/* bench model and bench moe. */
#include "zmlx/model_bench.h"

#include <stdio.h>
#include <stdlib.h>

#include "bench.h"
#include "common.h"
#include "output.h"

typedef struct model_values {
    cli_general general;
    const char *patterns;
    int64_t n_prompt, n_tokens, n_runs;
    double bandwidth;
    int activations;
    bool patched_only, timeline;
} model_values;

#define AT(member) offsetof(model_values, member)
#define PATTERNS_OPTION                               \
    {"patterns", CLI_TEXT, AT(patterns), "auto|P1,P2", \
     "what to patch: the proven patterns of this\nmodel, or these (auto)", 0, 0}

static const cli_option model_options[] = {
    {"prompt-length", CLI_INTEGER, AT(n_prompt), "N", "random tokens of the prompt (128)", 1, 1e6},
    {"max-tokens", CLI_INTEGER, AT(n_tokens), "N", "tokens generated after it (64)", 2, 1e6},
    {"runs", CLI_INTEGER, AT(n_runs), "N", "counted runs of each side (3)", 1, 1000},
    PATTERNS_OPTION,
    CLI_ACTIVATIONS_OPTION(model_values),
    {"patched-only", CLI_FLAG, AT(patched_only), NULL, "leave the unpatched model out", 0, 0},
    {"timeline", CLI_FLAG, AT(timeline), NULL, "where a token's time goes (CUDA)", 0, 0},
    {"bandwidth", CLI_NUMBER, AT(bandwidth), "GB/S",
     "what to state the share of (default: measured\nin turns with decoding on the CPU, none on a GPU)", 0.001, 1e6},
    CLI_GENERAL_OPTIONS(model_values),
};

static const cli_page model_page = {
    .arguments = "MODEL",
    .about = "Generates greedily from a random prompt with the model unpatched and patched in turn. GB/s are\n"
             "bytes of weights that the tokens had to read. Tokens are not compared: see zmlx validate.\n",
    .options = model_options,
    .n_options = CLI_COUNT(model_options),
};

static const cli_option moe_options[] = {
    {"runs", CLI_INTEGER, AT(n_runs), "N", "counted runs of each side (5)", 1, 1000},
    PATTERNS_OPTION,
    CLI_ACTIVATIONS_OPTION(model_values),
    CLI_GENERAL_OPTIONS(model_values),
};

static const cli_page moe_page = {
    .arguments = "MODEL",
    .about = "Layers of experts, called with 1, 4, 16, 64 and 512 random hidden states, unpatched and patched\n"
             "in turn: the first one alone, from the call to its result, and, the time a call, a chain of\n"
             "calls in one evaluation: of one layer after another, as many as take 50 ms alone, at most 100.\n",
    .options = moe_options,
    .n_options = CLI_COUNT(moe_options),
};

static const cli_command model_command = {.name = "bench model",
                                          .summary = "a model's speed, patched against unpatched"};
static const cli_command moe_command = {.name = "bench moe",
                                        .summary = "layers of experts, patched against unpatched"};

static json_t *timing_json(const zmlx_timing *timing) {
    json_t *object = json_object();
    cli_json_set(object, "median_s", cli_json_number(timing->median));
    cli_json_set(object, "min_s", cli_json_number(timing->minimum));
    cli_json_set(object, "max_s", cli_json_number(timing->maximum));
    return object;
}

static json_t *side_json(const zmlx_model_bench_side *side) {
    if (side->decode.median <= 0) return json_null();
    json_t *object = json_object();
    cli_json_set(object, "prefill", timing_json(&side->prefill));
    cli_json_set(object, "decode", timing_json(&side->decode));
    cli_json_set(object, "prefill_tok_s", cli_json_measured(side->prefill_tok_s));
    cli_json_set(object, "decode_tok_s", cli_json_measured(side->decode_tok_s));
    cli_json_set(object, "bytes_per_s", cli_json_measured(side->bandwidth));
    cli_json_set(object, "share", cli_json_measured(side->share));
    cli_json_set(object, "share_lower_quartile", cli_json_measured(side->share_lower));
    cli_json_set(object, "share_upper_quartile", cli_json_measured(side->share_upper));
    cli_json_set(object, "peak_memory_bytes", json_integer((json_int_t)side->peak_memory_bytes));
    return object;
}

static void print_side(const char *name, const zmlx_model_bench_side *side, size_t n_prompt) {
    double prompt = (double)n_prompt;
    if (side->decode.median <= 0) return;
    cli_print("  %-10s %8.1f (%.1f-%.1f)  %8.2f (%.2f-%.2f)  %6.1f GB/s", name, side->prefill_tok_s,
              prompt / side->prefill.maximum, prompt / side->prefill.minimum, side->decode_tok_s,
              1 / side->decode.maximum, 1 / side->decode.minimum, 1e-9 * side->bandwidth);
    if (side->share > 0) cli_print(" %3.0f %%", 100 * side->share);
    if (side->share_upper > 0) cli_print(" (%.0f-%.0f)", 100 * side->share_lower, 100 * side->share_upper);
    cli_print("  %7.3f GB\n", 1e-9 * (double)side->peak_memory_bytes);
}

static json_t *timeline_json(const zmlx_model_bench *bench) {
    json_t *rows = json_array();
    for (int i = 0; i < bench->n_timeline; i++) {
        const zmlx_timeline_row *row = &bench->timeline[i];
        json_t *object = json_object();
        cli_json_set(object, "kernel", cli_json_string(row->kernel));
        cli_json_set(object, "launches", json_integer(row->n_launches));
        cli_json_set(object, "blocks", json_integer(row->n_blocks));
        cli_json_set(object, "bytes", json_integer((json_int_t)row->bytes));
        cli_json_set(object, "s", cli_json_number(row->seconds));
        cli_json_set(object, "gap_s", cli_json_number(row->gap));
        cli_json_set(object, "begun_s", cli_json_number(row->begun));
        cli_json_set(object, "ready_s", cli_json_number(row->ready));
        cli_json_set(object, "first_s", cli_json_number(row->first));
        cli_json_set(object, "ended_s", cli_json_number(row->ended));
        cli_json_set(object, "last_ended_s", cli_json_number(row->last_ended));
        json_array_append_new(rows, object);
    }
    return rows;
}

static void print_timeline(const zmlx_model_bench *bench) {
    cli_print("  Kernels of the last step, of one token or several, in us: each until the next one's release; behind\n"
              "  its own release: its blocks have begun, input is in shared memory, first weights too, a block ends,\n"
              "  the last one does\n"
              "  %-18s %8s %7s %8s %8s  %6s %6s %6s %6s %6s  %6s\n",
              "", "launches", "each", "MB", "GB/s", "begun", "input", "first", "end", "last", "gap");
    for (int i = 0; i < bench->n_timeline; i++) {
        const zmlx_timeline_row *row = &bench->timeline[i];
        cli_print("  %-18s %8d %7.2f %8.3f %8.0f  %6.2f %6.2f %6.2f %6.2f %6.2f  %6.2f\n", row->kernel, row->n_launches,
                  1e6 * row->seconds, 1e-6 * (double)row->bytes,
                  row->seconds > 0 ? 1e-9 * (double)row->bytes / row->seconds : 0, 1e6 * row->begun, 1e6 * row->ready,
                  1e6 * row->first, 1e6 * row->ended, 1e6 * row->last_ended, 1e6 * row->gap);
    }
}

static int show_model(const zmlx_model_bench *bench, const char *folder, bool json) {
    if (json) {
        json_t *object = json_object();
        cli_json_set(object, "model", cli_json_string(folder));
        cli_json_set(object, "prompt_length", json_integer((json_int_t)bench->n_prompt));
        cli_json_set(object, "max_tokens", json_integer((json_int_t)bench->n_tokens));
        cli_json_set(object, "runs", json_integer(bench->n_runs));
        cli_json_set(object, "patched_modules", json_integer(bench->n_patched));
        cli_json_set(object, "token_bytes", json_integer((json_int_t)bench->token_bytes));
        cli_json_set(object, "bandwidth", cli_json_measured(bench->bandwidth));
        cli_json_set(object, "baseline", side_json(&bench->baseline));
        cli_json_set(object, "patched", side_json(&bench->patched));
        cli_json_set(object, "prefill_speedup", cli_json_measured(bench->prefill_speedup));
        cli_json_set(object, "decode_speedup", cli_json_measured(bench->decode_speedup));
        if (bench->n_timeline) cli_json_set(object, "timeline", timeline_json(bench));
        return cli_print_json(object);
    }
    cli_print("%s: prompt of %zu, then %zu tokens, %d runs; a token reads %.3f GB", folder, bench->n_prompt,
              bench->n_tokens, bench->n_runs, 1e-9 * (double)bench->token_bytes);
    if (bench->bandwidth > 0) cli_print(" of %.1f GB/s", 1e-9 * bench->bandwidth);
    bool measured = bench->patched.share_upper > 0;
    cli_print("\n  tokens/s:  prompt (spread), decode (spread), weights read%s, peak memory\n",
              measured ? " and share (quartiles)" : bench->bandwidth > 0 ? " and share" : "");
    print_side("unpatched", &bench->baseline, bench->n_prompt);
    print_side("patched", &bench->patched, bench->n_prompt);
    if (bench->decode_speedup > 0)
        cli_print("  prompt %.2fx, decode %.2fx\n", bench->prefill_speedup, bench->decode_speedup);
    if (bench->n_timeline) print_timeline(bench);
    return CLI_DONE;
}

static void draw_run(void *context, const char *step, int done, int total) {
    cli_progress *progress = context;
    static char label[64];
    snprintf(label, sizeof label, "%.63s", step);
    progress->label = label;
    cli_progress_draw(progress, (uint64_t)done, (uint64_t)total);
}

static int bench_model(zmlx_model *model, const char *folder, const model_values *values,
                       const zmlx_patch_options *patch) {
    cli_progress progress;
    zmlx_model_bench_options choice = {.patch = patch,
                                       .n_prompt = (size_t)values->n_prompt,
                                       .n_tokens = (size_t)values->n_tokens,
                                       .n_runs = (int)values->n_runs,
                                       .patched_only = values->patched_only,
                                       .timeline = values->timeline,
                                       .progress = draw_run,
                                       .progress_context = &progress};
    zmlx_model_bench bench;
    zmlx_error error;
    int status = CLI_DONE;
    choice.bandwidth = 1e9 * values->bandwidth;
    if (!(values->bandwidth > 0)) status = cli_bench_probe_threads(&choice.probe_threads, &values->general);
    if (status) return status;
    cli_progress_start(&progress, "");
    zmlx_status result = zmlx_bench_model(&bench, model, &choice, &error);
    cli_progress_end(&progress);
    return result ? cli_fail_option(&model_command, &model_page, &error)
                  : show_model(&bench, folder, values->general.json);
}

static void print_sides(const char *name, int n_tokens, const zmlx_timing *baseline, const zmlx_timing *patched,
                        double speedup) {
    cli_print("  %5d  %s  %10.4f ms (%.4f-%.4f)  %10.4f ms (%.4f-%.4f)  %7.2fx\n", n_tokens, name,
              1e3 * baseline->median, 1e3 * baseline->minimum, 1e3 * baseline->maximum, 1e3 * patched->median,
              1e3 * patched->minimum, 1e3 * patched->maximum, speedup);
}

static void print_row(const zmlx_moe_bench_row *row) {
    print_sides("alone", row->n_tokens, &row->baseline, &row->patched, row->speedup);
    print_sides("chain", row->n_tokens, &row->chained_baseline, &row->chained_patched, row->chained_speedup);
    cli_flush();
}

static json_t *row_json(const zmlx_moe_bench_row *row) {
    json_t *object = json_object();
    cli_json_set(object, "tokens", json_integer(row->n_tokens));
    cli_json_set(object, "baseline", timing_json(&row->baseline));
    cli_json_set(object, "patched", timing_json(&row->patched));
    cli_json_set(object, "speedup", cli_json_measured(row->speedup));
    cli_json_set(object, "chained_baseline", timing_json(&row->chained_baseline));
    cli_json_set(object, "chained_patched", timing_json(&row->chained_patched));
    cli_json_set(object, "chained_speedup", cli_json_measured(row->chained_speedup));
    return object;
}

static int bench_moe(zmlx_model *model, const char *folder, const model_values *values,
                     const zmlx_patch_options *patch) {
    static const int counts[] = {1, 4, 16, 64, 512};
    zmlx_model_bench_options choice = {.patch = patch, .n_runs = (int)values->n_runs};
    json_t *rows = json_array(), *object;
    for (size_t i = 0; i < CLI_COUNT(counts); i++) {
        zmlx_moe_bench_row row;
        zmlx_error error;
        if (zmlx_bench_moe(&row, model, counts[i], &choice, &error)) {
            json_decref(rows);
            return cli_fail_error(&error);
        }
        if (!i && !values->general.json)
            cli_print("%s: layers of experts\n  tokens, a call unpatched (spread), patched (spread): of the first "
                      "layer alone, in a chain of calls\n",
                      folder);
        if (!values->general.json) print_row(&row);
        cli_json_append(rows, row_json(&row));
    }
    object = json_object();
    cli_json_set(object, "model", cli_json_string(folder));
    cli_json_set(object, "rows", rows);
    if (values->general.json) return cli_print_json(object);
    json_decref(object);
    return CLI_DONE;
}

typedef int (*bench_function)(zmlx_model *model, const char *folder, const model_values *values,
                              const zmlx_patch_options *patch);

static int run(const cli_command *command, const cli_page *page, bench_function function, int argc, char **argv) {
    model_values values = {.patterns = "auto"};
    cli_patterns patterns;
    zmlx_model *model = NULL;
    const char *folder;
    int status;
    if (!cli_parse(command, page, &values, &folder, argc, argv, &status)) return status;
    status = cli_patterns_parse(&patterns, command, values.patterns, values.activations, false);
    if (!status) status = cli_model_load(&model, folder, &values.general);
    cli_end_on_interrupt();
    zmlx_patch_options patch = cli_patterns_options(&patterns);
    if (!status) status = function(model, folder, &values, &patch);
    zmlx_model_free(model);
    cli_patterns_free(&patterns);
    return status;
}

int cli_bench_model(int argc, char **argv) { return run(&model_command, &model_page, bench_model, argc, argv); }

int cli_bench_moe(int argc, char **argv) { return run(&moe_command, &moe_page, bench_moe, argc, argv); }
