/* SPDX-License-Identifier: MIT */
/* Alternating greedy runs of the unpatched and the patched model, compared token by token. */
#include "validate/validate.h"

#include <stdlib.h>
#include <string.h>

#include "base/statistics.h"

enum { DEFAULT_TOKENS = 200, DEFAULT_RUNS = 3, MAX_RUNS = 10000, WARMUP_TOKENS = 5 };

typedef struct comparison {
    zmlx_model *model;
    const int32_t *prompt;
    size_t n_prompt;
    const zmlx_validate_options *options;
    zmlx_generate_options generate;
    int n_runs;
    zmlx_error *error;
} comparison;

static void tell(const comparison *this, const char *step, int done, int total) {
    if (this->options->progress) this->options->progress(this->options->progress_context, step, done, total);
}

static zmlx_status generate(comparison *this, zmlx_generation *generation, bool patched, size_t max_tokens) {
    zmlx_generate_options options = this->generate;
    if (max_tokens < options.max_tokens) options.max_tokens = max_tokens;
    bool undefined = false;
    zm_patch_switch(this->model, 0, patched);
    zmlx_status status = zm_patch_fit(this->model, this->error);
    if (!status)
        status =
            zm_generate(generation, &undefined, this->model, this->prompt, this->n_prompt, &options, this->error);
    zm_patch_switch(this->model, 0, true);
    if (status || !undefined || patched) return status; /* patched, the tokens that are missing count as wrong */
    size_t token = generation->n_tokens;
    zmlx_generation_clear(generation);
    return zm_validate_no_numbers(token, this->error);
}

/* Long enough to have run the prefill's shape and some steps, so that no run pays for a first time. */
static zmlx_status warm_up(comparison *this) {
    for (int side = 0; side < 2; side++) {
        zmlx_generation generation;
        ZM_TRY(generate(this, &generation, side == 1, WARMUP_TOKENS));
        zmlx_generation_clear(&generation);
        tell(this, "warm-up", side + 1, 2);
    }
    return ZMLX_OK;
}

static void note_run(zmlx_validate_side *side, const zmlx_generation *generation) {
    side->prefill_tok_s[side->n_runs] = generation->prefill_tok_s;
    side->decode_tok_s[side->n_runs] = generation->decode_tok_s;
    side->n_runs++;
    if (generation->peak_memory_bytes > side->peak_memory_bytes)
        side->peak_memory_bytes = generation->peak_memory_bytes;
}

static size_t matching(const zmlx_validation *validation, const zmlx_generation *run, size_t *first) {
    size_t shorter =
        run->n_tokens < validation->n_baseline_tokens ? run->n_tokens : validation->n_baseline_tokens;
    size_t matched = 0;
    *first = shorter;
    for (size_t i = 0; i < shorter; i++) {
        bool same = run->tokens[i] == validation->baseline_tokens[i];
        if (!same && *first == shorter) *first = i;
        matched += same;
    }
    return matched;
}

/* The first baseline run is what every other run is held against. */
static void compare_baseline(zmlx_validation *validation, zmlx_generation *run) {
    if (!validation->baseline_tokens) {
        validation->baseline_tokens = run->tokens;
        validation->n_baseline_tokens = run->n_tokens;
        run->tokens = NULL;
        return;
    }
    size_t first, matched = matching(validation, run, &first);
    if (matched != run->n_tokens || matched != validation->n_baseline_tokens)
        validation->baseline_stable = false;
}

/* Keeps the worst run: the smallest share of equal tokens, then the earliest difference. */
static void compare_patched(zmlx_validation *validation, const zmlx_generation *run, bool is_first) {
    size_t n_baseline = validation->n_baseline_tokens;
    size_t first, matched = matching(validation, run, &first);
    size_t total = run->n_tokens > n_baseline ? run->n_tokens : n_baseline;
    bool diverged = matched < total;
    double share = total ? (double)matched / (double)total : 0;
    double worst = validation->total ? (double)validation->matched / (double)validation->total : 0;
    bool earlier = diverged && validation->diverged && first < validation->first_divergence;
    if (!is_first && !(share < worst || (share <= worst && earlier))) return;
    validation->matched = matched;
    validation->total = total;
    validation->diverged = diverged;
    validation->first_divergence = diverged ? first : 0;
    validation->baseline_token = diverged && first < n_baseline ? validation->baseline_tokens[first] : -1;
    validation->patched_token = diverged && first < run->n_tokens ? run->tokens[first] : -1;
}

static zmlx_status run_all(comparison *this, zmlx_validation *validation) {
    for (int i = 0; i < this->n_runs; i++) {
        for (int side = 0; side < 2; side++) {
            zmlx_generation run;
            ZM_TRY(generate(this, &run, side == 1, this->generate.max_tokens));
            note_run(side ? &validation->patched : &validation->baseline, &run);
            if (side)
                compare_patched(validation, &run, i == 0);
            else
                compare_baseline(validation, &run);
            zmlx_generation_clear(&run);
            tell(this, side ? "patched run" : "baseline run", i + 1, this->n_runs);
        }
    }
    return ZMLX_OK;
}

static zmlx_status median(double *result, const double *values, int count, zmlx_error *error) {
    double *sorted = malloc((size_t)count * sizeof *sorted);
    if (!sorted) return zm_fail_memory(error);
    memcpy(sorted, values, (size_t)count * sizeof *sorted);
    *result = zm_median(sorted, (size_t)count);
    free(sorted);
    return ZMLX_OK;
}

static zmlx_status summarise(zmlx_validation *validation, zmlx_error *error) {
    zmlx_validate_side *sides[2] = {&validation->baseline, &validation->patched};
    for (int i = 0; i < 2; i++) {
        zmlx_validate_side *side = sides[i];
        ZM_TRY(median(&side->median_prefill_tok_s, side->prefill_tok_s, side->n_runs, error));
        ZM_TRY(median(&side->median_decode_tok_s, side->decode_tok_s, side->n_runs, error));
    }
    const zmlx_validate_side *a = sides[0], *b = sides[1];
    if (a->median_decode_tok_s > 0)
        validation->decode_speedup = b->median_decode_tok_s / a->median_decode_tok_s;
    if (a->median_prefill_tok_s > 0)
        validation->prefill_speedup = b->median_prefill_tok_s / a->median_prefill_tok_s;
    validation->passed = validation->total > 0 && validation->matched == validation->total &&
                         validation->baseline_stable && !validation->approximate;
    return ZMLX_OK;
}

static zmlx_status allocate(zmlx_validation *validation, int n_runs, zmlx_error *error) {
    zmlx_validate_side *sides[2] = {&validation->baseline, &validation->patched};
    for (int i = 0; i < 2; i++) {
        sides[i]->prefill_tok_s = calloc((size_t)n_runs, sizeof(double));
        sides[i]->decode_tok_s = calloc((size_t)n_runs, sizeof(double));
        if (!sides[i]->prefill_tok_s || !sides[i]->decode_tok_s) return zm_fail_memory(error);
    }
    validation->baseline_stable = true;
    validation->baseline_token = validation->patched_token = -1;
    return ZMLX_OK;
}

static zmlx_status copy_counts(zmlx_validation *validation, const zmlx_patch_report *report,
                               zmlx_error *error) {
    if (!report->n_counts) return ZMLX_OK;
    validation->counts = calloc(report->n_counts, sizeof *validation->counts);
    if (!validation->counts) return zm_fail_memory(error);
    memcpy(validation->counts, report->counts, report->n_counts * sizeof *validation->counts);
    validation->n_counts = report->n_counts;
    return ZMLX_OK;
}

static zmlx_status copy_notes(zmlx_validation *validation, const zmlx_patch_report *report,
                              zmlx_error *error) {
    if (!report->n_notes) return ZMLX_OK;
    validation->notes = calloc(report->n_notes, sizeof *validation->notes);
    if (!validation->notes) return zm_fail_memory(error);
    for (size_t i = 0; i < report->n_notes; i++) {
        validation->notes[i] = strdup(report->notes[i]);
        if (!validation->notes[i]) return zm_fail_memory(error);
        validation->n_notes++;
    }
    return ZMLX_OK;
}

static zmlx_status compare(comparison *this, zmlx_validation *validation, const zm_patch_request *request) {
    zm_report *report;
    ZM_TRY(zm_report_new(&report, NULL, this->error));
    zmlx_status status = zm_patch_apply(report, this->model, request, this->error);
    if (!status) status = copy_counts(validation, &report->view, this->error);
    validation->approximate = request->precision != ZM_PRECISION_FLOAT32;
    zm_report_free(report);
    ZM_TRY(status);
    ZM_TRY(allocate(validation, this->n_runs, this->error));
    ZM_TRY(warm_up(this));
    ZM_TRY(run_all(this, validation));
    ZM_TRY(summarise(validation, this->error));
    ZM_TRY(zm_validate_forced(validation, this->model, this->prompt, this->n_prompt, this->error));
    tell(this, "teacher forced", 1, 1);
    return ZMLX_OK;
}

zmlx_status zm_validate_request(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                                size_t n_prompt, const zmlx_validate_options *options,
                                const zm_patch_request *request, zmlx_error *error) {
    *validation = (zmlx_validation){0};
    static const zmlx_validate_options defaults;
    if (!options) options = &defaults;
    comparison this = {
        .model = model,
        .prompt = prompt,
        .n_prompt = n_prompt,
        .options = options,
        .generate = {.max_tokens = options->max_tokens ? options->max_tokens : DEFAULT_TOKENS,
                     .ignore_eos = options->ignore_eos},
        .n_runs = options->n_runs ? options->n_runs : DEFAULT_RUNS,
        .error = error,
    };
    if (this.n_runs < 0 || this.n_runs > MAX_RUNS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "runs", "expected 1 to %d, got %d", MAX_RUNS, this.n_runs);
    if (zm_patch_count(model))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "model", "it is patched; unpatch it before validating");
    zmlx_status status = compare(&this, validation, request);
    zmlx_unpatch(model);
    if (status) zmlx_validation_clear(validation);
    return status;
}

zmlx_status zmlx_validate(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                          size_t n_prompt, const zmlx_validate_options *options, zmlx_error *error) {
    *validation = (zmlx_validation){0};
    if (!model) return zm_fail_null(error, "model");
    zm_report *report;
    zm_patch_request request;
    ZM_TRY(zm_report_new(&report, model->family ? model->family->group : "unknown", error));
    zmlx_status status = zm_patch_resolve(&request, report, model, options ? options->patch : NULL, error);
    if (!status) status = zm_validate_request(validation, model, prompt, n_prompt, options, &request, error);
    if (!status) status = copy_notes(validation, &report->view, error);
    zm_report_free(report);
    if (status) zmlx_validation_clear(validation);
    return status;
}

void zmlx_validation_clear(zmlx_validation *validation) {
    if (!validation) return;
    free(validation->baseline.prefill_tok_s);
    free(validation->baseline.decode_tok_s);
    free(validation->patched.prefill_tok_s);
    free(validation->patched.decode_tok_s);
    free(validation->baseline_tokens);
    free(validation->counts);
    for (size_t i = 0; i < validation->n_notes; i++) free(validation->notes[i]);
    free(validation->notes);
    *validation = (zmlx_validation){0};
}

const char *zmlx_validate_default_prompt(void) {
    return "Write a thorough comparison of TCP and UDP: how each of them sets up, orders, acknowledges and "
           "controls the flow of data, what that costs in latency and overhead, how they behave when packets "
           "are lost, and which kinds of applications should choose which, with examples.";
}
