/* Many chosen experts of one token, in tiles. */
#if EXPERT_TILES
#if ZM_K == ZM_HIDDEN
/* More pieces before x would keep it waiting, as it comes to shared memory behind them. */
enum { EARLY_PIECES = 1 };

/* Reads a line of each page of all experts' rows while their choice is awaited: of pages that were not read lately the
 * addresses must be translated anew, for which the copies of the chosen ones would wait. */
ZM_FUNCTION void touch_pages(const matrix &m, uint n_rows) {
    const size_t page = 2 << 20;
    auto touch = [&](const void *first, uint row_bytes) {
        size_t bytes = size_t(n_rows) * row_bytes;
        for (size_t at = threadIdx.x * page; at < bytes + page; at += blockDim.x * page)
            asm volatile("prefetch.global.L2 [%0];" :: "l"((const char *)first + min(at, bytes - 1)) : "memory");
    };
    touch(m.weight, ZM_K * ZM_BITS / 8);
    touch(m.scales, ROW_GROUPS * sizeof(ushort));
    touch(m.biases, ROW_GROUPS * sizeof(ushort));
}

/* act (top_k, n) = silu(gate x) * up x for the chosen experts. A task is 8 rows of each; the last warp only chooses. */
ZM_KERNEL(THREADS, 1)
zm_experts_in(const uint4 *x, const float *scores, const float *expert_bias, uint *words, const uint2 *gw,
              const ushort *gs, const ushort *gb, const uint2 *uw, const ushort *us, const ushort *ub, ushort *act,
              uint n_experts, uint gating, uint n ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ chosen_one_by_one chosen;
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, warps = blockDim.x / WARP - 1;
    router_scores from = {scores, expert_bias, n_experts, gating};
    float choice_bias = from.bias(lane_expert(from.is_low(), lane));
    chosen.begin(thread);
    touch_pages({gw, gs, gb}, n_experts * n);
    touch_pages({uw, us, ub}, n_experts * n);
    __syncthreads();
    wait_only();
    x_vectors<TILE_X, 2> vectors(x, thread, blockDim.x);
    share_choice(chosen, from, choice_bias, words);
    auto ready = [&] {
        vectors.finish(TILE_X, x, thread, blockDim.x,
                       [&](uint number, uint4 v) { place_tile_x(staged, number, v); });
        __syncthreads();
    };
    if (warp == warps) return ready();
    multiply_tiles<1, EARLY_PIECES, 0>(
        blockIdx.x + warp * gridDim.x, gridDim.x * warps, ZM_TOP_K * (n / 8), staged,
        ((tile_ring *)(staged + TILE_X))[warp],
        [&](uint task) {
            uint row = chosen.get(task % ZM_TOP_K) * n + task / ZM_TOP_K * 8;
            return tile_rows{{gw, gs, gb}, {uw, us, ub}, row, row};
        },
        ready,
        [&] {
            if (warp == 0) begin_next();
        },
        [&](uint task, const float (&sums)[4]) {
            uint row = task / ZM_TOP_K * 8 + lane / 4;
            if (lane % 4 == 0) act[task % ZM_TOP_K * n + row] = narrow(swiglu(rounded(sums[0]), rounded(sums[2])));
        });
}
#endif

/* h_next = h + sum over the chosen experts, in order, of weight * W act: each product and sum rounded. A warp has an
 * expert; the first n_whole blocks have 16 rows, others 8, twice in their tiles. */
enum : uint {
    OUT_VECTORS = (TILE_X + WARP - 1) / WARP, /* of x, a lane */
    OUT_LOADS = OUT_VECTORS < 8 ? OUT_VECTORS : 8,
    OUT_AHEAD_PAIRS = ZM_TOP_K > 8 ? 2 : 4, /* as registers have room for, beside the next two kernels' */
};

ZM_KERNEL(WARP *ZM_TOP_K, 2)
zm_experts_out(const uint4 *act, const uint *words, const uint2 *dw, const ushort *ds, const ushort *db,
               const ushort *h, ushort *h_next, uint gating, int normalize, float epsilon, float scaling,
               uint n, uint n_whole ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    begin_next(); /* those blocks find room when the kernel before ends, not while this one is at work */
    __shared__ float products[ZM_TOP_K][TILE_ROWS], shares[WARP];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    uint block_row = first_row(n_whole, TILE_ROWS), rows = blockIdx.x < n_whole ? TILE_ROWS : TILE_ROWS / 2;
    lane_choice chosen = hear_choice(words, lane < ZM_TOP_K ? lane : 0);
    uint row = __shfl_sync(~0u, chosen.expert, warp) * n + block_row;
    uint4 *x = staged + warp * TILE_X;
    ushort before;
    multiply_tiles<1, TILE_SLOTS, OUT_AHEAD_PAIRS>(
        0, 1, 1, x, ((tile_ring *)(staged + ZM_TOP_K * TILE_X))[warp],
        [&](uint) {
            return tile_rows{{dw, ds, db}, {dw, ds, db}, row, row + rows - 8};
        },
        [&] {
            if (warp == 0) shares[lane] = expert_weights{gating, normalize, epsilon, scaling}.of(chosen.score, lane);
            wait_only();
            before = h ? read_fresh(h + (block_row + thread % rows)) : NOTHING;
            const uint4 *own = act + warp * TILE_X;
            x_vectors<TILE_X, OUT_LOADS> vectors(own, lane, WARP);
            vectors.finish(TILE_X, own, lane, WARP, [&](uint number, uint4 v) { place_tile_x(x, number, v); });
            __syncwarp();
        },
        [] {},
        [&](uint, const float (&sums)[4]) {
            if (lane % 4 == 0) {
                products[warp][lane / 4] = rounded(sums[0]);
                products[warp][lane / 4 + 8] = rounded(sums[2]);
            }
        });
    __syncthreads();
    if (thread >= rows) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ZM_TOP_K; i++) sum = rounded(sum + rounded(products[i][thread] * shares[i]));
    h_next[block_row + thread] = narrow(widen(before) + sum);
}
#endif
