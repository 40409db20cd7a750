/* SPDX-License-Identifier: MIT */
/* One row of an RMS norm. */
#ifndef ZM_FUSED_RMS_NORM_NORM_H
#define ZM_FUSED_RMS_NORM_NORM_H

#include <stddef.h>

/* y = x * (mean(x^2) + eps)^(-1/2) * weight; y may be x. The sum is taken in fixed lanes: the same bits on every
 * machine. */
void zm_rms_norm_row(float *y, const float *x, const float *weight, size_t size, float eps);

#endif
