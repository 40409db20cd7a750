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
        STEP_BYTES = STEP * int(sizeof(uint4)),
    };
    uint keys[PARTS], values; /* where a lane's parts of the first rows are in shared memory */
    uint to_query;            /* from a part of the first key to the query's */
    int count, own_group;     /* rows, and in which group of PARTS the token's is, or -1 */

    ZM_FUNCTION kept_rows(const uint4 *first_key, const uint4 *first_value, const uint4 *query, int lane, int n_rows,
                          int own)
        : values(shared_address(first_value) + lane * int(sizeof(lane_vector))), count(n_rows), own_group(own) {
        const int quarter = lane / PART_LANES;
        uint key = shared_address(first_key) + quarter * STEP_BYTES;
        to_query = shared_address(query) - key;
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            keys[part] = key + ((part ^ quarter) * PART_LANES + lane % PART_LANES) * int(sizeof(lane_vector));
            asm volatile("" : "+r"(keys[part])); /* now, not in each group */
        }
        asm volatile("" : "+r"(values), "+r"(to_query), "+r"(count), "+r"(own_group));
    }
    ZM_FUNCTION bool has(int group) const { return group * PARTS < count; }
    /* What a lane multiplies of a group of PARTS keys. */
    ZM_FUNCTION void read_keys(lane_vector (&to)[PARTS], int group) const {
#pragma unroll
        for (int part = 0; part < PARTS; part++) read_shared(to[part], keys[part] + group * (PARTS * STEP_BYTES));
    }
    ZM_FUNCTION void read_values(lane_vector (&to)[PARTS], int group) const {
#pragma unroll
        for (int i = 0; i < PARTS; i++) read_shared(to[i], values + (group * PARTS + i) * STEP_BYTES);
    }
};

/* A warp's keys. Of the first EARLY groups they are read before the query is there, but not of the group that has the
 * token's own, and the values behind a group's products; of the others when they are met. */
struct warp_rows {
    enum {
        PARTS = kept_rows::PARTS,
        GROUPS = kept_rows::PART_LANES,
        EARLY = ZM_HEAD_DIM == 128 ? 2 : 1, /* as registers have room */
    };
    lane_vector keys[EARLY][PARTS], values[EARLY][PARTS];

    ZM_FUNCTION void read_keys(const kept_rows &rows) {
#pragma unroll
        for (int i = 0; i < EARLY; i++)
            if (rows.has(i) && i != rows.own_group) rows.read_keys(keys[i], i);
    }
    /* The product of the query with key lane % GROUPS * PARTS + lane / GROUPS, in the order of warp_sum. */
    ZM_FUNCTION float scores(const kept_rows &rows, float scale_log2, int lane) {
        float q[PARTS][LANE_DIM], sums[GROUPS];
#pragma unroll
        for (int part = 0; part < PARTS; part++) {
            lane_vector v;
            read_shared(v, rows.keys[part] + rows.to_query);
#pragma unroll
            for (int j = 0; j < LANE_DIM; j++) q[part][j] = scale_log2 * element(v, j);
        }
#pragma unroll
        for (int i = 0; i < GROUPS; i++) {
            sums[i] = 0.0f;
            if (!rows.has(i)) continue;
            lane_vector k[PARTS]; /* a reference to one of all groups would put these in memory */
            if (i < EARLY) {
#pragma unroll
                for (int part = 0; part < PARTS; part++)
#pragma unroll
                    for (int j = 0; j < LANE_WORDS; j++) k[part].words[j] = keys[i % EARLY][part].words[j];
            }
            if (i >= EARLY || i == rows.own_group) rows.read_keys(k, i);
            float products[PARTS];
#pragma unroll
            for (int part = 0; part < PARTS; part++) {
                products[part] = 0.0f;
#pragma unroll
                for (int j = 0; j < LANE_DIM; j++)
                    products[part] = fmaf(q[part][j], element(k[part], j), products[part]);
            }
            sums[i] = (products[0] + products[2]) + (products[1] + products[3]);
            if (i < EARLY) rows.read_values(values[i % EARLY], i);
        }
        return transposed_sums<GROUPS, GROUPS / 2>(sums, lane);
    }
    /* The sums over the keys, in their order. shares: of each key the factor of what was before it and its share, in
     * shared memory. */
    ZM_FUNCTION void add_values(attention_state<1> &state, const kept_rows &rows, uint shares) const {
#pragma unroll
        for (int group = 0; group < GROUPS; group++) {
            if (!rows.has(group)) break;
            uint4 pairs[PARTS / 2];
            lane_vector late[PARTS];
            if (group >= EARLY) rows.read_values(late, group);
#pragma unroll
            for (int i = 0; i < PARTS / 2; i++)
                pairs[i] = shared_vector(shares + (group * PARTS + i * 2) * int(sizeof(float2)));
#pragma unroll
            for (int i = 0; i < PARTS; i++) {
                const uint4 &two = pairs[i / 2];
                float factor = __uint_as_float(i % 2 ? two.z : two.x),
                      share = __uint_as_float(i % 2 ? two.w : two.y);
                state.sum[0] = fmaf(factor, state.sum[0], share);
#pragma unroll
                for (int j = 0; j < LANE_DIM; j++)
                    state.value[0][j] = fmaf(factor, state.value[0][j],
                                             share * element(group < EARLY ? values[group % EARLY][i] : late[i], j));
            }
        }
    }
};

/* The largest of `first` and the values of the keys before a lane's, which are in the order of warp_rows::scores. */
ZM_FUNCTION float most_before(float value, float first, int lane) {
    enum { GROUPS = warp_rows::GROUPS };
    const int quarter = lane / GROUPS, group = lane % GROUPS;
    float next = __shfl_xor_sync(~0u, value, GROUPS), far = __shfl_xor_sync(~0u, value, 2 * GROUPS),
          farthest = __shfl_xor_sync(~0u, value, 3 * GROUPS);
    float all = fmaxf(fmaxf(value, next), fmaxf(far, farthest)); /* of the group */
    if (quarter & 1) first = fmaxf(first, next);
    if (quarter & 2) first = fmaxf(first, fmaxf(far, farthest));
    float one = __shfl_up_sync(~0u, all, 1, GROUPS), two = __shfl_up_sync(~0u, all, 2, GROUPS),
          three = __shfl_up_sync(~0u, all, 3, GROUPS);
    /* Where there are fewer groups before, the shuffle leaves the group's own. */
    float before = group > 0 ? one : first;
    if (group > 1) before = fmaxf(before, two);
    if (group > 2) before = fmaxf(before, three);
    float four = __shfl_up_sync(~0u, fmaxf(before, all), 4, GROUPS);
    if (group > 3) before = fmaxf(before, four);
    return fmaxf(first, before);
}

/* A warp's keys and a query, as attend() has them; sink: whether `sink_score` takes part. */
ZM_FUNCTION attention_state<1> attend_kept(const kept_rows &rows, warp_rows &own, bool sink, float sink_score,
                                           float scale_log2, float2 *shares, int lane) {
    attention_state<1> state;
    const int key = lane % warp_rows::GROUPS * warp_rows::PARTS + lane / warp_rows::GROUPS;
    float score = own.scores(rows, scale_log2, lane);
    bool in = key < rows.count;
    if (!in) score = __uint_as_float(0xff800000u);
    float before = most_before(score, sink ? sink_score : -3.402823466e+38f, lane), largest = fmaxf(before, score);
    /* Behind the last key: what leaves every sum as it is, -0 too. */
    shares[key] = make_float2(exp2f(before - largest), in ? exp2f(score - largest) : -0.0f);
    state.most[0] = __shfl_sync(~0u, largest, WARP - 1);
    state.sum[0] = sink ? 1.0f : 0.0f;
#pragma unroll
    for (int j = 0; j < LANE_DIM; j++) state.value[0][j] = 0.0f;
    __syncwarp();
    own.add_values(state, rows, shared_address(shares));
    return state;
}

/* warp_most of numbers: in one instruction, as integers that have their order. */
ZM_FUNCTION float warp_largest(float value) {
    int bits = __float_as_int(value), most = __reduce_max_sync(~0u, bits ^ (bits >> 31 & 0x7fffffff));
    return __int_as_float(most ^ (most >> 31 & 0x7fffffff));
}
/* __frcp_rn of a sum of shares, of which the largest is 1, without what that does for small and large numbers. Of 0,
 * 0. */
ZM_FUNCTION float inverse_sum(float sum) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(sum));
    y = fmaf(y, -fmaf(sum, y, -1.0f), y);
    return sum == 0.0f ? 0.0f : y;
}

/* There are fewer multiprocessors than all clusters want: some have two blocks, beside one of norm_linear of up to 12
 * warps and, where heads of 64 leave shared memory for it, one of the output projection. All are to begin early. */
enum { RESIDENT_BLOCKS = ZM_HEAD_DIM == 128 ? 4 : 5 };

/* y (n_heads, dim) = attention over the first n <= 1024 rows of the caches, one of them this token's. What zm_heads
 * does goes on here: queries in each block of a cluster, which has as many heads as there are BLOCK_WARPS in a block;
 * the token's key and value in the block that keeps its row, which writes them to the caches if its heads are a group's
 * first. sinks: a head's each, or NULL. Dynamic shared memory: n_keys keys and as many values for each of
 * BLOCK_WARPS, a multiple of PARTS. is_early: the next kernel begins before this one may read. */
extern "C" __global__ void __cluster_dims__(HEAD_BLOCKS)
    __launch_bounds__(BLOCK_HEADS *BLOCK_WARPS *WARP, RESIDENT_BLOCKS)
    zm_attention(const uint4 *qkv, const uint4 *q_norm, const uint4 *k_norm, const float *freqs, ushort *keys,
                 ushort *values, const ushort *sinks, ushort *y, float eps, float log2_base, float input_scale,
                 int offset, float position_scale, int n_heads, int n_kv_heads, int row, int rows, float scale_log2,
                 int n, int n_keys, int is_early ZM_STAMPED) {
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
    asm volatile("" : "+r"(lane), "+r"(warp), "+r"(slot)); /* not made anew behind the query */
    head_arguments all = {qkv, q_norm, k_norm, keys, values, eps, input_scale, row, n_heads, n_kv_heads, rows};
    bool copies = threadIdx.x == blockDim.x - WARP;
    if (copies) {
        int last = n % KEY_WARPS - first_place;
        last = last < 0 ? 0 : last < BLOCK_WARPS ? last : BLOCK_WARPS;
        begin_arrivals(&copied, uint(n / KEY_WARPS * BLOCK_WARPS + last) * 2 * ROW_BYTES);
        begin_arrivals(&arrivals, block_heads * (sizeof parts[0] + sizeof ends[0]));
    }
    uint4 *kept_values = staged + n_keys * kept_rows::STEP;
    const int rows_at = warp % BLOCK_WARPS * HEAD_VECTORS;
    const kept_rows kept(staged + rows_at, kept_values + rows_at, token.ready[heads::QUERY + slot], lane,
                         (n - place + KEY_WARPS - 1) / KEY_WARPS,
                         row % KEY_WARPS == place ? row / (KEY_WARPS * kept_rows::PARTS) : -1);
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
    /* Lane l's elements are merged by warp l of the head. */
    ushort *to = y + head * ZM_HEAD_DIM + LANE_DIM * place + lane / (WARP / LANE_DIM);
    uint end_at = shared_address(ends[slot][lane]), parts_at = shared_address(parts[slot][warp % BLOCK_WARPS][lane]);
    asm volatile("" : "+f"(sink_score), "+l"(to), "+r"(end_at), "+r"(parts_at)); /* now */
    wait_for_cluster(); /* all blocks have begun */
    int token_place = row % KEY_WARPS - first_place; /* of a head's warps here: whose row is the token's */
    uint4 *key = nullptr, *value = nullptr;
    if (token_place >= 0 && token_place < BLOCK_WARPS) {
        key = staged + row / KEY_WARPS * kept_rows::STEP + token_place * HEAD_VECTORS;
        value = key + n_keys * kept_rows::STEP;
    }
    warp_rows own_rows;
    token.prepare(all, first_head, kv_head, key, value, first_head % group == 0, freqs, log2_base,
                  position_scale * float(offset), lane, warp, [&] {
                      wait_for_arrivals(&copied);
                      own_rows.read_keys(kept);
                  });
    stamp(STAMP_READY);
    if (!is_early) begin_next();
    attention_state<1> state = attend_kept(kept, own_rows, sink, sink_score, scale_log2, shares[warp], lane);
    if (lane < HEAD_BLOCKS) {
        const float end[2] = {state.most[0], state.sum[0]};
        send_to_block(lane, ends[slot][place], end, &arrivals);
    }
    send_to_block(lane / BLOCK_WARPS, parts[slot][lane % BLOCK_WARPS][place], state.value[0], &arrivals);
    wait_for_arrivals(&arrivals);
    uint2 end = shared_pair(end_at);
    float own[LANE_DIM], most = __uint_as_float(end.x);
#pragma unroll
    for (int i = 0; i < LANE_DIM; i += 2) {
        uint2 pair = shared_pair(parts_at + i * int(sizeof(float)));
        own[i] = __uint_as_float(pair.x);
        own[i + 1] = __uint_as_float(pair.y);
    }
    float factor = exp2f(most - warp_largest(most)), sum = __uint_as_float(end.y) * factor;
#pragma unroll
    for (int i = 0; i < LANE_DIM; i++) own[i] *= factor;
    float merged = transposed_sums(own, lane, sum); /* and sum becomes that of all */
    merged *= inverse_sum(sum);
    if (lane % (WARP / LANE_DIM) == 0) *to = narrow(merged);
}
#endif
