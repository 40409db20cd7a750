/* SPDX-License-Identifier: MIT */
/* Gated units of one array: a part reads its halves where they lie and writes their gradients side by side. */
#include <string.h>

#include "kernels/compose.h"
#include "mlx/custom.h"
#include "mlx/gpu.h"
#include "zmlx/kernel_tools.h"

/* Inputs of the part: the halves of x, then those of the bias, each read where it lies. */
typedef struct halves {
    mlx_array arrays[4];
    int32_t layouts[4];
    zm_shape shape; /* of a half of x */
} halves;

static halves halves_of(const mlx_array *inputs, int n_inputs) {
    halves made = {.shape = {.n_dims = (int)mlx_array_ndim(inputs[0])}};
    for (int i = 0; i < 2 * n_inputs; i++) {
        made.arrays[i] = inputs[i / 2];
        made.layouts[i] = ZM_LAYOUT_HALF | (i % 2 ? ZM_LAYOUT_SECOND : 0);
    }
    memcpy(made.shape.dims, mlx_array_shape(inputs[0]), (size_t)made.shape.n_dims * sizeof(int));
    made.shape.dims[made.shape.n_dims - 1] /= 2;
    return made;
}

/* Metal's texts read whole arrays. */
static halves copies_of(zm_scope *scope, const mlx_array *inputs, int n_inputs) {
    halves made = halves_of(inputs, n_inputs);
    for (int i = 0; i < 2 * n_inputs; i++) {
        int size = zm_dim(inputs[i / 2], -1) / 2;
        made.arrays[i] = zm_slice_axis(scope, inputs[i / 2], -1, i % 2 * size, (i % 2 + 1) * size, 1);
        made.layouts[i] = 0;
    }
    return made;
}

static halves take_halves(zm_scope *scope, const mlx_array *inputs, int n_inputs) {
    bool copies = !zm_scope_is_on_cpu(scope) && zm_gpu_get(NULL) == ZM_GPU_METAL;
    return copies ? copies_of(scope, inputs, n_inputs) : halves_of(inputs, n_inputs);
}

static bool are_read_in_place(const halves *parts) { return parts->layouts[0] != 0; }

/* The gradient of x alone: both halves of it are written side by side. */
static zmlx_status differentiate_in_place(mlx_array *gradient, zmlx_kernel *kernel, const halves *parts,
                                          mlx_array cotangent, mlx_stream stream, zmlx_error *error) {
    const zm_derived *derived;
    mlx_array arrays[ZM_IR_MAX_INPUTS];
    int32_t layouts[ZM_IR_MAX_INPUTS] = {0};
    ZM_TRY(zm_kernel_derive(&derived, kernel, ZM_DERIVATION_VJP, 3, false, error));
    for (int i = 0; i < derived->kernel->forward->n_inputs; i++) {
        bool is_primal = derived->origins[i].kind == ZM_ORIGIN_PRIMAL;
        arrays[i] = is_primal ? parts->arrays[derived->origins[i].index] : cotangent;
        if (is_primal) layouts[i] = parts->layouts[derived->origins[i].index];
    }
    mlx_dtype dtype = mlx_array_dtype(cotangent), types[] = {dtype, dtype};
    zm_call call = {.inputs = arrays,
                    .shape = &parts->shape,
                    .output_types = types,
                    .halves = layouts,
                    .joins_outputs = true};
    return zm_kernel_call(derived->kernel, gradient, &call, stream, error);
}

static zmlx_status differentiate(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                 const mlx_array *cotangents, int n_outputs, mlx_stream stream, zmlx_error *error) {
    (void)n_outputs;
    const zm_kernel_entry *const *part = context;
    mlx_array made[4] = {{NULL}};
    zmlx_kernel *kernel;
    zm_scope scope;
    ZM_TRY(zm_catalog_kernel(&kernel, *part, error));
    zm_scope_begin(&scope, stream);
    halves parts = take_halves(&scope, inputs, n_inputs);
    if (n_inputs == 1 && are_read_in_place(&parts)) {
        zmlx_status done = differentiate_in_place(&gradients[0], kernel, &parts, cotangents[0], stream, error);
        zmlx_status ended = zm_scope_end(&scope, done ? NULL : error);
        return done ? done : ended;
    }
    parts = copies_of(&scope, inputs, n_inputs);
    zmlx_status status = zm_scope_failed(&scope)
                             ? ZMLX_ERROR_MLX
                             : zmlx_kernel_apply_gradient(kernel, made, parts.arrays, (size_t)(2 * n_inputs),
                                                          cotangents, 1, NULL, stream, error);
    for (int i = 0; i < 2 * n_inputs && !status; i++) zm_scope_own(&scope, made[i]);
    for (int i = 0; i < n_inputs && !status; i++)
        zm_scope_keep(&scope, &gradients[i], zm_concatenate(&scope, made[2 * i], made[2 * i + 1], -1));
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

/* The part on the halves. */
static zmlx_status evaluate(const void *context, mlx_array *outputs, const mlx_array *inputs, int n_inputs,
                            mlx_stream stream, zmlx_error *error) {
    const zm_kernel_entry *const *part = context;
    zmlx_kernel *kernel;
    zm_scope scope;
    ZM_TRY(zm_catalog_kernel(&kernel, *part, error));
    zm_scope_begin(&scope, stream);
    halves parts = take_halves(&scope, inputs, n_inputs);
    zm_call call = {.inputs = parts.arrays, .shape = &parts.shape, .halves = parts.layouts};
    zmlx_status status =
        zm_scope_failed(&scope) ? ZMLX_ERROR_MLX : zm_kernel_call(kernel, outputs, &call, stream, error);
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

static void split(zm_catalog_call *call, const char *name, int n_inputs) {
    const zm_kernel_entry *part = zm_catalog_lookup(name);
    mlx_array inputs[2], made = mlx_array_new();
    zmlx_error error;
    inputs[0] = call->inputs[0];
    if (n_inputs > 1) {
        bool widens = zm_parameters_are_float32(call) || zm_scope_is_on_cpu(call->scope);
        mlx_dtype dtype = widens ? MLX_FLOAT32 : call->data_type;
        inputs[1] = zm_astype(call->scope, call->inputs[1], dtype);
    }
    if (!zm_scope_failed(call->scope) && (evaluate(&part, &made, inputs, n_inputs, call->scope->stream, &error) ||
                                          zm_custom_vjp(&made, 1, inputs, n_inputs, call->where, differentiate,
                                                        evaluate, &part, sizeof part, call->scope->stream, &error)))
        zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
    call->outputs[0] = zm_scope_own(call->scope, made);
}

void zm_compose_swiglu(zm_catalog_call *call) { split(call, "swiglu2", 1); }
void zm_compose_geglu(zm_catalog_call *call) { split(call, "geglu2", 1); }
void zm_compose_bias_swiglu(zm_catalog_call *call) { split(call, "biased_swiglu", 2); }
void zm_compose_bias_geglu(zm_catalog_call *call) { split(call, "biased_geglu", 2); }
