/* SPDX-License-Identifier: MIT */
/* What decode.c and its like ask of MLX and of a GPU (mlx/chain.h), answered by two libraries of kernels for the host:
 * every launch runs from both, with the same memory before, and must leave the same. */
#include "mlx/chain.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fused/cuda/timeline.h"
#include "host.h"
#include "mlx/gpu.h"
#include "runtime.h"
#include "runtime/cache.h"

enum { MOST_PLACES = 64, NAME_BYTES = 128, PATH_BYTES = 4096 };

/* The parts of a text by name: who gets a program's text puts them in their place. */
const char zm_cuda_sizes[] = "@sizes\n", zm_cuda_bfloat16[] = "@bfloat16\n", zm_cuda_float16[] = "@float16\n",
           zm_cuda_halves[] = "@halves\n", zm_cuda_lanes[] = "@lanes\n", zm_cuda_stamps[] = "@stamps\n",
           zm_cuda_decode[] = "@decode\n", zm_cuda_wgmma[] = "@wgmma\n", zm_cuda_prompt[] = "@prompt\n",
           zm_cuda_around[] = "@around\n";

typedef struct kernel {
    zm_cuda_module *module;
    const char *symbol;
} kernel;

struct zm_cuda_module {
    host_run_function *run[2];
    kernel kernels[ZM_DECODE_KERNEL_COUNT];
    int n_kernels;
};

typedef struct place {
    host_array *array;
    bool is_written;
} place;

struct zm_chain {
    place places[MOST_PLACES];
    int n_places;
};

static const char *folders[2], *skipped;
static char description[NAME_BYTES];
static int n_launches, n_different;
static size_t n_bytes;

void host_compare_libraries(const char *first, const char *second, const char *names) {
    folders[0] = first;
    folders[1] = second;
    skipped = names;
}

void host_describe(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(description, sizeof description, format, arguments);
    va_end(arguments);
}

int host_verdict(void) {
    if (!folders[0]) return 0;
    if (n_different || host_complaints()) {
        printf("%d of %d runs differ, %d complaints\n", n_different, n_launches, host_complaints());
        return 1;
    }
    printf("%d runs, %zu bytes\n", n_launches, n_bytes);
    return n_launches ? 0 : 2;
}

/* Programs. Their name is made of what their text defines first: 4-64-2048 and so on. */

zm_gpu_kind zm_gpu_get(int *compute_capability) {
    *compute_capability = 90;
    return ZM_GPU_CUDA;
}

static void name_program(char *name, const char *text) {
    size_t n = 0;
    while (!strncmp(text, "#define ", 8)) {
        const char *value = strchr(text + 8, ' ') + 1, *end = strchr(value, '\n');
        n += (size_t)snprintf(name + n, NAME_BYTES - n, "%s%.*s", n ? "-" : "", (int)(end - value), value);
        text = end + 1;
    }
}

zmlx_status zm_compile_cuda(const zm_text **cubin, int *compiled, const zm_cuda_source *source, int part,
                            zmlx_error *error) {
    (void)compiled, (void)part, (void)error;
    char *name = malloc(NAME_BYTES); /* who asks keeps it, as long as the process lives */
    zm_text *made = calloc(1, sizeof *made);
    if (!name || !made) abort();
    name_program(name, source->text);
    /* Those that are not for this processor are left out. */
    bool runs = strstr(source->text, zm_cuda_decode);
    if (!folders[0] && runs) printf("program %s\n%s", name, source->text);
    made->data = name;
    *cubin = made;
    return ZMLX_OK;
}

static host_run_function *load(const char *folder, const char *name) {
    char path[PATH_BYTES];
    snprintf(path, sizeof path, "%s/%s.so", folder, name);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    host_run_function *run = NULL;
    if (library) *(void **)&run = dlsym(library, "host_run");
    if (!run) {
        printf("%s: %s\n", path, dlerror());
        exit(2);
    }
    return run;
}

zmlx_status zm_cuda_module_load(zm_cuda_module **module, const char *code, zmlx_error *error) {
    (void)error;
    *module = calloc(1, sizeof **module);
    for (int i = 0; i < 2 && folders[i]; i++) (*module)->run[i] = load(folders[i], code);
    return ZMLX_OK;
}

void *zm_cuda_module_kernel(zm_cuda_module *module, const char *symbol, int shared_bytes) {
    (void)shared_bytes;
    kernel *made = &module->kernels[module->n_kernels++];
    *made = (kernel){module, symbol};
    return made;
}

int zm_cuda_kernel_registers(void *kernel) {
    (void)kernel;
    return 64;
}

/* Chains. */

zm_chain *zm_chain_new(const char *name) {
    (void)name;
    return calloc(1, sizeof(zm_chain));
}
void zm_chain_free(zm_chain *chain) { free(chain); }

static int add(zm_chain *chain, mlx_array array, bool is_written) {
    if (chain->n_places == MOST_PLACES) abort();
    chain->places[chain->n_places] = (place){array.ctx, is_written};
    return chain->n_places++;
}
int zm_chain_input(zm_chain *chain, mlx_array array) { return add(chain, array, false); }
int zm_chain_constant(zm_chain *chain, mlx_array array) { return add(chain, array, false); }
int zm_chain_overwrite(zm_chain *chain, mlx_array array) { return add(chain, array, true); }
/* What blocks that are left out would have written is as good as any other input. */
int zm_chain_temporary(zm_chain *chain, size_t bytes) { return add(chain, host_halves(bytes / 2, HOST_USUAL), true); }
int zm_chain_output(zm_chain *chain, const zm_node_output *spec) {
    size_t n = 1;
    for (int i = 0; i < spec->n_dims; i++) n *= (size_t)spec->shape[i];
    return zm_chain_temporary(chain, n * 2);
}

/* All that kernels may write, one behind the other. */
static char *copy_written(const zm_chain *chain, char *to) {
    size_t bytes = 0;
    for (int i = 0; i < chain->n_places; i++) bytes += chain->places[i].is_written ? chain->places[i].array->bytes : 0;
    char *copy = to ? to : malloc(bytes ? bytes : 1), *next = copy;
    for (int i = 0; i < chain->n_places; i++) {
        const place *from = &chain->places[i];
        if (!from->is_written) continue;
        memcpy(next, from->array->data, from->array->bytes);
        next += from->array->bytes;
    }
    return copy;
}
static void restore_written(zm_chain *chain, const char *copy) {
    for (int i = 0; i < chain->n_places; i++) {
        if (!chain->places[i].is_written) continue;
        memcpy(chain->places[i].array->data, copy, chain->places[i].array->bytes);
        copy += chain->places[i].array->bytes;
    }
}

static size_t count_written(const zm_chain *chain, const char *before) {
    size_t n = 0;
    for (int i = 0; i < chain->n_places; i++) {
        const host_array *array = chain->places[i].array;
        if (!chain->places[i].is_written) continue;
        for (size_t k = 0; k < array->bytes; k++) n += array->data[k] != before[k];
        before += array->bytes;
    }
    return n;
}

/* Whether what is there now is what the first library left; prints where not. */
static bool compare_written(const zm_chain *chain, const char *expected, const char *symbol, int mode) {
    for (int i = 0; i < chain->n_places; i++) {
        const host_array *array = chain->places[i].array;
        if (!chain->places[i].is_written) continue;
        for (size_t k = 0; k + 1 < array->bytes; k += 2) {
            uint16_t own, other;
            memcpy(&own, array->data + k, sizeof own);
            memcpy(&other, expected + k, sizeof other);
            if (own == other) continue;
            printf("    %s (%s), order %d: half %zu of argument %d is %04x (%g), %04x (%g) by the other\n", symbol + 3,
                   description, mode, k / 2, i, own, (double)host_half_value(own), other,
                   (double)host_half_value(other));
            return false;
        }
        expected += array->bytes;
    }
    return true;
}

static int resolve(const zm_chain *chain, const zm_chain_launch_record *record, uint64_t *arguments) {
    for (int i = 0; i < record->n_arguments; i++) {
        const zm_chain_argument *argument = &record->arguments[i];
        arguments[i] = argument->kind == ZM_ARGUMENT_WORD    ? argument->word
                       : argument->kind == ZM_ARGUMENT_ARRAY ? (uintptr_t)chain->places[argument->place].array->data
                                                             : 0;
    }
    return record->n_arguments;
}

static void run(host_run_function *function, const char *symbol, const host_launch *launch, const uint64_t *arguments,
                int n) {
    int complaints = host_complaints();
    if (function(symbol, launch, arguments, n)) {
        printf("    a library has no kernel %s with %d arguments\n", symbol, n);
        exit(2);
    }
    if (host_complaints() > complaints) printf("    in %s (%s)\n", symbol + 3, description);
}

/* The first library's copies are made at once, the second's late, with warps in several orders. */
static const struct {
    unsigned order;
    unsigned char poison;
} modes[] = {{0, 0xff}, {1, 0x3b}, {77, 0xff}};

void zm_chain_launch(zm_chain *chain, const zm_chain_launch_record *record) {
    if (!folders[0]) return;
    const kernel *own = record->kernel;
    uint64_t arguments[ZM_CHAIN_MAX_ARGUMENTS];
    int n = resolve(chain, record, arguments);
    /* Those behind a router need all its scores. */
    bool needs_all = !strcmp(own->symbol, "zm_router");
    host_launch launch = {(unsigned)record->grid, (unsigned)record->block, (unsigned)record->shared_bytes,
                          needs_all ? 1 : (unsigned)options.every, 0, 0, 0xff};
    if (strstr(skipped, own->symbol)) return run(own->module->run[1], own->symbol, &launch, arguments, n);
    char *before = copy_written(chain, NULL);
    run(own->module->run[0], own->symbol, &launch, arguments, n);
    size_t written = count_written(chain, before);
    if (!written) host_complain("a kernel that writes nothing", 0);
    char *expected = copy_written(chain, NULL);
    launch.is_late = true;
    for (int mode = 0; mode < options.modes; mode++) {
        restore_written(chain, before);
        launch.order = modes[mode].order;
        launch.poison = modes[mode].poison;
        run(own->module->run[1], own->symbol, &launch, arguments, n);
        n_launches++;
        n_bytes += written;
        n_different += !compare_written(chain, expected, own->symbol, mode);
    }
    restore_written(chain, expected);
    free(before);
    free(expected);
}

void host_launch_kernel(const char *program, const char *symbol, const host_launch *launch, const mlx_array *arrays,
                        int n_arrays, int n_written, const uint32_t *words, int n_words) {
    zm_cuda_module *module;
    zm_chain *chain = zm_chain_new(program);
    zm_cuda_module_load(&module, program, NULL);
    zm_chain_launch_record record = {.kernel = zm_cuda_module_kernel(module, symbol, 0),
                                     .grid = (int)launch->grid,
                                     .block = (int)launch->block,
                                     .shared_bytes = (int)launch->shared_bytes};
    for (int i = 0; i < n_arrays; i++)
        record.arguments[record.n_arguments++] =
            (zm_chain_argument){.kind = ZM_ARGUMENT_ARRAY, .place = add(chain, arrays[i], i >= n_arrays - n_written)};
    for (int i = 0; i < n_words; i++)
        record.arguments[record.n_arguments++] = (zm_chain_argument){.kind = ZM_ARGUMENT_WORD, .word = words[i]};
    zm_chain_launch(chain, &record);
    zm_chain_free(chain);
    free(module);
}

/* Of MLX: what decode.c and its like ask about an array. */

mlx_dtype mlx_array_dtype(const mlx_array array) { return ((const host_array *)array.ctx)->dtype; }
size_t mlx_array_nbytes(const mlx_array array) { return ((const host_array *)array.ctx)->bytes; }
bool zm_scope_failed(const zm_scope *scope) { return scope->failure.code != ZMLX_OK; }
bool zm_timeline_is_on(void) { return false; }
void zm_timeline_add(zm_launch *launch) { (void)launch; }
void zm_timeline_restart(void) {}
bool zm_is_set(mlx_array array) { return array.ctx; }
mlx_array zm_scope_fail(zm_scope *scope, zmlx_status code, const char *where, const char *format, ...) {
    printf("    %s: %s\n", where, format);
    scope->failure.code = code;
    return (mlx_array){NULL};
}
