/* SPDX-License-Identifier: MIT */
/* With CUDA one kernel; elsewhere sums of MLX. */
#include "runtime/sum_rows.h"

#include <stdio.h>
#include <stdlib.h>

#include "runtime/cuda_text.h"

enum { THREADS = 1024, COLUMNS = 8, MAX_BLOCKS = 1 << 20 };

typedef struct sum_of_rows {
    mlx_dtype dtype;
} sum_of_rows;

static zmlx_status launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                          const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const sum_of_rows *self = state;
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    zm_cuda_code code;
    snprintf(definitions, sizeof definitions, "#define S %s\n", zm_cuda_storage(self->dtype));
    ZM_TRY(zm_cuda_code_get(&code, zm_cuda_sum_rows, definitions, error));
    int64_t blocks = (inputs[0].shape[1] - 1) / COLUMNS + 1;
    launch->name = "zm_sum_rows";
    launch->code = code.cubin;
    launch->code_size = code.size;
    launch->block = THREADS;
    launch->grid = THREADS * (blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
    launch->scalars[0] = (uint32_t)inputs[0].shape[0];
    launch->scalars[1] = (uint32_t)inputs[0].shape[1];
    launch->n_scalars = 2;
    return ZMLX_OK;
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)state, (void)argument_numbers, (void)n_arguments, (void)n_primals, (void)results, (void)n_results;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array each = zm_astype(&scope, cotangents[0], MLX_FLOAT32);
    zm_scope_keep(&scope, &gradients[0], zm_broadcast_to(&scope, each, mlx_array_shape(primals[0]), 2));
    return zm_scope_end(&scope, error);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)argument_numbers, (void)n_arguments, (void)primals, (void)n_primals;
    const sum_of_rows *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, &result_tangents[0], zm_sum_rows(&scope, tangents[0], self->dtype));
    return zm_scope_end(&scope, error);
}

static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_inputs;
    const sum_of_rows *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array sum = zm_sum(&scope, inputs[0], axes[0] == 0 ? 1 : 0, false);
    zm_scope_keep(&scope, &results[0], zm_astype(&scope, sum, self->dtype));
    result_axes[0] = axes[0] == 2 ? 1 : 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class sum_class = {
    .name = "zmlx.sum_rows", .launch_gpu = launch, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

/* A GPU adds up few columns of many rows one after the other: better in two steps. */
static mlx_array sum_in_steps(zm_scope *scope, mlx_array rows, mlx_dtype dtype) {
    enum { MANY = 256, FEW = 8 };
    int n_rows = zm_dim(rows, 0), n_steps = 1;
    for (int n = FEW; n_rows >= MANY && n * n <= n_rows; n++)
        if (n_rows % n == 0) n_steps = n;
    if (n_steps > 1) {
        int groups[] = {n_steps, n_rows / n_steps, zm_dim(rows, 1)};
        rows = zm_sum(scope, zm_reshape(scope, rows, groups, 3), 1, false);
    }
    return zm_astype(scope, zm_sum(scope, rows, 0, false), dtype);
}

mlx_array zm_sum_rows(zm_scope *scope, mlx_array rows, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return rows;
    if (!zm_scope_is_on_cuda(scope) || !mlx_array_size(rows)) return sum_in_steps(scope, rows, dtype);
    sum_of_rows *self = malloc(sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "sum_rows", "out of memory");
    *self = (sum_of_rows){dtype};
    zm_node_output spec = {.shape = {zm_dim(rows, 1)}, .n_dims = 1, .dtype = dtype};
    return zm_node(scope, &spec, &sum_class, self, (mlx_array[]){rows}, 1);
}
