/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "output.h"
#include "zmlx/system.h"

/* A name is a seed where the expression says random(name). */
static bool is_seed(const char *expr, const char *name) {
    size_t size = strlen(name);
    for (const char *call = expr; (call = strstr(call, "random")); call++) {
        const char *inside = call + strlen("random");
        inside += strspn(inside, " \t");
        if (*inside != '(') continue;
        inside += 1 + strspn(inside + 1, " \t");
        if (!strncmp(inside, name, size) && inside[size + strspn(inside + size, " \t")] == ')') return true;
    }
    return false;
}

typedef struct choice {
    const char *parameters[CLI_MAX_TEXTS], *seeds[CLI_MAX_TEXTS];
    size_t n_parameters, n_seeds;
} choice;

/* One "name=value". */
static int parse_set(cli_kernel *kernel, choice *chosen, char *name, size_t name_size, const cli_command *command,
                     const char *expr, const char *text) {
    size_t size = strcspn(text, "=");
    char *end;
    if (!text[size] || !size || size >= name_size)
        return cli_fail_usage(command, "--set: expected name=value, got \"%s\"", text);
    snprintf(name, name_size, "%.*s", (int)size, text);
    const char *value = text + size + 1;
    errno = 0;
    if (is_seed(expr, name)) {
        kernel->seeds[chosen->n_seeds] = strtoull(value, &end, 0);
        chosen->seeds[chosen->n_seeds++] = name;
        if (value[0] == '-') end = (char *)value;
    } else {
        kernel->parameters[chosen->n_parameters] = strtof(value, &end);
        chosen->parameters[chosen->n_parameters++] = name;
    }
    if (!value[0] || *end || errno == EINVAL)
        return cli_fail_usage(command, "--set: %s: \"%s\" is no number", name, value);
    return CLI_DONE;
}

static int set_up_library(int64_t n_threads) {
    zmlx_error error;
    char folder[4096];
    const char *own = getenv("ZMLX_CACHE_DIR"), *shared = getenv("XDG_CACHE_HOME"), *chosen = NULL;
    int length = 0;
    if (own && own[0]) {
        chosen = own;
    } else if (shared && shared[0] == '/') {
        length = snprintf(folder, sizeof folder, "%s/zmlx/kernels", shared);
        chosen = folder;
    }
    if (length >= (int)sizeof folder) return cli_fail("XDG_CACHE_HOME is too long");
    if (zmlx_kernel_set_cache(chosen, NULL, &error) || zmlx_kernel_set_threads((int)n_threads, &error))
        return cli_fail_error(&error);
    return CLI_DONE;
}

int cli_kernel_open(cli_kernel *kernel, const cli_command *command, const char *expr, const cli_texts *set,
                    int64_t n_threads) {
    choice chosen = {0};
    zmlx_error error;
    *kernel = (cli_kernel){0};
    if (!expr) return cli_fail_usage(command, "--expr is missing");
    int status = set_up_library(n_threads);
    for (size_t i = 0; i < set->count && !status; i++)
        status = parse_set(kernel, &chosen, kernel->names[i], sizeof kernel->names[i], command, expr, set->items[i]);
    if (status) return status;
    zmlx_map_options options = {.parameters = chosen.parameters,
                                .n_parameters = chosen.n_parameters,
                                .seeds = chosen.seeds,
                                .n_seeds = chosen.n_seeds};
    if (zmlx_map(&kernel->kernel, "expr", &expr, 1, &options, &error) ||
        zmlx_kernel_get_info(&kernel->info, kernel->kernel, &error)) {
        cli_kernel_close(kernel);
        return cli_fail_error(&error);
    }
    kernel->numbers = (zmlx_kernel_numbers){kernel->parameters, kernel->seeds};
    return CLI_DONE;
}

void cli_kernel_close(cli_kernel *kernel) {
    zmlx_kernel_free(kernel->kernel);
    kernel->kernel = NULL;
}

int cli_stream_open(mlx_stream *stream, int device) {
    zmlx_error error;
    zmlx_system_info info;
    if (!device && zmlx_system_get_info(&info, &error)) return cli_fail_error(&error);
    bool on_gpu = device ? device == 2 : info.has_gpu;
    return zmlx_stream_new(stream, on_gpu ? MLX_GPU : MLX_CPU, &error) ? cli_fail_error(&error) : CLI_DONE;
}
