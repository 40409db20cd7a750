/* SPDX-License-Identifier: MIT */
#ifndef ZM_BASE_RANDOM_H
#define ZM_BASE_RANDOM_H

#include <stdint.h>

/* Number index (from 0) of the sequence that SplitMix64 gives for seed: neighbouring seeds and indices give
 * unrelated bits. */
static inline uint64_t zm_splitmix64(uint64_t seed, uint64_t index) {
    uint64_t z = seed + (index + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
