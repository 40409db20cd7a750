/* SPDX-License-Identifier: MIT */
/* families_driver MODEL INPUT OUTPUT: feeds token ids to a model and writes all logits.
 * INPUT: int32 n_calls, int32 lengths[n_calls], then the int32 token ids of all calls, one after another.
 * OUTPUT: float32 [sum of lengths, vocab_size]. */
#include <stdio.h>
#include <stdlib.h>

#include "zmlx/model.h"

static int fail(const zmlx_error *error) {
    fprintf(stderr, "%s: %s\n", error->where, error->message);
    return 2;
}

static int32_t *read_input(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    int32_t *values = NULL;
    if (!file) return NULL;
    if (!fseek(file, 0, SEEK_END) && (*size = (size_t)ftell(file) / sizeof *values) > 0) {
        rewind(file);
        values = malloc(*size * sizeof *values);
        if (values && fread(values, sizeof *values, *size, file) != *size) {
            free(values);
            values = NULL;
        }
    }
    fclose(file);
    return values;
}

/* Feeds one call after another, writing the logits of each. */
static int feed_all(zmlx_session *session, size_t vocab_size, const int32_t *input, size_t size, FILE *output) {
    size_t n_calls = input[0] > 0 ? (size_t)input[0] : 0;
    if (n_calls + 1 > size) return 2;
    const int32_t *tokens = input + 1 + n_calls;
    for (size_t i = 0; i < n_calls; i++) {
        size_t length = (size_t)input[1 + i];
        if (input[1 + i] < 1 || length > size - (size_t)(tokens - input)) return 2;
        float *logits = malloc(length * vocab_size * sizeof *logits);
        zmlx_error error;
        if (!logits) return 2;
        int failed = zmlx_session_feed(session, tokens, length, logits, true, &error) ? fail(&error) : 0;
        if (!failed && fwrite(logits, sizeof *logits * vocab_size, length, output) != length) failed = 2;
        free(logits);
        if (failed) return failed;
        tokens += length;
    }
    return 0;
}

int main(int argc, char **argv) {
    zmlx_error error;
    zmlx_model_options options = {.device = ZMLX_DEVICE_CPU, .dtype = ZMLX_DTYPE_FLOAT32};
    zmlx_model *model;
    zmlx_session *session = NULL;
    size_t size = 0;
    if (argc != 4) return 2;
    if (zmlx_model_load(&model, argv[1], &options, &error)) return fail(&error);
    int32_t *input = read_input(argv[2], &size);
    FILE *output = fopen(argv[3], "wb");
    int status = 2;
    if (input && output) {
        if (zmlx_session_new(&session, model, &error))
            status = fail(&error);
        else
            status = feed_all(session, (size_t)zmlx_model_get_info(model)->vocab_size, input, size, output);
    }
    if (output && fclose(output)) status = 2;
    free(input);
    zmlx_session_free(session);
    zmlx_model_free(model);
    return status;
}
