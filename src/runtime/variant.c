/* SPDX-License-Identifier: MIT */
/* Compiling a kernel for a device and storage types. */
#include <stdlib.h>
#include <string.h>

#include "emit/gpu/gpu.h"
#include "runtime/cache.h"
#include "runtime/kernel.h"

static zmlx_status compile_cpu(zm_variant *variant, const zm_emit_request *request, zmlx_error *error) {
    zm_text source = {0};
    void *symbol = NULL;
    zmlx_status status = zm_target_find("c")->emit(&source, request, error);
    if (!status && source.failed) status = zm_fail_memory(error);
    if (!status)
        status = zm_compile_c(&symbol, &variant->scratch_rows, NULL, source.data, source.size, request->entry, error);
    zm_text_free(&source);
    if (!status) memcpy(&variant->function, &symbol, sizeof symbol);
    return status;
}

static zmlx_status compile_cuda(zm_variant *variant, const zm_emit_request *request, zmlx_error *error) {
    zm_text source = {0};
    int capability;
    zm_gpu_get(&capability);
    zmlx_status status = zm_target_find("cuda")->emit(&source, request, error);
    if (!status && source.failed) status = zm_fail_memory(error);
    if (!status)
        status = zm_compile_cuda(&variant->code, &variant->code_size, NULL, source.data, source.size,
                                 ZM_GPU_PARTS, capability, error);
    zm_text_free(&source);
    return status;
}

/* MLX compiles it, and keeps it by name and text. */
static zmlx_status prepare_metal(zm_variant *variant, const zm_emit_request *request, zmlx_error *error) {
    for (int i = 0; i < request->ir->n_inputs; i++) variant->input_names[i] = zm_gpu_input_name(i);
    for (int i = 0; i < request->ir->n_outputs; i++) variant->output_names[i] = zm_gpu_output_name(i);
    zm_text header = {0}, body = {0};
    zmlx_status status = zm_metal_emit_parts(&header, &body, request, error);
    variant->code_size = body.size;
    variant->code = zm_text_take(&body);
    variant->header = zm_text_take(&header);
    if (!status && (!variant->code || !variant->header)) status = zm_fail_memory(error);
    return status;
}

static zmlx_status compile(zm_variant *variant, const zmlx_kernel *kernel, zmlx_error *error) {
    zm_emit_request request = {kernel->forward, variant->storages, variant->storages + kernel->forward->n_inputs,
                               kernel->symbol};
    switch (variant->gpu) {
    case ZM_GPU_CUDA: return compile_cuda(variant, &request, error);
    case ZM_GPU_METAL: return prepare_metal(variant, &request, error);
    case ZM_GPU_NONE: break;
    }
    return compile_cpu(variant, &request, error);
}

static zmlx_status add(const zm_variant **added, zmlx_kernel *kernel, zm_gpu_kind gpu, const zm_storage *storages,
                       size_t n_storages, zmlx_error *error) {
    zm_variant *variant = calloc(1, sizeof *variant);
    if (!variant) return zm_fail_memory(error);
    variant->gpu = gpu;
    memcpy(variant->storages, storages, n_storages * sizeof *storages);
    zmlx_status status = compile(variant, kernel, error);
    if (status) {
        free(variant->code);
        free(variant->header);
        free(variant);
        return status;
    }
    variant->next = kernel->variants;
    *added = kernel->variants = variant;
    return ZMLX_OK;
}

zmlx_status zm_kernel_variant(const zm_variant **variant, zmlx_kernel *kernel, zm_gpu_kind gpu,
                              const zm_storage *storages, zmlx_error *error) {
    size_t n_storages = (size_t)(kernel->forward->n_inputs + kernel->forward->n_outputs);
    zmlx_status status = ZMLX_OK;
    pthread_mutex_lock(&kernel->lock);
    zm_variant *known = kernel->variants;
    while (known && (known->gpu != gpu || memcmp(known->storages, storages, n_storages * sizeof *storages)))
        known = known->next;
    *variant = known;
    if (!known) status = add(variant, kernel, gpu, storages, n_storages, error);
    pthread_mutex_unlock(&kernel->lock);
    return status;
}
