/* Experts on tensor cores: from 8 chosen experts on MLX's gathered product is its matrix kernel, whose sums are those
 * of mma.m16n8k16 in the order of k. Here the weights are the 16 rows and x each of the 8 columns. */
#if ZM_TOP_K >= 8 && ZM_K % 256 == 0 && !ZM_MXFP4
enum {
    TILE_ROWS = 16,
    TILE_K = 256, /* of a piece */
    TILE_PAIRS = TILE_K / 32, /* of blocks of 16 */
    TILE_PIECES = ZM_K / TILE_K,
    TILE_SLOTS = TILE_PIECES < (ZM_BITS == 4 ? 8 : 4) ? TILE_PIECES : (ZM_BITS == 4 ? 8 : 4),
    ROW_BYTES = TILE_K * ZM_BITS / 8,
    ROW_SPACE = ROW_BYTES + 16, /* so that 8 rows lie in different banks */
    TILE_GROUPS = TILE_K / ZM_GROUP,
    TILE_X = ZM_K / 8, /* vectors */
};

/* A piece of 16 rows in shared memory. */
struct alignas(16) tile {
    unsigned char codes[TILE_ROWS][ROW_SPACE];
    uint scales[2][TILE_ROWS][TILE_GROUPS / 2]; /* then biases */
};

/* A tile's rows: 8 of one matrix from `first` on, then 8 of another from `first8` on. */
struct tile_rows {
    matrix from, from8;
    uint first, first8;
};

/* Begins to copy a piece. */
ZM_FUNCTION void fill(tile &to, const tile_rows &rows, uint piece, uint lane) {
    enum { CHUNKS = ROW_BYTES / 16, STEP_ROWS = WARP / CHUNKS, ROW_GROUPS = ZM_K / ZM_GROUP };
#pragma unroll
    for (int step = 0; step < TILE_ROWS / STEP_ROWS; step++) {
        uint row = step * STEP_ROWS + lane / CHUNKS, chunk = lane % CHUNKS;
        bool second = step >= TILE_ROWS / STEP_ROWS / 2;
        const uint4 *from = (const uint4 *)(second ? rows.from8 : rows.from).weight +
                            ((second ? rows.first8 : rows.first) + row % 8) * uint(ZM_K * ZM_BITS / 128);
        copy16(uint(__cvta_generic_to_shared(to.codes[row])) + chunk * 16, from + piece * CHUNKS + chunk, true);
    }
    /* Lanes 0 to 15 copy a row's scales, the others its biases. */
    uint row = lane % TILE_ROWS;
    const ushort *first = lane < TILE_ROWS ? rows.from.scales : rows.from.biases;
    const ushort *second = lane < TILE_ROWS ? rows.from8.scales : rows.from8.biases;
    const ushort *from = row < 8 ? first : second;
    from += ((row < 8 ? rows.first : rows.first8) + row % 8) * uint(ROW_GROUPS) + piece * TILE_GROUPS;
    uint groups = uint(__cvta_generic_to_shared(to.scales[lane / TILE_ROWS][row]));
#pragma unroll
    for (int i = 0; i < TILE_GROUPS / 2; i++) copy4(groups + i * 4, from + i * 2, true);
}

/* sums += 16 rows of weights (a) times x (b), k by k as MLX's. */
ZM_FUNCTION void multiply_block(float (&sums)[4], const uint (&a)[4], uint b0, uint b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32." ZM_TYPE "." ZM_TYPE ".f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, "
        "{%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/* A lane has, of each 8 neighbours of k, the pair that place_tile_x gives it: with 4 bits (i, i + 4), with 8 bits (i, i
 * + 2) of one word. A block's 8 products may change places: their sum is exact before it is rounded. */
struct lane_codes {
    uint words[4]; /* of a row: the first and second 8 of k in one block, then in the next */
};

#if ZM_BITS == 4
ZM_FUNCTION lane_codes read_codes(const unsigned char *row, uint pair, uint lane) {
    uint4 v = *(const uint4 *)(row + pair * 16);
    uint turn = lane % 4 * 4 + 28; /* to bits 4 to 7 of each half */
    const uint mask = 0x00f000f0u;
    return {{__funnelshift_r(v.x, v.x, turn) & mask, __funnelshift_r(v.y, v.y, turn) & mask,
             __funnelshift_r(v.z, v.z, turn) & mask, __funnelshift_r(v.w, v.w, turn) & mask}};
}
ZM_FUNCTION uint4 x_pairs(uint4 v) {
    return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
                      __byte_perm(v.y, v.w, 0x7632));
}
#else
ZM_FUNCTION lane_codes read_codes(const unsigned char *row, uint pair, uint lane) {
    lane_codes codes;
    const uint *words = (const uint *)(row + pair * 32) + lane % 4 / 2;
#pragma unroll
    for (int i = 0; i < 4; i++) codes.words[i] = (words[i * 2] >> (lane % 2 * 8)) & 0x00ff00ffu;
    return codes;
}
ZM_FUNCTION uint4 x_pairs(uint4 v) {
    return make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
                      __byte_perm(v.z, v.w, 0x7632));
}
#endif

/* The vector of 8 elements `number` of x into shared memory: lane i of four reads vector 4 * pair + i. */
ZM_FUNCTION void place_tile_x(uint4 *shared, uint number, uint4 v) {
    uint *to = (uint *)shared + number / 4 * 16 + number % 4;
    uint4 pairs = x_pairs(v);
    to[0] = pairs.x, to[4] = pairs.y, to[8] = pairs.z, to[12] = pairs.w;
}

/* Scale and bias of a row's group, of which two are in a word. */
ZM_FUNCTION uint group_of(const tile &t, uint row, int group) {
    uint scales = t.scales[0][row][group / 2], biases = t.scales[1][row][group / 2];
    return group % 2 ? scale_and_bias(ushort(scales >> 16), ushort(biases >> 16))
                     : scale_and_bias(ushort(scales), ushort(biases));
}

ZM_FUNCTION uint tile_weights(uint pair, uint both) { return weights_of<ZM_BITS>(pair, both); }

/* The products of a tile's rows with x, for the tasks first, first + stride, ... below n_tasks of a warp. where(task)
 * says which rows, ready() makes x in shared memory complete, done(task, product of row lane / 4, of row lane / 4 + 8)
 * gets them. The copies of the first pieces begin before ready(). ring: TILE_SLOTS for each warp. */
template <int EARLY, typename Where, typename Ready, typename Done>
ZM_FUNCTION void multiply_tiles(uint first, uint stride, uint n_tasks, const uint4 *x, tile *ring, uint n_left,
                                Where where, Ready ready, Done done) {
    const uint lane = threadIdx.x % WARP, row = lane / 4;
    tile *const slots = ring + threadIdx.x / WARP * TILE_SLOTS;
    uint copied_task = first, copied_piece = 0, slot = 0;
    tile_rows copied;
    auto copy_next = [&](tile &to) {
        if (copied_task < n_tasks) {
            if (copied_piece == 0) copied = where(copied_task);
            fill(to, copied, copied_piece, lane);
            if (++copied_piece == TILE_PIECES) copied_piece = 0, copied_task += stride;
        }
        commit_copies();
    };
#pragma unroll 1
    for (int i = 0; i < TILE_SLOTS && i < EARLY; i++) copy_next(slots[i]);
    ready();
#pragma unroll 1
    for (int i = EARLY; i < TILE_SLOTS; i++) copy_next(slots[i]);
    uint until_next = ~0u; /* pieces */
    if (n_left && threadIdx.x < WARP) {
        uint all = (n_tasks - first + stride - 1) / stride * uint(TILE_PIECES);
        until_next = all > n_left ? all - n_left : 0;
    }
#pragma unroll 1
    for (uint task = first; task < n_tasks; task += stride) {
        float sums[4] = {};
#pragma unroll 1
        for (uint piece = 0; piece < TILE_PIECES; piece++) {
            finish_copies<TILE_SLOTS - 1>();
            __syncwarp(); /* the copies of all lanes are there */
            if (n_left && until_next-- == 0) begin_next();
            const tile &t = slots[slot];
            const uint4 *piece_x = x + piece * (TILE_K / 8) + lane % 4;
#pragma unroll
            for (int pair = 0; pair < TILE_PAIRS; pair++) {
                const int group = pair * 32 / ZM_GROUP;
                uint both = group_of(t, row, group), both8 = group_of(t, row + 8, group);
                lane_codes codes = read_codes(t.codes[row], pair, lane),
                           codes8 = read_codes(t.codes[row + 8], pair, lane);
                uint4 v = piece_x[pair * 4];
                const uint a[4] = {tile_weights(codes.words[0], both), tile_weights(codes8.words[0], both8),
                                   tile_weights(codes.words[1], both), tile_weights(codes8.words[1], both8)};
                const uint b[4] = {tile_weights(codes.words[2], both), tile_weights(codes8.words[2], both8),
                                   tile_weights(codes.words[3], both), tile_weights(codes8.words[3], both8)};
                multiply_block(sums, a, v.x, v.y);
                multiply_block(sums, b, v.z, v.w);
            }
            __syncwarp(); /* the slot is free */
            copy_next(slots[slot]);
            if (++slot == TILE_SLOTS) slot = 0;
        }
        done(task, sums[0], sums[2]);
    }
}

#if ZM_K == ZM_HIDDEN
/* act (top_k, n) = silu(gate x) * up x for the chosen experts. A task is 8 rows of each. */
ZM_KERNEL(THREADS, 1)
zm_experts_in(const uint4 *x, const uint *experts, const uint2 *gw, const ushort *gs, const ushort *gb, const uint2 *uw,
              const ushort *us, const ushort *ub, ushort *act, uint n, uint n_left) {
    uint thread = threadIdx.x, lane = thread % WARP, warps = blockDim.x / WARP;
    wait_only();
    if (!n_left) begin_next();
    uint chosen = read_fresh(experts + (lane < ZM_TOP_K ? lane : 0));
    x_vectors<TILE_X, 2> vectors(x, thread, blockDim.x);
    multiply_tiles<2>(
        blockIdx.x * warps + thread / WARP, gridDim.x * warps, ZM_TOP_K * (n / 8), staged, (tile *)(staged + TILE_X),
        n_left,
        [&](uint task) {
            uint row = __shfl_sync(~0u, chosen, task % ZM_TOP_K) * n + task / ZM_TOP_K * 8;
            return tile_rows{{gw, gs, gb}, {uw, us, ub}, row, row};
        },
        [&] {
            vectors.finish(TILE_X, x, thread, blockDim.x,
                           [&](uint number, uint4 v) { place_tile_x(staged, number, v); });
            __syncthreads();
        },
        [&](uint task, float gate, float up) {
            uint row = task / ZM_TOP_K * 8 + lane / 4;
            if (lane % 4 == 0) act[task % ZM_TOP_K * n + row] = narrow(swiglu(rounded(gate), rounded(up)));
        });
}
#endif

/* h_next = h + sum over the chosen experts, in order, of weight * W act: each product and sum rounded. A block has 16
 * rows, a warp an expert. */
ZM_KERNEL(WARP *ZM_TOP_K, 2)
zm_experts_out(const uint4 *act, const uint *experts, const ushort *weights, const uint2 *dw, const ushort *ds,
               const ushort *db, const ushort *h, ushort *h_next, uint n) {
    __shared__ float products[ZM_TOP_K][TILE_ROWS];
    uint thread = threadIdx.x, lane = thread % WARP, warp = thread / WARP, block_row = blockIdx.x * TILE_ROWS;
    /* The choice is older than the kernel before this one. */
    uint row = read_fresh(experts + warp) * n + block_row;
    uint4 *x = staged + warp * TILE_X;
    ushort before, share[ZM_TOP_K];
    multiply_tiles<TILE_SLOTS>(
        0, 1, 1, x, (tile *)(staged + ZM_TOP_K * TILE_X), 0,
        [&](uint) {
            return tile_rows{{dw, ds, db}, {dw, ds, db}, row, row + 8};
        },
        [&] {
            wait_for_last();
            before = h ? read_fresh(h + (block_row + thread % TILE_ROWS)) : NOTHING;
#pragma unroll
            for (int i = 0; i < ZM_TOP_K; i++) share[i] = read_fresh(weights + i);
            for (uint v = lane; v < TILE_X; v += WARP) place_tile_x(x, v, read_fresh(act + warp * TILE_X + v));
            __syncwarp();
        },
        [&](uint, float first, float second) {
            if (lane % 4 == 0) {
                products[warp][lane / 4] = rounded(first);
                products[warp][lane / 4 + 8] = rounded(second);
            }
        });
    __syncthreads();
    if (thread >= TILE_ROWS) return;
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ZM_TOP_K; i++) sum = rounded(sum + rounded(products[i][thread] * widen(share[i])));
    h_next[block_row + thread] = narrow(widen(before) + sum);
}
#endif
