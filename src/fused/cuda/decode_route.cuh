/* Which experts each of many tokens goes to, and their weights: decode_choice.cuh's choice, by a warp for each. The
 * text before everything defines ZM_ROUTE where this kernel is wanted. */
#if ZM_ROUTE
/* A token's scores, of its logits. */
struct token_scores {
    const ushort *logits;
    const float *expert_bias;
    uint n, gating;

    ZM_FUNCTION bool is_low() const { return gating == TOP_K_THEN_SOFTMAX_LOW; }
    ZM_FUNCTION float bias(uint expert) const { return expert_bias && expert < n ? __ldg(expert_bias + expert) : 0.0f; }
    ZM_FUNCTION float logit(uint expert) const { return widen(__ldg(logits + expert)); }
    ZM_FUNCTION float score(uint expert) const {
        if (expert >= n) return 0.0f;
        float own = logit(expert);
        if (is_low() && own != own) return __uint_as_float(0xff800000u); /* MLX sorts negated ones: NaN are last */
        return gating == SIGMOID_BIAS ? sigmoid(own) : own;
    }
    template <int COUNT> ZM_FUNCTION void read(float (&values)[COUNT], uint lane) const {
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            uint expert = lane * COUNT + i;
            values[i] = expert < n ? score(expert) : __uint_as_float(0xff800000u);
        }
    }
};

/* A warp's choice, by slots. */
struct warp_choices {
    uint experts[ZM_TOP_K];
    float scores[ZM_TOP_K];

    ZM_FUNCTION void set(uint, uint) {} /* all are kept at once, with their scores */
    ZM_FUNCTION void keep(const lane_choice &own) {
        if (own.slot < ZM_TOP_K) experts[own.slot] = own.expert, scores[own.slot] = own.score;
        __syncwarp();
    }
};

/* Rows of n_experts logits; bias: as many as experts, if has_bias. Of chosen and weights: rows of ZM_TOP_K. */
ZM_KERNEL(AROUND_THREADS)
zm_route(const ushort *logits, const float *bias, uint *chosen, ushort *weights, uint n_tokens, uint n_experts,
         uint gating, uint has_bias, uint normalize, float epsilon, float scaling) {
    __shared__ warp_choices choices[AROUND_THREADS / WARP];
    uint lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, token = blockIdx.x * (AROUND_THREADS / WARP) + warp;
    if (token >= n_tokens) return;
    token_scores from = {logits + size_t(token) * n_experts, has_bias ? bias : nullptr, n_experts, gating};
    warp_choices &own = choices[warp];
    lane_choice made;
    choose(made, from, from.bias(lane_expert(from.is_low(), lane)), own, lane);
    own.keep(made);
    float score = lane < ZM_TOP_K ? own.scores[lane] : 0.0f;
    if (from.is_low() && lane < ZM_TOP_K) score = from.logit(own.experts[lane]);
    float weight = expert_weights{gating, int(normalize), epsilon, scaling}.of(score, lane);
    if (lane >= ZM_TOP_K) return;
    chosen[size_t(token) * ZM_TOP_K + lane] = own.experts[lane];
    weights[size_t(token) * ZM_TOP_K + lane] = narrow(weight);
}
#endif
