/* SPDX-License-Identifier: MIT */
/* decoder_block: norms, operator, feed-forward part and both sums in one operation; of a single token, all the blocks
 * of a decoder. */
#include <stdlib.h>

#include "patch/patterns/parts.h"

static bool serves_operator(const zm_module *operator, const char **reason) {
    *reason = "its operator is missing or of another kind";
    if (!operator || !zm_patch_is_standard(operator)) return false;
    if (operator->kind == ZM_MODULE_ATTENTION)
        return zm_patch_serves_attention((const zm_attention *)operator, reason);
    if (operator->kind == ZM_MODULE_DELTA_NET)
        return zm_patch_serves_delta_net((const zm_delta_net *)operator, reason);
    if (operator->kind != ZM_MODULE_SHORT_CONV) return false;
    return zm_patch_serves_short_conv((const zm_short_conv *)operator, reason);
}

static bool serves_feed_forward(const zm_module *module, const char **reason) {
    *reason = "its feed-forward part is missing or of another kind";
    if (!module || !zm_patch_is_standard(module)) return false;
    if (module->kind == ZM_MODULE_MOE) return zm_patch_serves_moe((const zm_moe *)module, reason);
    if (module->kind != ZM_MODULE_GATED_MLP) return false;
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)module;
    if (mlp->activation == ZM_ACTIVATION_SWIGLU || mlp->activation == ZM_ACTIVATION_GEGLU)
        return zm_patch_serves_gated_mlp(mlp, reason);
    *reason = "no pattern serves its activation";
    return false;
}

static bool serves(const zm_block *block, const char **reason) {
    return zm_patch_serves_norm(block->operator_norm, reason) &&
           zm_patch_serves_norm(block->feed_forward_norm, reason) && serves_operator(block->operator, reason) &&
           serves_feed_forward(block->feed_forward, reason);
}

static bool serves_decoder(const zm_decoder *decoder, const char **reason) {
    *reason = "it has no blocks";
    if (decoder->n_blocks < 1) return false;
    for (int i = 0; i < decoder->n_blocks; i++) {
        *reason = "a block has a forward of its own";
        if (!zm_patch_is_standard(&decoder->blocks[i]->base)) return false;
        if (!serves(decoder->blocks[i], reason)) return false;
    }
    return true;
}

zm_match zm_patch_decoder_block_match(const zm_module *module, const char **reason) {
    bool decoder = module->kind == ZM_MODULE_DECODER;
    if (module->kind != ZM_MODULE_BLOCK && !decoder) return ZM_MATCH_NO;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    bool served = decoder ? serves_decoder((const zm_decoder *)module, reason)
                          : serves((const zm_block *)module, reason);
    return served ? ZM_MATCH_YES : ZM_MATCH_REFUSED;
}

static bool serves_operator_call(const zm_block *block, mlx_array x, const zm_call *call) {
    if (block->operator->kind == ZM_MODULE_ATTENTION) return zm_patch_attention_serves_call(x, call);
    if (block->operator->kind == ZM_MODULE_DELTA_NET) return zm_patch_delta_net_serves_call(x);
    return zm_patch_short_conv_serves_call(x);
}

/* A block's arguments and what they point to, and the rows of its cache that it writes. */
typedef struct block_call {
    zm_attention_arguments attention;
    zm_short_conv_arguments short_conv;
    zm_delta_net_arguments delta_net;
    zm_gated_mlp_arguments gated_mlp;
    zm_moe_arguments moe;
    zm_cache_rows rows;
} block_call;

/* The call must not move while the arguments are used. */
static zm_block_arguments block_arguments(block_call *made, const zm_block *block, zm_scope *scope, zm_cache *cache,
                                          mlx_array x) {
    zm_block_arguments arguments = {
        .operator_norm = block->operator_norm->weight,
        .operator_eps = block->operator_norm->eps,
        .feed_forward_norm = block->feed_forward_norm->weight,
        .feed_forward_eps = block->feed_forward_norm->eps,
    };
    if (block->operator->kind == ZM_MODULE_ATTENTION) {
        made->attention =
            zm_patch_attention_arguments(&made->rows, (const zm_attention *)block->operator, scope, cache, x);
        arguments.attention = &made->attention;
    } else if (block->operator->kind == ZM_MODULE_DELTA_NET) {
        made->delta_net = zm_patch_delta_net_arguments((const zm_delta_net *)block->operator, cache);
        arguments.delta_net = &made->delta_net;
    } else {
        made->short_conv = zm_patch_short_conv_arguments((const zm_short_conv *)block->operator, cache);
        arguments.short_conv = &made->short_conv;
    }
    if (block->feed_forward->kind == ZM_MODULE_MOE) {
        made->moe = zm_patch_moe_arguments((const zm_moe *)block->feed_forward);
        arguments.moe = &made->moe;
    } else {
        made->gated_mlp = zm_patch_gated_mlp_arguments((const zm_gated_mlp *)block->feed_forward);
        arguments.gated_mlp = &made->gated_mlp;
    }
    return arguments;
}

/* Gives the cache what the operator keeps. */
static void accept(block_call *made, const zm_block *block, zm_scope *scope, zm_cache *cache, const mlx_array kept[2],
                   int length) {
    if (block->operator->kind == ZM_MODULE_ATTENTION) {
        made->rows.keys = kept[0];
        made->rows.values = kept[1];
        zm_cache_accept(cache, scope, &made->rows, length);
    } else if (block->operator->kind == ZM_MODULE_DELTA_NET) {
        zm_patch_delta_net_accept(cache, scope, kept, length);
    } else {
        zm_patch_short_conv_accept(cache, scope, kept[0], length);
    }
}

static mlx_array forward_block(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_block *block = (const zm_block *)self;
    const zm_patch_state *state = self->patch_state;
    zm_cache *cache = call ? call->cache : NULL;
    const char *reason;
    if (!zm_patch_serves_call(self, x) || !serves(block, &reason) || !serves_operator_call(block, x, call))
        return zm_patch_original(self, scope, x, call);
    block_call made;
    mlx_array kept[2];
    zm_block_arguments arguments = block_arguments(&made, block, scope, cache, x);
    mlx_array y = zm_fused_block(scope, kept, x, &arguments, state->compute);
    accept(&made, block, scope, cache, kept, zm_dim(x, 1));
    return y;
}

/* The blocks on one token's hidden state. */
static mlx_array all_blocks(const zm_decoder *decoder, zm_scope *scope, mlx_array x, zm_cache *caches) {
    zm_patch_state *state = decoder->base.patch_state;
    size_t count = (size_t)decoder->n_blocks;
    block_call *calls = calloc(count, sizeof *calls);
    zm_block_arguments *arguments = calloc(count, sizeof *arguments);
    mlx_array(*kept)[2] = calloc(count, sizeof *kept), y = {NULL};
    if (calls && arguments && kept) {
        for (size_t i = 0; i < count; i++)
            arguments[i] = block_arguments(&calls[i], decoder->blocks[i], scope, &caches[i], x);
        y = zm_fused_blocks(scope, kept, x, arguments, decoder->n_blocks, state->compute, &state->plan);
        for (size_t i = 0; i < count; i++) accept(&calls[i], decoder->blocks[i], scope, &caches[i], kept[i], 1);
    } else {
        zm_scope_fail(scope, ZMLX_ERROR_MEMORY, decoder->base.path, "out of memory");
    }
    free(calls);
    free(arguments);
    free(kept);
    return y;
}

static bool serves_token(const zm_decoder *decoder, mlx_array x, zm_cache *caches) {
    const char *reason;
    if (mlx_array_ndim(x) != 3 || zm_dim(x, 0) != 1 || zm_dim(x, 1) != 1) return false;
    if (!zm_patch_serves_call(&decoder->base, x) || !serves_decoder(decoder, &reason)) return false;
    for (int i = 0; i < decoder->n_blocks; i++) {
        zm_call call = {.mask = {.mode = ""}, .cache = &caches[i]};
        if (!serves_operator_call(decoder->blocks[i], x, &call)) return false;
    }
    return true;
}

static mlx_array embed(const zm_decoder *decoder, zm_scope *scope, mlx_array tokens) {
    const zm_embedding *table = decoder->embed_tokens;
    if (zm_patch_is_standard(&table->base) && mlx_array_dtype(tokens) == MLX_INT32 && table->dtype == MLX_FLOAT32 &&
        zm_fused_embedding_supported(&table->weight))
        return zm_fused_embedding(scope, tokens, &table->weight);
    return zm_module_call(&decoder->embed_tokens->base, scope, tokens, NULL);
}

static mlx_array forward_decoder(zm_module *self, zm_scope *scope, mlx_array tokens, const zm_call *call) {
    const zm_decoder *decoder = (const zm_decoder *)self;
    if (!call || !call->cache || mlx_array_ndim(tokens) != 2 || zm_dim(tokens, 0) != 1 || zm_dim(tokens, 1) != 1)
        return zm_patch_original(self, scope, tokens, call);
    mlx_array x = embed(decoder, scope, tokens);
    if (zm_scope_failed(scope) || !serves_token(decoder, x, call->cache))
        return zm_patch_original(self, scope, tokens, call);
    x = all_blocks(decoder, scope, x, call->cache);
    return zm_module_call(&decoder->norm->base, scope, x, NULL);
}

mlx_array zm_patch_decoder_block_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    if (self->kind == ZM_MODULE_DECODER) return forward_decoder(self, scope, x, call);
    return forward_block(self, scope, x, call);
}
