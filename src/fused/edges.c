/* SPDX-License-Identifier: MIT */
/* Finding the edges of a weight's groups (cpu/edges.h). */
#include "fused/cpu/edges.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "fused/fused.h"
#include "mlx/node.h"

enum {
    GRAIN = 64 * 1024,
    /* One group in so many may be without an edge: where it is read, the processor waits for memory as long as the
     * edges of a thousand groups save. */
    LEAST_PER_STORED = 1024
};

typedef struct search {
    const uint16_t *scales, *biases;
    uint16_t *edges;
    int bits, first_exponent;
    atomic_uint largest; /* magnitude of a bias */
    atomic_size_t n_stored;
} search;

static void find_largest(void *context, size_t begin, size_t end) {
    search *of = context;
    const uint16_t *biases = of->biases;
    uint32_t largest = 0;
    for (size_t i = begin; i < end; i++) {
        uint32_t magnitude = biases[i] & 0x7fffu;
        largest = magnitude > largest ? magnitude : largest;
    }
    uint32_t before = atomic_load(&of->largest);
    while (before < largest && !atomic_compare_exchange_weak(&of->largest, &before, largest)) continue;
}

/* The word of a group; zm_edge_none(bits) where its scale is not what the word says. Without branches, for vectors. */
static inline uint32_t edge_of(uint32_t scale, uint32_t bias, int bits, int first_exponent) {
    uint32_t first = zm_edge_first(bits), none = zm_edge_none(bits);
    float edge = zm_bfloat16_to_float((uint16_t)bias), ratio = -edge / zm_bfloat16_to_float((uint16_t)scale);
    uint32_t usual = (ratio > 0) & (ratio < 64); /* not so where it is no number */
    uint32_t n = (uint32_t)(int32_t)(zm_float_from_bits(zm_float_bits(ratio) & -usual) + 0.5f);
    uint32_t quotient = zm_float_bits(edge / -(float)(int32_t)n);
    uint32_t magnitude = (bias & 0x7fffu) - ((uint32_t)first_exponent << ZM_EDGE_MANTISSA_BITS);
    uint32_t fits = (n - first <= first) & (magnitude < none) & ((quotient + 0x8000u) >> 16 == scale);
    uint32_t word = (bias & 0x8000u) | (n - first) << (16 - bits) | magnitude;
    return (word & -fits) | (none & (fits - 1));
}

static void find_edges(void *context, size_t begin, size_t end) {
    search *of = context;
    const uint16_t *scales = of->scales, *biases = of->biases;
    uint16_t *edges = of->edges;
    int bits = of->bits, first_exponent = of->first_exponent;
    uint32_t none = zm_edge_none(bits), n_stored = 0;
    for (size_t i = begin; i < end; i++) {
        uint32_t word = edge_of(scales[i], biases[i], bits, first_exponent);
        edges[i] = (uint16_t)word;
        n_stored += (word & none) == none;
    }
    atomic_fetch_add(&of->n_stored, n_stored);
}

/* Exponents reach from the largest bias's down: what is smaller by far more than weights differ is rare. */
static int choose_first_exponent(uint32_t largest, int bits) {
    int n_exponents = (int)(zm_edge_none(bits) >> ZM_EDGE_MANTISSA_BITS);
    int last = (int)(largest >> ZM_EDGE_MANTISSA_BITS);
    return last < n_exponents ? 0 : last + 1 - n_exponents;
}

static bool may_have_edges(const zm_weight *weight) {
    return zm_weight_is_quantized(weight) && !strcmp(weight->quantization.mode, "affine") &&
           weight->quantization.bits <= ZM_EDGE_MAX_BITS;
}

static bool view_halves(zm_view *view, mlx_array array) {
    return zm_is_set(array) && mlx_array_dtype(array) == MLX_BFLOAT16 && zm_view_of(view, array);
}

zmlx_status zm_fused_edges(mlx_array *edges, int *first_exponent, const zm_weight *weight, zm_pool *pool,
                           zmlx_error *error) {
    *edges = (mlx_array){NULL};
    zm_view scales, biases;
    if (!may_have_edges(weight) || !view_halves(&scales, weight->scales) || !view_halves(&biases, weight->biases) ||
        scales.size != biases.size)
        return ZMLX_OK;
    size_t count = scales.size;
    search of = {.scales = scales.data, .biases = biases.data, .bits = weight->quantization.bits};
    of.edges = malloc(count * sizeof *of.edges + 1);
    if (!of.edges) return zm_fail_memory(error);
    zm_pool_run(pool, count, GRAIN, find_largest, &of);
    *first_exponent = of.first_exponent = choose_first_exponent(atomic_load(&of.largest), of.bits);
    zm_pool_run(pool, count, GRAIN, find_edges, &of);
    bool serves = atomic_load(&of.n_stored) <= count / LEAST_PER_STORED;
    if (serves)
        *edges = mlx_array_new_data(of.edges, mlx_array_shape(weight->scales), (int)mlx_array_ndim(weight->scales),
                                    MLX_UINT16);
    free(of.edges);
    return edges->ctx || !serves ? ZMLX_OK : zm_mlx_fail(error, "edges");
}
