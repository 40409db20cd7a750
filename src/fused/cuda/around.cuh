/* SPDX-License-Identifier: MIT */
/* What a prompt needs between its products (prompt.cuh), with the bits of the operations of MLX that it replaces: which
 * rows go to which expert, the sum of what a token's experts make, and short convolutions.
 * Behind halves.cuh and the type's text (bfloat16.cuh, float16.cuh). The text before that defines ZM_PLAN, ZM_COMBINE,
 * ZM_CONVOLVE or ZM_EMBED: the kernel that is wanted; and for a table ZM_BITS (2 to 6 or 8) and
 * ZM_GROUP. */
enum { MOST_EXPERTS = PROMPT_MOST_EXPERTS };

#if ZM_PLAN
/* order: the n_chosen places of `chosen`, sorted by expert; among those of one expert in any order, which changes no
 * bits: a row's sums are its own. tiles: (expert, first in order, how many) of blocks of at most tile_rows, of an
 * expert nearly as many in each; the rest of n_tiles are empty. */
extern "C" __global__ void __launch_bounds__(PLAN_THREADS)
    zm_plan(const uint *chosen, uint *order, uint4 *tiles, uint n_chosen, uint n_experts, uint tile_rows,
            uint n_tiles) {
    __shared__ uint counts[MOST_EXPERTS], next[MOST_EXPERTS];
    __shared__ uint2 sums[MOST_EXPERTS / WARP];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    if (thread < MOST_EXPERTS) counts[thread] = 0;
    __syncthreads();
    for (uint i = thread; i < n_chosen; i += PLAN_THREADS) atomicAdd(&counts[min(chosen[i], n_experts - 1)], 1u);
    __syncthreads();
    /* A thread has an expert: its rows and tiles, and those of all before. */
    uint count = thread < n_experts ? counts[thread] : 0, n_own = (count + tile_rows - 1) / tile_rows;
    uint2 before = make_uint2(count, n_own);
#pragma unroll
    for (uint apart = 1; apart < WARP; apart *= 2) {
        uint rows = __shfl_up_sync(~0u, before.x, apart), n = __shfl_up_sync(~0u, before.y, apart);
        if (lane >= apart) before.x += rows, before.y += n;
    }
    if (lane == WARP - 1 && thread < MOST_EXPERTS) sums[warp] = before;
    __syncthreads();
    uint first = before.x - count, tile = before.y - n_own, n_used = 0;
#pragma unroll
    for (uint i = 0; i < MOST_EXPERTS / WARP; i++) {
        if (i < warp) first += sums[i].x, tile += sums[i].y;
        n_used += sums[i].y;
    }
    if (thread < n_experts) {
        next[thread] = first;
        for (uint i = 0; i < n_own; i++) {
            uint begin = count * i / n_own, end = count * (i + 1) / n_own;
            tiles[tile + i] = make_uint4(thread, first + begin, end - begin, 0);
        }
    }
    for (uint i = n_used + thread; i < n_tiles; i += PLAN_THREADS) tiles[i] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    for (uint i = thread; i < n_chosen; i += PLAN_THREADS)
        order[atomicAdd(&next[min(chosen[i], n_experts - 1)], 1u)] = i;
}
#elif ZM_COMBINE
/* sum + y * weight, both rounded. */
ZM_FUNCTION uint add_weighted(uint sum, uint y, float weight) {
    uint product = pack(low(y) * weight, high(y) * weight);
    return pack(low(sum) + low(product), high(sum) + high(product));
}

/* out[t] = sum over i, in order, of weights[t, i] * y[t, i], each product and sum rounded. A thread has eight
 * columns. */
extern "C" __global__ void __launch_bounds__(AROUND_THREADS)
    zm_combine(const uint4 *y, const ushort *weights, uint4 *out, uint n_vectors, uint row_vectors, uint top_k) {
    uint at = blockIdx.x * AROUND_THREADS + threadIdx.x, token = at / row_vectors, column = at % row_vectors;
    if (at >= n_vectors) return;
    uint4 sum = make_uint4(0, 0, 0, 0);
    for (uint i = 0; i < top_k; i++) {
        uint row = token * top_k + i;
        uint4 v = y[size_t(row) * row_vectors + column];
        float weight = widen(weights[row]);
        sum = make_uint4(add_weighted(sum.x, v.x, weight), add_weighted(sum.y, v.y, weight),
                         add_weighted(sum.z, v.z, weight), add_weighted(sum.w, v.w, weight));
    }
    out[at] = sum;
}
#elif ZM_CONVOLVE
ZM_FUNCTION uint product2(uint a, uint b) { return pack(low(a) * low(b), high(a) * high(b)); }
/* c * (x0 t0 + x1 t1 + x2 t2) of a channel; the sum is rounded once. */
ZM_FUNCTION float convolve(float c, float x0, float x1, float x2, const ushort *taps) {
    return c * rounded(fmaf(x2, widen(taps[2]), fmaf(x1, widen(taps[1]), x0 * widen(taps[0]))));
}

/* y = c * conv(b * v) of three taps, (b, c, v) the thirds of a row of `projected`; before: the last two b * v of
 * earlier tokens, if has_before, after: those behind these. A thread has eight channels of CONV_TOKENS tokens. */
extern "C" __global__ void __launch_bounds__(AROUND_THREADS)
    zm_convolve(const uint4 *projected, const uint4 *taps, const uint4 *before, uint4 *y, uint4 *after, uint n_tokens,
                uint vectors, uint has_before) {
    uint at = blockIdx.x * AROUND_THREADS + threadIdx.x, vector = at % vectors, first = at / vectors * CONV_TOKENS;
    if (first >= n_tokens) return;
    uint4 loaded[3];
#pragma unroll
    for (int i = 0; i < 3; i++) loaded[i] = taps[vector * 3 + i];
    const ushort *tap = (const ushort *)loaded;
    auto gated = [&](uint token) {
        const uint4 *row = projected + size_t(token) * 3 * vectors + vector;
        uint4 b = row[0], v = row[2 * vectors];
        return make_uint4(product2(b.x, v.x), product2(b.y, v.y), product2(b.z, v.z), product2(b.w, v.w));
    };
    uint4 x0 = make_uint4(0, 0, 0, 0), x1 = x0;
    if (first) x0 = gated(first - 2), x1 = gated(first - 1);
    else if (has_before) x0 = before[vector], x1 = before[vectors + vector];
    for (uint token = first; token < first + CONV_TOKENS && token < n_tokens; token++) {
        uint4 x2 = gated(token), c = projected[(size_t(token) * 3 + 1) * vectors + vector], result;
        const uint *a0 = &x0.x, *a1 = &x1.x, *a2 = &x2.x, *gate = &c.x;
#pragma unroll
        for (int i = 0; i < 4; i++)
            (&result.x)[i] = pack(convolve(low(gate[i]), low(a0[i]), low(a1[i]), low(a2[i]), tap + i * 6),
                                  convolve(high(gate[i]), high(a0[i]), high(a1[i]), high(a2[i]), tap + i * 6 + 3));
        y[size_t(token) * vectors + vector] = result;
        if (token + 2 >= n_tokens) after[(token + 2 - n_tokens) * vectors + vector] = x2;
        x0 = x1, x1 = x2;
    }
}
#elif ZM_EMBED
/* Rows of a table of n_rows, of which a token names one (MLX counts a negative one from the end): a thread has eight
 * columns. */
extern "C" __global__ void __launch_bounds__(AROUND_THREADS)
    zm_embed_rows(const int *tokens, const uint *codes, const ushort *scales, const ushort *biases, uint4 *y,
                  uint n_tokens, uint vectors, uint n_rows) {
    uint at = blockIdx.x * AROUND_THREADS + threadIdx.x;
    if (at >= n_tokens * vectors) return;
    int token = tokens[at / vectors];
    size_t vector = size_t(token < 0 ? token + int(n_rows) : token) * vectors + at % vectors,
           group = vector * 8 / ZM_GROUP;
    uint scale = scales[group] * 0x10001u, bias = biases[group] * 0x10001u;
    const unsigned char *bytes = (const unsigned char *)codes + vector * ZM_BITS; /* in two of which a code may lie */
    auto code = [&](int element) {
        int bit = element * ZM_BITS, last = bit + ZM_BITS - 1;
        return ((bytes[bit / 8] | bytes[last / 8] << 8) >> bit % 8) & ((1u << ZM_BITS) - 1);
    };
    uint pairs[4];
#pragma unroll
    for (int i = 0; i < 4; i++) pairs[i] = fma2(pack(float(code(i * 2)), float(code(i * 2 + 1))), scale, bias);
    y[at] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}
#endif
