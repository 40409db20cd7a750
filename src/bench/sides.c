/* SPDX-License-Identifier: MIT */
#include "bench/sides.h"

#include <limits.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/random.h"
#include "mlx/scope.h"
#include "mlx/streams.h"
#include "runtime/shape.h"

int zm_sides_take(mlx_array *arrays, const mlx_vector_array from, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (mlx_vector_array_get(&arrays[i], from, i)) return 1;
    return 0;
}

void zm_sides_free(mlx_array *arrays, size_t count) {
    for (size_t i = 0; i < count; i++) mlx_array_free(arrays[i]);
}

int zm_sides_give(mlx_vector_array *results, const mlx_array *arrays, size_t count) {
    mlx_vector_array made = mlx_vector_array_new();
    int failed = 0;
    for (size_t i = 0; i < count && !failed; i++)
        if (arrays[i].ctx) failed = mlx_vector_array_append_value(made, arrays[i]);
    if (!failed) failed = mlx_vector_array_set(results, made);
    mlx_vector_array_free(made);
    return failed;
}

static zmlx_status check_memory(double bytes, mlx_stream stream, zmlx_error *error) {
    double limit;
    ZM_TRY(zm_device_memory(&limit, stream, error));
    if (bytes <= limit) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, "shape",
                   "inputs and a result of %.1f GB are more than the %.1f GB of memory that can be used", 1e-9 * bytes,
                   1e-9 * limit);
}

zmlx_status zm_sides_check_shape(double *bytes, size_t count, const char *name, const int *shape, int n_dims,
                                 mlx_dtype dtype, mlx_stream stream, zmlx_error *error) {
    zm_storage storage;
    double each = zm_storage_from_dtype(&storage, dtype) ? zm_storage_bytes(storage) : 1;
    if (n_dims < 0 || n_dims > ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "expected at most %d dimensions, got %d", ZM_NODE_MAX_DIMS,
                       n_dims);
    if (n_dims && !shape) return zm_fail_null(error, name);
    for (int i = 0; i < n_dims; i++) {
        if (shape[i] < 1)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "expected lengths above 0, got %d", shape[i]);
        each *= shape[i];
    }
    *bytes += (double)count * each;
    return check_memory(*bytes + each, stream, error);
}

/* As many of the numbers as it takes, again and again; size: at most INT_MAX. */
static mlx_array fill(zm_scope *scope, mlx_array numbers, int size) {
    if (zm_scope_failed(scope)) return numbers; /* there are none to divide by */
    int count = zm_dim(numbers, 0), times = size / count, table[] = {times, count};
    mlx_array whole = numbers, rest = zm_slice_axis(scope, numbers, 0, 0, size % count, 1);
    if (times != 1) whole = zm_flatten(scope, zm_broadcast_to(scope, numbers, table, 2), 0, 1);
    return size % count ? zm_concatenate(scope, whole, rest, 0) : whole;
}

mlx_array zm_sides_repeat(zm_scope *scope, mlx_array numbers, const int *shape, int n_dims) {
    int64_t size = 1; /* of the last dimensions, from first on: a dimension of an array is an int */
    int first = n_dims;
    while (first && size * shape[first - 1] <= INT_MAX) size *= shape[--first];
    mlx_array block = zm_reshape(scope, fill(scope, numbers, (int)size), shape + first, n_dims - first);
    return zm_contiguous(scope, zm_broadcast_to(scope, block, shape, n_dims));
}

zmlx_status zm_sides_random(mlx_array *array, const int *shape, int n_dims, mlx_dtype dtype, int64_t bound,
                            uint64_t seed, mlx_stream stream, zmlx_error *error) {
    enum { DIFFERENT = 1 << 22 }; /* that many suffice, and a large array is there sooner */
    size_t size = 1;
    for (int i = 0; i < n_dims; i++) size *= (size_t)shape[i];
    size_t n_numbers = size < DIFFERENT ? size : DIFFERENT;
    float *values = malloc((n_numbers + 1) * sizeof *values);
    if (!values) return zm_fail_memory(error);
    for (size_t i = 0; i < n_numbers; i++) {
        uint64_t word = zm_splitmix64(seed, i);
        values[i] = bound > 0 ? (float)(word % (uint64_t)bound) : (float)(word >> 40) * 0x1p-22f - 2;
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array numbers = zm_from_data(&scope, values, (int[]){(int)n_numbers}, 1, MLX_FLOAT32);
    zm_scope_keep(&scope, array, zm_sides_repeat(&scope, zm_astype(&scope, numbers, dtype), shape, n_dims));
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(*array)) status = zm_mlx_fail(error, "random input");
    free(values);
    return status;
}

int zm_sides_sets(mlx_stream stream) {
    const zm_scope where = {.stream = stream};
    return zm_scope_is_on_cpu(&where) ? 1 : ZM_CONTEST_SETS;
}

zmlx_status zm_sides_run(zmlx_comparison *comparison, zm_side *host, zm_side *candidate, void *context,
                         zmlx_bench_baseline baseline, const mlx_array *inputs, size_t n_inputs, mlx_stream stream,
                         const zmlx_bench_options *options, const zmlx_error *failure, zmlx_error *error) {
    if ((int)baseline < 0 || baseline > ZMLX_BENCH_NONE)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "baseline", "%d is none", (int)baseline);
    zmlx_status status = ZMLX_OK;
    mlx_closure plain = mlx_closure_new_func_payload(host, context, NULL), compiled = mlx_closure_new();
    mlx_closure kernel = mlx_closure_new_func_payload(candidate, context, NULL);
    bool compiles = baseline == ZMLX_BENCH_MLX_COMPILED;
    if (compiles && mlx_compile(&compiled, plain, false)) status = zm_mlx_fail(error, "compile");
    zm_contest sides = {.sides = {compiles ? compiled : plain, kernel},
                        .n_sets = zm_sides_sets(stream),
                        .first_side = baseline == ZMLX_BENCH_NONE,
                        .stream = stream};
    for (int i = 0; i < sides.n_sets; i++)
        sides.inputs[i] = mlx_vector_array_new_data(inputs + (size_t)i * n_inputs, n_inputs);
    mlx_stream before = zm_default_stream_begin(stream);
    if (!status) status = zm_contest_run(comparison, &sides, options, error);
    zm_default_stream_end(before);
    if (status && failure->code) { /* what the function said, not that it failed */
        if (error) *error = *failure;
        status = failure->code;
    }
    mlx_closure_free(compiled);
    mlx_closure_free(plain);
    mlx_closure_free(kernel);
    for (int i = 0; i < sides.n_sets; i++) mlx_vector_array_free(sides.inputs[i]);
    return status;
}
