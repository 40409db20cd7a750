/* SPDX-License-Identifier: MIT */
/* Checkpoints with random weights in a real model's shape, for timing and for tests.
 *
 *     zmlx_synth_options options = {.bits = 4, .n_layers = 4};
 *     uint64_t size;
 *     zmlx_synth(&size, "lfm2-8b-a1b", "/tmp/lfm2-4-layers", &options, &error);
 *
 * The folder is a complete mlx-lm checkpoint: config.json, model.safetensors, tokenizer.json (one token a
 * byte, the rest filled up) and tokenizer_config.json. Weights have zero mean and such a size that
 * activations stay near one. The same options give the same bytes. */
#ifndef ZMLX_SYNTH_H
#define ZMLX_SYNTH_H

#include <stdbool.h>
#include <stdint.h>

#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_synth_options {
    int bits;       /* 2, 3, 4, 5, 6 or 8; 16: bfloat16, not quantised; default 4 */
    int group_size; /* 32, 64 or 128; default 64 */
    int n_layers;   /* the first so many layers; default all */
    int vocab_size; /* default the shape's; at least 259 */
    uint64_t seed;
    /* Called with the bytes written so far and in all; false stops. May be NULL. */
    bool (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
} zmlx_synth_options;

/* shape: a name of zmlx_synth_shape_name, or the path of a config.json. folder must not exist,
 * then it appears when it is complete, or be empty, then config.json comes last; nothing is left behind
 * after a failure. options may be NULL. *size is that of model.safetensors in bytes. */
ZMLX_API zmlx_status zmlx_synth(uint64_t *size, const char *shape, const char *folder,
                                const zmlx_synth_options *options, zmlx_error *error);

/* The known shapes in order; NULL past the last. */
ZMLX_API const char *zmlx_synth_shape_name(int index);

#ifdef __cplusplus
}
#endif

#endif
