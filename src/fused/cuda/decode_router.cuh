#if ZM_K == ZM_HIDDEN
/* Which experts a token goes to: logits, scores, choice and weights, in a cluster of blocks that share the experts. */
enum { ROUTER_BLOCKS = 8, MOST_EXPERTS = 256, SOFTMAX_VECTOR = 8 };
/* zm_gating of fused/kinds.h, in its order. */
enum { SIGMOID_BIAS, SOFTMAX_THEN_TOP_K, TOP_K_THEN_SOFTMAX_LOW, TOP_K_THEN_SOFTMAX_HIGH };

/* MLX's precise softmax of up to 256 numbers by one warp: a lane has 8 neighbours, -inf where there are none. */
ZM_FUNCTION void softmax(float (&values)[SOFTMAX_VECTOR]) {
    float largest = -3.402823466e+38f, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < SOFTMAX_VECTOR; i++) largest = fmaxf(largest, values[i]);
#pragma unroll
    for (int i = 0; i < SOFTMAX_VECTOR; i++) sum += power_of_e(values[i] - largest);
    float before = largest;
    largest = warp_most(largest);
    sum = warp_sum(sum * power_of_e(before - largest));
    float inverse = 1.0f / sum;
#pragma unroll
    for (int i = 0; i < SOFTMAX_VECTOR; i++) values[i] = rounded(power_of_e(values[i] - largest) * inverse);
}

/* The same of numbers in shared memory, in place. */
ZM_FUNCTION void softmax_of(float *scores, uint n, uint lane) {
    float values[SOFTMAX_VECTOR];
#pragma unroll
    for (int i = 0; i < SOFTMAX_VECTOR; i++) {
        uint place = lane * SOFTMAX_VECTOR + i;
        values[i] = place < n ? scores[place] : __uint_as_float(0xff800000u);
    }
    softmax(values);
#pragma unroll
    for (int i = 0; i < SOFTMAX_VECTOR; i++)
        if (lane * SOFTMAX_VECTOR + i < n) scores[lane * SOFTMAX_VECTOR + i] = values[i];
}

/* How many of n keys (a multiple of 4) are chosen before the thread's own; of equals the one with the higher index is,
 * or with `low` the lower. */
ZM_FUNCTION uint rank_of(const uint *keys, uint n, uint thread, bool low) {
    uint own = keys[thread], rank = 0;
    for (uint i = 0; i < n; i += 4) {
        uint4 four = *(const uint4 *)(keys + i);
        const uint others[4] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int j = 0; j < 4; j++) rank += others[j] > own - uint(low ? i + j < thread : i + j > thread);
    }
    return rank;
}

/* normed = norm(h), or with norm NULL h itself; experts, weights (top_k): by the sigmoid of W normed + bias, chosen by
 * it + expert_bias, or by its softmax, or the softmax of the largest; the weights divided by their sum + epsilon if
 * normalize. Biases may be NULL. */
extern "C" __global__ void __cluster_dims__(ROUTER_BLOCKS) __launch_bounds__(THREADS)
    zm_router(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales, const ushort *biases,
              const ushort *bias, const float *expert_bias, uint4 *normed, uint *experts, ushort *weights, float eps,
              uint n_experts, uint top_k, uint gating, int normalize, float epsilon, float scaling, uint n_slots,
              uint n_ahead) {
    __shared__ float scores[MOST_EXPERTS], chosen_scores[WARP];
    __shared__ uint chosen[WARP];
    __shared__ alignas(16) uint keys[MOST_EXPERTS];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, warps = blockDim.x / WARP;
    begin_cluster();
    float choice_bias = thread < n_experts && expert_bias ? __ldg(expert_bias + thread) : 0.0f;
    norm_row nr;
    if (norm) load_norm(nr, norm, thread, blockDim.x);
    lane_matrix<ZM_HIDDEN> m({weight, scales, biases}, lane);
    multiply<ZM_HIDDEN, 1, ALL_EARLY>(
        warp * ROUTER_BLOCKS + blockIdx.x, ROUTER_BLOCKS * warps, n_experts, staged,
        staged + layout<ZM_HIDDEN>::X, n_slots, n_ahead, 0,
        [&](uint expert, const lane_matrix<ZM_HIDDEN> *(&matrices)[1], uint (&rows)[1]) {
            matrices[0] = &m;
            rows[0] = expert;
        },
        [&] {
            wait_for_last();
            if (norm) {
                stage_norm(staged, h, nr, eps, blockIdx.x ? nullptr : normed, thread, blockDim.x);
            } else {
                stage<ZM_HIDDEN>(staged, h, thread, blockDim.x);
                __syncthreads();
            }
            wait_for_cluster(); /* the first block has begun */
        },
        [&](uint expert, const float *parts) {
            float logit = biased(warp_sum(parts[0]), bias, expert);
            if (lane == 0)
                store_to_block(0, scores + expert, __float_as_uint(gating == SIGMOID_BIAS ? sigmoid(logit) : logit));
        });
    arrive_at_cluster();
    if (blockIdx.x) return;
    wait_for_cluster();
    if (gating == SOFTMAX_THEN_TOP_K) {
        if (warp == 0) softmax_of(scores, n_experts, lane);
        __syncthreads();
    }
    if (thread < MOST_EXPERTS) keys[thread] = thread < n_experts ? choice_key(scores[thread] + choice_bias) : 0;
    __syncthreads();
    bool low = gating == TOP_K_THEN_SOFTMAX_LOW;
    uint rank = thread < n_experts ? rank_of(keys, (n_experts + 3) / 4 * 4, thread, low) : top_k;
    if (rank < top_k) {
        uint place = low ? rank : top_k - 1 - rank;
        chosen[place] = thread;
        chosen_scores[place] = scores[thread];
    }
    __syncthreads();
    if (warp) return;
    if (gating == TOP_K_THEN_SOFTMAX_LOW || gating == TOP_K_THEN_SOFTMAX_HIGH) {
        softmax_of(chosen_scores, top_k, lane);
        __syncwarp();
    }
    float own = lane < top_k ? chosen_scores[lane] : 0.0f, sum = 0.0f;
    for (uint i = 0; i < top_k; i++) sum = rounded(sum + __shfl_sync(~0u, own, i));
    if (normalize) own = divided(own, rounded(sum + rounded(epsilon)));
    if (scaling != 1.0f) own = rounded(own * rounded(scaling));
    if (lane < top_k) {
        experts[lane] = chosen[lane];
        weights[lane] = narrow(own);
    }
}
#endif
