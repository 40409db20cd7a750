/* SPDX-License-Identifier: MIT */
/* The standard forward functions, one a module kind: the MLX operations of mlx-lm's module, in its
 * order. */
#ifndef ZM_MODEL_LAYERS_FORWARD_H
#define ZM_MODEL_LAYERS_FORWARD_H

#include "model/cache.h"
#include "model/layers.h"

mlx_array zm_linear_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_multi_linear_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_embedding_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_rms_norm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_conv1d_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_latent_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_short_conv_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_delta_net_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_gated_mlp_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_moe_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_block_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_greedy_head_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
/* call->cache: the first of an array of caches, one a block, or NULL. */
mlx_array zm_decoder_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
mlx_array zm_causal_lm_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);

/* Scales or biases as MLX's product with x takes them. Those of a float32 model may be in bfloat16 while it is
 * patched. */
mlx_array zm_scales_for(zm_scope *scope, mlx_array scales, mlx_array x);

/* A causal convolution's input: x (batch, length, channels) behind the last n_keep inputs, zeros at first. The cache,
 * if any, gets the new last ones and counts the tokens. */
mlx_array zm_join_state(zm_scope *scope, mlx_array x, zm_cache *cache, int n_keep);

/* x W^T (+ bias): what a linear module and a tied embedding compute. */
mlx_array zm_weight_apply(zm_scope *scope, mlx_array x, const zm_weight *weight);
/* x W^T of each head, or x W: what a multi_linear module computes, and latent attention with its keys' map. */
mlx_array zm_heads_apply(zm_scope *scope, mlx_array x, const zm_weight *weight, bool transpose);

#endif
