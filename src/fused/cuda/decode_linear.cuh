/* Linear maps. Dynamic shared memory holds x, then the ring of pieces of weights. */

/* Its blocks have a residual stream's rows between them. The fewer their warps, the more registers has a thread: two
 * blocks share a multiprocessor's, of which each of its four schedulers has a quarter. */
enum {
    ADD_TASKS = (ZM_HIDDEN / 2 + MULTIPROCESSORS - 1) / MULTIPROCESSORS, /* of a block */
    ADD_WARPS = (ADD_TASKS + SCHEDULERS - 1) / SCHEDULERS * SCHEDULERS,
    ADD_THREADS = (ADD_WARPS < WARPS ? ADD_WARPS : WARPS) * WARP,
    /* A piece of each of so many warps is what memory brings in the time that it takes to answer. More at once would
     * keep the kernel before from its last weights, and its results from coming through; fewer bring less. */
    ONE_PIECE_WARPS = 12,
};
enum : uint {
    LINEAR_EARLY = layout<ZM_K>::PIECES > LINEAR_AHEAD && ADD_WARPS >= ONE_PIECE_WARPS ? ONE_BY_ONE : ALL_EARLY
};

/* h_next = h + W x + bias (NULL: none). A task is two rows. is_early: the next kernel, which reads only weights before
 * its own wait, begins before this one may read. */
ZM_KERNEL(ADD_THREADS, 2)
zm_linear_add(const uint4 *x, const uint2 *weight, const ushort *scales, const ushort *biases, const ushort *bias,
              const ushort *h, ushort *h_next, uint n, uint n_slots, uint is_early ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    enum { VECTORS = (ZM_K / 8 + ADD_THREADS - 1) / ADD_THREADS, AT_ONCE = VECTORS < 8 ? VECTORS : 8 }; /* of x */
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    uint first = blockIdx.x + thread / WARP * gridDim.x, stride = gridDim.x * warps, n_tasks = n / 2;
    lane_matrix<ZM_K> m({weight, scales, biases}, lane, slot<ZM_K, 2, true>::LANE_ROWS);
    ushort before; /* lanes below 16: of the task's first row, the others: of its second */
    auto fetch = [&](uint task) {
        if (task < n_tasks) before = read_fresh(h + (task * 2 + lane / 16));
    };
    multiply<ZM_K, 2, true, LINEAR_AHEAD, LINEAR_EARLY>(
        first, stride, n_tasks, staged, staged + layout<ZM_K>::X, n_slots, 0,
        [&](uint task, const lane_matrix<ZM_K> *(&matrices)[2], uint (&rows)[2]) {
            matrices[0] = matrices[1] = &m;
            rows[0] = task * 2, rows[1] = task * 2 + 1;
        },
        [&] {
            if (is_early) begin_next();
            wait_only();
            if (!is_early) begin_next();
            fetch(first);
            stage<ZM_K, AT_ONCE>(staged, x, thread, blockDim.x);
            __syncthreads();
        },
        [&](uint task, const float *parts) {
            float both = warp_sum2(parts[0], parts[1], lane);
            uint row = task * 2 + lane / 16;
            if (lane % 16 == 0) h_next[row] = narrow(widen(before) + biased(both, bias, row));
            fetch(task + stride);
        });
}

#if ZM_K == ZM_HIDDEN
#if !ZM_MXFP4
/* h = row of the table of n for *token; a negative one counts from the end. */
ZM_KERNEL(THREADS) zm_embed(const int *token, const uint *weight, const ushort *scales, const ushort *biases, uint *h,
                            uint n ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    wait_for_last();
    uint pair = blockIdx.x * THREADS + threadIdx.x;
    if (pair >= ROW_PAIRS) return;
    uint own = uint(*token), row = int(own) < 0 ? own + n : own;
    h[pair] = embedding{weight, scales, biases}.pair(row, pair);
}
#endif

/* y = [A; B; C] norm(h), and a bias for each (NULL: none). A task is two rows of one of them. is_early: the
 * next kernel begins with this one, not when this one may read. */
ZM_KERNEL(THREADS, 2)
zm_norm_linear(const uint4 *h, const uint4 *norm, const uint2 *aw, const ushort *as, const ushort *ab, const uint2 *bw,
               const ushort *bs, const ushort *bb, const uint2 *cw, const ushort *cs, const ushort *cb,
               const ushort *a_bias, const ushort *b_bias, const ushort *c_bias, ushort *y, float eps, uint n_a,
               uint n_b, uint n_c, uint n_slots, uint is_early ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    if (is_early) begin_next(); /* attention reads nothing younger than the last token before its own wait */
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    norm_row n;
    load_norm(n, norm, thread, blockDim.x);
    const uint neighbours = slot<ZM_HIDDEN, 2, true>::LANE_ROWS;
    lane_matrix<ZM_HIDDEN> m({aw, as, ab}, lane, neighbours);
    multiply<ZM_HIDDEN, 2, true, HIDDEN_AHEAD, ALL_EARLY>(
        blockIdx.x + thread / WARP * gridDim.x, gridDim.x * warps, (n_a + n_b + n_c) / 2, staged,
        staged + layout<ZM_HIDDEN>::X, n_slots, 0,
        [&](uint task, const lane_matrix<ZM_HIDDEN> *(&matrices)[2], uint (&rows)[2]) {
            uint row = task * 2;
            if (n_b) {
                matrix of = {aw, as, ab};
                if (row >= n_a + n_b) of = {cw, cs, cb}, row -= n_a + n_b;
                else if (row >= n_a) of = {bw, bs, bb}, row -= n_a;
                m = lane_matrix<ZM_HIDDEN>(of, lane, neighbours);
            }
            matrices[0] = matrices[1] = &m;
            rows[0] = row, rows[1] = row + 1;
        },
        [&] {
            wait_only();
            if (!is_early) begin_next();
            stage_norm(staged, h, n, eps, nullptr, thread, blockDim.x);
        },
        [&](uint task, const float *parts) {
            float both = warp_sum2(parts[0], parts[1], lane);
            uint row = task * 2 + lane / 16;
            const ushort *bias = a_bias;
            uint at = row;
            if (n_b && row >= n_a + n_b) bias = c_bias, at -= n_a + n_b;
            else if (n_b && row >= n_a) bias = b_bias, at -= n_a;
            if (lane % 16 == 0) y[row] = narrow(biased(both, bias, at));
        });
}

/* y = c * conv(b * v) with b, c, v = W norm(h) and three taps; state: the last two rows of b * v, moved on by
 * one. A task is a channel. */
ZM_KERNEL(THREADS, 2) zm_conv(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                              const ushort *biases, const ushort *taps, ushort *state, ushort *y, float eps, uint size,
                              uint n_slots ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    begin_next(); /* the output projection reads weights alone before its own wait */
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    norm_row n;
    load_norm(n, norm, thread, blockDim.x);
    uint first = blockIdx.x + thread / WARP * gridDim.x, stride = gridDim.x * warps;
    lane_matrix<ZM_HIDDEN> m({weight, scales, biases}, lane);
    /* Of the task's channel: lanes 0 and 1 have the state, which is the token's before, 2 to 4 the taps. */
    ushort kept = 0;
    auto fetch = [&](uint channel) {
        if (channel < size && lane < 5)
            kept = lane < 2 ? read_fresh(state + (lane * size + channel)) : __ldg(taps + (channel * 3 + lane - 2));
    };
    multiply<ZM_HIDDEN, 3, false, HIDDEN_AHEAD, ALL_EARLY>(
        first, stride, size, staged, staged + layout<ZM_HIDDEN>::X, n_slots, 0,
        [&](uint channel, const lane_matrix<ZM_HIDDEN> *(&matrices)[3], uint (&rows)[3]) {
#pragma unroll
            for (int i = 0; i < 3; i++) matrices[i] = &m, rows[i] = i * size + channel;
        },
        [&] {
            fetch(first);
            wait_only();
            stage_norm(staged, h, n, eps, nullptr, thread, blockDim.x);
        },
        [&](uint channel, const float *parts) {
            float b = warp_sum2(parts[0], parts[1], lane), v = rounded(warp_sum(parts[2]));
            float c = rounded(__shfl_xor_sync(~0u, b, 16));
            float x2 = rounded(rounded(b) * v);
            float own = widen(kept), x0 = __shfl_sync(~0u, own, 0), x1 = __shfl_sync(~0u, own, 1);
            float conv = rounded(fmaf(x2, __shfl_sync(~0u, own, 4),
                                      fmaf(x1, __shfl_sync(~0u, own, 3), x0 * __shfl_sync(~0u, own, 2))));
            if (lane == 0) {
                y[channel] = narrow(c * conv);
                state[channel] = narrow(x1);
                state[size + channel] = narrow(x2);
            }
            fetch(channel + stride);
        });
}
#endif
