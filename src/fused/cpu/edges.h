/* SPDX-License-Identifier: MIT */
/* The scale and the bias of a group in one word of 16 bits.
 *
 * MLX's quantiser takes a group's extreme of larger magnitude as its bias and makes the scale go into it a whole number
 * of times: scale = round(bias / -n), rounded to the type of both. Where a group holds numbers of both signs, n is at
 * least half the number of steps, 2^bits - 1, rounded to either side, and hardly ever as many. So bias and n give both,
 * in bfloat16 from the highest bit on:
 *
 *     1: the bias's sign | bits - 1: n - (2^(bits - 1) - 1) | 9 - bits: the bias's exponent, from the first one of the
 *     matrix on | 7: the bias's mantissa
 *
 * The largest exponent stands for a group that is not so: its scale and bias are read where they are stored. */
#ifndef ZM_FUSED_CPU_EDGES_H
#define ZM_FUSED_CPU_EDGES_H

#include <stdint.h>

enum { ZM_EDGE_MAX_BITS = 6, ZM_EDGE_MANTISSA_BITS = 7 };

/* The smallest n; the largest is twice that. */
static inline uint32_t zm_edge_first(int bits) { return (1u << (bits - 1)) - 1; }

/* The bits of exponent and mantissa, all of them set. */
static inline uint32_t zm_edge_low_bits(int bits) { return (1u << (16 - bits)) - 1; }

/* The exponent's, which are those of a group without an edge. */
static inline uint32_t zm_edge_none(int bits) {
    return zm_edge_low_bits(bits) & ~((1u << ZM_EDGE_MANTISSA_BITS) - 1);
}

#endif
