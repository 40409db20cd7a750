/* SPDX-License-Identifier: MIT */
#include "fused/attention/parts.h"

#include <math.h>
#include <string.h>

void zm_attend_join(float *result, size_t size, const zm_attend_parts *parts, size_t first, size_t count,
                    const float *sink) {
    size_t end = first + count * parts->n_heads;
    float most = sink ? *sink : -INFINITY;
    for (size_t part = first; part < end; part += parts->n_heads)
        if (!(parts->largest[part] <= most)) most = parts->largest[part];
    float sum = sink ? expf(*sink - most) : 0;
    memset(result, 0, size * sizeof *result);
    for (size_t part = first; part < end; part += parts->n_heads) {
        const float *output = parts->outputs + part * parts->output_size;
        float factor = expf(parts->largest[part] - most);
        sum += factor * parts->sums[part];
        for (size_t i = 0; i < size; i++) result[i] += factor * output[i];
    }
    for (size_t i = 0; i < size; i++) result[i] /= sum;
}
