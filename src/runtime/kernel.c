/* SPDX-License-Identifier: MIT */
/* The life of a kernel, and applying it. */
#include "runtime/kernel.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"

enum { MAX_SYMBOL = 48 };

/* "kernel_" and the letters, digits and underscores of the name. */
static char *make_symbol(const char *name) {
    char text[MAX_SYMBOL];
    size_t length = (size_t)snprintf(text, sizeof text, "kernel_");
    for (const char *c = name; *c && length + 1 < sizeof text; c++) {
        bool is_plain = (*c >= 'a' && *c <= 'z') || (*c >= 'A' && *c <= 'Z') || (*c >= '0' && *c <= '9');
        text[length++] = is_plain ? *c : '_';
    }
    text[length] = '\0';
    return strdup(text);
}

static char *make_label(const char *name) {
    zm_text text = {0};
    zm_text_printf(&text, "zmlx.%s", name);
    return zm_text_take(&text);
}

static bool equal_applications(const void *a, const void *b) {
    const zm_application *left = a, *right = b;
    return left->variant == right->variant && !memcmp(&left->extent, &right->extent, sizeof left->extent) &&
           left->joins_outputs == right->joins_outputs && left->summed_outputs == right->summed_outputs &&
           !memcmp(&left->shape, &right->shape, sizeof left->shape) &&
           !memcmp(&left->numbers, &right->numbers, sizeof left->numbers);
}

static void free_application(void *state) {
    zm_application *application = state;
    if (!application) return;
    free(application->scratch);
    zmlx_kernel_free(application->kernel);
    free(application);
}

zmlx_status zm_kernel_new(zmlx_kernel **kernel, zm_ir *forward, zm_ir *gradient, zmlx_error *error) {
    zmlx_kernel *made = calloc(1, sizeof *made);
    *kernel = NULL;
    if (!made || pthread_mutex_init(&made->lock, NULL)) {
        free(made);
        zm_ir_free(forward);
        zm_ir_free(gradient);
        return zm_fail_memory(error);
    }
    atomic_init(&made->n_references, 1);
    made->forward = forward;
    made->gradient = gradient;
    made->symbol = make_symbol(forward->name);
    made->label = make_label(forward->name);
    if (!made->symbol || !made->label) {
        zmlx_kernel_free(made);
        return zm_fail_memory(error);
    }
    made->node_class = (zm_node_class){
        .name = made->label,
        .evaluate_cpu = zm_application_evaluate,
        .launch_gpu = zm_application_launch,
        .vjp = zm_application_vjp,
        .jvp = zm_application_jvp,
        .vmap = zm_application_vmap,
        .equal = equal_applications,
        .free_state = free_application,
    };
    *kernel = made;
    return ZMLX_OK;
}

zmlx_kernel *zm_kernel_retain(zmlx_kernel *kernel) {
    atomic_fetch_add(&kernel->n_references, 1);
    return kernel;
}

void zmlx_kernel_free(zmlx_kernel *kernel) {
    if (!kernel || atomic_fetch_sub(&kernel->n_references, 1) > 1) return;
    for (zm_variant *variant = kernel->variants, *next; variant; variant = next) {
        next = variant->next;
        zm_variant_free(variant);
    }
    for (zm_derived *derived = kernel->derived, *next; derived; derived = next) {
        next = derived->next;
        zmlx_kernel_free(derived->kernel);
        free(derived);
    }
    pthread_mutex_destroy(&kernel->lock);
    zm_ir_free(kernel->forward);
    zm_ir_free(kernel->gradient);
    zm_ir_free(kernel->differentiated);
    free(kernel->symbol);
    free(kernel->label);
    free(kernel);
}

static zmlx_status check_inputs(const zmlx_kernel *kernel, const mlx_array *inputs, zm_storage *storages,
                                zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    for (int i = 0; i < ir->n_inputs; i++) {
        const char *name = ir->inputs[i].name;
        if (!inputs[i].ctx)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "input %s is an empty handle", name);
        mlx_dtype dtype = mlx_array_dtype(inputs[i]);
        bool is_uint = ir->inputs[i].type == ZM_TYPE_UINT;
        if (!zm_storage_from_dtype(&storages[i], dtype) || zm_storage_type(storages[i]) != ir->inputs[i].type)
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, kernel->label, "input %s is %s; it must be %s", name,
                           zm_dtype_name(dtype),
                           is_uint ? "uint32, int32, uint8 or bool"
                                   : "float32, float16 or bfloat16 (convert it first)");
    }
    return ZMLX_OK;
}

zmlx_status zm_kernel_check_inputs(zm_shape *shape, const zmlx_kernel *kernel, const mlx_array *inputs,
                                   zmlx_error *error) {
    zm_storage storages[ZM_IR_MAX_INPUTS];
    ZM_TRY(check_inputs(kernel, inputs, storages, error));
    return zm_shape_broadcast(shape, kernel->forward, inputs, error);
}

static zmlx_status choose_outputs(const zm_ir *ir, const zm_call *call, zm_storage *storages, zmlx_error *error) {
    mlx_dtype first = MLX_FLOAT32;
    for (int i = ir->n_inputs - 1; i >= 0; i--)
        if (ir->inputs[i].type == ZM_TYPE_FLOAT) first = mlx_array_dtype(call->inputs[i]);
    for (int i = 0; i < ir->n_outputs; i++) {
        mlx_dtype dtype = call->output_types ? call->output_types[i] : first;
        if (ir->values[ir->outputs[i].value].type == ZM_TYPE_UINT && dtype != MLX_UINT8) dtype = MLX_UINT32;
        if (!zm_storage_from_dtype(&storages[i], dtype))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, ir->outputs[i].name, "cannot be stored as %s",
                           zm_dtype_name(dtype));
    }
    return ZMLX_OK;
}

/* The node's inputs: those of the kernel and, with Metal, the scalars. */
static zmlx_status make_node(mlx_array *outputs, zm_application *application, const zm_storage *storages,
                             mlx_array *inputs, zm_scope *scope, zmlx_error *error) {
    const zm_ir *ir = application->kernel->forward;
    zm_node_output specs[ZM_IR_MAX_OUTPUTS];
    int n_inputs = ir->n_inputs;
    int n_outputs = application->joins_outputs ? 1 : ir->n_outputs;
    for (int i = 0; i < n_outputs; i++)
        specs[i] = zm_shape_output(&application->shape, ir->outputs[i].level,
                                   zm_dtype_from_storage(storages[ir->n_inputs + i]));
    for (int i = 0; i < n_outputs; i++)
        if (application->summed_outputs >> i & 1)
            specs[i] = (zm_node_output){.shape = {(int)zm_application_sum_rows(application),
                                                  (int)application->extent.columns},
                                        .n_dims = 2,
                                        .dtype = MLX_FLOAT32};
    if (application->joins_outputs) specs[0].shape[specs[0].n_dims - 1] *= 2;
    /* A point-wise kernel reads each element before it writes it. */
    bool is_in_place = application->variant->gpu == ZM_GPU_NONE && !application->joins_outputs && !zm_ir_has_rows(ir);
    for (int i = 0; i < n_outputs && is_in_place; i++) specs[i].replaces = ZM_REPLACES_ANY;
    if (application->variant->gpu == ZM_GPU_METAL) {
        uint32_t words[ZM_GPU_MAX_SCALARS];
        int n_words = zm_application_words(words, application);
        inputs[n_inputs++] = zm_from_data(scope, words, &n_words, 1, MLX_UINT32);
    }
    if (zm_scope_failed(scope)) {
        free_application(application);
        return ZMLX_ERROR_MLX; /* zm_scope_end tells which */
    }
    return zm_node_apply(outputs, specs, n_outputs, &application->kernel->node_class, application, inputs,
                         n_inputs, scope->stream, error);
}

static zmlx_status stream_gpu(zm_gpu_kind *gpu, mlx_stream stream, zmlx_error *error) {
    mlx_device device = {NULL};
    mlx_device_type type = MLX_CPU;
    int failed = mlx_stream_get_device(&device, stream) || mlx_device_get_type(&type, device);
    mlx_device_free(device);
    if (failed) return zm_mlx_fail(error, "stream");
    *gpu = type == MLX_GPU ? zm_gpu_get(NULL) : ZM_GPU_NONE;
    return ZMLX_OK;
}

/* The application of a call whose inputs have been laid out. */
static zmlx_status set_up(zm_application **made, zmlx_kernel *kernel, const zm_call *call, const zm_shape *shape,
                          const zm_extent *extent, const zm_storage *storages, zm_gpu_kind gpu, zmlx_error *error) {
    zm_application *application = *made = calloc(1, sizeof *application);
    if (!application) return zm_fail_memory(error);
    application->kernel = zm_kernel_retain(kernel);
    application->shape = *shape;
    application->extent = *extent;
    application->joins_outputs = call->joins_outputs;
    application->summed_outputs = call->summed_outputs;
    if (call->numbers) application->numbers = *call->numbers;
    zm_layout_choice choice = {call->joins_outputs && gpu != ZM_GPU_NONE, call->summed_outputs};
    zmlx_status status = zm_kernel_variant(&application->variant, kernel, gpu, &choice, storages, error);
    if (!status) status = zm_application_prepare(application, error);
    if (status) {
        free_application(application);
        *made = NULL;
    }
    return status;
}

zmlx_status zm_kernel_call(zmlx_kernel *kernel, mlx_array *outputs, const zm_call *call, mlx_stream stream,
                           zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    zm_storage storages[ZM_IR_MAX_INPUTS + ZM_IR_MAX_OUTPUTS];
    mlx_array inputs[ZM_IR_MAX_INPUTS + 1];
    zm_shape shape;
    zm_gpu_kind gpu;
    ZM_TRY(check_inputs(kernel, call->inputs, storages, error));
    ZM_TRY(choose_outputs(ir, call, storages + ir->n_inputs, error));
    for (int i = 0; i < ir->n_outputs; i++)
        if (call->summed_outputs >> i & 1) storages[ir->n_inputs + i] = ZM_STORAGE_FLOAT32;
    if (call->shape)
        shape = *call->shape;
    else
        ZM_TRY(zm_shape_broadcast(&shape, ir, call->inputs, error));
    ZM_TRY(zm_shape_check_size(&shape, kernel->label, error));
    ZM_TRY(stream_gpu(&gpu, stream, error));
    for (int i = 0; i < ir->n_inputs; i++) inputs[i] = call->inputs[i];

    zm_scope scope;
    zm_extent extent;
    zm_application *application = NULL;
    zm_scope_begin(&scope, stream);
    zm_shape_lay_out(&extent, &scope, ir, &shape, inputs, call->halves, call->halves || call->joins_outputs);
    zmlx_status status = zm_scope_failed(&scope)
                             ? ZMLX_ERROR_MLX
                             : set_up(&application, kernel, call, &shape, &extent, storages, gpu, error);
    if (!status) status = make_node(outputs, application, storages, inputs, &scope, error);
    zmlx_status graph = zm_scope_end(&scope, error);
    return graph ? graph : status;
}
