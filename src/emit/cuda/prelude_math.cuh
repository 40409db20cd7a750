/* SPDX-License-Identifier: MIT */
/* Operations of form CALL. Functions of CUDA's library are built into the compiler. */
/* Long ones are compiled once, not for every element of a thread. */
#define ZM_OUTLINE static __device__ __noinline__
ZM_FUNCTION float zm_fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
ZM_FUNCTION float zm_abs(float a) { return fabsf(a); }
ZM_FUNCTION float zm_copysign(float a, float b) { return copysignf(a, b); }
ZM_FUNCTION float zm_max(float a, float b) {
#if __CUDA_ARCH__ >= 800
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
#else
    return a != a ? a : b != b ? b : fmaxf(a, b);
#endif
}
ZM_FUNCTION float zm_min(float a, float b) {
#if __CUDA_ARCH__ >= 800
    float y;
    asm("min.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
#else
    return a != a ? a : b != b ? b : fminf(a, b);
#endif
}
ZM_OUTLINE float zm_fmod(float a, float b) { return fmodf(a, b); }
ZM_FUNCTION float zm_floor(float a) { return floorf(a); }
ZM_FUNCTION float zm_ceil(float a) { return ceilf(a); }
ZM_FUNCTION float zm_trunc(float a) { return truncf(a); }
ZM_FUNCTION float zm_round(float a) { return roundf(a); }
ZM_FUNCTION float zm_rint(float a) { return rintf(a); }
ZM_FUNCTION float zm_sqrt(float a) { return __fsqrt_rn(a); }
ZM_FUNCTION float zm_rsqrt(float a) { return rsqrtf(a); }
ZM_FUNCTION float zm_cbrt(float a) { return cbrtf(a); }
ZM_OUTLINE float zm_pow(float a, float b) { return powf(a, b); }
/* Through the unit that has 2^x: an error of 1.5 |a| + 3 units in the last place of float32; subnormal results are
 * 0. */
ZM_FUNCTION float zm_fast_exp(float a) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(a * 1.4426950408889634f));
    return y;
}
#ifdef ZM_NARROW /* far below a half type's */
ZM_FUNCTION float zm_exp(float a) {
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(a * 1.4426950408889634f));
    return y;
}
/* Of a number less the largest of its row: beside 1, what is subnormal is nothing. */
ZM_FUNCTION float zm_exp_to_largest(float a) { return zm_fast_exp(a); }
/* To 2 units in the last place, for all operands. */
ZM_FUNCTION float zm_divide(float a, float b) {
    float y;
    asm("div.full.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
    return y;
}
#else
ZM_FUNCTION float zm_exp(float a) { return expf(a); }
ZM_FUNCTION float zm_exp_to_largest(float a) { return expf(a); }
ZM_FUNCTION float zm_divide(float a, float b) { return a / b; }
#endif
ZM_FUNCTION float zm_exp2(float a) { return exp2f(a); }
ZM_FUNCTION float zm_exp10(float a) { return exp10f(a); }
ZM_FUNCTION float zm_expm1(float a) { return expm1f(a); }
ZM_FUNCTION float zm_log(float a) { return logf(a); }
ZM_FUNCTION float zm_log2(float a) { return log2f(a); }
ZM_FUNCTION float zm_log10(float a) { return log10f(a); }
ZM_FUNCTION float zm_log1p(float a) { return log1pf(a); }
ZM_OUTLINE float zm_sin(float a) { return sinf(a); }
ZM_OUTLINE float zm_cos(float a) { return cosf(a); }
ZM_OUTLINE float zm_tan(float a) { return tanf(a); }
ZM_FUNCTION float zm_asin(float a) { return asinf(a); }
ZM_FUNCTION float zm_acos(float a) { return acosf(a); }
ZM_FUNCTION float zm_atan(float a) { return atanf(a); }
ZM_OUTLINE float zm_atan2(float a, float b) { return atan2f(a, b); }
ZM_FUNCTION float zm_sinh(float a) { return sinhf(a); }
ZM_FUNCTION float zm_cosh(float a) { return coshf(a); }
ZM_FUNCTION float zm_tanh(float a) { return tanhf(a); }
ZM_OUTLINE float zm_asinh(float a) { return asinhf(a); }
ZM_OUTLINE float zm_acosh(float a) { return acoshf(a); }
ZM_OUTLINE float zm_atanh(float a) { return atanhf(a); }
ZM_FUNCTION float zm_erf(float a) { return erff(a); }
ZM_FUNCTION float zm_erfc(float a) { return erfcf(a); }
/* e = exp(-|a|): 1 / (1 + e), by one Newton step as 1 + e lies in [1, 2], and e times that. Half types need no step. */
ZM_FUNCTION float zm_sigmoid(float a) {
    const float e = zm_exp(-fabsf(a)), d = 1.0f + e;
    float r;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(d));
#ifndef ZM_NARROW
    r = __fmaf_rn(r, __fmaf_rn(-d, r, 1.0f), r);
#endif
    return a < 0.0f ? e * r : r;
}
ZM_FUNCTION bool zm_isnan(float a) { return a != a; }
ZM_FUNCTION bool zm_isinf(float a) { return fabsf(a) == ZM_INFINITY; }
ZM_FUNCTION bool zm_isfinite(float a) { return fabsf(a) < ZM_INFINITY; }
ZM_FUNCTION bool zm_and(bool a, bool b) { return a && b; }
ZM_FUNCTION bool zm_or(bool a, bool b) { return a || b; }
ZM_FUNCTION bool zm_not(bool a) { return !a; }
template <class T>
ZM_FUNCTION T zm_select(bool a, T b, T c) {
    return a ? b : c;
}
ZM_FUNCTION float zm_from_bool(bool a) { return a ? 1.0f : 0.0f; }
ZM_FUNCTION float zm_from_uint(uint a) { return __uint2float_rn(a); }
ZM_FUNCTION uint zm_to_uint(float a) { return a >= 0.0f && a < 4294967296.0f ? __float2uint_rz(a) : 0xffffffffu; }
/* As MLX rounds on a GPU, where each step of its sigmoid is of the array's type. The kernel says which is meant by
 * zm_stored and zm_stored_sigmoid. */
template <class S>
ZM_FUNCTION float zm_mlx_exp(float a) { /* CUDA's of a half type: 2^(a log2 e) */
    float y;
    asm("ex2.approx.f32 %0, %1;" : "=f"(y) : "f"(a * __uint_as_float(0x3fb8aa3cu)));
    return y;
}
template <>
ZM_FUNCTION float zm_mlx_exp<zm_float32>(float a) { return expf(a); }
template <class S>
ZM_FUNCTION float zm_stored_as(float a) { return S::widen(S::narrow(a)); }
template <class S>
ZM_FUNCTION float zm_stored_sigmoid_as(float a) {
    const float power = zm_stored_as<S>(zm_mlx_exp<S>(fabsf(a)));
    const float tail = zm_stored_as<S>(1.0f / zm_stored_as<S>(1.0f + power));
    return a < 0.0f ? tail : zm_stored_as<S>(1.0f - tail);
}
ZM_FUNCTION float zm_stored_float32(float a) { return a; }
ZM_FUNCTION float zm_stored_float16(float a) { return zm_stored_as<zm_float16>(a); }
ZM_FUNCTION float zm_stored_bfloat16(float a) { return zm_stored_as<zm_bfloat16>(a); }
ZM_FUNCTION float zm_mlx_sigmoid(float a) { return zm_stored_sigmoid_as<zm_float32>(a); }
ZM_FUNCTION float zm_stored_sigmoid_float32(float a) { return zm_mlx_sigmoid(a); }
ZM_FUNCTION float zm_stored_sigmoid_float16(float a) { return zm_stored_sigmoid_as<zm_float16>(a); }
ZM_FUNCTION float zm_stored_sigmoid_bfloat16(float a) { return zm_stored_sigmoid_as<zm_bfloat16>(a); }
