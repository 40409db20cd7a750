/* SPDX-License-Identifier: MIT */
/* Rewriting the weights of published checkpoints with latent attention. */
#ifndef ZM_MODEL_ARCH_LATENT_WEIGHTS_H
#define ZM_MODEL_ARCH_LATENT_WEIGHTS_H

#include "model/arch/build.h"

/* "<path>.weight" in e4m3 with "<path>.weight_scale_inv", a scale for each block of 128 x 128, becomes bfloat16. */
zmlx_status zm_rewrite_fp8_blocks(zm_builder *builder);
/* "<path>.weight_packed", codes of 4 bits whose zero is 8, with "<path>.weight_scale" becomes an affine weight; the
 * tensor "<path>.weight_shape" marks it. */
zmlx_status zm_rewrite_int4_packs(zm_builder *builder);
/* "kv_b_proj", the keys' and values' rows of each head, becomes embed_q (turned) and unembed_out, quantised as it was.
 */
zmlx_status zm_rewrite_kv_b_proj(zm_builder *builder, int n_layers, const zm_latent_attention_plan *plan);

#endif
