/* SPDX-License-Identifier: MIT */
/* The gated short convolution as a node: in_proj, gate, depthwise convolution over the last inputs, gate,
 * out_proj; and the last inputs as a second output. */
#include <stdlib.h>
#include <string.h>

#include "fused/cpu/product.h"
#include "fused/step.h"

typedef struct short_conv {
    zm_engine engine;
    zm_operand in_proj, out_proj;
    int conv_weight, conv_bias, last; /* indices of inputs; conv_bias, last: -1 for none */
    zm_prepared in_x, out_x;
    size_t n_tokens, size, taps;
    zm_workspace workspace;
    size_t x_place, in_place, projected_place, joined_place, weight_place, bias_place, gated_place, out_place;
    size_t y_place;
} short_conv;

/* The convolution of one evaluation. */
typedef struct convolution {
    const short_conv *self;
    const float *projected;      /* (n_tokens, 3 * size) */
    const float *weight, *bias;  /* (size, taps); (size,) or NULL */
    float *joined, *gated;
} convolution;

/* Of joined (taps - 1 + n_tokens, size), which begins with the last inputs: input gate * x. */
static void join(void *context, size_t begin, size_t end) {
    const convolution *of = context;
    size_t size = of->self->size, kept = (of->self->taps - 1) * size;
    for (size_t t = begin; t < end; t++) {
        const float *gate = of->projected + 3 * t * size, *x = gate + 2 * size;
        float *to = of->joined + kept + t * size;
        for (size_t i = 0; i < size; i++) to[i] = gate[i] * x[i];
    }
}

/* A token of gated: output gate * convolution. Inlined with a constant number of taps, its sums become vectors. */
static inline void convolve_token(const convolution *of, size_t t, size_t taps) {
    size_t size = of->self->size;
    const float *gate = of->projected + (3 * t + 1) * size, *joined = of->joined + t * size, *weight = of->weight;
    float *restrict gated = of->gated + t * size;
    for (size_t i = 0; i < size; i++) {
        float sum = 0;
        for (size_t tap = 0; tap < taps; tap++) sum += weight[i * taps + tap] * joined[tap * size + i];
        gated[i] = gate[i] * (of->bias ? sum + of->bias[i] : sum);
    }
}

/* Of gated (n_tokens, size). */
static void convolve(void *context, size_t begin, size_t end) {
    const convolution *of = context;
    for (size_t t = begin; t < end; t++) {
        if (of->self->taps == 3) convolve_token(of, t, 3);
        else convolve_token(of, t, of->self->taps);
    }
}

static void run_convolution(convolution *of, const zm_view *last) {
    const short_conv *self = of->self;
    size_t grain = zm_value_grain(self->size);
    if (last) zm_copy_floats(self->engine.level, last, of->joined);
    else memset(of->joined, 0, (self->taps - 1) * self->size * sizeof *of->joined);
    zm_pool_run(self->engine.pool, self->n_tokens, grain, join, of);
    zm_pool_run(self->engine.pool, self->n_tokens, grain, convolve, of);
}

static void evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                     int n_outputs) {
    (void)n_inputs;
    (void)n_outputs;
    const short_conv *self = state;
    const zm_cpu_level *level = self->engine.level;
    float *scratch = zm_workspace_open(&self->workspace);
    float *projected = scratch + self->projected_place, *joined = scratch + self->joined_place;
    float *gated = scratch + self->gated_place;
    zm_matrix in_proj = zm_operand_matrix(&self->in_proj, inputs);
    zm_matrix out_proj = zm_operand_matrix(&self->out_proj, inputs);
    zm_prepared in_x = self->in_x, out_x = self->out_x;
    in_x.data = scratch + self->in_place;
    out_x.data = scratch + self->out_place;

    zm_prepare(self->engine, &in_x, zm_read_floats(level, &inputs[0], scratch + self->x_place), self->n_tokens);
    zm_ahead next = {.count = 0};
    zm_engine before = self->engine;
    before.ahead = &next;
    zm_ahead_add(&next, &out_proj, 0);
    zm_product_run(before, &in_proj, &in_x, self->n_tokens, projected);
    convolution conv = {
        .self = self,
        .projected = projected,
        .weight = zm_read_floats(level, &inputs[self->conv_weight], scratch + self->weight_place),
        .joined = joined,
        .gated = gated,
    };
    if (self->conv_bias >= 0) conv.bias = zm_read_floats(level, &inputs[self->conv_bias], scratch + self->bias_place);
    run_convolution(&conv, self->last < 0 ? NULL : &inputs[self->last]);
    float *y = zm_result_floats(&outputs[0], scratch + self->y_place);
    zm_prepare(self->engine, &out_x, gated, self->n_tokens);
    zm_product_run(self->engine, &out_proj, &out_x, self->n_tokens, y);
    zm_round_floats(&outputs[0], y);
    zm_store_floats(&outputs[1], joined + self->n_tokens * self->size);
    zm_workspace_close(&self->workspace);
}

static const zm_node_class short_conv_class = {
    .name = "zmlx.short_conv", .evaluate_cpu = evaluate, .free_state = free};

static zmlx_status check_row(mlx_array array, size_t first, size_t second, const char *what, zmlx_error *error) {
    zm_storage storage;
    size_t n_dims = mlx_array_ndim(array);
    if (!zm_storage_of(&storage, mlx_array_dtype(array)) || n_dims < 1 || mlx_array_size(array) != first * second)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, short_conv_class.name, "the %s does not fit", what);
    return ZMLX_OK;
}

static zmlx_status add_arrays(short_conv *self, zm_inputs *inputs, const zm_short_conv_arguments *arguments,
                              zmlx_error *error) {
    const zm_matrix *in_proj = &self->in_proj.matrix, *out_proj = &self->out_proj.matrix;
    size_t size = self->size;
    if (in_proj->out_features != 3 * size || out_proj->in_features != size || self->taps < 2 ||
        in_proj->n_experts != 1 || out_proj->n_experts != 1)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, short_conv_class.name, "the projections do not fit together");
    ZM_TRY(check_row(arguments->conv_weight, size, self->taps, "convolution's weight", error));
    self->conv_weight = zm_inputs_add(inputs, arguments->conv_weight);
    self->conv_bias = self->last = -1;
    if (zm_is_set(arguments->conv_bias)) {
        ZM_TRY(check_row(arguments->conv_bias, size, 1, "convolution's bias", error));
        self->conv_bias = zm_inputs_add(inputs, arguments->conv_bias);
    }
    if (zm_is_set(arguments->last)) {
        ZM_TRY(check_row(arguments->last, size, self->taps - 1, "state", error));
        self->last = zm_inputs_add(inputs, arguments->last);
    }
    return ZMLX_OK;
}

static zmlx_status make_workspace(short_conv *self, mlx_array x, zmlx_error *error) {
    const zm_matrix *in_proj = &self->in_proj.matrix, *out_proj = &self->out_proj.matrix;
    zm_workspace *workspace = &self->workspace;
    size_t tokens = self->n_tokens, size = self->size;
    size_t widened = mlx_array_dtype(x) == MLX_FLOAT32 ? 0 : tokens;
    self->in_x = zm_prepared_new(self->engine, in_proj);
    self->out_x = zm_prepared_new(self->engine, out_proj);
    self->x_place = zm_workspace_add(workspace, widened, in_proj->in_features);
    self->y_place = zm_workspace_add(workspace, widened, out_proj->out_features);
    self->in_place = zm_workspace_add(workspace, tokens, self->in_x.stride);
    self->out_place = zm_workspace_add(workspace, tokens, self->out_x.stride);
    self->projected_place = zm_workspace_add(workspace, tokens, 3 * size);
    self->joined_place = zm_workspace_add(workspace, tokens + self->taps - 1, size);
    self->gated_place = zm_workspace_add(workspace, tokens, size);
    self->weight_place = zm_workspace_add(workspace, self->taps, size);
    self->bias_place = zm_workspace_add(workspace, 1, size);
    return zm_workspace_reserve(workspace, self->engine.pool, error);
}

static zmlx_status set_up(short_conv *self, zm_step *step, const zm_short_conv_arguments *arguments,
                          zm_compute compute, zmlx_error *error) {
    zm_inputs *inputs = &step->inputs;
    self->engine = zm_engine_new(compute);
    ZM_TRY(zm_operand_new(&self->in_proj, inputs, arguments->in_proj, "zmlx.short_conv: in_proj", error));
    ZM_TRY(zm_operand_new(&self->out_proj, inputs, arguments->out_proj, "zmlx.short_conv: out_proj", error));
    mlx_array x = inputs->arrays[0];
    ZM_TRY(zm_check_activations(x, self->in_proj.matrix.in_features, short_conv_class.name, error));
    if (mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, short_conv_class.name, "the input is not one sequence");
    self->size = self->out_proj.matrix.in_features;
    self->taps = (size_t)arguments->taps;
    self->n_tokens = zm_token_count(x, self->in_proj.matrix.in_features);
    ZM_TRY(add_arrays(self, inputs, arguments, error));
    zm_step_add_first(step, &self->in_proj);
    zm_step_add_output(step, zm_output_like(x, self->out_proj.matrix.out_features));
    zm_step_add_output(step, (zm_node_output){.shape = {1, arguments->taps - 1, (int)self->size},
                                              .n_dims = 3,
                                              .dtype = mlx_array_dtype(x)});
    return make_workspace(self, x, error);
}

zmlx_status zm_short_conv_step(zm_step *step, mlx_array x, const zm_short_conv_arguments *arguments, zm_compute compute,
                               zmlx_error *error) {
    ZM_TRY(zm_step_begin(step, &short_conv_class, sizeof(short_conv), x, error));
    return zm_step_end(step, set_up(step->state, step, arguments, compute, error));
}

mlx_array zm_fused_short_conv(zm_scope *scope, mlx_array *last, mlx_array x,
                              const zm_short_conv_arguments *arguments, zm_compute compute) {
    zm_step step;
    mlx_array results[ZM_STEP_OUTPUTS] = {{NULL}};
    if (!zm_scope_failed(scope) && !zm_short_conv_step(&step, x, arguments, compute, &scope->failure))
        zm_step_apply(scope, results, &step);
    *last = results[1];
    return results[0];
}
