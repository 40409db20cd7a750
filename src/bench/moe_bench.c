/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/contest.h"
#include "bench/timing.h"
#include "patch/record.h"
#include "zmlx/model_bench.h"

enum { RUNS = 5, MAX_RUNS = 1000, MAX_CALLS = 100, MAX_TOKENS = 1 << 20, MAX_LAYERS = 256, N_STATES = 8 };
static const double run_seconds = 0.05;

typedef struct trial {
    zmlx_model *model;
    int n_calls[2]; /* of a run, of the unpatched and the patched side */
    zm_module *layers[MAX_LAYERS];
    int n_layers;
    mlx_array x[N_STATES]; /* (1, n_tokens, hidden_size) */
    zmlx_error *error;
} trial;

static zmlx_status find_layers(zm_module *module, void *context, zmlx_error *error) {
    trial *this = context;
    (void)error;
    if (module->kind == ZM_MODULE_MOE && this->n_layers < MAX_LAYERS) this->layers[this->n_layers++] = module;
    return ZMLX_OK;
}

/* All states are there while a call makes a result of each expert that a token chooses. */
static zmlx_status check_memory(const trial *this, int n_tokens) {
    const zm_moe *moe = (const zm_moe *)this->layers[0];
    double limit, state_bytes = (this->model->dtype == MLX_FLOAT32 ? 4.0 : 2.0) * this->model->info.hidden_size;
    double bytes = state_bytes * n_tokens * (N_STATES + moe->top_k);
    ZM_TRY(zm_device_memory(&limit, this->model->stream, this->error));
    if (bytes <= limit) return ZMLX_OK;
    return zm_fail(this->error, ZMLX_ERROR_ARGUMENT, "tokens",
                   "states of %d and the experts' results are %.1f GB; %.1f GB of memory can be used", n_tokens,
                   1e-9 * bytes, 1e-9 * limit);
}

/* Between -1 and 1. */
static zmlx_status random_states(trial *this, int n_tokens, int number) {
    int shape[3] = {1, n_tokens, this->model->info.hidden_size};
    size_t size = (size_t)n_tokens * (size_t)shape[2];
    float *values = malloc(size * sizeof *values);
    if (!values) return zm_fail_memory(this->error);
    for (size_t i = 0; i < size; i++) values[i] = (float)(zm_splitmix64((uint64_t)number + 1, i) >> 40) * 0x1p-23f - 1;
    zm_scope scope;
    zm_scope_begin(&scope, this->model->stream);
    zm_scope_keep(&scope, &this->x[number],
                  zm_astype(&scope, zm_from_data(&scope, values, shape, 3, MLX_FLOAT32), this->model->dtype));
    zmlx_status status = zm_scope_end(&scope, this->error);
    free(values);
    if (!status && mlx_array_eval(this->x[number])) status = zm_mlx_fail(this->error, "random states");
    return status;
}

/* Calls number first to first + count - 1: the layers in turn, each with other states than the one before; evaluated
 * together. */
static zmlx_status call(trial *this, double *seconds, int first, int count) {
    zm_scope scope;
    mlx_vector_array results = mlx_vector_array_new();
    bool complete = true;
    zm_scope_begin(&scope, this->model->stream);
    for (int i = first; i < first + count && !zm_scope_failed(&scope); i++) {
        mlx_array y = zm_module_call(this->layers[i % this->n_layers], &scope, this->x[i % N_STATES], NULL);
        if (!zm_scope_failed(&scope)) complete = complete && !mlx_vector_array_append_value(results, y);
    }
    zmlx_status status = zm_scope_end(&scope, this->error);
    double start = zm_clock_seconds();
    if (!status && (!complete || mlx_eval(results))) status = zm_mlx_fail(this->error, this->layers[0]->path);
    *seconds = zm_clock_seconds() - start;
    mlx_vector_array_free(results);
    return status;
}

/* Seconds a call, of so many of the first layer, one after the other; from the call to its result. */
static zmlx_status time_alone(trial *this, double *seconds, int n_calls) {
    double start = zm_clock_seconds(), evaluation;
    for (int i = 0; i < n_calls; i++) ZM_TRY(call(this, &evaluation, 0, 1));
    *seconds = (zm_clock_seconds() - start) / n_calls;
    return ZMLX_OK;
}

/* The same of one evaluation of so many calls, without the time to put them together. */
static zmlx_status time_chain(trial *this, double *seconds, int n_calls) {
    ZM_TRY(call(this, seconds, 0, n_calls));
    *seconds /= n_calls;
    return ZMLX_OK;
}

typedef zmlx_status timed_calls(trial *this, double *seconds, int n_calls);

static zmlx_status time_side(trial *this, double *seconds, bool patched, timed_calls *calls, int n_calls) {
    zm_patch_switch(this->model, 0, patched);
    zmlx_status status = zm_patch_fit(this->model, this->error);
    if (!status) status = calls(this, seconds, n_calls);
    zm_patch_switch(this->model, 0, true);
    return status;
}

/* The first call of each side warms up, the second says how many make a run. */
static zmlx_status choose_calls(trial *this) {
    for (int side = 0; side < 2; side++) {
        double taken;
        ZM_TRY(time_side(this, &taken, side == 1, time_alone, 1));
        ZM_TRY(time_side(this, &taken, side == 1, time_alone, 1));
        this->n_calls[side] = taken * MAX_CALLS < run_seconds ? MAX_CALLS : 1 + (int)(run_seconds / taken);
    }
    return ZMLX_OK;
}

/* timings: of the unpatched and the patched side. */
static zmlx_status measure(trial *this, zmlx_timing *timings[2], int n_runs, timed_calls *calls, double *seconds) {
    for (int run = -1; run < n_runs; run++)
        for (int side = 0; side < 2; side++) {
            int n_calls = this->n_calls[side], slot = run < 0 ? 0 : run;
            if (run < 0 && n_calls == 1) continue; /* warm already */
            ZM_TRY(time_side(this, &seconds[side * n_runs + slot], side == 1, calls, n_calls));
        }
    for (int side = 0; side < 2; side++) *timings[side] = zm_timing_of(seconds + side * n_runs, n_runs);
    return ZMLX_OK;
}

static zmlx_status bench_layers(trial *this, zmlx_moe_bench_row *row, int n_runs) {
    double *seconds = calloc(2 * (size_t)n_runs, sizeof *seconds);
    if (!seconds) return zm_fail_memory(this->error);
    zmlx_status status = ZMLX_OK;
    for (int i = 0; i < N_STATES && !status; i++) status = random_states(this, row->n_tokens, i);
    zmlx_timing *alone[2] = {&row->baseline, &row->patched},
                *chained[2] = {&row->chained_baseline, &row->chained_patched};
    if (!status) status = choose_calls(this);
    if (!status) status = measure(this, alone, n_runs, time_alone, seconds);
    if (!status) status = measure(this, chained, n_runs, time_chain, seconds);
    if (row->patched.median > 0) row->speedup = row->baseline.median / row->patched.median;
    if (row->chained_patched.median > 0)
        row->chained_speedup = row->chained_baseline.median / row->chained_patched.median;
    for (int i = 0; i < N_STATES; i++)
        if (this->x[i].ctx) mlx_array_free(this->x[i]);
    free(seconds);
    return status;
}

zmlx_status zmlx_bench_moe(zmlx_moe_bench_row *row, zmlx_model *model, int n_tokens,
                           const zmlx_model_bench_options *options, zmlx_error *error) {
    static const zmlx_model_bench_options defaults;
    *row = (zmlx_moe_bench_row){0};
    if (!model) return zm_fail_null(error, "model");
    if (!options) options = &defaults;
    if (n_tokens < 1 || n_tokens > MAX_TOKENS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "expected 1 to %d, got %d", MAX_TOKENS, n_tokens);
    if (options->n_runs < 0 || options->n_runs > MAX_RUNS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "runs", "expected at most %d, got %d", MAX_RUNS, options->n_runs);
    if (zm_patch_count(model))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "model", "it is patched; unpatch it before timing");
    trial this = {.model = model, .error = error};
    ZM_TRY(zm_module_visit(&model->root->base, find_layers, &this, error));
    if (!this.n_layers) return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "model", "it has no mixture of experts");
    ZM_TRY(check_memory(&this, n_tokens));
    ZM_TRY(zm_patch_in_earnest(NULL, model, options->patch, error));
    row->n_tokens = n_tokens;
    zmlx_status status = bench_layers(&this, row, options->n_runs ? options->n_runs : RUNS);
    zmlx_unpatch(model);
    if (status) *row = (zmlx_moe_bench_row){0};
    return status;
}
