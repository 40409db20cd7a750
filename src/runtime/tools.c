/* SPDX-License-Identifier: MIT */
/* The public look into kernels. */
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"
#include "runtime/cache.h"
#include "runtime/kernel.h"
#include "zmlx/kernel_tools.h"

/* count names, `stride` bytes apart in the representation's lists; in its arena, so that they live as long. */
static const char *const *list_names(zm_arena *arena, const char *const *first, size_t stride, int count) {
    const char **names = zm_arena_alloc(arena, (size_t)count + 1, sizeof *names);
    for (int i = 0; names && i < count; i++)
        memcpy(&names[i], (const char *)first + (size_t)i * stride, sizeof *names);
    return names;
}

static bool list_parameters(zmlx_kernel_info *info, const zm_ir *ir) {
    const char **parameters = zm_arena_alloc(ir->arena, (size_t)ir->n_parameters + 1, sizeof *parameters);
    const char **seeds = zm_arena_alloc(ir->arena, (size_t)ir->n_parameters + 1, sizeof *seeds);
    if (!parameters || !seeds) return false;
    for (int i = 0; i < ir->n_parameters; i++) {
        if (ir->parameters[i].is_seed)
            seeds[info->n_seeds++] = ir->parameters[i].name;
        else
            parameters[info->n_parameters++] = ir->parameters[i].name;
    }
    info->parameters = parameters;
    info->seeds = seeds;
    return true;
}

/* False when out of memory. */
static bool list_all(zmlx_kernel_info *info, const zm_ir *ir) {
    zmlx_kernel_info made = {.name = ir->name, .has_rows = zm_ir_has_rows(ir)};
    made.n_inputs = (size_t)ir->n_inputs;
    made.n_outputs = (size_t)ir->n_outputs;
    made.inputs = list_names(ir->arena, &ir->inputs->name, sizeof *ir->inputs, ir->n_inputs);
    made.outputs = list_names(ir->arena, &ir->outputs->name, sizeof *ir->outputs, ir->n_outputs);
    if (!made.inputs || !made.outputs || !list_parameters(&made, ir)) return false;
    *info = made;
    return true;
}

zmlx_status zmlx_kernel_get_info(zmlx_kernel_info *info, zmlx_kernel *kernel, zmlx_error *error) {
    zm_error_clear(error);
    *info = (zmlx_kernel_info){0};
    if (!kernel) return zm_fail_null(error, "kernel");
    pthread_mutex_lock(&kernel->lock);
    bool listed = kernel->info.name || list_all(&kernel->info, kernel->forward);
    *info = kernel->info;
    pthread_mutex_unlock(&kernel->lock);
    return listed ? ZMLX_OK : zm_fail_memory(error);
}

static uint64_t all_inputs(const zmlx_kernel *kernel) { return ((uint64_t)1 << kernel->forward->n_inputs) - 1; }

zmlx_status zmlx_kernel_gradient(zmlx_kernel **gradient, zmlx_kernel *kernel, zmlx_error *error) {
    const zm_derived *derived;
    zm_error_clear(error);
    *gradient = NULL;
    if (!kernel) return zm_fail_null(error, "kernel");
    if (kernel->forward->n_inputs > ZM_IR_MAX_OUTPUTS)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, kernel->label,
                       "its gradient has %d outputs, more than %d", kernel->forward->n_inputs,
                       ZM_IR_MAX_OUTPUTS);
    ZM_TRY(zm_kernel_derive(&derived, kernel, ZM_DERIVATION_VJP, all_inputs(kernel), false, error));
    *gradient = zm_kernel_retain(derived->kernel);
    return ZMLX_OK;
}

/* The results that a given gradient reads. */
static zmlx_status recompute_results(mlx_array *results, zmlx_kernel *kernel, const zm_call *forward,
                                     mlx_stream stream, zmlx_error *error) {
    const zm_derived *derived;
    bool needed = false;
    if (!kernel->gradient) return ZMLX_OK;
    ZM_TRY(zm_kernel_derive(&derived, kernel, ZM_DERIVATION_VJP, all_inputs(kernel), false, error));
    for (int i = 0; i < derived->kernel->forward->n_inputs; i++)
        needed |= derived->origins[i].kind == ZM_ORIGIN_RESULT;
    return needed ? zm_kernel_call(kernel, results, forward, stream, error) : ZMLX_OK;
}

static zmlx_status check_cotangents(const zmlx_kernel *kernel, const zm_shape *shape, const mlx_array *cotangents,
                                    zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    for (int i = 0; i < ir->n_outputs; i++) {
        const char *name = ir->outputs[i].name;
        if (!cotangents[i].ctx)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "the cotangent of %s is an empty handle", name);
        if (!zm_shape_is_output(shape, ir->outputs[i].level, cotangents[i]))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "the cotangent of %s must have the shape of %s",
                           name, name);
    }
    return ZMLX_OK;
}

zmlx_status zmlx_kernel_apply_gradient(zmlx_kernel *kernel, mlx_array *gradients, const mlx_array *inputs,
                                       size_t n_inputs, const mlx_array *cotangents, size_t n_cotangents,
                                       const zmlx_kernel_numbers *given, mlx_stream stream, zmlx_error *error) {
    zm_error_clear(error);
    if (!kernel) return zm_fail_null(error, "kernel");
    if (!gradients || !inputs || !cotangents)
        return zm_fail_null(error, !gradients ? "gradients" : !inputs ? "inputs" : "cotangents");
    const zm_ir *ir = kernel->forward;
    zm_numbers numbers;
    zm_shape shape;
    mlx_array results[ZM_IR_MAX_OUTPUTS] = {{NULL}}, made[ZM_IR_MAX_INPUTS] = {{NULL}};
    int numbered[ZM_IR_MAX_INPUTS];
    if (n_inputs != (size_t)ir->n_inputs || n_cotangents != (size_t)ir->n_outputs)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label,
                       "expected %d inputs and %d cotangents, got %zu and %zu", ir->n_inputs, ir->n_outputs, n_inputs,
                       n_cotangents);
    ZM_TRY(zm_numbers_from(&numbers, kernel, given, error));
    zm_call call = {.inputs = inputs, .numbers = &numbers};
    ZM_TRY(zm_kernel_check_inputs(&shape, kernel, inputs, error));
    ZM_TRY(check_cotangents(kernel, &shape, cotangents, error));
    zmlx_status status = recompute_results(results, kernel, &call, stream, error);
    for (int i = 0; i < ir->n_inputs; i++) numbered[i] = i;
    if (!status)
        status = zm_kernel_call_vjp(made, kernel, &shape, &numbers, numbered, ir->n_inputs, inputs, cotangents, results,
                                    false, stream, error);
    for (int i = 0; i < ir->n_outputs; i++) mlx_array_free(results[i]);
    for (int i = 0; i < ir->n_inputs; i++) {
        mlx_array_free(status ? made[i] : gradients[i]);
        if (!status) gradients[i] = made[i];
    }
    return status;
}

static zmlx_status emit_target(zm_text *text, const zmlx_kernel *kernel, const zm_target *target, mlx_dtype dtype,
                               zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    zm_storage inputs[ZM_IR_MAX_INPUTS], outputs[ZM_IR_MAX_OUTPUTS], storage;
    if (!zm_storage_from_dtype(&storage, dtype) || zm_storage_type(storage) != ZM_TYPE_FLOAT)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, "dtype", "expected float32, float16 or bfloat16, got %s",
                       zm_dtype_name(dtype));
    for (int i = 0; i < ir->n_inputs; i++)
        inputs[i] = ir->inputs[i].type == ZM_TYPE_UINT ? ZM_STORAGE_UINT32 : storage;
    for (int i = 0; i < ir->n_outputs; i++)
        outputs[i] = ir->values[ir->outputs[i].value].type == ZM_TYPE_UINT ? ZM_STORAGE_UINT32 : storage;
    zm_emit_request request = {.ir = ir, .inputs = inputs, .outputs = outputs, .entry = kernel->symbol};
    return target->emit(text, &request, error);
}

zmlx_status zmlx_kernel_emit(char **text, zmlx_kernel *kernel, const char *target, mlx_dtype dtype, zmlx_error *error) {
    zm_text source = {0};
    zmlx_status status = ZMLX_OK;
    zm_error_clear(error);
    *text = NULL;
    if (!kernel) return zm_fail_null(error, "kernel");
    if (!target) target = "";
    const zm_target *found = zm_target_find(target);
    if (found)
        status = emit_target(&source, kernel, found, dtype, error);
    else if (!strcmp(target, "ir"))
        zm_ir_print(&source, kernel->forward);
    else
        status = zm_fail(error, ZMLX_ERROR_ARGUMENT, "target", "expected c, cuda, metal, check or ir, got %s", target);
    zm_text_append(&source, "", 0);
    *text = status ? NULL : zm_text_take(&source);
    zm_text_free(&source);
    return status ? status : *text ? ZMLX_OK : zm_fail_memory(error);
}

zmlx_status zmlx_kernel_set_cache(const char *folder, const char *compiler, zmlx_error *error) {
    zm_error_clear(error);
    return zm_cache_set(folder, compiler, error);
}

zmlx_kernel_counts zmlx_kernel_get_counts(void) {
    zm_cache_counts counts = zm_cache_get_counts();
    return (zmlx_kernel_counts){counts.compiled, counts.loaded};
}
