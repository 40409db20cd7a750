/* SPDX-License-Identifier: MIT */
#ifndef ZM_VALIDATE_VALIDATE_H
#define ZM_VALIDATE_VALIDATE_H

#include "patch/record.h"
#include "zmlx/validate.h"

/* zmlx_validate with the patterns of request instead of those options->patch chooses. */
zmlx_status zm_validate_request(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                                size_t n_prompt, const zmlx_validate_options *options,
                                const zm_patch_request *request, zmlx_error *error);

/* Feeds prompt and the validation's baseline tokens, token by token as in decoding, through the unpatched
 * and the patched model and compares the logits: fills positions, argmax_agree, max_abs_logit_diff,
 * mean_kl and margin. The model's modules are patched from number 0 on. */
zmlx_status zm_validate_forced(zmlx_validation *validation, zmlx_model *model, const int32_t *prompt,
                               size_t n_prompt, zmlx_error *error);

/* The failure of an unpatched model whose logits of a token are NaN or infinite. */
zmlx_status zm_validate_no_numbers(size_t token, zmlx_error *error);

#endif
