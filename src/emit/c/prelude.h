/* SPDX-License-Identifier: MIT */
/* What every emitted C kernel begins with, prelude_math.h behind it: vectors of ZM_WIDTH lanes, memory in every
 * storage type, each operation of form CALL as zm_<name>. No #include: most of the compile time would go there. */
typedef struct zm_c_call {
    const void *const *inputs;
    void *const *outputs;
    const __INT32_TYPE__ *layouts; /* a ZM_LAYOUT_ mask per input */
    __INT64_TYPE__ rows, columns;
    __INT64_TYPE__ output_stride; /* elements from one row of an output to the next: columns, or more */
    const float *parameters;
    const __UINT64_TYPE__ *seeds;
    float *scratch; /* this thread's: *<entry>_scratch rows of columns floats, rounded up to 16; 64-byte aligned */
    __INT32_TYPE__ stream_stores; /* not 0: outputs are larger than the caches, write past them; 2: the caller fences */
} zm_c_call;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define ZM_WIDTH 16
#elif defined(__AVX__)
#define ZM_WIDTH 8
#else
#define ZM_WIDTH 4
#endif
#if defined(__FMA__) || defined(__AVX512F__) || defined(__aarch64__)
#define ZM_HAS_FMA 1
#else
#define ZM_HAS_FMA 0
#endif
#if defined(__clang__)
#define ZM_GCC 0
#define ZM_ALL 0xffff /* the mask of 16 lanes: gcc declares it signed */
#define ZM_UNROLL _Pragma("clang loop unroll(full)")
#else
#define ZM_GCC 1
#define ZM_ALL (-1)
#define ZM_UNROLL _Pragma("GCC unroll 16")
#endif

typedef __UINT32_TYPE__ zm_uint;
typedef __INT64_TYPE__ zm_index;
typedef float vf __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __INT32_TYPE__ vi __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __UINT32_TYPE__ vu __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __UINT16_TYPE__ zm_halves __attribute__((vector_size(2 * ZM_WIDTH)));
typedef short zm_shorts __attribute__((vector_size(2 * ZM_WIDTH)));
typedef short zm_words __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __UINT8_TYPE__ zm_bytes __attribute__((vector_size(ZM_WIDTH)));
typedef char zm_chars __attribute__((vector_size(ZM_WIDTH)));
typedef __UINT64_TYPE__ zm_longs __attribute__((vector_size(4 * ZM_WIDTH)));
typedef long long zm_signed_longs __attribute__((vector_size(4 * ZM_WIDTH)));
typedef double vd __attribute__((vector_size(4 * ZM_WIDTH))); /* half as many lanes, in pairs: */
typedef float zm_half_float __attribute__((vector_size(2 * ZM_WIDTH)));

#define ZM_FN static inline __attribute__((always_inline, unused))
#define ZM_SLOW static __attribute__((noinline, unused))
#define ZM_COPY(to, from, bytes) __builtin_memcpy(to, from, bytes)

/* Lanes and masks. */
ZM_FN vf zm_splat(float value) { return value - (vf){0}; }
ZM_FN vu zm_splat_uint(zm_uint value) { return value + (vu){0}; }
ZM_FN vi zm_splat_int(int value) { return value + (vi){0}; }
ZM_FN vu zm_iota(void) {
#if ZM_WIDTH == 16
    return (vu){0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif ZM_WIDTH == 8
    return (vu){0, 1, 2, 3, 4, 5, 6, 7};
#else
    return (vu){0, 1, 2, 3};
#endif
}
ZM_FN vi zm_first_lanes(int count) { return (vi)zm_iota() < count; }
ZM_FN vi zm_and(vi a, vi b) { return a & b; }
ZM_FN vi zm_or(vi a, vi b) { return a | b; }
ZM_FN vi zm_not(vi a) { return ~a; }
ZM_FN vi zm_select_mask(vi mask, vi a, vi b) { return (mask & a) | (~mask & b); }
ZM_FN vf zm_select_float(vi mask, vf a, vf b) { return (vf)zm_select_mask(mask, (vi)a, (vi)b); }
ZM_FN vu zm_select_uint(vi mask, vu a, vu b) { return (vu)zm_select_mask(mask, (vi)a, (vi)b); }
#define zm_select(mask, a, b) \
    _Generic((a), vf: zm_select_float, vu: zm_select_uint, vi: zm_select_mask)(mask, a, b)
ZM_FN int zm_any(vi mask) {
#if ZM_WIDTH == 16 && defined(__x86_64__)
    return __builtin_ia32_cvtd2mask512(mask) != 0;
#elif ZM_WIDTH == 8 && defined(__x86_64__)
    return __builtin_ia32_movmskps256((vf)mask) != 0;
#elif defined(__SSE2__)
    return __builtin_ia32_movmskps((vf)mask) != 0;
#else
    __UINT64_TYPE__ words[2];
    ZM_COPY(words, &mask, sizeof words);
    return (words[0] | words[1]) != 0;
#endif
}

/* Arithmetic. The third argument of ZM_ROUND is the direction in the encoding of the x86 instructions. */
#if ZM_WIDTH == 16
#define ZM_FMA(a, b, c) __builtin_ia32_vfmaddps512_mask(a, b, c, ZM_ALL, 4)
#define ZM_FMA_DOUBLE(a, b, c) __builtin_ia32_vfmaddpd512_mask(a, b, c, 0xff, 4)
#define ZM_ROUND(a, magic, direction) __builtin_ia32_rndscaleps_mask(a, direction, a, ZM_ALL, 4)
#if ZM_GCC
#define ZM_SQRT(a) __builtin_ia32_sqrtps512_mask(a, a, ZM_ALL, 4)
#define ZM_LESS_RINT(a) __builtin_ia32_reduceps512_mask(a, 8, a, 0xffff)
#define ZM_LEAST(a, b) __builtin_ia32_minps512_mask(a, b, a, ZM_ALL, 4)
#define ZM_MOST(a, b) __builtin_ia32_maxps512_mask(a, b, a, ZM_ALL, 4)
#else
#define ZM_SQRT(a) __builtin_ia32_sqrtps512(a, 4)
#define ZM_LESS_RINT(a) __builtin_ia32_reduceps512_mask(a, 8, a, ZM_ALL, 4)
#define ZM_LEAST(a, b) __builtin_ia32_minps512(a, b, 4)
#define ZM_MOST(a, b) __builtin_ia32_maxps512(a, b, 4)
#endif
#elif ZM_WIDTH == 8
#if ZM_HAS_FMA
#define ZM_FMA(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#define ZM_FMA_DOUBLE(a, b, c) __builtin_ia32_vfmaddpd256(a, b, c)
#endif
#define ZM_ROUND(a, magic, direction) __builtin_ia32_roundps256(a, direction)
#define ZM_SQRT(a) __builtin_ia32_sqrtps256(a)
#define ZM_LEAST(a, b) __builtin_ia32_minps256(a, b)
#define ZM_MOST(a, b) __builtin_ia32_maxps256(a, b)
#elif defined(__SSE2__)
#if defined(__SSE4_1__)
#define ZM_ROUND(a, magic, direction) __builtin_ia32_roundps(a, direction)
#endif
#define ZM_SQRT(a) __builtin_ia32_sqrtps(a)
#define ZM_LEAST(a, b) __builtin_ia32_minps(a, b)
#define ZM_MOST(a, b) __builtin_ia32_maxps(a, b)
#endif
/* Newer clang has this for every processor instead. */
#if __has_builtin(__builtin_elementwise_sqrt)
#undef ZM_SQRT
#define ZM_SQRT(a) __builtin_elementwise_sqrt(a)
#endif
/* a < b ? a : b and a > b ? a : b: b where one is NaN. */
#if !defined(ZM_LEAST)
#define ZM_LEAST(a, b) zm_select((a) < (b), a, b)
#define ZM_MOST(a, b) zm_select((a) > (b), a, b)
#endif
#if !defined(ZM_ROUND)
#define ZM_ROUND(a, magic, direction) (magic)
#endif
#define ZM_LANES_1(name, function) \
    ZM_SLOW vf zm_##name(vf a) { \
        for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = function(a[lane]); \
        return a; \
    }
ZM_FN vf zm_fma(vf a, vf b, vf c) {
#if defined(ZM_FMA)
    return ZM_FMA(a, b, c);
#elif ZM_HAS_FMA && !ZM_GCC
#pragma clang fp contract(fast)
    return a * b + c;
#else
    for (int lane = 0; lane < ZM_WIDTH; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return c;
#endif
}
/* a * b + c, rounded once where that is as fast. */
ZM_FN vf zm_mad(vf a, vf b, vf c) {
#if ZM_HAS_FMA
    return zm_fma(a, b, c);
#else
    return a * b + c;
#endif
}
ZM_FN vd zm_mad_double(vd a, vd b, double c) {
#if defined(ZM_FMA_DOUBLE)
    return ZM_FMA_DOUBLE(a, b, c - (vd){0});
#else
    return a * b + c;
#endif
}
ZM_FN vi zm_isnan(vf a) { return a != a; }
ZM_FN vf zm_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
ZM_FN vi zm_isinf(vf a) { return zm_abs(a) == __builtin_inff(); }
ZM_FN vi zm_isfinite(vf a) { return zm_abs(a) < __builtin_inff(); }
ZM_FN vf zm_copysign(vf a, vf b) { return (vf)(((vu)a & 0x7fffffffu) | ((vu)b & 0x80000000u)); }
/* NaN wins. In a reduction only the minimum or maximum itself waits for a, the accumulator. */
#if ZM_GCC && ZM_WIDTH == 16
#define ZM_NUMBERS(a) ((short)__builtin_ia32_cmpps512_mask(a, a, 7, 0xffff, 4))
ZM_FN vf zm_min_lanes(vf a, vf b) { return __builtin_ia32_minps512_mask(b, a, b, ZM_NUMBERS(b), 4); }
ZM_FN vf zm_max_lanes(vf a, vf b) { return __builtin_ia32_maxps512_mask(b, a, b, ZM_NUMBERS(b), 4); }
#else
ZM_FN vf zm_min_lanes(vf a, vf b) { return zm_select(zm_isnan(b), b, ZM_LEAST(b, a)); }
ZM_FN vf zm_max_lanes(vf a, vf b) { return zm_select(zm_isnan(b), b, ZM_MOST(b, a)); }
#endif
/* The value kept within a limit; NaN stays. */
ZM_FN vf zm_at_most(vf a, float limit) { return ZM_LEAST(zm_splat(limit), a); }
ZM_FN vf zm_at_least(vf a, float limit) { return ZM_MOST(zm_splat(limit), a); }

/* Without instructions: the sum with 2^23 rounds to an integer. */
ZM_FN vf zm_rint_sum(vf a) {
    vf size = zm_abs(a), whole = size + 0x1p23f - 0x1p23f;
    return zm_copysign(zm_select(size < 0x1p23f, whole, size), a);
}
ZM_FN vf zm_floor_sum(vf a) {
    vf whole = zm_rint_sum(a);
    return zm_copysign(whole - zm_select(whole > a, zm_splat(1), zm_splat(0)), a);
}
ZM_FN vf zm_rint(vf a) { return ZM_ROUND(a, zm_rint_sum(a), 8); }
ZM_FN vf zm_floor(vf a) { return ZM_ROUND(a, zm_floor_sum(a), 9); }
ZM_FN vf zm_ceil(vf a) { return ZM_ROUND(a, -zm_floor_sum(-a), 10); }
ZM_FN vf zm_trunc(vf a) { return ZM_ROUND(a, zm_copysign(zm_floor_sum(zm_abs(a)), a), 11); }
ZM_FN vf zm_round(vf a) { return zm_trunc(a + zm_copysign(zm_splat(0x1.fffffep-2f), a)); }
ZM_FN vf zm_sqrt(vf a) {
#if defined(ZM_SQRT)
    return ZM_SQRT(a);
#else
    for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = __builtin_sqrtf(a[lane]);
    return a;
#endif
}
ZM_FN vf zm_rsqrt(vf a) { return 1.0f / zm_sqrt(a); }

ZM_FN vf zm_from_bool(vi mask) { return (vf)(mask & 0x3f800000); }
ZM_FN vf zm_from_uint(vu a) {
#if ZM_WIDTH == 16
    return __builtin_convertvector(a, vf);
#else
    return __builtin_convertvector((vi)(a >> 16), vf) * 65536.0f + __builtin_convertvector((vi)(a & 0xffffu), vf);
#endif
}
ZM_FN vu zm_to_uint(vf a) {
    vi inside = (a >= 0.0f) & (a < 0x1p32f), large = a >= 0x1p31f;
    vf low = (vf)((vi)(a - (vf)(large & 0x4f000000)) & inside); /* less 2^31 where large */
    return ((vu)__builtin_convertvector(low, vi) + ((vu)large & 0x80000000u)) | (vu)~inside;
}

/* Over the lanes, as a tree: lane l with lane l + ZM_WIDTH / 2, and so on. */
#if ZM_GCC
#define ZM_HORIZONTAL(name, combine) \
    ZM_FN float zm_##name(vf x) { \
        for (int half = ZM_WIDTH / 2; half > 0; half /= 2) { \
            vf y = __builtin_shuffle(x, ((vi)zm_iota() + half) & (ZM_WIDTH - 1)); \
            x = combine; \
        } \
        return x[0]; \
    }
#else
#define ZM_HORIZONTAL(name, combine) \
    ZM_FN float zm_##name(vf x) { \
        for (int half = ZM_WIDTH / 2; half > 0; half /= 2) { \
            vf y = x; \
            for (int lane = 0; lane < half; lane++) y[lane] = x[lane + half]; \
            x = combine; \
        } \
        return x[0]; \
    }
#endif
ZM_HORIZONTAL(sum, x + y)
ZM_HORIZONTAL(prod, x * y)
ZM_HORIZONTAL(max_over, zm_max_lanes(x, y))
ZM_HORIZONTAL(min_over, zm_min_lanes(x, y))
/* zm_max(a, b) lane by lane, zm_max(a) over the lanes. */
#define ZM_THIRD(a, b, c, ...) c
#define zm_max(...) ZM_THIRD(__VA_ARGS__, zm_max_lanes, zm_max_over, )(__VA_ARGS__)
#define zm_min(...) ZM_THIRD(__VA_ARGS__, zm_min_lanes, zm_min_over, )(__VA_ARGS__)

/* Memory: raw vectors of the storage type, widened to lanes or rounded from them. */
#define zm_widen_float32(raw) (raw)
#define zm_narrow_float32(value) (value)
#define zm_widen_uint32(raw) (raw)
#define zm_narrow_uint32(value) (value)
#define zm_widen_int32(raw) (raw)
#define zm_narrow_int32(value) (value)
ZM_FN vu zm_widen_uint8(zm_bytes raw) { return __builtin_convertvector(raw, vu); }
ZM_FN zm_bytes zm_narrow_uint8(vu value) { return __builtin_convertvector(value, zm_bytes); }
ZM_FN vf zm_widen_bfloat16(zm_halves raw) {
#if ZM_GCC && ZM_WIDTH == 16 /* gcc makes five instructions of the conversion and the shift */
    typedef int zm_half_register __attribute__((vector_size(32)));
    const zm_words to_odd = {0, 0, 0, 1, 0, 2,  0, 3,  0, 4,  0, 5,  0, 6,  0, 7,
                             0, 8, 0, 9, 0, 10, 0, 11, 0, 12, 0, 13, 0, 14, 0, 15};
    zm_words words = (zm_words)__builtin_ia32_si512_256si((zm_half_register)raw);
    return (vf)__builtin_ia32_permvarhi512_mask(words, to_odd, (zm_words){0}, 0xaaaaaaaa);
#else
    return (vf)(__builtin_convertvector(raw, vu) << 16);
#endif
}
ZM_FN zm_halves zm_round_to_bfloat16(vf value) {
    vu bits = (vu)value;
    vu rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return __builtin_convertvector(zm_select(zm_isnan(value), bits | 0x400000u, rounded) >> 16, zm_halves);
}
#if __has_builtin(__builtin_ia32_cvtne2ps2bf16_v32bf)
#define ZM_BFLOAT16_PAIR __builtin_ia32_cvtne2ps2bf16_v32bf
#elif __has_builtin(__builtin_ia32_cvtne2ps2bf16_v32hi) /* gcc before 13 */
#define ZM_BFLOAT16_PAIR __builtin_ia32_cvtne2ps2bf16_v32hi
#endif
#if ZM_WIDTH == 16 && defined(__AVX512BF16__) && ZM_GCC && defined(ZM_BFLOAT16_PAIR)
#define ZM_HAS_BFLOAT16 1
/* The instructions make zeros of subnormal numbers. */
#define ZM_SUBNORMAL_LANES(value) __builtin_ia32_fpclassps512_mask(value, 0x20, 0xffff)
ZM_SLOW zm_halves zm_round_subnormals_to_bfloat16(vf value) { return zm_round_to_bfloat16(value); }
ZM_FN zm_halves zm_narrow_bfloat16(vf value) {
    if (__builtin_expect(ZM_SUBNORMAL_LANES(value), 0)) return zm_round_subnormals_to_bfloat16(value);
    return (zm_halves)__builtin_ia32_cvtneps2bf16_v16sf(value);
}
#else
#define ZM_HAS_BFLOAT16 0
ZM_FN zm_halves zm_narrow_bfloat16(vf value) { return zm_round_to_bfloat16(value); }
#endif
ZM_FN vf zm_widen_float16(zm_halves raw) {
#if ZM_WIDTH == 16
    return __builtin_ia32_vcvtph2ps512_mask((zm_shorts)raw, (vf){0}, ZM_ALL, 4);
#elif defined(__F16C__)
    return __builtin_ia32_vcvtph2ps256((zm_shorts)raw);
#else
    vu bits = __builtin_convertvector(raw, vu);
    vu magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
    /* 2^112 re-biases normal numbers and makes subnormal ones normal, exactly. */
    vu finite = (vu)((vf)magnitude * 0x1p112f);
    return (vf)(sign | zm_select(magnitude >= 0x0f800000u, 0x70000000u | magnitude, finite));
#endif
}
ZM_FN zm_halves zm_narrow_float16(vf value) {
#if ZM_WIDTH == 16 || defined(__F16C__)
    /* one NaN of each sign */
    value = zm_select(zm_isnan(value), (vf)(((vu)value & 0x80000000u) | 0x7fc00000u), value);
#if ZM_WIDTH == 16
    return (zm_halves)__builtin_ia32_vcvtps2ph512_mask(value, 0, (zm_shorts){0}, 0xffff);
#else
    return (zm_halves)__builtin_ia32_vcvtps2ph256(value, 0);
#endif
#else
    vu bits = (vu)zm_abs(value), sign = ((vu)value >> 16) & 0x8000u;
    vu normal = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
    vu subnormal = (vu)((vf)bits + 0.5f) - 0x3f000000u; /* the sum with 0.5 rounds at 2^-24 */
    vu finite = zm_select(bits < 0x38800000u, subnormal, normal);
    vu magnitude = zm_select(bits >= 0x477ff000u, zm_splat_uint(0x7c00u), finite);
    magnitude = zm_select(bits > 0x7f800000u, zm_splat_uint(0x7e00u), magnitude);
    return __builtin_convertvector(sign | magnitude, zm_halves);
#endif
}

/* The first count < ZM_WIDTH elements of size bytes, between memory and a raw vector. */
#if ZM_WIDTH == 16
#define ZM_FIRST(count) ((unsigned short)((1u << (count)) - 1u))
#define ZM_LOAD_PART_4(from, count) __builtin_ia32_loaddqusi512_mask(from, (vi){0}, ZM_FIRST(count))
#define ZM_LOAD_PART_2(from, count) __builtin_ia32_loaddquhi256_mask(from, (zm_shorts){0}, ZM_FIRST(count))
#define ZM_LOAD_PART_1(from, count) __builtin_ia32_loaddquqi128_mask(from, (zm_chars){0}, ZM_FIRST(count))
#define ZM_STORE_PART_4(to, raw, count) __builtin_ia32_storedqusi512_mask(to, (vi)(raw), ZM_FIRST(count))
#define ZM_STORE_PART_2(to, raw, count) __builtin_ia32_storedquhi256_mask(to, (zm_shorts)(raw), ZM_FIRST(count))
#define ZM_STORE_PART_1(to, raw, count) __builtin_ia32_storedquqi128_mask(to, (zm_chars)(raw), ZM_FIRST(count))
#define ZM_LOAD_PART(size, raw, from, count) (raw = (__typeof__(raw))ZM_LOAD_PART_##size((const void *)(from), count))
#define ZM_STORE_PART(size, to, raw, count) ZM_STORE_PART_##size((void *)(to), raw, count)
#else
ZM_FN void zm_copy_part(char *to, const char *from, unsigned long bytes) { /* bytes < 32 */
#define ZM_PIECE(size) \
    if (bytes & size) { \
        ZM_COPY(to, from, size); \
        to += size, from += size; \
    }
    ZM_PIECE(16ul)
    ZM_PIECE(8ul)
    ZM_PIECE(4ul)
    ZM_PIECE(2ul)
    ZM_PIECE(1ul)
#undef ZM_PIECE
}
#define ZM_LOAD_PART(size, raw, from, count) \
    do { \
        char part[32] = {0}; \
        zm_copy_part(part, from, (unsigned)(count) * (unsigned)size); \
        ZM_COPY(&raw, part, sizeof raw); \
    } while (0)
#define ZM_STORE_PART(size, to, raw, count) \
    do { \
        char part[32]; \
        ZM_COPY(part, &raw, sizeof raw); \
        zm_copy_part(to, part, (unsigned)(count) * (unsigned)size); \
    } while (0)
#endif
/* Writes past the caches. The address is aligned to bytes, the size of the vector. */
#if defined(__clang__)
#define ZM_STREAM_STORE(size, to, chunk) __builtin_nontemporal_store(chunk, to)
#elif defined(__SSE2__)
#define ZM_STREAM_STORE(size, to, chunk) ZM_STREAM_STORE_##size(to, chunk)
#define ZM_STREAM_STORE_16(to, chunk) __builtin_ia32_movntdq(to, chunk)
#define ZM_STREAM_STORE_32(to, chunk) __builtin_ia32_movntdq256(to, chunk)
#define ZM_STREAM_STORE_64(to, chunk) __builtin_ia32_movntdq512(to, chunk)
#else
#define ZM_STREAM_STORE(size, to, chunk) (*(to) = (chunk))
#endif
#define ZM_STREAM(size) \
    if (bytes == size) { \
        typedef long long zm_chunk __attribute__((vector_size(size))); \
        zm_chunk chunk; \
        ZM_COPY(&chunk, from, size); \
        ZM_STREAM_STORE(size, (zm_chunk *)to, chunk); \
        return; \
    }
ZM_FN void zm_stream_bytes(void *to, const void *from, unsigned long bytes) {
    ZM_STREAM(16)
#if ZM_WIDTH >= 8
    ZM_STREAM(32)
#endif
#if ZM_WIDTH == 16
    ZM_STREAM(64)
#endif
    ZM_COPY(to, from, bytes);
}
ZM_FN void zm_stream_fence(void) {
#if defined(__SSE2__)
    __builtin_ia32_sfence();
#endif
}

#define ZM_MEMORY(storage, size, element, vector, value_type, value_element, splat) \
    ZM_FN value_type zm_load_##storage(const void *base, zm_index index) { \
        vector raw; \
        ZM_COPY(&raw, (const char *)base + index * size, sizeof raw); \
        return zm_widen_##storage(raw); \
    } \
    ZM_FN value_type zm_load_part_##storage(const void *base, zm_index index, int count) { \
        vector raw; \
        ZM_LOAD_PART(size, raw, (const char *)base + index * size, count); \
        return zm_widen_##storage(raw); \
    } \
    ZM_FN value_type zm_load_one_##storage(const void *base, zm_index index) { \
        element one; \
        ZM_COPY(&one, (const char *)base + index * size, size); \
        return zm_widen_##storage(one - (vector){0}); /* a sum would lose the sign of -0 */ \
    } \
    ZM_FN void zm_store_##storage(void *base, zm_index index, value_type value) { \
        vector raw = zm_narrow_##storage(value); \
        ZM_COPY((char *)base + index * size, &raw, sizeof raw); \
    } \
    ZM_FN void zm_stream_##storage(void *base, zm_index index, value_type value) { \
        vector raw = zm_narrow_##storage(value); \
        zm_stream_bytes((char *)base + index * size, &raw, sizeof raw); \
    } \
    ZM_FN void zm_store_part_##storage(void *base, zm_index index, value_type value, int count) { \
        vector raw = zm_narrow_##storage(value); \
        ZM_STORE_PART(size, (char *)base + index * size, raw, count); \
    } \
    ZM_FN void zm_store_one_##storage(void *base, zm_index index, value_element value) { \
        vector raw = zm_narrow_##storage(splat(value)); \
        ZM_COPY((char *)base + index * size, &raw, size); \
    }
ZM_MEMORY(float32, 4, float, vf, vf, float, zm_splat)
ZM_MEMORY(float16, 2, __UINT16_TYPE__, zm_halves, vf, float, zm_splat)
ZM_MEMORY(bfloat16, 2, __UINT16_TYPE__, zm_halves, vf, float, zm_splat)
ZM_MEMORY(uint32, 4, __UINT32_TYPE__, vu, vu, zm_uint, zm_splat_uint)
ZM_MEMORY(int32, 4, __UINT32_TYPE__, vu, vu, zm_uint, zm_splat_uint)
ZM_MEMORY(uint8, 1, __UINT8_TYPE__, zm_bytes, vu, zm_uint, zm_splat_uint)

/* Two vectors, one behind the other. */
#define ZM_PAIR_MEMORY(how, storage, value_type) \
    ZM_FN void zm_##how##_pair_##storage(void *base, zm_index index, value_type first, value_type second) { \
        zm_##how##_##storage(base, index, first); \
        zm_##how##_##storage(base, index + ZM_WIDTH, second); \
    }
#define ZM_PAIRS(storage, value_type) \
    ZM_PAIR_MEMORY(store, storage, value_type) \
    ZM_PAIR_MEMORY(stream, storage, value_type)
ZM_PAIRS(float32, vf)
ZM_PAIRS(float16, vf)
ZM_PAIRS(uint32, vu)
ZM_PAIRS(int32, vu)
ZM_PAIRS(uint8, vu)
#if ZM_HAS_BFLOAT16
ZM_SLOW zm_words zm_round_subnormal_pair_to_bfloat16(vf first, vf second) {
    zm_words pair;
    zm_store_bfloat16(&pair, 0, first);
    zm_store_bfloat16(&pair, ZM_WIDTH, second);
    return pair;
}
ZM_FN zm_words zm_narrow_pair_bfloat16(vf first, vf second) {
    if (__builtin_expect(ZM_SUBNORMAL_LANES(first) | ZM_SUBNORMAL_LANES(second), 0))
        return zm_round_subnormal_pair_to_bfloat16(first, second);
    return (zm_words)ZM_BFLOAT16_PAIR(second, first);
}
ZM_FN void zm_store_pair_bfloat16(void *base, zm_index index, vf first, vf second) {
    zm_words pair = zm_narrow_pair_bfloat16(first, second);
    ZM_COPY((char *)base + index * 2, &pair, sizeof pair);
}
ZM_FN void zm_stream_pair_bfloat16(void *base, zm_index index, vf first, vf second) {
    zm_words pair = zm_narrow_pair_bfloat16(first, second);
    zm_stream_bytes((char *)base + index * 2, &pair, sizeof pair);
}
#else
ZM_PAIRS(bfloat16, vf)
#endif
