/* SPDX-License-Identifier: MIT */
#include "common.h"

#include <stdlib.h>
#include <string.h>

#include "output.h"

static void draw_load(void *context, uint64_t done, uint64_t total) {
    cli_progress_draw(context, done, total);
}

int cli_model_load(zmlx_model **model, const char *folder, const cli_general *general) {
    cli_progress progress;
    cli_progress_start(&progress, "loading");
    zmlx_model_options options = {
        .device = (zmlx_device)general->device,
        .dtype = (zmlx_dtype)general->dtype,
        .n_threads = (int)general->n_threads,
        .progress = draw_load,
        .progress_context = &progress,
    };
    zmlx_error error;
    zmlx_status status = zmlx_model_load(model, folder, &options, &error);
    cli_progress_end(&progress);
    return status ? cli_fail_error(&error) : CLI_DONE;
}

static bool is_known_pattern(const char *name) {
    size_t count;
    const zmlx_pattern_info *known = zmlx_pattern_list(&count);
    for (size_t i = 0; i < count; i++)
        if (!strcmp(known[i].name, name)) return true;
    return false;
}

static int fail_pattern(const cli_command *command, const char *name, bool allow_none) {
    char list[512] = "";
    size_t count;
    const zmlx_pattern_info *known = zmlx_pattern_list(&count);
    for (size_t i = 0; i < count; i++) {
        size_t used = strlen(list);
        if (used + strlen(known[i].name) + 3 > sizeof list) break;
        if (i) strcat(list, ", ");
        strcat(list, known[i].name);
    }
    const char *instead = zmlx_pattern_instead(name);
    return cli_fail_usage(command, "--patterns: unknown pattern \"%s\"%s%s%s; expected auto%s or some of %s", name,
                          instead ? " (" : "", instead ? instead : "", instead ? ")" : "", allow_none ? ", none" : "",
                          list);
}

int cli_patterns_parse(cli_patterns *patterns, const cli_command *command, const char *text, int activations,
                       bool allow_none) {
    static const zmlx_activations kinds[] = {ZMLX_ACTIVATIONS_FLOAT32, ZMLX_ACTIVATIONS_FLOAT32, ZMLX_ACTIVATIONS_INT8};
    *patterns = (cli_patterns){.automatic = !strcmp(text, "auto"), .activations = kinds[activations]};
    if (patterns->automatic) return CLI_DONE;
    size_t limit = 1;
    for (const char *byte = text; *byte; byte++) limit += *byte == ',';
    patterns->storage = strdup(text);
    patterns->names = calloc(limit, sizeof *patterns->names);
    if (!patterns->storage || !patterns->names) return cli_fail_memory();
    if (allow_none && !strcmp(text, "none")) {
        if (patterns->activations == ZMLX_ACTIVATIONS_FLOAT32) return CLI_DONE;
        return cli_fail_usage(command, "--activations: int8 is for fused products, and --patterns none leaves none");
    }
    for (char *rest = patterns->storage, *name; (name = strsep(&rest, ","));) {
        if (!is_known_pattern(name)) return fail_pattern(command, name, allow_none);
        for (size_t i = 0; i < patterns->count; i++)
            if (!strcmp(patterns->names[i], name))
                return cli_fail_usage(command, "--patterns: %s is named twice", name);
        patterns->names[patterns->count++] = name;
    }
    return CLI_DONE;
}

zmlx_patch_options cli_patterns_options(const cli_patterns *patterns) {
    const char *cudnn = getenv("MLX_CUDA_USE_CUDNN_SDPA"); /* MLX's own switch */
    return (zmlx_patch_options){.patterns = patterns->automatic ? NULL : patterns->names,
                                .n_patterns = patterns->count,
                                .activations = patterns->activations,
                                .vector_attention = cudnn && !strcmp(cudnn, "0")};
}

void cli_patterns_free(cli_patterns *patterns) {
    free(patterns->storage);
    free((void *)patterns->names);
}
