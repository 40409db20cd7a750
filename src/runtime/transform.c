/* SPDX-License-Identifier: MIT */
/* What MLX's transformations make of an application: another kernel's application. */
#include <string.h>

#include "runtime/kernel.h"

/* The inputs of a derived kernel, from MLX's arrays. */
static void collect_inputs(mlx_array *inputs, const zm_derived *derived, const mlx_array *primals,
                           const mlx_array *results, const mlx_array *cotangents, const mlx_array *tangents) {
    for (int i = 0; i < derived->kernel->forward->n_inputs; i++) {
        int index = derived->origins[i].index;
        switch (derived->origins[i].kind) {
        case ZM_ORIGIN_PRIMAL: inputs[i] = primals[index]; break;
        case ZM_ORIGIN_RESULT: inputs[i] = results[index]; break;
        case ZM_ORIGIN_COTANGENT: inputs[i] = cotangents[index]; break;
        case ZM_ORIGIN_TANGENT: inputs[i] = tangents[index]; break;
        }
    }
}

/* Tangents and arguments by the number of the input. The scalars of Metal, an input past the kernel's, have none. */
static uint64_t sort_arguments(mlx_array *by_input, const zm_ir *ir, const int *argument_numbers, int n_arguments,
                        const mlx_array *values) {
    uint64_t mask = 0;
    for (int i = 0; i < n_arguments; i++) {
        if (argument_numbers[i] >= ir->n_inputs) continue;
        mask |= (uint64_t)1 << argument_numbers[i];
        if (values) by_input[argument_numbers[i]] = values[i];
    }
    return mask;
}

static bool results_are_exact(const zm_application *application) {
    const zm_ir *ir = application->kernel->forward;
    for (int i = 0; i < ir->n_outputs; i++)
        if (application->variant->storages[ir->n_inputs + i] != ZM_STORAGE_FLOAT32) return false;
    return true;
}

zmlx_status zm_kernel_call_vjp(mlx_array *gradients, zmlx_kernel *kernel, const zm_shape *shape,
                               const zm_numbers *numbers, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, const mlx_array *cotangents, const mlx_array *results,
                               bool use_results, mlx_stream stream, zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    const zm_derived *derived;
    uint64_t wanted = sort_arguments(NULL, ir, argument_numbers, n_arguments, NULL);
    ZM_TRY(zm_kernel_derive(&derived, kernel, ZM_DERIVATION_VJP, wanted, use_results, error));
    const zm_ir *gradient_ir = derived->kernel->forward;
    mlx_array inputs[ZM_IR_MAX_INPUTS], outputs[ZM_IR_MAX_INPUTS] = {{NULL}};
    mlx_dtype types[ZM_IR_MAX_INPUTS];
    collect_inputs(inputs, derived, primals, results, cotangents, NULL);
    for (int i = 0; i < ir->n_inputs; i++) {
        int output = derived->gradient_outputs[i];
        if (output < 0) continue;
        bool is_summed = kernel->data_inputs && !(kernel->data_inputs >> i & 1);
        bool direct = ir->inputs[i].type == ZM_TYPE_FLOAT && !is_summed &&
                      zm_shape_is_output(shape, gradient_ir->outputs[output].level, primals[i]);
        types[output] = direct ? mlx_array_dtype(primals[i]) : MLX_FLOAT32; /* sums are float32 */
    }
    zm_call call = {inputs, shape, types, numbers};
    ZM_TRY(zm_kernel_call(derived->kernel, outputs, &call, stream, error));

    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < gradient_ir->n_outputs; i++) zm_scope_own(&scope, outputs[i]);
    for (int i = 0; i < n_arguments; i++) {
        int number = argument_numbers[i];
        mlx_array gradient = number < ir->n_inputs ? zm_shape_sum_to(&scope, outputs[derived->gradient_outputs[number]],
                                                                    primals[number])
                                                   : primals[number]; /* Metal's scalars: nobody asks */
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    return zm_scope_end(&scope, error);
}

zmlx_status zm_application_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, int n_primals, const mlx_array *cotangents,
                               const mlx_array *results, int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)n_results;
    const zm_application *application = state;
    return zm_kernel_call_vjp(gradients, application->kernel, &application->shape, &application->numbers,
                              argument_numbers, n_arguments, primals, cotangents, results,
                              results_are_exact(application), stream, error);
}

zmlx_status zm_application_jvp(const void *state, mlx_array *result_tangents, int n_results,
                               const int *argument_numbers, int n_arguments, const mlx_array *primals, int n_primals,
                               const mlx_array *tangents, mlx_stream stream, zmlx_error *error) {
    (void)n_primals;
    const zm_application *application = state;
    const zm_ir *ir = application->kernel->forward;
    const zm_derived *derived;
    mlx_array by_input[ZM_IR_MAX_INPUTS] = {{NULL}}, inputs[ZM_IR_MAX_INPUTS];
    mlx_dtype types[ZM_IR_MAX_OUTPUTS];
    uint64_t given = sort_arguments(by_input, ir, argument_numbers, n_arguments, tangents);
    ZM_TRY(zm_kernel_derive(&derived, application->kernel, ZM_DERIVATION_JVP, given, false, error));
    collect_inputs(inputs, derived, primals, NULL, NULL, by_input);
    for (int i = 0; i < n_results; i++)
        types[i] = zm_dtype_from_storage(application->variant->storages[ir->n_inputs + i]);
    zm_call call = {inputs, &application->shape, types, &application->numbers};
    return zm_kernel_call(derived->kernel, result_tangents, &call, stream, error);
}

/* input with its batch axis first and as many dimensions as the whole array, so that it broadcasts with the others. */
static mlx_array lead_with_batch(zm_scope *scope, mlx_array input, int axis, int n_dims) {
    int n_own = (int)mlx_array_ndim(input), axes[ZM_NODE_MAX_DIMS + 1], shape[ZM_NODE_MAX_DIMS + 1], place = 0;
    axes[place++] = axis;
    for (int i = 0; i < n_own; i++)
        if (i != axis) axes[place++] = i;
    mlx_array moved = zm_transpose(scope, input, axes, n_own);
    shape[0] = mlx_array_dim(input, axis);
    for (int i = 1; i < n_dims; i++) {
        int own = i - (n_dims - n_own);
        shape[i] = own >= 1 ? mlx_array_dim(input, axes[own]) : 1;
    }
    return zm_reshape(scope, moved, shape, n_dims);
}

zmlx_status zm_application_vmap(const void *state, mlx_array *results, int *result_axes, int n_results,
                                const mlx_array *inputs, const int *axes, int n_inputs, mlx_stream stream,
                                zmlx_error *error) {
    (void)n_inputs;
    const zm_application *application = state;
    const zm_ir *ir = application->kernel->forward;
    const zm_shape *shape = &application->shape;
    mlx_array batched[ZM_IR_MAX_INPUTS];
    mlx_dtype types[ZM_IR_MAX_OUTPUTS];
    if (shape->n_dims == ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, ir->name, "more than %d dimensions", ZM_NODE_MAX_DIMS);
    zm_shape whole = {.n_dims = shape->n_dims + 1, .is_scalar = shape->is_scalar, .dims = {1}};
    memcpy(whole.dims + 1, shape->dims, (size_t)shape->n_dims * sizeof(int));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < ir->n_inputs; i++) {
        batched[i] = inputs[i];
        if (axes[i] < 0) continue;
        bool lacks_last = ir->inputs[i].level == ZM_LEVEL_ROW || shape->is_scalar;
        whole.dims[0] = mlx_array_dim(inputs[i], axes[i]);
        batched[i] = lead_with_batch(&scope, inputs[i], axes[i], whole.n_dims - lacks_last);
    }
    for (int i = 0; i < n_results; i++) {
        types[i] = zm_dtype_from_storage(application->variant->storages[ir->n_inputs + i]);
        result_axes[i] = 0;
    }
    zm_call call = {batched, &whole, types, &application->numbers};
    zmlx_status status =
        zm_scope_failed(&scope) ? ZMLX_ERROR_MLX : zm_kernel_call(application->kernel, results, &call, stream, error);
    zmlx_status graph = zm_scope_end(&scope, error);
    return graph ? graph : status;
}
