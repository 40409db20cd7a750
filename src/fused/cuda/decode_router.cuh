#if ZM_K == ZM_HIDDEN
/* normed = norm(h), or with norm NULL h itself; scores: the sigmoid (gating SIGMOID_BIAS) or else the logits of
 * W normed + bias (NULL: none), for decode_choice.cuh, whose words become 0. A task is an expert. */
ZM_KERNEL(THREADS, 2) zm_router(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                                const ushort *biases, const ushort *bias, uint4 *normed, float *scores, uint *words,
                                float eps, uint n_experts, uint gating, uint n_slots) {
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    norm_row nr;
    if (norm) load_norm(nr, norm, thread, blockDim.x);
    lane_matrix<ZM_HIDDEN> m({weight, scales, biases}, lane);
    multiply<ZM_HIDDEN, 1, false, HIDDEN_AHEAD, ALL_EARLY>(
        blockIdx.x * warps + thread / WARP, gridDim.x * warps, n_experts, staged, staged + layout<ZM_HIDDEN>::X,
        n_slots, 0,
        [&](uint expert, const lane_matrix<ZM_HIDDEN> *(&matrices)[1], uint (&rows)[1]) {
            matrices[0] = &m;
            rows[0] = expert;
        },
        [&] {
            wait_for_last();
            if (blockIdx.x == 0 && thread < ZM_TOP_K) words[thread] = 0;
            if (norm) {
                stage_norm(staged, h, nr, eps, blockIdx.x ? nullptr : normed, thread, blockDim.x);
            } else {
                stage<ZM_HIDDEN>(staged, h, thread, blockDim.x);
                __syncthreads();
            }
        },
        [&](uint expert, const float *parts) {
            float logit = biased(warp_sum(parts[0]), bias, expert);
            if (lane == 0) scores[expert] = gating == SIGMOID_BIAS ? sigmoid(logit) : logit;
        });
}
#endif
