/* Which experts a token goes to, and their weights. Blocks that multiply with the experts choose for themselves from
 * the router's scores; the first of them tells the kernel behind. */
enum { MOST_EXPERTS = DECODE_MOST_EXPERTS, LANE_EXPERTS = MOST_EXPERTS / WARP };
/* zm_gating of fused/kinds.h, in its order. */
enum { SIGMOID_BIAS, SOFTMAX_THEN_TOP_K, TOP_K_THEN_SOFTMAX_LOW, TOP_K_THEN_SOFTMAX_HIGH };

ZM_FUNCTION float power_of_e(float x) {
    float power = x * __uint_as_float(0x3fb8aa3bu);
    asm("ex2.approx.f32 %0, %0;" : "+f"(power));
    return power;
}

/* Numbers of 16 bits leave as many bits of their choice_key free: there is the place of the expert, so that keys
 * differ. */
enum : uint { PLACE_BITS = 13, PLACE = (1u << PLACE_BITS) - 1 };
ZM_FUNCTION float number_of_key(uint key) {
    return __uint_as_float((key & 0x80000000u ? key ^ 0x80000000u : ~key) & ~PLACE);
}

/* MLX's precise softmax of up to 256 numbers of 16 bits by one warp: a lane has 8 neighbours, -inf where there are
 * none. */
ZM_FUNCTION void softmax(float (&values)[LANE_EXPERTS]) {
    float largest = -3.402823466e+38f, sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) largest = fmaxf(largest, values[i]);
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) sum += power_of_e(values[i] - largest);
    float before = largest;
    largest = number_of_key(warp_max(choice_key(largest)));
    sum = warp_sum(sum * power_of_e(before - largest));
    float inverse = 1.0f / sum;
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) values[i] = rounded(power_of_e(values[i] - largest) * inverse);
}

/* The same of up to 32 numbers, the first n lanes'. */
ZM_FUNCTION float softmax_of_lanes(float value, uint n, uint lane) {
    float values[LANE_EXPERTS];
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        uint number = lane * LANE_EXPERTS + i;
        float other = __shfl_sync(~0u, value, number % WARP);
        values[i] = number < n ? other : __uint_as_float(0xff800000u);
    }
    softmax(values);
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        float own = __shfl_sync(~0u, values[i], lane / LANE_EXPERTS);
        if (lane % LANE_EXPERTS == i) value = own;
    }
    return value;
}

/* The router's scores of n experts (room for MOST_EXPERTS): sigmoids, of which those are chosen whose sum with
 * expert_bias (NULL: 0) is largest, or logits, chosen by their softmax or themselves. Of equals the higher index comes
 * first, or with is_low() the lower. */
struct router_scores {
    const float *scores, *expert_bias;
    uint n, gating;

    ZM_FUNCTION bool is_low() const { return gating == TOP_K_THEN_SOFTMAX_LOW; }
    ZM_FUNCTION float bias(uint expert) const { return expert_bias && expert < n ? __ldg(expert_bias + expert) : 0.0f; }
    ZM_FUNCTION float score(uint expert) const {
        return expert < n ? __uint_as_float(read_fresh((const uint *)scores + expert)) : 0.0f;
    }
    /* Of a lane's neighbours; -inf behind n. */
    ZM_FUNCTION void read(float (&values)[LANE_EXPERTS], uint lane) const {
        uint4 v[LANE_EXPERTS / 4];
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS / 4; i++) {
            uint number = lane * (LANE_EXPERTS / 4) + i;
            v[i] = number * 4 < n ? read_fresh((const uint4 *)scores + number) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS; i++) {
            uint word = i % 4 == 0 ? v[i / 4].x : i % 4 == 1 ? v[i / 4].y : i % 4 == 2 ? v[i / 4].z : v[i / 4].w;
            values[i] = __uint_as_float(lane * LANE_EXPERTS + i < n ? word : 0xff800000u);
        }
    }
};

/* What a lane knows of the choice: the expert in slot `slot`, with its score, a number of 16 bits; nothing where slot
 * is not below ZM_TOP_K. */
struct lane_choice {
    uint slot, expert;
    float score;
};

/* Slots from the one that is chosen last on, or with `low` first. */
ZM_FUNCTION uint slot_of(uint rank, bool low) { return low ? rank : ZM_TOP_K - 1 - rank; }

/* The expert of which a lane has the score where there are up to 32: of equals, that of the higher lane comes first. */
ZM_FUNCTION uint lane_expert(bool low, uint lane) { return low ? WARP - 1 - lane : lane; }

/* The experts that a block chooses, for all of it behind a barrier. */
struct chosen_experts {
    uint experts[ZM_TOP_K];

    ZM_FUNCTION void set(uint slot, uint expert) { experts[slot] = expert; }
};
/* Or each as it gets known. */
struct chosen_one_by_one {
    uint experts[ZM_TOP_K];
    unsigned long long known[ZM_TOP_K]; /* barriers */

    /* A barrier of the block follows. */
    ZM_FUNCTION void begin(uint thread) {
        if (thread < ZM_TOP_K) begin_arrival(known + thread);
    }
    ZM_FUNCTION void set(uint slot, uint expert) {
        experts[slot] = expert;
        arrive(known + slot);
    }
    ZM_FUNCTION uint get(uint slot) const {
        wait_for_arrivals(known + slot);
        return experts[slot];
    }
};

/* The choice among up to 32 but for SOFTMAX_THEN_TOP_K. bias: of the lane's expert. */
template <typename Chosen>
ZM_FUNCTION lane_choice choose_of_32(const router_scores &from, float bias, Chosen &chosen, uint lane) {
    bool low = from.is_low();
    uint expert = lane_expert(low, lane), rank = 0;
    float score = from.score(expert);
    uint key = expert < from.n ? choice_key(score + bias) : 0;
#pragma unroll
    for (uint i = 0; i < WARP; i++) rank += __shfl_sync(~0u, key, i) > key - uint(i > lane);
    uint slot = rank < ZM_TOP_K && expert < from.n ? slot_of(rank, low) : ZM_TOP_K;
    if (slot < ZM_TOP_K) chosen.set(slot, expert);
    return {slot, expert, score};
}

/* The largest keys, in rounds; lane i < ZM_TOP_K gets the one in slot i. */
template <int COUNT, typename Chosen>
ZM_FUNCTION lane_choice largest_keys(uint (&keys)[COUNT], bool low, Chosen &chosen, uint lane) {
    uint own = 0;
#pragma unroll 1
    for (uint r = 0; r < ZM_TOP_K; r++) {
        uint most = 0;
#pragma unroll
        for (int i = 0; i < COUNT; i++) most = max(most, keys[i]);
        most = warp_max(most);
#pragma unroll
        for (int i = 0; i < COUNT; i++) keys[i] = keys[i] == most ? 0 : keys[i];
        if (lane == slot_of(r, low)) own = most, chosen.set(lane, low ? PLACE - (most & PLACE) : most & PLACE);
    }
    uint place = own & PLACE;
    return {lane, low ? PLACE - place : place, number_of_key(own)};
}

/* The same for up to 256 scores that are chosen by their softmax or themselves, in rounds. */
template <typename Chosen>
ZM_FUNCTION lane_choice choose_of_256(const router_scores &from, Chosen &chosen, uint lane) {
    bool low = from.is_low();
    float values[LANE_EXPERTS];
    uint keys[LANE_EXPERTS];
    from.read(values, lane);
    if (from.gating == SOFTMAX_THEN_TOP_K) softmax(values);
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        uint expert = lane * LANE_EXPERTS + i, place = low ? PLACE - expert : expert;
        keys[i] = expert < from.n ? (choice_key(values[i]) & ~PLACE) | place : 0;
    }
    if (from.n > MOST_EXPERTS / 2) return largest_keys(keys, low, chosen, lane);
    uint halves[LANE_EXPERTS / 2];
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS / 2; i++) {
        uint other = __shfl_sync(~0u, keys[i + LANE_EXPERTS / 2], lane % (WARP / 2));
        halves[i] = lane < WARP / 2 ? keys[i] : other;
    }
    return largest_keys(halves, low, chosen, lane);
}

/* And where biases are added first. */
template <typename Chosen>
ZM_FUNCTION lane_choice choose_biased_of_256(const router_scores &from, Chosen &experts, uint lane) {
    float values[LANE_EXPERTS];
    uint keys[LANE_EXPERTS];
    from.read(values, lane);
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        uint expert = lane * LANE_EXPERTS + i;
        keys[i] = expert < from.n ? choice_key(values[i] + from.bias(expert)) : 0;
    }
    uint chosen = 0;
#pragma unroll 1
    for (uint r = 0; r < ZM_TOP_K; r++) {
        uint own = 0, place = 0;
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS; i++)
            if (keys[i] >= own) own = keys[i], place = i;
        uint most = warp_max(own), expert = warp_max(own == most ? lane * LANE_EXPERTS + place : 0);
#pragma unroll
        for (int i = 0; i < LANE_EXPERTS; i++) keys[i] = expert == lane * LANE_EXPERTS + i ? 0 : keys[i];
        if (lane == slot_of(r, false)) chosen = expert, experts.set(lane, expert);
    }
    return {lane, chosen, from.score(chosen)};
}

/* The choice of a block's last warp for all of it, behind the router. The first block tells it to the kernel behind,
 * which hears it before its wait: that one's blocks begin when all of this one have, and the router has left zeros.
 * bias: of lane_expert. */
template <typename Chosen>
ZM_FUNCTION void share_choice(Chosen &chosen, const router_scores &from, float bias, uint *words) {
    uint lane = threadIdx.x % WARP, warp = __shfl_sync(~0u, threadIdx.x / WARP, 0); /* so that all lanes branch alike */
    if (warp != blockDim.x / WARP - 1) return;
    lane_choice own;
    if (from.n <= WARP && from.gating != SOFTMAX_THEN_TOP_K) own = choose_of_32(from, bias, chosen, lane);
    else if (from.expert_bias) own = choose_biased_of_256(from, chosen, lane);
    else own = choose_of_256(from, chosen, lane);
    if (blockIdx.x || own.slot >= ZM_TOP_K) return;
    uint word = (own.expert + 1) << 16 | narrow(own.score);
    asm volatile("st.relaxed.gpu.global.u32 [%0], %1;" :: "l"(words + own.slot), "r"(word) : "memory");
}
ZM_FUNCTION lane_choice hear_choice(const uint *words, uint slot) {
    uint word;
    do asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(word) : "l"(words + slot) : "memory");
    while (!word);
    return {slot, (word >> 16) - 1, widen(ushort(word))};
}

/* How weights are made of the chosen experts' scores: by their softmax where gating says so; divided by their sum +
 * epsilon if normalize; times scaling. */
struct expert_weights {
    uint gating;
    int normalize;
    float epsilon, scaling;

    /* Of the expert of lane i < ZM_TOP_K. */
    ZM_FUNCTION float of(float score, uint lane) const {
        float own = lane < ZM_TOP_K ? score : 0.0f, sum = 0.0f;
        if (gating == TOP_K_THEN_SOFTMAX_LOW || gating == TOP_K_THEN_SOFTMAX_HIGH)
            own = softmax_of_lanes(own, ZM_TOP_K, lane);
#pragma unroll
        for (int i = 0; i < ZM_TOP_K; i++) sum = rounded(sum + __shfl_sync(~0u, own, i));
        if (normalize) own = divided(own, rounded(sum + rounded(epsilon)));
        if (scaling != 1.0f) own = rounded(own * rounded(scaling));
        return own;
    }
};
