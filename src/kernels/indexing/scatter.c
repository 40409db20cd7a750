/* SPDX-License-Identifier: MIT */
/* Sums of rows by index on the CPU: updates are listed by their rows first, so that each is read and each row written
 * once. */
#include "kernels/indexing/scatter.h"

#include <stdlib.h>
#include <string.h>

#include "base/pages.h"
#include "kernels/batch.h"
#include "kernels/row_function.h"
#include "runtime/shape.h"
#include "runtime/workers.h"

enum { PIECE_ELEMENTS = 1 << 15, MIN_COLUMNS = 256, CHUNK = 2048, LEAST_LISTED = 32, SHARES = 8 };

typedef struct scatter {
    zm_row_function function; /* sum, update -> sum */
    int n_rows, columns;
    mlx_dtype dtype; /* of updates */
} scatter;

typedef struct run {
    const scatter *self;
    const uint32_t *indices;
    const char *updates;
    float *sums;
    size_t n_updates, n_parts; /* of the columns of a row */
    uint32_t *ends, *order;    /* updates of row r: order[ends[r - 1]] ... order[ends[r] - 1] */
    bool streams;
} run;

static void sum_columns(const run *work, size_t row, size_t first, size_t count) {
    const size_t columns = (size_t)work->self->columns, bytes = zm_float_bytes(work->self->dtype);
    static const float zero = 0;
    float *to = work->sums + row * columns + first, sums[CHUNK];
    uint32_t begin = row ? work->ends[row - 1] : 0, end = work->ends[row];
    if (begin == end) memset(to, 0, count * sizeof *to);
    for (uint32_t i = begin; i < end; i++) {
        const char *update = work->updates + (work->order[i] * columns + first) * bytes;
        bool is_first = i == begin, is_last = i + 1 == end;
        const void *in[] = {is_first ? &zero : sums, update};
        zm_row_apply(&work->self->function, is_last ? to : sums, in, is_first, (int64_t)count,
                     is_last && work->streams);
    }
}

/* Columns of the first update of a row, which will be read next. */
static void fetch(const run *work, size_t row, size_t first, size_t count) {
    const size_t columns = (size_t)work->self->columns, bytes = zm_float_bytes(work->self->dtype);
    uint32_t begin = row ? work->ends[row - 1] : 0;
    if (begin == work->ends[row]) return;
    const char *update = work->updates + (work->order[begin] * columns + first) * bytes;
    for (size_t i = 0; i < count * bytes && i < CHUNK * sizeof(float); i += 64) __builtin_prefetch(update + i);
}

/* Item i is part i mod n_parts of a row. */
static void sum_rows(void *context, size_t begin, size_t end) {
    const run *work = context;
    size_t columns = (size_t)work->self->columns, size = (columns + work->n_parts - 1) / work->n_parts;
    size = (size + 15) / 16 * 16;
    for (size_t i = begin; i < end; i++) {
        size_t first = i % work->n_parts * size, last = first + size < columns ? first + size : columns;
        if (i + 1 < end) fetch(work, (i + 1) / work->n_parts, (i + 1) % work->n_parts * size, size);
        for (; first < last; first += CHUNK)
            sum_columns(work, i / work->n_parts, first, last - first < CHUNK ? last - first : CHUNK);
    }
    if (work->streams) zm_row_fence();
}

/* Counts the updates of rows, then lists them: what counts next becomes where the row ends. Returns the largest count.
 */
static uint32_t list_updates(const run *work) {
    const uint32_t n_rows = (uint32_t)work->self->n_rows;
    uint32_t sum = 0, most = 0, *ends = work->ends;
    memset(ends, 0, n_rows * sizeof *ends);
    for (size_t i = 0; i < work->n_updates; i++)
        if (work->indices[i] < n_rows) ends[work->indices[i]]++;
    for (uint32_t row = 0; row < n_rows; row++) {
        uint32_t count = ends[row];
        most = count > most ? count : most;
        ends[row] = sum;
        sum += count;
    }
    for (size_t i = 0; i < work->n_updates; i++)
        if (work->indices[i] < n_rows) work->order[ends[work->indices[i]]++] = (uint32_t)i;
    return most;
}

/* Short rows, begin to end: each thread looks for their updates itself. */
static void find_and_sum(void *context, size_t begin, size_t end) {
    const run *work = context;
    const size_t columns = (size_t)work->self->columns, bytes = zm_float_bytes(work->self->dtype);
    memset(work->sums + begin * columns, 0, (end - begin) * columns * sizeof *work->sums);
    for (size_t i = 0; i < work->n_updates; i++) {
        if (work->indices[i] < begin || work->indices[i] >= end) continue;
        float *to = work->sums + work->indices[i] * columns;
        const void *in[] = {to, work->updates + i * columns * bytes};
        zm_row_apply(&work->self->function, to, in, 0, (int64_t)columns, false);
    }
}

static size_t list_bytes(size_t n_rows, size_t n_updates) { return (n_rows + n_updates) * sizeof(uint32_t); }

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs, (void)n_outputs;
    const scatter *self = state;
    run work = {.self = self,
                .indices = inputs[0].data,
                .updates = inputs[1].data,
                .sums = outputs[0].data,
                .n_updates = inputs[0].size,
                .streams = zm_row_streams(outputs[0].size * sizeof(float))};
    size_t n_rows = (size_t)self->n_rows, n_threads = (size_t)(zm_workers() ? zm_pool_threads(zm_workers()) : 1);
    if (!outputs[0].size) return;
    zm_want_large_pages(outputs[0].data, outputs[0].size * sizeof(float));
    zm_pool *pool = outputs[0].size + inputs[1].size < PIECE_ELEMENTS ? NULL : zm_workers();
    if (self->columns < LEAST_LISTED) {
        zm_pool_run(pool, n_rows, (n_rows + n_threads - 1) / n_threads, find_and_sum, &work);
        return;
    }
    size_t bytes = list_bytes(n_rows, work.n_updates);
    work.ends = zm_scratch_take(zm_pool_scratch(zm_workers()), bytes);
    work.order = work.ends + n_rows;
    bool is_uneven =
        list_updates(&work) > work.n_updates / (SHARES * n_threads); /* a row's updates are for several threads */
    work.n_parts = is_uneven && (size_t)self->columns >= n_threads * MIN_COLUMNS ? n_threads : 1;
    zm_pool_run(pool, n_rows * work.n_parts, (size_t)(PIECE_ELEMENTS / self->columns + 1) * work.n_parts, sum_rows,
                &work);
    zm_scratch_give(zm_pool_scratch(zm_workers()), bytes);
}

/* Of updates (1): each has the cotangent of its row. */
static zmlx_status vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                       const mlx_array *primals, int n_primals, const mlx_array *cotangents, const mlx_array *results,
                       int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)results, (void)n_results;
    const scatter *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < n_arguments; i++) {
        mlx_array gradient = primals[argument_numbers[i]];
        if (argument_numbers[i] == 1)
            gradient = zm_astype(&scope, zm_rows_at(&scope, cotangents[0], primals[0], 0), self->dtype);
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    return zm_scope_end(&scope, error);
}

/* It is linear in the updates; indices have no tangent. */
static zmlx_status jvp(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_primals;
    const scatter *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array sums = {NULL};
    for (int i = 0; i < n_arguments; i++)
        if (argument_numbers[i] == 1) sums = zm_add_rows_on_cpu(&scope, primals[0], tangents[i], self->n_rows);
    if (!sums.ctx && !zm_scope_failed(&scope))
        sums = zm_zeros(&scope, (const int[]){self->n_rows, self->columns}, 2, MLX_FLOAT32);
    zm_scope_keep(&scope, &result_tangents[0], sums);
    return zm_scope_end(&scope, error);
}

/* The rows of all sums of a batch behind each other: (batch * n_rows, columns). */
static zmlx_status vmap(const void *state, mlx_array *results, int *result_axes, int n_results, const mlx_array *inputs,
                        const int *axes, int n_inputs, mlx_stream stream, zmlx_error *error) {
    (void)n_results, (void)n_inputs;
    const scatter *self = state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    int batch = mlx_array_dim(inputs[axes[0] >= 0 ? 0 : 1], axes[0] >= 0 ? axes[0] : axes[1]);
    mlx_array indices = zm_batch_first(&scope, inputs[0], axes[0], batch),
              updates = zm_batch_first(&scope, inputs[1], axes[1], batch);
    if ((int64_t)batch * self->n_rows >= INT32_MAX)
        zm_scope_fail(&scope, ZMLX_ERROR_UNSUPPORTED, "scatter_add", "a batch of %d times %d rows is too large", batch,
                      self->n_rows);
    indices = zm_index_in_batch(&scope, indices, batch, self->n_rows);
    if (!zm_scope_failed(&scope)) {
        updates = zm_reshape2(&scope, updates, (int)mlx_array_size(indices), self->columns);
        mlx_array sums = zm_add_rows_on_cpu(&scope, indices, updates, batch * self->n_rows);
        zm_scope_keep(&scope, &results[0], zm_reshape3(&scope, sums, batch, self->n_rows, self->columns));
    }
    result_axes[0] = 0;
    return zm_scope_end(&scope, error);
}

static const zm_node_class scatter_class = {
    .name = "zmlx.scatter_add", .evaluate_cpu = evaluate, .vjp = vjp, .jvp = jvp, .vmap = vmap, .free_state = free};

mlx_array zm_add_rows_on_cpu(zm_scope *scope, mlx_array indices, mlx_array updates, int n_rows) {
    if (zm_scope_failed(scope)) return updates;
    zmlx_error error;
    zm_storage storage;
    zm_node_output spec = {.shape = {n_rows, zm_dim(updates, 1)}, .n_dims = 2, .dtype = MLX_FLOAT32};
    scatter *self = calloc(1, sizeof *self);
    if (!self) return zm_scope_fail(scope, ZMLX_ERROR_MEMORY, "scatter_add", "out of memory");
    *self = (scatter){.n_rows = n_rows, .columns = spec.shape[1], .dtype = mlx_array_dtype(updates)};
    zm_storage_from_dtype(&storage, self->dtype);
    zmlx_status status = zm_row_function_get(&self->function, "accumulated",
                                             (zm_storage[]){ZM_STORAGE_FLOAT32, storage, ZM_STORAGE_FLOAT32}, &error);
    if (!status && self->columns >= LEAST_LISTED)
        status = zm_scratch_reserve(zm_pool_scratch(zm_workers()), list_bytes((size_t)n_rows, mlx_array_size(indices)),
                                    &error);
    if (!status) return zm_node(scope, &spec, &scatter_class, self, (mlx_array[]){indices, updates}, 2);
    free(self);
    return zm_scope_fail(scope, error.code, error.where, "%s", error.message);
}
