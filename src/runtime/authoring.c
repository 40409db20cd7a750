/* SPDX-License-Identifier: MIT */
/* The public front ends: texts and options to a kernel. */
#include <string.h>

#include "ir/lower.h"
#include "runtime/kernel.h"

static zmlx_status check_options(const char *compute_type, const char *expression, const char *role,
                                 zmlx_error *error) {
    if (compute_type && strcmp(compute_type, "float32"))
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "compute_type", "expected float32, the only one; got %s",
                       compute_type);
    if (!expression) return zm_fail(error, ZMLX_ERROR_ARGUMENT, role, "is missing");
    return ZMLX_OK;
}

/* The kernel of forward, taken over, with the caller's gradients where there are any. */
static zmlx_status finish(zmlx_kernel **kernel, zm_ir *forward, const char *const *gradients, const char *prelude,
                          const char *header, bool input_only, zmlx_error *error) {
    zm_ir *gradient = NULL;
    if (gradients) {
        zmlx_status status = zm_lower_gradient(&gradient, forward, gradients, prelude, header, !input_only, error);
        if (status) {
            zm_ir_free(forward);
            return status;
        }
    }
    return zm_kernel_new(kernel, forward, gradient, error);
}

zmlx_status zmlx_elementwise(zmlx_kernel **kernel, const char *name, const char *expression,
                             const zmlx_elementwise_options *options, zmlx_error *error) {
    static const zmlx_elementwise_options defaults;
    static const char *const input = "x", *const output = "y";
    zm_error_clear(error);
    *kernel = NULL;
    if (!options) options = &defaults;
    ZM_TRY(check_options(options->compute_type, expression, "expr", error));
    zm_map_text text = {.name = name ? name : "elementwise",
                        .outputs = &expression,
                        .output_names = &output,
                        .n_outputs = 1,
                        .input_names = &input,
                        .n_inputs = 1,
                        .header = options->header};
    zm_ir *forward;
    ZM_TRY(zm_lower_map(&forward, &text, error));
    if (zm_ir_has_rows(forward)) {
        zm_ir_free(forward);
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "expr",
                       "it works along rows, so it is not elementwise; use zmlx_map");
    }
    return finish(kernel, forward, options->gradient ? &options->gradient : NULL, options->gradient_prelude,
                  options->header, options->input_only, error);
}

static zmlx_status check_map_options(const zmlx_map_options *options, zmlx_error *error) {
    if (options->n_inputs > ZM_IR_MAX_INPUTS || options->n_parameters > ZM_IR_MAX_PARAMETERS ||
        options->n_seeds > ZM_IR_MAX_PARAMETERS - options->n_parameters)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "options", "at most %d inputs, and %d parameters and seeds together",
                       ZM_IR_MAX_INPUTS, ZM_IR_MAX_PARAMETERS);
    if (options->n_parameters && !options->parameters)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "parameters", "the names are missing");
    if (options->n_seeds && !options->seeds)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "seeds", "the names are missing");
    return ZMLX_OK;
}

zmlx_status zmlx_map(zmlx_kernel **kernel, const char *name, const char *const *expressions, size_t n_expressions,
                     const zmlx_map_options *options, zmlx_error *error) {
    static const zmlx_map_options defaults;
    zm_error_clear(error);
    *kernel = NULL;
    if (!options) options = &defaults;
    if (!expressions || !n_expressions || n_expressions > ZM_IR_MAX_OUTPUTS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "expressions", "expected 1 to %d", ZM_IR_MAX_OUTPUTS);
    ZM_TRY(check_map_options(options, error));
    for (size_t i = 0; i < n_expressions; i++)
        ZM_TRY(check_options(options->compute_type, expressions[i], "expressions", error));
    zm_map_text text = {.name = name ? name : "map",
                        .outputs = expressions,
                        .output_names = options->outputs,
                        .n_outputs = (int)n_expressions,
                        .input_names = options->inputs,
                        .n_inputs = (int)options->n_inputs,
                        .parameter_names = options->parameters,
                        .n_parameters = (int)options->n_parameters,
                        .seed_names = options->seeds,
                        .n_seeds = (int)options->n_seeds,
                        .header = options->header,
                        .prelude = options->prelude};
    zm_ir *forward;
    ZM_TRY(zm_lower_map(&forward, &text, error));
    return finish(kernel, forward, options->gradients, options->gradient_prelude, options->header, options->input_only,
                  error);
}

zmlx_status zmlx_binary(zmlx_kernel **kernel, const char *name, const char *expression, zmlx_error *error) {
    static const char *const inputs[] = {"a", "b"}, *const output = "y";
    zm_error_clear(error);
    *kernel = NULL;
    ZM_TRY(check_options(NULL, expression, "expr", error));
    zm_map_text text = {.name = name ? name : "binary",
                        .outputs = &expression,
                        .output_names = &output,
                        .n_outputs = 1,
                        .input_names = inputs,
                        .n_inputs = 2,
                        .prelude = "const float x = a;"};
    zm_ir *forward;
    ZM_TRY(zm_lower_map(&forward, &text, error));
    return zm_kernel_new(kernel, forward, NULL, error);
}

zmlx_status zmlx_reduce(zmlx_kernel **kernel, const char *name, const char *init, const char *update,
                        const zmlx_reduce_options *options, zmlx_error *error) {
    static const zmlx_reduce_options defaults;
    zm_error_clear(error);
    *kernel = NULL;
    if (!options) options = &defaults;
    ZM_TRY(check_options(options->compute_type, init, "init", error));
    ZM_TRY(check_options(NULL, update, "update", error));
    zm_reduce_text text = {name ? name : "reduce", init,           update, options->finalize, options->combine,
                           options->header};
    zm_ir *forward;
    ZM_TRY(zm_lower_reduce(&forward, &text, error));
    return zm_kernel_new(kernel, forward, NULL, error);
}

static zmlx_status check_threadgroup(int threadgroup, zmlx_error *error) {
    if (threadgroup >= 0 && threadgroup <= 1024 && !(threadgroup & (threadgroup - 1))) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, "threadgroup", "expected 0 or a power of two up to 1024, got %d",
                   threadgroup);
}

zmlx_status zmlx_map_reduce(zmlx_kernel **kernel, const char *name, const zmlx_pass *pass1, const zmlx_pass *pass2,
                            const char *write, const zmlx_map_reduce_options *options, zmlx_error *error) {
    static const zmlx_map_reduce_options defaults;
    static const zmlx_pass nothing;
    zm_error_clear(error);
    *kernel = NULL;
    if (!options) options = &defaults;
    if (!pass1) pass1 = &nothing;
    if (!pass2) pass2 = &nothing;
    ZM_TRY(check_options(options->compute_type, write, "write", error));
    ZM_TRY(check_threadgroup(options->threadgroup, error));
    if (options->n_inputs >= ZM_IR_MAX_INPUTS)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "inputs", "at most %d", ZM_IR_MAX_INPUTS - 1);
    zm_map_reduce_text text = {.name = name ? name : "map_reduce",
                               .pass1 = {pass1->init, pass1->update, pass1->reduce},
                               .pass2 = {pass2->init, pass2->update, pass2->reduce},
                               .write = write,
                               .input_names = options->inputs,
                               .n_inputs = (int)options->n_inputs,
                               .header = options->header};
    zm_ir *forward;
    ZM_TRY(zm_lower_map_reduce(&forward, &text, error));
    return zm_kernel_new(kernel, forward, NULL, error);
}

zmlx_status zmlx_kernel_apply(zmlx_kernel *kernel, mlx_array *outputs, const mlx_array *inputs, size_t n_inputs,
                              mlx_stream stream, zmlx_error *error) {
    return zmlx_kernel_apply_with(kernel, outputs, inputs, n_inputs, NULL, stream, error);
}

zmlx_status zm_numbers_from(zm_numbers *numbers, const zmlx_kernel *kernel, const zmlx_kernel_numbers *given,
                            zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    size_t n_parameters = 0, n_seeds = 0;
    *numbers = (zm_numbers){0};
    for (int i = 0; i < ir->n_parameters; i++) {
        bool is_seed = ir->parameters[i].is_seed;
        if (!given || !(is_seed ? (const void *)given->seeds : given->parameters))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "%s %s has no value; use zmlx_kernel_apply_with",
                           is_seed ? "seed" : "parameter", ir->parameters[i].name);
        if (is_seed)
            numbers->seeds[i] = given->seeds[n_seeds++];
        else
            numbers->parameters[i] = given->parameters[n_parameters++];
    }
    return ZMLX_OK;
}

/* Whether a result is one value a row and may come of row_argmax. */
static bool gives_argmax(const zm_ir *ir) {
    bool has_argmax = false, has_values = false;
    for (int i = 0; i < ir->n_values; i++) has_argmax |= ir->values[i].op == ZM_OP_ROW_ARGMAX;
    for (int i = 0; i < ir->n_outputs; i++) has_values |= ir->outputs[i].level != ZM_LEVEL_ELEMENT;
    return has_argmax && has_values;
}

/* A row without elements has no largest one; other reductions have a value of nothing. */
static zmlx_status check_argmax(const zmlx_kernel *kernel, const mlx_array *inputs, zmlx_error *error) {
    zm_shape shape;
    bool is_empty = false;
    for (int i = 0; i < kernel->forward->n_inputs; i++)
        is_empty = is_empty || (zm_is_set(inputs[i]) && !mlx_array_size(inputs[i]));
    if (!is_empty || !gives_argmax(kernel->forward)) return ZMLX_OK;
    ZM_TRY(zm_kernel_check_inputs(&shape, kernel, inputs, error));
    for (int i = 0; i < shape.n_dims - 1; i++)
        if (!shape.dims[i]) return ZMLX_OK;
    if (shape.dims[shape.n_dims - 1]) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "row_argmax: a row of no elements has no largest one");
}

zmlx_status zmlx_kernel_apply_with(zmlx_kernel *kernel, mlx_array *outputs, const mlx_array *inputs, size_t n_inputs,
                                   const zmlx_kernel_numbers *given, mlx_stream stream, zmlx_error *error) {
    zm_error_clear(error);
    if (!kernel) return zm_fail_null(error, "kernel");
    if (!outputs || !inputs) return zm_fail_null(error, outputs ? "inputs" : "outputs");
    const zm_ir *ir = kernel->forward;
    zm_numbers numbers;
    mlx_array results[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    if (n_inputs != (size_t)ir->n_inputs)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "expected %d inputs, got %zu", ir->n_inputs,
                       n_inputs);
    ZM_TRY(zm_numbers_from(&numbers, kernel, given, error));
    zm_call call = {.inputs = inputs, .numbers = &numbers};
    ZM_TRY(check_argmax(kernel, inputs, error));
    ZM_TRY(zm_kernel_call(kernel, results, &call, stream, error));
    for (int i = 0; i < ir->n_outputs; i++) {
        mlx_array_free(outputs[i]);
        outputs[i] = results[i];
    }
    return ZMLX_OK;
}
