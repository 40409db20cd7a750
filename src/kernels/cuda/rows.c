/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/rows.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/cuda/text.h"
#include "runtime/shape.h"

enum { THREADS = 256, STEPS = 2, WARP = 32, WARPS = 8, MAX_BLOCKS = 1 << 20 };

/* Elements of a vector: 16 bytes of the narrower type, where rows are whole ones; else one. */
static int vector_of(int columns, mlx_dtype dtype, bool is_aligned) {
    int vector = 16 / (int)zm_float_bytes(dtype);
    return is_aligned && columns % vector == 0 ? vector : 1;
}

static zmlx_status set_code(zm_gpu_launch *launch, const char *name, mlx_dtype from, mlx_dtype to, int vector,
                            int64_t blocks, zmlx_error *error) {
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    zm_cuda_code code;
    snprintf(definitions, sizeof definitions, "#define S %s\n#define O %s\n#define V %d\n", zm_cuda_storage(from),
             zm_cuda_storage(to), vector);
    ZM_TRY(zm_cuda_code_get(&code, zm_cuda_rows, definitions, error));
    launch->name = name;
    launch->code = code.cubin;
    launch->code_size = code.size;
    launch->block = THREADS;
    launch->grid = THREADS * (blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
    return ZMLX_OK;
}

zmlx_status zm_cuda_launch_gather_add(zm_gpu_launch *launch, const zm_view *inputs, int n_rows, int columns,
                                      mlx_dtype dtype, zmlx_error *error) {
    bool is_aligned = inputs[0].offset % 16 == 0 && inputs[2].offset % 16 == 0;
    int vector = vector_of(columns, dtype, is_aligned);
    int64_t count = (int64_t)inputs[2].size / vector;
    ZM_TRY(set_code(launch, "zm_gather_add", dtype, dtype, vector, (count - 1) / (THREADS * STEPS) + 1, error));
    launch->scalars[0] = (uint32_t)n_rows;
    launch->scalars[1] = (uint32_t)(columns / vector);
    launch->scalars[2] = (uint32_t)count;
    launch->scalars[3] = (uint32_t)(count >> 32);
    launch->n_scalars = 4;
    return ZMLX_OK;
}

typedef struct sums {
    int n, columns, n_updates;
    mlx_dtype from, to;
} sums;

static zmlx_status launch_sums(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                               const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const sums *self = state;
    mlx_dtype narrower = zm_float_bytes(self->from) < zm_float_bytes(self->to) ? self->from : self->to;
    int vector = vector_of(self->columns, narrower, inputs[1].offset % 16 == 0);
    int64_t parts = (self->columns / vector - 1) / WARP + 1, blocks = (self->n * parts - 1) / WARPS + 1;
    ZM_TRY(set_code(launch, "zm_add_rows", self->from, self->to, vector, blocks, error));
    launch->scalars[0] = (uint32_t)self->n_updates;
    launch->scalars[1] = (uint32_t)self->n;
    launch->scalars[2] = (uint32_t)(self->columns / vector);
    launch->n_scalars = 3;
    return ZMLX_OK;
}

/* Each update has the cotangent of its row; one that was not added, zero. Inputs: keys, updates, indices. */
static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    const sums *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array last = zm_scalar(&scope, self->n - 1, MLX_UINT32), n = zm_scalar(&scope, self->n, MLX_UINT32);
    mlx_array rows = zm_take(&scope, cotangents[0], zm_minimum(&scope, primals[2], last), 0);
    mlx_array is_inside = zm_expand_dims(&scope, zm_less(&scope, primals[2], n), 1);
    rows = zm_where(&scope, is_inside, rows, zm_scalar_like(&scope, 0, rows));
    for (int i = 0; i < n_arguments; i++)
        zm_scope_keep(&scope, &gradients[i],
                      argument_numbers[i] == 1 ? zm_astype(&scope, rows, self->from) : primals[argument_numbers[i]]);
    return zm_scope_end(&scope, error);
}

static const zm_node_class sums_class = {.name = "zmlx.add_rows",
                                         .launch_gpu = launch_sums,
                                         .vjp = vjp,
                                         .free_state = free};

mlx_array zm_cuda_add_rows(zm_scope *scope, mlx_array indices, mlx_array updates, int n, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return updates;
    int shape[] = {n, zm_dim(updates, 1)};
    if (!mlx_array_size(updates) || !n) return zm_zeros(scope, shape, 2, dtype);
    sums *self = malloc(sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "add_rows", "out of memory");
    *self = (sums){n, shape[1], zm_dim(indices, 0), mlx_array_dtype(updates), dtype};
    /* All different, so any sort keeps their order. */
    mlx_array keys = zm_multiply(scope, zm_astype(scope, indices, MLX_UINT64), zm_scalar(scope, 0x1p32, MLX_UINT64));
    keys = zm_sort(scope, zm_add(scope, keys, zm_arange(scope, 0, self->n_updates, 1, MLX_UINT64)), 0);
    zm_node_output spec = {.shape = {shape[0], shape[1]}, .n_dims = 2, .dtype = dtype};
    return zm_node(scope, &spec, &sums_class, self, (mlx_array[]){keys, updates, indices}, 3);
}
