/* SPDX-License-Identifier: MIT */
/* Gated units of one array: the halves go to a part as arrays of their own; their gradients come back as one array. */
#include "kernels/compose.h"
#include "mlx/custom.h"
#include "zmlx/kernel_tools.h"

/* inputs of the part: the halves of x, then those of the bias. */
static void take_halves(zm_scope *scope, mlx_array *halves, const mlx_array *inputs, int n_inputs) {
    for (int i = 0; i < 2 * n_inputs; i++) {
        int size = zm_dim(inputs[i / 2], -1) / 2;
        halves[i] = zm_slice_axis(scope, inputs[i / 2], -1, i % 2 * size, (i % 2 + 1) * size, 1);
    }
}

static zmlx_status differentiate(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                 const mlx_array *cotangents, int n_outputs, mlx_stream stream, zmlx_error *error) {
    (void)n_outputs;
    const zm_kernel_entry *const *part = context;
    mlx_array halves[4] = {{NULL}}, made[4] = {{NULL}};
    zmlx_kernel *kernel;
    zm_scope scope;
    ZM_TRY(zm_catalog_kernel(&kernel, *part, error));
    zm_scope_begin(&scope, stream);
    take_halves(&scope, halves, inputs, n_inputs);
    zmlx_status status = zm_scope_failed(&scope) ? ZMLX_ERROR_MLX
                                                 : zmlx_kernel_apply_gradient(kernel, made, halves, (size_t)(2 * n_inputs),
                                                                              cotangents, 1, NULL, stream, error);
    for (int i = 0; i < 2 * n_inputs && !status; i++) zm_scope_own(&scope, made[i]);
    for (int i = 0; i < n_inputs && !status; i++)
        zm_scope_keep(&scope, &gradients[i], zm_concatenate(&scope, made[2 * i], made[2 * i + 1], -1));
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

/* The part on the halves. */
static zmlx_status evaluate(const void *context, mlx_array *outputs, const mlx_array *inputs, int n_inputs, mlx_stream stream,
                            zmlx_error *error) {
    const zm_kernel_entry *const *part = context;
    mlx_array halves[4] = {{NULL}};
    zmlx_kernel *kernel;
    zm_scope scope;
    ZM_TRY(zm_catalog_kernel(&kernel, *part, error));
    zm_scope_begin(&scope, stream);
    take_halves(&scope, halves, inputs, n_inputs);
    zmlx_status status = zm_scope_failed(&scope)
                             ? ZMLX_ERROR_MLX
                             : zmlx_kernel_apply(kernel, outputs, halves, (size_t)(2 * n_inputs), stream, error);
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

static void split(zm_catalog_call *call, const char *name, int n_inputs) {
    const zm_kernel_entry *part = zm_catalog_lookup(name);
    mlx_array inputs[2], made = mlx_array_new();
    zmlx_error error;
    inputs[0] = call->inputs[0];
    if (n_inputs > 1) {
        mlx_dtype dtype = zm_parameters_are_float32(call) ? MLX_FLOAT32 : call->data_type;
        inputs[1] = zm_astype(call->scope, call->inputs[1], dtype);
    }
    if (!zm_scope_failed(call->scope) &&
        (evaluate(&part, &made, inputs, n_inputs, call->scope->stream, &error) ||
         zm_custom_vjp(&made, 1, inputs, n_inputs, call->where, differentiate, evaluate, &part, sizeof part, call->scope->stream,
                       &error)))
        zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
    call->outputs[0] = zm_scope_own(call->scope, made);
}

void zm_compose_swiglu(zm_catalog_call *call) { split(call, "swiglu2", 1); }
void zm_compose_geglu(zm_catalog_call *call) { split(call, "geglu2", 1); }
void zm_compose_bias_swiglu(zm_catalog_call *call) { split(call, "biased_swiglu", 2); }
void zm_compose_bias_geglu(zm_catalog_call *call) { split(call, "biased_geglu", 2); }
