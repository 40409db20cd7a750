#if ZM_K == ZM_HIDDEN
/* The greedy choice: arg-max of logits - logsumexp(logits), as MLX computes both in bfloat16. */
enum { CHOOSE_BLOCKS = 8, CHOOSE_WARPS = 4, CHOOSE_AT_ONCE = 4 };

ZM_FUNCTION float power_of_e(float x) {
    float power = x * __uint_as_float(0x3fb8aa3bu);
    asm("ex2.approx.f32 %0, %0;" : "+f"(power));
    return power;
}

/* A thread's part of the sum of exp(logit - largest): MLX's online sum, a vector of 8 at a time. */
ZM_FUNCTION void add_exponentials(float &largest, float &sum, const float (&values)[8]) {
    float before = largest;
#pragma unroll
    for (int i = 0; i < 8; i++) largest = fmaxf(largest, values[i]);
    sum = fmaf(power_of_e(before - largest), sum, power_of_e(values[0] - largest));
#pragma unroll
    for (int i = 1; i < 8; i++) sum += power_of_e(values[i] - largest);
}

/* Elements 8 * number and on of n; -inf behind them. */
ZM_FUNCTION void read_logits(float (&values)[8], const ushort *logits, uint number, uint n) {
    if (number * 8 + 8 <= n) {
        uint4 v = read_fresh((const uint4 *)logits + number);
        const uint words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
        for (int i = 0; i < 4; i++) values[2 * i] = low(words[i]), values[2 * i + 1] = high(words[i]);
        return;
    }
#pragma unroll
    for (int i = 0; i < 8; i++)
        values[i] = number * 8 + i < n ? widen(read_fresh(logits + number * 8 + i)) : __uint_as_float(0xff800000u);
}

/* *token = the choice among n logits. MLX spreads them over a block of mlx_threads, here over a cluster. */
extern "C" __global__ void __cluster_dims__(CHOOSE_BLOCKS) __launch_bounds__(CHOOSE_WARPS *WARP)
    zm_choose(const ushort *logits, int *token, uint n, uint mlx_threads) {
    __shared__ float largests[WARP], sums[WARP];
    __shared__ uint best_keys[WARP], best_indices[WARP];
    uint lane = threadIdx.x % WARP, place = blockIdx.x * CHOOSE_WARPS + threadIdx.x / WARP, thread = place * WARP + lane;
    uint vectors = thread < mlx_threads ? (n + 7) / 8 : 0;
    begin_cluster();
    wait_for_last();
    float largest = -3.402823466e+38f, sum = 0.0f, values[CHOOSE_AT_ONCE][8];
    for (uint first = thread; first < vectors; first += CHOOSE_AT_ONCE * mlx_threads) {
#pragma unroll
        for (int i = 0; i < CHOOSE_AT_ONCE; i++) read_logits(values[i], logits, first + i * mlx_threads, n);
#pragma unroll
        for (int i = 0; i < CHOOSE_AT_ONCE; i++) add_exponentials(largest, sum, values[i]);
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
    for (uint first = thread; first < vectors; first += CHOOSE_AT_ONCE * mlx_threads) {
#pragma unroll
        for (int i = 0; i < CHOOSE_AT_ONCE; i++) read_logits(values[i], logits, first + i * mlx_threads, n);
#pragma unroll
        for (int i = 0; i < CHOOSE_AT_ONCE; i++) {
#pragma unroll
            for (int j = 0; j < 8; j++) {
                float value = low(fma2(__float_as_uint(values[i][j]) >> 16, 0x3f803f80u, minus_total));
                if (value > best) best = value, index = (first + i * mlx_threads) * 8 + j;
            }
        }
    }
    uint key = choice_key(best), most = warp_max(key);
    index = ~warp_max(key == most ? ~index : 0u);
    if (lane == 0) {
        store_to_block(0, best_keys + place, most);
        store_to_block(0, best_indices + place, index);
    }
    arrive_at_cluster();
    if (blockIdx.x) return;
    wait_for_cluster();
    if (threadIdx.x >= WARP) return;
    key = best_keys[lane];
    most = warp_max(key);
    index = ~warp_max(key == most ? ~best_indices[lane] : 0u);
    if (lane == 0) *token = int(index);
}
#endif
