/* SPDX-License-Identifier: MIT */
#include <math.h>

#include "model/layers.h"

/* The first dims features times input_scale; the others unchanged. */
static mlx_array scale_rotated(zm_scope *scope, mlx_array x, const zm_rope_parameters *rope) {
    mlx_array factor = zm_scalar_like(scope, rope->input_scale, x);
    if (zm_dim(x, -1) == rope->dims) return zm_multiply(scope, x, factor);
    mlx_array rotated = zm_slice_axis(scope, x, -1, 0, rope->dims, 1);
    return zm_slice_update_axis(scope, x, zm_multiply(scope, rotated, factor), -1, 0);
}

/* Dynamic NTK scaling: the base grows once the sequence exceeds the trained length. */
static float dynamic_base(const zm_rope_parameters *rope, int sequence_length) {
    int trained = rope->max_position_embeddings;
    double length = sequence_length > trained ? sequence_length : trained;
    double growth = rope->dynamic_factor * length / trained - (rope->dynamic_factor - 1);
    return (float)((double)rope->base * pow(growth, (double)rope->dims / (rope->dims - 2)));
}

mlx_array zm_rope_apply(zm_scope *scope, mlx_array x, const zm_rope_parameters *rope, int offset) {
    float base = zm_is_set(rope->freqs) ? 0.0f : rope->base;
    if (rope->input_scale != 1.0f) x = scale_rotated(scope, x, rope);
    if (rope->dynamic_factor > 0) base = dynamic_base(rope, zm_dim(x, -2) + offset);
    return zm_rope(scope, x, rope->dims, rope->traditional, base, rope->scale, offset, rope->freqs);
}

/* The operations of MLX's rope, so that the numbers have its bits. */
mlx_array zm_rope_inverse_freqs(zm_scope *scope, const zm_rope_parameters *rope, int sequence_length) {
    if (zm_is_set(rope->inverse_freqs)) return rope->inverse_freqs;
    if (zm_is_set(rope->freqs)) return zm_divide(scope, zm_scalar(scope, 1, MLX_FLOAT32), rope->freqs);
    float base = rope->dynamic_factor > 0 ? dynamic_base(rope, sequence_length) : rope->base;
    int count = rope->dims / 2;
    mlx_array exponents = zm_arange(scope, 0, -count, -1, MLX_FLOAT32);
    mlx_array step = zm_scalar(scope, (double)(logf(base) / (float)count), MLX_FLOAT32);
    return zm_exp(scope, zm_multiply(scope, exponents, step));
}
