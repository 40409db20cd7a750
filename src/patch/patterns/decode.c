/* SPDX-License-Identifier: MIT */
/* decode: a call of one token on a CUDA device as one chain of kernels, with the bits of the operations they replace
 * (fused/cuda/decode.h). Attention is MLX's vector kernel. From 256 keys on MLX may take cuDNN's instead, whose sums
 * are in another order: then attention is MLX's own operation, between chains. */
#include <string.h>

#include "fused/cuda/decode.h"
#include "fused/cuda/sizes.cuh"
#include "model/cache.h"
#include "patch/patterns/parts.h"

/* What is asked of all modules. */
typedef struct demands {
    mlx_dtype dtype;
    /* How a weight is checked: by its fields for every call, its scales too when a pattern is matched. */
    bool (*check)(const zm_weight *weight, const char **reason);
} demands;

static bool serves_weight(const zm_weight *weight, demands of, const char **reason) {
    if (!of.check(weight, reason)) return false;
    *reason = "its weights are of two types, or mxfp4 without a bias in float16";
    return zm_decode_dtype(weight) == of.dtype;
}

static bool serves_linear(const zm_linear *linear, int n_experts, demands of, const char **reason) {
    *reason = "a projection is missing, of another kind or has a forward of its own";
    if (!linear || !zm_patch_is_standard(&linear->base) || linear->weight.n_experts != n_experts) return false;
    if (linear->base.kind != (n_experts ? ZM_MODULE_SWITCH_LINEAR : ZM_MODULE_LINEAR)) return false;
    return serves_weight(&linear->weight, of, reason);
}

static bool same_packing(const zm_linear *a, const zm_linear *b) {
    zm_quantization left = a->weight.quantization, right = b->weight.quantization;
    return left.bits == right.bits && left.group_size == right.group_size && !strcmp(left.mode, right.mode);
}

static bool serves_norm(const zm_norm *norm, int size, demands of, const char **reason) {
    *reason = "a norm is missing, of another kind or of another type";
    return norm && norm->base.kind == ZM_MODULE_RMS_NORM && zm_patch_is_standard(&norm->base) &&
           mlx_array_ndim(norm->weight) == 1 && zm_dim(norm->weight, 0) == size &&
           mlx_array_dtype(norm->weight) == of.dtype;
}

static bool serves_rope(const zm_rope_parameters *rope, int head_dim, const char **reason) {
    *reason = "its rotary embedding is not of the plain kind";
    return rope->dims == head_dim && !rope->traditional && !(rope->dynamic_factor > 0) &&
           (!zm_is_set(rope->freqs) || mlx_array_dtype(rope->freqs) == MLX_FLOAT32);
}

static bool serves_attention(const zm_attention *attention, int hidden_size, demands of, const char **reason) {
    int head_dim = attention->head_dim;
    if (!serves_linear(attention->q_proj, 0, of, reason) || !serves_linear(attention->k_proj, 0, of, reason) ||
        !serves_linear(attention->v_proj, 0, of, reason) || !serves_linear(attention->o_proj, 0, of, reason))
        return false;
    *reason = "its projections are packed in different ways";
    if (!same_packing(attention->q_proj, attention->k_proj) || !same_packing(attention->q_proj, attention->v_proj))
        return false;
    *reason = "its attention has an output gate";
    if (attention->has_output_gate) return false;
    *reason = "its heads or projections do not fit together";
    if (attention->q_proj->weight.out_features != attention->n_heads * head_dim ||
        attention->k_proj->weight.out_features != attention->n_kv_heads * head_dim ||
        attention->v_proj->weight.out_features != attention->n_kv_heads * head_dim ||
        !zm_decode_fits(&attention->o_proj->weight, 1) ||
        attention->q_proj->weight.in_features != hidden_size || attention->o_proj->weight.out_features != hidden_size)
        return false;
    *reason = "its attention sinks are of another type";
    if (zm_is_set(attention->sinks) && mlx_array_dtype(attention->sinks) != of.dtype) return false;
    *reason = "one of its heads' norms is missing";
    if (!attention->q_norm != !attention->k_norm) return false;
    if (attention->q_norm && (!serves_norm(attention->q_norm, head_dim, of, reason) ||
                              !serves_norm(attention->k_norm, head_dim, of, reason)))
        return false;
    *reason = "its heads' norms differ";
    if (attention->q_norm && attention->q_norm->eps != attention->k_norm->eps) return false;
    return serves_rope(&attention->rope, head_dim, reason);
}

static bool serves_conv(const zm_short_conv *module, int hidden_size, demands of, const char **reason) {
    if (!serves_linear(module->in_proj, 0, of, reason) || !serves_linear(module->out_proj, 0, of, reason)) return false;
    *reason = "its convolution's projection in has a bias";
    if (zm_is_set(module->in_proj->weight.bias)) return false;
    *reason = "its convolution is not one of three taps of its type without a bias";
    const zm_depthwise_conv *conv = module->conv;
    if (!conv || conv->base.kind != ZM_MODULE_CONV1D || !zm_patch_is_standard(&conv->base) || conv->taps != 3 ||
        zm_is_set(conv->bias) || mlx_array_dtype(conv->weight) != of.dtype)
        return false;
    *reason = "its projections do not fit together";
    return conv->channels == hidden_size && module->in_proj->weight.in_features == hidden_size &&
           module->in_proj->weight.out_features == 3 * hidden_size &&
           module->out_proj->weight.in_features == hidden_size;
}

/* n_experts, top_k: 0 and 1 without experts. */
static bool serves_mlp(const zm_linear *gate, const zm_linear *up, const zm_linear *down, int n_experts, int top_k,
                       zm_activation activation, int hidden_size, demands of, const char **reason) {
    if (!serves_linear(gate, n_experts, of, reason) || !serves_linear(up, n_experts, of, reason) ||
        !serves_linear(down, n_experts, of, reason))
        return false;
    *reason = "its activation is not SiLU gating";
    if (activation != ZM_ACTIVATION_SWIGLU && activation != ZM_ACTIVATION_SWIGLU_OAI) return false;
    if (!zm_decode_serves_experts(&gate->weight, &down->weight, activation, top_k, reason)) return false;
    *reason = "its projections do not fit together";
    return same_packing(gate, up) && gate->weight.in_features == hidden_size && up->weight.in_features == hidden_size &&
           gate->weight.out_features == up->weight.out_features &&
           down->weight.in_features == gate->weight.out_features && down->weight.out_features == hidden_size;
}

enum { MOST_CHOSEN = 8 }; /* of a router */

static bool serves_moe(const zm_moe *moe, int hidden_size, demands of, const char **reason) {
    *reason = "its gating is not known, or it has experts for every token";
    if (moe->gating == ZM_GATING_SIGMOID_GROUPS || moe->shared_experts) return false;
    *reason = "a token has more than 8 experts, or there are more than 256";
    if (moe->top_k > MOST_CHOSEN || moe->n_experts > DECODE_MOST_EXPERTS) return false;
    *reason = "its expert bias is not float32";
    if (zm_is_set(moe->expert_bias) && mlx_array_dtype(moe->expert_bias) != MLX_FLOAT32) return false;
    *reason = "its experts are missing or of another kind";
    const zm_switch_glu *experts = moe->experts;
    if (!experts || experts->base.kind != ZM_MODULE_SWITCH_GLU) return false;
    if (!serves_linear(moe->router, 0, of, reason)) return false;
    *reason = "its router does not fit the hidden size";
    if (moe->router->weight.in_features != hidden_size) return false;
    return serves_mlp(experts->gate_proj, experts->up_proj, experts->down_proj, moe->n_experts, moe->top_k,
                      experts->activation, hidden_size, of, reason);
}

bool zm_patch_serves_one_token_moe(const zm_moe *moe, const char **reason) {
    const zm_weight *router = &moe->router->weight;
    if (!zm_decode_serves_layout(router, reason)) return false;
    return serves_moe(moe, router->in_features, (demands){zm_decode_dtype(router), zm_decode_serves_layout}, reason);
}

static bool serves_block(const zm_block *block, int hidden_size, demands of, const char **reason) {
    *reason = "a block has a forward of its own";
    if (!zm_patch_is_standard(&block->base) || !zm_patch_is_standard(block->operator) ||
        !zm_patch_is_standard(block->feed_forward))
        return false;
    bool is_attention = block->operator->kind == ZM_MODULE_ATTENTION;
    *reason = "its operator is of another kind";
    if (!is_attention && block->operator->kind != ZM_MODULE_SHORT_CONV) return false;
    *reason = "a block has a sliding window without attention";
    if (block->sliding_window && !is_attention) return false;
    if (!serves_norm(block->operator_norm, hidden_size, of, reason) ||
        !serves_norm(block->feed_forward_norm, hidden_size, of, reason))
        return false;
    if (is_attention) {
        if (!serves_attention((const zm_attention *)block->operator, hidden_size, of, reason)) return false;
    } else if (!serves_conv((const zm_short_conv *)block->operator, hidden_size, of, reason)) {
        return false;
    }
    if (block->feed_forward->kind == ZM_MODULE_MOE)
        return serves_moe((const zm_moe *)block->feed_forward, hidden_size, of, reason);
    const zm_gated_mlp *mlp = (const zm_gated_mlp *)block->feed_forward;
    return serves_mlp(mlp->gate_proj, mlp->up_proj, mlp->down_proj, 0, 1, mlp->activation, hidden_size, of, reason);
}

/* The size of a head in every attention; 64 without any, 0 if they differ or MLX has no vector kernel for it. */
static int common_head_dim(const zm_decoder *decoder) {
    int head_dim = 0;
    for (int i = 0; i < decoder->n_blocks; i++) {
        if (decoder->blocks[i]->operator->kind != ZM_MODULE_ATTENTION) continue;
        int own = ((const zm_attention *)decoder->blocks[i]->operator)->head_dim;
        if ((head_dim && own != head_dim) || (own != 64 && own != 128)) return 0;
        head_dim = own;
    }
    return head_dim ? head_dim : 64;
}

/* The experts a token has in every block that has experts; 1 without any, 0 if they differ. */
static int common_top_k(const zm_decoder *decoder) {
    int top_k = 0;
    for (int i = 0; i < decoder->n_blocks; i++) {
        if (decoder->blocks[i]->feed_forward->kind != ZM_MODULE_MOE) continue;
        int own = ((const zm_moe *)decoder->blocks[i]->feed_forward)->top_k;
        if (top_k && own != top_k) return 0;
        top_k = own;
    }
    return top_k ? top_k : 1;
}

enum {
    MOST_BLOCKS = (ZM_CHAIN_MAX_OUTPUTS - ZM_MOST_CHOICES - 1) / 2, /* of a chain: each has two outputs */
    LARGEST_HIDDEN = 8192,     /* MLX's norm of longer rows has another order of sums */
    LARGEST_VOCABULARY = 1 << 19, /* whose logits fit the shared memory of the cluster that chooses */
};

static bool serves(const zm_causal_lm *model, demands of, const char **reason) {
    const zm_decoder *decoder = model->decoder;
    const zm_embedding *table = decoder->embed_tokens;
    int hidden_size = table->weight.in_features;
    *reason = "its decoder or embedding has a forward of its own";
    if (!zm_patch_is_standard(&decoder->base) || !zm_patch_is_standard(&table->base)) return false;
    *reason = "it has more blocks than a chain of kernels has outputs for";
    if (decoder->n_blocks > MOST_BLOCKS) return false;
    *reason = "its hidden size is not a multiple of 64 up to 8192";
    if (hidden_size % 64 || hidden_size > LARGEST_HIDDEN) return false;
    if (!serves_weight(&table->weight, of, reason)) return false;
    *reason = "its embedding is in mxfp4";
    if (!strcmp(table->weight.quantization.mode, "mxfp4")) return false;
    if (!serves_linear(model->lm_head, 0, of, reason) || !serves_norm(decoder->norm, hidden_size, of, reason))
        return false;
    *reason = "its vocabulary has more than 524288 tokens, or more than its embedding";
    if (model->lm_head->weight.out_features > LARGEST_VOCABULARY ||
        model->lm_head->weight.out_features > table->weight.out_features)
        return false;
    *reason = "its heads are not all of 64, or all of 128";
    if (!common_head_dim(decoder)) return false;
    *reason = "its blocks differ in the number of experts";
    if (!common_top_k(decoder)) return false;
    for (int i = 0; i < decoder->n_blocks; i++)
        if (!serves_block(decoder->blocks[i], hidden_size, of, reason)) return false;
    return true;
}

/* So that a kernel that does not compile is found when the model is patched. */
static zmlx_status prepare(zm_module *module, void *context, zmlx_error *error) {
    const zm_decoder *decoder = ((const zm_causal_lm *)context)->decoder;
    const zm_weight *weight;
    if (module->kind == ZM_MODULE_LINEAR || module->kind == ZM_MODULE_SWITCH_LINEAR)
        weight = &((zm_linear *)module)->weight;
    else if (module->kind == ZM_MODULE_EMBEDDING) weight = &((zm_embedding *)module)->weight;
    else return ZMLX_OK;
    return zm_decode_prepare(weight, decoder->embed_tokens->weight.in_features, common_head_dim(decoder),
                             common_top_k(decoder), error);
}

zm_match zm_patch_decode_match(const zm_module *module, const char **reason) {
    if (module->kind != ZM_MODULE_CAUSAL_LM) return ZM_MATCH_NO;
    zm_causal_lm *model = (zm_causal_lm *)module;
    *reason = "needs an MLX with CUDA and a GPU of compute capability 9.0 or later";
    if (!zm_chain_available()) return ZM_MATCH_REFUSED;
    *reason = "it has a forward of its own";
    if (!zm_patch_is_standard(module)) return ZM_MATCH_REFUSED;
    if (!serves(model, (demands){model->decoder->embed_tokens->dtype, zm_decode_serves_weight}, reason))
        return ZM_MATCH_REFUSED;
    *reason = "its kernels cannot be compiled for this GPU, or it cannot load them";
    return zm_module_visit(&model->base, prepare, model, NULL) ? ZM_MATCH_REFUSED : ZM_MATCH_YES;
}

/* What a block's operator keeps, while it is written. */
typedef struct kept_state {
    zm_cache_rows rows;   /* of attention: those of the present token */
    zm_place places[2];   /* keys and values, or the convolution's state */
    int written;          /* the first output with them */
} kept_state;

/* One token's way through the model, or that of several which are chosen one after the other in one chain. h is the
 * residual stream. */
typedef struct decode_step {
    const zm_causal_lm *model;
    zm_scope *scope;
    zm_cache *caches;
    bool vector_attention;
    int token; /* the present one's number */
    zm_decode decode;
    zm_place h;
    /* Of the chain that is being built. */
    int first_block;
    kept_state kept[MOST_BLOCKS];
    int h_output; /* the one with h, where h is published */
    mlx_array results[ZM_CHAIN_MAX_OUTPUTS];
} decode_step;

/* Whether a block's attention is left to MLX, whose operation sees by itself whether cuDNN serves. */
static bool splits(const decode_step *step, int block) {
    enum { LEAST_CUDNN_KEYS = 256 };
    const zm_decoder *decoder = step->model->decoder;
    if (step->vector_attention || block >= decoder->n_blocks ||
        decoder->blocks[block]->operator->kind != ZM_MODULE_ATTENTION)
        return false;
    int n_keys = step->caches[block].offset + 1, window = decoder->blocks[block]->sliding_window;
    return (window && window < n_keys ? window : n_keys) >= LEAST_CUDNN_KEYS;
}

static void begin_chain(decode_step *step, int block) {
    const zm_decoder *decoder = step->model->decoder;
    step->first_block = block;
    const zm_embedding *table = decoder->embed_tokens;
    zm_decode_begin(&step->decode, step->scope, table->dtype, table->weight.in_features, common_head_dim(decoder),
                    common_top_k(decoder));
}

/* Ends the chain behind block `end` - 1 and gives the caches of its blocks what it has written. */
static void end_chain(decode_step *step, int end) {
    const zm_decoder *decoder = step->model->decoder;
    zm_decode_end(&step->decode, step->results);
    for (int i = step->first_block; i < end && !zm_scope_failed(step->scope); i++) {
        zm_cache *cache = &step->caches[i];
        kept_state *kept = &step->kept[i];
        const mlx_array *written = &step->results[kept->written];
        cache->offset += step->token; /* those before the last one */
        if (decoder->blocks[i]->operator->kind == ZM_MODULE_ATTENTION) {
            kept->rows.keys = written[0];
            kept->rows.values = written[1];
            zm_cache_accept(cache, step->scope, &kept->rows, 1);
        } else {
            zm_scope_keep(step->scope, &cache->state, written[0]);
            cache->offset++;
        }
    }
}

/* The stream that the next part leaves is needed behind this chain, if the block after it splits. */
static void publish_before(decode_step *step, int block) {
    if (!splits(step, block)) return;
    step->h_output = step->decode.n_outputs;
    zm_decode_publish(&step->decode);
}

static zm_decode_norm norm_of(const zm_norm *norm) { return (zm_decode_norm){norm->weight, norm->eps}; }

static void convolve(decode_step *step, int index) {
    const zm_block *block = step->model->decoder->blocks[index];
    const zm_short_conv *module = (const zm_short_conv *)block->operator;
    zm_decode *decode = &step->decode;
    kept_state *kept = &step->kept[index];
    if (!step->token) {
        mlx_array state = step->caches[index].state;
        const int shape[] = {1, 2, module->hidden_size};
        kept->written = decode->n_outputs;
        if (!zm_is_set(state)) state = zm_zeros(step->scope, shape, 3, decode->dtype);
        kept->places[0] = zm_decode_overwrite(decode, state);
    }
    zm_place y = zm_decode_conv(decode, step->h, norm_of(block->operator_norm), &module->in_proj->weight,
                                module->conv->weight, kept->places[0]);
    step->h = zm_decode_linear_add(decode, y, &module->out_proj->weight, step->h);
}

/* The rest of an attention whose chain has ended, up to the sum with h, which begins the next. */
static void attend_with_mlx(decode_step *step, int index, mlx_array queries) {
    static const int heads_first[4] = {0, 2, 1, 3};
    const zm_attention *attention = (const zm_attention *)step->model->decoder->blocks[index]->operator;
    zm_scope *scope = step->scope;
    const zm_cache_rows *rows = &step->kept[index].rows;
    mlx_array keys = zm_slice_axis(scope, rows->keys, 2, 0, rows->n_rows, 1);
    mlx_array values = zm_slice_axis(scope, rows->values, 2, 0, rows->n_rows, 1);
    mlx_array y = zm_scaled_dot_product_attention(scope, zm_transpose(scope, queries, heads_first, 4), keys, values,
                                                  attention->scale, "", (mlx_array){NULL}, attention->sinks);
    mlx_array h = step->results[step->h_output];
    begin_chain(step, index + 1);
    step->h = zm_decode_linear_add(&step->decode, zm_decode_input(&step->decode, y), &attention->o_proj->weight,
                                   zm_decode_input(&step->decode, h));
}

/* Room for the present token in a block's cache. */
static void reserve(decode_step *step, int index) {
    const zm_attention *attention = (const zm_attention *)step->model->decoder->blocks[index]->operator;
    const zm_cache *cache = &step->caches[index];
    kept_state *kept = &step->kept[index];
    if (step->token) {
        zm_cache_advance(cache, &kept->rows);
        return;
    }
    zm_cache_tokens token = {.batch = 1,
                             .n_heads = attention->n_kv_heads,
                             .length = 1,
                             .key_dim = attention->head_dim,
                             .value_dim = attention->head_dim,
                             .dtype = step->decode.dtype};
    kept->rows = zm_cache_reserve(cache, step->scope, &token);
    kept->written = step->decode.n_outputs;
    kept->places[0] = zm_decode_overwrite(&step->decode, kept->rows.keys);
    kept->places[1] = zm_decode_overwrite(&step->decode, kept->rows.values);
}

static void attend(decode_step *step, int index) {
    const zm_block *block = step->model->decoder->blocks[index];
    const zm_attention *attention = (const zm_attention *)block->operator;
    zm_decode *decode = &step->decode;
    const kept_state *kept = &step->kept[index];
    const zm_cache_rows *rows = &kept->rows;
    bool apart = splits(step, index);
    reserve(step, index);
    zm_place qkv = zm_decode_qkv(decode, step->h, norm_of(block->operator_norm), &attention->q_proj->weight,
                                 &attention->k_proj->weight, &attention->v_proj->weight, rows->n_rows);
    zm_decode_norm q_norm = {.eps = 0}, k_norm = {.eps = 0};
    if (attention->q_norm) {
        q_norm = norm_of(attention->q_norm);
        k_norm = norm_of(attention->k_norm);
    }
    zm_decode_attention_arguments arguments = {
        .q_norm = attention->q_norm ? &q_norm : NULL,
        .k_norm = attention->k_norm ? &k_norm : NULL,
        .freqs = attention->rope.freqs,
        .base = attention->rope.base,
        .position_scale = attention->rope.scale,
        .scale = attention->scale,
        .input_scale = attention->rope.input_scale,
        .sinks = attention->sinks,
        .offset = step->caches[index].offset + step->token,
        .n_keys = rows->n_rows,
        .row = rows->first,
        .n_rows = zm_dim(rows->keys, 2),
        .keys = kept->places[0],
        .values = kept->places[1],
        .n_heads = attention->n_heads,
        .n_kv_heads = attention->n_kv_heads,
    };
    if (!apart) {
        step->h = zm_decode_attention(decode, qkv, &arguments, &attention->o_proj->weight, step->h);
        return;
    }
    int queries = decode->n_outputs;
    const int shape[] = {1, 1, attention->n_heads, attention->head_dim};
    zm_decode_heads(decode, qkv, &arguments, &attention->o_proj->weight,
                    zm_decode_output(decode, decode->dtype, 4, shape));
    end_chain(step, index + 1);
    attend_with_mlx(step, index, step->results[queries]);
}

static void feed_forward(decode_step *step, const zm_block *block) {
    zm_decode_norm norm = norm_of(block->feed_forward_norm);
    if (block->feed_forward->kind != ZM_MODULE_MOE) {
        const zm_gated_mlp *mlp = (const zm_gated_mlp *)block->feed_forward;
        step->h = zm_decode_mlp(&step->decode, step->h, norm, &mlp->gate_proj->weight, &mlp->up_proj->weight,
                                &mlp->down_proj->weight, mlp->activation);
        return;
    }
    const zm_moe *moe = (const zm_moe *)block->feed_forward;
    zm_moe_arguments arguments = zm_patch_moe_arguments(moe);
    step->h = zm_decode_moe(&step->decode, step->h, norm, &arguments);
}

/* The blocks, and the head's results to `logits`. */
static void run_token(decode_step *step) {
    const zm_decoder *decoder = step->model->decoder;
    for (int i = 0; i < decoder->n_blocks && !zm_scope_failed(step->scope); i++) {
        const zm_block *block = decoder->blocks[i];
        if (block->operator->kind == ZM_MODULE_ATTENTION) attend(step, i);
        else convolve(step, i);
        publish_before(step, i + 1);
        feed_forward(step, block);
    }
}

static void multiply_head(decode_step *step, zm_place logits) {
    const zm_causal_lm *model = step->model;
    zm_decode_head(&step->decode, step->h, norm_of(model->decoder->norm), &model->lm_head->weight, logits);
}

static void begin(decode_step *step, mlx_array token) {
    begin_chain(step, 0);
    publish_before(step, 0);
    step->h = zm_decode_embed(&step->decode, token, &step->model->decoder->embed_tokens->weight);
}

static mlx_array run(decode_step *step, mlx_array token) {
    zm_decode *decode = &step->decode;
    begin(step, token);
    run_token(step);
    int index = decode->n_outputs;
    const int shape[] = {1, 1, step->model->lm_head->weight.out_features};
    multiply_head(step, zm_decode_output(decode, decode->dtype, 3, shape));
    end_chain(step, step->model->decoder->n_blocks);
    return step->results[index];
}

/* How many tokens a chain has, of those wanted: their keys and values have room in the caches' buffers, and it ends
 * where the number of all is a multiple of the most there are, as attention's launches change there. */
static int tokens_of_chain(const decode_step *step, int n_wanted) {
    const zm_decoder *decoder = step->model->decoder;
    if (!step->vector_attention) return 1;
    int count = ZM_MOST_CHOICES - step->caches[0].offset % ZM_MOST_CHOICES;
    if (n_wanted < count) count = n_wanted;
    for (int i = 0; i < decoder->n_blocks; i++) {
        int room = zm_cache_room(&step->caches[i]);
        if (room < count) count = room;
    }
    return count < 1 ? 1 : count;
}

static void choose(decode_step *step, mlx_array token, zm_choices *choices) {
    zm_decode *decode = &step->decode;
    const zm_decoder *decoder = step->model->decoder;
    const zm_weight *table = &decoder->embed_tokens->weight, *head = &step->model->lm_head->weight;
    int outputs[ZM_MOST_CHOICES], count = tokens_of_chain(step, choices->wanted), row_output = 0;
    zm_decode_choice choice = {.has_last = false};
    if (step->vector_attention && zm_is_set(choices->row)) {
        begin_chain(step, 0);
        step->h = zm_decode_embedded(decode, choices->row);
    } else {
        begin(step, token);
    }
    for (step->token = 0; step->token < count; step->token++) {
        bool is_last = step->token == count - 1;
        run_token(step);
        zm_place logits = zm_decode_logits(decode, head);
        multiply_head(step, logits);
        outputs[step->token] = decode->n_outputs;
        zm_place output = zm_decode_output(decode, MLX_INT32, 2, (const int[]){1, 1});
        choice.to = is_last ? output : zm_decode_kept_choice(decode);
        row_output = decode->n_outputs;
        if (is_last && step->vector_attention) zm_decode_publish(decode);
        step->h = zm_decode_choose(decode, logits, head->out_features, table, &choice);
        choice.has_last = true, choice.last = choice.to, choice.last_to = output;
    }
    step->token = count - 1;
    end_chain(step, decoder->n_blocks);
    choices->count = count;
    for (int i = 0; i < count; i++) choices->tokens[i] = step->results[outputs[i]];
    if (step->vector_attention) choices->last_row = step->results[row_output];
}

/* Whether every block's cache is of the kind the steps write. */
static bool serves_caches(const zm_decoder *decoder, const zm_cache *caches) {
    for (int i = 0; i < decoder->n_blocks; i++) {
        const zm_block *block = decoder->blocks[i];
        zm_cache_kind kind = block->sliding_window ? ZM_CACHE_ROTATING : ZM_CACHE_KV;
        if (caches[i].kind != (block->operator->kind == ZM_MODULE_ATTENTION ? kind : ZM_CACHE_ARRAY)) return false;
    }
    return true;
}

mlx_array zm_patch_decode_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call) {
    const zm_causal_lm *model = (const zm_causal_lm *)self;
    const zm_patch_state *state = self->patch_state;
    const char *reason;
    bool one_token = zm_is_set(x) && mlx_array_ndim(x) == 2 && mlx_array_size(x) == 1 &&
                     (mlx_array_dtype(x) == MLX_INT32 || mlx_array_dtype(x) == MLX_UINT32);
    if (!one_token || state->max_fused_tokens < 1 || !call || !call->cache ||
        !serves_caches(model->decoder, call->cache) ||
        !serves(model, (demands){state->dtype, zm_decode_serves_layout}, &reason))
        return zm_patch_original(self, scope, x, call);
    decode_step step = {.model = model,
                        .scope = scope,
                        .caches = call->cache,
                        .vector_attention = state->vector_attention};
    if (!call->choices) return run(&step, x);
    choose(&step, x, call->choices);
    return (mlx_array){NULL};
}
