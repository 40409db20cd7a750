/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/list.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "emit/cuda/list.h"
#include "emit/gpu/gpu.h"
#include "runtime/cache.h"

enum { MAX_ARRAYS = ZM_IR_MAX_INPUTS + ZM_IR_MAX_OUTPUTS, ALIGNMENT = 16 };

/* What was compiled so far. */
typedef struct program {
    struct program *next;
    const zmlx_kernel *kernel;
    zm_storage storages[MAX_ARRAYS];
    int part;
    const zm_text *cubin;
} program;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static program *programs;

static zmlx_status compile(const zm_text **cubin, const zm_emit_request *request, int part, zmlx_error *error) {
    zm_text text = {0};
    zmlx_status status = zm_cuda_emit_list(&text, request, ZM_CUDA_LIST, error);
    zm_cuda_source source = {.text = text.data, .size = text.size, .n_parts = ZM_GPU_MAP_PARTS, .first = part};
    zm_gpu_get(&source.compute_capability);
    if (!status) status = zm_compile_cuda(cubin, NULL, &source, part, error);
    zm_text_free(&text);
    return status;
}

static zmlx_status get_program(const program **found, const zmlx_kernel *kernel, const zm_emit_request *request,
                               int part, zmlx_error *error) {
    size_t size = (size_t)(request->ir->n_inputs + request->ir->n_outputs) * sizeof *request->inputs;
    zmlx_status status = ZMLX_OK;
    pthread_mutex_lock(&lock);
    program *known = programs;
    while (known && (known->kernel != kernel || known->part != part || memcmp(known->storages, request->inputs, size)))
        known = known->next;
    if (!known) {
        program *made = calloc(1, sizeof *made);
        status = made ? compile(&made->cubin, request, part, error) : zm_fail_memory(error);
        if (status) {
            free(made);
        } else {
            made->kernel = kernel;
            made->part = part;
            memcpy(made->storages, request->inputs, size);
            made->next = programs;
            known = programs = made;
        }
    }
    pthread_mutex_unlock(&lock);
    *found = known;
    return status;
}

zmlx_status zm_cuda_launch_list(zm_gpu_launch *launch, const zmlx_kernel *kernel, const zm_storage *storages,
                                const float *parameters, const zm_view *inputs, zmlx_error *error) {
    const zm_ir *ir = kernel->forward;
    const zm_emit_request request = {ir, storages, storages + ir->n_inputs, kernel->symbol, false, 0};
    bool is_aligned = true;
    for (int i = 0; i < ZM_CUDA_LIST * ir->n_inputs; i++) is_aligned = is_aligned && inputs[i].offset % ALIGNMENT == 0;
    const program *code;
    ZM_TRY(get_program(&code, kernel, &request, is_aligned ? ZM_GPU_FLAT_MAP : ZM_GPU_ODD_MAP, error));
    int64_t n_blocks = 0;
    int threads = 0, n_words = 0;
    for (int item = 0; item < ZM_CUDA_LIST; item++) {
        int64_t size = (int64_t)inputs[item * ir->n_inputs].size;
        zm_gpu_plan plan = zm_gpu_plan_launch(&request, 1, size > 1 ? size : 1, NULL, is_aligned);
        threads = plan.threads;
        n_blocks += size ? plan.blocks : 0;
        const uint32_t words[] = {(uint32_t)n_blocks, (uint32_t)size, (uint32_t)(size >> 32)};
        memcpy(launch->scalars + n_words, words, sizeof words);
        n_words += 3;
    }
    memcpy(launch->scalars + n_words, parameters, (size_t)ir->n_parameters * sizeof *parameters);
    launch->n_scalars = n_words + ir->n_parameters;
    launch->name = kernel->symbol;
    launch->code = code->cubin->data;
    launch->code_size = code->cubin->size;
    launch->block = threads;
    launch->grid = n_blocks * threads;
    return ZMLX_OK;
}
