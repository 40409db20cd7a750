/* SPDX-License-Identifier: MIT */
/* What a token's head got of each chunk of rows (zm_attend), put together. */
#ifndef ZM_FUSED_ATTENTION_PARTS_H
#define ZM_FUSED_ATTENTION_PARTS_H

#include <stddef.h>

typedef struct zm_attend_parts {
    const float *outputs, *largest, *sums;
    size_t n_heads;     /* from a chunk's part to the next chunk's */
    size_t output_size; /* of a part */
} zm_attend_parts;

/* result (size, at most output_size) = sum of e^(largest - most) * outputs over that of the sums, of the parts first,
 * first + n_heads, ..., in order; most is the largest of all. sink (NULL: none) is one more score, without a value. */
void zm_attend_join(float *result, size_t size, const zm_attend_parts *parts, size_t first, size_t count,
                    const float *sink);

#endif
