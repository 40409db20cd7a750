/* SPDX-License-Identifier: MIT */
/* What the comparisons of kernels share: their two functions of arrays, and random arrays. */
#ifndef ZM_BENCH_SIDES_H
#define ZM_BENCH_SIDES_H

#include <stdbool.h>

#include "bench/contest.h"
#include "mlx/scope.h"

/* Copies of the first count arrays of a vector; the caller frees them, also on failure. */
int zm_sides_take(mlx_array *arrays, const mlx_vector_array from, size_t count);
void zm_sides_free(mlx_array *arrays, size_t count);
/* Sets results to the arrays that are not empty. */
int zm_sides_give(mlx_vector_array *results, const mlx_array *arrays, size_t count);

/* Of count inputs that can be made: up to 8 dimensions, none of them empty, and the device's memory has room for them,
 * for the *bytes of those before them, to which they are added, and for one more, as something comes of them. name
 * stands in errors of its dimensions. */
zmlx_status zm_sides_check_shape(double *bytes, size_t count, const char *name, const int *shape, int n_dims,
                                 mlx_dtype dtype, mlx_stream stream, zmlx_error *error);
/* The 1-d array again and again, in an array of this shape; past INT_MAX elements, equal along the first axes. */
mlx_array zm_sides_repeat(zm_scope *scope, mlx_array numbers, const int *shape, int n_dims);
/* Between -2 and 2; where bound is above 0, whole numbers below it. */
zmlx_status zm_sides_random(mlx_array *array, const int *shape, int n_dims, mlx_dtype dtype, int64_t bound,
                            uint64_t seed, mlx_stream stream, zmlx_error *error);

typedef int zm_side(mlx_vector_array *results, const mlx_vector_array inputs, void *context);

/* How many sets of inputs a comparison on this stream takes in turn. */
int zm_sides_sets(mlx_stream stream);

/* Times candidate against host, or compiled host, or nothing. inputs: n_inputs of each set, one set behind the other.
 * failure: what the functions keep of their first one. */
zmlx_status zm_sides_run(zmlx_comparison *comparison, zm_side *host, zm_side *candidate, void *context,
                         zmlx_bench_baseline baseline, const mlx_array *inputs, size_t n_inputs, mlx_stream stream,
                         const zmlx_bench_options *options, const zmlx_error *failure, zmlx_error *error);

#endif
