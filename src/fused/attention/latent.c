/* SPDX-License-Identifier: MIT */
/* Attention over latents as one node. A row [latent, rotated key] is key and value of all heads, so that this is
 * attention with one key and value head whose results' last part is not used. Chunks of rows are put together as in
 * attention.c: the result of a token depends neither on the others nor on the threads. */
#include <stdlib.h>
#include <string.h>

#include "fused/attention/parts.h"
#include "fused/cpu/product.h"
#include "fused/step.h"

enum { MAX_FLOATS = 1 << 24 /* of queries and parts held at a time */ };

typedef struct latent {
    zm_engine engine;
    float scale;
    size_t n_tokens, n_heads, latent_dim, rope_dim, row_dim;
    size_t n_rows, n_chunks, slice; /* tokens at a time */
    int rotated, latents, keys;     /* indices of inputs */
    zm_workspace workspace;
    size_t queries_place, rotated_place, rows_place, asked_place;
    size_t outputs_place, largest_place, sums_place, result_place;
} latent;

/* One evaluation, of tokens [first, first + n_tokens) at a time. */
typedef struct run {
    const latent *self;
    const zm_view *inputs;
    const float *queries, *rotated;  /* as they came: (head, token, features) */
    float *rows, *asked;             /* keys and values; queries as (token, head, row_dim) */
    float *outputs, *largest, *sums; /* of the parts: (token, chunk, head) */
    float *result;
    size_t first, n_tokens;
} run;

static size_t minimum(size_t a, size_t b) { return a < b ? a : b; }

static void widen_row(const run *of, int input, size_t row, size_t size, float *to) {
    const zm_view *view = &of->inputs[input];
    zm_storage storage = ZM_STORAGE_FLOAT32;
    zm_storage_of(&storage, view->dtype);
    const unsigned char *from = (const unsigned char *)view->data + row * size * zm_storage_size(storage);
    of->self->engine.level->widen(to, from, storage, size);
}

static void join_chunk(const run *of, size_t chunk) {
    const latent *self = of->self;
    size_t end = minimum((chunk + 1) * ZM_ATTEND_ROWS, self->n_rows);
    for (size_t row = chunk * ZM_ATTEND_ROWS; row < end; row++) {
        float *to = of->rows + row * self->row_dim;
        widen_row(of, self->latents, row, self->latent_dim, to);
        widen_row(of, self->keys, row, self->rope_dim, to + self->latent_dim);
    }
}

static void join_chunks(void *context, size_t begin, size_t end) {
    for (size_t chunk = begin; chunk < end; chunk++) join_chunk(context, chunk);
}

/* Indices count (token, head). */
static void join_queries(void *context, size_t begin, size_t end) {
    const run *of = context;
    const latent *self = of->self;
    for (size_t i = begin; i < end; i++) {
        size_t place = i % self->n_heads * self->n_tokens + of->first + i / self->n_heads;
        float *to = of->asked + i * self->row_dim;
        const float *query = of->queries + place * self->latent_dim, *turned = of->rotated + place * self->rope_dim;
        for (size_t j = 0; j < self->latent_dim; j++) to[j] = query[j] * self->scale;
        for (size_t j = 0; j < self->rope_dim; j++) to[self->latent_dim + j] = turned[j] * self->scale;
    }
}

/* Rows of a chunk that a token attends to. */
static size_t chunk_rows(const latent *self, size_t token, size_t chunk) {
    size_t end = self->n_rows - self->n_tokens + token + 1, begin = chunk * ZM_ATTEND_ROWS;
    return end > begin ? minimum(end - begin, ZM_ATTEND_ROWS) : 0;
}

/* Indices count (chunk, token of the slice). */
static void attend_parts(void *context, size_t begin, size_t end) {
    const run *of = context;
    const latent *self = of->self;
    for (size_t i = begin; i < end; i++) {
        size_t chunk = i / of->n_tokens, token = i % of->n_tokens;
        size_t n_rows = chunk_rows(self, of->first + token, chunk);
        size_t part = (token * self->n_chunks + chunk) * self->n_heads;
        if (!n_rows) continue;
        if (self->n_tokens == 1) join_chunk(of, chunk); /* while it is in the cache */
        const unsigned char *rows = (const unsigned char *)(of->rows + chunk * ZM_ATTEND_ROWS * self->row_dim);
        zm_attend attend = {.queries = of->asked + token * self->n_heads * self->row_dim,
                            .n_queries = self->n_heads,
                            .head_dim = self->row_dim,
                            .keys = rows,
                            .values = rows,
                            .storage = ZM_STORAGE_FLOAT32,
                            .n_rows = n_rows,
                            .largest = of->largest + part,
                            .sums = of->sums + part,
                            .outputs = of->outputs + part * self->row_dim};
        self->engine.level->attend(&attend);
    }
}

/* Indices count (token of the slice, head). */
static void combine_heads(void *context, size_t begin, size_t end) {
    const run *of = context;
    const latent *self = of->self;
    zm_attend_parts parts = {of->outputs, of->largest, of->sums, self->n_heads, self->row_dim};
    for (size_t i = begin; i < end; i++) {
        size_t token = i / self->n_heads, head = i % self->n_heads;
        size_t count = (self->n_rows - self->n_tokens + of->first + token) / ZM_ATTEND_ROWS + 1;
        zm_attend_join(of->result + (head * self->n_tokens + of->first + token) * self->latent_dim, self->latent_dim,
                       &parts, token * self->n_chunks * self->n_heads + head, count, NULL);
    }
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const latent *self = state;
    zm_pool *pool = self->engine.pool;
    float *scratch = zm_workspace_open(&self->workspace);
    run of = {.self = self,
              .inputs = inputs,
              .queries = zm_read_floats(self->engine.level, &inputs[0], scratch + self->queries_place),
              .rotated = zm_read_floats(self->engine.level, &inputs[self->rotated], scratch + self->rotated_place),
              .rows = scratch + self->rows_place,
              .asked = scratch + self->asked_place,
              .outputs = scratch + self->outputs_place,
              .largest = scratch + self->largest_place,
              .sums = scratch + self->sums_place,
              .result = zm_result_floats(&outputs[0], scratch + self->result_place)};
    if (self->n_tokens > 1) zm_pool_run(pool, self->n_chunks, 1, join_chunks, &of);
    for (; of.first < self->n_tokens; of.first += self->slice) {
        of.n_tokens = minimum(self->slice, self->n_tokens - of.first);
        size_t pairs = of.n_tokens * self->n_heads;
        zm_pool_run(pool, pairs, zm_value_grain(self->row_dim), join_queries, &of);
        zm_pool_run(pool, self->n_chunks * of.n_tokens, 1, attend_parts, &of);
        zm_pool_run(pool, pairs, zm_value_grain(self->n_chunks * self->latent_dim), combine_heads, &of);
    }
    zm_round_floats(&outputs[0], of.result);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class latent_class = {
    .name = "zmlx.latent_attention", .evaluate_cpu = evaluate, .free_state = free};

static bool has_shape(mlx_array array, int heads, int length, int features) {
    return zm_is_set(array) && mlx_array_ndim(array) == 4 && zm_dim(array, 0) == 1 && zm_dim(array, 1) == heads &&
           zm_dim(array, 2) == length && zm_dim(array, 3) == features && features > 0;
}

static zmlx_status check(mlx_array x, const zm_latent_attention_arguments *arguments, zmlx_error *error) {
    mlx_array rotated = arguments->q_rope, latents = arguments->latents, keys = arguments->k_rope;
    bool fits = zm_is_set(x) && mlx_array_ndim(x) == 4 && zm_dim(x, 1) > 0 && zm_dim(x, 2) > 0 &&
                has_shape(x, zm_dim(x, 1), zm_dim(x, 2), zm_dim(x, 3)) &&
                has_shape(rotated, zm_dim(x, 1), zm_dim(x, 2), zm_dim(rotated, 3)) && zm_is_set(latents) &&
                has_shape(latents, 1, zm_dim(latents, 2), zm_dim(x, 3)) &&
                has_shape(keys, 1, zm_dim(latents, 2), zm_dim(rotated, 3));
    fits = fits && arguments->n_rows >= zm_dim(x, 2) && arguments->n_rows <= zm_dim(latents, 2);
    mlx_dtype dtype = fits ? mlx_array_dtype(x) : MLX_FLOAT32;
    fits = fits && mlx_array_dtype(rotated) == dtype && mlx_array_dtype(latents) == dtype &&
           mlx_array_dtype(keys) == dtype && !((zm_dim(x, 3) + zm_dim(rotated, 3)) % ZM_HEAD_UNIT);
    return fits ? ZMLX_OK
                : zm_fail(error, ZMLX_ERROR_ARGUMENT, latent_class.name, "queries and cache do not fit together");
}

static zmlx_status set_up(latent *self, zm_step *step, const zm_latent_attention_arguments *arguments,
                          zm_compute compute, zmlx_error *error) {
    mlx_array x = step->inputs.arrays[0];
    zm_workspace *workspace = &self->workspace;
    self->engine = zm_engine_new(compute);
    ZM_TRY(check(x, arguments, error));
    ZM_TRY(zm_check_activations(x, (size_t)zm_dim(x, 3), latent_class.name, error));
    self->scale = arguments->scale;
    self->n_heads = (size_t)zm_dim(x, 1);
    self->n_tokens = (size_t)zm_dim(x, 2);
    self->latent_dim = (size_t)zm_dim(x, 3);
    self->rope_dim = (size_t)zm_dim(arguments->q_rope, 3);
    self->row_dim = self->latent_dim + self->rope_dim;
    self->n_rows = (size_t)arguments->n_rows;
    self->n_chunks = (self->n_rows + ZM_ATTEND_ROWS - 1) / ZM_ATTEND_ROWS;
    self->slice = minimum(1 + MAX_FLOATS / (self->n_heads * self->row_dim * (1 + self->n_chunks)), self->n_tokens);
    self->rotated = zm_inputs_add(&step->inputs, arguments->q_rope);
    self->latents = zm_inputs_add(&step->inputs, arguments->latents);
    self->keys = zm_inputs_add(&step->inputs, arguments->k_rope);
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : self->n_heads * self->n_tokens;
    size_t parts = self->slice * self->n_chunks * self->n_heads;
    self->queries_place = zm_workspace_add(workspace, widened, self->latent_dim);
    self->rotated_place = zm_workspace_add(workspace, widened, self->rope_dim);
    self->result_place = zm_workspace_add(workspace, widened, self->latent_dim);
    self->rows_place = zm_workspace_add(workspace, self->n_rows, self->row_dim);
    self->asked_place = zm_workspace_add(workspace, self->slice * self->n_heads, self->row_dim);
    self->outputs_place = zm_workspace_add(workspace, parts, self->row_dim);
    self->largest_place = zm_workspace_add(workspace, parts, 1);
    self->sums_place = zm_workspace_add(workspace, parts, 1);
    zm_step_add_output(step, zm_output_like(x, self->latent_dim));
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

mlx_array zm_fused_latent_attention(zm_scope *scope, mlx_array x, const zm_latent_attention_arguments *arguments,
                                    zm_compute compute) {
    zmlx_error *error = &scope->failure;
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_step_begin(&step, &latent_class, sizeof(latent), x, error) &&
        !zm_step_end(&step, set_up(step.state, &step, arguments, compute, error)))
        zm_step_apply(scope, results, &step);
    return results[0];
}
