/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/random.h"
#include "base/threads.h"
#include "bench/bandwidth.h"
#include "bench/host_graph.h"
#include "bench/timing.h"
#include "runtime/cache.h"
#include "zmlx/kernel_bench.h"

enum { WARMUP = 3, RUNS = 15, MAX_RUNS = 10000, MAX_BATCH = 64 };
static const double batch_seconds = 0.02;

static zmlx_status time_run(double *seconds, mlx_closure function, mlx_vector_array inputs, int batch, zmlx_error *error) {
    mlx_vector_array all = mlx_vector_array_new(), results = mlx_vector_array_new();
    double begin = zm_clock_seconds();
    int failed = 0;
    for (int i = 0; i < batch && !failed; i++) {
        failed = mlx_closure_apply(&results, function, inputs);
        for (size_t j = 0; !failed && j < mlx_vector_array_size(results); j++) {
            mlx_array result = mlx_array_new();
            failed = mlx_vector_array_get(&result, results, j) || mlx_vector_array_append_value(all, result);
            mlx_array_free(result);
        }
    }
    failed = failed || mlx_eval(all);
    *seconds = (zm_clock_seconds() - begin) / batch;
    zmlx_status status = failed ? zm_mlx_fail(error, "benchmark") : ZMLX_OK;
    mlx_vector_array_free(all);
    mlx_vector_array_free(results);
    return status;
}

static uint64_t bytes_of(mlx_vector_array arrays) {
    uint64_t bytes = 0;
    for (size_t i = 0; i < mlx_vector_array_size(arrays); i++) {
        mlx_array array = mlx_array_new();
        if (!mlx_vector_array_get(&array, arrays, i)) bytes += mlx_array_nbytes(array);
        mlx_array_free(array);
    }
    return bytes;
}

/* The two functions; without a baseline the first is empty. */
typedef struct contest {
    mlx_closure sides[2];
    mlx_vector_array inputs;
    int first_side;
    zm_bandwidth_probe *probe; /* NULL: none */
} contest;

/* seconds: of the runs of each side; then what the probe gave after each. */
static zmlx_status measure(zmlx_comparison *comparison, const contest *self, int n_warmup, double *seconds,
                           zmlx_error *error) {
    int n_runs = comparison->n_runs;
    double *rates = seconds + 2 * (size_t)n_runs;
    for (int run = -n_warmup; run < n_runs; run++) {
        for (int side = self->first_side; side < 2; side++) {
            double taken;
            ZM_TRY(time_run(&taken, self->sides[side], self->inputs, comparison->batch, error));
            if (run >= 0) seconds[side * n_runs + run] = taken;
        }
        if (run >= 0 && self->probe) ZM_TRY(zm_bandwidth_probe_pass(&rates[run], self->probe, error));
    }
    if (!self->first_side) comparison->baseline = zm_timing_of(seconds, n_runs);
    comparison->candidate = zm_timing_of(seconds + n_runs, n_runs);
    if (self->probe) comparison->bandwidth = zm_timing_of(rates, n_runs).median;
    return ZMLX_OK;
}

/* The first application of each side: compiles, and tells bytes and a batch. */
static zmlx_status prepare(zmlx_comparison *comparison, const contest *self, zmlx_error *error) {
    mlx_vector_array results = mlx_vector_array_new();
    int failed = mlx_eval(self->inputs);
    uint64_t compiled = zm_cache_get_counts().compiled;
    double begin = zm_clock_seconds();
    if (failed || mlx_closure_apply(&results, self->sides[1], self->inputs) || mlx_eval(results)) {
        mlx_vector_array_free(results);
        return zm_mlx_fail(error, "benchmark");
    }
    comparison->first_use = zm_clock_seconds() - begin;
    comparison->first_compiled = zm_cache_get_counts().compiled > compiled;
    comparison->bytes = bytes_of(self->inputs) + bytes_of(results);
    mlx_vector_array_free(results);
    double slower = 0;
    for (int side = self->first_side; side < 2; side++) {
        double seconds;
        ZM_TRY(time_run(&seconds, self->sides[side], self->inputs, 1, error));
        ZM_TRY(time_run(&seconds, self->sides[side], self->inputs, 1, error));
        if (seconds > slower) slower = seconds;
    }
    if (comparison->batch) return ZMLX_OK;
    double batch = batch_seconds / slower;
    comparison->batch = batch < 1 ? 1 : batch > MAX_BATCH ? MAX_BATCH : (int)batch;
    return ZMLX_OK;
}

static zmlx_status run_probed(zmlx_comparison *comparison, const contest *self, const zmlx_bench_options *options,
                              zmlx_error *error) {
    *comparison = (zmlx_comparison){0};
    if (options->n_runs < 0 || options->n_runs > MAX_RUNS || options->n_warmup < 0 || options->n_warmup > MAX_RUNS ||
        options->batch < 0 || options->probe_threads < 0 || options->probe_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "options", "expected at most %d runs, %d threads and no negative number",
                       MAX_RUNS, ZM_MAX_THREADS);
    comparison->n_runs = options->n_runs ? options->n_runs : RUNS;
    comparison->batch = options->batch;
    ZM_TRY(prepare(comparison, self, error));
    comparison->bandwidth = options->bandwidth;
    double *seconds = calloc(3 * (size_t)comparison->n_runs, sizeof *seconds);
    if (!seconds) return zm_fail_memory(error);
    zmlx_status status =
        measure(comparison, self, options->n_warmup ? options->n_warmup : WARMUP, seconds, error);
    free(seconds);
    ZM_TRY(status);
    comparison->ratio = comparison->baseline.median / comparison->candidate.median;
    if (!self->first_side) comparison->baseline_bandwidth = (double)comparison->bytes / comparison->baseline.median;
    comparison->candidate_bandwidth = (double)comparison->bytes / comparison->candidate.median;
    if (comparison->bandwidth > 0) {
        comparison->baseline_share = comparison->baseline_bandwidth / comparison->bandwidth;
        comparison->candidate_share = comparison->candidate_bandwidth / comparison->bandwidth;
    }
    return ZMLX_OK;
}

static zmlx_status run_contest(zmlx_comparison *comparison, contest *self, const zmlx_bench_options *options,
                               zmlx_error *error) {
    static const zmlx_bench_options defaults;
    if (!options) options = &defaults;
    if (options->probe_threads > 0 && options->probe_threads <= ZM_MAX_THREADS)
        ZM_TRY(zm_bandwidth_probe_new(&self->probe, options->probe_threads, ZM_BANDWIDTH_BYTES, error));
    zmlx_status status = run_probed(comparison, self, options, error);
    zm_bandwidth_probe_free(self->probe);
    return status;
}

zmlx_status zmlx_bench_compare(zmlx_comparison *comparison, mlx_closure baseline, mlx_closure candidate,
                               mlx_vector_array inputs, const zmlx_bench_options *options, zmlx_error *error) {
    contest both = {{baseline, candidate}, inputs, 0, NULL};
    zm_error_clear(error);
    return run_contest(comparison, &both, options, error);
}

/* Both sides of zmlx_bench_kernel. */
typedef struct subject {
    zmlx_kernel *kernel;
    const zmlx_kernel_numbers *numbers;
    zm_numbers host_numbers;
    mlx_stream stream;
    zmlx_error failure;
} subject;

static int take_inputs(mlx_array *arrays, const mlx_vector_array inputs, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (mlx_vector_array_get(&arrays[i], inputs, i)) return 1;
    return 0;
}

static void free_all(mlx_array *arrays, size_t count) {
    for (size_t i = 0; i < count; i++) mlx_array_free(arrays[i]);
}

static int apply_kernel(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zm_ir *ir = self->kernel->forward;
    mlx_array in[ZM_IR_MAX_INPUTS] = {{NULL}}, out[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    size_t n_inputs = (size_t)ir->n_inputs, n_outputs = (size_t)ir->n_outputs;
    int failed = take_inputs(in, inputs, n_inputs) ||
                 zmlx_kernel_apply_with(self->kernel, out, in, n_inputs, self->numbers, self->stream, &self->failure);
    if (!failed) {
        mlx_vector_array made = mlx_vector_array_new_data(out, n_outputs);
        failed = mlx_vector_array_set(results, made);
        mlx_vector_array_free(made);
    }
    free_all(in, n_inputs);
    free_all(out, n_outputs);
    return failed;
}

static int apply_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zm_ir *ir = self->kernel->forward;
    mlx_array in[ZM_IR_MAX_INPUTS] = {{NULL}}, out[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    int failed = take_inputs(in, inputs, (size_t)ir->n_inputs);
    zm_scope scope;
    zm_scope_begin(&scope, self->stream);
    if (!failed) zm_host_graph(&scope, out, self->kernel, in, &self->host_numbers);
    if (!failed && !zm_scope_failed(&scope)) {
        mlx_vector_array made = mlx_vector_array_new_data(out, (size_t)ir->n_outputs);
        failed = mlx_vector_array_set(results, made);
        mlx_vector_array_free(made);
    }
    failed |= zm_scope_end(&scope, &self->failure) != ZMLX_OK;
    free_all(in, (size_t)ir->n_inputs);
    return failed;
}

static zmlx_status check_shape(const int *shape, int n_dims, zmlx_error *error) {
    size_t size = 1;
    if (n_dims < 0 || n_dims > ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "shape", "expected at most %d dimensions, got %d", ZM_NODE_MAX_DIMS,
                       n_dims);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 1) return zm_fail(error, ZMLX_ERROR_ARGUMENT, "shape", "expected lengths above 0, got %d", shape[i]);
        if (size > PTRDIFF_MAX / sizeof(float) / (size_t)shape[i])
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, "shape", "is too large");
        size *= (size_t)shape[i];
    }
    return ZMLX_OK;
}

/* Between -2 and 2. */
static zmlx_status random_input(mlx_array *input, const int *shape, int n_dims, mlx_dtype dtype, uint64_t seed,
                                mlx_stream stream, zmlx_error *error) {
    size_t size = 1;
    for (int i = 0; i < n_dims; i++) size *= (size_t)shape[i];
    float *values = malloc((size + 1) * sizeof *values);
    if (!values) return zm_fail_memory(error);
    for (size_t i = 0; i < size; i++) values[i] = (float)(zm_splitmix64(seed, i) >> 40) * 0x1p-22f - 2;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, input, zm_astype(&scope, zm_from_data(&scope, values, shape, n_dims, MLX_FLOAT32), dtype));
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(*input)) status = zm_mlx_fail(error, "random input");
    free(values);
    return status;
}

zmlx_status zmlx_bench_kernel(zmlx_comparison *comparison, zmlx_kernel *kernel, const int *shape, int n_dims,
                              mlx_dtype dtype, const zmlx_kernel_numbers *numbers, zmlx_bench_baseline baseline,
                              mlx_stream stream, const zmlx_bench_options *options, zmlx_error *error) {
    subject self = {.kernel = kernel, .numbers = numbers, .stream = stream};
    mlx_array inputs[ZM_IR_MAX_INPUTS] = {{NULL}};
    size_t n_inputs = (size_t)kernel->forward->n_inputs;
    zm_error_clear(error);
    *comparison = (zmlx_comparison){0};
    ZM_TRY(check_shape(shape, n_dims, error));
    ZM_TRY(zm_numbers_from(&self.host_numbers, kernel, numbers, error));
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < n_inputs && !status; i++)
        status = random_input(&inputs[i], shape, n_dims, dtype, i, stream, error);
    if (!status) {
        mlx_vector_array arrays = mlx_vector_array_new_data(inputs, n_inputs);
        mlx_closure host = mlx_closure_new_func_payload(apply_host, &self, NULL), chosen = mlx_closure_new();
        mlx_closure candidate = mlx_closure_new_func_payload(apply_kernel, &self, NULL);
        bool compiled = baseline == ZMLX_BENCH_MLX_COMPILED;
        if (compiled && mlx_compile(&chosen, host, false)) status = zm_mlx_fail(error, "compile");
        contest sides = {{compiled ? chosen : host, candidate}, arrays, baseline == ZMLX_BENCH_NONE, NULL};
        if (!status) status = run_contest(comparison, &sides, options, error);
        if (status && self.failure.code) { /* what the function said, not that it failed */
            if (error) *error = self.failure;
            status = self.failure.code;
        }
        mlx_closure_free(chosen);
        mlx_closure_free(host);
        mlx_closure_free(candidate);
        mlx_vector_array_free(arrays);
    }
    free_all(inputs, n_inputs);
    return status;
}
