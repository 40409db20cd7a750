/* SPDX-License-Identifier: MIT */
/* Measures patterns one by one on the model itself; keeps those that help and change no token. */
#include "patch/smart_patch.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/statistics.h"

enum { N_CHECKED_TOKENS = 32, LEAST_STEPS = 2, MOST_STEPS = 8, LEAST_RUNS = 2 };
enum { DEFAULT_SAMPLE = 16, MAX_RUNS = 1000, MAX_REPEATS = 64 };
/* The threshold is half a per cent, so short blocks are repeated and need warm caches. Long ones do not; there time is
 * spent on what is in doubt. */
static const double block_seconds = 0.025, long_block_seconds = 0.5, long_steps_seconds = 0.8;
static const double warm_up_seconds = 0.5;    /* no further warm-up begins behind them */
static const double patience_seconds = 2;     /* runs end behind them where the result is clear, */
static const double most_seconds = 20;        /* and behind these in any case */

typedef struct block_time { /* seconds */
    double decode;          /* one step */
    double prefill;
} block_time;

typedef struct trial {
    zmlx_model *model;
    const zm_patch_request *request;
    const zmlx_smart_patch_options *options;
    zm_smart_clock clock;
    const int32_t *sample;
    size_t n_sample;
    double threshold;
    int n_warmup, n_runs;
    const char *name;   /* of the candidate, for progress */
    bool is_long;       /* a block */
    int n_steps;        /* of a block */
    int n_repeats;      /* of a block */
    block_time current; /* of the standing model, about */
    int32_t expected[N_CHECKED_TOKENS]; /* greedy tokens of the model as it was given */
    block_time *standing, *candidate;   /* n_runs each, */
    int n_done;                         /* of which these are measured */
    double *values;                     /* n_runs: what a median is taken of */
    zmlx_error *error;
} trial;

static void say(const trial *this, const char *format, ...) ZM_PRINTF(2, 3);
static void say(const trial *this, const char *format, ...) {
    if (!this->options->log) return;
    char line[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    this->options->log(this->options->log_context, line);
}

static void tell(const trial *this, const char *step, int done, int total) {
    const zmlx_smart_patch_options *options = this->options;
    if (options->progress) options->progress(options->progress_context, this->name, step, done, total);
}

static block_time median_times(trial *this, const block_time *times) {
    block_time result;
    for (int i = 0; i < this->n_done; i++) this->values[i] = times[i].decode;
    result.decode = zm_median(this->values, (size_t)this->n_done);
    for (int i = 0; i < this->n_done; i++) this->values[i] = times[i].prefill;
    result.prefill = zm_median(this->values, (size_t)this->n_done);
    return result;
}

/* Standing and candidate blocks are neighbours in time, so each pair's ratio is free of slow drifts. */
static double speedup_of_run(const trial *this, int run, bool prefill) {
    const block_time *a = &this->standing[run], *b = &this->candidate[run];
    double before = prefill ? a->prefill : a->decode, after = prefill ? b->prefill : b->decode;
    return after > 0 ? before / after : 1;
}

static double median_speedup(trial *this, bool prefill) {
    for (int i = 0; i < this->n_done; i++) this->values[i] = speedup_of_run(this, i, prefill);
    return zm_median(this->values, (size_t)this->n_done);
}

typedef struct range {
    double low, high;
} range;

static range range_of_speedup(const trial *this, bool prefill) {
    range result = {HUGE_VAL, -HUGE_VAL};
    for (int i = 0; i < this->n_done; i++) {
        double speedup = speedup_of_run(this, i, prefill);
        if (speedup < result.low) result.low = speedup;
        if (speedup > result.high) result.high = speedup;
    }
    return result;
}

/* A run has one prefill, whose time is less sure than that of its steps: it is slower if it is in every run. */
static bool prefill_is_slower(const trial *this) { return range_of_speedup(this, true).high < this->threshold; }

/* Whether more runs would only say the same: all are at least their spread away from the threshold. prefill_counts:
 * whether it decides too. */
static bool is_clear(const trial *this, bool prefill_counts) {
    range decode = range_of_speedup(this, false), prefill = range_of_speedup(this, true);
    double spread = decode.high - decode.low, prefill_spread = prefill.high - prefill.low;
    if (this->threshold - decode.high > spread) return true;
    if (prefill_counts && prefill_is_slower(this)) return this->threshold - prefill.high > prefill_spread;
    return decode.low - this->threshold > spread;
}

/* Feeds a token and waits for the one after it. */
static zmlx_status greedy_step(zmlx_session *session, int32_t token, zmlx_error *error) {
    mlx_array input = mlx_array_new_data(&token, (const int[]){1, 1}, 2, MLX_INT32);
    zm_choices next = {.wanted = 1};
    zmlx_status status = zm_session_build_greedy(session, &next, input, 1, error);
    mlx_array_free(input);
    if (!status) status = zm_session_evaluate(session, next.tokens[0], error);
    zm_choices_free(&next);
    return status;
}

/* Adds the times of a prefill of the sample and of n_steps single-token steps after it. */
static zmlx_status time_once(trial *this, block_time *sum, int n_steps) {
    zmlx_session *session;
    ZM_TRY(zmlx_session_new(&session, this->model, this->error));
    double start = this->clock();
    zmlx_status status = zmlx_session_feed(session, this->sample, this->n_sample, NULL, false, this->error);
    double filled = this->clock();
    for (int i = 0; i < n_steps && !status; i++)
        status = greedy_step(session, this->expected[i], this->error);
    sum->decode += this->clock() - filled;
    sum->prefill += filled - start;
    zmlx_session_free(session);
    return status;
}

/* A block; a short one after a pass that brings weights and buffers back into the caches. */
static zmlx_status time_block(trial *this, block_time *result) {
    block_time sum = {0}, unused = {0};
    if (!this->is_long) ZM_TRY(time_once(this, &unused, 1));
    for (int i = 0; i < this->n_repeats; i++) ZM_TRY(time_once(this, &sum, this->n_steps));
    result->decode = sum.decode / (this->n_repeats * this->n_steps);
    result->prefill = sum.prefill / this->n_repeats;
    return ZMLX_OK;
}

static double block_length(const block_time *once) { return once->prefill + MOST_STEPS * once->decode; }

static int choose_repeats(const block_time *once) {
    double seconds = block_length(once);
    return seconds * MAX_REPEATS < block_seconds ? MAX_REPEATS : 1 + (int)(block_seconds / seconds);
}

/* From the times of the slower side, as they are known before the measuring. */
static void choose_block(trial *this, const block_time *tried) {
    const block_time *slower = block_length(tried) > block_length(&this->current) ? tried : &this->current;
    this->is_long = block_length(slower) > long_block_seconds;
    this->n_repeats = 1;
    this->n_steps = MOST_STEPS;
    if (this->n_steps * slower->decode > long_steps_seconds) {
        this->n_steps = (int)(long_steps_seconds / slower->decode);
        if (this->n_steps < LEAST_STEPS) this->n_steps = LEAST_STEPS;
    }
}

static zmlx_status time_side(trial *this, size_t first, bool patched, int slot) {
    zm_patch_switch(this->model, first, patched);
    ZM_TRY(zm_patch_fit(this->model, this->error));
    return time_block(this, patched ? &this->candidate[slot] : &this->standing[slot]);
}

/* Times the model as it stands and, with first below the number of patched modules, the candidate that patched the
 * modules from first on, in turns, the other one first every time: n_runs pairs, or as few as leave no doubt. tried:
 * the candidate's times, about. Ends with the candidate applied. */
static zmlx_status time_both(trial *this, size_t first, const block_time *tried, bool prefill_counts) {
    int n_sides = first < zm_patch_count(this->model) ? 2 : 1;
    double start = this->clock();
    choose_block(this, tried);
    this->n_done = 0;
    for (int run = this->is_long ? 0 : -this->n_warmup; run < this->n_runs; run++) {
        int slot = run < 0 ? 0 : run;
        tell(this, "runs", slot, this->n_runs);
        for (int turn = 0; turn < n_sides; turn++)
            ZM_TRY(time_side(this, first, n_sides == 2 && (run & 1) != turn, slot));
        double seconds = this->clock() - start;
        if (run < -1 && seconds > warm_up_seconds) run = -1;
        if (run == -1) this->n_repeats = choose_repeats(n_sides == 2 ? &this->candidate[0] : &this->standing[0]);
        if (run < 0) continue;
        this->n_done = run + 1;
        if (this->n_done < LEAST_RUNS || seconds < patience_seconds) continue;
        if (seconds > most_seconds || n_sides == 1 || is_clear(this, prefill_counts)) break;
    }
    zm_patch_switch(this->model, first, true);
    return zm_patch_fit(this->model, this->error);
}

/* The tokens of a check as they come, and when. */
typedef struct token_check {
    const trial *of;
    bool compares; /* with what is expected; the first other token ends it */
    int count;
    double first, last; /* seconds */
} token_check;

static bool note_token(void *context, int32_t token) {
    token_check *this = context;
    this->last = this->of->clock();
    if (!this->count) this->first = this->last;
    tell(this->of, "tokens", ++this->count, N_CHECKED_TOKENS);
    return !this->compares || token == this->of->expected[this->count - 1];
}

/* Greedy tokens after the sample and about what they took; -1 behind the last one that the model gave. */
static zmlx_status greedy_tokens(trial *this, int32_t tokens[N_CHECKED_TOKENS], bool compares, block_time *times) {
    token_check check = {.of = this, .compares = compares};
    zmlx_generation generation;
    zmlx_generate_options options = {
        .max_tokens = N_CHECKED_TOKENS, .ignore_eos = true, .on_token = note_token, .context = &check};
    bool undefined;
    double start = this->clock();
    ZM_TRY(zm_generate(&generation, &undefined, this->model, this->sample, this->n_sample, &options, this->error));
    for (int i = 0; i < N_CHECKED_TOKENS; i++) tokens[i] = i < check.count ? generation.tokens[i] : -1;
    zmlx_generation_clear(&generation);
    *times = (block_time){.prefill = check.first - start};
    if (check.count > 1) times->decode = (check.last - check.first) / (check.count - 1);
    return ZMLX_OK;
}

/* A prefill longer than the guard runs the same operations with and without a candidate, so its time says nothing. */
static bool prefill_counts(const trial *this) {
    int most = this->request->max_fused_tokens;
    return most > 0 && this->n_sample <= (size_t)most;
}

/* Decides about the candidate that is applied now. */
static zmlx_status judge(trial *this, zmlx_smart_result *result, size_t first) {
    int32_t tokens[N_CHECKED_TOKENS];
    block_time tried;
    ZM_TRY(greedy_tokens(this, tokens, true, &tried));
    int same = 0;
    while (same < N_CHECKED_TOKENS && tokens[same] == this->expected[same]) same++;
    result->same_tokens = same == N_CHECKED_TOKENS;
    ZM_TRY(time_both(this, first, &tried, prefill_counts(this)));
    result->n_runs = this->n_done;
    result->decode_speedup = median_speedup(this, false);
    result->prefill_speedup = median_speedup(this, true);
    result->choice = ZMLX_SMART_REVERT;
    if (!result->same_tokens)
        snprintf(result->reason, sizeof result->reason, "tokens differ from token %d on", same);
    else if (result->decode_speedup < this->threshold)
        snprintf(result->reason, sizeof result->reason, "below %.3f threshold", this->threshold);
    else if (prefill_counts(this) && prefill_is_slower(this))
        snprintf(result->reason, sizeof result->reason, "prefill %.3fx, below %.3f threshold",
                 result->prefill_speedup, this->threshold);
    else
        result->choice = ZMLX_SMART_KEEP;
    return ZMLX_OK;
}

/* What was measured, and what it means. */
static void explain(const trial *this, const zmlx_smart_result *result, const zm_patch_pattern *pattern) {
    const char *what = pattern->summary;
    if (result->choice == ZMLX_SMART_NO_MATCH) {
        say(this, "%s: no matches (skipped)", pattern->name);
        say(this, "    %s; the model has no such part, or the patterns kept above took it", what);
        return;
    }
    if (result->choice == ZMLX_SMART_KEEP)
        say(this, "%s: %.3fx -> KEEP (%d modules)", pattern->name, result->decode_speedup, result->n_modules);
    else
        say(this, "%s: %.3fx -> REVERT (%s)", pattern->name, result->decode_speedup, result->reason);
    say(this, "    %s; prompt %.3fx%s, tokens %s; %d run%s", what, result->prefill_speedup,
        prefill_counts(this) ? "" : " (not judged: longer than the guard)",
        result->same_tokens ? "the same" : "differ", result->n_runs, result->n_runs == 1 ? "" : "s");
}

static zmlx_status try_pattern(trial *this, zmlx_smart_result *result, zm_report *patched,
                               const zm_patch_pattern *pattern) {
    zm_patch_request one = *this->request;
    one.patterns[0] = pattern;
    one.n_patterns = 1;
    zm_report *own;
    size_t first = zm_patch_count(this->model);
    ZM_TRY(zm_report_new(&own, patched->view.family, this->error));
    zmlx_status status = zm_patch_apply(own, this->model, &one, this->error);
    result->n_modules = (int)(zm_patch_count(this->model) - first);
    result->choice = ZMLX_SMART_NO_MATCH;
    if (!status && result->n_modules) status = judge(this, result, first);
    if (!status && result->choice == ZMLX_SMART_KEEP) {
        status = zm_report_merge(patched, own, this->error);
        zm_report_set_speedup(patched, pattern->name, result->decode_speedup);
        this->current = median_times(this, this->candidate);
    } else {
        zm_patch_undo(this->model, first);
    }
    zm_report_free(own);
    if (!status) explain(this, result, pattern);
    return status;
}

static void say_names(const trial *this, const char *title, const zmlx_smart_report *report,
                      zmlx_smart_choice choice) {
    const char *names[ZM_PATTERN_COUNT];
    size_t n_names = 0;
    for (size_t i = 0; i < report->n_results; i++)
        if (report->results[i].choice == choice) names[n_names++] = report->results[i].pattern;
    zm_text text = {0};
    zm_text_append_names(&text, names, n_names);
    say(this, "%s: %s", title, zm_text_string(&text));
    zm_text_free(&text);
}

static zmlx_status try_all(trial *this, zmlx_smart_report *report, zm_report *patched) {
    const zm_patch_request *request = this->request;
    zm_text names = {0};
    zm_text_append_names(&names, patched->view.patterns, patched->view.n_patterns);
    say(this, "[smart_patch] Benchmarking %zu patterns: %s", request->n_patterns, zm_text_string(&names));
    zm_text_free(&names);
    ZM_TRY(greedy_tokens(this, this->expected, false, &this->current));
    if (this->expected[N_CHECKED_TOKENS - 1] < 0)
        return zm_fail(this->error, ZMLX_ERROR_FORMAT, "model",
                       "its logits are not all numbers: equal tokens would prove nothing");
    ZM_TRY(time_both(this, zm_patch_count(this->model), &this->current, false));
    this->current = median_times(this, this->standing);
    report->baseline_ms = report->final_ms = 1000 * this->current.decode;
    say(this, "Baseline: %.3f ms", report->baseline_ms);
    say(this,
        "Each pattern is timed with and without it in turns, beside those kept before: one step of decoding, and a "
        "prompt of %zu tokens. Up to %d runs; fewer behind %g s where they leave no doubt, and behind %g s in any "
        "case.",
        this->n_sample, this->n_runs, patience_seconds, most_seconds);
    say(this,
        "It is kept if steps do not fall below %.3fx, nor the prompt in every run, and %d greedy tokens stay the same. "
        "More than 1x is faster.",
        this->threshold, N_CHECKED_TOKENS);
    for (size_t i = 0; i < request->n_patterns; i++) {
        zmlx_smart_result *result = &report->results[report->n_results++];
        result->pattern = this->name = request->patterns[i]->name;
        ZM_TRY(try_pattern(this, result, patched, request->patterns[i]));
    }
    report->final_ms = 1000 * this->current.decode;
    double speedup = report->final_ms > 0 ? report->baseline_ms / report->final_ms : 0;
    say(this, "Result: %.3f -> %.3f ms (%.3fx)", report->baseline_ms, report->final_ms, speedup);
    say_names(this, "Kept", report, ZMLX_SMART_KEEP);
    say_names(this, "Reverted", report, ZMLX_SMART_REVERT);
    return ZMLX_OK;
}

static zmlx_status allocate(trial *this, zmlx_smart_report *report, size_t n_patterns) {
    size_t n_runs = (size_t)this->n_runs;
    report->results = calloc(n_patterns + 1, sizeof *report->results);
    this->standing = calloc(n_runs, sizeof *this->standing);
    this->candidate = calloc(n_runs, sizeof *this->candidate);
    this->values = calloc(n_runs, sizeof *this->values);
    bool complete = report->results && this->standing && this->candidate && this->values;
    return complete ? ZMLX_OK : zm_fail_memory(this->error);
}

static zmlx_status check_options(const zmlx_smart_patch_options *options, zmlx_error *error) {
    if (!(options->threshold >= 0))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "threshold", "it must be 0 or more");
    if (options->n_warmup < 0 || options->n_warmup > MAX_RUNS || options->n_runs < 0 ||
        options->n_runs > MAX_RUNS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "runs", "warm-ups and runs must be 0 to %d", MAX_RUNS);
    if (options->sample && !options->n_sample)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "sample", "it is empty");
    return ZMLX_OK;
}

zmlx_status zm_smart_patch_request(zmlx_smart_report *report, zm_report *patched, zmlx_model *model,
                                   const zm_patch_request *request, const zmlx_smart_patch_options *options,
                                   zm_smart_clock clock, zmlx_error *error) {
    int32_t default_sample[DEFAULT_SAMPLE];
    for (int i = 0; i < DEFAULT_SAMPLE; i++) default_sample[i] = (17 + 31 * i) % model->info.vocab_size;
    trial this = {
        .model = model,
        .request = request,
        .options = options,
        .clock = clock,
        .sample = options->sample ? options->sample : default_sample,
        .n_sample = options->sample ? options->n_sample : DEFAULT_SAMPLE,
        .threshold = options->threshold > 0 ? options->threshold : 0.995,
        .n_warmup = options->n_warmup ? options->n_warmup : 3,
        .n_runs = options->n_runs ? options->n_runs : 5,
        .name = "baseline",
        .error = error,
    };
    size_t n_before = zm_patch_count(model);
    zmlx_status status = allocate(&this, report, request->n_patterns);
    if (!status) status = try_all(&this, report, patched);
    if (!status) status = zm_patch_fit(model, error);
    if (status) {
        zm_patch_undo(model, n_before);
        zm_patch_fit(model, NULL);
        zmlx_smart_report_clear(report);
    }
    free(this.standing);
    free(this.candidate);
    free(this.values);
    return status;
}

zmlx_status zm_smart_patch_timed(zmlx_smart_report *report, zmlx_model *model, const zmlx_smart_patch_options *options,
                                 zm_smart_clock clock, zmlx_error *error) {
    static const zmlx_smart_patch_options defaults;
    *report = (zmlx_smart_report){0};
    if (!model) return zm_fail_null(error, "model");
    if (!options) options = &defaults;
    ZM_TRY(check_options(options, error));
    zmlx_patch_options choice = {.patterns = options->patterns,
                                 .n_patterns = options->n_patterns,
                                 .exclude = options->exclude,
                                 .n_exclude = options->n_exclude,
                                 .vector_attention = options->vector_attention};
    zm_report *patched;
    zm_patch_request request;
    ZM_TRY(zm_report_new(&patched, model->family ? model->family->group : "unknown", error));
    zmlx_status status = zm_patch_resolve(&request, patched, model, &choice, error);
    if (!status) status = zm_smart_patch_request(report, patched, model, &request, options, clock, error);
    if (!status) status = zm_patch_keep_report(model, patched, false, error);
    if (status) zm_report_free(patched);
    return status;
}

zmlx_status zmlx_smart_patch(zmlx_smart_report *report, zmlx_model *model,
                             const zmlx_smart_patch_options *options, zmlx_error *error) {
    return zm_smart_patch_timed(report, model, options, zm_clock_seconds, error);
}

void zmlx_smart_report_clear(zmlx_smart_report *report) {
    if (!report) return;
    free(report->results);
    *report = (zmlx_smart_report){0};
}
