/* SPDX-License-Identifier: MIT */
/* NVRTC, the compiler of CUDA C++ that comes as a library. Loaded when first needed: nothing links against it. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime/cache_parts.h"

typedef struct nvrtc_program nvrtc_program;

/* The functions of its C interface that are used here; each returns 0 for success. */
#define FUNCTIONS(X) \
    X(version, "nvrtcVersion", (int *major, int *minor)) \
    X(create, "nvrtcCreateProgram", (nvrtc_program **program, const char *source, const char *name, int n_headers, \
                                     const char *const *headers, const char *const *names)) \
    X(destroy, "nvrtcDestroyProgram", (nvrtc_program **program)) \
    X(compile, "nvrtcCompileProgram", (nvrtc_program * program, int n_options, const char *const *options)) \
    X(cubin_size, "nvrtcGetCUBINSize", (nvrtc_program * program, size_t *size)) \
    X(cubin, "nvrtcGetCUBIN", (nvrtc_program * program, char *code)) \
    X(log_size, "nvrtcGetProgramLogSize", (nvrtc_program * program, size_t *size)) \
    X(log, "nvrtcGetProgramLog", (nvrtc_program * program, char *text))

static struct {
    void *library;
    char path[1024];
    int major, minor;
    const char *missing; /* a function that it lacks */
#define FUNCTION(name, symbol, arguments) int(*name) arguments;
    FUNCTIONS(FUNCTION)
#undef FUNCTION
} nvrtc;

/* By the name MLX has loaded it under, or as CUDA installs it. */
static void *open_library(void) {
    static const char *const names[] = {"libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so",
                                        "/usr/local/cuda/lib64/libnvrtc.so"};
    enum { N_NAMES = sizeof names / sizeof *names };
    for (int i = 0; i < 2 * N_NAMES; i++) { /* one that is loaded comes first */
        void *library = dlopen(names[i % N_NAMES], RTLD_NOW | RTLD_LOCAL | (i < N_NAMES ? RTLD_NOLOAD : 0));
        if (library) return library;
    }
    return NULL;
}

static void load(void) {
    void *library = open_library(), *address;
    if (!library) return;
#define FUNCTION(name, symbol, arguments) \
    if (!(address = dlsym(library, symbol))) nvrtc.missing = symbol; \
    memcpy(&nvrtc.name, &address, sizeof address);
    FUNCTIONS(FUNCTION)
#undef FUNCTION
    memcpy(&address, &nvrtc.version, sizeof address);
    Dl_info info;
    if (!nvrtc.missing && dladdr(address, &info) && info.dli_fname)
        snprintf(nvrtc.path, sizeof nvrtc.path, "%s", info.dli_fname);
    if (!nvrtc.missing && nvrtc.version(&nvrtc.major, &nvrtc.minor)) nvrtc.missing = "its version";
    nvrtc.library = library;
}

static zmlx_status need_library(zmlx_error *error) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, load);
    if (!nvrtc.library)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, NULL,
                       "needs NVRTC to compile for CUDA; libnvrtc.so.13 or .12 was not found");
    if (nvrtc.missing)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "libnvrtc", "lacks %s", nvrtc.missing);
    return ZMLX_OK;
}

/* One rounding per operation: no contraction, no approximations but those that the text asks for. */
static const char *const options[] = {"--std=c++17", "--fmad=false", "--disable-warnings"};
enum { N_OPTIONS = sizeof options / sizeof *options };

static const char *suffix(const zm_cuda_source *source) { return source->for_it_alone ? "a" : ""; }

zmlx_status zm_nvrtc_describe(zm_text *key, const zm_cuda_source *source, zmlx_error *error) {
    ZM_TRY(need_library(error));
    zm_entry_describe_file(key, nvrtc.path);
    zm_text_printf(key, "NVRTC %d.%d sm_%d%s", nvrtc.major, nvrtc.minor, source->compute_capability, suffix(source));
    for (int i = 0; i < N_OPTIONS; i++) zm_text_printf(key, " %s", options[i]);
    return ZMLX_OK;
}

/* The line of the log that names an error. */
static zmlx_status fail_with_log(nvrtc_program *program, zmlx_error *error) {
    size_t size = 0;
    char *log = !nvrtc.log_size(program, &size) && size ? calloc(size + 1, 1) : NULL;
    const char *line = log && !nvrtc.log(program, log) && log[0] ? log : "failed without a message";
    const char *named = strstr(line, "error");
    if (named)
        while (named > line && named[-1] != '\n') named--;
    if (named) line = named;
    zmlx_status status = zm_fail(error, ZMLX_ERROR_FORMAT, "NVRTC", "%.*s", (int)strcspn(line, "\n"), line);
    free(log);
    return status;
}

static zmlx_status take_cubin(zm_text *cubin, nvrtc_program *program, zmlx_error *error) {
    size_t size = 0;
    if (nvrtc.cubin_size(program, &size) || !size)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "NVRTC", "gave no code");
    char *code = malloc(size + 1);
    if (!code) return zm_fail_memory(error);
    if (nvrtc.cubin(program, code)) {
        free(code);
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "NVRTC", "gave no code");
    }
    code[size] = '\0';
    *cubin = (zm_text){.data = code, .size = size, .capacity = size + 1};
    return ZMLX_OK;
}

static atomic_bool has_run;

bool zm_nvrtc_has_run(void) { return atomic_load(&has_run); }

zmlx_status zm_nvrtc_run(zm_text *cubin, const zm_cuda_source *source, int part, zmlx_error *error) {
    ZM_TRY(need_library(error));
    char architecture[64], definition[32];
    snprintf(architecture, sizeof architecture, "--gpu-architecture=sm_%d%s", source->compute_capability,
             suffix(source));
    snprintf(definition, sizeof definition, "-DZM_PART=%d", part);
    const char *arguments[N_OPTIONS + 2] = {architecture, definition};
    memcpy(arguments + 2, options, sizeof options);
    nvrtc_program *program = NULL;
    if (nvrtc.create(&program, source->text, "kernel.cu", 0, NULL, NULL))
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "NVRTC", "cannot start");
    zmlx_status status = nvrtc.compile(program, N_OPTIONS + 2, arguments) ? fail_with_log(program, error)
                                                                          : take_cubin(cubin, program, error);
    nvrtc.destroy(&program);
    atomic_store(&has_run, true);
    return status;
}
