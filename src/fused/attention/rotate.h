/* SPDX-License-Identifier: MIT */
/* The rotary embedding of one head of a query or key. */
#ifndef ZM_FUSED_ATTENTION_ROTATE_H
#define ZM_FUSED_ATTENTION_ROTATE_H

#include <stdbool.h>
#include <stddef.h>

/* Sines and cosines of one position. */
typedef struct zm_turn {
    const float *cosines, *sines;
    size_t n_freqs;
    bool traditional;
    float input_scale;
} zm_turn;

/* position: offset times position_scale, in float32 as MLX. */
void zm_turn_angles(float *cosines, float *sines, const float *inverse_freqs, size_t n_freqs, float position);

void zm_head_turn(float *head, const zm_turn *turn);

#endif
