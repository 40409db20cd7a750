/* SPDX-License-Identifier: MIT */
/* What MLX's transformations make of an application: another kernel's application. */
#include <string.h>

#include "runtime/kernel.h"
#include "runtime/sum_rows.h"

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

/* One row, or one element, for all rows. */
static bool is_vector(mlx_array primal) {
    for (int i = 0; i + 1 < (int)mlx_array_ndim(primal); i++)
        if (mlx_array_dim(primal, i) != 1) return false;
    return mlx_array_ndim(primal) > 0;
}

bool zm_kernel_sums_gradient(const zmlx_kernel *kernel, const zm_ir *gradient, int input, int output) {
    return kernel->forward->inputs[input].type == ZM_TYPE_FLOAT &&
           gradient->outputs[output].level == ZM_LEVEL_ELEMENT && zm_ir_has_rows(gradient) &&
           (!kernel->data_inputs || kernel->vector_inputs >> input & 1);
}

/* Whether the gradient of input i is added up over rows where it is computed. */
static bool is_summed_in_place(const zmlx_kernel *kernel, const zm_ir *gradient, int i, int output,
                               const zm_shape *shape, mlx_array primal) {
    if (!zm_kernel_sums_gradient(kernel, gradient, i, output)) return false;
    return kernel->data_inputs ||
           (is_vector(primal) && !shape->is_scalar && !zm_shape_is_output(shape, ZM_LEVEL_ELEMENT, primal));
}

/* Parts of a sum over rows added up, with as many dimensions as primal has, at least one; in its type unless its one
 * element is for all columns. */
static mlx_array add_parts(zm_scope *scope, mlx_array parts, mlx_array primal) {
    int shape[ZM_NODE_MAX_DIMS], n_dims = (int)mlx_array_ndim(primal) > 0 ? (int)mlx_array_ndim(primal) : 1;
    int columns = zm_dim(parts, 1);
    for (int i = 0; i < n_dims; i++) shape[i] = 1;
    shape[n_dims - 1] = columns;
    bool is_whole = mlx_array_size(primal) == (size_t)columns;
    mlx_array sum = zm_sum_rows(scope, parts, is_whole ? mlx_array_dtype(primal) : MLX_FLOAT32);
    return zm_reshape(scope, sum, shape, n_dims);
}

/* Whether the gradient of an argument is also that of one before it. */
static bool is_repeated(const zm_derived *derived, const int *argument_numbers, int argument, int n_inputs) {
    for (int i = 0; i < argument; i++)
        if (argument_numbers[i] < n_inputs && argument_numbers[argument] < n_inputs &&
            derived->gradient_outputs[argument_numbers[i]] == derived->gradient_outputs[argument_numbers[argument]])
            return true;
    return false;
}

/* MLX takes an array that is given twice for one: it drops the cotangent of the second and moves its batch axis
 * twice. */
static mlx_array as_another(zm_scope *scope, mlx_array a) { return zm_squeeze(scope, zm_expand_dims(scope, a, 0), 0); }

/* Of at most ZM_IR_MAX_OUTPUTS arguments. */
static zmlx_status call_vjp(mlx_array *gradients, zmlx_kernel *kernel, const zm_shape *shape, const zm_numbers *numbers,
                            const int *argument_numbers, int n_arguments, const mlx_array *primals,
                            const mlx_array *cotangents, const mlx_array *results, bool use_results, mlx_stream stream,
                            zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    const zm_derived *derived;
    uint64_t wanted = sort_arguments(NULL, ir, argument_numbers, n_arguments, NULL);
    const zm_scope where = {.stream = stream};
    /* One kernel that is compiled ahead for all that may be asked. */
    if (kernel->data_inputs && zm_scope_is_on_cpu(&where)) wanted |= zm_kernel_float_inputs(kernel);
    ZM_TRY(zm_kernel_derive(&derived, kernel, ZM_DERIVATION_VJP, wanted, use_results, error));
    const zm_ir *gradient_ir = derived->kernel->forward;
    mlx_array inputs[ZM_IR_MAX_INPUTS], outputs[ZM_IR_MAX_INPUTS] = {{NULL}};
    mlx_dtype types[ZM_IR_MAX_INPUTS];
    uint32_t summed = 0;
    collect_inputs(inputs, derived, primals, results, cotangents, NULL);
    for (int i = 0; i < ir->n_inputs; i++) {
        int output = derived->gradient_outputs[i];
        if (output < 0) continue;
        bool is_summed = kernel->data_inputs && !(kernel->data_inputs >> i & 1);
        bool direct = ir->inputs[i].type == ZM_TYPE_FLOAT && !is_summed &&
                      zm_shape_is_output(shape, gradient_ir->outputs[output].level, primals[i]);
        types[output] = direct ? mlx_array_dtype(primals[i]) : MLX_FLOAT32; /* sums are float32 */
        if (is_summed_in_place(kernel, gradient_ir, i, output, shape, primals[i])) summed |= (uint32_t)1 << output;
    }
    zm_call call = {.inputs = inputs,
                    .shape = shape,
                    .output_types = types,
                    .numbers = numbers,
                    .summed_outputs = summed};
    ZM_TRY(zm_kernel_call(derived->kernel, outputs, &call, stream, error));

    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < gradient_ir->n_outputs; i++) zm_scope_own(&scope, outputs[i]);
    for (int i = 0; i < ir->n_inputs; i++) {
        int output = derived->gradient_outputs[i];
        if (output < 0 || !(summed >> output & 1)) continue;
        outputs[output] = add_parts(&scope, outputs[output], primals[i]);
        summed &= ~((uint32_t)1 << output);
    }
    for (int i = 0; i < n_arguments; i++) {
        int number = argument_numbers[i];
        mlx_array gradient = number < ir->n_inputs ? zm_shape_sum_to(&scope, outputs[derived->gradient_outputs[number]],
                                                                     primals[number])
                                                   : primals[number]; /* Metal's scalars: nobody asks */
        if (is_repeated(derived, argument_numbers, i, ir->n_inputs)) gradient = as_another(&scope, gradient);
        zm_scope_keep(&scope, &gradients[i], gradient);
    }
    return zm_scope_end(&scope, error);
}

/* A gradient kernel has an output an argument: more of them take several. */
zmlx_status zm_kernel_call_vjp(mlx_array *gradients, zmlx_kernel *kernel, const zm_shape *shape,
                               const zm_numbers *numbers, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, const mlx_array *cotangents, const mlx_array *results,
                               bool use_results, mlx_stream stream, zmlx_error *error) {
    for (int i = 0; i < n_arguments; i += ZM_IR_MAX_OUTPUTS) {
        int count = n_arguments - i < ZM_IR_MAX_OUTPUTS ? n_arguments - i : ZM_IR_MAX_OUTPUTS;
        ZM_TRY(call_vjp(gradients + i, kernel, shape, numbers, argument_numbers + i, count, primals, cotangents,
                        results, use_results, stream, error));
    }
    return ZMLX_OK;
}

/* Full values (..., columns) as parts of a sum over rows: the sum, then zeros. n_batch: leading dimensions to keep. */
static mlx_array make_parts(zm_scope *scope, mlx_array full, int n_batch, int64_t n_parts) {
    while (!zm_scope_failed(scope) && (int)mlx_array_ndim(full) > n_batch + 2)
        full = zm_sum(scope, full, n_batch, false);
    if (zm_scope_failed(scope)) return full;
    if ((int)mlx_array_ndim(full) < n_batch + 2) full = zm_expand_dims(scope, full, n_batch);
    mlx_array sum = zm_sum(scope, full, n_batch, true);
    if (n_parts == 1 || zm_scope_failed(scope)) return sum;
    int shape[3], n_dims = 0;
    if (n_batch) shape[n_dims++] = zm_dim(sum, 0);
    shape[n_dims++] = (int)n_parts - 1;
    shape[n_dims++] = zm_dim(sum, -1);
    return zm_concatenate(scope, sum, zm_zeros(scope, shape, n_dims, MLX_FLOAT32), n_batch);
}

/* The cotangent of a part, that of all, for every row. */
static mlx_array spread_cotangent(zm_scope *scope, mlx_array cotangent, const zm_shape *shape) {
    mlx_array row = zm_slice_axis(scope, cotangent, 0, 0, 1, 1);
    return zm_broadcast_to(scope, zm_squeeze(scope, row, 0), shape->dims, shape->n_dims);
}

/* What an input or an output is for the kernel: the half that is meant. */
static mlx_array take_half(zm_scope *scope, mlx_array whole, int32_t layout) {
    if (!(layout & ZM_LAYOUT_HALF)) return whole;
    int size = zm_dim(whole, -1) / 2, begin = layout & ZM_LAYOUT_SECOND ? size : 0;
    return zm_slice_axis(scope, whole, -1, begin, begin + size, 1);
}

/* The other half is zeros. */
static mlx_array put_half(zm_scope *scope, mlx_array half, int32_t layout) {
    if (!(layout & ZM_LAYOUT_HALF) || zm_scope_failed(scope)) return half;
    mlx_array zeros = zm_zeros(scope, mlx_array_shape(half), (int)mlx_array_ndim(half), mlx_array_dtype(half));
    bool is_second = layout & ZM_LAYOUT_SECOND;
    return zm_concatenate(scope, is_second ? zeros : half, is_second ? half : zeros, -1);
}

static const int32_t joined_layouts[2] = {ZM_LAYOUT_HALF, ZM_LAYOUT_HALF | ZM_LAYOUT_SECOND};

/* Inputs of the kernel from those of the node. */
static void take_inputs(zm_scope *scope, mlx_array *taken, const zm_application *application, const mlx_array *inputs) {
    for (int i = 0; i < application->kernel->forward->n_inputs; i++)
        taken[i] = take_half(scope, inputs[i], application->extent.layouts[i]);
}

/* What was made for two outputs that the node has as one. */
static void join_outputs(zm_scope *scope, mlx_array *made, const zm_application *application) {
    if (!application->joins_outputs) return;
    mlx_array first = zm_scope_own(scope, made[0]), second = zm_scope_own(scope, made[1]);
    made[0] = made[1] = (mlx_array){NULL};
    zm_scope_keep(scope, &made[0], zm_concatenate(scope, first, second, -1));
}

zmlx_status zm_application_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, int n_primals, const mlx_array *cotangents,
                               const mlx_array *results, int n_results, mlx_stream stream, zmlx_error *error) {
    (void)n_primals, (void)n_results;
    const zm_application *application = state;
    mlx_array given[ZM_IR_MAX_OUTPUTS], inputs[ZM_IR_MAX_INPUTS];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    take_inputs(&scope, inputs, application, primals);
    for (int i = 0; i < application->kernel->forward->n_outputs; i++)
        given[i] = application->joins_outputs             ? take_half(&scope, cotangents[0], joined_layouts[i])
                   : application->summed_outputs >> i & 1 ? spread_cotangent(&scope, cotangents[i], &application->shape)
                                                          : cotangents[i];
    bool exact = results_are_exact(application) && !application->summed_outputs && !application->joins_outputs;
    zmlx_status status = zm_scope_failed(&scope)
                             ? ZMLX_ERROR_MLX
                             : zm_kernel_call_vjp(gradients, application->kernel, &application->shape,
                                                  &application->numbers, argument_numbers, n_arguments, inputs, given,
                                                  results, exact, stream, error);
    for (int i = 0; i < n_arguments && !status; i++)
        if (argument_numbers[i] < application->kernel->forward->n_inputs)
            zm_scope_keep(&scope, &gradients[i],
                          put_half(&scope, gradients[i], application->extent.layouts[argument_numbers[i]]));
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

zmlx_status zm_application_jvp(const void *state, mlx_array *result_tangents, int n_results,
                               const int *argument_numbers, int n_arguments, const mlx_array *primals, int n_primals,
                               const mlx_array *tangents, mlx_stream stream, zmlx_error *error) {
    (void)n_primals;
    const zm_application *application = state;
    const zm_ir *ir = application->kernel->forward;
    const zm_derived *derived;
    mlx_array by_input[ZM_IR_MAX_INPUTS] = {{NULL}}, inputs[ZM_IR_MAX_INPUTS], own[ZM_IR_MAX_INPUTS];
    mlx_dtype types[ZM_IR_MAX_OUTPUTS];
    uint64_t given = sort_arguments(by_input, ir, argument_numbers, n_arguments, tangents);
    ZM_TRY(zm_kernel_derive(&derived, application->kernel, ZM_DERIVATION_JVP, given, false, error));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    take_inputs(&scope, own, application, primals);
    for (int i = 0; i < ir->n_inputs; i++)
        if (by_input[i].ctx) by_input[i] = take_half(&scope, by_input[i], application->extent.layouts[i]);
    collect_inputs(inputs, derived, own, NULL, NULL, by_input);
    mlx_array made[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    for (int i = 0; i < ir->n_outputs; i++)
        types[i] = zm_dtype_from_storage(application->variant->storages[ir->n_inputs + i]);
    zm_call call = {.inputs = inputs,
                    .shape = &application->shape,
                    .output_types = types,
                    .numbers = &application->numbers};
    zmlx_status status =
        zm_scope_failed(&scope) ? ZMLX_ERROR_MLX : zm_kernel_call(derived->kernel, made, &call, stream, error);
    for (int i = 0; i < ir->n_outputs && !status; i++)
        if (application->summed_outputs >> i & 1)
            zm_scope_keep(&scope, &made[i], make_parts(&scope, made[i], 0, zm_application_sum_rows(application)));
    if (!status) join_outputs(&scope, made, application);
    for (int i = 0; i < n_results; i++) result_tangents[i] = made[i];
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
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
    mlx_array batched[ZM_IR_MAX_INPUTS], made[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    mlx_dtype types[ZM_IR_MAX_OUTPUTS];
    if (shape->n_dims == ZM_NODE_MAX_DIMS)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, ir->name, "more than %d dimensions", ZM_NODE_MAX_DIMS);
    zm_shape whole = {.n_dims = shape->n_dims + 1, .is_scalar = shape->is_scalar, .dims = {1}};
    memcpy(whole.dims + 1, shape->dims, (size_t)shape->n_dims * sizeof(int));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int i = 0; i < ir->n_inputs; i++) {
        batched[i] = take_half(&scope, inputs[i], application->extent.layouts[i]);
        if (axes[i] < 0) continue;
        bool lacks_last = ir->inputs[i].level == ZM_LEVEL_ROW || shape->is_scalar;
        whole.dims[0] = mlx_array_dim(inputs[i], axes[i]);
        batched[i] = take_half(&scope, lead_with_batch(&scope, inputs[i], axes[i], whole.n_dims - lacks_last),
                               application->extent.layouts[i]);
    }
    for (int i = 0; i < ir->n_outputs; i++)
        types[i] = zm_dtype_from_storage(application->variant->storages[ir->n_inputs + i]);
    for (int i = 0; i < n_results; i++) result_axes[i] = 0;
    zm_call call = {.inputs = batched, .shape = &whole, .output_types = types, .numbers = &application->numbers};
    zmlx_status status =
        zm_scope_failed(&scope) ? ZMLX_ERROR_MLX : zm_kernel_call(application->kernel, made, &call, stream, error);
    for (int i = 0; i < ir->n_outputs && !status; i++)
        if (application->summed_outputs >> i & 1)
            zm_scope_keep(&scope, &made[i], make_parts(&scope, made[i], 1, zm_application_sum_rows(application)));
    if (!status) join_outputs(&scope, made, application);
    for (int i = 0; i < n_results; i++) results[i] = made[i];
    zmlx_status graph = zm_scope_end(&scope, error);
    return graph ? graph : status;
}
