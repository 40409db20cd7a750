/* SPDX-License-Identifier: MIT */
#include "fused/attention/rotate.h"

#include <math.h>

void zm_turn_angles(float *cosines, float *sines, const float *inverse_freqs, size_t n_freqs, float position) {
    for (size_t i = 0; i < n_freqs; i++) {
        float angle = position * inverse_freqs[i];
        cosines[i] = cosf(angle);
        sines[i] = sinf(angle);
    }
}

static void turn_pair(float *a, float *b, const zm_turn *turn, size_t i) {
    float x = *a * turn->input_scale, y = *b * turn->input_scale;
    *a = x * turn->cosines[i] - y * turn->sines[i];
    *b = x * turn->sines[i] + y * turn->cosines[i];
}

void zm_head_turn(float *head, const zm_turn *turn) {
    size_t n = turn->n_freqs;
    if (turn->traditional)
        for (size_t i = 0; i < n; i++) turn_pair(head + 2 * i, head + 2 * i + 1, turn, i);
    else
        for (size_t i = 0; i < n; i++) turn_pair(head + i, head + n + i, turn, i);
}
