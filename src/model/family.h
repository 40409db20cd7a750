/* SPDX-License-Identifier: MIT */
/* A model family: how its config and checkpoint become a module tree. families.def lists them. */
#ifndef ZM_MODEL_FAMILY_H
#define ZM_MODEL_FAMILY_H

#include "model/cache.h"
#include "model/checkpoint.h"
#include "model/layers.h"

struct zm_builder;

typedef struct zm_family {
    const char *model_type; /* config.json's */
    const char *group;      /* as patching names it: "lfm", "llama", "qwen", ... */
    /* Checks the builder's config, for which no checkpoint is needed. */
    zmlx_status (*check)(const struct zm_builder *builder);
    /* Checks the config too, rewrites the checkpoint's names and builds the tree with its arrays; everything
     * comes from arena, arrays are released by zm_module_release(&root->base). */
    zmlx_status (*build)(zm_causal_lm **root, zm_checkpoint *checkpoint, zm_arena *arena, zmlx_error *error);
} zm_family;

/* The family of a model_type, after mlx-lm's renamings (mistral is a llama); NULL where unknown. */
const zm_family *zm_family_find(const char *model_type);
/* The family of config's model_type; ZMLX_ERROR_UNSUPPORTED with the list of the known ones. */
zmlx_status zm_family_of(const zm_family **family, zm_json_object config, zmlx_error *error);
/* Where the sizes of config's language model are: config itself, or its text_config in qwen3_5. */
json_t *zm_family_sizes(json_t *config);
/* Fails where family's build would refuse config. */
zmlx_status zm_family_check(const zm_family *family, zm_json_object config, zmlx_error *error);

/* Cache of one block: rotating for a window, array for a short convolution or a delta net, KV otherwise. */
void zm_block_cache_init(zm_cache *cache, const zm_block *block);

/* token ids (1, length) int32 -> logits (1, length, vocab_size); caches: one a block, or NULL. */
mlx_array zm_causal_lm_call(zm_causal_lm *model, zm_scope *scope, mlx_array tokens, zm_cache *caches);
/* The most likely next token of each position, (1, length) uint32 or int32, and as many of those that are wanted behind
 * it as the model chooses in one call; the results are the scope's. */
void zm_causal_lm_greedy(zm_causal_lm *model, zm_scope *scope, mlx_array tokens, zm_cache *caches,
                         zm_choices *choices);
/* Only the hidden states: what prefill evaluates. */
mlx_array zm_decoder_call(zm_decoder *decoder, zm_scope *scope, mlx_array tokens, zm_cache *caches);

#endif
