/* SPDX-License-Identifier: MIT */
#include "kernel.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "output.h"
#include "zmlx/system.h"

static bool continues_name(char byte) { return isalnum((unsigned char)byte) || byte == '_'; }

static const char *skip_space(const char *text) { return text + strspn(text, " \t\r\n"); }

/* The next place at or after text where name stands as a word; NULL: none. */
static const char *find_name(const char *expr, const char *text, const char *name) {
    size_t size = strlen(name);
    while ((text = strstr(text, name)) && ((text > expr && continues_name(text[-1])) || continues_name(text[size])))
        text++;
    return text;
}

/* The text with a space for each comment; NULL: out of memory. */
static char *without_comments(const char *expr) {
    char *text = strdup(expr), *end = text;
    while (text && *expr) {
        bool is_block = !strncmp(expr, "/*", 2);
        if (is_block || !strncmp(expr, "//", 2)) {
            const char *last = is_block ? strstr(expr + 2, "*/") : strchr(expr, '\n');
            expr = !last ? expr + strlen(expr) : is_block ? last + 2 : last;
            *end++ = ' ';
        } else {
            *end++ = *expr++;
        }
    }
    if (text) *end = '\0';
    return text;
}

/* A name is a seed where the expression says random(name), be it random<T>((name)). */
static bool is_seed(const char *expr, const char *name) {
    for (const char *call = expr; (call = find_name(expr, call, "random")); call++) {
        const char *open = skip_space(call + strlen("random"));
        if (*open == '<') open += strcspn(open, ">"), open = skip_space(open + (*open == '>'));
        if (*open != '(') continue;
        const char *inside = open + strspn(open, "( \t\r\n");
        if (find_name(expr, inside, name) == inside && *skip_space(inside + strlen(name)) == ')') return true;
    }
    return false;
}

/* The whole text as a number of the type's range; no spaces. */
static bool parse_seed(uint64_t *seed, const char *text) {
    bool is_hexadecimal = text[0] == '0' && (text[1] == 'x' || text[1] == 'X');
    char *end;
    errno = 0;
    *seed = strtoull(text, &end, is_hexadecimal ? 16 : 10);
    return isdigit((unsigned char)text[0]) && !*end && !errno;
}

static bool parse_float(float *number, const char *text) {
    char *end;
    errno = 0;
    *number = strtof(text, &end);
    return text[0] && !isspace((unsigned char)text[0]) && !*end && !(errno == ERANGE && isinf(*number));
}

typedef struct choice {
    const char *parameters[CLI_MAX_TEXTS], *seeds[CLI_MAX_TEXTS];
    size_t n_parameters, n_seeds;
} choice;

/* One "name=value". */
static int parse_set(cli_kernel *kernel, choice *chosen, char *name, size_t name_size, const cli_command *command,
                     const char *expr, const char *text) {
    size_t size = strcspn(text, "=");
    if (!text[size] || !size || size >= name_size)
        return cli_fail_usage(command, "--set: expected name=value, got \"%s\"", text);
    snprintf(name, name_size, "%.*s", (int)size, text);
    const char *value = text + size + 1;
    if (!find_name(expr, expr, name)) return cli_fail_usage(command, "--set: %s is not in the expression", name);
    if (is_seed(expr, name)) {
        if (!parse_seed(&kernel->seeds[chosen->n_seeds], value))
            return cli_fail_usage(command, "--set: %s: expected an integer of 0 to 2^64 - 1, got \"%s\"", name, value);
        chosen->seeds[chosen->n_seeds++] = name;
    } else {
        if (!parse_float(&kernel->parameters[chosen->n_parameters], value))
            return cli_fail_usage(command, "--set: %s: expected a number of float32's range, got \"%s\"", name, value);
        chosen->parameters[chosen->n_parameters++] = name;
    }
    return CLI_DONE;
}

/* zmlx/kernels below shared, and what is missing on the way; that it can be used is the library's to say. */
static int make_folder(char *folder, size_t size, const char *shared) {
    static const char *const parts[] = {"", "/zmlx", "/kernels"};
    size_t length = 0;
    for (size_t i = 0; i < CLI_COUNT(parts); i++) {
        length += (size_t)snprintf(folder + length, size - length, "%s%s", i ? "" : shared, parts[i]);
        if (length >= size) return cli_fail("XDG_CACHE_HOME is too long");
        struct stat info;
        if (stat(folder, &info) && mkdir(folder, 0700) && errno != EEXIST)
            return cli_fail("XDG_CACHE_HOME: %s: cannot create the folder: %s", folder, strerror(errno));
    }
    return CLI_DONE;
}

/* MLX's CPU allocator keeps 32 MB of what was freed; results beyond come as pages that the system must clear first,
 * which takes longer than most kernels. */
static void keep_results(void) {
    zmlx_system_info info;
    size_t before;
    if (!zmlx_system_get_info(&info, NULL) && !info.has_gpu)
        mlx_set_cache_limit(&before, (size_t)(info.memory_bytes / 8));
}

static int set_up_library(int64_t n_threads) {
    zmlx_error error;
    char folder[4096];
    const char *own = getenv("ZMLX_CACHE_DIR"), *shared = getenv("XDG_CACHE_HOME"), *chosen = NULL;
    if (own && own[0]) {
        chosen = own;
    } else if (shared && shared[0] == '/') {
        int status = make_folder(folder, sizeof folder, shared);
        if (status) return status;
        chosen = folder;
    }
    keep_results();
    if (zmlx_kernel_set_cache(chosen, NULL, &error) || zmlx_kernel_set_threads((int)n_threads, &error))
        return cli_fail_error(&error);
    return CLI_DONE;
}

int cli_kernel_open(cli_kernel *kernel, const cli_command *command, const char *expr, const cli_texts *set,
                    int64_t n_threads) {
    choice chosen = {0};
    zmlx_error error;
    *kernel = (cli_kernel){0};
    if (!expr) return cli_fail_usage(command, "NAME or --expr is missing");
    int status = set_up_library(n_threads);
    char *plain = without_comments(expr);
    if (!plain) return cli_fail_memory();
    for (size_t i = 0; i < set->count && !status; i++)
        status = parse_set(kernel, &chosen, kernel->names[i], sizeof kernel->names[i], command, plain, set->items[i]);
    free(plain);
    for (size_t i = 0; i < set->count && !status; i++)
        for (size_t j = 0; j < i && !status; j++)
            if (!strcmp(kernel->names[i], kernel->names[j]))
                status = cli_fail_usage(command, "--set: %s is given twice", kernel->names[i]);
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
