/* SPDX-License-Identifier: MIT */
/* What every emitted Metal kernel begins with, prelude_math.metal behind it. */
#include <metal_stdlib>
using namespace metal;

typedef long zm_long;

#define ZM_FUNCTION inline
#define ZM_DEVICE device
#define ZM_SHARED threadgroup
#define ZM_LOCAL thread
#define ZM_INFINITY as_type<float>(0x7f800000u)
#define ZM_NAN as_type<float>(0x7fc00000u)

ZM_FUNCTION uint zm_float_bits(float value) { return as_type<uint>(value); }
ZM_FUNCTION float zm_bits_float(uint bits) { return as_type<float>(bits); }
ZM_FUNCTION uint zm_shuffle(uint value, uint lane) { return metal::simd_shuffle(value, ushort(lane & 31u)); }
ZM_FUNCTION float zm_shuffle(float value, uint lane) { return metal::simd_shuffle(value, ushort(lane & 31u)); }
ZM_FUNCTION uint zm_exchange(uint value, uint lane, uint distance) { return zm_shuffle(value, lane ^ distance); }
ZM_FUNCTION float zm_exchange(float value, uint lane, uint distance) { return zm_shuffle(value, lane ^ distance); }
ZM_FUNCTION void zm_barrier() { metal::threadgroup_barrier(metal::mem_flags::mem_threadgroup); }

/* Arrays as words. MLX passes short inputs as constants and 0-d ones as references. */
template <class W, class T>
ZM_FUNCTION const device W *zm_words(const device T *p) {
    return reinterpret_cast<const device W *>(p);
}
template <class W, class T>
ZM_FUNCTION const constant W *zm_words(const constant T *p) {
    return reinterpret_cast<const constant W *>(p);
}
template <class W, class T>
ZM_FUNCTION const constant W *zm_words(const constant T &value) {
    return reinterpret_cast<const constant W *>(&value);
}
template <class W, class T>
ZM_FUNCTION device W *zm_output_words(device T *p) {
    return reinterpret_cast<device W *>(p);
}

/* Vectors of four are aligned as their elements are. */
template <class P>
ZM_FUNCTION bool zm_is_aligned(P) {
    return true;
}
ZM_FUNCTION uint4 zm_four(const device uint *p) { return uint4(*reinterpret_cast<const device packed_uint4 *>(p)); }
ZM_FUNCTION uint4 zm_four(const constant uint *p) {
    return uint4(*reinterpret_cast<const constant packed_uint4 *>(p));
}
ZM_FUNCTION ushort4 zm_four(const device ushort *p) {
    return ushort4(*reinterpret_cast<const device packed_ushort4 *>(p));
}
ZM_FUNCTION ushort4 zm_four(const constant ushort *p) {
    return ushort4(*reinterpret_cast<const constant packed_ushort4 *>(p));
}
ZM_FUNCTION uchar4 zm_four(const device uchar *p) {
    return uchar4(*reinterpret_cast<const device packed_uchar4 *>(p));
}
ZM_FUNCTION uchar4 zm_four(const constant uchar *p) {
    return uchar4(*reinterpret_cast<const constant packed_uchar4 *>(p));
}
ZM_FUNCTION void zm_put_four(device uint *p, uint4 four) { *reinterpret_cast<device packed_uint4 *>(p) = four; }
ZM_FUNCTION void zm_put_four(device ushort *p, ushort4 four) {
    *reinterpret_cast<device packed_ushort4 *>(p) = four;
}
ZM_FUNCTION void zm_put_four(device uchar *p, uchar4 four) {
    *reinterpret_cast<device packed_uchar4 *>(p) = four;
}

/* Storages. */
struct zm_float32 {
    typedef uint word;
    typedef uint4 four;
    typedef float value;
    static ZM_FUNCTION float widen(uint word) { return zm_bits_float(word); }
    static ZM_FUNCTION uint narrow(float value) { return zm_float_bits(value); }
};
struct zm_float16 {
    typedef ushort word;
    typedef ushort4 four;
    typedef float value;
    static ZM_FUNCTION float widen(ushort word) { return float(as_type<half>(word)); }
    static ZM_FUNCTION ushort narrow(float value) { return as_type<ushort>(half(value)); }
};
struct zm_bfloat16 {
    typedef ushort word;
    typedef ushort4 four;
    typedef float value;
    static ZM_FUNCTION float widen(ushort word) { return zm_bits_float(uint(word) << 16); }
    static ZM_FUNCTION ushort narrow(float value) {
        const uint bits = zm_float_bits(value);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return ushort(0x7fc0u);
        return ushort((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
    }
};
struct zm_uint32 {
    typedef uint word;
    typedef uint4 four;
    typedef uint value;
    static ZM_FUNCTION uint widen(uint word) { return word; }
    static ZM_FUNCTION uint narrow(uint value) { return value; }
};
typedef zm_uint32 zm_int32;
struct zm_uint8 {
    typedef uchar word;
    typedef uchar4 four;
    typedef uint value;
    static ZM_FUNCTION uint widen(uchar word) { return uint(word); }
    static ZM_FUNCTION uchar narrow(uint value) { return uchar(value); }
};

/* V elements as they are in memory. */
template <class S, int V>
struct zm_packed {
    typename S::word words[V];
};

template <class S, int V, class P>
ZM_FUNCTION void zm_load_wide(thread zm_packed<S, V> &x, P p) {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
        const typename S::four four = zm_four(p + j);
        x.words[j] = four.x;
        x.words[j + 1] = four.y;
        x.words[j + 2] = four.z;
        x.words[j + 3] = four.w;
    }
}
template <class S, int V>
ZM_FUNCTION void zm_repeat_wide(thread zm_packed<S, V> &x, typename S::word word) {
#pragma unroll
    for (int j = 0; j < V; ++j) x.words[j] = word;
}
template <class S, int V>
ZM_FUNCTION void zm_unpack_wide(thread typename S::value *v, const thread zm_packed<S, V> &x) {
#pragma unroll
    for (int j = 0; j < V; ++j) v[j] = S::widen(x.words[j]);
}
template <class S, int V, class P>
ZM_FUNCTION void zm_store_wide(P p, thread typename S::value *v) {
#pragma unroll
    for (int j = 0; j < V; j += 4) {
        typename S::four four;
        four.x = S::narrow(v[j]);
        four.y = S::narrow(v[j + 1]);
        four.z = S::narrow(v[j + 2]);
        four.w = S::narrow(v[j + 3]);
        zm_put_four(p + j, four);
    }
}

struct zm_seed {
    uint low, high;
};
ZM_FUNCTION zm_seed zm_make_seed(uint low, uint high) {
    zm_seed seed;
    seed.low = low;
    seed.high = high;
    return seed;
}
ZM_FUNCTION uint zm_log2(uint power) { return 31u - metal::clz(power); }
ZM_FUNCTION void zm_multiply_wide(ZM_LOCAL uint &high, ZM_LOCAL uint &low, uint a, uint b) {
    high = metal::mulhi(a, b), low = a * b;
}
ZM_FUNCTION zm_long zm_join(uint low, uint high) { return zm_long(ulong(high) << 32 | ulong(low)); }
