/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/rows.h"

#include <stdio.h>
#include <stdlib.h>

#include "kernels/batch.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"

enum { GATHER_THREADS = 1024, SUM_THREADS = 256, WARP = 32, WARPS = 8, MOST_PARTS = 4, MAX_BLOCKS = 1 << 20 };

/* Elements of a vector: 16 bytes of the narrower type, where rows are whole ones; else one. */
static int vector_of(int columns, mlx_dtype dtype, bool is_aligned) {
    int vector = 16 / (int)zm_float_bytes(dtype);
    return is_aligned && columns % vector == 0 ? vector : 1;
}

/* n_parts: vectors of a lane. */
static zmlx_status set_code(zm_gpu_launch *launch, const char *name, mlx_dtype from, mlx_dtype to, int vector,
                            int n_parts, int threads, int64_t blocks, zmlx_error *error) {
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    zm_cuda_code code;
    snprintf(definitions, sizeof definitions, "#define S %s\n#define O %s\n#define V %d\n#define P %d\n",
             zm_cuda_storage(from), zm_cuda_storage(to), vector, n_parts);
    ZM_TRY(zm_cuda_code_get(&code, zm_cuda_rows, definitions, error));
    launch->name = name;
    launch->code = code.cubin;
    launch->code_size = code.size;
    launch->block = threads;
    launch->grid = threads * (blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
    return ZMLX_OK;
}

zmlx_status zm_cuda_launch_gather_add(zm_gpu_launch *launch, const zm_view *inputs, int n_rows, int columns,
                                      mlx_dtype dtype, zmlx_error *error) {
    bool is_aligned = inputs[0].offset % 16 == 0 && inputs[2].offset % 16 == 0;
    int vector = vector_of(columns, dtype, is_aligned);
    int64_t count = (int64_t)inputs[2].size / vector;
    int64_t blocks = (count - 1) / GATHER_THREADS + 1;
    ZM_TRY(set_code(launch, "zm_gather_add", dtype, dtype, vector, MOST_PARTS, GATHER_THREADS, blocks, error));
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
    int n_parts = 1;
    while (n_parts < MOST_PARTS && n_parts * WARP * vector < self->columns) n_parts *= 2;
    int64_t warps = (self->columns / vector - 1) / (WARP * n_parts) + 1, blocks = (self->n * warps - 1) / WARPS + 1;
    ZM_TRY(set_code(launch, "zm_add_rows", self->from, self->to, vector, n_parts, SUM_THREADS, blocks, error));
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

static mlx_array apply(zm_scope *scope, const sums *self, mlx_array keys, mlx_array updates, mlx_array indices);

/* Keys and indices have no tangent. */
static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_primals;
    const sums *self = state;
    mlx_array made = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++)
        if (argument_numbers[i] == 1) made = apply(&scope, self, primals[0], tangents[i], primals[2]);
    if (!made.ctx) made = zm_zeros(&scope, (const int[]){self->n, self->columns}, 2, self->to);
    zm_scope_keep(&scope, &result_tangents[0], made);
    return zm_scope_end(&scope, error);
}

/* The rows of all sums of a batch behind each other; keys anew. */
static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results;
    const sums *self = state;
    int batch = 0;
    for (int i = 0; i < n_inputs; i++)
        if (axes[i] >= 0) batch = mlx_array_dim(inputs[i], axes[i]);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    if ((int64_t)batch * self->n >= INT32_MAX || (int64_t)batch * self->n_updates >= INT32_MAX)
        zm_scope_fail(&scope, ZMLX_ERROR_UNSUPPORTED, "add_rows",
                      "a batch of %d times %d rows or %d updates is too large", batch, self->n, self->n_updates);
    mlx_array updates = zm_batch_first(&scope, inputs[1], axes[1], batch);
    mlx_array indices = zm_batch_first(&scope, inputs[2], axes[2], batch);
    if (!zm_scope_failed(&scope)) {
        indices = zm_index_in_batch(&scope, indices, batch, self->n);
        updates = zm_reshape2(&scope, updates, batch * self->n_updates, self->columns);
        mlx_array sum = zm_cuda_add_rows(&scope, indices, updates, batch * self->n, self->to);
        const int shape[] = {batch, self->n, self->columns};
        zm_scope_keep(&scope, &results[0], zm_reshape(&scope, sum, shape, 3));
    }
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class sums_class = {
    .name = "zmlx.add_rows", .launch_gpu = launch_sums, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

static mlx_array apply(zm_scope *scope, const sums *self, mlx_array keys, mlx_array updates, mlx_array indices) {
    if (zm_scope_failed(scope)) return updates;
    sums *state = malloc(sizeof *state);
    if (!state) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "add_rows", "out of memory");
    *state = *self;
    zm_node_output spec = {.shape = {self->n, self->columns}, .n_dims = 2, .dtype = self->to};
    return zm_node(scope, &spec, &sums_class, state, (mlx_array[]){keys, updates, indices}, 3);
}

mlx_array zm_cuda_add_rows(zm_scope *scope, mlx_array indices, mlx_array updates, int n, mlx_dtype dtype) {
    if (zm_scope_failed(scope)) return updates;
    int shape[] = {n, zm_dim(updates, 1)};
    if (!mlx_array_size(updates) || !n) return zm_zeros(scope, shape, 2, dtype);
    const sums self = {n, shape[1], zm_dim(indices, 0), mlx_array_dtype(updates), dtype};
    /* All different, so any sort keeps their order. */
    mlx_array keys = zm_multiply(scope, zm_astype(scope, indices, MLX_UINT64), zm_scalar(scope, 0x1p32, MLX_UINT64));
    keys = zm_sort(scope, zm_add(scope, keys, zm_arange(scope, 0, self.n_updates, 1, MLX_UINT64)), 0);
    return apply(scope, &self, keys, updates, indices);
}
