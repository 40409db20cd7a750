/* SPDX-License-Identifier: MIT */
/* What every emitted CUDA kernel begins with, prelude_math.cuh behind it. No #include: the text is all that the
 * run-time compiler gets. */
typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef long long zm_long;

#define ZM_FUNCTION __device__ __forceinline__
#define ZM_DEVICE
#define ZM_SHARED
#define ZM_LOCAL
#define ZM_INFINITY __int_as_float(0x7f800000)
#define ZM_NAN __int_as_float(0x7fc00000)

ZM_FUNCTION uint zm_float_bits(float value) { return __float_as_uint(value); }
ZM_FUNCTION float zm_bits_float(uint bits) { return __uint_as_float(bits); }
ZM_FUNCTION uint zm_shuffle(uint value, uint lane) { return __shfl_sync(0xffffffffu, value, int(lane)); }
ZM_FUNCTION float zm_shuffle(float value, uint lane) { return __shfl_sync(0xffffffffu, value, int(lane)); }
/* From the lane whose number differs in the bit `distance`. */
ZM_FUNCTION uint zm_exchange(uint value, uint, uint distance) {
    return __shfl_xor_sync(0xffffffffu, value, int(distance));
}
ZM_FUNCTION float zm_exchange(float value, uint, uint distance) {
    return __shfl_xor_sync(0xffffffffu, value, int(distance));
}
ZM_FUNCTION void zm_barrier() { __syncthreads(); }

template <class T>
ZM_FUNCTION bool zm_is_aligned(const T *p) {
    return (reinterpret_cast<unsigned long long>(p) & 15u) == 0u;
}

/* Storages: `word` in memory, per_word elements in 32 bits, first lowest. */
struct zm_float32 {
    typedef uint word;
    typedef float value;
    static constexpr int per_word = 1;
    static ZM_FUNCTION float widen(uint word) { return __uint_as_float(word); }
    static ZM_FUNCTION uint narrow(float value) { return __float_as_uint(value); }
    static ZM_FUNCTION void unpack(float *v, uint word) { v[0] = widen(word); }
    static ZM_FUNCTION uint pack(const float *v) { return narrow(v[0]); }
};

struct zm_float16 {
    typedef ushort word;
    typedef float value;
    static constexpr int per_word = 2;
    static ZM_FUNCTION float widen(ushort word) {
        float value;
        asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(word));
        return value;
    }
    static ZM_FUNCTION ushort narrow(float value) {
        ushort word;
        asm("cvt.rn.f16.f32 %0, %1;" : "=h"(word) : "f"(value));
        return word;
    }
    static ZM_FUNCTION void unpack(float *v, uint word) {
        v[0] = widen(ushort(word & 0xffffu));
        v[1] = widen(ushort(word >> 16));
    }
    static ZM_FUNCTION uint pack(const float *v) {
#if __CUDA_ARCH__ >= 800
        uint word;
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(v[1]), "f"(v[0]));
        return word;
#else
        return uint(narrow(v[0])) | uint(narrow(v[1])) << 16;
#endif
    }
};

struct zm_bfloat16 {
    typedef ushort word;
    typedef float value;
    static constexpr int per_word = 2;
    static ZM_FUNCTION float widen(ushort word) { return __uint_as_float(uint(word) << 16); }
    static ZM_FUNCTION ushort narrow(float value) {
#if __CUDA_ARCH__ >= 800
        ushort word;
        asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(word) : "f"(value));
        return word;
#else
        const uint bits = __float_as_uint(value);
        if (value != value) return ushort(0x7fffu);
        return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
    }
    static ZM_FUNCTION void unpack(float *v, uint word) {
        v[0] = __uint_as_float(word << 16);
        v[1] = __uint_as_float(word & 0xffff0000u);
    }
    static ZM_FUNCTION uint pack(const float *v) {
#if __CUDA_ARCH__ >= 800
        uint word;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(v[1]), "f"(v[0]));
        return word;
#else
        return uint(narrow(v[0])) | uint(narrow(v[1])) << 16;
#endif
    }
};

struct zm_uint32 {
    typedef uint word;
    typedef uint value;
    static constexpr int per_word = 1;
    static ZM_FUNCTION uint widen(uint word) { return word; }
    static ZM_FUNCTION uint narrow(uint value) { return value; }
    static ZM_FUNCTION void unpack(uint *v, uint word) { v[0] = word; }
    static ZM_FUNCTION uint pack(const uint *v) { return v[0]; }
};
typedef zm_uint32 zm_int32;

struct zm_uint8 {
    typedef uchar word;
    typedef uint value;
    static constexpr int per_word = 4;
    static ZM_FUNCTION uint widen(uchar word) { return word; }
    static ZM_FUNCTION uchar narrow(uint value) { return uchar(value); }
    static ZM_FUNCTION void unpack(uint *v, uint word) {
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = word >> (8 * i) & 0xffu;
    }
    static ZM_FUNCTION uint pack(const uint *v) {
        return (v[0] & 0xffu) | (v[1] & 0xffu) << 8 | (v[2] & 0xffu) << 16 | v[3] << 24;
    }
};

/* V elements as they are in memory: half the registers of half types. */
template <class S, int V>
struct zm_packed {
    uint words[V / S::per_word];
};
template <class S>
struct zm_packed<S, 1> {
    typename S::word words[1];
};

/* From an address that is a multiple of 16, or of 8 where they have 8 bytes. */
template <class S, int V, class P>
ZM_FUNCTION void zm_load_wide(zm_packed<S, V> &x, P p) {
    constexpr int words = V / S::per_word;
    if (words % 4 == 0) {
#pragma unroll
        for (int i = 0; i + 3 < words; i += 4) {
            const uint4 four = reinterpret_cast<const uint4 *>(p)[i / 4];
            x.words[i] = four.x, x.words[i + 1] = four.y, x.words[i + 2] = four.z, x.words[i + 3] = four.w;
        }
    } else {
#pragma unroll
        for (int i = 0; i + 1 < words; i += 2) {
            const uint2 two = reinterpret_cast<const uint2 *>(p)[i / 2];
            x.words[i] = two.x, x.words[i + 1] = two.y;
        }
    }
}
template <class S, int V>
ZM_FUNCTION void zm_repeat_wide(zm_packed<S, V> &x, typename S::word word) {
    const uint all = uint(word) * (S::per_word == 1 ? 1u : S::per_word == 2 ? 0x10001u : 0x1010101u);
#pragma unroll
    for (int i = 0; i < V / S::per_word; ++i) x.words[i] = all;
}
template <class S, int V>
ZM_FUNCTION void zm_unpack_wide(typename S::value *v, const zm_packed<S, V> &x) {
#pragma unroll
    for (int i = 0; i < V / S::per_word; ++i) S::unpack(v + i * S::per_word, x.words[i]);
}

template <class S, int V, class P>
ZM_FUNCTION void zm_store_wide(P p, const typename S::value *v) {
    constexpr int words = V / S::per_word;
    uint w[words];
#pragma unroll
    for (int i = 0; i < words; ++i) w[i] = S::pack(v + i * S::per_word);
    if (words % 4 == 0) {
#pragma unroll
        for (int i = 0; i + 3 < words; i += 4)
            reinterpret_cast<uint4 *>(p)[i / 4] = make_uint4(w[i], w[i + 1], w[i + 2], w[i + 3]);
    } else {
#pragma unroll
        for (int i = 0; i + 1 < words; i += 2) reinterpret_cast<uint2 *>(p)[i / 2] = make_uint2(w[i], w[i + 1]);
    }
}

struct zm_seed {
    uint low, high;
};
ZM_FUNCTION uint zm_log2(uint power) { return 31u - uint(__clz(int(power))); }
ZM_FUNCTION void zm_multiply_wide(uint &high, uint &low, uint a, uint b) {
    const unsigned long long product = (unsigned long long)a * b;
    high = uint(product >> 32), low = uint(product);
}
ZM_FUNCTION zm_long zm_join(uint low, uint high) { return zm_long((unsigned long long)high << 32 | low); }
