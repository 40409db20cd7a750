/* SPDX-License-Identifier: MIT */
#include "kernels/rope/rotate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/batch.h"
#include "kernels/row_function.h"
#include "runtime/cuda_text.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { THREADS = 512, MAX_BLOCKS = 1 << 20, PIECE_ELEMENTS = 1 << 15 };

typedef struct rotation {
    zm_row_function function; /* CPU */
    int pairs_of_row, inner, positions;
    mlx_dtype dtype, angles;
    zm_pairing pairs;
    bool is_back; /* by the opposite angles */
} rotation;

typedef struct run {
    const rotation *self;
    const zm_view *inputs, *output;
    size_t n_rows;
    bool streams;
} run;

/* Rows [first, last) of one group: those of the same angles, or one after the other with those of consecutive ones. */
static void rotate_group(const run *work, size_t first, size_t last) {
    const rotation *self = work->self;
    bool shares = self->inner > 1;
    size_t n = (size_t)self->pairs_of_row, angle = first / (size_t)self->inner % (size_t)self->positions * n;
    const char *x = (const char *)work->inputs[0].data + first * 2 * n * zm_float_bytes(self->dtype);
    char *y = (char *)work->output->data + first * 2 * n * zm_float_bytes(self->dtype);
    const void *in[] = {x, x, (const char *)work->inputs[1].data + angle * zm_float_bytes(self->angles),
                        (const char *)work->inputs[2].data + angle * zm_float_bytes(self->angles)};
    void *out[] = {y, y + n * zm_float_bytes(self->dtype)};
    int32_t both = ZM_LAYOUT_COLUMN | ZM_LAYOUT_ROW, angles = shares ? ZM_LAYOUT_COLUMN : both;
    const int32_t layouts[] = {both | ZM_LAYOUT_HALF, both | ZM_LAYOUT_HALF | ZM_LAYOUT_SECOND, angles, angles};
    const zm_c_call call = {.inputs = in,
                            .outputs = out,
                            .layouts = layouts,
                            .rows = (int64_t)(last - first),
                            .columns = (int64_t)n,
                            .output_stride = 2 * (int64_t)n,
                            .stream_stores = work->streams ? 2 : 0};
    self->function.function(&call, 0, call.rows, 0, call.columns);
}

static void rotate_piece(void *context, size_t begin, size_t end) {
    const run *work = context;
    size_t size = (size_t)(work->self->inner > 1 ? work->self->inner : work->self->positions);
    while (begin < end) {
        size_t last = (begin / size + 1) * size;
        rotate_group(work, begin, last < end ? last : end);
        begin = last;
    }
    if (work->streams) zm_row_fence();
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const rotation *self = state;
    if (!outputs[0].size) return;
    size_t bytes = outputs[0].size * zm_float_bytes(self->dtype);
    run work = {self, inputs, &outputs[0], outputs[0].size / (size_t)(2 * self->pairs_of_row), zm_row_streams(bytes)};
    zm_want_large_pages(outputs[0].data, bytes);
    zm_pool_run(zm_workers(), work.n_rows, (size_t)(PIECE_ELEMENTS / (2 * self->pairs_of_row) + 1), rotate_piece,
                &work);
}

static zmlx_status launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                          const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)n_inputs, (void)n_outputs;
    const rotation *self = state;
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    zm_cuda_code code;
    int vector = 16 / (int)zm_float_bytes(self->dtype);
    bool is_aligned = inputs[0].offset % 16 == 0 && inputs[1].offset % 16 == 0 && inputs[2].offset % 16 == 0;
    if (!is_aligned || self->pairs_of_row % vector) vector = 1;
    snprintf(definitions, sizeof definitions, "#define S %s\n#define C %s\n#define V %d\n#define NEIGHBOURS %d\n",
             zm_cuda_storage(self->dtype), zm_cuda_storage(self->angles), vector, self->pairs == ZM_PAIRS_NEIGHBOURS);
    ZM_TRY(zm_cuda_code_get(&code, zm_cuda_rotate, definitions, error));
    int64_t count = (int64_t)outputs[0].size / 2 / vector, blocks = (count - 1) / THREADS + 1;
    float sign = self->is_back ? -1.0f : 1.0f;
    *launch = (zm_gpu_launch){.name = "zm_rotate", .code = code.cubin, .code_size = code.size, .block = THREADS,
                              .grid = THREADS * (blocks < MAX_BLOCKS ? blocks : MAX_BLOCKS), .n_scalars = 6};
    const uint32_t words[] = {(uint32_t)count, (uint32_t)(count >> 32), (uint32_t)(self->pairs_of_row / vector),
                              (uint32_t)self->inner, (uint32_t)self->positions};
    memcpy(launch->scalars, words, sizeof words);
    memcpy(&launch->scalars[5], &sign, sizeof sign);
    return ZMLX_OK;
}

static zmlx_status apply(mlx_array *y, rotation *self, const mlx_array *inputs, mlx_stream stream, zmlx_error *error);

static zmlx_status copy(rotation **made, const rotation *self, bool is_back, zmlx_error *error) {
    *made = malloc(sizeof **made);
    if (!*made) return zm_fail_memory(error);
    **made = *self;
    (*made)->is_back = is_back;
    if (!self->function.function || is_back == self->is_back) return ZMLX_OK;
    zm_storage data, angles;
    zm_storage_from_dtype(&data, self->dtype);
    zm_storage_from_dtype(&angles, self->angles);
    zmlx_status status = zm_row_function_get(&(*made)->function, is_back ? "rotate_back" : "rotate",
                                             (zm_storage[]){data, data, angles, angles, data, data}, error);
    if (status) free(*made);
    return status;
}

/* Only x has one: angles are constants. */
static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    const rotation *self = state;
    rotation *back;
    for (int i = 0; i < n_arguments; i++)
        if (argument_numbers[i])
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "rope",
                           "cosines and sines are constants: they have no gradient");
    ZM_TRY(copy(&back, self, !self->is_back, error));
    return apply(&gradients[0], back, (mlx_array[]){cotangents[0], primals[1], primals[2]}, stream, error);
}

static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_primals;
    rotation *same;
    if (n_arguments != 1 || argument_numbers[0])
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "rope", "cosines and sines are constants: they have no tangent");
    ZM_TRY(copy(&same, state, ((const rotation *)state)->is_back, error));
    return apply(&result_tangents[0], same, (mlx_array[]){tangents[0], primals[1], primals[2]}, stream, error);
}

/* Angles of a batch, for each row of x (batch, ...) its own. */
static mlx_array spread_angles(zm_scope *scope, mlx_array angles, const rotation *self, int n, int lead) {
    if (zm_scope_failed(scope)) return angles;
    const int own[] = {n, 1, self->positions, 1, self->pairs_of_row};
    const int whole[] = {n, lead, self->positions, self->inner, self->pairs_of_row};
    return zm_broadcast_to(scope, zm_reshape(scope, angles, own, 5), whole, 5);
}

/* A leading dimension more: rows are counted from the last on. */
static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results;
    rotation *same;
    int n = 0, n_dims = (int)mlx_array_ndim(inputs[0]) - (axes[0] >= 0), lead = 1;
    if (n_dims == ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "rope", "more than %d dimensions", ZM_NODE_MAX_DIMS);
    ZM_TRY(copy(&same, state, ((const rotation *)state)->is_back, error));
    for (int i = 0; i < n_inputs; i++)
        if (axes[i] >= 0) n = mlx_array_dim(inputs[i], axes[i]);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array moved[3] = {zm_batch_first(&scope, inputs[0], axes[0], n), inputs[1], inputs[2]};
    if (axes[1] >= 0 || axes[2] >= 0) {
        for (int i = 1; i < n_dims; i++) lead *= zm_dim(moved[0], i);
        for (int i = 1; i < 3; i++)
            moved[i] = spread_angles(&scope, zm_batch_first(&scope, inputs[i], axes[i], n), same, n,
                                     lead / same->positions / same->inner);
        same->positions = n * lead;
        same->inner = 1;
    }
    zmlx_status status = zm_scope_failed(&scope) ? ZMLX_ERROR_MLX : apply(&results[0], same, moved, stream, error);
    if (zm_scope_failed(&scope)) free(same);
    result_axes[0] = 0;
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

static bool equal(const void *a, const void *b) { return !memcmp(a, b, sizeof(rotation)); }

static const zm_node_class rotation_class = {.name = "zmlx.rotate",
                                             .evaluate_cpu = evaluate,
                                             .launch_gpu = launch,
                                             .vjp = vjp,
                                             .jvp = jvp,
                                             .vmap = vmap,
                                             .equal = equal,
                                             .free_state = free};

static zmlx_status apply(mlx_array *y, rotation *self, const mlx_array *inputs, mlx_stream stream, zmlx_error *error) {
    zm_node_output spec = zm_output_as(inputs[0]);
    return zm_node_apply(y, &spec, 1, &rotation_class, self, inputs, 3, stream, error);
}

bool zm_rotate_rows(zm_scope *scope, mlx_array *y, mlx_array x, mlx_array cos, mlx_array sin, int inner, int positions,
                    zm_pairing pairs) {
    bool is_on_cpu = zm_scope_is_on_cpu(scope);
    zmlx_error error;
    zm_storage data, angles;
    rotation *self;
    if (zm_scope_failed(scope) || (!is_on_cpu && !zm_scope_is_on_cuda(scope)) ||
        (is_on_cpu && pairs != ZM_PAIRS_HALVES) || !mlx_array_size(x))
        return false;
    if (!(self = calloc(1, sizeof *self))) {
        *y = zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "rope", "out of memory");
        return true;
    }
    self->pairs_of_row = zm_dim(x, -1) / 2;
    self->inner = inner;
    self->positions = positions;
    self->dtype = mlx_array_dtype(x);
    self->angles = mlx_array_dtype(cos);
    self->pairs = pairs;
    zm_storage_from_dtype(&data, self->dtype);
    zm_storage_from_dtype(&angles, self->angles);
    zmlx_status status = !is_on_cpu
                             ? ZMLX_OK
                             : zm_row_function_get(&self->function, "rotate",
                                                   (zm_storage[]){data, data, angles, angles, data, data}, &error);
    mlx_array made = {NULL};
    if (status)
        free(self);
    else
        status = apply(&made, self, (mlx_array[]){x, cos, sin}, scope->stream, &error);
    *y = status ? zm_scope_fail(scope, error.code, error.where, "%s", error.message) : zm_scope_own(scope, made);
    return true;
}
