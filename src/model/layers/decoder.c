/* SPDX-License-Identifier: MIT */
/* Blocks, the decoder, the language model; and the table of standard forwards. */
#include "model/family.h"
#include "model/layers/forward.h"
#include "model/sample.h"

mlx_array zm_block_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_block *block = (const zm_block *)self;
    mlx_array normed = zm_module_call(&block->operator_norm->base, scope, x, NULL);
    mlx_array h = zm_add(scope, x, zm_module_call(block->operator, scope, normed, call));
    normed = zm_module_call(&block->feed_forward_norm->base, scope, h, NULL);
    return zm_add(scope, h, zm_module_call(block->feed_forward, scope, normed, NULL));
}

static zm_cache *cache_of(const zm_call *call, int block) {
    return call && call->cache ? &call->cache[block] : NULL;
}

/* Of a long input the first blocks are computed while the next are put together: their evaluation begins here, and what
 * it has used can be freed. first: of the arrays that the blocks so far have made. */
static void start(zm_scope *scope, size_t first, mlx_array x, int length, int n_blocks_done) {
    enum { LONG_INPUT = 64, BLOCKS = 4 };
    if (length < LONG_INPUT || zm_scope_failed(scope)) return;
    zm_scope_release(scope, first, x);
    if (n_blocks_done % BLOCKS != 1) return;
    mlx_vector_array arrays = mlx_vector_array_new_value(x);
    if (mlx_async_eval(arrays)) zm_mlx_fail(&scope->failure, "evaluation");
    mlx_vector_array_free(arrays);
}

/* Blocks of one kind have seen the same tokens, so each kind of mask is made once, for its first block. */
mlx_array zm_decoder_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_decoder *decoder = (const zm_decoder *)self;
    zm_mask no_mask = {.mode = ""}, full_mask = {0}, window_mask = {0}, array_mask = {0};
    int length = zm_dim(x, 1), window = 0;
    x = zm_module_call(&decoder->embed_tokens->base, scope, x, NULL);
    size_t first = scope->n_arrays;
    for (int i = 0; i < decoder->n_blocks; i++) {
        zm_block *block = decoder->blocks[i];
        zm_call block_call = {.mask = no_mask, .cache = cache_of(call, i)};
        if (block->operator->kind == ZM_MODULE_LATENT_ATTENTION && length > 1) {
            if (!array_mask.mode) {
                array_mask = zm_cache_array_mask(block_call.cache, scope, length);
                first = scope->n_arrays;
            }
            block_call.mask = array_mask;
        }
        if (block->operator->kind == ZM_MODULE_ATTENTION && length > 1) {
            zm_mask *mask = block->sliding_window ? &window_mask : &full_mask;
            if (!mask->mode || (block->sliding_window && window != block->sliding_window)) {
                *mask = zm_cache_mask(block_call.cache, scope, length, block->sliding_window);
                first = scope->n_arrays; /* masks stay */
            }
            if (block->sliding_window) window = block->sliding_window;
            block_call.mask = *mask;
        }
        x = zm_module_call(&block->base, scope, x, &block_call);
        start(scope, first, x, length, i + 1);
    }
    return zm_module_call(&decoder->norm->base, scope, x, NULL);
}

mlx_array zm_greedy_head_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    (void)call;
    return zm_choose_greedily(scope, zm_module_call(&((const zm_greedy_head *)self)->lm_head->base, scope, x, NULL));
}

mlx_array zm_causal_lm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_causal_lm *model = (const zm_causal_lm *)self;
    x = zm_module_call(&model->decoder->base, scope, x, call);
    return zm_module_call(&model->lm_head->base, scope, x, NULL);
}

mlx_array zm_decoder_call(zm_decoder *decoder, zm_scope *scope, mlx_array tokens, zm_cache *caches) {
    zm_call call = {.mask = {.mode = ""}, .cache = caches};
    return zm_module_call(&decoder->base, scope, tokens, &call);
}

mlx_array zm_causal_lm_call(zm_causal_lm *model, zm_scope *scope, mlx_array tokens, zm_cache *caches) {
    zm_call call = {.mask = {.mode = ""}, .cache = caches};
    return zm_module_call(&model->base, scope, tokens, &call);
}

void zm_causal_lm_greedy(zm_causal_lm *model, zm_scope *scope, mlx_array tokens, zm_cache *caches,
                         zm_choices *choices) {
    choices->count = 0;
    choices->last_row = (mlx_array){NULL};
    /* A root with a forward of its own may reach no part of it: the choice is then its own, or from its logits. */
    if (model->base.forward != zm_causal_lm_forward) {
        zm_call call = {.mask = {.mode = ""}, .cache = caches, .choices = choices};
        mlx_array logits = zm_module_call(&model->base, scope, tokens, &call);
        if (!choices->count) choices->tokens[choices->count++] = zm_choose_greedily(scope, logits);
        return;
    }
    mlx_array hidden = zm_decoder_call(model->decoder, scope, tokens, caches);
    choices->tokens[choices->count++] = zm_module_call(&model->greedy_head->base, scope, hidden, NULL);
}

void zm_block_cache_init(zm_cache *cache, const zm_block *block) {
    zm_cache_kind kind = block->sliding_window ? ZM_CACHE_ROTATING : ZM_CACHE_KV;
    if (block->operator->kind == ZM_MODULE_SHORT_CONV || block->operator->kind == ZM_MODULE_DELTA_NET)
        kind = ZM_CACHE_ARRAY;
    zm_cache_init(cache, kind, block->sliding_window);
}

zm_forward zm_standard_forward(zm_module_kind kind) {
    static const zm_forward forwards[ZM_MODULE_KIND_COUNT] = {
        [ZM_MODULE_LINEAR] = zm_linear_forward,         [ZM_MODULE_EMBEDDING] = zm_embedding_forward,
        [ZM_MODULE_RMS_NORM] = zm_rms_norm_forward,     [ZM_MODULE_CONV1D] = zm_conv1d_forward,
        [ZM_MODULE_ATTENTION] = zm_attention_forward,   [ZM_MODULE_SHORT_CONV] = zm_short_conv_forward,
        [ZM_MODULE_GATED_MLP] = zm_gated_mlp_forward,   [ZM_MODULE_MOE] = zm_moe_forward,
        [ZM_MODULE_BLOCK] = zm_block_forward,           [ZM_MODULE_DECODER] = zm_decoder_forward,
        [ZM_MODULE_CAUSAL_LM] = zm_causal_lm_forward,   [ZM_MODULE_GREEDY_HEAD] = zm_greedy_head_forward,
        [ZM_MODULE_DELTA_NET] = zm_delta_net_forward,   [ZM_MODULE_MULTI_LINEAR] = zm_multi_linear_forward,
        [ZM_MODULE_LATENT_ATTENTION] = zm_latent_attention_forward,
    };
    return (int)kind < 0 || kind >= ZM_MODULE_KIND_COUNT ? NULL : forwards[kind];
}
