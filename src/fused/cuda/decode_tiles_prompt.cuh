/* Up to eight rows of x at once, of one expert or of all, where MLX takes its matrix kernel: prompt.cuh's products for
 * so few rows that weights are what takes time. The text before everything defines ZM_TILED where this kernel is
 * wanted, and then ZM_GATED, ZM_FIRST and ZM_SECOND as prompt.cuh says. */
#if ZM_TILED
enum { TILED_COLUMNS = ZM_GATED ? TILE_ROWS / 2 : TILE_ROWS }; /* of the result, a task */

/* What a block multiplies with its share of an expert's weights: `count` rows from `first` on of those in `order`. */
struct tiled_rows {
    const uint *order;
    uint expert, first, count;
};

/* Those rows of x into shared memory, for tile_piece. Others are left as they are: columns do not touch each other. */
ZM_FUNCTION void stage_rows(const uint4 *x, const tiled_rows &own, uint top_k) {
    const uint4 *rows[TILED_ROWS];
#pragma unroll
    for (int r = 0; r < TILED_ROWS; r++) {
        uint row = own.first + min(uint(r), own.count - 1);
        if (ZM_FIRST) row = own.order[row] / top_k;
        rows[r] = x + size_t(row) * TILE_X;
    }
#pragma unroll 1
    for (uint number = threadIdx.x; number < TILE_X; number += blockDim.x) {
        uint4 v[TILED_ROWS];
#pragma unroll
        for (int r = 0; r < TILED_ROWS; r++)
            if (r < own.count) v[r] = __ldg(rows[r] + number);
#pragma unroll
        for (int r = 0; r < TILED_ROWS; r++)
            if (r < own.count) place_tile_x(staged + r * TILE_X_SPACE, number, v[r]);
    }
    __syncthreads();
}

/* An 8 x 8 matrix as tensor cores spread sums over a warp, turned: a lane gets elements 2 * (lane % 4) and the next of
 * row lane / 4. */
ZM_FUNCTION uint turned(float a, float b) {
    uint result;
    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pack(a, b)));
    return result;
}

/* y as prompt.cuh's zm_product has it, from the same inputs; rows: of x, without experts. n: a multiple of
 * TILED_COLUMNS; n_parts blocks share a tile's columns. */
ZM_KERNEL(TILED_WARPS *WARP, TILED_BLOCKS)
zm_tiled(const uint4 *x, const uint2 *w, const ushort *s, const ushort *b,
#if ZM_GATED
         const uint2 *uw, const ushort *us, const ushort *ub,
#endif
#if ZM_FIRST || ZM_SECOND
         const uint *order, const uint4 *tiles,
#endif
         ushort *y, uint n, uint rows, uint top_k, uint n_parts) {
    const uint lane = threadIdx.x % WARP, warp = threadIdx.x / WARP, tile = blockIdx.x / n_parts;
    const matrix first = {w, s, b};
#if ZM_GATED
    const matrix second = {uw, us, ub};
#else
    const matrix second = first;
#endif
    tiled_rows own = {nullptr, 0, tile * TILED_ROWS, min(rows - tile * TILED_ROWS, uint(TILED_ROWS))};
#if ZM_FIRST || ZM_SECOND
    uint4 given = tiles[tile];
    if (!given.z) return;
    own.order = order, own.expert = given.x, own.first = given.y, own.count = given.z;
#endif
    multiply_tiles<TILED_ROWS, TILE_SLOTS, 0>(
        blockIdx.x % n_parts + warp * n_parts, n_parts * (blockDim.x / WARP), n / TILED_COLUMNS, staged,
        ((tile_ring *)(staged + TILED_ROWS * TILE_X_SPACE))[warp],
        [&](uint task) {
            uint row = own.expert * n + task * TILED_COLUMNS;
            return tile_rows{first, second, row, ZM_GATED ? row : row + TILE_ROWS / 2};
        },
        [&] { stage_rows(x, own, top_k); }, [] {},
        [&](uint task, const float (&sums)[4]) {
#if ZM_GATED
            uint pair = turned(swiglu(rounded(sums[0]), rounded(sums[2])), swiglu(rounded(sums[1]), rounded(sums[3])));
#else
            uint pair = turned(sums[0], sums[1]), pair8 = turned(sums[2], sums[3]);
#endif
            if (lane / 4 >= own.count) return;
            uint row = own.first + lane / 4;
            if (ZM_SECOND) row = own.order[row];
            uint *to = (uint *)(y + size_t(row) * n + task * TILED_COLUMNS) + lane % 4;
            to[0] = pair;
#if !ZM_GATED
            to[4] = pair8;
#endif
        });
}
#endif
