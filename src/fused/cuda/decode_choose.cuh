#if ZM_K == ZM_HIDDEN && !ZM_MXFP4
/* The greedy choice: arg-max of logits - logsumexp(logits), as MLX computes both in bfloat16. */
enum { CHOOSE_AT_ONCE = 4 };
enum : uint { NO_LOGITS = two_to(EXPONENT_BIAS + 1) | 0x80008000u }; /* -inf twice */

/* A thread's part of the sum of exp(logit - largest): MLX's online sum, a vector of 8 at a time. */
ZM_FUNCTION void add_exponentials(float &largest, float &sum, const float (&values)[8]) {
    float before = largest;
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, values[i]);
    sum = fmaf(power_of_e(before - largest), sum, power_of_e(values[0] - largest));
#pragma unroll
    for (int i = 1; i < 8; i++) sum += power_of_e(values[i] - largest);
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

ZM_FUNCTION void add_exponentials(float &largest, float &sum, uint4 v) {
    const float values[8] = {low(v.x), high(v.x), low(v.y), high(v.y), low(v.z), high(v.z), low(v.w), high(v.w)};
    add_exponentials(largest, sum, values);
}

/* The first of the largest log probabilities so far, and a vector more of logits. */
ZM_FUNCTION void choose_among(float &best, uint &index, uint4 v, uint number, uint minus_total) {
    const uint words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint pair = fma2(words[i], two_to(0), minus_total);
        if (low(pair) > best) best = low(pair), index = number * 8 + 2 * i;
        if (high(pair) > best) best = high(pair), index = number * 8 + 2 * i + 1;
    }
}

/* *token = the choice among n logits, or -1 where the sum of their exponentials is not finite; h = its row of the
 * table. MLX spreads them over a block of mlx_threads, here over a cluster. Dynamic shared memory holds a thread's
 * vectors, so that they are read once. *last_to = *last, which is complete when this kernel begins (NULL: nothing). */
extern "C" __global__ void __cluster_dims__(CHOOSE_BLOCKS) __launch_bounds__(CHOOSE_WARPS *WARP)
    zm_choose(const ushort *logits, int *token, uint n, uint mlx_threads, const uint *weight, const ushort *scales,
              const ushort *biases, uint *h, const uint *last, uint *last_to ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ float largests[WARP], sums[WARP];
    __shared__ uint best_keys[WARP], best_indices[WARP];
    uint lane = threadIdx.x % WARP, place = blockIdx.x * CHOOSE_WARPS + threadIdx.x / WARP,
         thread = place * WARP + lane;
    uint vectors = thread < mlx_threads ? (n + 7) / 8 : 0;
    uint4 *const own = staged + threadIdx.x;
    const uint apart = CHOOSE_WARPS * WARP; /* vectors of one thread in shared memory */
    begin_cluster();
    if (last && thread == 0) *last_to = read_fresh(last);
    wait_for_last();
    uint count = 0;
    for (uint number = thread; number < vectors; number += mlx_threads, count++) {
        bool whole = number * 8 + 8 <= n;
        copy16(uint(__cvta_generic_to_shared(own + count * apart)), logits + number * 8, whole);
        if (!whole) own[count * apart] = read_last_logits(logits, number, n);
    }
    commit_copies();
    finish_copies<0>();
    float largest = -3.402823466e+38f, sum = 0.0f;
    for (uint i = 0; i < count; i += CHOOSE_AT_ONCE) {
        uint4 v[CHOOSE_AT_ONCE];
#pragma unroll
        for (int j = 0; j < CHOOSE_AT_ONCE; j++)
            v[j] = i + j < count ? own[(i + j) * apart] : make_uint4(NO_LOGITS, NO_LOGITS, NO_LOGITS, NO_LOGITS);
#pragma unroll
        for (int j = 0; j < CHOOSE_AT_ONCE; j++) add_exponentials(largest, sum, v[j]);
    }
    float before = largest;
    largest = warp_most(largest);
    sum = warp_sum(sum * power_of_e(before - largest));
    wait_for_cluster(); /* all blocks have begun */
    if (lane < CHOOSE_BLOCKS) {
        store_to_block(lane, largests + place, __float_as_uint(largest));
        store_to_block(lane, sums + place, __float_as_uint(sum));
    }
    arrive_at_cluster();
    wait_for_cluster();
    before = largests[lane];
    largest = warp_most(before);
    sum = warp_sum(sums[lane] * power_of_e(before - largest));
    ushort total = narrow(isinf(largest) ? largest : logf(sum) + largest);

    float best = __uint_as_float(0xff800000u);
    uint index = 0, minus_total = (total ^ 0x8000u) * 0x10001u;
#pragma unroll 2
    for (uint i = 0; i < count; i++) choose_among(best, index, own[i * apart], thread + i * mlx_threads, minus_total);
    uint key = choice_key(best), most = warp_max(key);
    index = ~warp_max(key == most ? ~index : 0u);
    if (lane < CHOOSE_BLOCKS) {
        store_to_block(lane, best_keys + place, most);
        store_to_block(lane, best_indices + place, index);
    }
    arrive_at_cluster();
    wait_for_cluster();
    key = best_keys[lane];
    most = warp_max(key);
    index = ~warp_max(key == most ? ~best_indices[lane] : 0u);
    if (thread == 0) *token = (total & 0x7fffu) < (NO_LOGITS & 0x7fffu) ? int(index) : -1;
    embedding table = {weight, scales, biases};
#pragma unroll
    for (int pair = int(thread); pair < ROW_PAIRS; pair += CHOOSE_BLOCKS * CHOOSE_WARPS * WARP)
        h[pair] = table.pair(index, pair);
}
#endif
