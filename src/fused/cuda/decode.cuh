/* SPDX-License-Identifier: MIT */
/* One token through a model with affine weights, in bfloat16, with the bits of MLX's own CUDA kernels: the order of
 * every sum and every rounding is theirs. decode_*.cuh, which follow, hold the kernels.
 *
 * The text before this one defines ZM_BITS (4 or 8) and ZM_GROUP (32, 64, 128) of the weights, ZM_HIDDEN, the size of
 * the residual stream, ZM_HEAD_DIM (64 or 128) and ZM_TOP_K. */
typedef unsigned short ushort;
typedef unsigned int uint;

#define ZM_FUNCTION __device__ __forceinline__
#define ZM_KERNEL(...) extern "C" __global__ void __launch_bounds__(__VA_ARGS__)

enum { WARP = 32, THREADS = 512, WARPS = THREADS / WARP };

/* Everything older than the kernel before this one is complete when a kernel begins; that one after this. */
ZM_FUNCTION void wait_for_last() {
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;");
}

ZM_FUNCTION float low(uint pair) { return __uint_as_float(pair << 16); }
ZM_FUNCTION float high(uint pair) { return __uint_as_float(pair & 0xffff0000u); }
ZM_FUNCTION float widen(ushort value) { return __uint_as_float(uint(value) << 16); }
ZM_FUNCTION uint pack(float a, float b) {
    uint pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(b), "f"(a));
    return pair;
}
ZM_FUNCTION ushort narrow(float value) { return ushort(pack(value, 0.0f)); }
ZM_FUNCTION float rounded(float value) { return low(pack(value, 0.0f)); }
ZM_FUNCTION uint fma2(uint a, uint b, uint c) {
    uint result;
    asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(result) : "r"(a), "r"(b), "r"(c));
    return result;
}
ZM_FUNCTION uint multiply2(uint a, uint b) {
    uint result;
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(result) : "r"(a), "r"(b));
    return result;
}
ZM_FUNCTION uint2 read_once(const uint2 *p) {
    uint2 value;
    asm volatile("ld.global.nc.L1::no_allocate.v2.u32 {%0, %1}, [%2];" : "=r"(value.x), "=r"(value.y) : "l"(p));
    return value;
}
ZM_FUNCTION ushort read_once(const ushort *p) {
    ushort value;
    asm volatile("ld.global.nc.u16 %0, [%1];" : "=h"(value) : "l"(p));
    return value;
}
/* What the kernel before wrote must not come from the read-only path. */
ZM_FUNCTION uint4 read_fresh(const uint4 *p) {
    uint4 value;
    asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(value.x), "=r"(value.y), "=r"(value.z), "=r"(value.w) : "l"(p) : "memory");
    return value;
}

ZM_FUNCTION float warp_sum(float value) {
#pragma unroll
    for (int lane = WARP / 2; lane; lane /= 2) value += __shfl_xor_sync(~0u, value, lane);
    return value;
}

/* The sums over a warp of a and b, in one set of exchanges: a's in lanes 0 to 15, b's in the others. */
ZM_FUNCTION float warp_sum2(float a, float b, int lane) {
    float own = lane < 16 ? a : b, other = lane < 16 ? b : a;
    own += __shfl_xor_sync(~0u, other, 16);
#pragma unroll
    for (int step = 8; step; step /= 2) own += __shfl_xor_sync(~0u, own, step);
    return own;
}

/* MLX's sigmoid in bfloat16: every step rounded. Its exponential is that of CUDA's bfloat16: 2^(x log2 e). */
ZM_FUNCTION float sigmoid(float x) {
    float power = fabsf(x) * __uint_as_float(0x3fb8aa3cu);
    asm("ex2.approx.f32 %0, %0;" : "+f"(power));
    float y = rounded(1.0f / rounded(1.0f + rounded(power)));
    return x < 0.0f ? y : rounded(1.0f - y);
}
ZM_FUNCTION float swiglu(float gate, float up) {
    return rounded(rounded(gate * sigmoid(gate)) * up);
}

/* Weights. A lane takes LANE_ELEMENTS neighbours of a row (8 bytes), a warp STEP, a chunk is STEPS of them. */
enum {
    LANE_ELEMENTS = ZM_BITS == 4 ? 16 : 8,
    STEP = WARP * LANE_ELEMENTS,
    CHUNK = 2048,
    STEPS = CHUNK / STEP,
    CHUNK_GROUPS = CHUNK / ZM_GROUP,
    LANE_GROUPS = (CHUNK_GROUPS + WARP - 1) / WARP, /* that a lane loads of a chunk */
    ACCUMULATORS = 8,
};

extern __shared__ uint4 staged[]; /* x, for all warps of a block */

struct matrix {
    const uint2 *weight;
    const ushort *scales, *biases;
};

/* Scale and bias as they enter fma2. A code in the low bits of a bfloat16 is a subnormal number, exactly
 * code * 2^-129 (4 bits, in bits 4 to 7) or code * 2^-133 (8 bits), so that one fma with scale * 2^129 or 2^133
 * dequantises with the single rounding MLX's has. Needs |scale| < 2^-2 or 2^-6. */
ZM_FUNCTION uint scale_and_bias(ushort scale, ushort bias) {
    uint scaled = multiply2(multiply2(scale, 0x5f805f80u), ZM_BITS == 4 ? 0x60006000u : 0x62006200u);
    return (scaled & 0xffffu) | uint(bias) << 16;
}

/* A lane's share of a chunk of one row, as loaded: nothing here waits for the loads. */
struct chunk {
    uint2 weight[STEPS];
    ushort scale[LANE_GROUPS], bias[LANE_GROUPS];
};

ZM_FUNCTION void load_chunk(chunk &c, const matrix &m, uint row, uint number, uint k, uint lane) {
    uint words = k / LANE_ELEMENTS, groups = k / ZM_GROUP;
    const uint2 *weight = m.weight + row * words;
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
        uint word = (number * STEPS + t) * WARP + lane;
        c.weight[t] = make_uint2(0, 0);
        if (word < words) c.weight[t] = read_once(weight + word);
    }
#pragma unroll
    for (int g = 0; g < LANE_GROUPS; g++) {
        uint group = number * CHUNK_GROUPS + g * WARP + lane;
        c.scale[g] = c.bias[g] = 0;
        if (group < groups && g * WARP + lane < CHUNK_GROUPS) {
            c.scale[g] = read_once(m.scales + row * groups + group);
            c.bias[g] = read_once(m.biases + row * groups + group);
        }
    }
}

#if ZM_BITS == 4
/* Sums in the activation's type: pairs (i, i + 4) of the elements of each half. */
typedef uint accumulator;
ZM_FUNCTION void accumulate(accumulator *sums, uint2 w, uint scale, uint bias, const uint4 *x) {
    const uint mask = 0x00f000f0u;
    uint4 a = x[0], b = x[WARP];
    sums[0] = fma2(a.x, fma2((w.x << 4) & mask, scale, bias), sums[0]);
    sums[1] = fma2(a.y, fma2(w.x & mask, scale, bias), sums[1]);
    sums[2] = fma2(a.z, fma2((w.x >> 4) & mask, scale, bias), sums[2]);
    sums[3] = fma2(a.w, fma2((w.x >> 8) & mask, scale, bias), sums[3]);
    sums[4] = fma2(b.x, fma2((w.y << 4) & mask, scale, bias), sums[4]);
    sums[5] = fma2(b.y, fma2(w.y & mask, scale, bias), sums[5]);
    sums[6] = fma2(b.z, fma2((w.y >> 4) & mask, scale, bias), sums[6]);
    sums[7] = fma2(b.w, fma2((w.y >> 8) & mask, scale, bias), sums[7]);
}
ZM_FUNCTION float lane_sum(const accumulator *sums) {
    float sum = 0.0f;
#pragma unroll
    for (int half = 0; half < 2; half++) {
#pragma unroll
        for (int i = 0; i < 4; i++) sum += low(sums[half * 4 + i]);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += high(sums[half * 4 + i]);
    }
    return sum;
}
/* Where the vector of 8 elements `number` of x lies in shared memory, and how. */
ZM_FUNCTION uint x_place(uint number) {
    uint unit = number / 2;
    return (unit / WARP * 2 + number % 2) * WARP + unit % WARP;
}
ZM_FUNCTION uint4 x_order(uint4 v) {
    return make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632), __byte_perm(v.y, v.w, 0x5410),
                      __byte_perm(v.y, v.w, 0x7632));
}
enum { X_STEP = 2 * WARP }; /* vectors of x a step */
#else
typedef float accumulator;
ZM_FUNCTION void accumulate(accumulator *sums, uint2 w, uint scale, uint bias, const uint4 *x) {
    const uint mask = 0x00ff00ffu;
    uint4 a = x[0];
    uint even = fma2(w.x & mask, scale, bias), odd = fma2((w.x >> 8) & mask, scale, bias);
    sums[0] = fmaf(low(a.x), low(even), sums[0]);
    sums[1] = fmaf(low(a.y), low(odd), sums[1]);
    sums[2] = fmaf(high(a.x), high(even), sums[2]);
    sums[3] = fmaf(high(a.y), high(odd), sums[3]);
    even = fma2(w.y & mask, scale, bias), odd = fma2((w.y >> 8) & mask, scale, bias);
    sums[4] = fmaf(low(a.z), low(even), sums[4]);
    sums[5] = fmaf(low(a.w), low(odd), sums[5]);
    sums[6] = fmaf(high(a.z), high(even), sums[6]);
    sums[7] = fmaf(high(a.w), high(odd), sums[7]);
}
ZM_FUNCTION float lane_sum(const accumulator *sums) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ACCUMULATORS; i++) sum += sums[i];
    return sum;
}
ZM_FUNCTION uint x_place(uint number) { return number; }
ZM_FUNCTION uint4 x_order(uint4 v) { /* (0, 2), (1, 3), (4, 6), (5, 7) */
    return make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632), __byte_perm(v.z, v.w, 0x5410),
                      __byte_perm(v.z, v.w, 0x7632));
}
enum { X_STEP = WARP };
#endif

/* Vectors of x in shared memory for k elements: whole chunks, what is past k zero. */
ZM_FUNCTION constexpr uint x_vectors(uint k) { return (k + CHUNK - 1) / CHUNK * (CHUNK / 8); }

ZM_FUNCTION void add_chunk(accumulator (&sums)[ACCUMULATORS], const chunk &c, const uint4 *x, uint lane) {
    uint groups[LANE_GROUPS];
#pragma unroll
    for (int g = 0; g < LANE_GROUPS; g++) groups[g] = scale_and_bias(c.scale[g], c.bias[g]);
#pragma unroll
    for (int t = 0; t < STEPS; t++) {
        int group = t * STEP / ZM_GROUP; /* of lane 0 */
        uint both = __shfl_sync(~0u, groups[group / WARP], group % WARP + lane * LANE_ELEMENTS / ZM_GROUP);
        uint scale = __byte_perm(both, both, 0x1010), bias = __byte_perm(both, both, 0x3232);
        accumulate(sums, c.weight[t], scale, bias, x + t * X_STEP + lane);
    }
}

/* A lane's part of the product of a row with x (in shared memory, as staged) over k elements; c is the first chunk. */
ZM_FUNCTION float multiply_row(const chunk &c, const matrix &m, uint row, const uint4 *x, uint k, uint lane) {
    accumulator sums[ACCUMULATORS] = {};
    if (k <= CHUNK) {
        add_chunk(sums, c, x, lane);
        return lane_sum(sums);
    }
    chunk own = c;
#pragma unroll 1
    for (uint number = 1; number * CHUNK < k; number++) {
        chunk next;
        load_chunk(next, m, row, number, k, lane);
        add_chunk(sums, own, x, lane);
        own = next;
        x += CHUNK / 8;
    }
    add_chunk(sums, own, x, lane);
    return lane_sum(sums);
}

/* x (k elements) into shared memory. The caller's barrier follows. */
ZM_FUNCTION void stage(uint4 *shared, const uint4 *x, uint k, uint thread, uint threads) {
#pragma unroll 1
    for (uint v = thread; v < x_vectors(k); v += threads)
        shared[x_place(v)] = v < k / 8 ? x_order(read_fresh(x + v)) : make_uint4(0, 0, 0, 0);
}

/* The RMS norm of a row of ZM_HIDDEN, as MLX spreads it over a block: NORM_THREADS with NORM_VECTORS of 8. */
enum {
    ROW_VECTORS = (ZM_HIDDEN + 7) / 8,
    NORM_THREADS = ZM_HIDDEN <= 512                                           ? 64
                   : ROW_VECTORS % 128 == 0 && ROW_VECTORS / 128 <= 8 ? 128
                   : ROW_VECTORS % 64 == 0 && ROW_VECTORS / 64 <= 8   ? 64
                                                                       : 128,
    NORM_VECTORS = (ROW_VECTORS + NORM_THREADS - 1) / NORM_THREADS,
};

struct norm_row {
    uint4 weight[NORM_VECTORS];
};

ZM_FUNCTION void load_norm(norm_row &n, const uint4 *weight, uint thread) {
#pragma unroll
    for (int i = 0; i < NORM_VECTORS; i++) {
        uint v = i * NORM_THREADS + thread;
        n.weight[i] = thread < NORM_THREADS && v < ROW_VECTORS ? __ldg(weight + v) : make_uint4(0, 0, 0, 0);
    }
}

ZM_FUNCTION float add_square(float sum, uint pair) {
    sum = fmaf(low(pair), low(pair), sum);
    return fmaf(high(pair), high(pair), sum);
}
ZM_FUNCTION uint scale_pair(uint x, uint weight, float factor) {
    return pack(low(weight) * rounded(low(x) * factor), high(weight) * rounded(high(x) * factor));
}

/* Stages the norm of h; the barrier behind it is included. normed (may be NULL) gets it in row order. */
ZM_FUNCTION void stage_norm(uint4 *shared, const uint4 *h, const norm_row &n, float eps, uint4 *normed, uint thread,
                            uint threads) {
    __shared__ float sums[NORM_THREADS / WARP];
    uint4 x[NORM_VECTORS];
    float sum = 0.0f;
    if (thread < NORM_THREADS) {
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++) {
            uint v = i * NORM_THREADS + thread;
            x[i] = v < ROW_VECTORS ? read_fresh(h + v) : make_uint4(0, 0, 0, 0);
        }
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++)
            sum = add_square(add_square(add_square(add_square(sum, x[i].x), x[i].y), x[i].z), x[i].w);
        sum = warp_sum(sum);
        if (thread % WARP == 0) sums[thread / WARP] = sum;
    }
#pragma unroll 1
    for (uint v = ROW_VECTORS + thread; v < x_vectors(ZM_HIDDEN); v += threads) shared[x_place(v)] = make_uint4(0, 0, 0, 0);
    __syncthreads();
    sum = NORM_THREADS == 64 ? sums[0] + sums[1]
                             : (sums[0] + sums[2 % (NORM_THREADS / WARP)]) + (sums[1] + sums[3 % (NORM_THREADS / WARP)]);
    float factor = rsqrtf(sum / float(ZM_HIDDEN) + eps);
    if (thread < NORM_THREADS) {
#pragma unroll
        for (int i = 0; i < NORM_VECTORS; i++) {
            uint v = i * NORM_THREADS + thread;
            if (v >= ROW_VECTORS) continue;
            uint4 y = make_uint4(scale_pair(x[i].x, n.weight[i].x, factor), scale_pair(x[i].y, n.weight[i].y, factor),
                                 scale_pair(x[i].z, n.weight[i].z, factor), scale_pair(x[i].w, n.weight[i].w, factor));
            shared[x_place(v)] = x_order(y);
            if (normed) normed[v] = y;
        }
    }
    __syncthreads();
}
