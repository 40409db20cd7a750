/* SPDX-License-Identifier: MIT */
/* The random content of a tensor: a function of its seed and the element's index alone. */
#include <math.h>

#include "base/half.h"
#include "base/random.h"
#include "model/synth_plan.h"

/* Four 16-bit numbers for elements index to index + 3; index is a multiple of 4. */
static uint64_t random_four(const zm_synth_tensor *tensor, uint64_t index) {
    return zm_splitmix64(tensor->seed, index / 4);
}

static int exponent_of(const zm_synth_tensor *tensor, uint16_t number) {
    return tensor->exponent + (number < tensor->high_part);
}

/* Of bits that hardly tell which exponent is taken. */
static float scale_of(const zm_synth_tensor *tensor, uint16_t number) {
    return ldexpf(number & 1 ? -1.0f : 1.0f, exponent_of(tensor, number));
}

static float bias_of(const zm_synth_tensor *tensor, uint16_t number) {
    int n = (1 << (tensor->bits - 1)) + (number >> 1) % zm_synth_spread(tensor->bits);
    return (float)-n * scale_of(tensor, number);
}

static float uniform(const zm_synth_tensor *tensor, uint16_t number) {
    return tensor->mean + tensor->width * (((float)number - 32767.5f) / 32767.5f);
}

static void fill_packed(uint32_t *out, const zm_synth_tensor *tensor, uint64_t first, size_t count) {
    size_t i = 0;
    for (; i + 1 < count; i += 2) {
        uint64_t bits = zm_splitmix64(tensor->seed, (first + i) / 2);
        out[i] = (uint32_t)bits;
        out[i + 1] = (uint32_t)(bits >> 32);
    }
    if (i < count) out[i] = (uint32_t)zm_splitmix64(tensor->seed, (first + i) / 2);
}

static void fill_one(void *out, size_t at, const zm_synth_tensor *tensor, uint16_t number) {
    switch (tensor->fill) {
    case ZM_SYNTH_PACKED: break;
    case ZM_SYNTH_SCALES:
        ((uint16_t *)out)[at] = zm_bfloat16_from_float(scale_of(tensor, number));
        break;
    case ZM_SYNTH_BIASES: ((uint16_t *)out)[at] = zm_bfloat16_from_float(bias_of(tensor, number)); break;
    case ZM_SYNTH_EXPONENTS: ((uint8_t *)out)[at] = (uint8_t)(exponent_of(tensor, number) + 127); break;
    case ZM_SYNTH_BFLOAT16: ((uint16_t *)out)[at] = zm_bfloat16_from_float(uniform(tensor, number)); break;
    case ZM_SYNTH_FLOAT32: ((float *)out)[at] = uniform(tensor, number); break;
    }
}

void zm_synth_fill_elements(void *out, const zm_synth_tensor *tensor, uint64_t first, size_t count) {
    if (tensor->fill == ZM_SYNTH_PACKED) {
        fill_packed(out, tensor, first, count);
        return;
    }
    for (size_t i = 0; i < count; i += 4) {
        uint64_t numbers = random_four(tensor, first + i);
        for (size_t j = i; j < count && j < i + 4; j++, numbers >>= 16)
            fill_one(out, j, tensor, (uint16_t)numbers);
    }
}

uint64_t zm_synth_tensor_elements(const zm_synth_tensor *tensor) {
    uint64_t count = 1;
    for (int i = 0; i < tensor->n_dims; i++) count *= (uint64_t)tensor->shape[i];
    return count;
}

int zm_synth_element_bytes(zm_synth_fill fill) {
    switch (fill) {
    case ZM_SYNTH_PACKED:
    case ZM_SYNTH_FLOAT32: return 4;
    case ZM_SYNTH_EXPONENTS: return 1;
    default: return 2;
    }
}
