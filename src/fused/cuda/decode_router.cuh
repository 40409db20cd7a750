#if ZM_K == ZM_HIDDEN
/* Which experts a token goes to: logits, sigmoid, choice and weights, in a cluster of blocks that share the experts. */
enum { ROUTER_BLOCKS = 8, ROUTER_WARPS = 8, MOST_EXPERTS = 256 };

/* By one warp: lane i < top_k gets the expert that is i-th of the chosen, in ascending order; of equals the last ones. */
template <int LANE_EXPERTS>
ZM_FUNCTION uint choose(const float *scores, const float *biases, uint n_experts, uint top_k, uint lane) {
    uint keys[LANE_EXPERTS], mine = 0;
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        uint expert = i * WARP + lane;
        keys[i] = 0;
        if (expert < n_experts) keys[i] = choice_key(scores[expert] + biases[expert]);
    }
    for (uint rank = top_k; rank-- > 0;) {
        uint best = 0, index = 0;
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS; i++)
            if (keys[i] >= best) best = keys[i], index = i * WARP + lane;
        uint largest = warp_max(best), expert = warp_max(best == largest ? index : 0);
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS; i++)
            if (i * WARP + lane == expert) keys[i] = 0;
        if (lane == rank) mine = expert;
    }
    return mine;
}

/* normed = norm(h); experts, weights (top_k) of sigmoid(W normed), chosen by it + bias (NULL: none); weights divided
 * by their sum + epsilon if normalize. */
extern "C" __global__ void __cluster_dims__(ROUTER_BLOCKS) __launch_bounds__(ROUTER_WARPS *WARP)
    zm_router(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales, const ushort *biases,
              const float *expert_bias, uint4 *normed, uint *experts, ushort *weights, float eps, uint n_experts, uint top_k,
              int normalize, float epsilon, float scaling, uint n_slots, uint n_ahead) {
    __shared__ float scores[MOST_EXPERTS], biases_of_choice[MOST_EXPERTS];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    begin_cluster();
    biases_of_choice[thread] = thread < n_experts && expert_bias ? __ldg(expert_bias + thread) : 0.0f;
    norm_row nr;
    load_norm(nr, norm, thread);
    lane_matrix<ZM_HIDDEN> m({weight, scales, biases}, lane);
    multiply<ZM_HIDDEN, 1>(
        warp * ROUTER_BLOCKS + blockIdx.x, ROUTER_BLOCKS * ROUTER_WARPS, n_experts, staged,
        staged + layout<ZM_HIDDEN>::X, n_slots, n_ahead,
        [&](uint expert, const lane_matrix<ZM_HIDDEN> *(&matrices)[1], uint (&rows)[1]) {
            matrices[0] = &m;
            rows[0] = expert;
        },
        [&] {
            wait_for_last();
            stage_norm(staged, h, nr, eps, blockIdx.x ? nullptr : normed, thread, ROUTER_WARPS * WARP);
            wait_for_cluster(); /* the first block has begun */
        },
        [&](uint expert, const float *parts) {
            float logit = rounded(warp_sum(parts[0]));
            if (lane == 0) store_to_block(0, scores + expert, __float_as_uint(sigmoid(logit)));
        });
    arrive_at_cluster();
    if (blockIdx.x) return;
    wait_for_cluster();
    if (warp) return;
    uint mine = n_experts <= WARP ? choose<1>(scores, biases_of_choice, n_experts, top_k, lane)
                                  : choose<MOST_EXPERTS / WARP>(scores, biases_of_choice, n_experts, top_k, lane);
    float own = lane < top_k ? scores[mine] : 0.0f, sum = 0.0f;
    for (uint i = 0; i < top_k; i++) sum = rounded(sum + __shfl_sync(~0u, own, i));
    if (normalize) own = rounded(own / rounded(sum + rounded(epsilon)));
    if (scaling != 1.0f) own = rounded(own * rounded(scaling));
    if (lane < top_k) {
        experts[lane] = mine;
        weights[lane] = narrow(own);
    }
}
#endif
