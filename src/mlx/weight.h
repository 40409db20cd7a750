/* SPDX-License-Identifier: MIT */
/* The arrays of one linear map: dense or quantised, one matrix or a stack of experts. */
#ifndef ZM_MLX_WEIGHT_H
#define ZM_MLX_WEIGHT_H

#include <stdbool.h>

#include "mlx/c/mlx.h"
#include "mlx/scope.h"

/* weight: dense (..., out, in), or packed (..., out, in * bits / 32) uint32; scales, biases:
 * (..., out, in / group_size), biases empty for modes without; bias: (..., out) or empty; edges: (..., out,
 * in / group_size) uint16, a shorter form of scales and biases (fused/cpu/edges.h), or empty. */
typedef struct zm_weight {
    mlx_array weight, scales, biases, bias, edges;
    int first_exponent; /* of the edges */
    zm_quantization quantization; /* mode NULL: dense */
    int in_features, out_features;
    int n_experts; /* 0: not stacked */
} zm_weight;

static inline bool zm_weight_is_quantized(const zm_weight *weight) {
    return weight->quantization.mode != NULL;
}

#endif
