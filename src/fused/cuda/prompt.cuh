/* SPDX-License-Identifier: MIT */
/* Products of many rows with affine weights, in bfloat16 on Hopper's tensor cores, with the bits of MLX's own matrix kernels: a weight
 * is code * scale + bias with one rounding, and a sum is a chain of products of 16 elements in the order of k.
 *
 *     y[r, i] = sum over k of x[r, k] * w[i, k]
 *
 * Behind bfloat16.cuh. The text before that defines ZM_BITS (4 or 8) and ZM_GROUP (32, 64, 128) of the weights, ZM_ROWS (64 or
 * 128), the rows of x that a block takes, ZM_SPAN (2, 4 or 8), how many scales of a row a copy brings, ZM_GATED: two weights, and
 * silu(gate x) * up x comes out; and of experts ZM_FIRST or ZM_SECOND: tiles say which rows a block takes (around.cuh). FIRST
 * reads each row of x for the experts chosen for it and leaves rows sorted by expert, SECOND takes them so and leaves each at
 * its place. */
typedef unsigned long long descriptor;

enum {
    THREADS = 256, /* two groups of four warps: each has 64 rows of x, or half of the weight rows */
    GROUP_THREADS = 128,
    TILE_N = 128, /* weight rows of a block */
    TILE_K = 64,
    SPLITS_N = ZM_ROWS == 64,
    GROUP_N = SPLITS_N ? TILE_N / 2 : TILE_N,
    COLUMNS = ZM_GATED ? TILE_N / 2 : TILE_N, /* of the result */
    GROUP_COLUMNS = ZM_GATED ? GROUP_N / 2 : GROUP_N,
    TILES = GROUP_N / 8, /* sums of a thread: for each eight weight rows, two of them of two rows of x */
    STAGES = ZM_ROWS == 128 ? 3 : 4,
    ROW_BYTES = TILE_K * 2,
    X_BYTES = ZM_ROWS * ROW_BYTES,
    W_BYTES = TILE_N * ROW_BYTES,
    VECTORS = ZM_BITS / 4, /* of 16 bytes of codes, a thread: 32 weights of a row, all of one group */
    CODE_BYTES = THREADS * VECTORS * 16,
    SPAN_STEPS = ZM_SPAN * ZM_GROUP / TILE_K,
    SPANS = ZM_SPAN == 2 ? 4 : 2, /* in shared memory */
    SCALE_BYTES = TILE_N * ZM_SPAN * 2, /* of a span; biases are as many */
    THREAD_X = ZM_ROWS * 8 / THREADS, /* vectors of x */
};

ZM_FUNCTION float swiglu(float gate, float up) {
    gate = rounded(gate);
    return rounded(gate * sigmoid(gate)) * rounded(up); /* to be rounded */
}

template <int bytes> ZM_FUNCTION void copy(uint shared, const void *p) {
    if (bytes == 16) asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(p) : "memory");
    else asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(p), "n"(bytes) : "memory");
}
ZM_FUNCTION void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int pending> ZM_FUNCTION void finish_copies() { asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory"); }

/* What the tensor cores read next was stored by threads; what they are adding to is left alone until finish_products(). */
ZM_FUNCTION void show_to_tensor_cores() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
ZM_FUNCTION void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
ZM_FUNCTION void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
ZM_FUNCTION void finish_products() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

/* Rows of TILE_K elements in shared memory, as place() has them, from a multiple of 1024. */
ZM_FUNCTION descriptor describe(uint shared) {
    return descriptor((shared & 0x3ffff) >> 4) | 1ull << 16 | descriptor(8 * ROW_BYTES >> 4) << 32 | 1ull << 62;
}

/* c += x w^T: 64 rows of x, GROUP_N of w, 16 elements of each. */
#define ZM_SUMS(i) "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#if ZM_ROWS == 128
ZM_FUNCTION void multiply_async(float (&c)[16][4], descriptor x, descriptor w) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
                 "}, %64, %65, 1, 1, 1, 0, 0;"
                 : ZM_SUMS(0), ZM_SUMS(1),
                   ZM_SUMS(2), ZM_SUMS(3),
                   ZM_SUMS(4), ZM_SUMS(5),
                   ZM_SUMS(6), ZM_SUMS(7),
                   ZM_SUMS(8), ZM_SUMS(9),
                   ZM_SUMS(10), ZM_SUMS(11),
                   ZM_SUMS(12), ZM_SUMS(13),
                   ZM_SUMS(14), ZM_SUMS(15)
                 : "l"(x), "l"(w));
}
#else
ZM_FUNCTION void multiply_async(float (&c)[8][4], descriptor x, descriptor w) {
    asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {"
                 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
                 "}, %32, %33, 1, 1, 1, 0, 0;"
                 : ZM_SUMS(0), ZM_SUMS(1),
                   ZM_SUMS(2), ZM_SUMS(3),
                   ZM_SUMS(4), ZM_SUMS(5),
                   ZM_SUMS(6), ZM_SUMS(7)
                 : "l"(x), "l"(w));
}
#endif
#undef ZM_SUMS

/* Rows of 128 bytes in shared memory, from a multiple of 1024, in the order that the tensor cores read without conflicts. */
ZM_FUNCTION uint place(uint row, uint vector) { return row * ROW_BYTES + (vector ^ (row & 7)) * 16; }

const uint one = 0x3f803f80u;
/* (a & b) | c */
ZM_FUNCTION uint put(uint a, uint b, uint c) {
    uint result;
    asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}

/* Eight weights, as words of their codes. A code in a bfloat16 whose last place is 1 is 128 more than it is (the eighth bit of a
 * byte doubles that); taking it away is exact. */
#if ZM_BITS == 4
ZM_FUNCTION uint4 dequantize(const uint *codes, int i, uint scale, uint bias) {
    uint w[4];
#pragma unroll
    for (int j = 0; j < 4; j++)
        w[j] = fma2(fma2(put(codes[i] >> 4 * j, 0x000f000fu, 0x43004300u), one, 0xc300c300u), scale, bias);
    return make_uint4(__byte_perm(w[0], w[1], 0x5410), __byte_perm(w[2], w[3], 0x5410), __byte_perm(w[0], w[1], 0x7632),
                      __byte_perm(w[2], w[3], 0x7632));
}
#else
ZM_FUNCTION uint two_bytes(uint pair, uint scale, uint bias) {
    uint upper = fma2(put(pair, 0x00800080u, 0x43004300u), one, 0xc380c380u); /* -128 or 0 */
    return fma2(fma2(put(pair, 0x007f007fu, 0x43004300u), one, upper), scale, bias);
}
ZM_FUNCTION uint4 dequantize(const uint *codes, int i, uint scale, uint bias) {
    uint a = codes[2 * i], b = codes[2 * i + 1];
    return make_uint4(two_bytes(__byte_perm(a, 0, 0x4140), scale, bias), two_bytes(__byte_perm(a, 0, 0x4342), scale, bias),
                      two_bytes(__byte_perm(b, 0, 0x4140), scale, bias), two_bytes(__byte_perm(b, 0, 0x4342), scale, bias));
}
#endif

struct matrix {
    const uint4 *codes;
    const ushort *scales, *biases;
};

extern __shared__ __align__(1024) unsigned char shared_memory[];
/* The stages' x, the weights of two steps, the stages' codes, spans of scales and biases. */
ZM_FUNCTION uint shared_address() { return uint(__cvta_generic_to_shared(shared_memory)); }
ZM_FUNCTION uint codes_address() { return shared_address() + STAGES * X_BYTES + 2 * W_BYTES; }
ZM_FUNCTION uint scales_address() { return codes_address() + STAGES * CODE_BYTES; }

/* What a thread brings to shared memory in a step: its part of x's rows, 32 weights of row thread / 2, and now and then the next
 * scales (an even thread) or biases of that row. */
struct source {
    const uint4 *x[THREAD_X];
    bool has_x[THREAD_X], has_weight;
    const uint4 *codes;
    const ushort *scales; /* or biases */
    uint x_at, codes_at, scales_at; /* of stage 0 */

    ZM_FUNCTION void begin(uint stage, uint step) {
#pragma unroll
        for (int i = 0; i < THREAD_X; i++)
            if (has_x[i]) copy<16>(x_at + stage * X_BYTES + i * (THREADS / 8) * ROW_BYTES, x[i] + step * 8);
        if (!has_weight) return;
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            copy<16>(codes_at + stage * CODE_BYTES + i * THREADS * 16, codes + step * 2 * VECTORS + i);
        uint span = step / SPAN_STEPS;
        if (step % SPAN_STEPS == 0) copy<ZM_SPAN * 2>(scales_at + span % SPANS * 2 * SCALE_BYTES, scales + span * ZM_SPAN);
    }
};

/* The 32 weights of a thread while they are dequantised, eight at a time. */
struct unpacked {
    uint codes[4 * VECTORS], scale, bias;

    /* codes_at, scales_at: the thread's own, and its row's. */
    ZM_FUNCTION void read(uint codes_at, uint scales_at, uint stage, uint step) {
#pragma unroll
        for (int i = 0; i < VECTORS; i++)
            asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                         : "=r"(codes[4 * i]), "=r"(codes[4 * i + 1]), "=r"(codes[4 * i + 2]), "=r"(codes[4 * i + 3])
                         : "r"(codes_at + stage * CODE_BYTES + i * THREADS * 16));
        uint group = (step * TILE_K + threadIdx.x % 2 * 32) / ZM_GROUP;
        uint at = scales_at + group / ZM_SPAN % SPANS * 2 * SCALE_BYTES + group % ZM_SPAN * 2;
        ushort both[2];
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(both[0]) : "r"(at));
        asm volatile("ld.shared.u16 %0, [%1];" : "=h"(both[1]) : "r"(at + SCALE_BYTES));
        scale = both[0] * 0x10001u;
        bias = both[1] * 0x10001u;
    }
    ZM_FUNCTION void write(uint weights, uint row, uint half, int i) const {
        uint4 w = dequantize(codes, i, scale, bias);
        asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(weights + place(row, half * 4 + i)), "r"(w.x), "r"(w.y),
                     "r"(w.z), "r"(w.w)
                     : "memory");
    }
};

/* sums = x w^T for the block's rows; a group of warps that has none only brings weights. */
ZM_FUNCTION void multiply_rows(float (&sums)[TILES][4], source &from, uint n_steps, bool is_active, uint group) {
    uint row = threadIdx.x / 2, half = threadIdx.x % 2, base = shared_address(), weights = base + STAGES * X_BYTES;
    uint row_scales = scales_address() + row * ZM_SPAN * 2;
    uint own_x = SPLITS_N ? 0 : group * 64 * ROW_BYTES, own_w = SPLITS_N ? group * GROUP_N * ROW_BYTES : 0;
#pragma unroll
    for (uint i = 0; i < STAGES - 1; i++) {
        if (i < n_steps) from.begin(i, i);
        commit_copies();
    }
    finish_copies<STAGES - 2>();
    __syncthreads();
    unpacked own;
    own.read(from.codes_at, row_scales, 0, 0);
#pragma unroll
    for (int i = 0; i < 4; i++) own.write(weights, row, half, i);
    uint stage = 0;
    for (uint step = 0; step < n_steps; step++) {
        uint next = stage + 1 == STAGES ? 0 : stage + 1, last = stage ? stage - 1 : STAGES - 1;
        finish_products(); /* of the last step: its x and weights may be overwritten behind the barrier */
        finish_copies<STAGES - 3>();
        show_to_tensor_cores();
        __syncthreads();
        if (is_active) {
            descriptor x = describe(base + stage * X_BYTES + own_x), w = describe(weights + step % 2 * W_BYTES + own_w);
            begin_products();
#pragma unroll
            for (int k = 0; k < TILE_K / 16; k++) multiply_async(sums, x + 2 * k, w + 2 * k);
            commit_products();
        }
        if (step + STAGES - 1 < n_steps) from.begin(last, step + STAGES - 1);
        commit_copies();
        if (step + 1 < n_steps) {
            own.read(from.codes_at, row_scales, next, step + 1);
#pragma unroll
            for (int i = 0; i < 4; i++) own.write(weights + (step + 1) % 2 * W_BYTES, row, half, i);
        }
        stage = next;
    }
    finish_products();
}

/* The result's column, and the weight, of a row of weights in shared memory: of each group's rows the first half is gate's. */
ZM_FUNCTION uint column_of(uint row) {
    return ZM_GATED ? row / GROUP_N * GROUP_COLUMNS + row % GROUP_N % GROUP_COLUMNS : row;
}
ZM_FUNCTION bool is_up(uint row) { return ZM_GATED && row % GROUP_N >= GROUP_COLUMNS; }

struct tile {
    uint expert, first, count; /* rows */
};

/* n: of a weight's rows; k: their length, a multiple of 64; rows: of x, without experts; top_k: of experts. */
extern "C" __global__ void __launch_bounds__(THREADS, 2)
    zm_product(const uint4 *x, const uint4 *w, const ushort *s, const ushort *b,
#if ZM_GATED
               const uint4 *uw, const ushort *us, const ushort *ub,
#endif
#if ZM_FIRST || ZM_SECOND
               const uint *order, const uint4 *tiles,
#endif
               uint *y, uint n, uint k, uint rows, uint top_k, uint n_blocks) {
    uint thread = threadIdx.x, group = thread / GROUP_THREADS, warp = thread / 32 % 4, lane = thread % 32;
    uint block_m = blockIdx.x / n_blocks, block_n = blockIdx.x % n_blocks;
#if ZM_FIRST || ZM_SECOND
    uint4 given = tiles[block_m];
    tile at = {given.x, given.y, given.z};
    if (!at.count) return;
#else
    tile at = {0, block_m * ZM_ROWS, min(rows - block_m * ZM_ROWS, uint(ZM_ROWS))};
#endif
    source from;
    uint vectors = k / 8;
    from.x_at = shared_address() + place(thread / 8, thread % 8);
    from.codes_at = codes_address() + thread * 16;
    from.scales_at = scales_address() + thread % 2 * SCALE_BYTES + thread / 2 * ZM_SPAN * 2;
#pragma unroll
    for (int i = 0; i < THREAD_X; i++) {
        uint row = thread / 8 + i * (THREADS / 8);
        from.has_x[i] = row < at.count;
        uint place_x = from.has_x[i] ? at.first + row : 0;
#if ZM_FIRST
        place_x = order[place_x] / top_k;
#endif
        from.x[i] = x + size_t(place_x) * vectors + thread % 8;
    }
    matrix m = {w, s, b};
    uint row_n = block_n * COLUMNS + column_of(thread / 2);
#if ZM_GATED
    if (is_up(thread / 2)) m = {uw, us, ub};
#endif
    from.has_weight = row_n < n;
    size_t weight_row = size_t(at.expert) * n + (from.has_weight ? row_n : 0);
    from.codes = m.codes + weight_row * (k * ZM_BITS / 128) + thread % 2 * VECTORS;
    from.scales = (thread % 2 ? m.biases : m.scales) + weight_row * (k / ZM_GROUP);
    uint first_row = SPLITS_N ? 0 : group * 64, first_column = block_n * COLUMNS + (SPLITS_N ? group * GROUP_COLUMNS : 0);

    float sums[TILES][4] = {};
    multiply_rows(sums, from, k / TILE_K, first_row < at.count, group);

#pragma unroll
    for (int half = 0; half < 2; half++) {
        uint row = first_row + warp * 16 + half * 8 + lane / 4;
        if (row >= at.count) continue;
        uint place_y = at.first + row;
#if ZM_SECOND
        place_y = order[place_y];
#endif
        uint *to = y + size_t(place_y) * (n / 2);
#pragma unroll
        for (int i = 0; i < GROUP_COLUMNS / 8; i++) {
            uint column = first_column + i * 8 + lane % 4 * 2;
            const float *own = sums[i] + half * 2;
#if ZM_GATED
            const float *up = sums[i + TILES / 2] + half * 2;
            if (column < n) to[column / 2] = pack(swiglu(own[0], up[0]), swiglu(own[1], up[1]));
#else
            if (column < n) to[column / 2] = pack(own[0], own[1]);
#endif
        }
    }
}
