/* Which experts a token goes to: logits, sigmoid, choice and weights, in one block. A warp has every 32nd expert. */
enum { ROUTER_THREADS = 1024, MOST_EXPERTS = 256 };

/* Sorts as MLX does: ascending, equal values by index. A larger key is chosen earlier. */
ZM_FUNCTION unsigned long long choice_key(float value, uint index) {
    uint bits = __float_as_uint(value + 0.0f); /* -0 and 0 are equal */
    bits = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
    if (value != value) bits = ~0u; /* NaN comes last */
    return (unsigned long long)bits << 32 | index;
}

/* normed = norm(h); experts, weights (top_k) of sigmoid(W normed), chosen by it + bias (NULL: none); weights divided
 * by their sum + epsilon if normalize. */
ZM_KERNEL(ROUTER_THREADS) zm_router(const uint4 *h, const uint4 *norm, const uint2 *weight, const ushort *scales,
                                    const ushort *biases, const float *expert_bias, uint4 *normed, uint *experts,
                                    ushort *weights, float eps, uint n_experts, uint top_k, int normalize, float epsilon,
                                    float scaling) {
    __shared__ float scores[MOST_EXPERTS];
    __shared__ unsigned long long keys[MOST_EXPERTS];
    __shared__ uint chosen[WARP];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    norm_row nr;
    load_norm(nr, norm, thread);
    matrix m = {weight, scales, biases};
    chunk first;
    load_chunk(first, m, warp < n_experts ? warp : 0, 0, ZM_HIDDEN, lane);
    float bias = thread < n_experts && expert_bias ? __ldg(expert_bias + thread) : 0.0f;
    wait_for_last();
    stage_norm(staged, h, nr, eps, normed, thread, ROUTER_THREADS);
    for (uint expert = warp; expert < n_experts; expert += ROUTER_THREADS / WARP) {
        if (expert != warp) load_chunk(first, m, expert, 0, ZM_HIDDEN, lane);
        float logit = rounded(warp_sum(multiply_row(first, m, expert, staged, ZM_HIDDEN, lane)));
        if (lane == 0) scores[expert] = sigmoid(logit);
    }
    __syncthreads();
    if (thread < n_experts) keys[thread] = choice_key(scores[thread] + bias, thread);
    __syncthreads();
    if (thread < n_experts) {
        uint larger = 0;
        for (uint i = 0; i < n_experts; i++) larger += keys[i] > keys[thread];
        if (larger < top_k) chosen[top_k - 1 - larger] = thread;
    }
    __syncthreads();
    if (warp) return;
    uint mine = lane < top_k ? chosen[lane] : 0;
    float own = lane < top_k ? scores[mine] : 0.0f, sum = 0.0f;
    for (uint i = 0; i < top_k; i++) sum = rounded(sum + __shfl_sync(~0u, own, i));
    if (normalize) own = rounded(own / rounded(sum + rounded(epsilon)));
    if (scaling != 1.0f) own = rounded(own * rounded(scaling));
    if (lane < top_k) {
        experts[lane] = mine;
        weights[lane] = narrow(own);
    }
}
