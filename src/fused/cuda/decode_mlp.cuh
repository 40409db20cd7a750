/* Gated MLPs, dense and of experts. */

/* act = silu(gate x) * up x of one row of each. */
ZM_FUNCTION void store_gated(ushort *act, float gate, float up, uint lane) {
    float both = warp_sum2(gate, up, lane); /* gate's in lanes 0 to 15, up's in the others */
    float other = __shfl_xor_sync(~0u, both, 16);
    if (lane == 0) *act = narrow(swiglu(rounded(both), rounded(other)));
}

/* act = silu(gate x) * up x, x = norm(h). A warp a row of each. */
ZM_KERNEL(THREADS, 2) zm_mlp_in(const uint4 *h, const uint4 *norm, const uint2 *gw, const ushort *gs, const ushort *gb,
                                const uint2 *uw, const ushort *us, const ushort *ub, ushort *act, float eps, uint n) {
    uint thread = threadIdx.x, lane = thread % WARP, place = blockIdx.x * WARPS + thread / WARP;
    norm_row nr;
    load_norm(nr, norm, thread);
    matrix gate = {gw, gs, gb}, up = {uw, us, ub};
    uint row = place < n ? place : 0;
    chunk gate_weights, up_weights;
    load_chunk(gate_weights, gate, row, 0, ZM_HIDDEN, lane);
    load_chunk(up_weights, up, row, 0, ZM_HIDDEN, lane);
    wait_for_last();
    stage_norm(staged, h, nr, eps, nullptr, thread, THREADS);
    float g = multiply_row(gate_weights, gate, row, staged, ZM_HIDDEN, lane);
    float u = multiply_row(up_weights, up, row, staged, ZM_HIDDEN, lane);
    if (place < n) store_gated(act + row, g, u, lane);
}

/* The same for the chosen experts: act (top_k, n). x is normed already. */
ZM_KERNEL(THREADS, 2) zm_experts_in(const uint4 *x, const uint *experts, const uint2 *gw, const ushort *gs,
                                    const ushort *gb, const uint2 *uw, const ushort *us, const ushort *ub, ushort *act,
                                    uint n) {
    enum { VECTORS = (x_vectors(ZM_HIDDEN) + THREADS - 1) / THREADS }; /* of x that a thread stages */
    uint thread = threadIdx.x, lane = thread % WARP, place = blockIdx.x * WARPS + thread / WARP;
    matrix gate = {gw, gs, gb}, up = {uw, us, ub};
    bool in = place < ZM_TOP_K * n;
    uint slot = in ? place / n : 0, row = in ? place - slot * n : 0;
    wait_for_last();
    uint expert = *(volatile const uint *)(experts + slot);
    uint4 own[VECTORS];
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        uint v = i * THREADS + thread;
        own[i] = make_uint4(0, 0, 0, 0);
        if (v < ROW_VECTORS) own[i] = read_fresh(x + v);
    }
    row += expert * n;
    chunk gate_weights, up_weights;
    load_chunk(gate_weights, gate, row, 0, ZM_HIDDEN, lane);
    load_chunk(up_weights, up, row, 0, ZM_HIDDEN, lane);
#pragma unroll
    for (int i = 0; i < VECTORS; i++) {
        uint v = i * THREADS + thread;
        if (v < x_vectors(ZM_HIDDEN)) staged[x_place(v)] = x_order(own[i]);
    }
    __syncthreads();
    float g = multiply_row(gate_weights, gate, row, staged, ZM_HIDDEN, lane);
    float u = multiply_row(up_weights, up, row, staged, ZM_HIDDEN, lane);
    if (in) store_gated(act + place, g, u, lane);
}

/* h_next = h + sum over the chosen experts, in order, of weight * W act: each product and sum rounded. A block has
 * OUT_ROWS rows: a warp OUT_WARP_ROWS of them for one expert. */
enum { OUT_WARP_ROWS = 4, OUT_GROUPS = WARPS / ZM_TOP_K, OUT_ROWS = OUT_WARP_ROWS * OUT_GROUPS };

ZM_KERNEL(WARP * ZM_TOP_K * OUT_GROUPS) zm_experts_out(const uint4 *act, const uint *experts, const ushort *weights,
                                                       const uint2 *dw, const ushort *ds, const ushort *db,
                                                       const ushort *h, ushort *h_next, uint k, uint n) {
    __shared__ float products[ZM_TOP_K][OUT_ROWS];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, slot = warp % ZM_TOP_K;
    uint first = warp / ZM_TOP_K * OUT_WARP_ROWS, block_row = blockIdx.x * OUT_ROWS;
    matrix m = {dw, ds, db};
    /* The choice is older than the kernel before this one. */
    uint base = *(volatile const uint *)(experts + slot) * n, rows[OUT_WARP_ROWS];
    chunk chunks[OUT_WARP_ROWS];
#pragma unroll
    for (int i = 0; i < OUT_WARP_ROWS; i++) {
        uint row = block_row + first + i;
        rows[i] = base + (row < n ? row : 0);
        load_chunk(chunks[i], m, rows[i], 0, k, lane);
    }
    uint own = block_row + thread;
    bool writes = thread < OUT_ROWS && own < n;
    float before = 0.0f, share[ZM_TOP_K];
#pragma unroll
    for (int i = 0; i < ZM_TOP_K; i++) share[i] = writes ? widen(*(volatile const ushort *)(weights + i)) : 0.0f;
    wait_for_last();
    uint stride = x_vectors(k);
    if (writes) before = widen(*(volatile const ushort *)(h + own));
#pragma unroll 1
    for (uint i = 0; i < ZM_TOP_K; i++) stage(staged + i * stride, act + i * (k / 8), k, thread, blockDim.x);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < OUT_WARP_ROWS; i++) {
        float product = warp_sum(multiply_row(chunks[i], m, rows[i], staged + slot * stride, k, lane));
        if (lane == 0) products[slot][first + i] = rounded(product);
    }
    __syncthreads();
    if (!writes) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ZM_TOP_K; i++) sum = rounded(sum + rounded(products[i][thread] * share[i]));
    h_next[own] = narrow(before + sum);
}
