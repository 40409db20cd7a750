#if ZM_K == ZM_HIDDEN
/* Attention of one query: what it reads (norms of heads, rotary embedding, the write into the caches), and itself. */
enum { HEAD_WARPS = 4 };

/* The norm of a head, as MLX spreads it: 8 elements a lane. */
ZM_FUNCTION uint4 norm_head_vector(uint4 v, const uint4 *norm, float eps, int lane, bool in) {
    uint4 weight = in ? __ldg(norm + lane) : make_uint4(0, 0, 0, 0);
    float sum = warp_sum(add_square(add_square(add_square(add_square(0.0f, v.x), v.y), v.z), v.w));
    float factor = rsqrtf(sum / float(ZM_HEAD_DIM) + eps);
    return make_uint4(scale_pair(v.x, weight.x, factor), scale_pair(v.y, weight.y, factor),
                      scale_pair(v.z, weight.z, factor), scale_pair(v.w, weight.w, factor));
}

/* The rotary embedding at one position: a lane has elements lane, lane + WARP, ... of each half of a head. freqs (dim / 2)
 * NULL: those of the base. */
enum { HEAD_VECTORS = ZM_HEAD_DIM / 8, HALF = ZM_HEAD_DIM / 2, LANE_ANGLES = HALF / WARP };
struct rotation {
    float cosine[LANE_ANGLES], sine[LANE_ANGLES];

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
    }
    /* Of the head x, in shared memory, to `to` and, if not NULL, also to `copy`. */
    ZM_FUNCTION void apply(const ushort *x, ushort *to, ushort *copy, int lane) const {
#pragma unroll
        for (int i = 0; i < LANE_ANGLES; i++) {
            int element = i * WARP + lane;
            float a = widen(x[element]), b = widen(x[element + HALF]);
            ushort first = narrow(fmaf(a, cosine[i], -(b * sine[i]))), second = narrow(fmaf(a, sine[i], b * cosine[i]));
            to[element] = first;
            to[element + HALF] = second;
            if (copy) copy[element] = first, copy[element + HALF] = second;
        }
    }
};

/* What a head reads and writes. qkv: n_heads queries, n_kv_heads keys and as many values. Norm weights NULL: no norm. Queries
 * and keys are multiplied by input_scale. The caches are (n_kv_heads, rows, dim), of which `row` is the token's. */
struct head_arguments {
    const uint4 *qkv, *q_norm, *k_norm;
    ushort *keys, *values;
    float eps, input_scale;
    int row, n_heads, n_kv_heads, rows;

    ZM_FUNCTION ushort *cache_row(ushort *cache, int kv_head) const {
        return cache + ((long long)kv_head * rows + row) * ZM_HEAD_DIM;
    }
    /* Head `head` of qkv, normed, into shared memory at x, by one warp. */
    ZM_FUNCTION void read(uint4 *x, int head, int lane) const {
        bool in = lane < HEAD_VECTORS;
        uint4 v = in ? read_fresh(qkv + head * HEAD_VECTORS + lane) : make_uint4(0, 0, 0, 0);
        const uint4 *norm = head < n_heads ? q_norm : k_norm;
        if (norm && head < n_heads + n_kv_heads) v = norm_head_vector(v, norm, eps, lane, in);
        if (input_scale != 1.0f && head < n_heads + n_kv_heads) {
            uint factor = pack(input_scale, input_scale);
            v = make_uint4(multiply2(v.x, factor), multiply2(v.y, factor), multiply2(v.z, factor), multiply2(v.w, factor));
        }
        if (in) x[lane] = v;
        __syncwarp();
    }
};

/* Queries of the token at `offset` go to queries, keys and values to their row of the caches. A warp a head. */
ZM_KERNEL(HEAD_WARPS * WARP) zm_heads(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs,
                                      ushort *queries, ushort *keys, ushort *values, float eps, float log2_base,
                                      float input_scale, int offset, float position_scale, int n_heads, int n_kv_heads,
                                      int row, int rows) {
    __shared__ uint4 heads[HEAD_WARPS][HEAD_VECTORS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = int(blockIdx.x) * HEAD_WARPS + warp;
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    rotation rotate(freqs, log2_base, position_scale * float(offset), lane);
    wait_for_last();
    if (head >= n_heads + 2 * n_kv_heads) return;
    all.read(heads[warp], head, lane);
    const ushort *x = (const ushort *)heads[warp];
    int kv_head = head - n_heads;
    if (head < n_heads) rotate.apply(x, queries + head * ZM_HEAD_DIM, nullptr, lane);
    else if (kv_head < n_kv_heads) rotate.apply(x, all.cache_row(keys, kv_head), nullptr, lane);
    else if (lane < HEAD_VECTORS) ((uint4 *)all.cache_row(values, kv_head - n_kv_heads))[lane] = heads[warp][lane];
}

/* MLX's vector attention has KEY_WARPS warps a head for up to 1024 keys (here in a cluster of blocks), for more LONG_WARPS
 * in each of LONG_BLOCKS blocks. They take turns with the keys; a lane has LANE_DIM neighbours of a head. */
enum {
    LANE_DIM = ZM_HEAD_DIM / WARP,
    KEY_WARPS = 32,
    HEAD_BLOCKS = 4,
    BLOCK_WARPS = KEY_WARPS / HEAD_BLOCKS,
    LONG_BLOCKS = 32,
    LONG_WARPS = 8,
    KEYS_AT_ONCE = 4, /* whose loads and products overlap; their order in the sums stays */
};

struct attention_state {
    float most, sum, value[LANE_DIM];
};

struct lane_vector {
    uint words[(LANE_DIM + 1) / 2];
};

ZM_FUNCTION lane_vector load_lane(const ushort *head, int lane) {
    lane_vector v;
#pragma unroll
    for (int i = 0; i < LANE_DIM / 2; i++) v.words[i] = *(const volatile uint *)(head + LANE_DIM * lane + 2 * i);
    return v;
}
ZM_FUNCTION float element(const lane_vector &v, int i) { return i % 2 ? high(v.words[i / 2]) : low(v.words[i / 2]); }

/* Keys and values of one head: n rows of the caches, but row `own` (-1: none) from elsewhere. */
struct key_rows {
    const ushort *keys, *values, *own_key, *own_value;
    int n, own;
};

/* The keys first, first + step, ... below n. Those of the caches that come first are read before ready(). sink (NULL: none):
 * the head's, which takes part as a score without a value in the sums of key 0. */
template <typename Ready>
ZM_FUNCTION attention_state attend(const ushort *query, const key_rows &rows, const ushort *sink, float scale_log2, int first,
                                   int step, int lane, Ready ready) {
    attention_state state;
    bool sinks = sink && first == 0;
    state.most = sinks ? float(1.44269504088896340736 * double(widen(__ldg(sink)))) : -3.402823466e+38f;
    state.sum = sinks ? 1.0f : 0.0f;
    lane_vector k[KEYS_AT_ONCE], v[KEYS_AT_ONCE];
    auto load = [&](int key) {
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            long long row = key + i * step;
            if (row >= rows.n || row == rows.own) continue;
            k[i] = load_lane(rows.keys + row * ZM_HEAD_DIM, lane);
            v[i] = load_lane(rows.values + row * ZM_HEAD_DIM, lane);
        }
    };
    load(first);
    ready();
    float q[LANE_DIM];
    lane_vector own = load_lane(query, lane);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        q[i] = scale_log2 * element(own, i);
        state.value[i] = 0.0f;
    }
#pragma unroll 1
    for (int key = first; key < rows.n; key += step * KEYS_AT_ONCE) {
        if (key != first) load(key);
        float scores[KEYS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            if (key + i * step == rows.own) {
                k[i] = load_lane(rows.own_key, lane);
                v[i] = load_lane(rows.own_value, lane);
            }
            float score = 0.0f;
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) score = fmaf(q[j], element(k[i], j), score);
            scores[i] = warp_sum(score);
        }
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            if (key + i * step >= rows.n) break;
            float most = fmaxf(state.most, scores[i]), factor = exp2f(state.most - most), share = exp2f(scores[i] - most);
            state.most = most;
            state.sum = fmaf(factor, state.sum, share);
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) state.value[j] = fmaf(factor, state.value[j], share * element(v[i], j));
        }
    }
    return state;
}

/* y = the head's values merged: warp w has those of part w, whose largest score and sum are in lane w of most and sum. */
ZM_FUNCTION void merge_parts(ushort *y, const float *value, float most, float sum, int lane, int warp) {
    __shared__ float parts[WARP][WARP + 1];
    float factor = exp2f(most - warp_most(most));
    sum = warp_sum(sum * factor);
    float inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        parts[lane][warp] = value[i];
        __syncthreads();
        float merged = warp_sum(parts[warp][lane] * factor) * inverse;
        if (lane == 0) y[LANE_DIM * warp + i] = narrow(merged);
        __syncthreads();
    }
}

/* y (n_heads, dim) = attention over the first n <= 1024 rows of the caches, one of them this token's: what zm_heads does goes
 * on here, in each block of a query head's cluster; the first of a group writes the caches. sinks: a head's each, or NULL. */
extern "C" __global__ void __cluster_dims__(HEAD_BLOCKS) __launch_bounds__(BLOCK_WARPS *WARP)
    zm_attention(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs, ushort *keys,
                 ushort *values, const ushort *sinks, ushort *y, float eps, float log2_base, float input_scale, int offset,
                 float position_scale, int n_heads, int n_kv_heads, int row, int rows, float scale, int n) {
    enum { QUERY, KEY, VALUE, PARTS };
    __shared__ float most[KEY_WARPS], sums[KEY_WARPS], parts[LANE_DIM][BLOCK_WARPS][KEY_WARPS + 1];
    __shared__ uint4 read[PARTS][HEAD_VECTORS], ready[PARTS][HEAD_VECTORS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP;
    int head = int(blockIdx.x) / HEAD_BLOCKS, block = int(blockIdx.x) % HEAD_BLOCKS, place = block * BLOCK_WARPS + warp;
    int group = n_heads / n_kv_heads, kv_head = head / group;
    bool writes = head % group == 0 && block == 0;
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    long long cache = (long long)kv_head * rows * ZM_HEAD_DIM;
    key_rows own = {keys + cache, values + cache, (const ushort *)ready[KEY], (const ushort *)ready[VALUE], n, row};
    float scale_log2 = float(double(scale) * 1.44269504088896340736);
    begin_cluster();
    auto prepare = [&] {
        if (warp < PARTS) {
            rotation rotate(freqs, log2_base, position_scale * float(offset), lane);
            wait_for_last();
            all.read(read[warp], warp == QUERY ? head : n_heads + (warp == KEY ? 0 : n_kv_heads) + kv_head, lane);
            const ushort *x = (const ushort *)read[warp];
            if (warp == QUERY) rotate.apply(x, (ushort *)ready[QUERY], nullptr, lane);
            if (warp == KEY) rotate.apply(x, (ushort *)ready[KEY], writes ? all.cache_row(keys, kv_head) : nullptr, lane);
            if (warp == VALUE && lane < HEAD_VECTORS) {
                ready[VALUE][lane] = read[VALUE][lane];
                if (writes) ((uint4 *)all.cache_row(values, kv_head))[lane] = read[VALUE][lane];
            }
        } else {
            wait_for_last();
        }
        __syncthreads();
    };
    attention_state state = attend((const ushort *)ready[QUERY], own, sinks ? sinks + head : nullptr, scale_log2, place,
                                   KEY_WARPS, lane, prepare);
    wait_for_cluster(); /* all blocks have begun */
    /* Lane l's elements are merged by warp l of the cluster. */
    if (lane < HEAD_BLOCKS) {
        store_to_block(lane, most + place, __float_as_uint(state.most));
        store_to_block(lane, sums + place, __float_as_uint(state.sum));
    }
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++)
        store_to_block(lane / BLOCK_WARPS, &parts[i][lane % BLOCK_WARPS][place], __float_as_uint(state.value[i]));
    arrive_at_cluster();
    wait_for_cluster();
    float factor = exp2f(most[lane] - warp_most(most[lane])), sum = warp_sum(sums[lane] * factor);
    float inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        float merged = warp_sum(parts[i][warp][lane] * factor) * inverse;
        if (lane == 0) y[head * ZM_HEAD_DIM + LANE_DIM * place + i] = narrow(merged);
    }
}

/* The same for more keys, in two kernels: this one has LONG_BLOCKS blocks a head; each leaves its largest score, its sum and
 * its values. */
ZM_KERNEL(LONG_WARPS * WARP) zm_attention_parts(const ushort *queries, const ushort *keys, const ushort *values,
                                                const ushort *sinks, float *part_most, float *part_sums, float *part_values,
                                                float scale, int n, int rows, int group) {
    __shared__ float parts[LONG_WARPS][WARP + 1], mosts[LONG_WARPS], sums[LONG_WARPS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP;
    int head = int(blockIdx.x) / LONG_BLOCKS, block = int(blockIdx.x) % LONG_BLOCKS;
    long long cache = (long long)(head / group) * rows * ZM_HEAD_DIM;
    float scale_log2 = scale * 1.44269504089f;
    wait_for_last(); /* the token's key is from the kernel before */
    attention_state state = attend(queries + head * ZM_HEAD_DIM, {keys + cache, values + cache, nullptr, nullptr, n, -1},
                                   sinks ? sinks + head : nullptr, scale_log2, block * LONG_WARPS + warp,
                                   LONG_BLOCKS * LONG_WARPS, lane, [] {});
    if (lane == 0) {
        mosts[warp] = state.most;
        sums[warp] = state.sum;
    }
    __syncthreads();
    float most = lane < LONG_WARPS ? mosts[lane] : -1e9f, largest = warp_most(most);
    float sum = warp_sum((lane < LONG_WARPS ? sums[lane] : 0.0f) * exp2f(most - largest));
    int part = head * LONG_BLOCKS + block;
    if (threadIdx.x == 0) {
        part_most[part] = largest;
        part_sums[part] = sum;
    }
    float factor = exp2f(mosts[warp] - largest);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        parts[warp][lane] = state.value[i] * factor;
        __syncthreads();
        if (warp == 0) {
            float total = parts[0][lane];
#pragma unroll
            for (int j = 1; j < LONG_WARPS; j++) total += parts[j][lane];
            part_values[part * ZM_HEAD_DIM + LANE_DIM * lane + i] = total;
        }
        __syncthreads();
    }
}

/* Merges what zm_attention_parts left. A block a head. */
ZM_KERNEL(LONG_BLOCKS * WARP) zm_attention_merge(const float *part_most, const float *part_sums, const float *part_values,
                                                 ushort *y) {
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = blockIdx.x;
    wait_for_last();
    float value[LANE_DIM];
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++)
        value[i] = *(const volatile float *)(part_values + (head * LONG_BLOCKS + warp) * ZM_HEAD_DIM + LANE_DIM * lane + i);
    float most = *(const volatile float *)(part_most + head * LONG_BLOCKS + lane);
    float sum = *(const volatile float *)(part_sums + head * LONG_BLOCKS + lane);
    merge_parts(y + head * ZM_HEAD_DIM, value, most, sum, lane, warp);
}
#endif
