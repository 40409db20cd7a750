/* SPDX-License-Identifier: MIT */
/* What prompt.c asks of MLX: its nodes run at once, from both libraries. What is not decode's text, but for the plan of
 * a mixture's tiles, leaves its results as they were made: random. */
#include <stdlib.h>
#include <string.h>

#include "host.h"
#include "mlx/scope.h"

enum { MOST_ARRAYS = 16 };

/* zm_plan of around.cuh. */
static void plan(const mlx_array *arrays, const uint32_t *words) {
    const uint32_t *chosen = (const uint32_t *)(void *)((host_array *)arrays[0].ctx)->data;
    uint32_t *order = (uint32_t *)(void *)((host_array *)arrays[1].ctx)->data, n = 0, n_tiles = 0;
    uint32_t(*tiles)[4] = (uint32_t(*)[4])(void *)((host_array *)arrays[2].ctx)->data;
    uint32_t n_chosen = words[0], n_experts = words[1], tile_rows = words[2];
    memset(tiles, 0, words[3] * sizeof *tiles);
    for (uint32_t expert = 0; expert < n_experts; expert++) {
        uint32_t first = n;
        for (uint32_t i = 0; i < n_chosen; i++)
            if (chosen[i] == expert || (chosen[i] >= n_experts && expert == n_experts - 1)) order[n++] = i;
        for (uint32_t at = first; at < n; at += tile_rows) {
            uint32_t count = n - at < tile_rows ? n - at : tile_rows;
            memcpy(tiles[n_tiles++], (const uint32_t[4]){expert, at, count, 0}, sizeof *tiles);
        }
    }
}

static mlx_array new_output(const zm_node_output *spec) {
    size_t n = 1;
    for (int i = 0; i < spec->n_dims; i++) n *= (size_t)spec->shape[i];
    size_t n_halves = spec->dtype == MLX_UINT32 ? 2 * n : n;
    mlx_array made = host_halves(n_halves, HOST_USUAL);
    ((host_array *)made.ctx)->dtype = spec->dtype;
    int columns = spec->shape[spec->n_dims - 1];
    return host_shape(made, (int)(n / (size_t)columns), columns);
}

zmlx_status zm_node_apply(mlx_array *outputs, const zm_node_output *specs, int n_outputs,
                          const zm_node_class *node_class, void *state, const mlx_array *inputs, int n_inputs,
                          mlx_stream stream, zmlx_error *error) {
    (void)stream;
    zm_view views[MOST_ARRAYS] = {{0}};
    mlx_array arrays[MOST_ARRAYS];
    zm_gpu_launch own = {0};
    zmlx_status status = node_class->launch_gpu(state, &own, views, n_inputs, views, n_outputs, error);
    memcpy(arrays, inputs, (size_t)n_inputs * sizeof *inputs);
    for (int i = 0; i < n_outputs; i++) arrays[n_inputs + i] = outputs[i] = new_output(&specs[i]);
    host_launch launch = {.grid = (unsigned)(own.grid / own.block),
                          .block = (unsigned)own.block,
                          .shared_bytes = (unsigned)own.shared_bytes};
    static const char *const ran[] = {"zm_tiled", "zm_few", "zm_route", "zm_sorted"};
    for (size_t i = 0; i < sizeof ran / sizeof *ran; i++)
        if (!status && !strcmp(own.name, ran[i]))
            host_launch_kernel(own.code, own.name, &launch, arrays, n_inputs + n_outputs, n_outputs, own.scalars,
                               own.n_scalars);
    if (!status && !strcmp(own.name, "zm_plan")) plan(arrays, own.scalars);
    node_class->free_state(state);
    return status;
}

int zm_dim(mlx_array array, int axis) {
    const host_array *own = array.ctx;
    return own->shape[axis < 0 ? own->n_dims + axis : axis];
}
size_t mlx_array_size(const mlx_array array) {
    const host_array *own = array.ctx;
    size_t n = 1;
    for (int i = 0; i < own->n_dims; i++) n *= (size_t)own->shape[i];
    return n;
}
size_t mlx_array_ndim(const mlx_array array) { return (size_t)((const host_array *)array.ctx)->n_dims; }
const int *mlx_array_shape(const mlx_array array) { return ((const host_array *)array.ctx)->shape; }
mlx_array zm_scope_own(zm_scope *scope, mlx_array array) {
    (void)scope;
    return array;
}
mlx_array zm_add(zm_scope *scope, mlx_array a, mlx_array b) {
    (void)scope, (void)b;
    return a;
}
