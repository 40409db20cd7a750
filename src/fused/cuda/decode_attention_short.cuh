#if ZM_K == ZM_HIDDEN
/* Attention of one query and up to 1024 keys, behind decode_attention.cuh. */

/* A warp's rows of up to KEY_WARPS * WARP keys and values of one head: place, place + KEY_WARPS, ... below n. They are
 * copied to shared memory while the kernel before is at work, so that little but arithmetic is left behind it.
 *
 * Scores are computed by quarters of the warp, each of one key at a time. A lane multiplies what four lanes of MLX's
 * would, in PARTS, of which quarters take turns: they read their rows from different banks. The sums are of the same
 * pairs in each. */
struct kept_rows {
    enum {
        PARTS = 4,
        PART_LANES = WARP / PARTS,
        STEP = BLOCK_WARPS * HEAD_VECTORS, /* vectors from one of a warp's rows to the next */
    };
    const uint4 *keys, *values; /* the warp's first rows */
    int count;

    /* Lane i's: the product of the query with key i, in the order of warp_sum. */
    ZM_FUNCTION float scores(const uint4 *query, float scale_log2, int lane) const {
        const int quarter = lane / PART_LANES, own = lane % PART_LANES;
        float q[PARTS][LANE_DIM], sums[PART_LANES];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            lane_vector v = shared_lane(query, (part ^ quarter) * PART_LANES + own);
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) q[part][j] = scale_log2 * element(v, j);
        }
#pragma unroll
        for (int i = 0; i < PART_LANES; i++) {
            sums[i] = 0.0f;
            if (i * PARTS < count) {
                const uint4 *row = keys + (i * PARTS + quarter) * STEP;
                float parts[PARTS];
#pragma unroll
                for (int part = 0; part < PARTS; part++) {
                    lane_vector k = shared_lane(row, (part ^ quarter) * PART_LANES + own);
                    parts[part] = 0.0f;
#pragma unroll
                    for (int j = 0; j < LANE_DIM; j++) parts[part] = fmaf(q[part][j], element(k, j), parts[part]);
                }
                sums[i] = (parts[0] + parts[2]) + (parts[1] + parts[3]);
            }
        }
        float sum = transposed_sums<PART_LANES, PART_LANES / 2>(sums, lane); /* of key own * PARTS + quarter */
        return __shfl_sync(~0u, sum, lane % PARTS * PART_LANES + lane / PARTS);
    }
};

/* A warp's keys and a query, as attend() has them; sink: whether `sink_score` takes part. */
ZM_FUNCTION attention_state<1> attend_kept(const kept_rows &rows, const uint4 *query, bool sink, float sink_score,
                                           float scale_log2, float2 *shares, int lane) {
    enum { AT_ONCE = kept_rows::PARTS };
    attention_state<1> state;
    float score = rows.scores(query, scale_log2, lane), most = sink ? sink_score : -3.402823466e+38f;
    bool in = lane < rows.count;
    float largest = in ? score : __uint_as_float(0xff800000u);
#pragma unroll
    for (int step = 1; step < WARP; step *= 2) {
        float before = __shfl_up_sync(~0u, largest, step);
        if (lane >= step) largest = fmaxf(before, largest);
    }
    largest = fmaxf(most, largest);
    float before = __shfl_up_sync(~0u, largest, 1);
    if (lane == 0) before = most;
    /* Behind the last key: what leaves every sum as it is, -0 too. */
    shares[lane] = make_float2(exp2f(before - largest), in ? exp2f(score - largest) : -0.0f);
    state.most[0] = __shfl_sync(~0u, largest, WARP - 1);
    state.sum[0] = sink ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_DIM; j++) state.value[0][j] = 0.0f;
    __syncwarp();
    const uint4 *values = rows.values;
#pragma unroll 2
    for (int key = 0; key < rows.count; key += AT_ONCE, values += AT_ONCE * kept_rows::STEP) {
        lane_vector v[AT_ONCE];
        float4 two[AT_ONCE / 2];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) v[i] = shared_lane(values + i * kept_rows::STEP, lane);
#pragma unroll
        for (int i = 0; i < AT_ONCE / 2; i++) two[i] = *(const float4 *)(shares + key + i * 2);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float factor = i % 2 ? two[i / 2].z : two[i / 2].x, share = i % 2 ? two[i / 2].w : two[i / 2].y;
            state.sum[0] = fmaf(factor, state.sum[0], share);
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++)
                state.value[0][j] = fmaf(factor, state.value[0][j], share * element(v[i], j));
        }
    }
    return state;
}

/* y (n_heads, dim) = attention over the first n <= 1024 rows of the caches, one of them this token's: what zm_heads
 * does goes on here, in each block of a cluster, which has as many heads as there are BLOCK_WARPS in a block; the first
 * of a group writes the caches. sinks: a head's each, or NULL. Dynamic shared memory: n_keys keys and as many values
 * for each of BLOCK_WARPS, a multiple of PARTS. is_early: the next kernel begins before this one may read. */
extern "C" __global__ void __cluster_dims__(HEAD_BLOCKS) __launch_bounds__(BLOCK_HEADS *BLOCK_WARPS *WARP)
    zm_attention(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs, ushort *keys,
                 ushort *values, const ushort *sinks, ushort *y, float eps, float log2_base, float input_scale,
                 int offset, float position_scale, int n_heads, int n_kv_heads, int row, int rows, float scale, int n,
                 int n_keys, int is_early ZM_STAMPED) {
    ZM_STAMP_BLOCK;
    typedef token_heads<BLOCK_HEADS> heads;
    enum { ROW_BYTES = ZM_HEAD_DIM * 2 };
    __shared__ alignas(16) float parts[BLOCK_HEADS][BLOCK_WARPS][KEY_WARPS][LANE_DIM];
    __shared__ alignas(8) float ends[BLOCK_HEADS][KEY_WARPS][2]; /* largest scores and sums */
    __shared__ unsigned long long copied, arrivals;
    __shared__ alignas(16) float2 shares[BLOCK_HEADS * BLOCK_WARPS][WARP];
    __shared__ heads token;
    int lane = int(threadIdx.x) % WARP, warp = int(threadIdx.x) / WARP, slot = warp / BLOCK_WARPS;
    int block_heads = int(blockDim.x) / (BLOCK_WARPS * WARP), block = int(blockIdx.x) % HEAD_BLOCKS;
    int first_head = int(blockIdx.x) / HEAD_BLOCKS * block_heads, head = first_head + slot;
    int group = n_heads / n_kv_heads, kv_head = head / group;
    int first_place = block * BLOCK_WARPS, place = first_place + warp % BLOCK_WARPS;
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    bool copies = threadIdx.x == blockDim.x - WARP;
    if (copies) {
        int last = n % KEY_WARPS - first_place;
        last = last < 0 ? 0 : last < BLOCK_WARPS ? last : BLOCK_WARPS;
        begin_arrivals(&copied, uint(n / KEY_WARPS * BLOCK_WARPS + last) * 2 * ROW_BYTES);
        begin_arrivals(&arrivals, block_heads * (sizeof parts[0] + sizeof ends[0]));
    }
    uint4 *kept_values = staged + n_keys * kept_rows::STEP;
    const kept_rows kept = {staged + warp % BLOCK_WARPS * HEAD_VECTORS, kept_values + warp % BLOCK_WARPS * HEAD_VECTORS,
                            (n - place + KEY_WARPS - 1) / KEY_WARPS};
    /* Products meet whole PARTS of rows. */
    for (int i = kept.count; i % kept_rows::PARTS; i++)
        if (slot == 0 && lane < HEAD_VECTORS)
            kept_values[i * kept_rows::STEP + warp * HEAD_VECTORS + lane] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    begin_cluster();
    if (copies) {
        const long long first = ((long long)kv_head * rows + first_place) * ZM_HEAD_DIM;
#pragma unroll 1
        for (int i = 0; i * KEY_WARPS + first_place < n; i++) {
            int left = n - i * KEY_WARPS - first_place;
            uint bytes = uint(left < BLOCK_WARPS ? left : BLOCK_WARPS) * ROW_BYTES;
            copy_rows(staged + i * kept_rows::STEP, keys + first + i * (KEY_WARPS * ZM_HEAD_DIM), bytes, &copied);
            copy_rows(kept_values + i * kept_rows::STEP, values + first + i * (KEY_WARPS * ZM_HEAD_DIM), bytes,
                      &copied);
        }
    }
    if (is_early) begin_next();
    bool sink = sinks && place == 0;
    float sink_score = sink ? float(1.44269504088896340736 * double(widen(__ldg(sinks + head)))) : 0.0f;
    float scale_log2 = float(double(scale) * 1.44269504088896340736);
    asm volatile("" : "+f"(sink_score), "+f"(scale_log2)); /* now */
    wait_for_cluster(); /* all blocks have begun */
    int token_place = row % KEY_WARPS - first_place; /* of a head's warps here: whose row is the token's */
    uint4 *key = nullptr, *value = nullptr;
    if (token_place >= 0 && token_place < BLOCK_WARPS) {
        key = staged + row / KEY_WARPS * kept_rows::STEP + token_place * HEAD_VECTORS;
        value = key + n_keys * kept_rows::STEP;
    }
    token.prepare(all, first_head, kv_head, key, value, first_head % group == 0, freqs, log2_base,
                  position_scale * float(offset), lane, warp, [&] { wait_for_arrivals(&copied); });
    stamp(STAMP_READY);
    if (!is_early) begin_next();
    attention_state<1> state =
        attend_kept(kept, token.ready[heads::QUERY + slot], sink, sink_score, scale_log2, shares[warp], lane);
    /* Lane l's elements are merged by warp l of the head. */
    if (lane < HEAD_BLOCKS) {
        const float end[2] = {state.most[0], state.sum[0]};
        send_to_block(lane, ends[slot][place], end, &arrivals);
    }
    send_to_block(lane / BLOCK_WARPS, parts[slot][lane % BLOCK_WARPS][place], state.value[0], &arrivals);
    wait_for_arrivals(&arrivals);
    float factor = exp2f(ends[slot][lane][0] - warp_most(ends[slot][lane][0])),
          sum = warp_sum(ends[slot][lane][1] * factor);
    float inverse = sum == 0.0f ? 0.0f : __frcp_rn(sum), own[LANE_DIM];
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) own[i] = parts[slot][warp % BLOCK_WARPS][lane][i] * factor;
    float merged = transposed_sums(own, lane) * inverse;
    if (lane % (WARP / LANE_DIM) == 0)
        y[head * ZM_HEAD_DIM + LANE_DIM * place + lane / (WARP / LANE_DIM)] = narrow(merged);
}
#endif
