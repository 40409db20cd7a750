/* SPDX-License-Identifier: MIT */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/threads.h"
#include "bench/contest.h"
#include "bench/timing.h"
#include "mlx/scope.h"
#include "runtime/cache.h"
#include "zmlx/system.h"

enum { WARMUP = 3, RUNS = 15, MAX_RUNS = 10000, MAX_BATCH = 64, MOST_GROUPS = 8 };
static const double batch_seconds = 0.02;

/* Puts count applications together. */
static int apply(mlx_vector_array all, mlx_closure function, const zm_contest *self, int count) {
    mlx_vector_array results = mlx_vector_array_new();
    int failed = 0;
    for (int i = 0; i < count && !failed; i++) {
        failed = mlx_closure_apply(&results, function, self->inputs[i % self->n_sets]);
        for (size_t j = 0; !failed && j < mlx_vector_array_size(results); j++) {
            mlx_array result = mlx_array_new();
            failed = mlx_vector_array_get(&result, results, j) || mlx_vector_array_append_value(all, result);
            mlx_array_free(result);
        }
    }
    mlx_vector_array_free(results);
    return failed;
}

static bool is_on_gpu(mlx_stream stream) {
    mlx_device device = mlx_device_new();
    mlx_device_type type = MLX_CPU;
    bool found = stream.ctx && !mlx_stream_get_device(&device, stream) && !mlx_device_get_type(&type, device);
    mlx_device_free(device);
    return found && type == MLX_GPU;
}

zmlx_status zm_device_memory(double *bytes, mlx_stream stream, zmlx_error *error) {
    zmlx_system_info info;
    ZM_TRY(zmlx_system_get_info(&info, error));
    uint64_t memory = is_on_gpu(stream) && info.gpu_memory_bytes ? info.gpu_memory_bytes : info.memory_bytes;
    *bytes = memory ? (double)memory : (double)PTRDIFF_MAX; /* unknown */
    return ZMLX_OK;
}

/* On a GPU: groups of applications, of which one is put together and submitted while the one before runs. Timed is the
 * pace that a loop of steps has: from the end of the first group to that of the last but one, each as seen once the
 * next is submitted, so that it makes no difference which of host and GPU is the slower. The wait for an array sleeps,
 * and wakes up while the next group runs. */
static int time_groups(double *seconds, mlx_closure function, const zm_contest *self, int batch) {
    int n_groups = batch < MOST_GROUPS ? batch : MOST_GROUPS, n_timed = 0, failed = 0;
    double begin = zm_clock_seconds(), end = begin;
    mlx_vector_array before = mlx_vector_array_new();
    for (int group = 0; group < n_groups && !failed; group++) {
        int count = (group + 1) * batch / n_groups - group * batch / n_groups;
        mlx_vector_array results = mlx_vector_array_new();
        failed = apply(results, function, self, count) || mlx_async_eval(results) || mlx_eval(before);
        mlx_vector_array_free(before);
        before = results;
        end = zm_clock_seconds();
        if (group == 1) begin = end;
        if (group > 0 && group + 1 < n_groups) n_timed += count;
    }
    failed = failed || mlx_synchronize(self->stream);
    mlx_vector_array_free(before);
    *seconds = (end - begin) / n_timed;
    return failed;
}

static int time_batch(double *seconds, mlx_closure function, const zm_contest *self, int batch) {
    mlx_vector_array results = mlx_vector_array_new();
    double begin = zm_clock_seconds();
    int failed = apply(results, function, self, batch);
    if (!failed && self->stream.ctx)
        failed = mlx_async_eval(results) || mlx_synchronize(self->stream);
    else if (!failed)
        failed = mlx_eval(results);
    *seconds = (zm_clock_seconds() - begin) / batch;
    mlx_vector_array_free(results);
    return failed;
}

static zmlx_status time_run(double *seconds, mlx_closure function, const zm_contest *self, int batch,
                            zmlx_error *error) {
    bool in_groups = is_on_gpu(self->stream) && batch > 2;
    int failed = (in_groups ? time_groups : time_batch)(seconds, function, self, batch);
    return failed ? zm_mlx_fail(error, "benchmark") : ZMLX_OK;
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

/* seconds: of the runs of each side; then what the probe gave after each. */
static zmlx_status measure(zmlx_comparison *comparison, const zm_contest *self, int n_warmup, double *seconds,
                           zmlx_error *error) {
    int n_runs = comparison->n_runs;
    double *rates = seconds + 2 * (size_t)n_runs;
    for (int run = -n_warmup; run < n_runs; run++) {
        for (int side = self->first_side; side < 2; side++) {
            double taken;
            ZM_TRY(time_run(&taken, self->sides[side], self, comparison->batch, error));
            if (run >= 0) seconds[side * n_runs + run] = taken;
        }
        if (run >= 0 && self->probe) ZM_TRY(zm_bandwidth_probe_pass(&rates[run], self->probe, error));
    }
    if (!self->first_side) comparison->baseline = zm_timing_of(seconds, n_runs);
    comparison->candidate = zm_timing_of(seconds + n_runs, n_runs);
    if (self->probe) comparison->bandwidth = zm_timing_of(rates, n_runs).median;
    return ZMLX_OK;
}

/* The results of a run, of two groups of it on a GPU, are there at the same time. */
static zmlx_status check_batch(const zm_contest *self, int batch, double result_bytes, zmlx_error *error) {
    double limit, input_bytes = 0;
    int n_held = is_on_gpu(self->stream) && batch > 2 ? 2 * ((batch - 1) / MOST_GROUPS + 1) : batch;
    if (!self->stream.ctx) return ZMLX_OK; /* wherever they are */
    for (int i = 0; i < self->n_sets; i++) input_bytes += (double)bytes_of(self->inputs[i]);
    ZM_TRY(zm_device_memory(&limit, self->stream, error));
    if (input_bytes + n_held * result_bytes <= limit) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, "batch",
                   "results of %.1f GB, %d of them at once, are more than the %.1f GB of memory that can be used",
                   1e-9 * result_bytes, n_held, 1e-9 * limit);
}

/* The first application of each side: compiles, and tells bytes and a batch. */
static zmlx_status prepare(zmlx_comparison *comparison, const zm_contest *self, zmlx_error *error) {
    mlx_vector_array results = mlx_vector_array_new();
    int failed = 0;
    for (int i = 0; i < self->n_sets; i++) failed = failed || mlx_eval(self->inputs[i]);
    uint64_t compiled = zm_cache_get_counts().compiled;
    double begin = zm_clock_seconds();
    if (failed || mlx_closure_apply(&results, self->sides[1], self->inputs[0]) || mlx_eval(results)) {
        mlx_vector_array_free(results);
        return zm_mlx_fail(error, "benchmark");
    }
    comparison->first_use = zm_clock_seconds() - begin;
    comparison->first_compiled = zm_cache_get_counts().compiled > compiled;
    uint64_t result_bytes = bytes_of(results);
    comparison->bytes = bytes_of(self->inputs[0]) + result_bytes;
    mlx_vector_array_free(results);
    ZM_TRY(check_batch(self, comparison->batch, (double)result_bytes, error));
    double slower = 0;
    for (int side = self->first_side; side < 2; side++) {
        double seconds;
        ZM_TRY(time_run(&seconds, self->sides[side], self, 1, error));
        ZM_TRY(time_run(&seconds, self->sides[side], self, 1, error));
        if (seconds > slower) slower = seconds;
    }
    if (comparison->batch) return ZMLX_OK;
    double batch = batch_seconds / slower;
    comparison->batch = batch < 1 ? 1 : batch > MAX_BATCH ? MAX_BATCH : (int)batch;
    return ZMLX_OK;
}

static zmlx_status run_probed(zmlx_comparison *comparison, const zm_contest *self, const zmlx_bench_options *options,
                              zmlx_error *error) {
    if (options->n_runs < 0 || options->n_runs > MAX_RUNS || options->n_warmup < 0 || options->n_warmup > MAX_RUNS ||
        options->batch < 0 || options->batch > MAX_RUNS || options->probe_threads < 0 ||
        options->probe_threads > ZM_MAX_THREADS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "options",
                       "expected at most %d runs and applications, %d threads and no negative number", MAX_RUNS,
                       ZM_MAX_THREADS);
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

zmlx_status zm_contest_run(zmlx_comparison *comparison, zm_contest *self, const zmlx_bench_options *options,
                           zmlx_error *error) {
    static const zmlx_bench_options defaults;
    *comparison = (zmlx_comparison){0};
    if (!options) options = &defaults;
    if (options->probe_threads > 0 && options->probe_threads <= ZM_MAX_THREADS)
        ZM_TRY(zm_bandwidth_probe_new(&self->probe, options->probe_threads, ZM_BANDWIDTH_BYTES, error));
    zmlx_status status = run_probed(comparison, self, options, error);
    zm_bandwidth_probe_free(self->probe);
    if (status) *comparison = (zmlx_comparison){0};
    return status;
}

zmlx_status zmlx_bench_compare(zmlx_comparison *comparison, mlx_closure baseline, mlx_closure candidate,
                               mlx_vector_array inputs, const zmlx_bench_options *options, zmlx_error *error) {
    zm_contest both = {.sides = {baseline, candidate}, .inputs = {inputs}, .n_sets = 1};
    zm_error_clear(error);
    return zm_contest_run(comparison, &both, options, error);
}
