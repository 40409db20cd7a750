/* Few rows of x at once, affine weights. The text before everything defines ZM_FEW, how many (2 to 7), where this
 * kernel is wanted. */
#if ZM_FEW
enum {
    FEW_ROWS = ZM_FEW <= FEW_TWO_ROWS ? 2 : 1, /* of weights, a task */
    FEW_STEPS = 4, /* that a lane reads at once */
    FEW_PARTS = (layout<ZM_K>::ROW_STEPS + FEW_STEPS - 1) / FEW_STEPS,
};

/* What a lane multiplies in FEW_STEPS steps of a task's rows: codes, and scale and bias. */
struct few_weights {
    lane_word codes[FEW_STEPS][FEW_ROWS];
    uint both[FEW_STEPS][FEW_ROWS];

    ZM_FUNCTION void read(const uint *weight, const ushort *scales, const ushort *biases, uint row, uint part,
                          uint lane) {
#pragma unroll
        for (int t = 0; t < FEW_STEPS; t++)
#pragma unroll
            for (int r = 0; r < FEW_ROWS; r++) {
                uint unit = (part * FEW_STEPS + t) * WARP + lane; /* of a row's LANE_ELEMENTS */
                codes[t][r] = {};
                both[t][r] = 0;
                if (unit >= ZM_K / LANE_ELEMENTS) continue;
                codes[t][r] = read_lane(weight + size_t(row + r) * (ZM_K * ZM_BITS / 32), unit);
                size_t group = size_t(row + r) * (ZM_K / ZM_GROUP) + unit * LANE_ELEMENTS / ZM_GROUP;
                both[t][r] = scale_and_bias(__ldg(scales + group), __ldg(biases + group));
            }
    }
};

/* y (ZM_FEW, n) = x W^T: each row has the bits of a product of its own, while weights are read once. */
ZM_KERNEL(THREADS, 1)
zm_few(const uint4 *x, const uint *weight, const ushort *scales, const ushort *biases, ushort *y, uint n) {
    enum { X = layout<ZM_K>::X };
    uint thread = threadIdx.x, lane = thread % WARP, stride = gridDim.x * WARPS;
    few_weights next;
    uint task = blockIdx.x * WARPS + thread / WARP, n_tasks = n / FEW_ROWS;
    if (task < n_tasks) next.read(weight, scales, biases, task * FEW_ROWS, 0, lane);
    for (int m = 0; m < ZM_FEW; m++) stage<ZM_K>(staged + m * X, x + m * (ZM_K / 8), thread, THREADS);
    __syncthreads();
    for (; task < n_tasks; task += stride) {
        accumulator sums[ZM_FEW][FEW_ROWS][ACCUMULATORS] = {};
#pragma unroll 1
        for (uint part = 0; part < FEW_PARTS; part++) {
            few_weights own = next;
            bool last = part + 1 == FEW_PARTS;
            if (!last) next.read(weight, scales, biases, task * FEW_ROWS, part + 1, lane);
            else if (task + stride < n_tasks) next.read(weight, scales, biases, (task + stride) * FEW_ROWS, 0, lane);
#pragma unroll
            for (int t = 0; t < FEW_STEPS; t++) {
                if ((part * FEW_STEPS + t) * STEP >= ZM_K) break;
                uint step_x = shared_address(staged + (part * FEW_STEPS + t) * (X_VECTORS * WARP) + lane);
#pragma unroll
                for (int m = 0; m < ZM_FEW; m++) {
                    lane_x v = read_x(step_x + m * (X * 16));
#pragma unroll
                    for (int r = 0; r < FEW_ROWS; r++) accumulate(sums[m][r], own.codes[t][r], own.both[t][r], v);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < ZM_FEW; m++)
#pragma unroll
            for (int r = 0; r < FEW_ROWS; r++) {
                float product = warp_sum(lane_sum(sums[m][r]));
                if (lane == 0) y[size_t(m) * n + task * FEW_ROWS + r] = narrow(product);
            }
    }
}
#endif
