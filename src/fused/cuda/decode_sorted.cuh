/* mxfp4 experts for rows that are sorted by expert, in the order of sums of MLX's vector kernel, which it takes for any
 * number of them. The text before everything defines ZM_SORTED where this kernel is wanted: 1: gate, up and the
 * activation of x's rows, 2: down; and what its launch has to know too: ZM_SORTED_WARPS of a block and ZM_SORTED_ROWS
 * of x that it takes. */
#if ZM_SORTED
enum {
    SORTED_THREADS = WARP * ZM_SORTED_WARPS,
    SORTED_WEIGHTS = 4,  /* rows of weights, a task: of two matrices two of each */
    SORTED_COLUMNS = ZM_SORTED == 1 ? 2 : 4,
    SORTED_STEPS = layout<ZM_K>::ROW_STEPS,
    SORTED_UNITS = ZM_K / LANE_ELEMENTS, /* of a row: a lane's of a step */
};

struct sorted_weights {
    uint4 codes[SORTED_WEIGHTS];
    float scales[SORTED_WEIGHTS];

    ZM_FUNCTION void read(const uint4 *const (&weight)[2], const unsigned char *const (&scale)[2], size_t row,
                          uint unit) {
#pragma unroll
        for (int r = 0; r < SORTED_WEIGHTS; r++) {
            const int matrix = r / SORTED_COLUMNS;
            codes[r] = make_uint4(0, 0, 0, 0);
            scales[r] = 0.0f;
            if (unit >= SORTED_UNITS) continue;
            size_t at = (row + r % SORTED_COLUMNS) * SORTED_UNITS + unit;
            codes[r] = __ldg(weight[matrix] + at);
            scales[r] = scale_of(__ldg(scale[matrix] + at));
        }
    }
};

/* sums[m * SORTED_WEIGHTS + r] += what a step gives to row m of x and row r of the weights; x: the lane's. */
ZM_FUNCTION void accumulate(float (&sums)[WARP], const sorted_weights &w, const uint4 *x) {
    float even[WARP] = {}, odd[WARP] = {};
#pragma unroll
    for (int word = 0; word < 4; word++) {
        uint pairs[SORTED_WEIGHTS][4];
#pragma unroll
        for (int r = 0; r < SORTED_WEIGHTS; r++) {
            uint codes = word == 0 ? w.codes[r].x : word == 1 ? w.codes[r].y : word == 2 ? w.codes[r].z : w.codes[r].w;
            pairs[r][0] = code_weights<0>(codes), pairs[r][1] = code_weights<1>(codes);
            pairs[r][2] = code_weights<2>(codes), pairs[r][3] = code_weights<3>(codes);
        }
#pragma unroll
        for (int m = 0; m < ZM_SORTED_ROWS; m++) {
            const uint4 *own = x + m * layout<ZM_K>::X + word * 2 * WARP;
            float4 a = *(const float4 *)own, b = *(const float4 *)(own + WARP);
#pragma unroll
            for (int r = 0; r < SORTED_WEIGHTS; r++) {
                float &e = even[m * SORTED_WEIGHTS + r], &o = odd[m * SORTED_WEIGHTS + r];
                e = fmaf(low_bfloat16(pairs[r][0]), a.x, e);
                o = fmaf(low_bfloat16(pairs[r][1]), a.y, o);
                e = fmaf(low_bfloat16(pairs[r][2]), a.z, e);
                o = fmaf(low_bfloat16(pairs[r][3]), a.w, o);
                e = fmaf(high_bfloat16(pairs[r][0]), b.x, e);
                o = fmaf(high_bfloat16(pairs[r][1]), b.y, o);
                e = fmaf(high_bfloat16(pairs[r][2]), b.z, e);
                o = fmaf(high_bfloat16(pairs[r][3]), b.w, o);
            }
        }
    }
#pragma unroll
    for (int i = 0; i < WARP; i++) sums[i] = fmaf(even[i] + odd[i], w.scales[i % SORTED_WEIGHTS], sums[i]);
}

/* Lane i gets the sum over the warp of values[i], with the bits of warp_sum. */
template <int step = WARP / 2> ZM_FUNCTION float warp_sums(float (&values)[WARP], uint lane) {
    if constexpr (step == 0) return values[0];
    else {
        bool upper = lane & step;
#pragma unroll
        for (int i = 0; i < step; i++) {
            float kept = upper ? values[i + step] : values[i], sent = upper ? values[i] : values[i + step];
            values[i] = kept + __shfl_xor_sync(~0u, sent, step);
        }
        return warp_sums<step / 2>(values, lane);
    }
}

/* y, rows of n: from x, whose rows are tokens of top_k places each (ZM_SORTED 1), sorted by expert; or from such rows
 * (2), each at its place. order and tiles of up to ZM_SORTED_ROWS rows: as around.cuh says; n_parts blocks share a
 * tile's columns. Without has_bias the biases are not read. */
ZM_KERNEL(SORTED_THREADS, 1) zm_sorted(const uint4 *x, const uint4 *weight, const unsigned char *scales,
                                       const ushort *bias,
#if ZM_SORTED == 1
                                       const uint4 *up_weight, const unsigned char *up_scales,
                                       const ushort *up_bias,
#endif
                                       const uint *order, const uint4 *tiles, ushort *y, uint n, uint top_k,
                                       uint n_parts, uint has_bias, uint clips) {
    enum { X = layout<ZM_K>::X };
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP;
    uint4 tile = tiles[blockIdx.x / n_parts];
    uint first = tile.y, count = tile.z, task = blockIdx.x % n_parts * ZM_SORTED_WARPS + warp;
    if (!count) return;
    const size_t base = size_t(tile.x) * n; /* the expert's first row of weights */
    if (!has_bias) bias = nullptr;
#if ZM_SORTED == 1
    if (!has_bias) up_bias = nullptr;
    const uint4 *const weights[2] = {weight, up_weight};
    const unsigned char *const exponents[2] = {scales, up_scales};
#else
    const uint4 *const weights[2] = {weight, weight};
    const unsigned char *const exponents[2] = {scales, scales};
#endif
    sorted_weights next;
    const uint n_tasks = n / SORTED_COLUMNS;
    if (task < n_tasks) next.read(weights, exponents, base + task * SORTED_COLUMNS, lane);
    for (uint m = 0; m < ZM_SORTED_ROWS; m++) {
        uint row = first + (m < count ? m : 0); /* behind the tile's end results are left out */
#if ZM_SORTED == 1
        row = order[row] / top_k;
#endif
        stage<ZM_K>(staged + m * X, x + size_t(row) * (ZM_K / 8), thread, SORTED_THREADS);
    }
    __syncthreads();
    uint own_row = first + lane / SORTED_WEIGHTS; /* whose sum the lane gets */
    bool writes = lane / SORTED_WEIGHTS < count && lane % SORTED_WEIGHTS < SORTED_COLUMNS;
#if ZM_SORTED == 2
    if (writes) own_row = order[own_row];
#endif
    for (; task < n_tasks; task += n_parts * ZM_SORTED_WARPS) {
        float sums[WARP] = {};
#pragma unroll 1
        for (uint step = 0; step < SORTED_STEPS; step++) {
            sorted_weights own = next;
            bool last = step + 1 == SORTED_STEPS;
            uint next_task = last ? task + n_parts * ZM_SORTED_WARPS : task;
            if (next_task < n_tasks)
                next.read(weights, exponents, base + next_task * SORTED_COLUMNS, (last ? 0 : step + 1) * WARP + lane);
            accumulate(sums, own, staged + step * (X_VECTORS * WARP) + lane);
        }
        float sum = warp_sums(sums, lane);
        uint column = task * SORTED_COLUMNS + lane % SORTED_COLUMNS, biases_at = uint(base) + column;
#if ZM_SORTED == 1
        float up = __shfl_xor_sync(~0u, sum, SORTED_COLUMNS);
        if (writes) {
            float gate = biased(sum, bias, biases_at);
            up = biased(up, up_bias, biases_at);
            y[size_t(own_row) * n + column] = narrow(clips ? clipped_swiglu(gate, up) : swiglu(gate, up));
        }
#else
        if (writes) y[size_t(own_row) * n + column] = narrow(biased(sum, bias, biases_at));
#endif
    }
}
#endif
