/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/topk.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/select.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"

/* As in topk.cuh. */
enum {
    THREADS = 256,
    ROWS_OF_BLOCK = 8,
    MAX_ITEMS = 32,
    MIN_ITEMS = 4,
    SEGMENT = 8192,
    COLUMNS_OF_WARP = 2048,
    MAX_BLOCKS = 1 << 20
};

typedef struct topk {
    int k, columns;
    mlx_dtype dtype, result; /* of x and of what comes out */
    bool gates;
} topk;

/* Elements of a vector, where rows are whole ones and begin at a multiple of it. */
static int vector_of(const topk *self, int items, size_t offset) {
    int bytes = (int)zm_float_bytes(self->dtype), vector = 16 / bytes < items ? 16 / bytes : items;
    bool is_whole = self->columns % vector == 0 && offset % (size_t)(vector * bytes) == 0;
    return is_whole ? vector : 1;
}

static zmlx_status set_code(zm_gpu_launch *launch, const topk *self, int items, int vector, zmlx_error *error) {
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    zm_cuda_code code;
    snprintf(definitions, sizeof definitions,
             "#define S %s\n#define O %s\n#define ITEMS %d\n#define V %d\n#define GATES %d\n",
             zm_cuda_storage(self->dtype), zm_cuda_storage(self->result), items, vector, self->gates);
    ZM_TRY(zm_cuda_code_get(&code, zm_cuda_topk, definitions, error));
    launch->code = code.cubin;
    launch->code_size = code.size;
    return ZMLX_OK;
}

static void set_numbers(zm_gpu_launch *launch, const topk *self, int64_t rows, int64_t blocks) {
    launch->block = THREADS;
    launch->grid = THREADS * (blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS);
    uint32_t *words = launch->scalars;
    words[0] = (uint32_t)rows;
    words[1] = (uint32_t)(rows >> 32);
    words[2] = (uint32_t)self->columns;
    words[3] = (uint32_t)self->k;
    launch->n_scalars = 4;
}

static zmlx_status launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                          const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)outputs, (void)n_outputs;
    const topk *self = state;
    int64_t rows = (int64_t)inputs[0].size / self->columns;
    int items = MIN_ITEMS, warps = 1;
    while (items < MAX_ITEMS && 32 * items < self->columns) items *= 2;
    while (warps < ROWS_OF_BLOCK && warps * COLUMNS_OF_WARP < self->columns) warps *= 2;
    launch->name = "zm_topk";
    set_numbers(launch, self, rows, (rows * warps - 1) / ROWS_OF_BLOCK + 1);
    launch->scalars[launch->n_scalars++] = (uint32_t)warps;
    return set_code(launch, self, items, vector_of(self, items, inputs[0].offset), error);
}

static zmlx_status launch_gradient(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                                   const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)inputs, (void)n_inputs, (void)n_outputs;
    const topk *self = state;
    int64_t rows = (int64_t)outputs[0].size / self->columns, segments = (self->columns - 1) / SEGMENT + 1;
    launch->name = "zm_topk_gradient";
    set_numbers(launch, self, rows, (rows * segments - 1) / ROWS_OF_BLOCK + 1);
    return set_code(launch, self, MAX_ITEMS, vector_of(self, MAX_ITEMS, 0), error);
}

static const zm_node_class gradient_class = {.name = "zmlx.topk_gradient",
                                             .launch_gpu = launch_gradient,
                                             .free_state = free};

/* x's shape with zeros but for what is chosen. */
static mlx_array put_back(zm_scope *scope, const topk *self, mlx_array x, mlx_array indices, mlx_array given) {
    zm_node_output spec = zm_output_as(x);
    topk *state = malloc(sizeof *state);
    if (!state) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "topk", "out of memory");
    *state = *self;
    return zm_node(scope, &spec, &gradient_class, state, (mlx_array[]){x, indices, given}, 3);
}

static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)argument_numbers, (void)n_arguments, (void)n_primals, (void)n_results;
    const topk *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array given = zm_astype(&scope, cotangents[0], self->result);
    if (!zm_scope_failed(&scope))
        zm_scope_keep(&scope, &gradients[0], put_back(&scope, self, primals[0], results[1], given));
    return zm_scope_end(&scope, error);
}

/* Of w = softmax of the chosen: w (t - sum w t). */
static mlx_array gate_tangent(zm_scope *scope, mlx_array weights, mlx_array tangent, mlx_dtype dtype) {
    mlx_array w = zm_astype(scope, weights, MLX_FLOAT32), t = zm_astype(scope, tangent, MLX_FLOAT32);
    mlx_array mean = zm_sum(scope, zm_multiply(scope, w, t), -1, true);
    return zm_astype(scope, zm_multiply(scope, w, zm_subtract(scope, t, mean)), dtype);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)argument_numbers, (void)n_arguments, (void)n_primals;
    const topk *self = state;
    mlx_array values, indices, made[2] = {{NULL}, {NULL}};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_cuda_select(&scope, primals[0], self->k, self->gates, self->result, &values, &indices);
    if (!zm_scope_failed(&scope)) zm_select_tangents(&scope, tangents[0], indices, &made[0], &made[1]);
    if (!zm_scope_failed(&scope) && self->gates) made[0] = gate_tangent(&scope, values, made[0], self->result);
    for (int i = 0; i < 2; i++) zm_scope_keep(&scope, &result_tangents[i], made[i]);
    return zm_scope_end(&scope, error);
}

static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_inputs;
    const topk *self = state;
    mlx_array made[2] = {{NULL}, {NULL}};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_select_batch_first(&scope, inputs[0], axes[0]);
    if (!zm_scope_failed(&scope)) zm_cuda_select(&scope, x, self->k, self->gates, self->result, &made[0], &made[1]);
    for (int i = 0; i < 2; i++) {
        zm_scope_keep(&scope, &results[i], made[i]);
        result_axes[i] = axes[0] < 0 ? -1 : 0;
    }
    return zm_scope_end(&scope, error);
}

static const zm_node_class topk_class =
    {.name = "zmlx.topk", .launch_gpu = launch, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

void zm_cuda_select(zm_scope *scope, mlx_array x, int k, bool gates, mlx_dtype dtype, mlx_array *values,
                    mlx_array *indices) {
    topk *self = malloc(sizeof *self);
    if (!self) {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "topk", "out of memory");
        return;
    }
    *self = (topk){k, zm_dim(x, -1), mlx_array_dtype(x), dtype, gates};
    zm_select_apply(scope, values, indices, &topk_class, self, x, k, dtype);
}
