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

/* MLX's precise softmax of numbers of 16 bits by one warp, COUNT neighbours a lane, -inf where there are none. Its
 * lanes have 8 for the sum: here the first LANES, and again the next; what MLX's others would add is zero. */
template <int COUNT> ZM_FUNCTION void softmax(float (&own)[COUNT], uint lane) {
    enum : uint { LANES = WARP * COUNT / LANE_EXPERTS };
    float values[LANE_EXPERTS], most[LANE_EXPERTS], sum = 0.0f;
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) {
        uint from = (lane % LANES * LANE_EXPERTS + i) / COUNT;
        values[i] = COUNT == LANE_EXPERTS ? own[i % COUNT] : __shfl_sync(~0u, own[i % COUNT], from);
        most[i] = fmaxf(values[i], -3.402823466e+38f);
    }
#pragma unroll
    for (int half = LANE_EXPERTS / 2; half; half /= 2)
#pragma unroll
        for (int i = 0; i < half; i++) most[i] = fmaxf(most[i], most[i + half]);
    float largest = number_of_key(warp_max(choice_key(most[0])));
#pragma unroll
    for (int i = 0; i < LANE_EXPERTS; i++) sum += power_of_e(values[i] - most[0]);
    sum *= power_of_e(most[0] - largest);
#pragma unroll
    for (int i = 0; i < COUNT; i++) own[i] = power_of_e(own[i] - largest); /* while lanes add */
#pragma unroll
    for (uint lanes = LANES / 2; lanes; lanes /= 2) sum += __shfl_xor_sync(~0u, sum, lanes);
    float inverse = 1.0f / sum;
#pragma unroll
    for (int i = 0; i < COUNT; i++) own[i] = rounded(own[i] * inverse);
}

/* The same of the first n lanes' numbers. */
ZM_FUNCTION float softmax_of_lanes(float value, uint n, uint lane) {
    float own[1] = {lane < n ? value : __uint_as_float(0xff800000u)};
    softmax(own, lane);
    return own[0];
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
    template <int COUNT> ZM_FUNCTION void read(float (&values)[COUNT], uint lane) const {
        uint4 v[COUNT / 4];
#pragma unroll
        for (int i = 0; i < COUNT / 4; i++) {
            uint number = lane * (COUNT / 4) + i;
            v[i] = number * 4 < n ? read_fresh((const uint4 *)scores + number) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < COUNT; i++) {
            uint word = i % 4 == 0 ? v[i / 4].x : i % 4 == 1 ? v[i / 4].y : i % 4 == 2 ? v[i / 4].z : v[i / 4].w;
            values[i] = __uint_as_float(lane * COUNT + i < n ? word : 0xff800000u);
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
template <typename Scores, typename Chosen>
ZM_FUNCTION lane_choice choose_of_32(const Scores &from, float bias, Chosen &chosen, uint lane) {
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

/* An expert's place in keys is its index with these bits turned. */
ZM_FUNCTION uint place_turn(bool low) { return low ? PLACE : 0; }

/* The largest keys, in rounds; lane i < ZM_TOP_K gets the one in slot i. */
template <int COUNT, typename Chosen>
ZM_FUNCTION lane_choice largest_keys(uint (&keys)[COUNT], bool low, Chosen &chosen, uint lane) {
#pragma unroll
    for (int step = 0; step < COUNT; step++) /* each lane's largest first, so that a round looks at no others */
#pragma unroll
        for (int i = step % 2; i + 1 < COUNT; i += 2) {
            uint less = min(keys[i], keys[i + 1]);
            keys[i] = max(keys[i], keys[i + 1]), keys[i + 1] = less;
        }
    const uint turn = place_turn(low), own_round = lane < ZM_TOP_K ? slot_of(lane, low) : ZM_TOP_K;
    uint own = 0, last = 0;
    auto tell = [&] { own = last, chosen.set(lane, (last & PLACE) ^ turn); };
#pragma unroll 2 /* or the compiler would tell of all at the end */
    for (uint round = 0; round < ZM_TOP_K; round++) {
        uint most = warp_max(keys[0]);
        if (round == own_round + 1) tell(); /* while lanes compare */
        bool is_first = keys[0] == most;
#pragma unroll
        for (int i = 0; i < COUNT; i++) keys[i] = is_first ? (i + 1 < COUNT ? keys[i + 1] : 0) : keys[i];
        last = most;
    }
    if (own_round == ZM_TOP_K - 1) tell();
    return {lane, (own & PLACE) ^ turn, number_of_key(own)};
}

/* The same for scores that are chosen by their softmax or themselves, in rounds, COUNT neighbours a lane. */
template <int COUNT, typename Scores, typename Chosen>
ZM_FUNCTION lane_choice choose_of_many(const Scores &from, Chosen &chosen, uint lane) {
    const bool low = from.is_low();
    float own[COUNT];
    uint keys[COUNT], there[COUNT];
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        there[i] = lane * COUNT + i < from.n ? ~0u : 0;
        asm volatile("" : "+r"(there[i])); /* while scores come, and no branches behind them */
    }
    from.read(own, lane); /* once: all blocks do at the same time */
    if (from.gating == SOFTMAX_THEN_TOP_K) softmax(own, lane);
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
        uint place = (lane * COUNT + i) ^ place_turn(low);
        keys[i] = ((choice_key(own[i]) & ~PLACE) | place) & there[i];
    }
    return largest_keys(keys, low, chosen, lane);
}

/* And where biases are added first. */
template <typename Scores, typename Chosen>
ZM_FUNCTION lane_choice choose_biased_of_256(const Scores &from, Chosen &experts, uint lane) {
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

/* A warp's choice. bias: of lane_expert. */
template <typename Scores, typename Chosen>
ZM_FUNCTION void choose(lane_choice &own, const Scores &from, float bias, Chosen &chosen, uint lane) {
    if (from.n <= WARP && from.gating != SOFTMAX_THEN_TOP_K) own = choose_of_32(from, bias, chosen, lane);
    else if (from.expert_bias) own = choose_biased_of_256(from, chosen, lane);
    else if (from.n <= MOST_EXPERTS / 2) own = choose_of_many<LANE_EXPERTS / 2>(from, chosen, lane);
    else own = choose_of_many<LANE_EXPERTS>(from, chosen, lane);
}

/* The choice of a block's last warp for all of it, behind the router. The first block tells it to the kernel behind,
 * which hears it before its wait: that one's blocks begin when all of this one have, and the router has left zeros.
 * bias: of lane_expert. */
template <typename Chosen>
ZM_FUNCTION void share_choice(Chosen &chosen, const router_scores &from, float bias, uint *words) {
    uint lane = threadIdx.x % WARP, warp = __shfl_sync(~0u, threadIdx.x / WARP, 0); /* so that all lanes branch alike */
    if (warp != blockDim.x / WARP - 1) return;
    lane_choice own;
    choose(own, from, bias, chosen, lane);
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
