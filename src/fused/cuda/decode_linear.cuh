/* Linear maps. A block has WARPS warps; dynamic shared memory holds x as staged. */

/* h = row of the table for *token. */
ZM_KERNEL(THREADS) zm_embed(const int *token, const uint *weight, const ushort *scales, const ushort *biases, uint *h) {
    wait_for_last();
    int pairs = ZM_HIDDEN / 2, pair = int(blockIdx.x) * THREADS + int(threadIdx.x);
    if (pair >= pairs) return;
    long long row = *token, group = row * (ZM_HIDDEN / ZM_GROUP) + pair * 2 / ZM_GROUP;
    uint both = scale_and_bias(__ldg(scales + group), __ldg(biases + group));
    uint scale = __byte_perm(both, both, 0x1010), bias = __byte_perm(both, both, 0x3232);
    int bit = pair * 2 * ZM_BITS;
    uint code = __ldg(weight + row * (ZM_HIDDEN * ZM_BITS / 32) + bit / 32) >> (bit % 32);
    uint mask = (1u << ZM_BITS) - 1u, shift = ZM_BITS == 4 ? 4 : 0;
    h[pair] = fma2((code & mask) << shift | ((code >> ZM_BITS) & mask) << (16 + shift), scale, bias);
}

/* y = [A; B; C] norm(h). A warp a row. */
ZM_KERNEL(THREADS, 2) zm_norm_linear(const uint4 *h, const uint4 *norm, const uint2 *aw, const ushort *as,
                                     const ushort *ab, const uint2 *bw, const ushort *bs, const ushort *bb,
                                     const uint2 *cw, const ushort *cs, const ushort *cb, ushort *y, float eps, uint n_a,
                                     uint n_b, uint n_c) {
    uint thread = threadIdx.x, lane = thread % WARP, place = blockIdx.x * WARPS + thread / WARP;
    norm_row n;
    load_norm(n, norm, thread);
    matrix m = {aw, as, ab};
    uint row = place;
    if (place >= n_a) m = {bw, bs, bb}, row = place - n_a;
    if (place >= n_a + n_b) m = {cw, cs, cb}, row = place - n_a - n_b;
    bool in = place < n_a + n_b + n_c;
    if (!in) row = 0;
    chunk weights;
    load_chunk(weights, m, row, 0, ZM_HIDDEN, lane);
    wait_for_last();
    stage_norm(staged, h, n, eps, nullptr, thread, THREADS);
    float result = warp_sum(multiply_row(weights, m, row, staged, ZM_HIDDEN, lane));
    if (lane == 0 && in) y[place] = narrow(result);
}

/* y = W norm(h) for many rows: warps go on with the rows that are a grid further, the next one's weights under way. */
ZM_KERNEL(THREADS, 2) zm_norm_head(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                                   const ushort *biases, ushort *y, float eps, uint rows) {
    uint thread = threadIdx.x, lane = thread % WARP, warps = gridDim.x * WARPS;
    uint row = blockIdx.x * WARPS + thread / WARP;
    norm_row n;
    load_norm(n, norm, thread);
    matrix m = {weight, scales, biases};
    chunk weights;
    load_chunk(weights, m, row < rows ? row : 0, 0, ZM_HIDDEN, lane);
    wait_for_last();
    stage_norm(staged, h, n, eps, nullptr, thread, THREADS);
    for (; row < rows; row += warps) {
        chunk next;
        load_chunk(next, m, row + warps < rows ? row + warps : 0, 0, ZM_HIDDEN, lane);
        float result = warp_sum(multiply_row(weights, m, row, staged, ZM_HIDDEN, lane));
        if (lane == 0) y[row] = narrow(result);
        weights = next;
    }
}

/* h_next = h + W x. A warp a row. */
ZM_KERNEL(THREADS, 2) zm_linear_add(const uint4 *x, const uint2 *weight, const ushort *scales, const ushort *biases,
                                    const ushort *h, ushort *h_next, uint k, uint n) {
    uint thread = threadIdx.x, lane = thread % WARP, place = blockIdx.x * WARPS + thread / WARP;
    matrix m = {weight, scales, biases};
    uint row = place < n ? place : 0;
    chunk weights;
    load_chunk(weights, m, row, 0, k, lane);
    wait_for_last();
    stage(staged, x, k, thread, THREADS);
    float before = widen(*(volatile const ushort *)(h + row));
    __syncthreads();
    float result = warp_sum(multiply_row(weights, m, row, staged, k, lane));
    if (lane == 0 && place < n) h_next[row] = narrow(before + rounded(result));
}

/* y = c * conv(b * v) with b, c, v = W norm(h) and three taps; state: the last two rows of b * v, moved on by
 * one. A warp a channel. */
ZM_KERNEL(THREADS) zm_conv(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                           const ushort *biases, const ushort *taps, ushort *state, ushort *y, float eps, uint size) {
    uint thread = threadIdx.x, lane = thread % WARP, place = blockIdx.x * WARPS + thread / WARP;
    uint channel = place < size ? place : 0;
    norm_row n;
    load_norm(n, norm, thread);
    matrix m = {weight, scales, biases};
    chunk weights[3]; /* of b, c, v */
#pragma unroll
    for (int i = 0; i < 3; i++) load_chunk(weights[i], m, i * size + channel, 0, ZM_HIDDEN, lane);
    float tap[3];
#pragma unroll
    for (int i = 0; i < 3; i++) tap[i] = widen(__ldg(taps + channel * 3 + i));
    wait_for_last();
    float x0 = widen(*(volatile const ushort *)(state + channel));
    float x1 = widen(*(volatile const ushort *)(state + size + channel));
    stage_norm(staged, h, n, eps, nullptr, thread, THREADS);
    float parts[3];
#pragma unroll
    for (int i = 0; i < 3; i++) parts[i] = multiply_row(weights[i], m, i * size + channel, staged, ZM_HIDDEN, lane);
#pragma unroll
    for (int i = 0; i < 3; i++) parts[i] = rounded(warp_sum(parts[i]));
    if (lane || place >= size) return;
    float x2 = rounded(parts[0] * parts[2]);
    float conv = rounded(fmaf(x2, tap[2], fmaf(x1, tap[1], x0 * tap[0])));
    y[channel] = narrow(parts[1] * conv);
    state[channel] = narrow(x1);
    state[size + channel] = narrow(x2);
}
