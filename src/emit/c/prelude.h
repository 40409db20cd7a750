/* SPDX-License-Identifier: MIT */
/* What every emitted C kernel begins with: vectors of ZM_WIDTH lanes, memory in every storage type, and each operation
 * of form CALL as zm_<name>. No #include: most of the time to compile a kernel would go there. */
typedef struct zm_c_call {
    const void *const *inputs;
    void *const *outputs;
    const __INT32_TYPE__ *layouts; /* a ZM_LAYOUT_ mask per input */
    __INT64_TYPE__ rows, columns;
    const float *parameters;
    const __UINT64_TYPE__ *seeds;
    float *scratch; /* this thread's: *<entry>_scratch rows of columns floats, each rounded up to 16 floats; 64-byte aligned */
    __INT32_TYPE__ stream_stores; /* not 0: outputs are larger than the caches, write past them */
} zm_c_call;

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#define ZM_WIDTH 16
#elif defined(__AVX__)
#define ZM_WIDTH 8
#else
#define ZM_WIDTH 4
#endif

typedef __UINT32_TYPE__ zm_uint;
typedef __INT64_TYPE__ zm_index;
typedef float vf __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __INT32_TYPE__ vi __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __UINT32_TYPE__ vu __attribute__((vector_size(4 * ZM_WIDTH)));
typedef __UINT16_TYPE__ zm_halves __attribute__((vector_size(2 * ZM_WIDTH)));
typedef __UINT8_TYPE__ zm_bytes __attribute__((vector_size(ZM_WIDTH)));
typedef __UINT64_TYPE__ zm_longs __attribute__((vector_size(4 * ZM_WIDTH)));
typedef long long zm_chunk_64 __attribute__((vector_size(64)));
typedef long long zm_chunk_32 __attribute__((vector_size(32)));
typedef long long zm_chunk_16 __attribute__((vector_size(16)));

#define ZM_FN static inline __attribute__((always_inline, unused))
#define ZM_SLOW static inline __attribute__((unused))
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

/* Arithmetic. Max and min: NaN wins. */
#define ZM_LANES_1(name, function) \
    ZM_SLOW vf zm_##name(vf a) { \
        for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = function(a[lane]); \
        return a; \
    }
#define ZM_LANES_2(name, function) \
    ZM_SLOW vf zm_##name(vf a, vf b) { \
        for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = function(a[lane], b[lane]); \
        return a; \
    }
ZM_FN vf zm_fma(vf a, vf b, vf c) {
    for (int lane = 0; lane < ZM_WIDTH; lane++) c[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
    return c;
}
ZM_FN vi zm_isnan(vf a) { return a != a; }
ZM_FN vf zm_abs(vf a) { return (vf)((vi)a & 0x7fffffff); }
ZM_FN vi zm_isinf(vf a) { return zm_abs(a) == __builtin_inff(); }
ZM_FN vi zm_isfinite(vf a) { return zm_abs(a) < __builtin_inff(); }
ZM_FN vf zm_copysign(vf a, vf b) { return zm_select(zm_splat_int(0x7fffffff), a, b); }
ZM_FN vf zm_min_lanes(vf a, vf b) { return zm_select((a < b) | (a != a), a, b); }
ZM_FN vf zm_max_lanes(vf a, vf b) { return zm_select((a > b) | (a != a), a, b); }
ZM_LANES_1(floor, __builtin_floorf)
ZM_LANES_1(ceil, __builtin_ceilf)
ZM_LANES_1(trunc, __builtin_truncf)
ZM_LANES_1(round, __builtin_roundf)
ZM_LANES_1(rint, __builtin_rintf)
ZM_FN vf zm_sqrt(vf a) {
    for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = __builtin_sqrtf(a[lane]);
    return a;
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
    vi large = a >= 0x1p31f;
    vf low = zm_select((a >= 0.0f) & (a < 0x1p32f), a - zm_select(large, zm_splat(0x1p31f), zm_splat(0)), zm_splat(0));
    vi inside = (a >= 0.0f) & (a < 0x1p32f);
    vu words = (vu)__builtin_convertvector(low, vi) + ((vu)large & 0x80000000u);
    return words | (vu)~inside;
}

/* Over the lanes, as a tree: lane l with lane l + ZM_WIDTH / 2, and so on. */
#define ZM_HORIZONTAL(name, combine) \
    ZM_FN float zm_##name(vf a) { \
        float lanes[ZM_WIDTH]; \
        ZM_COPY(lanes, &a, sizeof lanes); \
        for (int half = ZM_WIDTH / 2; half > 0; half /= 2) \
            for (int lane = 0; lane < half; lane++) { \
                float x = lanes[lane], y = lanes[lane + half]; \
                lanes[lane] = combine; \
            } \
        return lanes[0]; \
    }
ZM_HORIZONTAL(sum, x + y)
ZM_HORIZONTAL(prod, x * y)
ZM_HORIZONTAL(max_over, x > y || x != x ? x : y)
ZM_HORIZONTAL(min_over, x < y || x != x ? x : y)
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
ZM_FN vf zm_widen_bfloat16(zm_halves raw) { return (vf)(__builtin_convertvector(raw, vu) << 16); }
ZM_FN zm_halves zm_narrow_bfloat16(vf value) {
    vu bits = (vu)value;
    vu rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
    return __builtin_convertvector(zm_select(zm_isnan(value), bits | 0x400000u, rounded) >> 16, zm_halves);
}
ZM_FN vf zm_widen_float16(zm_halves raw) {
    vu bits = __builtin_convertvector(raw, vu);
    vu magnitude = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
    /* 2^112 re-biases normal numbers and makes subnormal ones normal, exactly. */
    vu finite = (vu)((vf)magnitude * 0x1p112f);
    return (vf)(sign | zm_select(magnitude >= 0x0f800000u, 0x70000000u | magnitude, finite));
}
ZM_FN zm_halves zm_narrow_float16(vf value) {
    vu bits = (vu)zm_abs(value), sign = ((vu)value >> 16) & 0x8000u;
    vu normal = (bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u) >> 13;
    vu subnormal = (vu)((vf)bits + 0.5f) - 0x3f000000u; /* the sum with 0.5 rounds at 2^-24 */
    vu finite = zm_select(bits < 0x38800000u, subnormal, normal);
    vu magnitude = zm_select(bits >= 0x477ff000u, zm_splat_uint(0x7c00u), finite);
    magnitude = zm_select(bits > 0x7f800000u, zm_splat_uint(0x7e00u), magnitude);
    return __builtin_convertvector(sign | magnitude, zm_halves);
}

/* Copies bytes < whole, the size of a vector. */
ZM_FN void zm_copy_part(void *to, const void *from, unsigned long bytes, unsigned long whole) {
    char *target = (char *)to;
    const char *source = (const char *)from;
#define ZM_PIECE(size) \
    if (size < whole && (bytes & size) != 0) { \
        ZM_COPY(target, source, size); \
        target += size, source += size; \
    }
    ZM_PIECE(32ul)
    ZM_PIECE(16ul)
    ZM_PIECE(8ul)
    ZM_PIECE(4ul)
    ZM_PIECE(2ul)
    ZM_PIECE(1ul)
#undef ZM_PIECE
}
/* Writes past the caches: to is aligned to bytes. */
ZM_FN void zm_stream_bytes(void *to, const void *from, unsigned long bytes) {
    ZM_COPY(to, from, bytes);
}
ZM_FN void zm_stream_fence(void) {
#if defined(__SSE2__)
    __builtin_ia32_sfence();
#endif
}

#define ZM_MEMORY(storage, element, vector, value_type, value_element, splat) \
    ZM_FN value_type zm_load_##storage(const void *base, zm_index index) { \
        vector raw; \
        ZM_COPY(&raw, (const char *)base + index * (zm_index)sizeof(element), sizeof raw); \
        return zm_widen_##storage(raw); \
    } \
    ZM_FN value_type zm_load_part_##storage(const void *base, zm_index index, int count) { \
        vector raw = {0}; \
        zm_copy_part(&raw, (const char *)base + index * (zm_index)sizeof(element), (unsigned)count * sizeof(element), \
                     sizeof raw); \
        return zm_widen_##storage(raw); \
    } \
    ZM_FN value_type zm_load_one_##storage(const void *base, zm_index index) { \
        element one; \
        ZM_COPY(&one, (const char *)base + index * (zm_index)sizeof(element), sizeof one); \
        return zm_widen_##storage((vector){0} + one); \
    } \
    ZM_FN void zm_store_##storage(void *base, zm_index index, value_type value) { \
        vector raw = zm_narrow_##storage(value); \
        ZM_COPY((char *)base + index * (zm_index)sizeof(element), &raw, sizeof raw); \
    } \
    ZM_FN void zm_stream_##storage(void *base, zm_index index, value_type value) { \
        vector raw = zm_narrow_##storage(value); \
        zm_stream_bytes((char *)base + index * (zm_index)sizeof(element), &raw, sizeof raw); \
    } \
    ZM_FN void zm_store_part_##storage(void *base, zm_index index, value_type value, int count) { \
        vector raw = zm_narrow_##storage(value); \
        zm_copy_part((char *)base + index * (zm_index)sizeof(element), &raw, (unsigned)count * sizeof(element), \
                     sizeof raw); \
    } \
    ZM_FN void zm_store_one_##storage(void *base, zm_index index, value_element value) { \
        vector raw = zm_narrow_##storage(splat(value)); \
        ZM_COPY((char *)base + index * (zm_index)sizeof(element), &raw, sizeof(element)); \
    }
ZM_MEMORY(float32, float, vf, vf, float, zm_splat)
ZM_MEMORY(float16, __UINT16_TYPE__, zm_halves, vf, float, zm_splat)
ZM_MEMORY(bfloat16, __UINT16_TYPE__, zm_halves, vf, float, zm_splat)
ZM_MEMORY(uint32, __UINT32_TYPE__, vu, vu, zm_uint, zm_splat_uint)
ZM_MEMORY(int32, __UINT32_TYPE__, vu, vu, zm_uint, zm_splat_uint)
ZM_MEMORY(uint8, __UINT8_TYPE__, zm_bytes, vu, zm_uint, zm_splat_uint)

/* Philox4x32-10 of the blocks index / 4 and on, a block in each long: 2 * ZM_WIDTH words, of which those from index on. */
ZM_FN vf zm_random(__UINT64_TYPE__ seed, __UINT64_TYPE__ index) {
    const zm_longs low = (zm_longs){0} + 0xffffffffu;
    zm_longs block = (zm_longs){0} + index / 4;
    for (unsigned lane = 0; lane < ZM_WIDTH / 2; lane++) block[lane] += lane;
    zm_longs word0 = block & low, word1 = block >> 32, word2 = {0}, word3 = {0};
    zm_uint key0 = (zm_uint)seed, key1 = (zm_uint)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        zm_longs product0 = word0 * 0xd2511f53u, product1 = word2 * 0xcd9e8d57u;
        word0 = (product1 >> 32) ^ word1 ^ key0;
        word2 = (product0 >> 32) ^ word3 ^ key1;
        word1 = product1 & low;
        word3 = product0 & low;
        key0 += 0x9e3779b9u;
        key1 += 0xbb67ae85u;
    }
    zm_longs first = word0 | word1 << 32, second = word2 | word3 << 32;
    __UINT64_TYPE__ words[ZM_WIDTH];
    for (int lane = 0; lane < ZM_WIDTH / 2; lane++) {
        words[2 * lane] = first[lane];
        words[2 * lane + 1] = second[lane];
    }
    vu lanes;
    ZM_COPY(&lanes, (const char *)words + 4 * (index % 4), sizeof lanes);
    return __builtin_convertvector((vi)(lanes >> 8), vf) * 0x1p-24f;
}

/* Roots, powers, exponentials, trigonometric and hyperbolic functions. */
ZM_LANES_2(fmod, __builtin_fmodf)
ZM_LANES_2(pow, __builtin_powf)
ZM_LANES_2(atan2, __builtin_atan2f)
ZM_LANES_1(cbrt, __builtin_cbrtf)
ZM_LANES_1(exp, __builtin_expf)
ZM_LANES_1(exp2, __builtin_exp2f)
ZM_FN vf zm_exp10(vf a) { return zm_pow(zm_splat(10), a); }
ZM_LANES_1(expm1, __builtin_expm1f)
ZM_LANES_1(log, __builtin_logf)
ZM_LANES_1(log2, __builtin_log2f)
ZM_LANES_1(log10, __builtin_log10f)
ZM_LANES_1(log1p, __builtin_log1pf)
ZM_LANES_1(sin, __builtin_sinf)
ZM_LANES_1(cos, __builtin_cosf)
ZM_LANES_1(tan, __builtin_tanf)
ZM_LANES_1(asin, __builtin_asinf)
ZM_LANES_1(acos, __builtin_acosf)
ZM_LANES_1(atan, __builtin_atanf)
ZM_LANES_1(sinh, __builtin_sinhf)
ZM_LANES_1(cosh, __builtin_coshf)
ZM_LANES_1(tanh, __builtin_tanhf)
ZM_LANES_1(asinh, __builtin_asinhf)
ZM_LANES_1(acosh, __builtin_acoshf)
ZM_LANES_1(atanh, __builtin_atanhf)
ZM_LANES_1(erf, __builtin_erff)
ZM_LANES_1(erfc, __builtin_erfcf)
ZM_FN vf zm_sigmoid(vf a) {
    vf tail = zm_exp(-zm_abs(a)); /* at most 1: no overflow */
    return zm_select(a < 0.0f, tail, zm_splat(1)) / (1.0f + tail);
}
