/* SPDX-License-Identifier: MIT */
/* Compiling a kernel for a device and storage types. */
#include <pthread.h>
#include <stdatomic.h>
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

struct zm_programs {
    zm_text text;
    pthread_mutex_t lock;  /* of source */
    zm_cuda_source source; /* first: -1 before one is asked for */
    _Atomic(const zm_text *) cubins[ZM_GPU_PARTS];
};

static zmlx_status prepare_cuda(zm_variant *variant, const zm_emit_request *request, zmlx_error *error) {
    struct zm_programs *programs = variant->programs = calloc(1, sizeof *programs);
    if (!programs) return zm_fail_memory(error);
    pthread_mutex_init(&programs->lock, NULL);
    ZM_TRY(zm_target_find("cuda")->emit(&programs->text, request, error));
    if (programs->text.failed) return zm_fail_memory(error);
    programs->source = (zm_cuda_source){.text = programs->text.data, .size = programs->text.size,
                                        .n_parts = ZM_GPU_GENERAL_PARTS, .first = -1};
    zm_gpu_get(&programs->source.compute_capability);
    return ZMLX_OK;
}

/* With the lock held. */
static zmlx_status compile_part(const zm_text **cubin, struct zm_programs *programs, int part, zmlx_error *error) {
    bool is_first = programs->source.first < 0;
    if (is_first) programs->source.first = part;
    zmlx_status status = zm_compile_cuda(cubin, NULL, &programs->source, part, error);
    if (!status) atomic_store(&programs->cubins[part], *cubin);
    if (!status && is_first) zm_compile_cuda_rest(&programs->source);
    if (status && is_first) programs->source.first = -1;
    return status;
}

zmlx_status zm_variant_cubin(const zm_text **cubin, const zm_variant *variant, int part, zmlx_error *error) {
    struct zm_programs *programs = variant->programs;
    *cubin = atomic_load(&programs->cubins[part]);
    if (*cubin) return ZMLX_OK;
    pthread_mutex_lock(&programs->lock);
    zmlx_status status = compile_part(cubin, programs, part, error);
    pthread_mutex_unlock(&programs->lock);
    return status;
}

void zm_variant_free(zm_variant *variant) {
    if (variant->programs) {
        pthread_mutex_destroy(&variant->programs->lock);
        zm_text_free(&variant->programs->text);
    }
    free(variant->programs);
    free(variant->code);
    free(variant->header);
    free(variant);
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
                               kernel->symbol, variant->choice.joins_outputs, variant->choice.summed_outputs};
    switch (variant->gpu) {
    case ZM_GPU_CUDA: return prepare_cuda(variant, &request, error);
    case ZM_GPU_METAL: return prepare_metal(variant, &request, error);
    case ZM_GPU_NONE: break;
    }
    return compile_cpu(variant, &request, error);
}

static zmlx_status add(const zm_variant **added, zmlx_kernel *kernel, zm_gpu_kind gpu, const zm_layout_choice *choice,
                       const zm_storage *storages, size_t n_storages, zmlx_error *error) {
    zm_variant *variant = calloc(1, sizeof *variant);
    if (!variant) return zm_fail_memory(error);
    variant->gpu = gpu;
    variant->choice = *choice;
    memcpy(variant->storages, storages, n_storages * sizeof *storages);
    zmlx_status status = compile(variant, kernel, error);
    if (status) {
        zm_variant_free(variant);
        return status;
    }
    variant->next = kernel->variants;
    *added = kernel->variants = variant;
    return ZMLX_OK;
}

zmlx_status zm_kernel_variant(const zm_variant **variant, zmlx_kernel *kernel, zm_gpu_kind gpu,
                              const zm_layout_choice *choice, const zm_storage *storages, zmlx_error *error) {
    size_t n_storages = (size_t)(kernel->forward->n_inputs + kernel->forward->n_outputs);
    zmlx_status status = ZMLX_OK;
    pthread_mutex_lock(&kernel->lock);
    zm_variant *known = kernel->variants;
    while (known && (known->gpu != gpu || known->choice.joins_outputs != choice->joins_outputs ||
                     known->choice.summed_outputs != choice->summed_outputs ||
                     memcmp(known->storages, storages, n_storages * sizeof *storages)))
        known = known->next;
    *variant = known;
    if (!known) status = add(variant, kernel, gpu, choice, storages, n_storages, error);
    pthread_mutex_unlock(&kernel->lock);
    return status;
}
