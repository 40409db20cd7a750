/* SPDX-License-Identifier: MIT */
#include "runtime/cuda_text.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/text.h"
#include "mlx/gpu.h"
#include "runtime/cache.h"
#include "runtime/shape.h"

extern const char zm_prelude_cuda[], zm_prelude_gpu[];

/* What was compiled so far. */
typedef struct entry {
    struct entry *next;
    const char *text;
    char definitions[ZM_CUDA_MAX_DEFINITIONS];
    const zm_text *cubin;
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry *entries;

bool zm_scope_is_on_cuda(const zm_scope *scope) {
    return !zm_scope_is_on_cpu(scope) && zm_gpu_get(NULL) == ZM_GPU_CUDA;
}

const char *zm_cuda_storage(mlx_dtype dtype) {
    switch (dtype) {
    case MLX_FLOAT16: return "zm_float16";
    case MLX_BFLOAT16: return "zm_bfloat16";
    default: return "zm_float32";
    }
}

/* With the lock held. */
static const entry *find(const char *text, const char *definitions) {
    const entry *known = entries;
    while (known && (known->text != text || strcmp(known->definitions, definitions))) known = known->next;
    return known;
}

static zmlx_status compile(const zm_text **cubin, const char *text, const char *definitions, zmlx_error *error) {
    zm_text source = {0};
    zm_text_append_string(&source, zm_prelude_cuda);
    zm_text_append_string(&source, zm_prelude_gpu);
    zm_text_append_string(&source, definitions);
    zm_text_append_string(&source, text);
    zm_cuda_source whole = {.text = source.data, .size = source.size, .n_parts = 1};
    zm_gpu_get(&whole.compute_capability);
    zmlx_status status = source.failed ? zm_fail_memory(error) : zm_compile_cuda(cubin, NULL, &whole, 0, error);
    zm_text_free(&source);
    return status;
}

/* Without the lock while it is compiled: those who want another go on. Who wants the same adds the same cubin again. */
static zmlx_status add(const zm_text **cubin, const char *text, const char *definitions, zmlx_error *error) {
    entry *made = calloc(1, sizeof *made);
    if (!made || strlen(definitions) >= sizeof made->definitions) {
        free(made);
        return zm_fail_memory(error);
    }
    zmlx_status status = compile(&made->cubin, text, definitions, error);
    if (status) {
        free(made);
        return status;
    }
    made->text = text;
    strcpy(made->definitions, definitions);
    *cubin = made->cubin;
    pthread_mutex_lock(&lock);
    made->next = entries;
    entries = made;
    pthread_mutex_unlock(&lock);
    return ZMLX_OK;
}

zmlx_status zm_cuda_code_get(zm_cuda_code *code, const char *text, const char *definitions, zmlx_error *error) {
    pthread_mutex_lock(&lock);
    const entry *known = find(text, definitions);
    pthread_mutex_unlock(&lock);
    const zm_text *cubin = known ? known->cubin : NULL;
    if (!cubin) ZM_TRY(add(&cubin, text, definitions, error));
    *code = (zm_cuda_code){cubin->data, cubin->size};
    return ZMLX_OK;
}
