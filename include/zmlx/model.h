/* SPDX-License-Identifier: MIT */
/* Loading a checkpoint and generating tokens.
 *
 *     zmlx_model *model;
 *     if (zmlx_model_load(&model, "models/lfm2-moe-tiny-4bit", NULL, &error)) ...
 *     zmlx_generation generation;
 *     if (zmlx_generate(&generation, model, prompt, n_prompt, NULL, &error)) ...
 *     use(generation.tokens, generation.n_tokens);
 *     zmlx_generation_clear(&generation);
 *     zmlx_model_free(model);
 *
 * A model is the loaded checkpoint; a session is one sequence of tokens with its caches. What _new, _load
 * or a filled result gives is the caller's to free; every other pointer is borrowed from its object. A
 * model and its sessions are used by one thread at a time. Each model has a stream, of which there are 16 on the CPU
 * and 8 on a GPU (zmlx_stream_new takes of them, too). On the CPU kernels run on threads of MLX and of the model,
 * which need a default stack of 512 KB (glibc: `ulimit -s`); a caller's own needs 256, for files and expressions that
 * nest deeply. In an options struct zero means the default. */
#ifndef ZMLX_MODEL_H
#define ZMLX_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "zmlx/status.h"
#include "zmlx/tokenizer.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum zmlx_device { ZMLX_DEVICE_DEFAULT, ZMLX_DEVICE_CPU, ZMLX_DEVICE_GPU } zmlx_device;
typedef enum zmlx_dtype {
    ZMLX_DTYPE_DEFAULT, /* float32 on the CPU, the checkpoint's type on a GPU */
    ZMLX_DTYPE_FLOAT32,
    ZMLX_DTYPE_FLOAT16,
    ZMLX_DTYPE_BFLOAT16
} zmlx_dtype;

typedef struct zmlx_model zmlx_model;

typedef struct zmlx_model_options {
    zmlx_device device; /* default: the GPU where MLX has one */
    zmlx_dtype dtype;   /* type of activations, norms, scales and dense weights */
    int n_threads;      /* of fused CPU kernels, at most 256; default: the processors of this process */
    /* Called while loading with the bytes loaded so far and in all; may be NULL. */
    void (*progress)(void *context, uint64_t done, uint64_t total);
    void *progress_context;
} zmlx_model_options;

typedef struct zmlx_model_info {
    const char *model_type; /* config.json's, e.g. "lfm2_moe" */
    const char *family;     /* as patching groups them, e.g. "lfm" */
    const char *device;     /* "cpu" or "gpu" */
    const char *dtype;      /* "float32", ... */
    int n_threads;
    int n_layers, hidden_size, vocab_size;
    int max_position_embeddings; /* 0: config.json does not say */
    uint64_t n_parameters;       /* quantised ones counted as their dense matrix */
    uint64_t weight_bytes;       /* in memory */
    uint64_t file_bytes;         /* of the safetensors files */
} zmlx_model_info;

/* Loads config.json, model*.safetensors and, where present, the tokenizer of folder. Every tensor's name,
 * shape and type is checked. options may be NULL. */
ZMLX_API zmlx_status zmlx_model_load(zmlx_model **model, const char *folder, const zmlx_model_options *options,
                                     zmlx_error *error);
ZMLX_API void zmlx_model_free(zmlx_model *model); /* after its sessions */
ZMLX_API const zmlx_model_info *zmlx_model_get_info(const zmlx_model *model);
/* NULL where the folder has no tokenizer.json. */
ZMLX_API const zmlx_tokenizer *zmlx_model_tokenizer(const zmlx_model *model);
/* Whether token ends a text: the EOS set of generation_config.json, config.json and the tokenizer. */
ZMLX_API bool zmlx_model_is_eos(const zmlx_model *model, int32_t token);

/* One sequence: what was fed so far, in caches that grow as mlx-lm's do. It borrows its model. */
typedef struct zmlx_session zmlx_session;
ZMLX_API zmlx_status zmlx_session_new(zmlx_session **session, zmlx_model *model, zmlx_error *error);
ZMLX_API void zmlx_session_free(zmlx_session *session); /* NULL is fine */
ZMLX_API size_t zmlx_session_length(const zmlx_session *session); /* tokens fed so far */
/* Feeds n_tokens (>= 1; a session takes 2^30 - 1) in one call of the model. logits, if not NULL, receives float32
 * logits, [n_tokens, vocab_size] with all_positions, else [vocab_size] of the last one. After a failure inside the
 * model the session refuses to go on. */
ZMLX_API zmlx_status zmlx_session_feed(zmlx_session *session, const int32_t *tokens, size_t n_tokens,
                                       float *logits /* may be NULL */, bool all_positions, zmlx_error *error);

typedef enum zmlx_finish { ZMLX_FINISH_LENGTH, ZMLX_FINISH_STOP, ZMLX_FINISH_CANCELLED } zmlx_finish;

typedef struct zmlx_generate_options {
    size_t max_tokens;        /* default 100 */
    double temperature;       /* 0: greedy */
    int top_k;                /* 0: off */
    double top_p, min_p;      /* 0: off */
    double repetition_penalty; /* 0: off; of the last 20 tokens, as mlx-lm */
    uint64_t seed;
    bool ignore_eos;
    /* Called with each token as soon as it is known, which several may be at once; false stops the generation. May be
     * NULL. */
    bool (*on_token)(void *context, int32_t token);
    /* Called while the prompt is processed, with the tokens done and in all, and last, before the first token is told,
     * with all of them done. May be NULL. */
    void (*on_prefill)(void *context, size_t done, size_t total);
    void *context;
} zmlx_generate_options;

typedef struct zmlx_generation {
    int32_t *tokens; /* the generated ones, an EOS token included */
    size_t n_tokens, n_prompt_tokens;
    zmlx_finish finish;
    double prefill_seconds;     /* to the first token */
    double decode_seconds;      /* from the first token to the last */
    double prefill_tok_s;       /* n_prompt_tokens / prefill_seconds */
    double decode_tok_s;        /* (n_tokens - 1) / decode_seconds; 0 for fewer than two tokens */
    uint64_t peak_memory_bytes; /* most memory MLX held during this call, the weights included */
} zmlx_generation;

/* Generates as mlx-lm's generate_step: prompt in chunks of 2048 with the last token alone, log
 * probabilities, sampler, the next step under way while a token is read. Logits of which one is NaN or infinite, or all
 * are -infinite, are ZMLX_ERROR_FORMAT: no token follows from them. */
ZMLX_API zmlx_status zmlx_generate(zmlx_generation *generation, zmlx_model *model, const int32_t *prompt,
                                   size_t n_prompt, const zmlx_generate_options *options, zmlx_error *error);
ZMLX_API void zmlx_generation_clear(zmlx_generation *generation);

#ifdef __cplusplus
}
#endif

#endif
