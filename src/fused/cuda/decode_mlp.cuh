/* Gated MLPs, dense and of experts. */

#if ZM_K == ZM_HIDDEN
enum { SWIGLU, GEGLU, SWIGLU_OAI }; /* zm_activation of fused/kinds.h, in its order; GEGLU is not among those served */

/* Products of gate and up that lanes keep until all can do their activations at once. Biases may be NULL. */
struct gated {
    const ushort *gate_bias, *up_bias;
    uint activation;
    float gate, up;
    uint row; /* of the matrices */
    ushort *act;
    uint count;

    ZM_FUNCTION void flush(uint lane) {
        if (lane < count) {
            gate = biased(gate, gate_bias, row);
            up = biased(up, up_bias, row);
            *act = narrow(activation == SWIGLU_OAI ? clipped_swiglu(gate, up) : swiglu(gate, up));
        }
        count = 0;
    }
    ZM_FUNCTION void keep(ushort *to, uint of_row, const float *parts, uint lane) {
        float own = warp_sum2(parts[0], parts[1], lane); /* gate's in lanes 0 to 15, up's in the others */
        float other = __shfl_xor_sync(~0u, own, 16);
        if (lane == count) {
            gate = lane < 16 ? own : other;
            up = lane < 16 ? other : own;
            act = to;
            row = of_row;
        }
        if (++count == WARP) flush(lane);
    }
};

/* act = silu(gate x) * up x, or gpt_oss's, x = norm(h). A task is a row of each. */
ZM_KERNEL(THREADS, 2) zm_mlp_in(const uint4 *h, const uint4 *norm, const uint2 *gw, const ushort *gs, const ushort *gb,
                                const uint2 *uw, const ushort *us, const ushort *ub, const ushort *gate_bias,
                                const ushort *up_bias, ushort *act, float eps, uint activation, uint n, uint n_slots,
                                uint n_left ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    norm_row nr;
    load_norm(nr, norm, thread, blockDim.x);
    lane_matrix<ZM_HIDDEN> gate({gw, gs, gb}, lane), up({uw, us, ub}, lane);
    gated results = {gate_bias, up_bias, activation};
    multiply<ZM_HIDDEN, 2, false, HIDDEN_AHEAD, ALL_EARLY>(
        blockIdx.x + thread / WARP * gridDim.x, gridDim.x * warps, n, staged, staged + layout<ZM_HIDDEN>::X, n_slots,
        n_left,
        [&](uint row, const lane_matrix<ZM_HIDDEN> *(&matrices)[2], uint (&rows)[2]) {
            matrices[0] = &gate, matrices[1] = &up;
            rows[0] = rows[1] = row;
        },
        [&] {
            wait_only();
            if (!n_left) begin_next();
            stage_norm(staged, h, nr, eps, nullptr, thread, blockDim.x);
        },
        [&](uint row, const float *parts) { results.keep(act + row, row, parts, lane); });
    results.flush(lane);
}

#if ZM_TOP_K < EXPERT_TILE_LEAST_TOP_K
/* Nothing of the experts' could be copied before the wait. Of a warp's pieces only the first comes before x, which
 * would wait for all. */
enum : uint { EXPERTS_EARLY = 1 };

/* The same for the chosen experts: act (top_k, n). x is normed already. Blocks, a multiple of top_k, take turns with
 * the experts; one has neighbouring rows, whose ends share lines of memory. */
ZM_KERNEL(THREADS, 2)
zm_experts_in(const uint4 *x, const float *scores, const float *expert_bias, uint *words, const uint2 *gw,
              const ushort *gs, const ushort *gb, const uint2 *uw, const ushort *us, const ushort *ub,
              const ushort *gate_bias, const ushort *up_bias, ushort *act, uint n_experts, uint gating,
              uint activation, uint n, uint n_slots, uint n_left ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ chosen_experts chosen;
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    router_scores from = {scores, expert_bias, n_experts, gating};
    float choice_bias = from.bias(lane_expert(from.is_low(), lane));
    wait_only();
    if (!n_left) begin_next();
    x_vectors<ZM_HIDDEN / 8, 1> vectors(x, thread, blockDim.x);
    share_choice(chosen, from, choice_bias, words);
    __syncthreads();
    lane_matrix<ZM_HIDDEN> gate({gw, gs, gb}, lane), up({uw, us, ub}, lane);
    gated results = {gate_bias, up_bias, activation};
    /* The block's rows of gate and up, which are neighbours. */
    uint slot = blockIdx.x % ZM_TOP_K, blocks = gridDim.x / ZM_TOP_K, n_rows = (n + blocks - 1) / blocks;
    uint own_first = blockIdx.x / ZM_TOP_K * n_rows, expert_row = chosen.experts[slot] * n;
    ushort *expert_act = act + slot * n;
    multiply<ZM_HIDDEN, 2, false, ZM_MXFP4 ? EXPERTS_AHEAD_MXFP4 : EXPERTS_AHEAD, EXPERTS_EARLY>(
        own_first + thread / WARP, warps, min(own_first + n_rows, n), staged, staged + layout<ZM_HIDDEN>::X, n_slots,
        n_left,
        [&](uint row, const lane_matrix<ZM_HIDDEN> *(&matrices)[2], uint (&rows)[2]) {
            matrices[0] = &gate, matrices[1] = &up;
            rows[0] = rows[1] = expert_row + row;
        },
        [&] {
            vectors.finish(layout<ZM_HIDDEN>::ALL_VECTORS, x, thread, blockDim.x,
                           [&](uint number, uint4 v) { place_x(staged, number, v); });
            __syncthreads();
        },
        [&](uint row, const float *parts) {
            results.keep(expert_act + row, expert_row + row, parts, lane);
        });
    results.flush(lane);
}
#endif
#endif

#if ZM_TOP_K < EXPERT_TILE_LEAST_TOP_K
/* h_next = h (NULL: nothing) + sum over the chosen experts, in order, of weight * (W act + bias): each product and sum
 * rounded. The first n_whole blocks have block_rows rows, others half as many; of them a warp takes two at a time, for
 * one expert, up to OUT_MOST_ROUNDS times. */
enum {
    OUT_GROUPS = WARPS / ZM_TOP_K,
    OUT_THREADS = OUT_GROUPS * WARP, /* of an expert */
    OUT_VECTORS = (layout<ZM_K>::ALL_VECTORS + OUT_THREADS - 1) / OUT_THREADS, /* of x, a thread */
    OUT_LOADS = OUT_VECTORS < 4 ? OUT_VECTORS : 4,
};

ZM_KERNEL(WARP * ZM_TOP_K * OUT_GROUPS, 2)
zm_experts_out(const uint4 *act, const uint *words, const uint2 *dw, const ushort *ds, const ushort *db,
               const ushort *bias, const ushort *h, ushort *h_next, uint gating, int normalize, float epsilon,
               float scaling, uint n, uint block_rows, uint n_whole, uint n_slots, uint n_left ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    enum { X = layout<ZM_K>::X };
    __shared__ float products[ZM_TOP_K][2 * OUT_GROUPS * OUT_MOST_ROUNDS], shares[WARP];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, slot = warp % ZM_TOP_K;
    uint block_row = first_row(n_whole, block_rows);
    if (blockIdx.x >= n_whole) block_rows /= 2;
    lane_matrix<ZM_K> m({dw, ds, db}, lane, ::slot<ZM_K, 2, true>::LANE_ROWS);
    lane_choice chosen = hear_choice(words, lane < ZM_TOP_K ? lane : 0);
    uint base = __shfl_sync(~0u, chosen.expert, slot) * n + block_row;
    uint own = block_row + thread;
    bool writes = thread < block_rows && own < n;
    ushort before;
    uint n_tasks = min(n - block_row, block_rows) / 2;
    multiply<ZM_K, 2, true, ZM_MXFP4 || ZM_BITS == 8 ? OUT_AHEAD_LESS : OUT_AHEAD, ALL_EARLY>(
        warp / ZM_TOP_K, OUT_GROUPS, n_tasks, staged + slot * X, staged + ZM_TOP_K * X, n_slots, n_left,
        [&](uint task, const lane_matrix<ZM_K> *(&matrices)[2], uint (&rows)[2]) {
            matrices[0] = matrices[1] = &m;
            rows[0] = base + task * 2, rows[1] = base + task * 2 + 1;
        },
        [&] {
            if (warp == 0) shares[lane] = expert_weights{gating, normalize, epsilon, scaling}.of(chosen.score, lane);
            wait_only();
            if (!n_left) begin_next();
            stage<ZM_K, OUT_LOADS>(staged + slot * X, act + slot * (ZM_K / 8), warp / ZM_TOP_K * WARP + lane,
                                   OUT_THREADS);
            __syncthreads();
            before = h ? read_fresh(h + (writes ? own : 0)) : NOTHING;
        },
        [&](uint task, const float *parts) {
            float both = warp_sum2(parts[0], parts[1], lane);
            uint row = task * 2 + lane / 16;
            if (lane % 16 == 0) products[slot][row] = biased(both, bias, base + row);
        });
    __syncthreads();
    if (!writes) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ZM_TOP_K; i++) sum = rounded(sum + rounded(products[i][thread] * shares[i]));
    h_next[own] = narrow(widen(before) + sum);
}
#endif
