/* SPDX-License-Identifier: MIT */
/* Products of many rows with quantised weights, in bfloat16 or float16 on Hopper's tensor cores, with the bits of MLX's
 * own matrix kernels: a weight is code * scale + bias with one rounding, and a sum is a chain of products of 16
 * elements in the order of k.
 *
 *     y[r, i] = sum over k of x[r, k] * w[i, k]
 *
 * Weights are the rows of the tensor cores' first matrix, which they take from registers: a thread dequantises just
 * what it multiplies. A tile has as many columns as it has rows of x.
 *
 * Behind halves.cuh, the type's text (bfloat16.cuh, float16.cuh) and wgmma.cuh. The text before that defines ZM_BITS (2
 * to 6 or 8), ZM_GROUP (32, 64, 128) of the weights, ZM_WEIGHTS (64 or 128), how many of their rows a block takes,
 * ZM_SPAN (2, 4 or 8), how many scales of a row a copy brings, ZM_GATED: two weights, and silu(gate x) * up x comes
 * out; and of experts ZM_FIRST or ZM_SECOND: tiles say which rows a block takes (around.cuh). FIRST reads each row of x
 * for the experts chosen for it and leaves rows sorted by expert, SECOND takes them so and leaves each at its place. */
enum {
    THREADS = 2 * ZM_WEIGHTS, /* a warp has 16 rows of weights: of two weights 8 of each */
    COLUMNS = ZM_GATED ? ZM_WEIGHTS / 2 : ZM_WEIGHTS, /* of the result */
    WARP_COLUMNS = ZM_GATED ? 8 : 16,
    TILE_K = PROMPT_TILE_K,
    STAGES = PROMPT_STAGES,
    AHEAD = STAGES - 2, /* steps that copies of x are ahead */
    WIDTH = ZM_BITS <= 4 ? 4 : 8, /* of a code in shared memory: bits */
    VECTORS = WIDTH / 4, /* of 16 bytes of codes there, a thread: 32 weights of a row */
    CODE_BYTES = 16 * TILE_K * WIDTH / 8, /* a warp's of a step */
    SPAN_STEPS = ZM_SPAN * ZM_GROUP / TILE_K,
    SPANS = ZM_SPAN == 2 ? 4 : 2, /* in shared memory */
    SCALE_BYTES = ZM_WEIGHTS * ZM_SPAN * 2, /* of a span; biases are as many */
    RESULT_BYTES = COLUMNS * 2 + 16, /* of a row in shared memory, so that eight rows lie in different banks */
};

extern __shared__ __align__(1024) unsigned char shared_memory[];
/* The codes of two steps, spans of scales and biases, and from a multiple of 1024 on the stages' x, later the
 * results. */
ZM_FUNCTION uint codes_address() { return uint(__cvta_generic_to_shared(shared_memory)); }
enum {
    CODES_BYTES = 2 * (THREADS / WARP) * CODE_BYTES, /* a multiple of 1024 */
    SCALES_BYTES = (SPANS * 2 * SCALE_BYTES + 1023) / 1024 * 1024,
};
ZM_FUNCTION uint scales_address() { return codes_address() + CODES_BYTES; }
ZM_FUNCTION uint x_address() { return scales_address() + SCALES_BYTES; }

ZM_FUNCTION uint4 read_shared(uint shared) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(shared));
    return v;
}
ZM_FUNCTION uint read_shared_word(uint shared) {
    uint value;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(value) : "r"(shared));
    return value;
}
ZM_FUNCTION uint read_shared_half(uint shared) {
    ushort value;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(value) : "r"(shared));
    return value;
}
ZM_FUNCTION void write_shared(uint shared, uint value) {
    asm volatile("st.shared.u32 [%0], %1;" ::"r"(shared), "r"(value) : "memory");
}
ZM_FUNCTION void write_shared(uint shared, uint a, uint b) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(shared), "r"(a), "r"(b) : "memory");
}
/* A weight's codes, 32 of them, are read once, in the largest vectors that rows begin at multiples of. */
ZM_FUNCTION void read_codes(uint (&w)[ZM_BITS], const uint *p) {
#if ZM_BITS % 4 == 0
#pragma unroll
    for (int i = 0; i < ZM_BITS; i += 4)
        asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(w[i]), "=r"(w[i + 1]), "=r"(w[i + 2]), "=r"(w[i + 3]) : "l"(p + i));
#elif ZM_BITS % 2 == 0
#pragma unroll
    for (int i = 0; i < ZM_BITS; i += 2)
        asm volatile("ld.global.nc.L2::128B.v2.u32 {%0, %1}, [%2];" : "=r"(w[i]), "=r"(w[i + 1]) : "l"(p + i));
#else
#pragma unroll
    for (int i = 0; i < ZM_BITS; i++) asm volatile("ld.global.nc.L2::128B.u32 %0, [%1];" : "=r"(w[i]) : "l"(p + i));
#endif
}
/* Word i of those codes with WIDTH bits each. */
ZM_FUNCTION uint code_word(const uint (&w)[ZM_BITS], int i) {
    if (ZM_BITS == WIDTH) return w[i];
    enum { COUNT = 32 / WIDTH };
    const int first = i * COUNT * ZM_BITS, last = first + COUNT * ZM_BITS - 1;
    uint v = __funnelshift_r(w[first / 32], w[last / 32], first % 32) & ((1u << COUNT * ZM_BITS) - 1);
    /* Of 2 * half codes the upper ones move to where the upper half of their place begins. */
#pragma unroll
    for (int half = COUNT / 2; half; half /= 2) {
        uint repeated = half * 2 * WIDTH == 32 ? 1u : half * 2 * WIDTH == 16 ? 0x10001u : 0x01010101u;
        uint upper = (((1u << half * ZM_BITS) - 1) << half * ZM_BITS) * repeated;
        v += (v & upper) * ((1u << half * (WIDTH - ZM_BITS)) - 1);
    }
    return v;
}

/* Codes go through shared memory from the threads 2 * row and 2 * row + 1 of a warp, which bring a step's halves of 32,
 * to those that multiply: 4 * (row % 8) + c takes, of each 16 elements, 2 c, 2 c + 1, 2 c + 8 and 2 c + 9 of rows row %
 * 8 and row % 8 + 8. */
ZM_FUNCTION uint codes_place(uint row, uint c) { return (row * 4 + (c ^ row >> 1)) * 16; }

/* What a thread brings to shared memory: its part of the rows of x, 32 weights of a row each step, and now and then the
 * next scales (an even thread) or biases of that row. */
template <int N> struct source {
    enum { THREAD_X = (N * 8 + THREADS - 1) / THREADS, X_BYTES = N * ROW_BYTES };
    const uint4 *x[THREAD_X];
    bool has_x[THREAD_X], has_weight;
    const uint *codes;
    const ushort *scales; /* or biases */
    uint x_at, codes_at, scales_at; /* of stage 0 */
    uint next[2][ZM_BITS]; /* codes of steps to come */

    ZM_FUNCTION void begin_copies(uint stage, uint step) {
#pragma unroll
        for (int i = 0; i < THREAD_X; i++)
            if (has_x[i]) copy<16>(x_at + stage * X_BYTES + i * (THREADS / 8) * ROW_BYTES, x[i] + step * 8);
        uint span = step / SPAN_STEPS;
        if (has_weight && step % SPAN_STEPS == 0)
            copy<ZM_SPAN * 2>(scales_at + span % SPANS * 2 * SCALE_BYTES, scales + span * ZM_SPAN);
    }
    ZM_FUNCTION void read(int i, uint step, uint n_steps) {
        if (has_weight && step < n_steps) read_codes(next[i], codes + step * 2 * ZM_BITS);
    }
    ZM_FUNCTION void place(int i) const {
        uint half = threadIdx.x % 2, row = threadIdx.x / 2 % 8, upper = threadIdx.x / 16 % 2;
        uint to = codes_at + i * (THREADS / WARP) * CODE_BYTES;
        auto word = [&](int j) { return code_word(next[i], j); };
        const uint4 w = make_uint4(word(0), word(1), word(2), word(3));
#if ZM_BITS <= 4
        /* The bytes c of four words. */
        uint a = __byte_perm(w.x, w.y, 0x5140), b = __byte_perm(w.z, w.w, 0x5140);
        uint c = __byte_perm(w.x, w.y, 0x7362), d = __byte_perm(w.z, w.w, 0x7362);
        to += upper * 8 + half * 4;
        write_shared(to + codes_place(row, 0), __byte_perm(a, b, 0x5410));
        write_shared(to + codes_place(row, 1), __byte_perm(a, b, 0x7632));
        write_shared(to + codes_place(row, 2), __byte_perm(c, d, 0x5410));
        write_shared(to + codes_place(row, 3), __byte_perm(c, d, 0x7632));
#else
        const uint4 v = make_uint4(word(4), word(5), word(6), word(7));
        to += upper * (CODE_BYTES / 2) + half * 8;
        write_shared(to + codes_place(row, 0), __byte_perm(w.x, w.z, 0x5410), __byte_perm(v.x, v.z, 0x5410));
        write_shared(to + codes_place(row, 1), __byte_perm(w.x, w.z, 0x7632), __byte_perm(v.x, v.z, 0x7632));
        write_shared(to + codes_place(row, 2), __byte_perm(w.y, w.w, 0x5410), __byte_perm(v.y, v.w, 0x5410));
        write_shared(to + codes_place(row, 3), __byte_perm(w.y, w.w, 0x7632), __byte_perm(v.y, v.w, 0x7632));
#endif
    }
};

/* A thread's codes of a step, and the groups' scales and biases: of its first row of weights and the one eight further
 * on. */
struct step_weights {
    enum { GROUPS = ZM_GROUP < TILE_K ? TILE_K / ZM_GROUP : 1 };
    uint codes[2][VECTORS * 2], both[2][GROUPS];

    ZM_FUNCTION void read(uint codes_at, uint scales_at, uint step) {
        uint4 v = read_shared(codes_at);
#if ZM_BITS <= 4
        codes[0][0] = v.x, codes[0][1] = v.y, codes[1][0] = v.z, codes[1][1] = v.w;
#else
        uint4 u = read_shared(codes_at + CODE_BYTES / 2);
        codes[0][0] = v.x, codes[0][1] = v.y, codes[0][2] = v.z, codes[0][3] = v.w;
        codes[1][0] = u.x, codes[1][1] = u.y, codes[1][2] = u.z, codes[1][3] = u.w;
#endif
#pragma unroll
        for (int g = 0; g < GROUPS; g++) {
            uint group = step * TILE_K / ZM_GROUP + g;
            uint at = scales_at + group / ZM_SPAN % SPANS * 2 * SCALE_BYTES + group % ZM_SPAN * 2;
#pragma unroll
            for (int r = 0; r < 2; r++)
                both[r][g] = factors_of<ZM_BITS>(read_shared_half(at + r * 8 * ZM_SPAN * 2),
                                                 read_shared_half(at + r * 8 * ZM_SPAN * 2 + SCALE_BYTES));
        }
    }
    /* The weights of block j of 16 elements, as the tensor cores take them. */
    ZM_FUNCTION void dequantize(uint (&w)[4], int j) const {
#pragma unroll
        for (int i = 0; i < 4; i++) {
            const int r = i % 2, upper = i / 2;
            uint scale = both[r][j * 16 * GROUPS / TILE_K];
#if ZM_BITS <= 4
            uint u = codes[r][j / 2], byte = j % 2 * 2 + upper;
            w[i] = weights_of<ZM_BITS>(__byte_perm(u << 4, u, byte | (4 + byte) << 8) & 0x00f000f0u, scale);
#else
            w[i] = weights_of<ZM_BITS>(__byte_perm(codes[r][j], 0, upper ? 0x4342 : 0x4140), scale);
#endif
        }
    }
};

/* sums += weights x^T for the block's rows. */
template <int N> ZM_FUNCTION void multiply_rows(float (&sums)[N / 8][4], source<N> &from, uint n_steps) {
    uint lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    uint codes_at = codes_address() + warp * CODE_BYTES + codes_place(lane / 4, lane % 4);
    uint scales_at = scales_address() + (warp * 16 + lane / 4) * ZM_SPAN * 2;
#pragma unroll
    for (uint i = 0; i < AHEAD; i++) {
        if (i < n_steps) from.begin_copies(i, i);
        commit_copies();
    }
    from.read(0, 0, n_steps);
    from.read(1, 1, n_steps);
    from.place(0);
    from.read(0, 2, n_steps);
    uint stage = 0;
    uint w[4][4];
    for (uint first = 0; first < n_steps; first += 2) {
#pragma unroll
        for (uint i = 0; i < 2; i++) {
            uint step = first + i;
            if (step == n_steps) break;
            finish_copies<AHEAD - 1>();
            /* Behind this, the step before last is complete. The tensor cores read what complete copies brought without
             * a fence of their own, as in CUTLASS's kernels with cp.async: such a fence waits for all the loads under
             * way. */
            __syncthreads();
            if (step + AHEAD < n_steps) from.begin_copies((stage + AHEAD) % STAGES, step + AHEAD);
            commit_copies();
            step_weights own;
            own.read(codes_at + i * (THREADS / WARP) * CODE_BYTES, scales_at, step);
            from.place(1 - i);
            from.read(1 - i, step + 3, n_steps);
            descriptor x = describe(x_address() + stage * source<N>::X_BYTES);
#pragma unroll
            for (int j = 0; j < TILE_K / 16; j++) {
                finish_products<3>(); /* so that the last step's w[j] is free */
                own.dequantize(w[j], j);
                begin_products();
                products<N>::begin(sums, w[j], x + 2 * j);
                commit_products();
            }
            stage = (stage + 1) % STAGES;
        }
    }
    finish_products<0>();
}

struct matrix {
    const uint *codes;
    const ushort *scales, *biases;
};

struct tile {
    uint expert, first, count; /* rows of x */
};

struct arguments {
    const uint4 *x;
    matrix weights, up; /* ZM_GATED: gate's and up's */
    const uint *order;
    uint *y;
    uint n, k, top_k, block_n;
};

ZM_FUNCTION float activate(float gate, float up) {
    gate = rounded(gate);
    return rounded(gate * sigmoid(gate)) * rounded(up); /* to be rounded */
}

/* Results to shared memory, a row behind the other, and from there to y. */
template <int N> ZM_FUNCTION void leave(const float (&sums)[N / 8][4], const arguments &of, const tile &at) {
    uint lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    __syncthreads(); /* x is no longer needed */
    uint to = x_address() + warp * WARP_COLUMNS * 2;
#if ZM_GATED
    to += lane * RESULT_BYTES;
#pragma unroll
    for (int i = 0; i < N / 8; i += 4) {
        uint pairs[4];
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *own = sums[i + j < N / 8 ? i + j : i];
            pairs[j] = pack(activate(own[0], own[2]), activate(own[1], own[3]));
        }
        store_turned(to + i * 8 * RESULT_BYTES, pairs[0], pairs[1], pairs[2], pairs[3]);
    }
#else
    to += (lane / 16 * 8 + lane % 8) * RESULT_BYTES + lane / 8 % 2 * 16;
#pragma unroll
    for (int i = 0; i < N / 8; i += 2)
        store_turned(to + i * 8 * RESULT_BYTES, pack(sums[i][0], sums[i][1]), pack(sums[i][2], sums[i][3]),
                     pack(sums[i + 1][0], sums[i + 1][1]), pack(sums[i + 1][2], sums[i + 1][3]));
#endif
    __syncthreads();
    uint first_column = of.block_n * COLUMNS, columns = min(of.n - first_column, uint(COLUMNS));
    auto row_of = [&](uint row) {
        uint place_y = at.first + row;
#if ZM_SECOND
        place_y = of.order[place_y];
#endif
        return of.y + (size_t(place_y) * of.n + first_column) / 2;
    };
    if (of.n % 8 == 0) {
        enum { ROW_VECTORS = COLUMNS / 8 };
        for (uint i = threadIdx.x; i < at.count * ROW_VECTORS; i += THREADS) {
            uint row = i / ROW_VECTORS, vector = i % ROW_VECTORS;
            if (vector * 8 < columns)
                ((uint4 *)row_of(row))[vector] = read_shared(x_address() + row * RESULT_BYTES + vector * 16);
        }
    } else {
        for (uint i = threadIdx.x; i < at.count * (COLUMNS / 2); i += THREADS) {
            uint row = i / (COLUMNS / 2), pair = i % (COLUMNS / 2);
            if (pair * 2 < columns) row_of(row)[pair] = read_shared_word(x_address() + row * RESULT_BYTES + pair * 4);
        }
    }
}

/* A tile of at most N rows. */
template <int N> ZM_FUNCTION void run(const arguments &of, const tile &at) {
    uint thread = threadIdx.x, vectors = of.k / 8;
    source<N> from;
    from.x_at = x_address() + place(thread / 8, thread % 8);
    from.codes_at = codes_address() + thread / WARP * CODE_BYTES;
    from.scales_at = scales_address() + thread % 2 * SCALE_BYTES + thread / 2 * ZM_SPAN * 2;
#pragma unroll
    for (int i = 0; i < source<N>::THREAD_X; i++) {
        uint row = thread / 8 + i * (THREADS / 8);
        from.has_x[i] = row < at.count;
        uint place_x = from.has_x[i] ? at.first + row : 0;
#if ZM_FIRST
        place_x = of.order[place_x] / of.top_k;
#endif
        from.x[i] = of.x + size_t(place_x) * vectors + thread % 8;
    }
    uint row = thread / 2, column = of.block_n * COLUMNS + (ZM_GATED ? row / 16 * 8 + row % 8 : row);
    matrix m = of.weights;
#if ZM_GATED
    if (row / 8 % 2) m = of.up;
#endif
    from.has_weight = column < of.n;
    size_t weight_row = size_t(at.expert) * of.n + (from.has_weight ? column : 0);
    from.codes = m.codes + weight_row * (of.k / 32 * ZM_BITS) + thread % 2 * ZM_BITS;
    from.scales = (thread % 2 ? m.biases : m.scales) + weight_row * (of.k / ZM_GROUP);
    float sums[N / 8][4] = {};
    multiply_rows<N>(sums, from, of.k / TILE_K);
    leave<N>(sums, of, at);
}

/* n: of a weight's rows; k: their length, a multiple of 64; rows: of x, without experts, and of those tile_rows (at
 * most 128) a block; top_k: of experts. */
extern "C" __global__ void __launch_bounds__(THREADS, 512 / THREADS)
    zm_product(const uint4 *x, const uint *w, const ushort *s, const ushort *b,
#if ZM_GATED
               const uint *uw, const ushort *us, const ushort *ub,
#endif
#if ZM_FIRST || ZM_SECOND
               const uint *order, const uint4 *tiles,
#endif
               uint *y, uint n, uint k, uint rows, uint tile_rows, uint top_k, uint n_blocks) {
    uint block_m = blockIdx.x / n_blocks;
#if !ZM_GATED
    const uint *uw = w;
    const ushort *us = s, *ub = b;
#endif
#if ZM_FIRST || ZM_SECOND
    uint4 given = tiles[block_m];
    tile at = {given.x, given.y, given.z};
    if (!at.count) return;
#else
    tile at = {0, block_m * tile_rows, min(rows - block_m * tile_rows, tile_rows)};
    const uint *order = nullptr;
#endif
    arguments of = {x, {w, s, b}, {uw, us, ub}, order, y, n, k, top_k, blockIdx.x % n_blocks};
    if (at.count <= 16) run<16>(of, at);
    else if (at.count <= 32) run<32>(of, at);
    else if (at.count <= 48) run<48>(of, at);
    else if (at.count <= 64) run<64>(of, at);
    else if (at.count <= 80) run<80>(of, at);
    else if (at.count <= 96) run<96>(of, at);
    else run<128>(of, at);
}
