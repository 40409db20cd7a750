/* SPDX-License-Identifier: MIT */
#include "fused/rms_norm/norm.h"

#include <math.h>

enum { LANES = 16 };

static float sum_of_squares(const float *x, size_t size) {
    float lanes[LANES] = {0};
    size_t i = 0;
    for (; i + LANES <= size; i += LANES)
        for (int lane = 0; lane < LANES; lane++) lanes[lane] += x[i + (size_t)lane] * x[i + (size_t)lane];
    for (int lane = 0; i < size; i++, lane++) lanes[lane] += x[i] * x[i];
    for (int half = LANES / 2; half; half /= 2)
        for (int lane = 0; lane < half; lane++) lanes[lane] += lanes[lane + half];
    return lanes[0];
}

void zm_rms_norm_row(float *y, const float *x, const float *weight, size_t size, float eps) {
    float factor = 1 / sqrtf(sum_of_squares(x, size) / (float)size + eps);
    for (size_t i = 0; i < size; i++) y[i] = x[i] * factor * weight[i];
}
