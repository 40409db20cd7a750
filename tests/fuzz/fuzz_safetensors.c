/* SPDX-License-Identifier: MIT */
/* Any bytes as a safetensors file: an error, or tensors that lie inside the file side by side. */
#include <stdint.h>
#include <stdlib.h>

#include "model/safetensors.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    zm_arena *arena = zm_arena_new();
    zm_safetensors file;
    zmlx_error error = {0};
    if (!arena) return 0;
    zmlx_status status = zm_safetensors_parse(&file, (const char *)data, size, size, "fuzz", arena, &error);
    if (status && !error.message[0]) abort();
    uint64_t end = 0;
    for (size_t i = 0; i < file.n_tensors; i++) {
        const zm_tensor_header *tensor = &file.tensors[i];
        uint64_t bytes = 1;
        for (int d = 0; d < tensor->n_dims; d++) bytes *= (uint64_t)tensor->shape[d];
        if (tensor->size % (bytes ? bytes : 1) || (bytes == 0) != (tensor->size == 0)) abort();
        if (tensor->offset < end || tensor->offset + tensor->size > size) abort();
        end = tensor->offset + tensor->size;
    }
    zm_arena_free(arena);
    return 0;
}
