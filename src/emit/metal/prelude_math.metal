/* SPDX-License-Identifier: MIT */
/* Operations of form CALL. metal::precise has most of them; the rest is below. */
ZM_FUNCTION float zm_divide(float a, float b) { return a / b; }
ZM_FUNCTION float zm_fma(float a, float b, float c) { return metal::fma(a, b, c); }
ZM_FUNCTION float zm_abs(float a) { return metal::fabs(a); }
ZM_FUNCTION float zm_copysign(float a, float b) { return metal::copysign(a, b); }
ZM_FUNCTION bool zm_isnan(float a) { return (zm_float_bits(a) & 0x7fffffffu) > 0x7f800000u; }
ZM_FUNCTION bool zm_isinf(float a) { return (zm_float_bits(a) & 0x7fffffffu) == 0x7f800000u; }
ZM_FUNCTION bool zm_isfinite(float a) { return (zm_float_bits(a) & 0x7fffffffu) < 0x7f800000u; }
ZM_FUNCTION float zm_max(float a, float b) { return zm_isnan(a) ? a : zm_isnan(b) ? b : metal::fmax(a, b); }
ZM_FUNCTION float zm_min(float a, float b) { return zm_isnan(a) ? a : zm_isnan(b) ? b : metal::fmin(a, b); }
ZM_FUNCTION float zm_fmod(float a, float b) { return metal::precise::fmod(a, b); }
ZM_FUNCTION float zm_floor(float a) { return metal::precise::floor(a); }
ZM_FUNCTION float zm_ceil(float a) { return metal::precise::ceil(a); }
ZM_FUNCTION float zm_trunc(float a) { return metal::precise::trunc(a); }
ZM_FUNCTION float zm_round(float a) { return metal::precise::round(a); }
ZM_FUNCTION float zm_rint(float a) { return metal::precise::rint(a); }
ZM_FUNCTION float zm_sqrt(float a) { return metal::precise::sqrt(a); }
ZM_FUNCTION float zm_rsqrt(float a) { return metal::precise::rsqrt(a); }
ZM_FUNCTION float zm_pow(float a, float b) { return metal::precise::pow(a, b); }
ZM_FUNCTION float zm_exp(float a) { return metal::precise::exp(a); }
ZM_FUNCTION float zm_fast_exp(float a) { return metal::precise::exp(a); }
ZM_FUNCTION float zm_exp_to_largest(float a) { return metal::precise::exp(a); }
ZM_FUNCTION float zm_exp2(float a) { return metal::precise::exp2(a); }
ZM_FUNCTION float zm_exp10(float a) { return metal::precise::exp10(a); }
ZM_FUNCTION float zm_log(float a) { return metal::precise::log(a); }
ZM_FUNCTION float zm_log2(float a) { return metal::precise::log2(a); }
ZM_FUNCTION float zm_log10(float a) { return metal::precise::log10(a); }
ZM_FUNCTION float zm_sin(float a) { return metal::precise::sin(a); }
ZM_FUNCTION float zm_cos(float a) { return metal::precise::cos(a); }
ZM_FUNCTION float zm_tan(float a) { return metal::precise::tan(a); }
ZM_FUNCTION float zm_asin(float a) { return metal::precise::asin(a); }
ZM_FUNCTION float zm_acos(float a) { return metal::precise::acos(a); }
ZM_FUNCTION float zm_atan(float a) { return metal::precise::atan(a); }
ZM_FUNCTION float zm_atan2(float a, float b) { return metal::precise::atan2(a, b); }
ZM_FUNCTION float zm_sinh(float a) { return metal::precise::sinh(a); }
ZM_FUNCTION float zm_cosh(float a) { return metal::precise::cosh(a); }
ZM_FUNCTION float zm_tanh(float a) { return metal::precise::tanh(a); }
ZM_FUNCTION float zm_asinh(float a) { return metal::precise::asinh(a); }
ZM_FUNCTION float zm_acosh(float a) { return metal::precise::acosh(a); }
ZM_FUNCTION float zm_atanh(float a) { return metal::precise::atanh(a); }
/* Stable for both signs: exp(-|a|) is at most 1. */
ZM_FUNCTION float zm_sigmoid(float a) {
    const float e = zm_exp(-zm_abs(a));
    return (a < 0.0f ? e : 1.0f) / (1.0f + e);
}
/* Below 1 in size: the series a + a^2/2! + ... + a^12/12!. */
ZM_FUNCTION float zm_expm1(float a) {
    if (!(zm_abs(a) < 1.0f)) return zm_exp(a) - 1.0f;
    float q = 2.08767570e-9f;
    q = zm_fma(q, a, 2.50521084e-08f);
    q = zm_fma(q, a, 2.75573192e-07f);
    q = zm_fma(q, a, 2.75573192e-06f);
    q = zm_fma(q, a, 2.48015873e-05f);
    q = zm_fma(q, a, 0.000198412698f);
    q = zm_fma(q, a, 0.00138888889f);
    q = zm_fma(q, a, 0.00833333333f);
    q = zm_fma(q, a, 0.0416666667f);
    q = zm_fma(q, a, 0.166666667f);
    q = zm_fma(q, a, 0.5f);
    return zm_fma(a * a, q, a);
}
/* Below 1/2 in size: 2 atanh(s), s = a / (2 + a). 1 + a is exact for a <= -1/2. */
ZM_FUNCTION float zm_log1p(float a) {
    if (!(zm_abs(a) < 0.5f)) return zm_log(1.0f + a);
    const float s = a / (2.0f + a), z = s * s;
    float q = 0.0588235294f;
    q = zm_fma(q, z, 0.0666666667f);
    q = zm_fma(q, z, 0.0769230769f);
    q = zm_fma(q, z, 0.0909090909f);
    q = zm_fma(q, z, 0.111111111f);
    q = zm_fma(q, z, 0.142857143f);
    q = zm_fma(q, z, 0.2f);
    q = zm_fma(q, z, 0.333333333f);
    return zm_fma(s * z * 2.0f, q, 2.0f * s);
}
/* From a power of two that is near, one Newton step with an exact residue. */
ZM_FUNCTION float zm_cbrt(float a) {
    const float size = zm_abs(a);
    if (!(size > 0.0f && size < ZM_INFINITY)) return a;
    const bool is_small = size < 1.0e-30f;
    const float x = is_small ? size * 4.72236648e21f : size; /* 2^72 */
    float y = zm_exp2(zm_log2(x) * 0.333333343f);
    y = y - zm_fma(y * y, y, -x) / (3.0f * y * y);
    y = y - zm_fma(y * y, y, -x) / (3.0f * y * y);
    return zm_copysign(is_small ? y * 5.96046448e-8f : y, a); /* 2^-24 */
}
/* erf(x) / x - 1, z = x^2 at most 0.85^2. */
ZM_FUNCTION float zm_erf_rest(float z) {
    float q = -0.000634851865f;
    q = zm_fma(q, z, 0.0050577037f);
    q = zm_fma(q, z, -0.0268072877f);
    q = zm_fma(q, z, 0.11282865f);
    q = zm_fma(q, z, -0.376125902f);
    q = zm_fma(q, z, 0.128379166f);
    return q;
}
/* Past 0.85, minus the logarithm of erfc is a polynomial. */
ZM_FUNCTION float zm_erf(float a) {
    if (zm_isnan(a)) return a;
    const float x = metal::fmin(zm_abs(a), 3.95f);
    if (x < 0.85f) return zm_fma(a, zm_erf_rest(x * x), a);
    float q = -0.000203669551f;
    q = zm_fma(q, x, 0.0031177972f);
    q = zm_fma(q, x, -0.0225188807f);
    q = zm_fma(q, x, 0.10452567f);
    q = zm_fma(q, x, 0.636519134f);
    q = zm_fma(q, x, 1.12806094f);
    q = zm_fma(q, x, 0.00010453086f);
    return zm_copysign(1.0f - zm_exp(-q), a);
}
/* Past 0.85, e^(-x^2) t P(t), t = 1 / (x + 2), with what the rounding of x^2 and t left out. */
ZM_FUNCTION float zm_erfc(float a) {
    if (zm_isnan(a)) return a;
    const float x = metal::fmin(zm_abs(a), 10.1f);
    if (x < 0.85f) return (1.0f - a) - a * zm_erf_rest(a * a);
    const float t = 1.0f / (x + 2.0f), high = x * x, low = zm_fma(x, x, -high);
    const float error = zm_fma(-t, x, 1.0f - 2.0f * t);
    float q = -24.443924f;
    q = zm_fma(q, t, 64.1214066f);
    q = zm_fma(q, t, -57.1026039f);
    q = zm_fma(q, t, 16.2166214f);
    q = zm_fma(q, t, -0.624452531f);
    q = zm_fma(q, t, 3.23628783f);
    q = zm_fma(q, t, 1.94261968f);
    q = zm_fma(q, t, 1.12976468f);
    q = zm_fma(q, t, 0.564163923f);
    q = q * t;
    q = zm_fma(q, zm_fma(error, 1.3f, -low), q) * zm_exp(-high);
    return a < 0.0f ? 2.0f - q : q;
}
ZM_FUNCTION bool zm_and(bool a, bool b) { return a && b; }
ZM_FUNCTION bool zm_or(bool a, bool b) { return a || b; }
ZM_FUNCTION bool zm_not(bool a) { return !a; }
template <class T>
ZM_FUNCTION T zm_select(bool a, T b, T c) {
    return a ? b : c;
}
ZM_FUNCTION float zm_from_bool(bool a) { return a ? 1.0f : 0.0f; }
ZM_FUNCTION float zm_from_uint(uint a) { return float(a); }
ZM_FUNCTION uint zm_to_uint(float a) { return a >= 0.0f && a < 4294967296.0f ? uint(a) : 0xffffffffu; }
/* As MLX rounds on a GPU, where each step of its sigmoid is of the array's type. The kernel says which is meant by
 * zm_stored and zm_stored_sigmoid. */
template <class S>
ZM_FUNCTION float zm_mlx_exp(float a) { return metal::precise::exp(a); }
template <class S>
ZM_FUNCTION float zm_stored_as(float a) { return S::widen(S::narrow(a)); }
template <class S>
ZM_FUNCTION float zm_stored_sigmoid_as(float a) {
    const float power = zm_stored_as<S>(zm_mlx_exp<S>(zm_abs(a)));
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
