/* SPDX-License-Identifier: MIT */
/* What a lane multiplies of a row of weights and of x: in each step it has LANE_ELEMENTS neighbours, as in MLX's vector
 * kernels. Behind halves.cuh and the type's text, before decode.cuh, which says what is defined. */
enum {
    LANE_ELEMENTS = ZM_MXFP4       ? 32
                    : ZM_BITS <= 4 ? 16
                                   : 8,
    LANE_BYTES = LANE_ELEMENTS * ZM_BITS / 8,
    STEP = WARP * LANE_ELEMENTS, /* of a warp */
    WARP_BYTES = WARP * 16,      /* of a vector each */
};

#if ZM_MXFP4
typedef uint4 lane_word;
#else
typedef uint2 lane_word;
#endif

/* Shared memory by its own addresses: those of pointers into it would be made anew wherever registers are few. */
ZM_FUNCTION uint shared_address(const void *p) { return uint(__cvta_generic_to_shared(p)); }
ZM_FUNCTION uint4 shared_vector(uint at) {
    uint4 v;
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "r"(at) : "memory");
    return v;
}
ZM_FUNCTION uint2 shared_pair(uint at) {
    uint2 v;
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "r"(at) : "memory");
    return v;
}
ZM_FUNCTION uint shared_word(uint at) {
    uint v;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}
ZM_FUNCTION ushort shared_half(uint at) {
    ushort v;
    asm volatile("ld.shared.u16 %0, [%1];" : "=h"(v) : "r"(at) : "memory");
    return v;
}
ZM_FUNCTION uint shared_byte(uint at) {
    uint v;
    asm volatile("ld.shared.u8 %0, [%1];" : "=r"(v) : "r"(at) : "memory");
    return v;
}

/* Codes of unit `unit` of LANE_ELEMENTS from a row's first at `row`, from its lowest bit on, in global memory that
 * nobody writes. */
ZM_FUNCTION lane_word read_lane(const void *row, uint unit) {
    if constexpr (LANE_BYTES == sizeof(lane_word)) {
        return __ldg((const lane_word *)row + unit);
#if !ZM_MXFP4
    } else if constexpr (LANE_BYTES == sizeof(uint)) {
        return make_uint2(__ldg((const uint *)row + unit), 0);
    } else { /* 5 or 6 bytes, within two words */
        uint byte = unit * LANE_BYTES, turn = byte % 4 * 8;
        const uint *words = (const uint *)row + byte / 4;
        uint first = __ldg(words), second = __ldg(words + 1);
        return make_uint2(__funnelshift_r(first, second, turn), second >> turn);
#endif
    }
}

/* The same of a row in shared memory. */
ZM_FUNCTION lane_word shared_lane_word(uint row, uint unit) {
    uint at = row + unit * LANE_BYTES;
#if ZM_MXFP4
    return shared_vector(at);
#else
    if constexpr (LANE_BYTES == sizeof(lane_word)) {
        return shared_pair(at);
    } else if constexpr (LANE_BYTES == sizeof(uint)) {
        return make_uint2(shared_word(at), 0);
    } else {
        uint first = shared_word(at & ~3u), second = shared_word((at & ~3u) + 4), turn = at % 4 * 8;
        return make_uint2(__funnelshift_r(first, second, turn), second >> turn);
    }
#endif
}

#if !ZM_MXFP4
/* Scale and bias as weights_of takes them, or, of other widths than 4 and 8, weights_at. */
ZM_FUNCTION uint scale_and_bias(ushort scale, ushort bias) { return factors_of<ZM_BITS>(scale, bias); }
#endif

#if ZM_MXFP4
/* Sums in float, of even and odd elements of a group, which is a lane's; the group's scale comes behind. */
typedef float accumulator;
enum { X_VECTORS = 8, ACCUMULATORS = 1 };
ZM_FUNCTION float scale_of(uint exponent) { return __uint_as_float(exponent ? exponent << 23 : 0x00400000u); }

/* The weights of codes i and i + 4 of a word, of sign, 2 bits of exponent and 1 of mantissa: these as a bfloat16's are
 * 2^-126 of them. They are a pair of bfloat16 in either type, as they become floats. */
template <int i> ZM_FUNCTION uint code_weights(uint w) {
    uint codes = (w >> i / 2 * 8) & (i % 2 ? 0x00f000f0u : 0x000f000fu), weights;
    uint small = codes * (i % 2 ? 0x0104u : 0x1040u) & 0x81c081c0u; /* the sign of one copy, the size of the other */
    asm("mul.rn.bf16x2 %0, %1, %2;" : "=r"(weights) : "r"(small), "r"(0x7e807e80u));
    return weights;
}
ZM_FUNCTION float4 shared_floats(uint at) {
    uint4 v = shared_vector(at);
    return make_float4(__uint_as_float(v.x), __uint_as_float(v.y), __uint_as_float(v.z), __uint_as_float(v.w));
}
/* A step of ROWS rows; x: where the lane's begins in shared memory. */
template <int ROWS>
ZM_FUNCTION void accumulate(accumulator (&sums)[ROWS][ACCUMULATORS], const uint4 (&w)[ROWS],
                            const float (&scales)[ROWS], uint x) {
    float even[ROWS] = {}, odd[ROWS] = {};
#pragma unroll
    for (int word = 0; word < 4; word++) {
        float4 a = shared_floats(x + word * 2 * WARP_BYTES), b = shared_floats(x + (word * 2 + 1) * WARP_BYTES);
#pragma unroll
        for (int r = 0; r < ROWS; r++) {
            uint codes = word == 0 ? w[r].x : word == 1 ? w[r].y : word == 2 ? w[r].z : w[r].w;
            uint first = code_weights<0>(codes), second = code_weights<1>(codes), third = code_weights<2>(codes),
                 fourth = code_weights<3>(codes);
            even[r] = fmaf(low_bfloat16(first), a.x, even[r]);
            odd[r] = fmaf(low_bfloat16(second), a.y, odd[r]);
            even[r] = fmaf(low_bfloat16(third), a.z, even[r]);
            odd[r] = fmaf(low_bfloat16(fourth), a.w, odd[r]);
            even[r] = fmaf(high_bfloat16(first), b.x, even[r]);
            odd[r] = fmaf(high_bfloat16(second), b.y, odd[r]);
            even[r] = fmaf(high_bfloat16(third), b.z, even[r]);
            odd[r] = fmaf(high_bfloat16(fourth), b.w, odd[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++) sums[r][0] = fmaf(even[r] + odd[r], scales[r], sums[r][0]);
}
ZM_FUNCTION float lane_sum(const accumulator *sums) { return sums[0]; }
/* Where the vector of 8 elements `number` of x begins in shared memory. */
ZM_FUNCTION uint4 *vector_place(uint4 *shared, uint number) {
    uint unit = number / 4;
    return shared + (unit / WARP * X_VECTORS + number % 4 * 2) * WARP + unit % WARP;
}
/* It into shared memory, in the order that lanes read. */
ZM_FUNCTION void place_x(uint4 *shared, uint number, uint4 v) {
    uint4 *to = vector_place(shared, number);
    *(float4 *)to = make_float4(low(v.x), high(v.x), low(v.y), high(v.y));
    *(float4 *)(to + WARP) = make_float4(low(v.z), high(v.z), low(v.w), high(v.w));
}
#elif ZM_BITS == 8
typedef float accumulator;
struct lane_x {
    float v[8];
};
enum { X_VECTORS = 1, ACCUMULATORS = 8 };
ZM_FUNCTION lane_x read_x(uint x) { /* in shared memory */
    uint4 a = shared_vector(x);
    return {{low(a.x), low(a.y), high(a.x), high(a.y), low(a.z), low(a.w), high(a.z), high(a.w)}};
}
struct lane_weights {
    uint v[4];
};
ZM_FUNCTION lane_weights weights_of_lane(uint2 w, uint both) {
    return {{weights_of<8>(w.x & 0x00ff00ffu, both), weights_of<8>(__byte_perm(w.x, 0, 0x4341), both),
             weights_of<8>(w.y & 0x00ff00ffu, both), weights_of<8>(__byte_perm(w.y, 0, 0x4341), both)}};
}
ZM_FUNCTION void accumulate(accumulator *sums, const lane_weights &w, const lane_x &x) {
#pragma unroll
    for (int i = 0; i < 8; i += 4) {
        uint even = w.v[i / 2], odd = w.v[i / 2 + 1];
        sums[i] = fmaf(x.v[i], low(even), sums[i]);
        sums[i + 1] = fmaf(x.v[i + 1], low(odd), sums[i + 1]);
        sums[i + 2] = fmaf(x.v[i + 2], high(even), sums[i + 2]);
        sums[i + 3] = fmaf(x.v[i + 3], high(odd), sums[i + 3]);
    }
}
ZM_FUNCTION float lane_sum(const accumulator *sums) {
    float sum = 0.0f;
#pragma unroll
    for (int i = 0; i < ACCUMULATORS; i++) sum += sums[i];
    return sum;
}
ZM_FUNCTION uint4 *vector_place(uint4 *shared, uint number) { return shared + number; }
ZM_FUNCTION void place_x(uint4 *shared, uint number, uint4 v) { /* (0, 2), (1, 3), (4, 6), (5, 7) */
    shared[number] = make_uint4(__byte_perm(v.x, v.y, 0x5410), __byte_perm(v.x, v.y, 0x7632),
                                __byte_perm(v.z, v.w, 0x5410), __byte_perm(v.z, v.w, 0x7632));
}
#else
/* Sums in the activation's type: pairs (i, i + 4) of each 8 elements. */
typedef uint accumulator;
enum { X_VECTORS = LANE_ELEMENTS / 8, ACCUMULATORS = 4 * X_VECTORS };
struct lane_x { /* what a lane multiplies in a step */
    uint4 v[X_VECTORS];
};
struct lane_weights {
    uint v[ACCUMULATORS];
};
ZM_FUNCTION void accumulate(accumulator *sums, const lane_weights &w, const lane_x &x) {
#pragma unroll
    for (int i = 0; i < X_VECTORS; i++) {
        sums[i * 4] = fma2(x.v[i].x, w.v[i * 4], sums[i * 4]);
        sums[i * 4 + 1] = fma2(x.v[i].y, w.v[i * 4 + 1], sums[i * 4 + 1]);
        sums[i * 4 + 2] = fma2(x.v[i].z, w.v[i * 4 + 2], sums[i * 4 + 2]);
        sums[i * 4 + 3] = fma2(x.v[i].w, w.v[i * 4 + 3], sums[i * 4 + 3]);
    }
}
ZM_FUNCTION lane_x read_x(uint x) { /* in shared memory */
    lane_x own;
#pragma unroll
    for (int i = 0; i < X_VECTORS; i++) own.v[i] = shared_vector(x + i * WARP_BYTES);
    return own;
}
ZM_FUNCTION float lane_sum(const accumulator *sums) {
    float sum = 0.0f;
#pragma unroll
    for (int first = 0; first < ACCUMULATORS; first += 4) {
#pragma unroll
        for (int i = 0; i < 4; i++) sum += low(sums[first + i]);
#pragma unroll
        for (int i = 0; i < 4; i++) sum += high(sums[first + i]);
    }
    return sum;
}
/* Where the vector of 8 elements `number` of x is in shared memory, and it there, in the order that lanes read. */
ZM_FUNCTION uint4 *vector_place(uint4 *shared, uint number) {
    uint unit = number / X_VECTORS;
    return shared + (unit / WARP * X_VECTORS + number % X_VECTORS) * WARP + unit % WARP;
}
#if ZM_BITS == 4 && !ZM_FLOAT16
/* A code in bits 0 to 3 gives a 16th of the weight with the same scale and a 16th of the bias; place_x makes those
 * elements of x 16 times as large. */
ZM_FUNCTION uint low_factors(uint both) { return multiply2(both, 0x3d803f80u); } /* (1, 1/16) */
ZM_FUNCTION lane_weights weights_of_lane(uint2 w, uint both) {
    const uint lower = 0x000f000fu, upper = 0x00f000f0u;
    uint low_both = low_factors(both);
    return {{fma2_by(w.x & lower, low_both), fma2_by(w.x & upper, both), fma2_by((w.x >> 8) & lower, low_both),
             fma2_by((w.x >> 8) & upper, both), fma2_by(w.y & lower, low_both), fma2_by(w.y & upper, both),
             fma2_by((w.y >> 8) & lower, low_both), fma2_by((w.y >> 8) & upper, both)}};
}
ZM_FUNCTION void place_x(uint4 *shared, uint number, uint4 v) {
    const uint sixteen = 0x41804180u;
    *vector_place(shared, number) =
        make_uint4(multiply2(__byte_perm(v.x, v.z, 0x5410), sixteen), __byte_perm(v.x, v.z, 0x7632),
                   multiply2(__byte_perm(v.y, v.w, 0x5410), sixteen), __byte_perm(v.y, v.w, 0x7632));
}
#else
/* Bits `first` and on of a lane's codes. */
template <int first> ZM_FUNCTION uint bits_from(uint2 w) {
    if constexpr (first >= 32)
        return w.y >> (first - 32);
    else
        return __funnelshift_r(w.x, w.y, first);
}
/* Weights of scale and bias, each rounded once: of the codes from bit `at` on in both halves. Behind the bits of
 * 2^MANTISSA_BITS a code is exactly that and code * 2^at, from which the code itself is exact too. */
template <int at> ZM_FUNCTION uint weights_at(uint halves, uint both) {
    const uint mask = (((1u << ZM_BITS) - 1) << at) * 0x10001u, less = two_to(MANTISSA_BITS - at) | 0x80008000u;
    return fma2_by(fma2(masked_or(halves, mask, two_to(MANTISSA_BITS)), two_to(-at), less), both);
}
/* Bits `first` and on and, behind them, those of four elements later: in the low half and the high half. */
template <int first> ZM_FUNCTION uint run_from(uint2 w) {
    if constexpr (ZM_BITS == 4 && first % 32 == 0) return first ? w.y : w.x;
    else return __byte_perm(bits_from<first>(w), bits_from<first + 4 * ZM_BITS>(w), 0x5410);
}
/* The weights of elements i and i + 4 of the 8 from 8 * (pair / 4) on, i = pair % 4. A run has as many neighbours of i
 * and of i + 4 as 16 bits have room for. */
template <int pair> ZM_FUNCTION uint pair_weights(uint2 w, uint both) {
    const int codes = ZM_BITS <= 4 ? 4 : 2, first = (pair / 4 * 8 + pair % 4 / codes * codes) * ZM_BITS;
    const int bit = pair % codes * ZM_BITS,
              turn = bit + ZM_BITS <= MANTISSA_BITS ? 0 : codes / 2 * ZM_BITS; /* so that all of it is mantissa */
    return weights_at<bit - turn>(run_from<first>(w) >> turn, both);
}
template <int pair = 0> ZM_FUNCTION void set_weights(lane_weights &weights, uint2 w, uint both) {
    weights.v[pair] = pair_weights<pair>(w, both);
    if constexpr (pair + 1 < ACCUMULATORS) set_weights<pair + 1>(weights, w, both);
}
ZM_FUNCTION lane_weights weights_of_lane(uint2 w, uint both) {
    lane_weights weights;
    set_weights(weights, w, both);
    return weights;
}
ZM_FUNCTION void place_x(uint4 *shared, uint number, uint4 v) {
    *vector_place(shared, number) = make_uint4(__byte_perm(v.x, v.z, 0x5410), __byte_perm(v.x, v.z, 0x7632),
                                               __byte_perm(v.y, v.w, 0x5410), __byte_perm(v.y, v.w, 0x7632));
}
#endif
#endif

#if !ZM_MXFP4
ZM_FUNCTION void accumulate(accumulator *sums, lane_word w, uint both, const lane_x &x) {
    accumulate(sums, weights_of_lane(w, both), x);
}
#endif
