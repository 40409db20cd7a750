/* SPDX-License-Identifier: MIT */
#include <stdlib.h>

#include "base/clock.h"
#include "base/random.h"
#include "bench/timing.h"
#include "patch/record.h"
#include "zmlx/model_bench.h"

enum { RUNS = 5, MAX_RUNS = 1000, MAX_CALLS = 100, MAX_TOKENS = 1 << 20 };
static const double run_seconds = 0.05;

typedef struct trial {
    zmlx_model *model;
    zm_module *layer;
    mlx_array x; /* (1, n_tokens, hidden_size) */
    zmlx_error *error;
} trial;

static zmlx_status find_layer(zm_module *module, void *context, zmlx_error *error) {
    zm_module **found = context;
    (void)error;
    if (!*found && module->kind == ZM_MODULE_MOE) *found = module;
    return ZMLX_OK;
}

/* Between -1 and 1. */
static zmlx_status random_states(trial *this, int n_tokens) {
    int shape[3] = {1, n_tokens, this->model->info.hidden_size};
    size_t size = (size_t)n_tokens * (size_t)shape[2];
    float *values = malloc(size * sizeof *values);
    if (!values) return zm_fail_memory(this->error);
    for (size_t i = 0; i < size; i++) values[i] = (float)(zm_splitmix64(1, i) >> 40) * 0x1p-23f - 1;
    zm_scope scope;
    zm_scope_begin(&scope, this->model->stream);
    zm_scope_keep(&scope, &this->x, zm_astype(&scope, zm_from_data(&scope, values, shape, 3, MLX_FLOAT32), this->model->dtype));
    zmlx_status status = zm_scope_end(&scope, this->error);
    free(values);
    if (!status && mlx_array_eval(this->x)) status = zm_mlx_fail(this->error, "random states");
    return status;
}

static zmlx_status call(trial *this) {
    zm_scope scope;
    mlx_array y = {NULL};
    zm_scope_begin(&scope, this->model->stream);
    zm_scope_keep(&scope, &y, zm_module_call(this->layer, &scope, this->x, NULL));
    zmlx_status status = zm_scope_end(&scope, this->error);
    if (!status && mlx_array_eval(y)) status = zm_mlx_fail(this->error, this->layer->path);
    mlx_array_free(y);
    return status;
}

/* Seconds a call, of so many. */
static zmlx_status time_calls(trial *this, double *seconds, bool patched, int n_calls) {
    zm_patch_switch(this->model, 0, patched);
    zmlx_status status = zm_patch_fit(this->model, this->error);
    double start = zm_clock_seconds();
    for (int i = 0; i < n_calls && !status; i++) status = call(this);
    *seconds = (zm_clock_seconds() - start) / n_calls;
    zm_patch_switch(this->model, 0, true);
    return status;
}

static zmlx_status measure(trial *this, zmlx_moe_bench_row *row, int n_runs, double *seconds) {
    int n_calls[2];
    for (int side = 0; side < 2; side++) { /* the first call of each warms up, the second says how many make a run */
        double taken;
        ZM_TRY(time_calls(this, &taken, side == 1, 1));
        ZM_TRY(time_calls(this, &taken, side == 1, 1));
        n_calls[side] = taken * MAX_CALLS < run_seconds ? MAX_CALLS : 1 + (int)(run_seconds / taken);
    }
    for (int run = 0; run < n_runs; run++)
        for (int side = 0; side < 2; side++)
            ZM_TRY(time_calls(this, &seconds[side * n_runs + run], side == 1, n_calls[side]));
    row->baseline = zm_timing_of(seconds, n_runs);
    row->patched = zm_timing_of(seconds + n_runs, n_runs);
    if (row->patched.median > 0) row->speedup = row->baseline.median / row->patched.median;
    return ZMLX_OK;
}

static zmlx_status bench_layer(trial *this, zmlx_moe_bench_row *row, int n_runs) {
    double *seconds = calloc(2 * (size_t)n_runs, sizeof *seconds);
    if (!seconds) return zm_fail_memory(this->error);
    zmlx_status status = random_states(this, row->n_tokens);
    if (!status) status = measure(this, row, n_runs, seconds);
    if (this->x.ctx) mlx_array_free(this->x);
    free(seconds);
    return status;
}

zmlx_status zmlx_bench_moe(zmlx_moe_bench_row *row, zmlx_model *model, int n_tokens,
                           const zmlx_model_bench_options *options, zmlx_error *error) {
    static const zmlx_model_bench_options defaults;
    *row = (zmlx_moe_bench_row){.n_tokens = n_tokens};
    if (!options) options = &defaults;
    if (n_tokens < 1 || n_tokens > MAX_TOKENS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "tokens", "expected 1 to %d, got %d", MAX_TOKENS, n_tokens);
    if (options->n_runs < 0 || options->n_runs > MAX_RUNS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "runs", "expected at most %d, got %d", MAX_RUNS, options->n_runs);
    if (zm_patch_count(model))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "model", "it is patched; unpatch it before timing");
    trial this = {.model = model, .error = error};
    ZM_TRY(zm_module_visit(&model->root->base, find_layer, &this.layer, error));
    if (!this.layer) return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "model", "it has no mixture of experts");
    ZM_TRY(zmlx_patch(NULL, model, options->patch, error));
    zmlx_status status = bench_layer(&this, row, options->n_runs ? options->n_runs : RUNS);
    zmlx_unpatch(model);
    return status;
}
