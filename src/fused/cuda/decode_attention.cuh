#if ZM_K == ZM_HIDDEN
/* Attention of one query: what it reads (norms of heads, rotary embedding, the write into the caches), and itself. */

/* So many lanes have a head's vectors of 8 elements. */
enum { HEAD_VECTORS = ZM_HEAD_DIM / 8 };

/* The norm of a head, as MLX spreads it: 8 elements a lane, in the first HEAD_VECTORS. The other lanes of MLX's sum
 * have zeros, which change nothing. */
ZM_FUNCTION uint4 norm_head_vector(uint4 v, uint4 weight, float eps) {
    float sum = add_square(add_square(add_square(add_square(0.0f, v.x), v.y), v.z), v.w);
#pragma unroll
    for (int step = HEAD_VECTORS / 2; step; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    float factor = rsqrtf(sum / float(ZM_HEAD_DIM) + eps);
    return make_uint4(scale_pair(v.x, weight.x, factor), scale_pair(v.y, weight.y, factor),
                      scale_pair(v.z, weight.z, factor), scale_pair(v.w, weight.w, factor));
}

/* The rotary embedding at one position: a lane has elements lane, lane + WARP, ... of each half of a head. freqs (dim /
 * 2) NULL: those of the base. */
enum { HALF = ZM_HEAD_DIM / 2, LANE_ANGLES = HALF / WARP };
struct rotation {
    float cosine[LANE_ANGLES], sine[LANE_ANGLES];

    rotation() = default;
    ZM_FUNCTION rotation(const float *freqs, float log2_base, float position, int lane) {
#pragma unroll
        for (int i = 0; i < LANE_ANGLES; i++) {
            int element = i * WARP + lane;
            float frequency = freqs ? float(1.0 / double(__ldg(freqs + element)))
                                    : exp2f(-(float(element) / float(HALF)) * log2_base);
            float theta = position * frequency;
            cosine[i] = cosf(theta);
            sine[i] = sinf(theta);
        }
#pragma unroll
        for (int i = 0; i < LANE_ANGLES; i++) asm volatile("" : "+f"(cosine[i]), "+f"(sine[i])); /* now */
    }
    /* Of the head x, in shared memory, to `to`, which may be x, and, if not NULL, also to `copy`. */
    ZM_FUNCTION void apply(const ushort *x, ushort *to, ushort *copy, int lane) const {
        ushort a_half[LANE_ANGLES], b_half[LANE_ANGLES];
#pragma unroll
        for (int i = 0; i < LANE_ANGLES; i++) {
            a_half[i] = x[i * WARP + lane];
            b_half[i] = x[i * WARP + lane + HALF];
        }
#pragma unroll
        for (int i = 0; i < LANE_ANGLES; i++) {
            int element = i * WARP + lane;
            float a = widen(a_half[i]), b = widen(b_half[i]);
            ushort first = narrow(fmaf(a, cosine[i], -(b * sine[i]))), second = narrow(fmaf(a, sine[i], b * cosine[i]));
            to[element] = first;
            to[element + HALF] = second;
            if (copy) copy[element] = first, copy[element + HALF] = second;
        }
    }
};

/* What a head reads and writes. qkv: n_heads queries, n_kv_heads keys and as many values. Norm weights NULL: no norm.
 * Queries and keys are multiplied by input_scale. The caches are (n_kv_heads, rows, dim), of which `row` is the
 * token's. */
struct head_arguments {
    const uint4 *qkv, *q_norm, *k_norm;
    ushort *keys, *values;
    float eps, input_scale;
    int row, n_heads, n_kv_heads, rows;

    ZM_FUNCTION ushort *cache_row(ushort *cache, int kv_head) const {
        return cache + ((long long)kv_head * rows + row) * ZM_HEAD_DIM;
    }
};

/* A head of qkv on its way to shared memory, by one warp. What is known before the kernel before has ended is made when
 * this is, and stays in registers. */
struct head_reader {
    const uint4 *from;
    uint4 weight, value;
    float eps, scale; /* of queries and keys; of values 1 */
    bool in, has_norm;

    head_reader() = default;
    ZM_FUNCTION head_reader(const head_arguments &all, int head, int lane)
        : from(all.qkv + head * HEAD_VECTORS + lane), weight(make_uint4(0, 0, 0, 0)), eps(all.eps),
          scale(head < all.n_heads + all.n_kv_heads ? all.input_scale : 1.0f), in(lane < HEAD_VECTORS) {
        const uint4 *norm = head < all.n_heads                    ? all.q_norm
                            : head < all.n_heads + all.n_kv_heads ? all.k_norm
                                                                  : nullptr;
        has_norm = norm;
        if (norm && in) weight = __ldg(norm + lane);
        asm volatile("" : "+l"(from), "+r"(weight.x), "+r"(weight.y), "+r"(weight.z), "+r"(weight.w), "+f"(scale));
    }
    ZM_FUNCTION void begin() { value = in ? read_fresh(from) : make_uint4(0, 0, 0, 0); }
    ZM_FUNCTION void finish(uint4 *x, int lane) {
        if (has_norm) value = norm_head_vector(value, weight, eps);
        if (scale != 1.0f) {
            uint factor = pack(scale, scale);
            value = make_uint4(multiply2(value.x, factor), multiply2(value.y, factor), multiply2(value.z, factor),
                               multiply2(value.w, factor));
        }
        if (in) x[lane] = value;
        __syncwarp();
    }
};

/* Queries of the token at `offset` go to queries, keys and values to their row of the caches. A warp a head. */
ZM_KERNEL(HEAD_WARPS * WARP) zm_heads(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs,
                                      ushort *queries, ushort *keys, ushort *values, float eps, float log2_base,
                                      float input_scale, int offset, float position_scale, int n_heads, int n_kv_heads,
                                      int row, int rows ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ uint4 heads[HEAD_WARPS][HEAD_VECTORS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = int(blockIdx.x) * HEAD_WARPS + warp;
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    rotation rotate(freqs, log2_base, position_scale * float(offset), lane);
    head_reader reader(all, head, lane);
    wait_for_last();
    if (head >= n_heads + 2 * n_kv_heads) return;
    reader.begin();
    reader.finish(heads[warp], lane);
    const ushort *x = (const ushort *)heads[warp];
    int kv_head = head - n_heads;
    if (head < n_heads) rotate.apply(x, queries + head * ZM_HEAD_DIM, nullptr, lane);
    else if (kv_head < n_kv_heads) rotate.apply(x, all.cache_row(keys, kv_head), nullptr, lane);
    else if (lane < HEAD_VECTORS) ((uint4 *)all.cache_row(values, kv_head - n_kv_heads))[lane] = heads[warp][lane];
}

/* MLX's vector attention has KEY_WARPS warps a head for up to 1024 keys (here in a cluster of blocks), for more
 * LONG_WARPS in each of LONG_BLOCKS blocks. They take turns with the keys; a lane has LANE_DIM neighbours of a head. */
enum {
    LANE_DIM = ZM_HEAD_DIM / WARP,
    BLOCK_WARPS = KEY_WARPS / HEAD_BLOCKS, /* of a head */
    LONG_KEYS = 8, /* that a warp meets at once; their order in the sums stays */
    LONG_RESIDENT = 2, /* blocks of a multiprocessor */
};

/* This token's part in an attention: its key, its value and HEADS queries of a group. */
template <int HEADS> struct token_heads {
    enum { KEY, VALUE, QUERY, COUNT = QUERY + HEADS };
    uint4 ready[COUNT][HEAD_VECTORS];

    /* Behind the kernel before this one: the queries from `head` on (the group's last one again where it has no more),
     * by a warp each; key and value to where these say (NULL: not needed here), and to the caches too if writes. All
     * warps do meanwhile() while those are on their way. The barrier behind it is included. */
    template <typename Meanwhile>
    ZM_FUNCTION void prepare(const head_arguments &all, int head, int kv_head, uint4 *key, uint4 *value, bool writes,
                             const float *freqs, float log2_base, float position, int lane, int warp,
                             Meanwhile meanwhile) {
        uint4 *own = warp == KEY ? key : warp == VALUE ? value : warp < COUNT ? ready[warp] : nullptr;
        ushort *kept = nullptr;
        head_reader reader;
        rotation rotate;
        if (own) {
            rotate = rotation(freqs, log2_base, position, lane);
            int last = all.n_heads / all.n_kv_heads * (kv_head + 1) - 1, query = head + warp - QUERY;
            if (query > last) query = last;
            reader = head_reader(all,
                                 warp == KEY     ? all.n_heads + kv_head
                                 : warp == VALUE ? all.n_heads + all.n_kv_heads + kv_head
                                                 : query,
                                 lane);
            if (writes && warp < QUERY) kept = all.cache_row(warp == KEY ? all.keys : all.values, kv_head);
            asm volatile("" : "+l"(kept));
        }
        wait_only();
        if (own) reader.begin();
        meanwhile();
        if (own) {
            reader.finish(own, lane);
            if (warp != VALUE) rotate.apply((const ushort *)own, (ushort *)own, kept, lane);
            else if (kept && reader.in) ((uint4 *)kept)[lane] = reader.value;
        }
        __syncthreads();
    }
};

enum { LANE_WORDS = (LANE_DIM + 1) / 2 };
struct alignas(LANE_DIM * 2) lane_vector {
    uint words[LANE_WORDS];
};

ZM_FUNCTION lane_vector load_lane(const ushort *head, int lane) {
    lane_vector v;
    const uint *from = (const uint *)(head + LANE_DIM * lane);
    if (LANE_DIM == 2) asm volatile("ld.u32 %0, [%1];" : "=r"(v.words[0]) : "l"(from));
    else asm volatile("ld.v2.u32 {%0, %1}, [%2];" : "=r"(v.words[0]), "=r"(v.words[LANE_DIM / 4]) : "l"(from));
    return v;
}
ZM_FUNCTION void read_shared(lane_vector &to, uint at) {
    if constexpr (LANE_DIM == 2) {
        to.words[0] = shared_word(at);
    } else {
        uint2 both = shared_pair(at);
        to.words[0] = both.x;
        to.words[1] = both.y;
    }
}
ZM_FUNCTION float element(const lane_vector &v, int i) { return i % 2 ? high(v.words[i / 2]) : low(v.words[i / 2]); }

/* The sums over a warp of N values, a power of 2: each as warp_sum's, and a lane gets that of value lane * N / WARP.
 * shared: values of which every lane gets the sum, in the same exchanges. */
template <int N, int step = WARP / 2, typename... Shared>
ZM_FUNCTION float transposed_sums(float (&x)[N], int lane, Shared &...shared) {
    float half[N > 1 ? N / 2 : 1];
    bool upper = lane & step;
#pragma unroll
    for (int i = 0; i < (N > 1 ? N / 2 : 1); i++) {
        float own = upper ? x[i + N / 2] : x[i], other = upper ? x[i] : x[i + N / 2];
        half[i] = own + __shfl_xor_sync(~0u, other, step);
    }
    ((shared += __shfl_xor_sync(~0u, shared, step)), ...);
    if constexpr (step > 1) return transposed_sums<(N > 1 ? N / 2 : 1), step / 2>(half, lane, shared...);
    else return half[0];
}

/* Keys and values of one head: n rows of the caches, but row `own` is this token's, which may not be there yet. */
struct key_rows {
    const ushort *keys, *values;
    int n, own;
};

template <int HEADS> struct attention_state {
    float most[HEADS], sum[HEADS], value[HEADS][LANE_DIM];
};

/* HEADS queries and the keys first, first + STEP, ... below n, KEYS at once; those that come next are under way
 * meanwhile, and the first ones are read before ready() has prepared `token`. sinks (NULL: none): the heads', which
 * take part as a score without a value in the sums of key 0. shares: of WARP pairs in shared memory, the warp's.
 *
 * A key's share and the factor of what was before it follow from the largest score up to it: those a lane has for one
 * head and key. The sums go through the keys in order. */
template <int HEADS, int KEYS, int STEP, typename Ready>
ZM_FUNCTION attention_state<HEADS> attend(const token_heads<HEADS> &token, const key_rows &rows, const ushort *sinks,
                                          int n_sinks, float scale_log2, int first, float2 *shares, int lane,
                                          Ready ready) {
    enum { HEAD_LANES = WARP / HEADS, KEY_LANES = HEAD_LANES / KEYS, ALL = STEP * KEYS };
    const int place = lane % HEAD_LANES / KEY_LANES;
    const ushort *keys = rows.keys + (long long)first * ZM_HEAD_DIM,
                 *values = rows.values + (long long)first * ZM_HEAD_DIM;
    lane_vector k[KEYS], v[KEYS];
    auto load = [&](lane_vector (&to)[KEYS], const ushort *from, int key) {
#pragma unroll
        for (int i = 0; i < KEYS; i++) {
            int row = key + i * STEP;
            to[i] = lane_vector{};
            if (row < rows.n) to[i] = load_lane(from + i * STEP * ZM_HEAD_DIM, lane);
        }
    };
    load(k, keys, first);
    load(v, values, first);
    ready();
    attention_state<HEADS> state;
    bool sink = sinks && first == 0;
    int own_head = lane / HEAD_LANES;
    float most = -3.402823466e+38f;
    if (own_head >= n_sinks) own_head = n_sinks - 1;
    if (sink) most = float(1.44269504088896340736 * double(widen(__ldg(sinks + own_head))));
    float q[HEADS][LANE_DIM];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        lane_vector own = load_lane((const ushort *)token.ready[token.QUERY + h], lane);
        state.sum[h] = sink ? 1.0f : 0.0f;
#pragma unroll
        for (int j = 0; j < LANE_DIM; j++) q[h][j] = scale_log2 * element(own, j), state.value[h][j] = 0.0f;
    }
#pragma unroll 1
    for (int key = first; key < rows.n; key += ALL) {
        int own = rows.own - key;
        if (own >= 0 && own < ALL && own % STEP == 0) {
#pragma unroll
            for (int i = 0; i < KEYS; i++)
                if (own == i * STEP) {
                    k[i] = load_lane((const ushort *)token.ready[token.KEY], lane);
                    v[i] = load_lane((const ushort *)token.ready[token.VALUE], lane);
                }
        }
        float scores[HEADS * KEYS];
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
#pragma unroll
            for (int i = 0; i < KEYS; i++) {
                float score = 0.0f;
#pragma unroll
                for (int j = 0; j < LANE_DIM; j++) score = fmaf(q[h][j], element(k[i], j), score);
                scores[h * KEYS + i] = score;
            }
        }
        keys += ALL * ZM_HEAD_DIM;
        load(k, keys, key + ALL);
        bool in = key + place * STEP < rows.n;
        float score = transposed_sums(scores, lane), largest = in ? score : __uint_as_float(0xff800000u);
        score = largest;
#pragma unroll
        for (int step = KEY_LANES; step < HEAD_LANES; step *= 2) {
            float before = __shfl_up_sync(~0u, largest, step, HEAD_LANES);
            if (lane % HEAD_LANES >= step) largest = fmaxf(before, largest);
        }
        largest = fmaxf(most, largest);
        float before = __shfl_up_sync(~0u, largest, KEY_LANES, HEAD_LANES);
        if (place == 0) before = most;
        /* Behind the last key: what leaves every sum as it is, -0 too. */
        float share = in ? exp2f(score - largest) : -0.0f;
        if (lane % KEY_LANES == 0) shares[lane / KEY_LANES] = make_float2(exp2f(before - largest), share);
        most = __shfl_sync(~0u, largest, HEAD_LANES - 1, HEAD_LANES);
        __syncwarp();
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
#pragma unroll
            for (int i = 0; i < KEYS; i += 2) {
                float4 two = *(const float4 *)(shares + h * KEYS + i);
                state.sum[h] = fmaf(two.x, state.sum[h], two.y);
#pragma unroll
                for (int j = 0; j < LANE_DIM; j++)
                    state.value[h][j] = fmaf(two.x, state.value[h][j], two.y * element(v[i], j));
                state.sum[h] = fmaf(two.z, state.sum[h], two.w);
#pragma unroll
                for (int j = 0; j < LANE_DIM; j++)
                    state.value[h][j] = fmaf(two.z, state.value[h][j], two.w * element(v[i + 1], j));
            }
        }
        __syncwarp(); /* the shares have been read */
        values += ALL * ZM_HEAD_DIM;
        load(v, values, key + ALL);
    }
#pragma unroll
    for (int h = 0; h < HEADS; h++) state.most[h] = __shfl_sync(~0u, most, h * HEAD_LANES);
    return state;
}

/* Attention of more keys than decode_attention_short.cuh's, in two kernels: this one has LONG_BLOCKS blocks for
 * LONG_HEADS heads of a group; each leaves, for each of them, its largest score, its sum and its values. */
ZM_KERNEL(LONG_WARPS *WARP, LONG_RESIDENT)
zm_attention_parts(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs, ushort *keys,
                   ushort *values, const ushort *sinks, float *part_most, float *part_sums, float *part_values,
                   float eps, float log2_base, float input_scale, int offset, float position_scale, int n_heads,
                   int n_kv_heads, int row, int rows, float scale_log2, int n ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    enum { COLUMNS = LONG_HEADS * LANE_DIM };
    __shared__ float parts[COLUMNS][LONG_WARPS][WARP], mosts[LONG_HEADS][LONG_WARPS], sums[LONG_HEADS][LONG_WARPS];
    __shared__ alignas(16) float2 shares[LONG_WARPS][WARP];
    __shared__ token_heads<LONG_HEADS> token;
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP;
    int group = n_heads / n_kv_heads, pieces = (group + LONG_HEADS - 1) / LONG_HEADS; /* of a group */
    int piece = int(blockIdx.x) / LONG_BLOCKS, block = int(blockIdx.x) % LONG_BLOCKS;
    int kv_head = piece / pieces, first = piece % pieces * LONG_HEADS, head = kv_head * group + first;
    int count = group - first < LONG_HEADS ? group - first : LONG_HEADS;
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    long long cache = (long long)kv_head * rows * ZM_HEAD_DIM;
    attention_state<LONG_HEADS> state = attend<
        LONG_HEADS, LONG_KEYS, LONG_BLOCKS * LONG_WARPS>(token, {keys + cache, values + cache, n, row},
                                                         sinks ? sinks + head : nullptr, count, scale_log2,
                                                         block * LONG_WARPS + warp, shares[warp], lane, [&] {
                                                             token.prepare(all, head, kv_head, token.ready[token.KEY],
                                                                           token.ready[token.VALUE],
                                                                           first == 0 && block == 0, freqs, log2_base,
                                                                           position_scale * float(offset), lane, warp,
                                                                           [] {});
                                                         });
    begin_next();
    if (lane == 0) {
#pragma unroll
        for (int h = 0; h < LONG_HEADS; h++) mosts[h][warp] = state.most[h], sums[h][warp] = state.sum[h];
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < LONG_HEADS; h++) {
        float most = lane < LONG_WARPS ? mosts[h][lane] : -1e9f, largest = warp_most(most);
        float sum = warp_sum((lane < LONG_WARPS ? sums[h][lane] : 0.0f) * exp2f(most - largest));
        if (threadIdx.x == 0 && h < count) {
            part_most[(head + h) * LONG_BLOCKS + block] = largest;
            part_sums[(head + h) * LONG_BLOCKS + block] = sum;
        }
        float factor = exp2f(state.most[h] - largest);
#pragma unroll
        for (int i = 0; i < LANE_DIM; i++) parts[h * LANE_DIM + i][warp][lane] = state.value[h][i] * factor;
    }
    __syncthreads();
#pragma unroll
    for (int column = warp; column < COLUMNS; column += LONG_WARPS) {
        float total = parts[column][0][lane];
#pragma unroll
        for (int j = 1; j < LONG_WARPS; j++) total += parts[column][j][lane];
        int part = (head + column / LANE_DIM) * LONG_BLOCKS + block;
        if (column / LANE_DIM < count) part_values[part * ZM_HEAD_DIM + LANE_DIM * lane + column % LANE_DIM] = total;
    }
}

/* Merges what zm_attention_parts left. A block a head. */
ZM_KERNEL(LONG_BLOCKS *WARP)
zm_attention_merge(const float *part_most, const float *part_sums, const float *part_values, ushort *y ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    __shared__ float parts[LANE_DIM][LONG_BLOCKS][WARP + 1];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = blockIdx.x;
    wait_for_last();
    float value[LANE_DIM];
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++)
        value[i] = *(const volatile float *)(part_values + (head * LONG_BLOCKS + warp) * ZM_HEAD_DIM + LANE_DIM * lane +
                                             i);
    float most = *(const volatile float *)(part_most + head * LONG_BLOCKS + lane);
    float sum = *(const volatile float *)(part_sums + head * LONG_BLOCKS + lane);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) parts[i][warp][lane] = value[i];
    float factor = exp2f(most - warp_most(most));
    sum = warp_sum(sum * factor);
    float inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        float merged = warp_sum(parts[i][lane][warp] * factor) * inverse;
        if (lane == 0) y[head * ZM_HEAD_DIM + LANE_DIM * warp + i] = narrow(merged);
    }
}
#endif
