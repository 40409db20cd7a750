/* SPDX-License-Identifier: MIT */
/* Steps of optimizers over all parameters of a model at once.
 *
 *     zmlx_adamw how = {.lr = 1e-3f, .step = 1, .beta1 = 0.9f, .beta2 = 0.999f, .eps = 1e-8f, .wd = 0.01f};
 *     zmlx_adamw_update(parameters, count, &how, stream, &error);
 *
 * One parameter alone: zmlx_adamw_step of zmlx/kernels.h, the same formula. */
#ifndef ZMLX_OPTIMIZER_H
#define ZMLX_OPTIMIZER_H

#include <stddef.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct zmlx_adamw {
    float lr;
    int step; /* from 1 on */
    float beta1, beta2, eps, wd;
} zmlx_adamw;

/* Arrays of one shape, the caller's. p and g: float32, float16 or bfloat16; the moments m and v: float32. */
typedef struct zmlx_adamw_parameter {
    mlx_array p, g, m, v;
} zmlx_adamw_parameter;

/* Puts the (lazy) results in the places of p, m and v, whose handles are freed, so that a step works in the memory of
 * the one before where nobody else needs that (CPU). Up to 16 parameters are one operation of MLX on the CPU, and
 * on CUDA 16 of the same types; others are one each. A failure, which names the parameter, changes nothing. Not
 * differentiable. */
ZMLX_API zmlx_status zmlx_adamw_update(zmlx_adamw_parameter *parameters, size_t count, const zmlx_adamw *how,
                                       mlx_stream stream, zmlx_error *error);

#ifdef __cplusplus
}
#endif

#endif
