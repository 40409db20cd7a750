/* SPDX-License-Identifier: MIT */
#include "fused/cuda/program.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fused/cuda/decode.h"
#include "fused/cuda/sizes.cuh"
#include "fused/cuda/timeline.h"
#include "mlx/chain.h"
#include "mlx/gpu.h"
#include "runtime/cache.h"

/* sizes.cuh and so on */
extern const char zm_cuda_sizes[], zm_cuda_bfloat16[], zm_cuda_float16[], zm_cuda_halves[], zm_cuda_lanes[],
    zm_cuda_stamps[], zm_cuda_decode[];

static const char *const symbols[] = {
#define ZM_DECODE_KERNEL(name, rows) "zm_" #name,
#include "fused/cuda/kernels.def"
#undef ZM_DECODE_KERNEL
};

bool zm_decode_kernel_is_hidden(zm_decode_kernel kernel) {
    enum { HIDDEN, ANY };
    static const int rows_of[] = {
#define ZM_DECODE_KERNEL(name, rows) rows,
#include "fused/cuda/kernels.def"
#undef ZM_DECODE_KERNEL
    };
    return rows_of[kernel] == HIDDEN;
}

const char *zm_decode_kernel_name(zm_decode_kernel kernel) {
    enum { PREFIX = sizeof "zm_" - 1 };
    return symbols[kernel] + PREFIX;
}

bool zm_decode_takes_tiles(int top_k) { return top_k >= EXPERT_TILE_LEAST_TOP_K; }

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static zm_decode_program *programs;

static bool same(zm_decode_settings a, zm_decode_settings b) {
    return a.bits == b.bits && a.group_size == b.group_size && a.is_mxfp4 == b.is_mxfp4 &&
           a.is_float16 == b.is_float16 && a.k == b.k && a.hidden_size == b.hidden_size && a.head_dim == b.head_dim &&
           a.top_k == b.top_k && a.stamps == b.stamps;
}

/* Tables and routers are affine; on tensor cores rows come in whole pieces. */
static bool is_in_text(zm_decode_settings settings, zm_decode_kernel kernel) {
    if (kernel == ZM_DECODE_KERNEL_embed || kernel == ZM_DECODE_KERNEL_router || kernel == ZM_DECODE_KERNEL_choose)
        return !settings.is_mxfp4;
    bool experts = kernel == ZM_DECODE_KERNEL_experts_in || kernel == ZM_DECODE_KERNEL_experts_out;
    if (!experts || !zm_decode_takes_tiles(settings.top_k)) return true;
    return settings.k % EXPERT_TILE_K == 0 && !settings.is_mxfp4;
}

static zmlx_status find_kernels(zm_decode_program *program, zm_cuda_module *module, zmlx_error *error) {
    for (int i = 0; i < ZM_DECODE_KERNEL_COUNT; i++) {
        if (zm_decode_kernel_is_hidden((zm_decode_kernel)i) && program->settings.k != program->settings.hidden_size)
            continue;
        if (!is_in_text(program->settings, (zm_decode_kernel)i)) continue;
        program->kernels[i] = zm_cuda_module_kernel(module, symbols[i], ZM_DECODE_MAX_SHARED);
        if (!program->kernels[i])
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, symbols[i], "this GPU cannot load it");
        program->registers[i] = zm_cuda_kernel_registers(program->kernels[i]);
    }
    return ZMLX_OK;
}

void zm_decode_program_text(zm_text *text, zm_decode_settings settings) {
    zm_text_printf(
        text,
        "#define ZM_BITS %d\n#define ZM_GROUP %d\n#define ZM_K %d\n#define ZM_HIDDEN %d\n#define ZM_HEAD_DIM %d\n"
        "#define ZM_TOP_K %d\n#define ZM_MXFP4 %d\n#define ZM_FLOAT16 %d\n#define ZM_STAMPS %d\n",
        settings.bits, settings.group_size, settings.k, settings.hidden_size, settings.head_dim, settings.top_k,
        settings.is_mxfp4, settings.is_float16, settings.stamps);
    zm_text_append_string(text, zm_cuda_sizes);
    zm_text_append_string(text, zm_cuda_halves);
    zm_text_append_string(text, settings.is_float16 ? zm_cuda_float16 : zm_cuda_bfloat16);
    zm_text_append_string(text, zm_cuda_stamps);
    zm_text_append_string(text, zm_cuda_lanes);
    zm_text_append_string(text, zm_cuda_decode);
}

static zmlx_status build(zm_decode_program *program, zmlx_error *error) {
    zm_text text = {0};
    zm_decode_program_text(&text, program->settings);
    zm_cuda_source source = {.text = text.data, .size = text.size, .n_parts = 1};
    zm_gpu_get(&source.compute_capability);
    const zm_text *cubin;
    zmlx_status status = text.failed ? zm_fail_memory(error) : zm_compile_cuda(&cubin, NULL, &source, 0, error);
    zm_cuda_module *module;
    if (!status) status = zm_cuda_module_load(&module, cubin->data, error);
    if (!status) status = find_kernels(program, module, error);
    zm_text_free(&text);
    return status;
}

/* With the lock held. */
static const zm_decode_program *find(zm_decode_settings settings) {
    const zm_decode_program *known = programs;
    while (known && !same(known->settings, settings)) known = known->next;
    return known;
}

/* Without the lock while it is built: those who want another go on. *added: the one that was there first. */
static zmlx_status add(const zm_decode_program **added, zm_decode_settings settings, zmlx_error *error) {
    zm_decode_program *program = calloc(1, sizeof *program);
    if (!program) return zm_fail_memory(error);
    program->settings = settings;
    zmlx_status status = build(program, error);
    if (status) {
        free(program);
        return status;
    }
    pthread_mutex_lock(&lock);
    *added = find(settings);
    if (!*added) {
        program->next = programs;
        *added = programs = program;
        program = NULL;
    }
    pthread_mutex_unlock(&lock);
    free(program);
    return ZMLX_OK;
}

zmlx_status zm_decode_program_get(const zm_decode_program **program, zm_decode_settings settings, zmlx_error *error) {
    pthread_mutex_lock(&lock);
    *program = find(settings);
    pthread_mutex_unlock(&lock);
    return *program ? ZMLX_OK : add(program, settings, error);
}

zmlx_status zm_decode_program_for(const zm_decode_program **program, const zm_weight *weight, int k, int hidden_size,
                                  int head_dim, int top_k, zmlx_error *error) {
    zm_decode_settings settings = {.bits = weight->quantization.bits,
                                   .group_size = weight->quantization.group_size,
                                   .is_mxfp4 = !strcmp(weight->quantization.mode, "mxfp4"),
                                   .is_float16 = zm_decode_dtype(weight) == MLX_FLOAT16,
                                   .k = k,
                                   .hidden_size = hidden_size,
                                   .head_dim = head_dim,
                                   .top_k = top_k,
                                   .stamps = zm_timeline_is_on()};
    return zm_decode_program_get(program, settings, error);
}
