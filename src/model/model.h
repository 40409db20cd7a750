/* SPDX-License-Identifier: MIT */
/* Inside a loaded model and a session. */
#ifndef ZM_MODEL_MODEL_H
#define ZM_MODEL_MODEL_H

#include "base/arena.h"
#include "base/threads.h"
#include "model/family.h"
#include "zmlx/model.h"

struct zmlx_model {
    const zm_family *family;
    zm_causal_lm *root;
    zm_arena *arena; /* the tree and everything with the model's lifetime */
    zmlx_tokenizer *tokenizer;
    zm_pool *pool; /* for the fused CPU kernels */
    mlx_stream stream;
    mlx_dtype dtype;
    zmlx_device device; /* CPU or GPU */
    char mlx_version[32]; /* "": not asked */
    zmlx_model_info info;
    int32_t *eos_tokens;
    size_t n_eos_tokens;
    /* The patch layer's record of what it replaced; NULL while unpatched. */
    void *patch_record;
    void (*patch_free)(zmlx_model *model); /* undoes and frees patch_record */
};

struct zmlx_session {
    zmlx_model *model;
    zm_cache *caches; /* one a block */
    size_t length;
    bool broken; /* a call failed half way: the caches do not agree any more */
};

/* Prompts are fed in pieces of at most this many tokens, as mlx-lm does. */
enum { ZM_PREFILL_CHUNK = 2048 };

/* Builds the graph of feeding tokens (1, length) int32 and keeps the logits (1, length, vocab) in
 * *logits (an array of the caller's); with logits NULL only the caches advance. Lazy: evaluate the result
 * and the session's caches with zm_session_evaluate. */
zmlx_status zm_session_build(zmlx_session *session, mlx_array *logits, mlx_array tokens, size_t n_tokens,
                             zmlx_error *error);
/* The same with the most likely next token of each position, (1, length), instead of logits, and what else
 * choices->wanted asks for. The arrays of the result are kept in *choices, whose own they replace. The session has then
 * been fed all of them but the last, and cannot go back to fewer. */
zmlx_status zm_session_build_greedy(zmlx_session *session, zm_choices *choices, mlx_array tokens, size_t n_tokens,
                                    zmlx_error *error);
void zm_choices_free(zm_choices *choices);
/* Evaluates the caches and, where set, extra. */
zmlx_status zm_session_evaluate(zmlx_session *session, mlx_array extra, zmlx_error *error);
/* Begins to evaluate the caches; a failure may come out later. */
zmlx_status zm_session_start(zmlx_session *session, zmlx_error *error);

/* Whether a prompt of n_prompt tokens leaves room in the model's context; name stands in the error. */
zmlx_status zm_check_context(const zmlx_model *model, const char *name, size_t n_prompt, zmlx_error *error);

/* As zmlx_generate; but where a step's logits are no numbers, it ends before it and says so in *undefined. */
zmlx_status zm_generate(zmlx_generation *generation, bool *undefined, zmlx_model *model, const int32_t *prompt,
                        size_t n_prompt, const zmlx_generate_options *options, zmlx_error *error);

#endif
