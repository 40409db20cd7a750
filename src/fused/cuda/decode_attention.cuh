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

/* qkv: n_heads queries, n_kv_heads keys and as many values, of dim elements. Queries go to queries, keys and values to row
 * `offset` of caches (n_kv_heads, rows, dim). Norm weights NULL: no norm; freqs (dim / 2) NULL: those of the base. */
ZM_KERNEL(HEAD_WARPS * WARP) zm_heads(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs,
                                      ushort *queries, ushort *keys, ushort *values, float eps, float log2_base,
                                      int offset, float position_scale, int n_heads, int n_kv_heads, int rows) {
    enum { VECTORS = ZM_HEAD_DIM / 8, HALF = ZM_HEAD_DIM / 2 };
    __shared__ uint4 heads[HEAD_WARPS][VECTORS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = int(blockIdx.x) * HEAD_WARPS + warp;
    float position = position_scale * float(offset), cosine[HALF / WARP], sine[HALF / WARP];
#pragma unroll
    for (int i = 0; i < HALF / WARP; i++) {
        int element = i * WARP + lane;
        float frequency = freqs ? float(1.0 / double(__ldg(freqs + element)))
                                : exp2f(-(float(element) / float(HALF)) * log2_base);
        float theta = position * frequency;
        cosine[i] = cosf(theta);
        sine[i] = sinf(theta);
    }
    wait_for_last();
    if (head >= n_heads + 2 * n_kv_heads) return;
    bool in = lane < VECTORS, is_query = head < n_heads, is_value = head >= n_heads + n_kv_heads;
    uint4 v = in ? read_fresh(qkv + head * VECTORS + lane) : make_uint4(0, 0, 0, 0);
    if (is_value) {
        uint4 *to = (uint4 *)values + ((long long)(head - n_heads - n_kv_heads) * rows + offset) * VECTORS;
        if (in) to[lane] = v;
        return;
    }
    const uint4 *norm = is_query ? q_norm : k_norm;
    if (norm) v = norm_head_vector(v, norm, eps, lane, in);
    if (in) heads[warp][lane] = v;
    __syncwarp();
    const ushort *x = (const ushort *)heads[warp];
    ushort *to = queries + head * ZM_HEAD_DIM;
    if (!is_query) to = keys + ((long long)(head - n_heads) * rows + offset) * ZM_HEAD_DIM;
#pragma unroll
    for (int i = 0; i < HALF / WARP; i++) {
        int element = i * WARP + lane;
        float a = widen(x[element]), b = widen(x[element + HALF]);
        to[element] = narrow(fmaf(a, cosine[i], -(b * sine[i])));
        to[element + HALF] = narrow(fmaf(a, sine[i], b * cosine[i]));
    }
}

/* MLX's vector attention has KEY_WARPS warps a head for up to 1024 keys, for more LONG_WARPS in each of LONG_BLOCKS blocks.
 * They take turns with the keys; a lane has LANE_DIM neighbours of a head. */
enum {
    LANE_DIM = ZM_HEAD_DIM / WARP,
    KEY_WARPS = 32,
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

/* The keys first, first + step, ... below n. */
ZM_FUNCTION attention_state attend(const ushort *query, const ushort *keys, const ushort *values, float scale_log2,
                                   int first, int step, int n, int lane) {
    attention_state state;
    state.most = -3.402823466e+38f;
    state.sum = 0.0f;
    float q[LANE_DIM];
    lane_vector own = load_lane(query, lane);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) {
        q[i] = scale_log2 * element(own, i);
        state.value[i] = 0.0f;
    }
    for (int key = first; key < n; key += step * KEYS_AT_ONCE) {
        lane_vector k[KEYS_AT_ONCE], v[KEYS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            long long row = key + i * step < n ? key + i * step : key;
            k[i] = load_lane(keys + row * ZM_HEAD_DIM, lane);
            v[i] = load_lane(values + row * ZM_HEAD_DIM, lane);
        }
        float scores[KEYS_AT_ONCE];
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            float score = 0.0f;
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) score = fmaf(q[j], element(k[i], j), score);
            scores[i] = warp_sum(score);
        }
#pragma unroll
        for (int i = 0; i < KEYS_AT_ONCE; i++) {
            if (key + i * step >= n) break;
            float most = fmaxf(state.most, scores[i]), factor = exp2f(state.most - most), share = exp2f(scores[i] - most);
            state.most = most;
            state.sum = fmaf(factor, state.sum, share);
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) state.value[j] = fmaf(factor, state.value[j], share * element(v[i], j));
        }
    }
    return state;
}

ZM_FUNCTION float warp_most(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane; lane /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, lane));
    return value;
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

/* y (n_heads, dim) = attention of queries over the first n rows of the caches (n_kv_heads, rows, dim); n <= 1024. A block
 * a head. */
ZM_KERNEL(KEY_WARPS * WARP) zm_attention(const ushort *queries, const ushort *keys, const ushort *values, ushort *y,
                                         float scale, int n, int rows, int group) {
    __shared__ float most[KEY_WARPS], sums[KEY_WARPS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, head = blockIdx.x;
    long long cache = (long long)(head / group) * rows * ZM_HEAD_DIM;
    float scale_log2 = float(double(scale) * 1.44269504088896340736);
    wait_for_last();
    attention_state state = attend(queries + head * ZM_HEAD_DIM, keys + cache, values + cache, scale_log2, warp, KEY_WARPS, n,
                                   lane);
    if (lane == 0) {
        most[warp] = state.most;
        sums[warp] = state.sum;
    }
    __syncthreads();
    merge_parts(y + head * ZM_HEAD_DIM, state.value, most[lane], sums[lane], lane, warp);
}

/* The same for more keys, in two kernels: this one has LONG_BLOCKS blocks a head; each leaves its largest score, its sum and
 * its values. */
ZM_KERNEL(LONG_WARPS * WARP) zm_attention_parts(const ushort *queries, const ushort *keys, const ushort *values,
                                                float *part_most, float *part_sums, float *part_values, float scale, int n,
                                                int rows, int group) {
    __shared__ float parts[LONG_WARPS][WARP + 1], mosts[LONG_WARPS], sums[LONG_WARPS];
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP;
    int head = int(blockIdx.x) / LONG_BLOCKS, block = int(blockIdx.x) % LONG_BLOCKS;
    long long cache = (long long)(head / group) * rows * ZM_HEAD_DIM;
    float scale_log2 = scale * 1.44269504089f;
    wait_for_last();
    attention_state state = attend(queries + head * ZM_HEAD_DIM, keys + cache, values + cache, scale_log2,
                                   block * LONG_WARPS + warp, LONG_BLOCKS * LONG_WARPS, n, lane);
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
