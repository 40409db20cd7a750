/* SPDX-License-Identifier: MIT */
/* Arrays of a kernel's test, in float64 and in MLX. */
#include <string.h>

#include "base/half.h"
#include "base/random.h"
#include "mlx/scope.h"
#include "validate/kernel_test.h"

void zm_test_range(double range[2], const zmlx_test_options *options, size_t input) {
    static const double usual[2] = {-2, 2};
    memcpy(range, options->ranges ? options->ranges[input] : usual, sizeof usual);
}

static zmlx_status new_values(zmlx_test_array *values, zm_arena *arena, const int *shape, int n_dims,
                              zmlx_error *error) {
    size_t size = 1;
    for (int i = 0; i < n_dims; i++) size *= (size_t)shape[i];
    int *dims = zm_arena_alloc(arena, (size_t)n_dims + 1, sizeof *dims);
    *values = (zmlx_test_array){.values = zm_arena_alloc(arena, size + 1, sizeof *values->values), .size = size,
                                .shape = dims, .n_dims = n_dims};
    if (!dims || !values->values) return zm_fail_memory(error);
    if (n_dims) memcpy(dims, shape, (size_t)n_dims * sizeof *dims);
    return ZMLX_OK;
}

zmlx_status zm_test_zeros(zmlx_test_array *values, zm_arena *arena, const zmlx_test_array *like, zmlx_error *error) {
    return new_values(values, arena, like->shape, like->n_dims, error);
}

/* Stores number i of data, of dtype, and returns what was stored. */
static double store(void *data, size_t i, double number, mlx_dtype dtype) {
    float value = (float)number;
    uint16_t half;
    if (dtype == MLX_FLOAT32) {
        ((float *)data)[i] = value;
        return (double)value;
    }
    half = dtype == MLX_FLOAT16 ? zm_float16_from_float(value) : zm_bfloat16_from_float(value);
    ((uint16_t *)data)[i] = half;
    return (double)(dtype == MLX_FLOAT16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half));
}

zmlx_status zm_test_random(zmlx_test_array *values, mlx_array *stored, zm_arena *arena, const int *shape, int n_dims,
                           mlx_dtype dtype, const double range[2], uint64_t seed, zmlx_error *error) {
    ZM_TRY(new_values(values, arena, shape, n_dims, error));
    void *data = zm_arena_alloc(arena, values->size + 1, dtype == MLX_FLOAT32 ? 4 : 2);
    if (!data) return zm_fail_memory(error);
    for (size_t i = 0; i < values->size; i++) {
        double unit = (double)(zm_splitmix64(seed, i) >> 11) * 0x1p-53;
        values->values[i] = store(data, i, range[0] + (range[1] - range[0]) * unit, dtype);
    }
    *stored = mlx_array_new_data(data, shape, n_dims, dtype);
    return zm_is_set(*stored) ? ZMLX_OK : zm_mlx_fail(error, "random input");
}

zmlx_status zm_test_read(zmlx_test_array *values, zm_arena *arena, mlx_array array, mlx_stream stream,
                         zmlx_error *error) {
    bool wide = mlx_array_dtype(array) == MLX_FLOAT64;
    mlx_array plain = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, &plain, zm_contiguous(&scope, wide ? array : zm_astype(&scope, array, MLX_FLOAT32)));
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(plain)) status = zm_mlx_fail(error, "evaluation");
    if (!status) status = new_values(values, arena, mlx_array_shape(plain), (int)mlx_array_ndim(plain), error);
    if (!status && values->size && wide)
        memcpy(values->values, mlx_array_data_float64(plain), values->size * sizeof *values->values);
    if (!status && values->size && !wide) {
        const float *numbers = mlx_array_data_float32(plain);
        for (size_t i = 0; i < values->size; i++) values->values[i] = (double)numbers[i];
    }
    mlx_array_free(plain);
    return status;
}
