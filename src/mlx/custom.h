/* SPDX-License-Identifier: MIT */
/* Results with a gradient of one's own: what operations of MLX and other nodes have computed, differentiated by a
 * function that may compute it anew instead of keeping what was in between. */
#ifndef ZM_MLX_CUSTOM_H
#define ZM_MLX_CUSTOM_H

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

/* Sets gradients[i] (each the caller's) for every input, from the cotangents of all outputs; what is not a float gets
 * an array all the same. inputs and cotangents are borrowed. */
typedef zmlx_status zm_custom_gradient(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                       const mlx_array *cotangents, int n_outputs, mlx_stream stream,
                                       zmlx_error *error);

/* Sets outputs[i] (each the caller's). */
typedef zmlx_status zm_custom_value(const void *context, mlx_array *outputs, const mlx_array *inputs, int n_inputs,
                                    mlx_stream stream, zmlx_error *error);

/* Replaces the outputs, owned handles, by the same with that gradient. value computes them from the inputs, for forward
 * mode and vmap; NULL: these are refused by name. context is copied (size bytes; it must not own anything). */
zmlx_status zm_custom_vjp(mlx_array *outputs, int n_outputs, const mlx_array *inputs, int n_inputs, const char *name,
                          zm_custom_gradient *gradient, zm_custom_value *value, const void *context, size_t size,
                          mlx_stream stream, zmlx_error *error);

/* Replaces *array, an owned handle, by the same that is evaluated after other (empty: nothing is done). */
zmlx_status zm_evaluate_after(mlx_array *array, mlx_array other, zmlx_error *error);

#endif
