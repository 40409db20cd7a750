/* SPDX-License-Identifier: MIT */
/* Random weights and vectors, among them numbers at the ends of what the kernels serve. */
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/half.h"
#include "base/random.h"
#include "host.h"
#include "runtime.h"

enum { PAGE = 4096, MOST_ARRAYS = 256, VECTOR = 16 };

typedef struct block {
    host_array array;
    char *mapped;
    size_t mapped_bytes;
} block;

static block blocks[MOST_ARRAYS];
static int n_blocks;
static uint64_t n_drawn;

static uint64_t draw(void) { return zm_splitmix64(1, n_drawn++); }
static bool one_in(int n) { return draw() % (uint64_t)n == 0; }
static double uniform(void) { return (double)(draw() >> 11) * 0x1p-53; }
/* Nearly a normal distribution. */
static double normal(void) {
    double sum = 0;
    for (int i = 0; i < 6; i++) sum += uniform();
    return (sum - 3) * sqrt(2);
}

static bool is_usual(host_kind kind) { return kind == HOST_USUAL || kind == HOST_CANCELLING; }

static uint16_t half_of(double value) {
    return options.float16 ? zm_float16_from_float((float)value) : zm_bfloat16_from_float((float)value);
}
float host_half_value(uint16_t half) {
    return options.float16 ? zm_float16_to_float(half) : zm_bfloat16_to_float(half);
}

mlx_array host_new(size_t bytes, mlx_dtype dtype) {
    if (n_blocks == MOST_ARRAYS) abort();
    block *made = &blocks[n_blocks++];
    size_t pages = (bytes + PAGE - 1) / PAGE + 1;
    made->mapped_bytes = pages * PAGE;
    made->mapped = mmap(NULL, made->mapped_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (made->mapped == MAP_FAILED) abort();
    char *end = made->mapped + (pages - 1) * PAGE;
    mprotect(end, PAGE, PROT_NONE);
    made->array = (host_array){.data = end - (bytes + VECTOR - 1) / VECTOR * VECTOR, .bytes = bytes, .dtype = dtype};
    host_allow(made->array.data, bytes);
    return (mlx_array){&made->array};
}

mlx_array host_shape(mlx_array array, int rows, int columns) {
    host_array *own = array.ctx;
    own->shape[0] = 1, own->shape[1] = rows, own->shape[2] = columns, own->n_dims = 3;
    return array;
}

void host_free_all(void) {
    for (int i = 0; i < n_blocks; i++) munmap(blocks[i].mapped, blocks[i].mapped_bytes);
    n_blocks = 0;
    host_forbid_all();
}

static void *data_of(mlx_array array) { return ((host_array *)array.ctx)->data; }

/* Extreme: zeros of both signs, numbers of all magnitudes, and the smallest. */
static uint16_t any_half(host_kind kind) {
    double value = normal();
    if (is_usual(kind)) return half_of(value);
    if (one_in(32)) return (uint16_t)(draw() % 3 | (draw() & 0x8000));
    switch (draw() % 8) {
    case 0: return half_of(0.0);
    case 1: return half_of(-0.0);
    case 2:
    case 3: return half_of(ldexp(value, options.float16 ? (int)(draw() % 20) - 14 : (int)(draw() % 60) - 40));
    default: return half_of(value);
    }
}

mlx_array host_halves(size_t n, host_kind kind) {
    mlx_array made = host_new(n * sizeof(uint16_t), options.float16 ? MLX_FLOAT16 : MLX_BFLOAT16);
    uint16_t *halves = data_of(made);
    for (size_t i = 0; i < n; i++) halves[i] = any_half(kind);
    return made;
}

mlx_array host_floats(size_t n) {
    mlx_array made = host_new(n * sizeof(float), MLX_FLOAT32);
    float *floats = data_of(made);
    for (size_t i = 0; i < n; i++) floats[i] = (float)(normal() * 0.2);
    return made;
}

mlx_array host_codes(size_t bytes) {
    mlx_array made = host_new(bytes, MLX_UINT32);
    uint64_t *words = data_of(made);
    for (size_t i = 0; i < bytes / sizeof *words; i++) words[i] = draw();
    return made;
}

/* A scale's magnitude. zm_decode_serves_weight bounds the largest. */
static double magnitude(int bits, host_kind kind) {
    double largest = bits == 8 ? 0x1p-6 : 0x1p-2, usual = bits == 8 ? 0.0006 : bits >= 5 ? 0.003 : 0.01;
    if (is_usual(kind)) return usual * (0.3 + 1.4 * uniform());
    double mantissa = 0.5 + 0.49 * uniform();
    if (kind == HOST_EXTREME) return ldexp(largest * mantissa, -(int)(draw() % (options.float16 ? 16 : 40)));
    return options.float16 ? ldexp(mantissa, -(int)(draw() % 12) - 12) : ldexp(mantissa, -(int)(draw() % 22) - 112);
}

static void mxfp4_scales(uint8_t *scales, size_t n, host_kind kind) {
    for (size_t i = 0; i < n; i++)
        scales[i] = (uint8_t)(is_usual(kind)     ? 116 + draw() % 8
                              : kind == HOST_EXTREME ? 60 + draw() % 120
                                                     : draw() % 12);
}

void host_groups(mlx_array *scales, mlx_array *biases, size_t n, int bits, bool is_mxfp4, host_kind kind) {
    *biases = (mlx_array){NULL};
    if (is_mxfp4) {
        *scales = host_new(n, MLX_UINT8);
        mxfp4_scales(data_of(*scales), n, kind);
        return;
    }
    *scales = host_halves(n, HOST_USUAL);
    *biases = host_halves(n, HOST_USUAL);
    uint16_t *of = data_of(*scales), *at = data_of(*biases);
    for (size_t i = 0; i < n; i++) {
        double scale = magnitude(bits, kind) * (one_in(2) ? 1 : -1);
        int off = is_usual(kind) ? (int)(draw() % 3) - 1 : (int)(draw() % 5) - 2;
        of[i] = half_of(scale);
        at[i] = half_of(-scale * ((1 << (bits - 1)) + off));
        if (is_usual(kind)) continue;
        if (one_in(16)) of[i] = 0;
        if (one_in(16)) at[i] = 0;
        if (one_in(16)) at[i] = half_of(normal() * 100);
    }
}

void host_repeat_groups(mlx_array array, size_t rows, size_t group_bytes) {
    if (!array.ctx) return;
    size_t row_bytes = ((host_array *)array.ctx)->bytes / rows, n = row_bytes / group_bytes;
    for (size_t row = 0; row < rows; row++) {
        char *data = (char *)data_of(array) + row * row_bytes;
        for (size_t i = 1; i + 1 < n; i += 2) memcpy(data + (i + 1) * group_bytes, data + i * group_bytes, group_bytes);
    }
}

void host_negate_groups(mlx_array array, size_t group) {
    enum { SIGN = 0x8000 };
    size_t n = ((host_array *)array.ctx)->bytes / sizeof(uint16_t) / group;
    uint16_t *halves = data_of(array);
    memset(halves, 0, group * sizeof *halves);
    if (n % 2 == 0) memset(halves + (n - 1) * group, 0, group * sizeof *halves);
    for (size_t i = 2; i < n; i += 2)
        for (size_t k = 0; k < group; k++)
            halves[i * group + k] = halves[(i - 1) * group + k] ^ (one_in(64) ? SIGN + 1 : SIGN);
}
