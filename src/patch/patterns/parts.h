/* SPDX-License-Identifier: MIT */
/* The parts of a decoder block, for the patterns that replace one of them or the whole block: whether a fused operation
 * serves the module as it stands (*reason: why not), and its arguments then. */
#ifndef ZM_PATCH_PATTERNS_PARTS_H
#define ZM_PATCH_PATTERNS_PARTS_H

#include "patch/pattern.h"

bool zm_patch_serves_norm(const zm_norm *norm, const char **reason);

bool zm_patch_serves_gated_mlp(const zm_gated_mlp *mlp, const char **reason);
zm_gated_mlp_arguments zm_patch_gated_mlp_arguments(const zm_gated_mlp *mlp);

bool zm_patch_serves_moe(const zm_moe *moe, const char **reason);
zm_moe_arguments zm_patch_moe_arguments(const zm_moe *moe);
/* Whether the decode kernels serve it for one token on a CUDA device, by declared fields (fused/cuda/decode.h). */
bool zm_patch_serves_one_token_moe(const zm_moe *moe, const char **reason);

bool zm_patch_serves_short_conv(const zm_short_conv *module, const char **reason);
/* Whether this call is one sequence; cache may be NULL. */
bool zm_patch_short_conv_serves_call(mlx_array x);
zm_short_conv_arguments zm_patch_short_conv_arguments(const zm_short_conv *module, const zm_cache *cache);
/* Gives the cache its new state. */
void zm_patch_short_conv_accept(zm_cache *cache, zm_scope *scope, mlx_array last, int length);

bool zm_patch_serves_delta_net(const zm_delta_net *module, const char **reason);
/* Whether this call is one sequence; cache may be NULL. */
bool zm_patch_delta_net_serves_call(mlx_array x);
zm_delta_net_arguments zm_patch_delta_net_arguments(const zm_delta_net *module, const zm_cache *cache);
/* Gives the cache its last inputs and its state. */
void zm_patch_delta_net_accept(zm_cache *cache, zm_scope *scope, const mlx_array kept[2], int length);

bool zm_patch_serves_attention(const zm_attention *module, const char **reason);
bool zm_patch_serves_latent_attention(const zm_latent_attention *module, const char **reason);
mlx_array zm_patch_latent_attention_forward(zm_module *self, zm_scope *scope, mlx_array x, const zm_call *call);
/* Whether this call is one sequence with a cache and the mask of its kind. */
bool zm_patch_attention_serves_call(mlx_array x, const zm_call *call);
/* Makes room in the cache; *rows takes the written buffers to zm_cache_accept. */
zm_attention_arguments zm_patch_attention_arguments(zm_cache_rows *rows, const zm_attention *module, zm_scope *scope,
                                                    const zm_cache *cache, mlx_array x);

#endif
