#if ZM_K == ZM_HIDDEN && !ZM_MXFP4
/* The greedy choice: arg-max of logits - logsumexp(logits), as MLX computes both in bfloat16. */
enum { CHOOSE_AT_ONCE = 4, CHOOSE_AHEAD = 12, CHOOSE_THREADS = CHOOSE_BLOCKS * CHOOSE_WARPS * WARP };
enum : uint { NO_LOGITS = two_to(EXPONENT_BIAS + 1) | 0x80008000u }; /* -inf twice */

ZM_FUNCTION uint largest2(uint a, uint b) {
    uint result;
    asm("max." ZM_TYPE "x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}

/* Elements 8 * number and on of n, fewer than 8; -inf behind them. */
ZM_FUNCTION uint4 read_last_logits(const ushort *logits, uint number, uint n) {
    uint words[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint first = number * 8 + 2 * i;
        words[i] = NO_LOGITS;
        if (first < n) words[i] = read_fresh(logits + first) | (NO_LOGITS & 0xffff0000u);
        if (first + 1 < n) words[i] = (words[i] & 0xffffu) | uint(read_fresh(logits + first + 1)) << 16;
    }
    return make_uint4(words[0], words[1], words[2], words[3]);
}

/* A thread's logits, in vectors of 8: the sum of exp(logit - largest) as MLX makes it, a vector at a time, and which
 * vector has the first of its largest ones. */
struct thread_logits {
    float largest = -3.402823466e+38f, sum = 0.0f;
    uint number = 0;

    ZM_FUNCTION void add(uint4 v, uint own_number) {
        uint two = largest2(largest2(v.x, v.y), largest2(v.z, v.w));
        float most = fmaxf(low(two), high(two)), before = largest;
        if (most > before) number = own_number;
        largest = fmaxf(before, most);
        const float values[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
        sum = fmaf(power_of_e(before - largest), sum, power_of_e(values[0] - largest));
#pragma unroll
        for (int i = 1; i < 8; i++) sum += power_of_e(values[i] - largest);
    }
};

/* The first of 8 elements of which fma2 with 1 and `minus` makes `wanted`; NONE without one. */
enum : uint { NONE = ~0u };
ZM_FUNCTION uint first_of(uint4 v, uint minus, float wanted) {
    const uint words[4] = {v.x, v.y, v.z, v.w};
    uint first = NONE;
#pragma unroll
    for (int i = 3; i >= 0; i--) {
        uint pair = fma2(words[i], two_to(0), minus);
        if (high(pair) == wanted) first = 2 * i + 1;
        if (low(pair) == wanted) first = 2 * i;
    }
    return first;
}

/* The next smaller number of 16 bits. */
ZM_FUNCTION uint number_below(float value) {
    uint bits = pack(value, 0.0f) & 0xffffu;
    return bits & 0x8000u ? bits + 1 : bits ? bits - 1 : 0x8001u;
}

/* ~index of the first of a thread's logits of which fma2 with 1 and `minus` makes `wanted`, 0 without one. own: its
 * vectors, `apart` from each other; vector i is number first + i * stride of all. */
ZM_FUNCTION uint before_end_of(const uint4 *own, uint count, uint apart, uint first, uint stride, uint minus,
                               float wanted) {
    uint before_end = 0;
#pragma unroll 1
    for (uint i = count; i-- > 0;) {
        uint within = first_of(own[i * apart], minus, wanted);
        if (within != NONE) before_end = ~((first + i * stride) * 8 + within);
    }
    return before_end;
}

/* What a warp tells all blocks of the cluster. */
struct alignas(16) warp_choice {
    float largest, sum;
    uint before_end; /* of the first of its largest logits: ~index */
    uint unused;
};

/* *token = the choice among n logits, or -1 where the sum of their exponentials is not finite; h = its row of the
 * table. MLX spreads them over a block of mlx_threads, here over a cluster. Dynamic shared memory holds a thread's
 * vectors, so that they are read once. *last_to = *last, which is complete when this kernel begins (NULL: nothing). */
extern "C" __global__ void __cluster_dims__(CHOOSE_BLOCKS) __launch_bounds__(CHOOSE_WARPS *WARP)
    zm_choose(const ushort *logits, int *token, uint n, uint mlx_threads, const uint *weight, const ushort *scales,
              const ushort *biases, uint *h, const uint *last, uint *last_to ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ warp_choice choices[WARP];
    __shared__ float2 firsts[WARP];
    __shared__ unsigned long long choices_came, firsts_came;
    uint lane = threadIdx.x % WARP, place = blockIdx.x * CHOOSE_WARPS + threadIdx.x / WARP,
         thread = place * WARP + lane;
    uint whole = thread < mlx_threads ? n / 8 : 0, vectors = thread < mlx_threads ? (n + 7) / 8 : 0;
    uint count = thread < vectors ? (vectors - thread - 1) / mlx_threads + 1 : 0; /* this thread's */
    uint4 *const own = staged + threadIdx.x;
    const uint apart = CHOOSE_WARPS * WARP; /* vectors of one thread in shared memory */
    auto fill = [&](uint begin) {
#pragma unroll
        for (uint i = begin; i < begin + CHOOSE_AT_ONCE; i++) {
            uint number = thread + i * mlx_threads;
            copy16(uint(__cvta_generic_to_shared(own + i * apart)), logits + number * 8, number < whole);
        }
        commit_copies();
    };
    if (threadIdx.x == 0) begin_arrivals(&choices_came, sizeof choices), begin_arrivals(&firsts_came, sizeof firsts);
    begin_cluster();
    if (last && thread == 0) *last_to = read_fresh(last);
    wait_for_last();
#pragma unroll 1
    for (uint i = 0; i < CHOOSE_AHEAD; i += CHOOSE_AT_ONCE) fill(i);
    if (whole < vectors && (whole & (mlx_threads - 1)) == thread)
        own[(count - 1) * apart] = read_last_logits(logits, whole, n);
    thread_logits mine;
#pragma unroll 1
    for (uint i = 0; i < count; i += CHOOSE_AT_ONCE) {
        fill(i + CHOOSE_AHEAD);
        finish_copies<CHOOSE_AHEAD / CHOOSE_AT_ONCE>();
        uint4 v[CHOOSE_AT_ONCE];
#pragma unroll
        for (int j = 0; j < CHOOSE_AT_ONCE; j++)
            v[j] = i + j < count ? own[(i + j) * apart] : make_uint4(NO_LOGITS, NO_LOGITS, NO_LOGITS, NO_LOGITS);
#pragma unroll
        for (int j = 0; j < CHOOSE_AT_ONCE; j++) mine.add(v[j], i + j);
    }
    float largest = warp_most(mine.largest), sum = warp_sum(mine.sum * power_of_e(mine.largest - largest));
    uint first = NONE;
    if (count && mine.largest == largest) {
        uint within = first_of(own[mine.number * apart], NOTHING * 0x10001u, largest);
        first = (thread + mine.number * mlx_threads) * 8 + within;
    }
    uint before_end = warp_max(~first);
    embedding table = {weight, scales, biases};
    table.prefetch(min(~before_end, n - 1), lane);
    const float told[4] = {largest, sum, __uint_as_float(before_end), 0};
    wait_for_cluster(); /* all blocks have begun */
    if (lane < CHOOSE_BLOCKS) send_to_block(lane, choices + place, told, &choices_came);
    wait_for_arrivals(&choices_came);
    largest = warp_most(choices[lane].largest);
    uint index = ~warp_max(choices[lane].largest == largest ? choices[lane].before_end : 0u);
    sum = warp_sum(choices[lane].sum * power_of_e(choices[lane].largest - largest));
    ushort total = narrow(isinf(largest) ? largest : logf(sum) + largest);
    uint minus_total = (total ^ 0x8000u) * 0x10001u;
    /* Smaller logits are as likely where the difference is rounded more than they were. */
    uint both = fma2((pack(largest, 0.0f) & 0xffffu) | number_below(largest) << 16, two_to(0), minus_total);
    if (low(both) == high(both)) {
        before_end = warp_max(before_end_of(own, count, apart, thread, mlx_threads, minus_total, low(both)));
        const float words[2] = {__uint_as_float(before_end), 0};
        if (lane < CHOOSE_BLOCKS) send_to_block(lane, firsts + place, words, &firsts_came);
        wait_for_arrivals(&firsts_came);
        index = ~warp_max(__float_as_uint(firsts[lane].x));
    }
    index = min(index, n - 1); /* of numbers that are none */
    if (thread == 0) *token = (total & 0x7fffu) < (NO_LOGITS & 0x7fffu) ? int(index) : -1;
#pragma unroll
    for (uint pair = thread; pair < ROW_PAIRS; pair += CHOOSE_THREADS) h[pair] = table.pair(index, pair);
}
#endif
