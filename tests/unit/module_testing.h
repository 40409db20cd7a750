/* SPDX-License-Identifier: MIT */
/* Small module trees with random weights, built by hand, and their outputs as floats. */
#ifndef ZM_TESTS_MODULE_TESTING_H
#define ZM_TESTS_MODULE_TESTING_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "mlx/streams.h"
#include "model/model.h"
#include "patch/record.h"

enum { HIDDEN = 64, INTERMEDIATE = 96, N_EXPERTS = 8, TOP_K = 3, GROUP_SIZE = 32 };

static zmlx_model model; /* family, device, dtype, stream, pool, arena; no checkpoint behind it */

static inline void check(zmlx_status status, const zmlx_error *error) {
    if (status) fail_msg("%s: %s", error->where, error->message);
}

static inline void end_scope(zm_scope *scope) {
    zmlx_error error = {0};
    check(zm_scope_end(scope, &error), &error);
}

static inline int open_model(void **state) {
    (void)state;
    zmlx_error error;
    model =
        (zmlx_model){.family = zm_family_find("lfm2_moe"), .device = ZMLX_DEVICE_CPU, .dtype = MLX_FLOAT32};
    model.arena = zm_arena_new();
    return !model.arena || zm_stream_new(&model.stream, MLX_CPU, &error) ||
           zm_pool_new(&model.pool, 2, &error);
}

static inline int close_model(void **state) {
    (void)state;
    zmlx_unpatch(&model);
    if (model.root) zm_module_release(&model.root->base);
    zm_pool_free(model.pool);
    zm_stream_free(model.stream);
    zm_arena_free(model.arena);
    model = (zmlx_model){0};
    return 0;
}

/* Numbers in [-size, size), the same on every machine. */
static inline void random_floats(float *values, size_t count, uint32_t seed, float size) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = size * ((float)(seed >> 8) * 0x1p-23f - 1.0f);
    }
}

static inline mlx_array random_array(const int *shape, int n_dims, uint32_t seed, float size) {
    size_t count = 1;
    for (int i = 0; i < n_dims; i++) count *= (size_t)shape[i];
    float *values = malloc(count * sizeof *values);
    assert_non_null(values);
    random_floats(values, count, seed, size);
    mlx_array array = mlx_array_new_data(values, shape, n_dims, MLX_FLOAT32);
    free(values);
    return array;
}

static inline void init_module(zm_module *module, zm_module_kind kind, zm_module *parent, const char *name) {
    zmlx_error error;
    check(zm_module_init(module, kind, parent, name, zm_standard_forward(kind), model.arena, &error), &error);
}

static inline void declare(zm_module *module, const char *name, mlx_array *slot) {
    zmlx_error error;
    check(zm_module_add_parameter(module, name, slot, model.arena, &error), &error);
}

/* bits 0: dense. n_experts 0: one matrix. */
static inline zm_linear *new_linear(zm_module *parent, const char *name, int in, int out, int n_experts,
                                    int bits) {
    static uint32_t seed = 1;
    zm_linear *linear = zm_arena_alloc(model.arena, 1, sizeof *linear);
    init_module(&linear->base, n_experts ? ZM_MODULE_SWITCH_LINEAR : ZM_MODULE_LINEAR, parent, name);
    zm_weight *weight = &linear->weight;
    *weight = (zm_weight){.in_features = in, .out_features = out, .n_experts = n_experts};
    int shape[3] = {n_experts, out, in};
    mlx_array dense =
        random_array(n_experts ? shape : shape + 1, n_experts ? 3 : 2, seed++, 2.0f / sqrtf((float)in));
    if (!bits) {
        weight->weight = dense;
    } else {
        mlx_vector_array parts = mlx_vector_array_new();
        mlx_optional_int group_size = {GROUP_SIZE, true}, width = {bits, true};
        assert_int_equal(
            mlx_quantize(&parts, dense, group_size, width, "affine", mlx_array_empty, model.stream), 0);
        mlx_vector_array_get(&weight->weight, parts, 0);
        mlx_vector_array_get(&weight->scales, parts, 1);
        mlx_vector_array_get(&weight->biases, parts, 2);
        assert_int_equal(mlx_eval(parts), 0);
        mlx_vector_array_free(parts);
        mlx_array_free(dense);
        weight->quantization = (zm_quantization){GROUP_SIZE, bits, "affine"};
        declare(&linear->base, "scales", &weight->scales);
        declare(&linear->base, "biases", &weight->biases);
    }
    declare(&linear->base, "weight", &weight->weight);
    declare(&linear->base, "bias", &weight->bias);
    return linear;
}

static inline zm_gated_mlp *new_mlp(zm_module *parent, const char *name, zm_activation activation, int bits) {
    zm_gated_mlp *mlp = zm_arena_alloc(model.arena, 1, sizeof *mlp);
    init_module(&mlp->base, ZM_MODULE_GATED_MLP, parent, name);
    mlp->gate_proj = new_linear(&mlp->base, "gate_proj", HIDDEN, INTERMEDIATE, 0, bits);
    mlp->up_proj = new_linear(&mlp->base, "up_proj", HIDDEN, INTERMEDIATE, 0, bits);
    mlp->down_proj = new_linear(&mlp->base, "down_proj", INTERMEDIATE, HIDDEN, 0, bits);
    mlp->activation = activation;
    return mlp;
}

static inline zm_moe *new_moe(zm_module *parent, const char *name, zm_gating gating, int bits) {
    zm_moe *moe = zm_arena_alloc(model.arena, 1, sizeof *moe);
    zm_switch_glu *experts = zm_arena_alloc(model.arena, 1, sizeof *experts);
    init_module(&moe->base, ZM_MODULE_MOE, parent, name);
    moe->router = new_linear(&moe->base, "gate", HIDDEN, N_EXPERTS, 0, bits);
    init_module(&experts->base, ZM_MODULE_SWITCH_GLU, &moe->base, "switch_mlp");
    experts->gate_proj = new_linear(&experts->base, "gate_proj", HIDDEN, INTERMEDIATE, N_EXPERTS, bits);
    experts->up_proj = new_linear(&experts->base, "up_proj", HIDDEN, INTERMEDIATE, N_EXPERTS, bits);
    experts->down_proj = new_linear(&experts->base, "down_proj", INTERMEDIATE, HIDDEN, N_EXPERTS, bits);
    bool oai = gating == ZM_GATING_TOP_K_THEN_SOFTMAX_HIGH;
    experts->activation = oai ? ZM_ACTIVATION_SWIGLU_OAI : ZM_ACTIVATION_SWIGLU;
    moe->experts = experts;
    moe->gating = gating;
    moe->n_experts = N_EXPERTS;
    moe->top_k = TOP_K;
    moe->normalize_top_k = gating == ZM_GATING_SIGMOID_BIAS || gating == ZM_GATING_SOFTMAX_THEN_TOP_K;
    moe->routed_scaling_factor = 1;
    if (gating == ZM_GATING_SIGMOID_BIAS) {
        int shape[1] = {N_EXPERTS};
        moe->normalize_epsilon = 1e-6f;
        moe->routed_scaling_factor = 1.5f;
        moe->expert_bias = random_array(shape, 1, 99, 0.2f);
        declare(&moe->base, "expert_bias", &moe->expert_bias);
    }
    return moe;
}

static inline zm_norm *new_norm(zm_module *parent, const char *name) {
    zm_norm *norm = zm_arena_alloc(model.arena, 1, sizeof *norm);
    int shape[1] = {HIDDEN};
    init_module(&norm->base, ZM_MODULE_RMS_NORM, parent, name);
    norm->weight = random_array(shape, 1, 55, 1);
    norm->eps = 1e-5f;
    declare(&norm->base, "weight", &norm->weight);
    return norm;
}

static inline zm_short_conv *new_short_conv(zm_module *parent, const char *name, int bits) {
    zm_short_conv *module = zm_arena_alloc(model.arena, 1, sizeof *module);
    zm_depthwise_conv *conv = zm_arena_alloc(model.arena, 1, sizeof *conv);
    int shape[3] = {HIDDEN, 3, 1};
    init_module(&module->base, ZM_MODULE_SHORT_CONV, parent, name);
    module->hidden_size = HIDDEN;
    module->in_proj = new_linear(&module->base, "in_proj", HIDDEN, 3 * HIDDEN, 0, bits);
    module->out_proj = new_linear(&module->base, "out_proj", HIDDEN, HIDDEN, 0, bits);
    init_module(&conv->base, ZM_MODULE_CONV1D, &module->base, "conv");
    conv->weight = random_array(shape, 3, 56, 1);
    conv->channels = HIDDEN;
    conv->taps = 3;
    declare(&conv->base, "weight", &conv->weight);
    module->conv = conv;
    return module;
}

static struct {
    zm_causal_lm root;
    zm_gated_mlp *swiglu, *geglu, *dense;
    zm_moe *moe[4];
    zm_short_conv *conv;
    zm_norm *norm;
    zm_linear *head, *plain, *odd;
} tree;

/* Opens the model and gives it a tree of every kind that patterns know. */
static inline int open_tree(void **state) {
    if (open_model(state)) return 1;
    memset(&tree, 0, sizeof tree);
    zm_module *root = &tree.root.base;
    init_module(root, ZM_MODULE_CAUSAL_LM, NULL, "");
    model.root = &tree.root;
    tree.swiglu = new_mlp(root, "swiglu", ZM_ACTIVATION_SWIGLU, 4);
    tree.geglu = new_mlp(root, "geglu", ZM_ACTIVATION_GEGLU, 8);
    tree.dense = new_mlp(root, "dense", ZM_ACTIVATION_SWIGLU, 0);
    static const char *const names[4] = {"moe0", "moe1", "moe2", "moe3"};
    for (int i = 0; i < 4; i++) tree.moe[i] = new_moe(root, names[i], (zm_gating)i, i == 1 ? 0 : 4);
    tree.conv = new_short_conv(root, "conv", 4);
    tree.norm = new_norm(root, "norm");
    tree.head = new_linear(root, "head", HIDDEN, 160, 0, 4);
    tree.plain = new_linear(root, "plain", HIDDEN, HIDDEN, 0, 0);
    tree.odd = new_linear(root, "odd", HIDDEN, HIDDEN, 0, 4);
    tree.odd->weight.quantization.mode = "nvfp4";
    return 0;
}

/* As an adapter would be: another forward around the standard one. */
static inline mlx_array doubling_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    mlx_array y = zm_standard_forward(self->kind)(self, scope, x, call);
    return zm_add(scope, y, y);
}

/* The output of module for a (n_rows, n_columns, HIDDEN) input made from seed; the caller frees. */
static inline float *output_of(zm_module *module, int n_rows, int n_columns, uint32_t seed, size_t *count) {
    int shape[3] = {n_rows, n_columns, HIDDEN};
    zm_call call = {.mask = {.mode = ""}};
    zm_scope scope;
    zm_scope_begin(&scope, model.stream);
    mlx_array x = zm_scope_own(&scope, random_array(shape, 3, seed, 1.5f)), y = {0};
    zm_scope_keep(&scope, &y, zm_contiguous(&scope, zm_module_call(module, &scope, x, &call)));
    end_scope(&scope);
    assert_int_equal(mlx_array_eval(y), 0);
    assert_int_equal(mlx_array_dtype(y), MLX_FLOAT32);
    *count = mlx_array_size(y);
    float *copy = malloc(*count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, mlx_array_data_float32(y), *count * sizeof *copy);
    mlx_array_free(y);
    return copy;
}

/* Largest difference relative to the largest value. */
static inline double relative_error(const float *a, const float *b, size_t count) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < count; i++) {
        difference = fmax(difference, fabs((double)a[i] - (double)b[i]));
        size = fmax(size, fabs((double)b[i]));
    }
    assert_true(size > 0);
    return difference / size;
}

#endif
