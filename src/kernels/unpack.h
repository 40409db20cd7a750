/* SPDX-License-Identifier: MIT */
/* Codes of a few bits out of bytes. */
#ifndef ZM_KERNELS_UNPACK_H
#define ZM_KERNELS_UNPACK_H

#include "kernels/compose.h"

/* bytes [..., N] of uint8, each row a stream of codes, from the lowest bit of the first byte: their codes [...,
 * N*8/bits] as uint8. bits is 1 to 6 or 8; 8 * N is a multiple of it. */
mlx_array zm_unpack_codes(zm_catalog_call *call, mlx_array bytes, int bits);
/* The same of operations of MLX and an expression, for any device. */
mlx_array zm_unpack_codes_composed(zm_catalog_call *call, mlx_array bytes, int bits);

#endif
