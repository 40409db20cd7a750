/* SPDX-License-Identifier: MIT */
/* The gated delta net as a node: the projections, the convolution over the last inputs, the state of each head, the
 * gated norm and the output projection; the last inputs and the state are further outputs.
 *
 * Every row of a state goes through the tokens by itself, so that the result depends neither on how a sequence is cut
 * nor on the threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "fused/cpu/product.h"
#include "fused/rms_norm/norm.h"
#include "fused/step.h"

enum {
    SLICE = 256, /* tokens at a time: bounds the scratch memory */
    ROWS = 32    /* of a state, for one thread */
};

typedef struct delta_net {
    zm_engine engine;
    zm_operand in_proj[ZM_MAX_PRODUCTS], out_proj;
    int n_in_proj;
    int conv_weight, A_log, dt_bias, norm, last, memory; /* indices of inputs; last, memory: -1 for none */
    zm_prepared in_x[ZM_MAX_PRODUCTS], out_x;
    size_t n_tokens, n_k_heads, n_v_heads, head_k_dim, head_v_dim, taps, channels, values;
    float norm_eps;
    zm_workspace workspace;
    size_t in_places[ZM_MAX_PRODUCTS], projected_places[ZM_MAX_PRODUCTS];
    size_t x_place, y_place, out_place, joined_place, mixed_place, heads_place, factors_place, vectors_place;
} delta_net;

/* One evaluation over a slice of the tokens. */
typedef struct run {
    const delta_net *self;
    size_t n_tokens, group;               /* value heads of a key head */
    float *projected[ZM_MAX_PRODUCTS];    /* of each projection */
    const float *weight;                  /* of the convolution: (channels, taps) */
    const float *A_log, *dt_bias, *norm;  /* (n_v_heads,), (n_v_heads,), (head_v_dim,) */
    const float *q_factor, *k_factor;     /* (head_k_dim,): the same number everywhere */
    float *joined;                        /* (taps - 1 + n_tokens, channels) */
    float *mixed;                         /* (n_tokens, channels): q and k normed, v */
    float *heads;                         /* (n_tokens, values) */
    float *decay, *beta;                  /* (n_tokens, n_v_heads) */
    const float *from;                    /* the state before; NULL: zeros */
    float *memory;
} run;

/* What the projections give for one token's key head: pieces of head_k_dim, head_k_dim and group * head_v_dim numbers,
 * and of group numbers. */
typedef struct piece {
    const float *q, *k, *v, *z, *b, *a;
} piece;

static piece find_piece(const run *of, size_t token, size_t head) {
    const delta_net *self = of->self;
    size_t dk = self->head_k_dim, dv = of->group * self->head_v_dim, keys = self->n_k_heads * dk;
    if (self->n_in_proj == 2) {
        const float *qkvz = of->projected[0] + (token * self->n_k_heads + head) * 2 * (dk + dv);
        const float *ba = of->projected[1] + (token * self->n_k_heads + head) * 2 * of->group;
        return (piece){qkvz, qkvz + dk, qkvz + 2 * dk, qkvz + 2 * dk + dv, ba, ba + of->group};
    }
    const float *qkv = of->projected[0] + token * self->channels;
    size_t factors = token * self->n_v_heads + head * of->group;
    return (piece){qkv + head * dk,
                   qkv + keys + head * dk,
                   qkv + 2 * keys + head * dv,
                   of->projected[1] + token * self->values + head * dv,
                   of->projected[2] + factors,
                   of->projected[3] + factors};
}

/* The convolution's input behind the last ones. An item is a token's key head, here and below. */
static void join(void *context, size_t begin, size_t end) {
    const run *of = context;
    const delta_net *self = of->self;
    size_t n_heads = self->n_k_heads, dk = self->head_k_dim, dv = of->group * self->head_v_dim, keys = n_heads * dk;
    for (size_t i = begin; i < end; i++) {
        size_t token = i / n_heads, head = i % n_heads;
        piece from = find_piece(of, token, head);
        float *to = of->joined + (self->taps - 1 + token) * self->channels;
        memcpy(to + head * dk, from.q, dk * sizeof *to);
        memcpy(to + keys + head * dk, from.k, dk * sizeof *to);
        memcpy(to + 2 * keys + head * dv, from.v, dv * sizeof *to);
    }
}

/* silu of the convolution, of some channels of a token. Inlined with a constant number of taps, its sums become
 * vectors. */
static inline void sum_taps(float *restrict mixed, const float *joined, const float *weight, size_t channels,
                            size_t count, size_t taps) {
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (size_t tap = 0; tap < taps; tap++) sum += weight[i * taps + tap] * joined[tap * channels + i];
        mixed[i] = sum;
    }
}

static float *convolve(const run *of, size_t token, size_t first, size_t count) {
    const delta_net *self = of->self;
    const zm_cpu_level *level = self->engine.level;
    const float *joined = of->joined + token * self->channels + first, *weight = of->weight + first * self->taps;
    float *mixed = of->mixed + token * self->channels + first;
    if (self->taps == 4) sum_taps(mixed, joined, weight, self->channels, count, 4);
    else sum_taps(mixed, joined, weight, self->channels, count, self->taps);
    for (size_t i = 0; i < count; i += ROWS) {
        float gate[ROWS];
        size_t n = count - i < ROWS ? count - i : ROWS;
        level->sigmoid(gate, mixed + i, n);
        for (size_t j = 0; j < n; j++) mixed[i + j] *= gate[j];
    }
    return mixed;
}

static float softplus(float x) { return fmaxf(x, 0) + log1pf(expf(-fabsf(x))); }

static void mix(void *context, size_t begin, size_t end) {
    const run *of = context;
    const delta_net *self = of->self;
    const float eps = 1e-6f / (float)self->head_k_dim;
    size_t n_heads = self->n_k_heads, dk = self->head_k_dim, dv = of->group * self->head_v_dim, keys = n_heads * dk;
    for (size_t i = begin; i < end; i++) {
        size_t token = i / n_heads, head = i % n_heads;
        piece from = find_piece(of, token, head);
        float *q = convolve(of, token, head * dk, dk), *k = convolve(of, token, keys + head * dk, dk);
        convolve(of, token, 2 * keys + head * dv, dv);
        zm_rms_norm_row(q, q, of->q_factor, dk, eps);
        zm_rms_norm_row(k, k, of->k_factor, dk, eps);
        for (size_t j = 0; j < of->group; j++) {
            size_t v_head = head * of->group + j, place = token * self->n_v_heads + v_head;
            of->decay[place] = expf(-expf(of->A_log[v_head]) * softplus(from.a[j] + of->dt_bias[v_head]));
            of->beta[place] = 1 / (1 + expf(-from.b[j]));
        }
    }
}

static size_t row_blocks(const delta_net *self) { return (self->head_v_dim + ROWS - 1) / ROWS; }

/* An item is a block of rows of a value head's state. */
static void recur(void *context, size_t begin, size_t end) {
    const run *of = context;
    const delta_net *self = of->self;
    size_t dk = self->head_k_dim, dv = self->head_v_dim, n_blocks = row_blocks(self), keys = self->n_k_heads * dk;
    for (size_t i = begin; i < end; i++) {
        size_t head = i / n_blocks, row = i % n_blocks * ROWS, place = (head * dv + row) * dk;
        const float *q = of->mixed + head / of->group * dk;
        zm_delta part = {.q = q,
                         .k = q + keys,
                         .v = of->mixed + 2 * keys + head * dv + row,
                         .y = of->heads + head * dv + row,
                         .decay = of->decay + head,
                         .beta = of->beta + head,
                         .from = of->from ? of->from + place : NULL,
                         .state = of->memory + place,
                         .n_tokens = of->n_tokens,
                         .n_rows = dv - row < ROWS ? dv - row : ROWS,
                         .size = dk,
                         .key_stride = self->channels,
                         .value_stride = self->channels,
                         .result_stride = self->values,
                         .factor_stride = self->n_v_heads};
        self->engine.level->delta(&part);
    }
}

/* norm(y) * silu(z) */
static void gate_heads(void *context, size_t begin, size_t end) {
    const run *of = context;
    const delta_net *self = of->self;
    size_t dv = self->head_v_dim;
    for (size_t i = begin; i < end; i++) {
        size_t token = i / self->n_k_heads, head = i % self->n_k_heads, count = of->group * dv;
        const float *z = find_piece(of, token, head).z;
        float *y = of->heads + token * self->values + head * count;
        for (size_t j = 0; j < of->group; j++) zm_rms_norm_row(y + j * dv, y + j * dv, of->norm, dv, self->norm_eps);
        for (size_t first = 0; first < count; first += ROWS) {
            float gate[ROWS];
            size_t n = count - first < ROWS ? count - first : ROWS;
            self->engine.level->sigmoid(gate, z + first, n);
            for (size_t j = 0; j < n; j++) y[first + j] *= z[first + j] * gate[j];
        }
    }
}

static void project(const run *of, const zm_view *inputs, const float *x, float *scratch, const zm_ahead *next) {
    const delta_net *self = of->self;
    zm_engine engine = self->engine;
    zm_matrix matrices[ZM_MAX_PRODUCTS];
    zm_prepared prepared[ZM_MAX_PRODUCTS];
    for (int i = 0; i < self->n_in_proj; i++) {
        matrices[i] = zm_operand_matrix(&self->in_proj[i], inputs);
        prepared[i] = self->in_x[i];
        prepared[i].data = scratch + self->in_places[i];
        if (!i || self->in_places[i] != self->in_places[i - 1]) zm_prepare(engine, &prepared[i], x, of->n_tokens);
    }
    engine.ahead = next;
    zm_products_run(engine, matrices, prepared, of->projected, self->n_in_proj, of->n_tokens);
}

/* x: the slice's; y: its result. */
static void run_slice(run *of, const zm_view *inputs, const float *x, float *y, float *scratch) {
    const delta_net *self = of->self;
    zm_engine engine = self->engine;
    size_t items = of->n_tokens * self->n_k_heads, numbers = self->channels / self->n_k_heads;
    size_t state = ROWS * self->head_k_dim * (of->n_tokens + 1);
    zm_matrix out_proj = zm_operand_matrix(&self->out_proj, inputs);
    zm_prepared out_x = self->out_x;
    zm_ahead next = {.count = 0};
    out_x.data = scratch + self->out_place;
    zm_ahead_add(&next, &out_proj, 0);
    project(of, inputs, x, scratch, &next);
    zm_pool_run(engine.pool, items, zm_value_grain(numbers), join, of);
    zm_pool_run(engine.pool, items, zm_value_grain(8 * numbers), mix, of);
    zm_pool_run_ahead(engine.pool, self->n_v_heads * row_blocks(self), zm_value_grain(state), recur, of, &next);
    zm_pool_run(engine.pool, items, zm_value_grain(4 * numbers), gate_heads, of);
    zm_prepare(engine, &out_x, of->heads, of->n_tokens);
    zm_product_run(engine, &out_proj, &out_x, of->n_tokens, y);
}

/* Starts an evaluation with the vectors in float32. */
static void start_run(run *of, const delta_net *self, const zm_view *inputs, const zm_view *outputs, float *scratch) {
    const zm_cpu_level *level = self->engine.level;
    size_t heads = (self->n_v_heads + ZM_MAX_LANES - 1) / ZM_MAX_LANES * ZM_MAX_LANES, dk = self->head_k_dim;
    float *vectors = scratch + self->vectors_place, *q_factor = vectors, *k_factor = vectors + dk;
    float *weight = k_factor + dk, *norm = weight + self->channels * self->taps;
    float *rates = norm + (self->head_v_dim + ZM_MAX_LANES - 1) / ZM_MAX_LANES * ZM_MAX_LANES;
    for (size_t i = 0; i < dk; i++) q_factor[i] = 1 / (float)dk, k_factor[i] = 1 / sqrtf((float)dk);
    *of = (run){.self = self,
                .group = self->n_v_heads / self->n_k_heads,
                .weight = zm_read_floats(level, &inputs[self->conv_weight], weight),
                .A_log = zm_read_floats(level, &inputs[self->A_log], rates),
                .dt_bias = zm_read_floats(level, &inputs[self->dt_bias], rates + heads),
                .norm = zm_read_floats(level, &inputs[self->norm], norm),
                .q_factor = q_factor,
                .k_factor = k_factor,
                .joined = scratch + self->joined_place,
                .mixed = scratch + self->mixed_place,
                .heads = scratch + self->heads_place,
                .decay = scratch + self->factors_place,
                .from = self->memory < 0 ? NULL : inputs[self->memory].data,
                .memory = outputs[2].data};
    for (int i = 0; i < self->n_in_proj; i++) of->projected[i] = scratch + self->projected_places[i];
    if (self->last < 0) memset(of->joined, 0, (self->taps - 1) * self->channels * sizeof *of->joined);
    else zm_copy_floats(level, &inputs[self->last], of->joined);
}

static size_t slice_size(size_t n_tokens) { return n_tokens < SLICE ? n_tokens : SLICE; }

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const delta_net *self = state;
    float *scratch = zm_workspace_open(&self->workspace);
    run of;
    start_run(&of, self, inputs, outputs, scratch);
    const float *x = zm_read_floats(self->engine.level, &inputs[0], scratch + self->x_place);
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);
    size_t in = self->in_proj[0].matrix.in_features, out = self->out_proj.matrix.out_features;
    for (size_t token = 0; token < self->n_tokens; token += of.n_tokens) {
        of.n_tokens = slice_size(self->n_tokens - token);
        of.beta = of.decay + of.n_tokens * self->n_v_heads;
        run_slice(&of, inputs, x + token * in, y + token * out, scratch);
        of.from = of.memory;
        memmove(of.joined, of.joined + of.n_tokens * self->channels,
                (self->taps - 1) * self->channels * sizeof *of.joined);
    }
    zm_round_floats(&outputs[0], y);
    zm_store_floats(&outputs[1], of.joined);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class delta_net_class = {
    .name = "zmlx.delta_net", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status refuse(zmlx_error *error, const char *what) {
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, delta_net_class.name, "%s", what);
}

static zmlx_status add_array(int *index, zm_inputs *inputs, mlx_array array, size_t size, const char *what,
                             zmlx_error *error) {
    zm_storage storage;
    if (!zm_is_set(array) || mlx_array_size(array) != size || !zm_storage_of(&storage, mlx_array_dtype(array)))
        return refuse(error, what);
    *index = zm_inputs_add(inputs, array);
    return ZMLX_OK;
}

static zmlx_status add_arrays(delta_net *self, zm_inputs *inputs, const zm_delta_net_arguments *arguments,
                              zmlx_error *error) {
    size_t state = self->n_v_heads * self->head_v_dim * self->head_k_dim;
    self->last = self->memory = -1;
    ZM_TRY(add_array(&self->conv_weight, inputs, arguments->conv_weight, self->channels * self->taps,
                     "the convolution's weight does not fit", error));
    ZM_TRY(add_array(&self->A_log, inputs, arguments->A_log, self->n_v_heads, "A_log does not fit", error));
    ZM_TRY(add_array(&self->dt_bias, inputs, arguments->dt_bias, self->n_v_heads, "dt_bias does not fit", error));
    ZM_TRY(add_array(&self->norm, inputs, arguments->norm, self->head_v_dim, "the norm does not fit", error));
    if (zm_is_set(arguments->last))
        ZM_TRY(add_array(&self->last, inputs, arguments->last, self->channels * (self->taps - 1),
                         "the last inputs do not fit", error));
    if (!zm_is_set(arguments->memory)) return ZMLX_OK;
    if (mlx_array_dtype(arguments->memory) != MLX_FLOAT32) return refuse(error, "the state is not in float32");
    return add_array(&self->memory, inputs, arguments->memory, state, "the state does not fit", error);
}

static zmlx_status check_numbers(const zm_delta_net_arguments *arguments, zmlx_error *error) {
    if (arguments->n_in_proj != 2 && arguments->n_in_proj != 4) return refuse(error, "it has neither 2 nor 4 maps in");
    if (arguments->n_k_heads < 1 || arguments->n_v_heads < 1 || arguments->n_v_heads % arguments->n_k_heads)
        return refuse(error, "the value heads are no multiple of the key heads");
    if (arguments->head_k_dim < 1 || arguments->head_k_dim % ZM_HEAD_UNIT || arguments->head_v_dim < 1)
        return refuse(error, "the size of key heads is no multiple of 16");
    return arguments->taps < 2 ? refuse(error, "a convolution of one tap") : ZMLX_OK;
}

static zmlx_status add_projections(delta_net *self, zm_inputs *inputs, const zm_delta_net_arguments *arguments,
                                   zmlx_error *error) {
    size_t heads = self->n_v_heads, joint[] = {self->channels + self->values, 2 * heads};
    size_t separate[] = {self->channels, self->values, heads, heads};
    bool fits = true;
    for (int i = 0; i < self->n_in_proj; i++) {
        zm_matrix *matrix = &self->in_proj[i].matrix;
        ZM_TRY(zm_operand_new(&self->in_proj[i], inputs, arguments->in_proj[i], "zmlx.delta_net: in_proj", error));
        fits = fits && matrix->out_features == (self->n_in_proj == 2 ? joint : separate)[i] && matrix->n_experts == 1 &&
               matrix->in_features == self->in_proj[0].matrix.in_features;
    }
    ZM_TRY(zm_operand_new(&self->out_proj, inputs, arguments->out_proj, "zmlx.delta_net: out_proj", error));
    fits = fits && self->out_proj.matrix.in_features == self->values && self->out_proj.matrix.n_experts == 1;
    return fits ? ZMLX_OK : refuse(error, "the projections do not fit together");
}

/* Whether map number i gives b and a, by which a state forgets: small, and a small difference in them stays. */
static bool gives_factors(const delta_net *self, int i) { return i >= self->n_in_proj / 2; }

static zmlx_status make_workspace(delta_net *self, mlx_array x, zmlx_error *error) {
    zm_workspace *workspace = &self->workspace;
    size_t tokens = slice_size(self->n_tokens), widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : self->n_tokens;
    zm_engine exactly = self->engine;
    exactly.precision = ZM_PRECISION_FLOAT32;
    for (int i = 0; i < self->n_in_proj; i++) {
        const zm_matrix *matrix = &self->in_proj[i].matrix;
        self->in_x[i] = zm_prepared_new(gives_factors(self, i) ? exactly : self->engine, matrix);
        bool same = i && zm_matrix_same_order(&self->in_proj[i - 1].matrix, matrix) &&
                    self->in_x[i - 1].order.limbs == self->in_x[i].order.limbs;
        self->in_places[i] =
            same ? self->in_places[i - 1] : zm_workspace_add(workspace, tokens, self->in_x[i].stride);
        self->projected_places[i] = zm_workspace_add(workspace, tokens, matrix->out_features);
    }
    self->out_x = zm_prepared_new(self->engine, &self->out_proj.matrix);
    self->out_place = zm_workspace_add(workspace, tokens, self->out_x.stride);
    self->x_place = zm_workspace_add(workspace, widened, self->in_proj[0].matrix.in_features);
    self->y_place = zm_workspace_add(workspace, widened, self->out_proj.matrix.out_features);
    self->joined_place = zm_workspace_add(workspace, tokens + self->taps - 1, self->channels);
    self->mixed_place = zm_workspace_add(workspace, tokens, self->channels);
    self->heads_place = zm_workspace_add(workspace, tokens, self->values);
    self->factors_place = zm_workspace_add(workspace, 2 * tokens, self->n_v_heads);
    size_t vectors = 2 * self->head_k_dim + self->channels * self->taps + self->head_v_dim + 2 * self->n_v_heads;
    self->vectors_place = zm_workspace_add(workspace, 1, vectors + 3 * ZM_MAX_LANES);
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

static void add_outputs(zm_step *step, const delta_net *self, mlx_array x) {
    zm_step_add_first(step, &self->in_proj[0]);
    zm_step_add_output(step, zm_output_like(x, self->out_proj.matrix.out_features));
    zm_step_add_output(step, (zm_node_output){.shape = {1, (int)self->taps - 1, (int)self->channels},
                                              .n_dims = 3,
                                              .dtype = mlx_array_dtype(x)});
    int heads = (int)self->n_v_heads, rows = (int)self->head_v_dim, columns = (int)self->head_k_dim;
    zm_step_add_output(step, (zm_node_output){.shape = {1, heads, rows, columns},
                                              .n_dims = 4,
                                              .dtype = MLX_FLOAT32,
                                              .replaces = self->memory < 0 ? 0 : self->memory + 1});
}

static zmlx_status set_up(delta_net *self, zm_step *step, const zm_delta_net_arguments *arguments, zm_compute compute,
                          zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    mlx_array x = inputs->arrays[0];
    self->engine = zm_engine_new(compute);
    ZM_TRY(check_numbers(arguments, error));
    self->n_in_proj = arguments->n_in_proj;
    self->n_k_heads = (size_t)arguments->n_k_heads;
    self->n_v_heads = (size_t)arguments->n_v_heads;
    self->head_k_dim = (size_t)arguments->head_k_dim;
    self->head_v_dim = (size_t)arguments->head_v_dim;
    self->taps = (size_t)arguments->taps;
    self->values = self->n_v_heads * self->head_v_dim;
    self->channels = 2 * self->n_k_heads * self->head_k_dim + self->values;
    self->norm_eps = arguments->norm_eps;
    ZM_TRY(add_projections(self, inputs, arguments, error));
    ZM_TRY(zm_check_activations(x, self->in_proj[0].matrix.in_features, delta_net_class.name, error));
    if (mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, delta_net_class.name, "the input is not one sequence");
    self->n_tokens = zm_token_count(x, self->in_proj[0].matrix.in_features);
    ZM_TRY(add_arrays(self, inputs, arguments, error));
    add_outputs(step, self, x);
    return make_workspace(self, x, error);
}

zmlx_status zm_delta_net_step(zm_step *step, mlx_array x, const zm_delta_net_arguments *arguments, zm_compute compute,
                              zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &delta_net_class, sizeof(delta_net), x, error));
    return zm_step_end(step, set_up(step->state, step, arguments, compute, error));
}

mlx_array zm_fused_delta_net(zm_scope *scope, mlx_array *last, mlx_array *memory, mlx_array x,
                             const zm_delta_net_arguments *arguments, zm_compute compute) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_delta_net_step(&step, x, arguments, compute, &scope->failure))
        zm_step_apply(scope, results, &step);
    *last = results[1];
    *memory = results[2];
    return results[0];
}
