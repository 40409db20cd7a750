/* SPDX-License-Identifier: MIT */
#include "fused/cuda/prompt_node.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "fused/cuda/sizes.cuh"
#include "mlx/gpu.h"
#include "runtime/cache.h"

/* sizes.cuh and so on */
extern const char zm_cuda_sizes[], zm_cuda_bfloat16[], zm_cuda_float16[], zm_cuda_halves[], zm_cuda_stamps[],
    zm_cuda_lanes[], zm_cuda_decode[], zm_cuda_wgmma[], zm_cuda_prompt[], zm_cuda_around[];

typedef struct entry {
    struct entry *next;
    zm_prompt_code_key key;
    const zm_text *cubin;
} entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static entry *entries;

static bool same(zm_prompt_code_key a, zm_prompt_code_key b) {
    return a.kind == b.kind && a.bits == b.bits && a.group_size == b.group_size && a.weight_rows == b.weight_rows &&
           a.span == b.span && a.is_float16 == b.is_float16 && a.k == b.k && a.count == b.count;
}

/* Of prompt.cuh. */
static bool is_product(zm_prompt_code_key key) { return key.kind < ZM_PROMPT_TILED; }
static bool is_tiled(zm_prompt_code_key key) { return key.kind >= ZM_PROMPT_TILED && key.kind < ZM_PROMPT_PLAN; }

/* Its text is one of decode's. */
static bool is_with_decode(zm_prompt_code_key key) { return is_tiled(key) || key.kind >= ZM_PROMPT_FEW; }

static void define_parts(zm_text *text, int kind) {
    zm_text_printf(text, "#define ZM_GATED %d\n#define ZM_FIRST %d\n#define ZM_SECOND %d\n",
                   !!(kind & ZM_PROMPT_GATED), !!(kind & ZM_PROMPT_FIRST), !!(kind & ZM_PROMPT_SECOND));
}

/* A hidden size that is no row's length leaves most other kernels out. */
static void define_with_decode(zm_text *text, zm_prompt_code_key key) {
    enum { OTHER_SIZE = 64, NO_SIZE = 128 };
    bool routes = key.kind == ZM_PROMPT_ROUTE;
    int sorted = key.kind == ZM_PROMPT_SORTED_IN ? 1 : key.kind == ZM_PROMPT_SORTED_OUT ? 2 : 0;
    zm_text_printf(text,
                   "#define ZM_BITS %d\n#define ZM_GROUP %d\n#define ZM_K %d\n#define ZM_FEW %d\n#define ZM_SORTED %d\n"
                   "#define ZM_MXFP4 %d\n#define ZM_HIDDEN %d\n#define ZM_HEAD_DIM %d\n#define ZM_TOP_K %d\n"
                   "#define ZM_ROUTE %d\n#define ZM_SORTED_WARPS %d\n#define ZM_SORTED_ROWS %d\n",
                   routes ? 4 : key.bits, routes ? OTHER_SIZE : key.group_size, routes ? NO_SIZE : key.k,
                   key.kind == ZM_PROMPT_FEW ? key.count : 0, sorted, !!sorted, OTHER_SIZE, OTHER_SIZE,
                   routes ? key.count : 1, routes, ZM_PROMPT_SORTED_WARPS, ZM_PROMPT_SORTED_ROWS);
    if (!is_tiled(key)) return;
    zm_text_append_string(text, "#define ZM_TILED 1\n");
    define_parts(text, key.kind);
}

static void define_kernel(zm_text *text, zm_prompt_code_key key) {
    static const char *const others[] = {"PLAN", "COMBINE", "CONVOLVE", "EMBED"};
    if (is_with_decode(key)) {
        define_with_decode(text, key);
        return;
    }
    if (!is_product(key)) {
        zm_text_printf(text, "#define ZM_%s 1\n#define ZM_BITS %d\n#define ZM_GROUP %d\n",
                       others[key.kind - ZM_PROMPT_PLAN], key.bits, key.group_size);
        return;
    }
    zm_text_printf(text, "#define ZM_BITS %d\n#define ZM_GROUP %d\n#define ZM_WEIGHTS %d\n#define ZM_SPAN %d\n",
                   key.bits, key.group_size, key.weight_rows, key.span);
    define_parts(text, key.kind);
}

bool zm_prompt_code_text(zm_text *text, zm_prompt_code_key key) {
    define_kernel(text, key);
    zm_text_printf(text, "#define ZM_FLOAT16 %d\n", key.is_float16);
    zm_text_append_string(text, zm_cuda_sizes);
    zm_text_append_string(text, zm_cuda_halves);
    zm_text_append_string(text, key.is_float16 ? zm_cuda_float16 : zm_cuda_bfloat16);
    if (is_product(key)) zm_text_append_string(text, zm_cuda_wgmma);
    if (is_with_decode(key)) zm_text_append_string(text, zm_cuda_stamps);
    if (is_with_decode(key)) zm_text_append_string(text, zm_cuda_lanes);
    zm_text_append_string(text, is_product(key)       ? zm_cuda_prompt
                                : is_with_decode(key) ? zm_cuda_decode
                                                      : zm_cuda_around);
    return is_product(key);
}

static zmlx_status compile(const zm_text **cubin, zm_prompt_code_key key, zmlx_error *error) {
    zm_text text = {0};
    bool for_it_alone = zm_prompt_code_text(&text, key);
    zm_cuda_source source = {.text = text.data, .size = text.size, .n_parts = 1, .for_it_alone = for_it_alone};
    zm_gpu_get(&source.compute_capability);
    zmlx_status status = text.failed ? zm_fail_memory(error) : zm_compile_cuda(cubin, NULL, &source, 0, error);
    zm_text_free(&text);
    return status;
}

/* With the lock held. */
static const entry *find(zm_prompt_code_key key) {
    const entry *known = entries;
    while (known && !same(known->key, key)) known = known->next;
    return known;
}

/* Without the lock while it is compiled: those who want another go on. Who wants the same adds the same cubin again. */
static zmlx_status add(const zm_text **cubin, zm_prompt_code_key key, zmlx_error *error) {
    entry *made = calloc(1, sizeof *made);
    if (!made) return zm_fail_memory(error);
    made->key = key;
    zmlx_status status = compile(&made->cubin, key, error);
    if (status) {
        free(made);
        return status;
    }
    *cubin = made->cubin;
    pthread_mutex_lock(&lock);
    made->next = entries;
    entries = made;
    pthread_mutex_unlock(&lock);
    return ZMLX_OK;
}

zmlx_status zm_prompt_code_get(const zm_text **cubin, zm_prompt_code_key key, zmlx_error *error) {
    pthread_mutex_lock(&lock);
    const entry *known = find(key);
    pthread_mutex_unlock(&lock);
    if (!known) return add(cubin, key, error);
    *cubin = known->cubin;
    return ZMLX_OK;
}

/* Dynamic shared memory. */
static int shared_bytes(const zm_prompt_kernel *kernel) {
    zm_prompt_code_key key = kernel->code;
    enum { HALF_BYTES = 2, ROW_BYTES = PROMPT_TILE_K * HALF_BYTES, UNIT = 1024, ROWS_UNIT = 16 };
    if (!is_product(key)) return kernel->shared_bytes;
    int width = key.bits <= 4 ? 4 : 8, spans = key.span == 2 ? 4 : 2;
    int codes = key.weight_rows * PROMPT_TILE_K * width / 8;
    int scales = spans * 2 * key.weight_rows * key.span * HALF_BYTES;
    int rows = (kernel->tile_rows + ROWS_UNIT - 1) / ROWS_UNIT * ROWS_UNIT;
    return 2 * codes + (scales + UNIT - 1) / UNIT * UNIT + PROMPT_STAGES * rows * ROW_BYTES;
}

static const char *symbol_of(zm_prompt_code_key key) {
    static const char *const others[] = {"zm_plan", "zm_combine", "zm_convolve", "zm_embed_rows",
                                         "zm_few",  "zm_route",   "zm_sorted",   "zm_sorted"};
    if (is_tiled(key)) return "zm_tiled";
    return is_product(key) ? "zm_product" : others[key.kind - ZM_PROMPT_PLAN];
}

static zmlx_status launch_gpu(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                              const zm_view *outputs, int n_outputs, zmlx_error *error) {
    (void)outputs, (void)n_outputs;
    enum { ALIGNMENT = 16 };
    const zm_prompt_kernel *self = state;
    for (int i = 0; i < n_inputs; i++)
        if (inputs[i].offset % ALIGNMENT)
            return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "input", "%d begins at no multiple of %d bytes", i,
                           ALIGNMENT);
    const zm_text *cubin;
    ZM_TRY(zm_prompt_code_get(&cubin, self->code, error));
    launch->name = symbol_of(self->code);
    launch->code = cubin->data;
    launch->code_size = cubin->size;
    launch->block = self->block;
    launch->grid = self->n_blocks * self->block;
    launch->shared_bytes = shared_bytes(self);
    launch->often = true;
    memcpy(launch->scalars, self->words, sizeof self->words);
    launch->n_scalars = self->n_words;
    return ZMLX_OK;
}

static const zm_node_class node_class = {.name = "zmlx.prompt", .launch_gpu = launch_gpu, .free_state = free};

void zm_prompt_add_word(zm_prompt_kernel *kernel, int value) { kernel->words[kernel->n_words++] = (uint32_t)value; }

void zm_prompt_add_float(zm_prompt_kernel *kernel, float value) {
    memcpy(&kernel->words[kernel->n_words++], &value, sizeof value);
}

void zm_prompt_launch(zm_scope *scope, mlx_array *results, const zm_node_output *specs, int n_outputs,
                      const zm_prompt_kernel *kernel, const mlx_array *inputs, int n_inputs) {
    enum { MOST_BLOCKS = 1 << 22 }; /* MLX counts threads in an int */
    for (int i = 0; i < n_outputs; i++) results[i] = (mlx_array){NULL};
    if (zm_scope_failed(scope)) return;
    if (kernel->n_blocks > MOST_BLOCKS) {
        zm_scope_fail(scope, ZMLX_ERROR_UNSUPPORTED, node_class.name, "more than %d blocks", MOST_BLOCKS);
        return;
    }
    zm_prompt_kernel *state = malloc(sizeof *state);
    if (!state) {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, node_class.name, "out of memory");
        return;
    }
    *state = *kernel;
    if (zm_node_apply(results, specs, n_outputs, &node_class, state, inputs, n_inputs, scope->stream, &scope->failure))
        return;
    for (int i = 0; i < n_outputs; i++) zm_scope_own(scope, results[i]);
}
