/* SPDX-License-Identifier: MIT */
#include "zmlx/model_bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/bandwidth.h"
#include "bench/timing.h"
#include "fused/cuda/timeline.h"
#include "patch/record.h"

enum { PROMPT = 128, TOKENS = 64, RUNS = 3, MAX_RUNS = 1000, WARMUP_TOKENS = 16, MAX_TOKENS = 1 << 24 };

static const double stretch_seconds = 0.1;

typedef struct numbers {
    double *values;
    size_t count, room;
} numbers;

/* A run decodes in stretches, between which memory is read: its pace changes within a run. */
typedef struct stretches {
    double rate;             /* of the last reading, bytes a second */
    double begin, seconds;   /* when the present one began; all of them */
    size_t n_seen, n_before; /* tokens that came; that were there when it began */
    zmlx_status status;
} stretches;

typedef struct trial {
    zmlx_model *model;
    const zmlx_model_bench_options *options;
    zmlx_model_bench *bench;
    int32_t *prompt;
    double *prefill[2], *decode[2], token_bytes[2]; /* seconds of each run */
    zm_bandwidth_probe *probe;                      /* NULL: none */
    numbers rates, shares[2];                       /* of the probe; of the sides' stretches */
    stretches stretches;                            /* of the present run */
    int side;                                       /* of it */
    zmlx_error *error;
} trial;

static size_t array_bytes(mlx_array array) { return zm_is_set(array) ? mlx_array_nbytes(array) : 0; }

/* Of the part of a weight that one token reads. */
static double weight_bytes(const zm_weight *weight, double part) {
    size_t bytes = array_bytes(weight->weight) + array_bytes(weight->scales) + array_bytes(weight->biases) +
                   array_bytes(weight->bias);
    return part * (double)bytes;
}

static double chosen_part(const zm_module *module) {
    for (; module; module = module->parent)
        if (module->kind == ZM_MODULE_MOE) {
            const zm_moe *moe = (const zm_moe *)module;
            return (double)moe->top_k / moe->n_experts;
        }
    return 1;
}

static zmlx_status add_bytes(zm_module *module, void *context, zmlx_error *error) {
    double *bytes = context;
    (void)error;
    if (module->kind == ZM_MODULE_LINEAR) {
        *bytes += weight_bytes(&((zm_linear *)module)->weight, 1);
    } else if (module->kind == ZM_MODULE_SWITCH_LINEAR) {
        *bytes += weight_bytes(&((zm_linear *)module)->weight, chosen_part(module));
    } else if (module->kind == ZM_MODULE_EMBEDDING) {
        const zm_weight *table = &((zm_embedding *)module)->weight;
        *bytes += weight_bytes(table, 1.0 / table->out_features);
    } else {
        for (int i = 0; i < module->n_parameters; i++) *bytes += (double)array_bytes(*module->parameters[i].array);
    }
    return ZMLX_OK;
}

static void tell(const trial *this, const char *step, int done, int total) {
    if (this->options->progress) this->options->progress(this->options->progress_context, step, done, total);
}

static zmlx_status add_number(numbers *of, double value, zmlx_error *error) {
    if (of->count == of->room) {
        size_t room = of->room ? 2 * of->room : 64;
        double *values = realloc(of->values, room * sizeof *values);
        if (!values) return zm_fail_memory(error);
        *of = (numbers){.values = values, .count = of->count, .room = room};
    }
    of->values[of->count++] = value;
    return ZMLX_OK;
}

static zmlx_status read_rate(trial *this) {
    ZM_TRY(zm_bandwidth_probe_pass(&this->stretches.rate, this->probe, this->error));
    return add_number(&this->rates, this->stretches.rate, this->error);
}

/* The token after the last one seen is under way, one on the CPU: it ends with the stretch. */
static zmlx_status end_stretch(trial *this) {
    stretches *of = &this->stretches;
    size_t n_ready = of->n_seen;
    if (n_ready < this->bench->n_tokens) {
        if (mlx_synchronize(this->model->stream)) return zm_mlx_fail(this->error, "evaluation");
        n_ready++;
    }
    double seconds = zm_clock_seconds() - of->begin, before = of->rate;
    double bytes = (double)(n_ready - of->n_before) * this->token_bytes[this->side];
    of->seconds += seconds;
    if (n_ready > of->n_before && seconds > 0) {
        ZM_TRY(read_rate(this));
        double share = bytes / seconds / ((before + of->rate) / 2);
        ZM_TRY(add_number(&this->shares[this->side], share, this->error));
    }
    of->n_before = n_ready;
    of->begin = zm_clock_seconds();
    return ZMLX_OK;
}

static bool take_token(void *context, int32_t token) {
    trial *this = context;
    stretches *of = &this->stretches;
    double now = zm_clock_seconds();
    (void)token;
    if (!of->n_seen++) of->begin = now, of->n_before = 1;
    else if (of->n_seen == this->bench->n_tokens || now - of->begin >= stretch_seconds) of->status = end_stretch(this);
    return !of->status;
}

/* Sides 0 and 1; seconds of a token's decoding. */
static zmlx_status run(trial *this, int side, bool counts, zmlx_generation *generation, double *decode) {
    size_t n_tokens = counts ? this->bench->n_tokens : WARMUP_TOKENS;
    zmlx_generate_options options = {.max_tokens = n_tokens, .ignore_eos = true};
    bool probes = counts && this->probe;
    this->side = side;
    this->stretches = (stretches){.n_seen = 0};
    if (probes) {
        ZM_TRY(read_rate(this));
        options.on_token = take_token;
        options.context = this;
    }
    zm_patch_switch(this->model, 0, side == 1);
    zmlx_status status = zm_patch_fit(this->model, this->error);
    if (!status)
        status = zmlx_generate(generation, this->model, this->prompt, this->bench->n_prompt, &options, this->error);
    zm_patch_switch(this->model, 0, true);
    if (!status && this->stretches.status) {
        zmlx_generation_clear(generation);
        status = this->stretches.status;
    }
    if (status) return status;
    *decode = (probes ? this->stretches.seconds : generation->decode_seconds) / (double)(generation->n_tokens - 1);
    return ZMLX_OK;
}

static zmlx_status run_all(trial *this) {
    zmlx_model_bench *bench = this->bench;
    int first_side = this->options->patched_only ? 1 : 0, total = bench->n_runs * (2 - first_side), done = 0;
    for (int i = -1; i < bench->n_runs; i++)
        for (int side = first_side; side < 2; side++) {
            zmlx_generation generation;
            double decode;
            ZM_TRY(run(this, side, i >= 0, &generation, &decode));
            if (i >= 0) {
                zmlx_model_bench_side *result = side ? &bench->patched : &bench->baseline;
                this->prefill[side][i] = generation.prefill_seconds;
                this->decode[side][i] = decode;
                if (generation.peak_memory_bytes > result->peak_memory_bytes)
                    result->peak_memory_bytes = generation.peak_memory_bytes;
                tell(this, side ? "patched run" : "baseline run", ++done, total);
            }
            zmlx_generation_clear(&generation);
        }
    return ZMLX_OK;
}

static void summarize(trial *this, int side) {
    zmlx_model_bench *bench = this->bench;
    zmlx_model_bench_side *result = side ? &bench->patched : &bench->baseline;
    result->prefill = zm_timing_of(this->prefill[side], bench->n_runs);
    result->decode = zm_timing_of(this->decode[side], bench->n_runs);
    if (result->prefill.median > 0) result->prefill_tok_s = (double)bench->n_prompt / result->prefill.median;
    if (result->decode.median > 0) result->decode_tok_s = 1 / result->decode.median;
    result->bandwidth = this->token_bytes[side] * result->decode_tok_s;
    if (this->shares[side].count) {
        zmlx_timing shares = zm_timing_of(this->shares[side].values, (int)this->shares[side].count);
        result->share = shares.median;
        result->share_lower = shares.lower_quartile;
        result->share_upper = shares.upper_quartile;
    } else if (bench->bandwidth > 0) {
        result->share = result->bandwidth / bench->bandwidth;
    }
}

static zmlx_status measure(trial *this) {
    zmlx_model_bench *bench = this->bench;
    ZM_TRY(zm_module_visit(&this->model->root->base, add_bytes, &this->token_bytes[1], this->error));
    bench->token_bytes = (uint64_t)this->token_bytes[1];
    for (size_t i = 0; i < bench->n_prompt; i++)
        this->prompt[i] = (int32_t)(zm_splitmix64(1, i) % (uint64_t)this->model->info.vocab_size);
    ZM_TRY(run_all(this));
    bench->bandwidth = this->options->bandwidth;
    if (this->rates.count) bench->bandwidth = zm_timing_of(this->rates.values, (int)this->rates.count).median;
    summarize(this, 1);
    if (this->options->patched_only) return ZMLX_OK;
    summarize(this, 0);
    if (bench->patched.prefill.median > 0)
        bench->prefill_speedup = bench->baseline.prefill.median / bench->patched.prefill.median;
    if (bench->patched.decode.median > 0)
        bench->decode_speedup = bench->baseline.decode.median / bench->patched.decode.median;
    return ZMLX_OK;
}

/* Where the time of the last of a few tokens goes. */
static zmlx_status take_timeline(trial *this) {
    zmlx_generation generation;
    double decode;
    ZM_TRY(zm_timeline_begin(this->error));
    zmlx_status status = run(this, 1, false, &generation, &decode);
    if (!status) zmlx_generation_clear(&generation);
    if (!status && mlx_synchronize(this->model->stream)) status = zm_mlx_fail(this->error, "evaluation");
    zmlx_timeline_row *rows = status ? NULL : this->bench->timeline;
    zmlx_status ended = zm_timeline_end(rows, &this->bench->n_timeline, this->error);
    return status ? status : ended;
}

static zmlx_status allocate(trial *this) {
    size_t n_runs = (size_t)this->bench->n_runs;
    bool complete = true;
    this->prompt = calloc(this->bench->n_prompt, sizeof *this->prompt);
    for (int side = 0; side < 2; side++) {
        this->prefill[side] = calloc(n_runs, sizeof(double));
        this->decode[side] = calloc(n_runs, sizeof(double));
        complete = complete && this->prefill[side] && this->decode[side];
    }
    if (!complete || !this->prompt) return zm_fail_memory(this->error);
    int n_threads = this->options->probe_threads;
    return n_threads ? zm_bandwidth_probe_new(&this->probe, n_threads, ZM_BANDWIDTH_BYTES, this->error) : ZMLX_OK;
}

static zmlx_status check(const zmlx_model *model, const zmlx_model_bench_options *options, zmlx_error *error) {
    if (options->n_runs < 0 || options->n_runs > MAX_RUNS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "runs", "expected at most %d, got %d", MAX_RUNS, options->n_runs);
    if (options->probe_threads < 0 || options->probe_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "probe threads", "expected at most %d, got %d", ZM_MAX_THREADS,
                       options->probe_threads);
    if (options->probe_threads && model->device == ZMLX_DEVICE_GPU)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "probe threads",
                       "they read the processor's memory, and the model is on a GPU; leave them at 0");
    if (options->n_prompt > MAX_TOKENS || options->n_tokens > MAX_TOKENS || options->n_tokens == 1)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "expected 2 to %d", MAX_TOKENS);
    if (options->timeline && model->device != ZMLX_DEVICE_GPU)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "timeline",
                       "the model is not on a GPU; decode's CUDA kernels tell the time (make build BACKEND=cuda)");
    if (zm_patch_count(model))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "model", "it is patched; unpatch it before timing");
    return ZMLX_OK;
}

static zmlx_status check_context(const zmlx_model *model, const zmlx_model_bench *bench, zmlx_error *error) {
    size_t limit = (size_t)model->info.max_position_embeddings;
    ZM_TRY(zm_check_context(model, "prompt length", bench->n_prompt, error));
    if (!limit || bench->n_tokens <= limit - bench->n_prompt) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, "max tokens",
                   "%zu behind a prompt of %zu do not fit the model's context of %zu", bench->n_tokens, bench->n_prompt,
                   limit);
}

static zmlx_status bench_model(zmlx_model_bench *bench, zmlx_model *model, const zmlx_model_bench_options *options,
                               zmlx_error *error) {
    bench->n_prompt = options->n_prompt ? options->n_prompt : PROMPT;
    bench->n_tokens = options->n_tokens ? options->n_tokens : TOKENS;
    bench->n_runs = options->n_runs ? options->n_runs : RUNS;
    trial this = {.model = model, .options = options, .bench = bench, .error = error};
    const zmlx_patch_report *report;
    ZM_TRY(check_context(model, bench, error));
    ZM_TRY(zm_module_visit(&model->root->base, add_bytes, &this.token_bytes[0], error));
    ZM_TRY(zm_patch_in_earnest(&report, model, options->patch, error));
    bench->n_patched = report->patched_count;
    zmlx_status status = allocate(&this);
    if (!status && options->timeline) status = take_timeline(&this); /* first: where there is none, nothing waits */
    if (!status) status = measure(&this);
    zmlx_unpatch(model);
    for (int side = 0; side < 2; side++) {
        free(this.prefill[side]);
        free(this.decode[side]);
        free(this.shares[side].values);
    }
    zm_bandwidth_probe_free(this.probe);
    free(this.rates.values);
    free(this.prompt);
    return status;
}

zmlx_status zmlx_bench_model(zmlx_model_bench *bench, zmlx_model *model, const zmlx_model_bench_options *options,
                             zmlx_error *error) {
    static const zmlx_model_bench_options defaults;
    *bench = (zmlx_model_bench){0};
    if (!model) return zm_fail_null(error, "model");
    if (!options) options = &defaults;
    ZM_TRY(check(model, options, error));
    zmlx_status status = bench_model(bench, model, options, error);
    if (status) *bench = (zmlx_model_bench){0};
    return status;
}
