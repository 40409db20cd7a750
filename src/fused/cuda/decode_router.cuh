#if ZM_K == ZM_HIDDEN && !ZM_MXFP4
/* The next kernel's blocks would begin while this one reads h, and keep it waiting; with few experts that changes
 * nothing. */
enum { ROUTER_STEPS = (ZM_HIDDEN + STEP - 1) / STEP, BEGINS_AT_ONCE = ZM_TOP_K >= EXPERT_TILE_LEAST_TOP_K };

/* normed = norm(h), or with norm NULL h itself; scores: the sigmoid (gating SIGMOID_BIAS) or else the logits of
 * W normed + bias (NULL: none), for decode_choice.cuh, whose words become 0. A warp has an expert. */
ZM_KERNEL(WARP *ROUTER_WARPS) zm_router(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                                    const ushort *biases, const ushort *bias, uint4 *normed, float *scores,
                                    uint *words, float eps, uint n_experts, uint gating ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    if (BEGINS_AT_ONCE) begin_next();
    uint thread = threadIdx.x, lane = thread % WARP;
    uint expert = blockIdx.x * ROUTER_WARPS + thread / WARP;
    norm_row nr;
    if (norm) load_norm(nr, norm, thread, blockDim.x);
    lane_weights row[ROUTER_STEPS]; /* made before x is there */
    float own_bias = bias && expert < n_experts ? widen(__ldg(bias + expert)) : 0.0f;
    if (expert < n_experts) {
#pragma unroll
        for (int t = 0; t < ROUTER_STEPS; t++) {
            uint unit = t * WARP + lane, group = unit * LANE_ELEMENTS / ZM_GROUP;
            bool in = ZM_HIDDEN % STEP == 0 || unit < ZM_HIDDEN / LANE_ELEMENTS;
            uint at = expert * (ZM_HIDDEN / ZM_GROUP) + group;
            const char *codes = (const char *)weight + size_t(expert) * (ZM_HIDDEN * ZM_BITS / 8);
            lane_word w = {};
            uint both = 0;
            if (in) w = read_lane(codes, unit), both = scale_and_bias(__ldg(scales + at), __ldg(biases + at));
            row[t] = weights_of_lane(w, both);
        }
    }
#pragma unroll
    for (lane_weights &w : row)
#pragma unroll
        for (uint &v : w.v) asm volatile("" : "+r"(v)); /* now, not where it is multiplied */
    wait_only();
    if (!BEGINS_AT_ONCE) begin_next();
    if (blockIdx.x == 0 && thread < ZM_TOP_K) words[thread] = 0;
    if (norm) {
        stage_norm(staged, h, nr, eps, blockIdx.x ? nullptr : normed, thread, blockDim.x);
    } else {
        stage<ZM_HIDDEN>(staged, h, thread, blockDim.x);
        __syncthreads();
    }
    stamp(STAMP_READY);
    if (expert >= n_experts) return;
    accumulator sums[ACCUMULATORS] = {};
    uint x = shared_address(staged + lane);
#pragma unroll
    for (int t = 0; t < ROUTER_STEPS; t++) accumulate(sums, row[t], read_x(x + t * X_VECTORS * WARP_BYTES));
    float logit = rounded(warp_sum(lane_sum(sums)));
    if (bias) logit = rounded(logit + own_bias);
    if (lane == 0) scores[expert] = gating == SIGMOID_BIAS ? sigmoid(logit) : logit;
}
#endif
