/* SPDX-License-Identifier: MIT */
/* Streaming a plan into a safetensors file: memory does not grow with the model. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/text.h"
#include "model/synth_plan.h"

enum { CHUNK_ELEMENTS = 1 << 18, LENGTH_BYTES = 8 };

static const char *type_name(zm_synth_fill fill) {
    switch (fill) {
    case ZM_SYNTH_PACKED: return "U32";
    case ZM_SYNTH_EXPONENTS: return "U8";
    case ZM_SYNTH_FLOAT32: return "F32";
    default: return "BF16";
    }
}

static uint64_t tensor_bytes(const zm_synth_tensor *tensor) {
    return zm_synth_tensor_elements(tensor) * (uint64_t)zm_synth_element_bytes(tensor->fill);
}

/* The length and the header, padded to a multiple of 8 bytes; *data_bytes: what follows. */
static void append_header(zm_text *text, uint64_t *data_bytes, const zm_synth_plan *plan) {
    uint64_t offset = 0;
    zm_text_append(text, "\0\0\0\0\0\0\0\0", LENGTH_BYTES);
    zm_text_append_string(text, "{\"__metadata__\":{\"format\":\"mlx\"}");
    for (size_t i = 0; i < plan->n_tensors; i++) {
        const zm_synth_tensor *tensor = &plan->tensors[i];
        zm_text_printf(text, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[", tensor->name, type_name(tensor->fill));
        for (int d = 0; d < tensor->n_dims; d++) zm_text_printf(text, d ? ",%d" : "%d", tensor->shape[d]);
        uint64_t end = offset + tensor_bytes(tensor);
        zm_text_printf(text, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)offset,
                       (unsigned long long)end);
        offset = end;
    }
    zm_text_append_string(text, "}");
    while (text->size % LENGTH_BYTES && !text->failed) zm_text_append_string(text, " ");
    if (text->failed) return;
    uint64_t length = text->size - LENGTH_BYTES;
    for (int i = 0; i < LENGTH_BYTES; i++) text->data[i] = (char)(length >> (8 * i));
    *data_bytes = offset;
}

static zmlx_status write_all(int descriptor, const char *data, size_t size, const char *path,
                             zmlx_error *error) {
    while (size) {
        ssize_t written = write(descriptor, data, size);
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
        data += written;
        size -= (size_t)written;
    }
    return ZMLX_OK;
}

typedef struct output {
    int descriptor;
    const char *path;
    char *chunk;
    uint64_t done, total;
    bool (*progress)(void *, uint64_t, uint64_t);
    void *context;
} output;

static zmlx_status write_tensor(output *out, const zm_synth_tensor *tensor, zmlx_error *error) {
    uint64_t count = zm_synth_tensor_elements(tensor);
    size_t element_bytes = (size_t)zm_synth_element_bytes(tensor->fill);
    for (uint64_t first = 0; first < count; first += CHUNK_ELEMENTS) {
        size_t part = count - first < CHUNK_ELEMENTS ? (size_t)(count - first) : CHUNK_ELEMENTS;
        zm_synth_fill_elements(out->chunk, tensor, first, part);
        ZM_TRY(write_all(out->descriptor, out->chunk, part * element_bytes, out->path, error));
        out->done += part * element_bytes;
        if (out->progress && !out->progress(out->context, out->done, out->total))
            return zm_fail(error, ZMLX_ERROR_CANCELLED, out->path, "stopped");
    }
    return ZMLX_OK;
}

static zmlx_status write_plan(output *out, const zm_synth_plan *plan, const zm_text *header,
                              zmlx_error *error) {
    ZM_TRY(write_all(out->descriptor, header->data, header->size, out->path, error));
    for (size_t i = 0; i < plan->n_tensors; i++) ZM_TRY(write_tensor(out, &plan->tensors[i], error));
    return ZMLX_OK;
}

zmlx_status zm_synth_write(uint64_t *size, const zm_synth_plan *plan, const char *path,
                           bool (*progress)(void *, uint64_t, uint64_t), void *context, zmlx_error *error) {
    *size = 0;
    zm_text header = {0};
    output out = {.descriptor = -1, .path = path, .progress = progress, .context = context};
    append_header(&header, &out.total, plan);
    out.chunk = malloc((size_t)CHUNK_ELEMENTS * 4);
    zmlx_status status = header.failed || !out.chunk ? zm_fail_memory(error) : ZMLX_OK;
    if (!status) {
        out.descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
        if (out.descriptor < 0)
            status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
    }
    if (!status) status = write_plan(&out, plan, &header, error);
    if (out.descriptor >= 0 && close(out.descriptor) && !status)
        status = zm_fail(error, ZMLX_ERROR_FILE, path, "cannot write: %s", strerror(errno));
    if (out.descriptor >= 0 && status) unlink(path);
    if (!status) *size = header.size + out.total;
    zm_text_free(&header);
    free(out.chunk);
    return status;
}
