/* SPDX-License-Identifier: MIT */
/* Attention over a cache as one node: the projections, norms and rotations of queries and keys, the new rows of the
 * cache, the heads, the output projection.
 *
 * A query's rows are taken in chunks at fixed places of the cache and the chunks put together in order, so that the
 * result depends neither on the number of tokens nor on the threads, and scores are never stored for
 * more than a chunk. */
#include <stdlib.h>
#include <string.h>

#include "fused/attention/parts.h"
#include "fused/attention/rotate.h"
#include "fused/cpu/product.h"
#include "fused/rms_norm/norm.h"
#include "fused/step.h"
#include "runtime/shape.h"

enum {
    MAX_PARTS = 1 << 16,         /* of (token, chunk, head) computed before they are put together */
    BLOCK = 64,                  /* tokens that attend together */
    GRAIN_BYTES = 32 * 1024      /* of a cache: below, waking a thread costs more than it brings */
};

typedef struct attention {
    zm_engine engine;
    zm_operand q_proj, k_proj, v_proj, o_proj;
    int inverse_freqs, q_norm, k_norm, sinks, keys, values; /* indices of inputs; -1: none */
    zm_attention_arguments arguments;                       /* the numbers alone */
    zm_storage storage;                                     /* of the cache */
    size_t n_tokens, n_heads, n_kv_heads, head_dim, n_freqs;
    size_t n_rows, capacity, n_chunks, slice; /* tokens whose parts are held at a time */
    zm_prepared q_x, k_x, v_x, o_x;
    zm_workspace workspace;
    size_t x_place, q_x_place, k_x_place, v_x_place, o_x_place, y_place;
    size_t projected_place, q_place, k_place, v_place, heads_place, angles_place, vectors_place;
    size_t outputs_place, largest_place, sums_place;
} attention;

/* One evaluation. */
typedef struct run {
    const attention *self;
    const float *inverse_freqs, *q_norm, *k_norm, *sinks;
    float *projected; /* queries, each with a gate behind it, or those of q */
    float *q, *k, *v, *heads, *angles;
    float *outputs, *largest, *sums; /* of the parts */
    unsigned char *keys, *values;
    size_t first_token, n_tokens; /* of the slice */
    zm_ahead ahead;               /* of the output projection */
} run;

/* Writes a row of a head into the cache, rounded to its type. */
static void store_row(const attention *self, unsigned char *cache, size_t head, size_t row, const float *numbers) {
    size_t place = (head * self->capacity + row) * self->head_dim;
    zm_view view = {.data = cache + place * zm_storage_size(self->storage),
                    .dtype = zm_dtype_from_storage(self->storage),
                    .size = self->head_dim};
    zm_store_floats(&view, numbers);
}

/* Norms and turns one token's queries and keys, scales the queries and writes keys and values. */
static void finish_token(const run *of, size_t token) {
    const attention *self = of->self;
    const zm_attention_arguments *arguments = &self->arguments;
    size_t size = self->head_dim, row = (size_t)arguments->first_row + token;
    float *cosines = of->angles + token * 2 * self->n_freqs, *sines = cosines + self->n_freqs;
    float position = (float)(arguments->offset + (int)token) * arguments->rotation.position_scale;
    zm_turn_angles(cosines, sines, of->inverse_freqs, self->n_freqs, position);
    zm_turn turn = {.cosines = cosines,
                    .sines = sines,
                    .n_freqs = self->n_freqs,
                    .traditional = arguments->rotation.traditional,
                    .input_scale = arguments->rotation.input_scale};
    for (size_t head = 0; head < self->n_heads; head++) {
        float *query = of->q + (token * self->n_heads + head) * size;
        if (arguments->has_output_gate)
            memcpy(query, of->projected + 2 * (token * self->n_heads + head) * size, size * sizeof *query);
        if (of->q_norm) zm_rms_norm_row(query, query, of->q_norm, size, arguments->q_norm_eps);
        zm_head_turn(query, &turn);
        for (size_t i = 0; i < size; i++) query[i] *= arguments->scale;
    }
    for (size_t head = 0; head < self->n_kv_heads; head++) {
        float *key = of->k + (token * self->n_kv_heads + head) * size;
        if (of->k_norm) zm_rms_norm_row(key, key, of->k_norm, size, arguments->k_norm_eps);
        zm_head_turn(key, &turn);
        store_row(self, of->keys, head, row, key);
        store_row(self, of->values, head, row, of->v + (token * self->n_kv_heads + head) * size);
    }
}

static void finish_tokens(void *context, size_t begin, size_t end) {
    for (size_t token = begin; token < end; token++) finish_token(context, token);
}

/* The rows of a chunk that a token attends to; false: none. */
static bool chunk_rows(const attention *self, size_t token, size_t chunk, size_t *begin, size_t *end) {
    size_t last = self->n_rows - self->n_tokens + token + 1, window = (size_t)self->arguments.window;
    size_t first = window && last > window ? last - window : 0;
    *begin = chunk * ZM_ATTEND_ROWS;
    *end = *begin + ZM_ATTEND_ROWS;
    if (*begin < first) *begin = first;
    if (*end > last) *end = last;
    return *begin < *end;
}

/* Parts lie as (token, chunk, head). */
static size_t part_place(const run *of, size_t token, size_t chunk, size_t head) {
    const attention *self = of->self;
    return ((token - of->first_token) * self->n_chunks + chunk) * self->n_heads + head;
}

static void attend_part(const run *of, size_t token, size_t kv_head, size_t chunk) {
    const attention *self = of->self;
    size_t begin, end, group = self->n_heads / self->n_kv_heads, head = kv_head * group;
    if (!chunk_rows(self, token, chunk, &begin, &end)) return;
    size_t place = (kv_head * self->capacity + begin) * self->head_dim * zm_storage_size(self->storage);
    size_t part = part_place(of, token, chunk, head);
    zm_attend attend = {.queries = of->q + (token * self->n_heads + head) * self->head_dim,
                        .n_queries = group,
                        .head_dim = self->head_dim,
                        .keys = of->keys + place,
                        .values = of->values + place,
                        .storage = self->storage,
                        .n_rows = end - begin,
                        .largest = of->largest + part,
                        .sums = of->sums + part,
                        .outputs = of->outputs + part * self->head_dim};
    self->engine.level->attend(&attend);
}

/* Tokens [first, last), which all have rows from the chunk's first on, `end` being the last row of the first one. */
static void attend_together(const run *of, size_t first, size_t last, size_t end, size_t kv_head, size_t chunk) {
    const attention *self = of->self;
    size_t group = self->n_heads / self->n_kv_heads, head = kv_head * group, row = chunk * ZM_ATTEND_ROWS;
    size_t place = (kv_head * self->capacity + row) * self->head_dim * zm_storage_size(self->storage);
    size_t part = part_place(of, first, chunk, head);
    zm_attend_tokens attend = {.queries = of->q + (first * self->n_heads + head) * self->head_dim,
                               .query_stride = self->n_heads * self->head_dim,
                               .n_tokens = last - first,
                               .n_queries = group,
                               .head_dim = self->head_dim,
                               .keys = of->keys + place,
                               .values = of->values + place,
                               .storage = self->storage,
                               .first_rows = end - row,
                               .part_stride = self->n_chunks * self->n_heads,
                               .largest = of->largest + part,
                               .sums = of->sums + part,
                               .outputs = of->outputs + part * self->head_dim};
    self->engine.level->attend_tokens(&attend);
}

/* Tokens whose window begins inside the chunk attend alone, where they begin; the others are neighbours. */
static void attend_block(const run *of, size_t first, size_t last, size_t kv_head, size_t chunk) {
    const attention *self = of->self;
    size_t begin, end, from = 0, first_end = 0, count = 0;
    bool together = last - first > 1 && self->head_dim <= ZM_ATTEND_TOKENS_DIM;
    for (size_t token = first; token < last; token++) {
        if (!chunk_rows(self, token, chunk, &begin, &end)) continue;
        if (!together || begin != chunk * ZM_ATTEND_ROWS) attend_part(of, token, kv_head, chunk);
        else if (!count++) from = token, first_end = end;
    }
    if (count) attend_together(of, from, from + count, first_end, kv_head, chunk);
}

static size_t block_count(const run *of) { return (of->n_tokens + BLOCK - 1) / BLOCK; }

/* Indices count (key and value head, block of tokens, chunk). */
static void attend_parts(void *context, size_t begin, size_t end) {
    const run *of = context;
    size_t n_chunks = of->self->n_chunks, n_blocks = block_count(of), past = of->first_token + of->n_tokens;
    for (size_t i = begin; i < end; i++) {
        size_t first = of->first_token + i / n_chunks % n_blocks * BLOCK;
        attend_block(of, first, past - first < BLOCK ? past : first + BLOCK, i / n_chunks / n_blocks, i % n_chunks);
    }
}

/* A head's result from those of the chunks that the token attends to, which are neighbours. */
static void combine_head(const run *of, size_t token, size_t head) {
    const attention *self = of->self;
    zm_attend_parts parts = {of->outputs, of->largest, of->sums, self->n_heads, self->head_dim};
    float *result = of->heads + (token * self->n_heads + head) * self->head_dim;
    size_t begin, end, first = 0, count = 0;
    while (!chunk_rows(self, token, first, &begin, &end)) first++;
    while (first + count < self->n_chunks && chunk_rows(self, token, first + count, &begin, &end)) count++;
    zm_attend_join(result, self->head_dim, &parts, part_place(of, token, first, head), count,
                   of->sinks ? &of->sinks[head] : NULL);
    if (!self->arguments.has_output_gate) return;
    float *gate = of->projected + (2 * (token * self->n_heads + head) + 1) * self->head_dim;
    self->engine.level->sigmoid(gate, gate, self->head_dim);
    for (size_t i = 0; i < self->head_dim; i++) result[i] *= gate[i];
}

static void combine_heads(void *context, size_t begin, size_t end) {
    const run *of = context;
    for (size_t i = begin; i < end; i++)
        combine_head(of, of->first_token + i / of->self->n_heads, i % of->self->n_heads);
}

static void attend_all(run *of) {
    const attention *self = of->self;
    size_t item = 2 * ZM_ATTEND_ROWS * self->head_dim * zm_storage_size(self->storage);
    size_t head = self->n_chunks * self->head_dim;
    for (size_t done = 0; done < self->n_tokens; done += self->slice) {
        of->first_token = done;
        of->n_tokens = self->n_tokens - done < self->slice ? self->n_tokens - done : self->slice;
        size_t block = of->n_tokens < BLOCK ? of->n_tokens : BLOCK;
        zm_pool_run_ahead(self->engine.pool, block_count(of) * self->n_kv_heads * self->n_chunks,
                          1 + GRAIN_BYTES / (item * block), attend_parts, of, &of->ahead);
        zm_pool_run_ahead(self->engine.pool, of->n_tokens * self->n_heads, zm_value_grain(head), combine_heads, of,
                          &of->ahead);
    }
}

static const float *read_vector(const attention *self, const zm_view *inputs, int index, float **scratch) {
    if (index < 0) return NULL;
    float *place = *scratch;
    *scratch += (inputs[index].size + 15) / 16 * 16;
    return zm_read_floats(self->engine.level, &inputs[index], place);
}

static void project(const attention *self, const zm_view *inputs, run *of, float *scratch) {
    zm_engine engine = self->engine;
    const float *x = zm_read_floats(engine.level, &inputs[0], scratch + self->x_place);
    zm_matrix projections[] = {zm_operand_matrix(&self->q_proj, inputs), zm_operand_matrix(&self->k_proj, inputs),
                               zm_operand_matrix(&self->v_proj, inputs)};
    zm_prepared prepared[] = {self->q_x, self->k_x, self->v_x};
    float *const results[] = {of->projected, of->k, of->v};
    prepared[0].data = scratch + self->q_x_place;
    prepared[1].data = scratch + self->k_x_place; /* the same place where the order is the same */
    prepared[2].data = scratch + self->v_x_place;
    for (int i = 0; i < 3; i++)
        if (!i || prepared[i].data != prepared[i - 1].data) zm_prepare(engine, &prepared[i], x, self->n_tokens);
    engine.ahead = &of->ahead;
    zm_products_run(engine, projections, prepared, results, 3, self->n_tokens);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const attention *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    float *vectors = scratch + self->vectors_place;
    size_t values = self->n_heads * self->head_dim;
    run of = {.self = self,
              .q = scratch + self->q_place,
              .k = scratch + self->k_place,
              .v = scratch + self->v_place,
              .heads = scratch + self->heads_place,
              .angles = scratch + self->angles_place,
              .outputs = scratch + self->outputs_place,
              .largest = scratch + self->largest_place,
              .sums = scratch + self->sums_place,
              .keys = outputs[1].data,
              .values = outputs[2].data};
    of.projected = self->arguments.has_output_gate ? scratch + self->projected_place : of.q;
    of.inverse_freqs = inputs[self->inverse_freqs].data;
    of.q_norm = read_vector(self, inputs, self->q_norm, &vectors);
    of.k_norm = read_vector(self, inputs, self->k_norm, &vectors);
    of.sinks = read_vector(self, inputs, self->sinks, &vectors);
    zm_matrix o_proj = zm_operand_matrix(&self->o_proj, inputs);
    zm_ahead_add(&of.ahead, &o_proj, 0);
    project(self, inputs, &of, scratch);
    zm_pool_run(self->engine.pool, self->n_tokens, zm_value_grain(values), finish_tokens, &of);
    attend_all(&of);

    zm_prepared o_x = self->o_x;
    o_x.data = scratch + self->o_x_place;
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);
    zm_prepare(self->engine, &o_x, of.heads, self->n_tokens);
    zm_product_run(self->engine, &o_proj, &o_x, self->n_tokens, y);
    zm_round_floats(&outputs[0], y);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class attention_class = {
    .name = "zmlx.attention", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status refuse(zmlx_error *error, const char *what) {
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, attention_class.name, "%s", what);
}

static zmlx_status check_projections(const attention *self, zmlx_error *error) {
    const zm_matrix *q = &self->q_proj.matrix, *k = &self->k_proj.matrix, *v = &self->v_proj.matrix;
    const zm_matrix *o = &self->o_proj.matrix;
    size_t queries = self->n_heads * self->head_dim, keys = self->n_kv_heads * self->head_dim;
    bool fits = q->in_features == k->in_features && q->in_features == v->in_features;
    size_t projected = self->arguments.has_output_gate ? 2 * queries : queries;
    fits = fits && q->out_features == projected && k->out_features == keys && v->out_features == keys;
    fits = fits && o->in_features == queries;
    fits = fits && q->n_experts == 1 && k->n_experts == 1 && v->n_experts == 1 && o->n_experts == 1;
    return fits ? ZMLX_OK : refuse(error, "the projections do not fit together");
}

static zmlx_status check_heads(const zm_attention_arguments *arguments, zmlx_error *error) {
    if (arguments->n_kv_heads < 1 || arguments->n_heads < 1 || arguments->n_heads % arguments->n_kv_heads)
        return refuse(error, "the heads are no multiple of the key and value heads");
    if (arguments->head_dim < 1 || arguments->head_dim > ZM_MAX_HEAD_DIM || arguments->head_dim % ZM_HEAD_UNIT)
        return refuse(error, "the head size is no multiple of 16 up to 1024");
    return ZMLX_OK;
}

/* The rows of this call lie in the cache, and the tokens before them too. */
static zmlx_status check_cache(attention *self, mlx_array x, zmlx_error *error) {
    const zm_attention_arguments *arguments = &self->arguments;
    mlx_array keys = arguments->keys, values = arguments->values;
    bool fits = zm_is_set(keys) && zm_is_set(values) && mlx_array_ndim(keys) == 4 && mlx_array_ndim(values) == 4;
    fits = fits && mlx_array_dtype(keys) == mlx_array_dtype(x) && mlx_array_dtype(values) == mlx_array_dtype(x);
    for (int i = 0; fits && i < 4; i++) fits = zm_dim(keys, i) == zm_dim(values, i);
    fits = fits && zm_dim(keys, 0) == 1 && zm_dim(keys, 1) == arguments->n_kv_heads &&
           zm_dim(keys, 3) == arguments->head_dim;
    if (!fits) return refuse(error, "the cache does not fit");
    int rows = zm_dim(keys, 2), length = zm_dim(x, 1);
    bool inside = arguments->offset >= 0 && arguments->first_row >= 0 && arguments->window >= 0 && length >= 1 &&
                  length <= rows && arguments->first_row <= rows - length && arguments->n_rows <= rows;
    /* A single token may take the place of an older row; several come last. */
    if (length == 1) inside = inside && arguments->n_rows > arguments->first_row;
    else inside = inside && arguments->n_rows == arguments->first_row + length;
    if (!inside) return refuse(error, "the rows do not lie in the cache");
    self->capacity = (size_t)rows;
    self->n_rows = (size_t)arguments->n_rows;
    return ZMLX_OK;
}

static zmlx_status add_vector(int *index, zm_inputs *inputs, mlx_array array, size_t size, zmlx_error *error) {
    zm_storage storage;
    *index = -1;
    if (!zm_is_set(array)) return ZMLX_OK;
    if (mlx_array_ndim(array) != 1 || mlx_array_size(array) != size || !zm_storage_of(&storage, mlx_array_dtype(array)))
        return refuse(error, "a norm's weight or the sinks do not fit");
    *index = zm_inputs_add(inputs, array);
    return ZMLX_OK;
}

static zmlx_status add_arrays(attention *self, zm_inputs *inputs, zmlx_error *error) {
    const zm_attention_arguments *arguments = &self->arguments;
    mlx_array freqs = arguments->rotation.inverse_freqs;
    if (!zm_is_set(freqs) || mlx_array_ndim(freqs) != 1 || mlx_array_dtype(freqs) != MLX_FLOAT32 ||
        2 * mlx_array_size(freqs) > self->head_dim)
        return refuse(error, "the frequencies do not fit");
    self->n_freqs = mlx_array_size(freqs);
    self->inverse_freqs = zm_inputs_add(inputs, freqs);
    ZM_TRY(add_vector(&self->q_norm, inputs, arguments->q_norm, self->head_dim, error));
    ZM_TRY(add_vector(&self->k_norm, inputs, arguments->k_norm, self->head_dim, error));
    ZM_TRY(add_vector(&self->sinks, inputs, arguments->sinks, self->n_heads, error));
    self->keys = zm_inputs_add(inputs, arguments->keys);
    self->values = zm_inputs_add(inputs, arguments->values);
    return ZMLX_OK;
}

/* Where x is prepared for k and v: with the same order in the same place. */
static void add_prepared(attention *self) {
    const zm_matrix *q = &self->q_proj.matrix, *k = &self->k_proj.matrix, *v = &self->v_proj.matrix;
    zm_workspace *workspace = &self->workspace;
    self->q_x = zm_prepared_new(self->engine, q);
    self->k_x = zm_prepared_new(self->engine, k);
    self->v_x = zm_prepared_new(self->engine, v);
    self->o_x = zm_prepared_new(self->engine, &self->o_proj.matrix);
    self->q_x_place = zm_workspace_add(workspace, self->n_tokens, self->q_x.stride);
    self->k_x_place = self->q_x_place;
    if (!zm_matrix_same_order(q, k)) self->k_x_place = zm_workspace_add(workspace, self->n_tokens, self->k_x.stride);
    self->v_x_place = self->k_x_place;
    if (!zm_matrix_same_order(k, v)) self->v_x_place = zm_workspace_add(workspace, self->n_tokens, self->v_x.stride);
    self->o_x_place = zm_workspace_add(workspace, self->n_tokens, self->o_x.stride);
}

static zmlx_status make_workspace(attention *self, mlx_array x, zmlx_error *error) {
    zm_workspace *workspace = &self->workspace;
    size_t tokens = self->n_tokens, queries = self->n_heads * self->head_dim, keys = self->n_kv_heads * self->head_dim;
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : tokens;
    self->n_chunks = (self->n_rows + ZM_ATTEND_ROWS - 1) / ZM_ATTEND_ROWS;
    self->slice = MAX_PARTS / (self->n_chunks * self->n_heads);
    if (!self->slice) self->slice = 1;
    if (self->slice > tokens) self->slice = tokens;
    size_t parts = self->slice * self->n_chunks * self->n_heads;
    add_prepared(self);
    self->x_place = zm_workspace_add(workspace, widened, self->q_proj.matrix.in_features);
    self->y_place = zm_workspace_add(workspace, widened, self->o_proj.matrix.out_features);
    self->projected_place = zm_workspace_add(workspace, self->arguments.has_output_gate ? tokens : 0, 2 * queries);
    self->q_place = zm_workspace_add(workspace, tokens, queries);
    self->k_place = zm_workspace_add(workspace, tokens, keys);
    self->v_place = zm_workspace_add(workspace, tokens, keys);
    self->heads_place = zm_workspace_add(workspace, tokens, queries);
    self->angles_place = zm_workspace_add(workspace, tokens, 2 * self->n_freqs);
    self->vectors_place = zm_workspace_add(workspace, 1, 2 * self->head_dim + self->n_heads + ZM_MAX_LANES);
    self->outputs_place = zm_workspace_add(workspace, parts, self->head_dim);
    self->largest_place = zm_workspace_add(workspace, parts, 1);
    self->sums_place = zm_workspace_add(workspace, parts, 1);
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

static void add_outputs(zm_step *step, const attention *self, mlx_array x) {
    zm_node_output cache = {.shape = {1, self->arguments.n_kv_heads, (int)self->capacity, self->arguments.head_dim},
                            .n_dims = 4,
                            .dtype = mlx_array_dtype(x),
                            .continues = self->keys};
    zm_step_add_first(step, &self->q_proj);
    zm_step_add_output(step, zm_output_like(x, self->o_proj.matrix.out_features));
    zm_step_add_output(step, cache);
    cache.continues = self->values;
    zm_step_add_output(step, cache);
}

static zmlx_status set_up(attention *self, zm_step *step, const zm_attention_arguments *arguments, zm_compute compute,
                          zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    mlx_array x = inputs->arrays[0];
    self->engine = zm_engine_new(compute);
    ZM_TRY(check_heads(arguments, error));
    self->arguments = *arguments;
    self->n_heads = (size_t)arguments->n_heads;
    self->n_kv_heads = (size_t)arguments->n_kv_heads;
    self->head_dim = (size_t)arguments->head_dim;
    ZM_TRY(zm_operand_new(&self->q_proj, inputs, arguments->q_proj, "zmlx.attention: q_proj", error));
    ZM_TRY(zm_operand_new(&self->k_proj, inputs, arguments->k_proj, "zmlx.attention: k_proj", error));
    ZM_TRY(zm_operand_new(&self->v_proj, inputs, arguments->v_proj, "zmlx.attention: v_proj", error));
    ZM_TRY(zm_operand_new(&self->o_proj, inputs, arguments->o_proj, "zmlx.attention: o_proj", error));
    ZM_TRY(check_projections(self, error));
    ZM_TRY(zm_check_activations(x, self->q_proj.matrix.in_features, attention_class.name, error));
    if (mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, attention_class.name, "the input is not one sequence");
    zm_storage_of(&self->storage, mlx_array_dtype(x));
    self->n_tokens = zm_token_count(x, self->q_proj.matrix.in_features);
    ZM_TRY(check_cache(self, x, error));
    ZM_TRY(add_arrays(self, inputs, error));
    add_outputs(step, self, x);
    return make_workspace(self, x, error);
}

zmlx_status zm_attention_step(zm_step *step, mlx_array x, const zm_attention_arguments *arguments, zm_compute compute,
                              zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &attention_class, sizeof(attention), x, error));
    return zm_step_end(step, set_up(step->state, step, arguments, compute, error));
}

zmlx_status zm_attention_renew(zm_step *step, const void *state, mlx_array x, const zm_attention_arguments *arguments,
                               zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &attention_class, sizeof(attention), x, error));
    attention *self = step->state;
    memcpy(self, state, sizeof *self);
    self->arguments = *arguments;
    self->workspace = (zm_workspace){.size = 0};
    zmlx_status status = check_cache(self, x, error);
    if (!status) status = make_workspace(self, x, error);
    if (!status) add_outputs(step, self, x);
    return zm_step_end(step, status);
}

mlx_array zm_fused_attention(zm_scope *scope, mlx_array *keys, mlx_array *values, mlx_array x,
                             const zm_attention_arguments *arguments, zm_compute compute) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_attention_step(&step, x, arguments, compute, &scope->failure))
        zm_step_apply(scope, results, &step);
    *keys = results[1];
    *values = results[2];
    return results[0];
}
