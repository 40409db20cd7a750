/* SPDX-License-Identifier: MIT */
/* The functions of the C prelude (prelude.h goes before), within 4 ulp of the exact value for every argument. The
 * polynomials are minimax with errors of 2^-26 of the result; coefficients rounded one by one, the lowest first. */
/* Polynomials, the lowest coefficient first. */
#define ZM_P1(x, a) zm_splat(a)
#define ZM_P2(x, a, ...) zm_mad(ZM_P1(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P3(x, a, ...) zm_mad(ZM_P2(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P4(x, a, ...) zm_mad(ZM_P3(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P5(x, a, ...) zm_mad(ZM_P4(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P6(x, a, ...) zm_mad(ZM_P5(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P7(x, a, ...) zm_mad(ZM_P6(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P8(x, a, ...) zm_mad(ZM_P7(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_P9(x, a, ...) zm_mad(ZM_P8(x, __VA_ARGS__), x, zm_splat(a))
#define ZM_INFINITY __builtin_inff()
#define ZM_NAN __builtin_nanf("")

/* The lanes as two vectors of doubles, and back. gcc before 12 has no shufflevector. */
#if ZM_WIDTH == 16
#define ZM_LOW 0, 1, 2, 3, 4, 5, 6, 7
#define ZM_HIGH 8, 9, 10, 11, 12, 13, 14, 15
#elif ZM_WIDTH == 8
#define ZM_LOW 0, 1, 2, 3
#define ZM_HIGH 4, 5, 6, 7
#else
#define ZM_LOW 0, 1
#define ZM_HIGH 2, 3
#endif
ZM_FN vd zm_to_double(zm_half_float a) {
#if ZM_GCC && ZM_WIDTH == 16
    return __builtin_ia32_cvtps2pd512_mask(a, (vd){0}, -1, 4);
#else
    return __builtin_convertvector(a, vd);
#endif
}
ZM_FN zm_half_float zm_from_double(vd a) {
#if ZM_GCC && ZM_WIDTH == 16
    return __builtin_ia32_cvtpd2ps512_mask(a, (zm_half_float){0}, -1, 4);
#else
    return __builtin_convertvector(a, zm_half_float);
#endif
}
#if __has_builtin(__builtin_shufflevector)
ZM_FN vd zm_low_half(vf a) { return zm_to_double(__builtin_shufflevector(a, a, ZM_LOW)); }
ZM_FN vd zm_high_half(vf a) { return zm_to_double(__builtin_shufflevector(a, a, ZM_HIGH)); }
ZM_FN vf zm_join_halves(vd low, vd high) {
    return __builtin_shufflevector(zm_from_double(low), zm_from_double(high), ZM_LOW, ZM_HIGH);
}
#else
typedef union zm_halved {
    vf whole;
    zm_half_float halves[2];
} zm_halved;
ZM_FN vd zm_low_half(vf a) { return zm_to_double(((zm_halved){.whole = a}).halves[0]); }
ZM_FN vd zm_high_half(vf a) { return zm_to_double(((zm_halved){.whole = a}).halves[1]); }
ZM_FN vf zm_join_halves(vd low, vd high) {
    return ((zm_halved){.halves = {zm_from_double(low), zm_from_double(high)}}).whole;
}
#endif

/* Exponentials. x = n ln 2 + r; n is in the low bits of shifted = n + 1.5 * 2^23. */
ZM_FN vf zm_shifted(vf x, float factor) { return zm_mad(x, zm_splat(factor), zm_splat(0x1.8p23f)); }
/* e^r - 1 for |r| <= ln 2 / 2 */
ZM_FN vf zm_exp_less_1(vf r) {
    vf q = ZM_P5(r, 0x1.fffffep-2f, 0x1.5554a4p-3f, 0x1.555784p-5f, 0x1.12317cp-7f, 0x1.6add1cp-10f);
    return zm_mad(r * r, q, r);
}
ZM_FN vf zm_rest_of_exp(vf x, vf shifted) {
    vf n = shifted - 0x1.8p23f;
    return zm_mad(n, zm_splat(-0x1.7f7d1cp-20f), zm_mad(n, zm_splat(-0x1.62e4p-1f), x));
}
/* y 2^n, rounded once */
ZM_FN vf zm_scale(vf y, vf shifted) {
#if ZM_WIDTH == 16
    return __builtin_ia32_scalefps512_mask(y, shifted - 0x1.8p23f, y, ZM_ALL, 4);
#else
    vu n = (vu)shifted - 0x4b400000u, half = (vu)((vi)n >> 1);
    return y * (vf)((half + 127u) << 23) * (vf)((n - half + 127u) << 23);
#endif
}
ZM_FN vf zm_exp(vf x) {
    x = zm_at_least(zm_at_most(x, 90), -105);
    vf shifted = zm_shifted(x, 0x1.715476p+0f);
    return zm_scale(1.0f + zm_exp_less_1(zm_rest_of_exp(x, shifted)), shifted);
}
ZM_FN vf zm_exp2(vf x) {
    x = zm_at_least(zm_at_most(x, 130), -152);
    vf shifted = x + 0x1.8p23f;
    return zm_scale(1.0f + zm_exp_less_1((x - (shifted - 0x1.8p23f)) * 0x1.62e43p-1f), shifted);
}
ZM_FN vf zm_exp10(vf x) {
    x = zm_at_least(zm_at_most(x, 39), -46);
    vf shifted = zm_shifted(x, 0x1.a934fp+1f), n = shifted - 0x1.8p23f;
    vf rest = zm_mad(n, zm_splat(-0x1.3509f8p-18f), zm_mad(n, zm_splat(-0x1.344p-2f), x));
    vf r = zm_mad(rest, zm_splat(0x1.26bb1cp+1f), rest * -0x1.12aabap-25f);
    return zm_scale(1.0f + zm_exp_less_1(r), shifted);
}
ZM_FN vf zm_expm1(vf a) {
    vf x = zm_at_least(zm_at_most(a, 89), -18);
    vf shifted = zm_shifted(x, 0x1.715476p+0f);
    vf half = (vf)(((vu)shifted << 23) + 0x3f000000u); /* 2^(n - 1): 2^n may overflow */
    vf y = 2.0f * zm_mad(half, zm_exp_less_1(zm_rest_of_exp(x, shifted)), half - 0.5f);
    return zm_select(zm_abs(a) < 0x1p-25f, a, y);
}
ZM_FN vf zm_sigmoid(vf a) {
    vf tail = zm_exp(-zm_abs(a)); /* at most 1: no overflow */
    return zm_select(a < 0.0f, tail, zm_splat(1)) / (1.0f + tail);
}

/* For half types: to 3 + |x| units in the last place, fewer instructions. */
#if ZM_WIDTH == 16
/* 2^n 2^f with n + f = x / ln 2. Infinities and NaN pass through the instructions. */
ZM_FN vf zm_narrow_exp(vf x) {
    vf y = x * 0x1.715476p+0f, f = ZM_LESS_RINT(y), z = f * f;
    vf low = ZM_P2(f, 0x1.000000p+0f, 0x1.62e42ap-1f), middle = ZM_P2(f, 0x1.ebf9bcp-3f, 0x1.c6b752p-5f);
    vf power = zm_mad(zm_mad(ZM_P2(f, 0x1.3cea88p-7f, 0x1.5bba14p-10f), z, middle), z, low);
    return __builtin_ia32_scalefps512_mask(power, y - f, power, ZM_ALL, 4);
}
/* From 30 on it is 1 to that. */
ZM_FN vf zm_narrow_sigmoid(vf a) {
    vf power = zm_narrow_exp(zm_at_most(a, 30)), sum = 1.0f + power;
#if defined(__znver1__) || defined(__znver2__) || defined(__znver3__) || defined(__znver4__) || defined(__znver5__)
    return power / sum; /* 2.5 cycles a vector where others take 16 */
#else
    vf guess = __builtin_ia32_rcp14ps512_mask(sum, sum, 0xffff);
    return power * zm_fma(guess, zm_fma(-sum, guess, zm_splat(1)), guess);
#endif
}
#else
ZM_FN vf zm_narrow_exp(vf x) { return zm_exp(x); }
ZM_FN vf zm_narrow_sigmoid(vf a) { return zm_sigmoid(a); }
#endif

/* Logarithms. x = 2^e (1 + f), -0.25 <= f < 0.5; for x below 0, |x| or NaN. */
ZM_FN vf zm_log_parts(vf x, vf *e) {
#if ZM_WIDTH == 16
    vf m = __builtin_ia32_getmantps512_mask(x, 3, x, ZM_ALL, 4);
    vf least = __builtin_ia32_getexpps512_mask(x, x, ZM_ALL, 4);
    *e = zm_select(m < 1.0f, least + 1.0f, least);
    return m - 1.0f;
#else
    vi small = x < 0x1p-126f;
    vu bits = (vu)zm_select(small, x * 0x1p24f, x) + (0x3f800000u - 0x3f400000u);
    *e = __builtin_convertvector(((vi)bits >> 23) - 127 - (small & 24), vf);
    return (vf)((bits & 0x7fffffu) + 0x3f400000u) - 1.0f;
#endif
}
/* ln(1 + f) - f */
ZM_FN vf zm_log_series(vf f) {
    vf q = ZM_P9(f, -0.5f, 0x1.5555acp-2f, -0x1.000082p-2f, 0x1.996724p-3f, -0x1.54d712p-3f, 0x1.2875d6p-3f,
                 -0x1.0e87a4p-3f, 0x1.b1cc44p-4f, -0x1.79162p-5f);
    return f * f * q;
}
/* y, but the logarithm's limit where x is no positive finite number */
ZM_FN vf zm_log_edges(vf x, vf y) {
#if ZM_WIDTH == 16
    const vi replacements = zm_splat_int(0x03530422); /* a digit for each class of x */
    return __builtin_ia32_fixupimmps512_mask(y, x, replacements, 0, ZM_ALL, 4);
#else
    y = zm_select(x < ZM_INFINITY, y, x);
    y = zm_select(x == 0.0f, zm_splat(-ZM_INFINITY), y);
    return zm_select(x < 0.0f, zm_splat(ZM_NAN), y);
#endif
}
ZM_FN vf zm_log(vf x) {
    vf e, f = zm_log_parts(x, &e);
    vf y = zm_mad(e, zm_splat(0x1.62e4p-1f), f + zm_mad(e, zm_splat(0x1.7f7d1cp-20f), zm_log_series(f)));
    return zm_log_edges(x, y);
}
ZM_FN vf zm_log2(vf x) {
    vf e, f = zm_log_parts(x, &e), series = zm_log_series(f);
    vf rest = zm_mad(f, zm_splat(0x1.c551dap-2f), series * 0x1.715476p+0f); /* log2(e) = 1 + this factor */
    return zm_log_edges(x, (e + f) + rest);
}
ZM_FN vf zm_log10(vf x) {
    vf e, f = zm_log_parts(x, &e), series = zm_log_series(f);
    vf rest = zm_mad(f, zm_splat(-0x1.0d213ap-4f), series * 0x1.bcb7b2p-2f); /* log10(e) = 0.5 + this factor */
    vf y = zm_mad(e, zm_splat(0x1.344p-2f), 0.5f * f + zm_mad(e, zm_splat(0x1.3509f8p-18f), rest));
    return zm_log_edges(x, y);
}
ZM_FN vf zm_log1p(vf x) {
    vf u = 1.0f + x;
    vi n = ((vi)((vu)u + (0x3f800000u - 0x3f400000u)) >> 23) - 127, scale = (vi)((vu)(127 - n) << 23);
    /* f = x 2^-n + (2^-n - 1): both terms exact; 2^-n counts as 0 where it is not normal */
    vf scaled = (vf)((vu)x - ((vu)n << 23)), f = scaled + ((vf)(scale & ~(scale >> 31)) - 1.0f);
    vf e = __builtin_convertvector(n, vf);
    vf y = zm_mad(e, zm_splat(0x1.62e4p-1f), f + zm_mad(e, zm_splat(0x1.7f7d1cp-20f), zm_log_series(f)));
    return zm_select(zm_abs(x) < 0x1p-25f, x, zm_log_edges(u, y));
}

/* Hyperbolic functions. */
ZM_FN vf zm_tanh(vf a) {
    vf x = zm_abs(a), z = a * a;
    vf inner = ZM_P5(z, -0x1.55554ap-2f, 0x1.110ceep-3f, -0x1.b91e7ep-5f, 0x1.58e516p-6f, -0x1.992188p-8f);
    vf small = zm_mad(x * z, inner, x);
    vf twice = zm_at_most(x + x, 20), shifted = zm_shifted(twice, 0x1.715476p+0f);
    vf power = (vf)(((vu)shifted << 23) + 0x3f800000u);
    vf large = 1.0f - 2.0f / (zm_mad(power, zm_exp_less_1(zm_rest_of_exp(twice, shifted)), power) + 1.0f);
    return zm_copysign(zm_select(x < 0.55f, small, large), a);
}
ZM_FN vf zm_half_exp(vf x) { /* e^x / 2 */
    x = zm_at_most(x, 91);
    vf shifted = zm_shifted(x, 0x1.715476p+0f);
    return zm_scale(1.0f + zm_exp_less_1(zm_rest_of_exp(x, shifted)), shifted - 1.0f);
}
ZM_FN vf zm_cosh(vf a) {
    vf half = zm_half_exp(zm_abs(a));
    return half + 0.25f / half;
}
ZM_FN vf zm_sinh(vf a) {
    vf x = zm_abs(a), z = a * a, half = zm_half_exp(x);
    vf inner = ZM_P4(z, 0x1.555556p-3f, 0x1.1110ep-7f, 0x1.a022bcp-13f, 0x1.756c1ep-19f);
    return zm_copysign(zm_select(x < 1.0f, zm_mad(x * z, inner, x), half - 0.25f / half), a);
}
ZM_FN vf zm_asinh(vf a) {
    vf x = zm_abs(a), z = x * x;
    vi large = x > 0x1p30f;
    vf y = zm_log1p(zm_select(large, x, x + z / (1.0f + zm_sqrt(1.0f + z))));
    return zm_copysign(y + (vf)(large & 0x3f317218), a); /* ln 2 */
}
ZM_FN vf zm_acosh(vf a) {
    vf t = a - 1.0f;
    vi large = a > 0x1p30f;
    vf y = zm_log1p(zm_select(large, a, t + zm_sqrt(t * (t + 2.0f)))) + (vf)(large & 0x3f317218);
    return zm_select(a < 1.0f, zm_splat(ZM_NAN), y);
}
ZM_FN vf zm_atanh(vf a) {
    vf x = zm_abs(a);
    return zm_copysign(0.5f * zm_log1p((x + x) / (1.0f - x)), a);
}

/* Error function. */
ZM_FN vf zm_erf_rest(vf z) { /* erf(x) / x - 1, z = x^2 <= 0.85^2 */
    return ZM_P6(z, 0x1.06eba8p-3f, -0x1.812726p-2f, 0x1.ce256ap-4f, -0x1.b735eap-6f, 0x1.4b763p-8f,
                 -0x1.4cd86p-11f);
}
ZM_FN vf zm_erf(vf a) {
    vf x = zm_at_most(zm_abs(a), 3.95f);
    vf logarithm = -ZM_P7(x, 0x1.b66f28p-14f, 0x1.20c89ap+0f, 0x1.45e5d6p-1f, 0x1.ac231cp-4f, -0x1.70f308p-6f,
                          0x1.98a7eap-9f, -0x1.ab2042p-13f); /* of erfc */
    vf shifted = zm_shifted(logarithm, 0x1.715476p+0f);
    vf large = 1.0f - zm_scale(1.0f + zm_exp_less_1(zm_rest_of_exp(logarithm, shifted)), shifted);
    return zm_copysign(zm_select(x < 0.85f, zm_mad(x, zm_erf_rest(x * x), x), large), a);
}
/* 1 - a b, where that is near 0: no rounding but of the difference */
ZM_FN vf zm_one_less(vf a, vf b) {
#if ZM_HAS_FMA
    return zm_fma(-a, b, zm_splat(1));
#else
    vf a_top = (vf)((vi)a & ~0xfff), b_top = (vf)((vi)b & ~0xfff);
    return ((1.0f - a_top * b_top) - a_top * (b - b_top)) - (a - a_top) * b;
#endif
}
/* Large: erfc(x) = e^(-x^2) t P(t), t = 1 / (x + 2), x^2 = high + low. */
ZM_FN vf zm_erfc(vf a) {
    vf x = zm_at_most(zm_abs(a), 10.1f), sum = x + 2.0f, t = 1.0f / sum;
    vf inner = ZM_P9(t, 0x1.20da18p-1f, 0x1.213842p+0f, 0x1.f14f86p+0f, 0x1.9e3eaep+1f, -0x1.3fb83ep-1f,
                     0x1.037748p+4f, -0x1.c8d222p+5f, 0x1.007c52p+6f, -0x1.871a5p+4f);
#if ZM_HAS_FMA
    vf high = x * x, low = zm_fma(x, x, -high);
#else
    vf top = (vf)((vi)x & ~0xfff), high = top * top, low = (x - top) * (x + top);
#endif
    vf shifted = zm_shifted(-high, 0x1.715476p+0f);
    vf error = zm_one_less(t, sum) - t * (x - (sum - 2.0f)); /* of t, relative; in t P(t) 1.3 times that */
    vf rest = zm_rest_of_exp(-high, shifted) + zm_mad(error, zm_splat(1.3f), -low);
    vf factor = t * inner, growth = zm_exp_less_1(rest);
    vf large = zm_scale(zm_mad(factor, growth, factor), shifted);
    large = zm_select(a < 0.0f, 2.0f - large, large);
    return zm_select(zm_abs(a) < 0.85f, (1.0f - a) - a * zm_erf_rest(a * a), large);
}

/* Trigonometric functions: |x| = n pi / 2 + r. Past 1e5, lane by lane. */
#define ZM_LARGE_ANGLES(name) \
    ZM_SLOW vf zm_##name##_large(vf a, vf y) { \
        for (int lane = 0; lane < ZM_WIDTH; lane++) \
            if (!(__builtin_fabsf(a[lane]) <= 1e5f)) y[lane] = __builtin_##name##f(a[lane]); \
        return y; \
    }
ZM_LARGE_ANGLES(sin)
ZM_LARGE_ANGLES(cos)
ZM_LARGE_ANGLES(tan)
ZM_FN vf zm_angle(vf x, vu *n) {
    vf shifted = zm_shifted(x, 0x1.45f306p-1f);
    *n = (vu)shifted;
    vf turns = shifted - 0x1.8p23f;
#if ZM_HAS_FMA
    vf r = zm_fma(turns, zm_splat(-0x1.921fb6p+0f), x); /* exact */
    return zm_fma(turns, zm_splat(0x1.ee59dap-50f), zm_fma(turns, zm_splat(0x1.777a5cp-25f), r));
#else
    vd low = zm_low_half(turns), high = zm_high_half(turns); /* times the factor's first 33 bits: exact */
    low = (zm_low_half(x) - low * 0x1.921fb544p+0) - low * 0x1.0b4611a626331p-34;
    high = (zm_high_half(x) - high * 0x1.921fb544p+0) - high * 0x1.0b4611a626331p-34;
    return zm_join_halves(low, high);
#endif
}
ZM_FN vf zm_sin_of(vf r, vf z) {
    return zm_mad(r * z, ZM_P3(z, -0x1.555544p-3f, 0x1.1106c6p-7f, -0x1.991c2ep-13f), r);
}
ZM_FN vf zm_cos_of(vf z) {
    vf inner = ZM_P3(z, 0x1.55554ap-5f, -0x1.6c0c1ep-10f, 0x1.99e334p-16f);
    return zm_mad(z, zm_mad(z, inner, zm_splat(-0.5f)), zm_splat(1));
}
ZM_FN vf zm_sin_or_cos(vf x, zm_uint ahead, vu sign) {
    vu n;
    vf r = zm_angle(zm_abs(x), &n), z = r * r;
    n += ahead;
    vf y = zm_select((n & 1u) != 0u, zm_cos_of(z), zm_sin_of(r, z));
    return (vf)((vu)y ^ ((n & 2u) << 30) ^ (sign & 0x80000000u));
}
ZM_FN vf zm_sin(vf a) {
    vf y = zm_sin_or_cos(a, 0, (vu)a);
    return __builtin_expect(zm_any(~(zm_abs(a) <= 1e5f)), 0) ? zm_sin_large(a, y) : y;
}
ZM_FN vf zm_cos(vf a) {
    vf y = zm_sin_or_cos(a, 1, (vu){0});
    return __builtin_expect(zm_any(~(zm_abs(a) <= 1e5f)), 0) ? zm_cos_large(a, y) : y;
}
ZM_FN vf zm_tan(vf a) {
    vu n;
    vf r = zm_angle(zm_abs(a), &n), z = r * r, sine = zm_sin_of(r, z), cosine = zm_cos_of(z);
    vi odd = (n & 1u) != 0u;
    vf y = zm_select(odd, cosine, sine) / zm_select(odd, -sine, cosine);
    y = (vf)((vu)y ^ ((vu)a & 0x80000000u));
    return __builtin_expect(zm_any(~(zm_abs(a) <= 1e5f)), 0) ? zm_tan_large(a, y) : y;
}
ZM_FN vf zm_half_pi_less(vf y) { return 0x1.921fb6p+0f - (y + 0x1.777a5cp-25f); }
ZM_FN vf zm_pi_less(vf y) { return 0x1.921fb6p+1f - (y + 0x1.777a5cp-24f); }
ZM_FN vf zm_asin_part(vf x, vi large) { /* asin(x), where large half of acos(x) */
    vf z = zm_select(large, (1.0f - x) * 0.5f, x * x), s = zm_select(large, zm_sqrt(z), x);
    vf inner = ZM_P5(z, 0x1.5555c8p-3f, 0x1.330204p-4f, 0x1.747b92p-5f, 0x1.8c410ap-6f, 0x1.59594cp-5f);
    return zm_mad(s * z, inner, s);
}
ZM_FN vf zm_asin(vf a) {
    vf x = zm_abs(a);
    vi large = x > 0.5f;
    vf part = zm_asin_part(x, large);
    return zm_copysign(zm_select(large, zm_half_pi_less(part + part), part), a);
}
ZM_FN vf zm_acos(vf a) {
    vf x = zm_abs(a);
    vi large = x > 0.5f;
    vf part = zm_asin_part(x, large);
    vf far = zm_select(a < 0.0f, zm_pi_less(part + part), part + part);
    return zm_select(large, far, zm_half_pi_less(zm_copysign(part, a)));
}
ZM_FN vf zm_atan_of(vf t) { /* 0 <= t <= 1 */
    vf z = t * t;
    vf inner = ZM_P9(z, -0x1.55553ep-2f, 0x1.9991e4p-3f, -0x1.2420a8p-3f, 0x1.c08f56p-4f, -0x1.5816b4p-4f,
                     0x1.da67ecp-5f, -0x1.fe15eap-6f, 0x1.64e486p-7f, -0x1.d4e12cp-10f);
    return zm_mad(t * z, inner, t);
}
ZM_FN vf zm_atan(vf a) {
    vf x = zm_abs(a);
    vi large = x > 1.0f;
    vf y = zm_atan_of(zm_select(large, zm_splat(1), x) / zm_select(large, x, zm_splat(1)));
    return zm_copysign(zm_select(large, zm_half_pi_less(y), y), a);
}
ZM_FN vf zm_atan2(vf a, vf b) {
    vf y = zm_abs(a), x = zm_abs(b);
    vi steep = y > x;
    vf low = zm_select(steep, x, y), high = zm_select(steep, y, x);
    /* 0/0 counts as 0, inf/inf as 1 */
    vf t = zm_select(low == high, (vf)((low != 0.0f) & 0x3f800000), low / high);
    vf angle = zm_atan_of(t);
    angle = zm_select(steep, zm_half_pi_less(angle), angle);
    return zm_copysign(zm_select((vi)b < 0, zm_pi_less(angle), angle), a);
}

/* Powers, in double: 2^(y (e + log2(1 + f))) for 1 + f as in zm_log_parts. */
ZM_FN vd zm_select_double(zm_signed_longs mask, vd a, vd b) {
    return (vd)((mask & (zm_signed_longs)a) | (~mask & (zm_signed_longs)b));
}
ZM_FN vd zm_power_half(vd e, vd f, vd y) {
    vd p = zm_mad_double((vd){0} + 0x1.372f0a5e3f15cp-5, f, -0x1.a1f0d680682f5p-4);
    p = zm_mad_double(p, f, 0x1.1c3f09317538bp-3);
    p = zm_mad_double(p, f, -0x1.3194816f22543p-3);
    p = zm_mad_double(p, f, 0x1.48b60bdc80492p-3);
    p = zm_mad_double(p, f, -0x1.70a5bb65939ap-3);
    p = zm_mad_double(p, f, 0x1.a6011e66bc9e6p-3);
    p = zm_mad_double(p, f, -0x1.ec757658589e7p-3);
    p = zm_mad_double(p, f, 0x1.2777246c6501bp-2);
    p = zm_mad_double(p, f, -0x1.71546f2a07025p-2);
    p = zm_mad_double(p, f, 0x1.ec709ccd60116p-2);
    p = zm_mad_double(p, f, -0x1.715476560964cp-1);
    p = zm_mad_double(p, f, 0x1.71547652d007p+0);
    vd t = y * (e + f * p), most = (vd){0} + 200.0;
    t = zm_select_double(t > most, most, t);
    t = zm_select_double(t < -most, -most, t);
    vd shifted = t + 0x1.8p52, r = t - (shifted - 0x1.8p52);
    p = zm_mad_double((vd){0} + 0x1.41d223399ee83p-13, r, 0x1.5f473445941fbp-10);
    p = zm_mad_double(p, r, 0x1.3b2dc19d3da66p-7);
    p = zm_mad_double(p, r, 0x1.c6aed12e0b137p-5);
    p = zm_mad_double(p, r, 0x1.ebfbdacda3d39p-3);
    p = zm_mad_double(p, r, 0x1.62e430ca8718bp-1);
    p = zm_mad_double(p, r, 0x1.000000026abf1p+0);
    return (vd)((zm_longs)p + ((zm_longs)shifted << 52));
}
/* a^(y + more), for a positive and finite */
ZM_FN vf zm_power(vf a, vf y, double more) {
    vf e, f = zm_log_parts(a, &e);
    return zm_join_halves(zm_power_half(zm_low_half(e), zm_low_half(f), zm_low_half(y) + more),
                          zm_power_half(zm_high_half(e), zm_high_half(f), zm_high_half(y) + more));
}
ZM_FN vf zm_pow(vf a, vf b) {
    vf x = zm_abs(a), size = zm_abs(b), half = b * 0.5f;
    vi even = (zm_rint(half) == half) | (size >= 0x1p25f), whole = (zm_rint(b) == b);
    vi zero = x == 0.0f, infinite = x == ZM_INFINITY;
    vf y = zm_power(x, b, 0);
    y = zm_select(zero | infinite, (vf)(((b < 0.0f) ^ infinite) & 0x7f800000), y);
    y = (vf)((vu)y ^ ((vu)(whole & ~even) & (vu)a & 0x80000000u));
    y = zm_select((a < 0.0f) & ~whole & ~infinite, zm_splat(ZM_NAN), y);
    y = zm_select(zm_isnan(a) | zm_isnan(b), a + b, y);
    return zm_select((b == 0.0f) | (a == 1.0f) | ((x == 1.0f) & (size == ZM_INFINITY)), zm_splat(1), y);
}
ZM_FN vf zm_cbrt(vf a) {
    vf x = zm_abs(a);
    vf y = zm_copysign(zm_power(x, zm_splat(0), 0x1.5555555555555p-2), a);
    return zm_select((x > 0.0f) & (x < ZM_INFINITY), y, a);
}
ZM_SLOW vf zm_fmod_large(vf a, vf b) {
    for (int lane = 0; lane < ZM_WIDTH; lane++) a[lane] = __builtin_fmodf(a[lane], b[lane]);
    return a;
}
ZM_FN vf zm_fmod(vf a, vf b) {
#if ZM_HAS_FMA
    vf x = zm_abs(a), y = zm_abs(b);
    if (__builtin_expect(!zm_any(~((x < y * 0x1p22f) & (y < 0x1p100f))), 1)) {
        vf r = zm_fma(-zm_trunc(x / y), y, x); /* exact; the quotient may have been rounded up */
        return zm_copysign(r + (vf)((vi)y & (r < 0.0f)), a);
    }
#endif
    return zm_fmod_large(a, b);
}

/* As MLX rounds on the CPU. Its exponential is 2^n P(f) with n + f = x / ln 2 and the constants of
 * mlx/backend/cpu/simd/math.h, NaN and what is beyond 88 apart; only that of its sigmoid is rounded to the array's type
 * on the way. */
ZM_FN vf zm_mlx_exp(vf x) {
    vf scaled = x * 1.442695f, n = zm_floor(scaled);
    n = zm_select(scaled - n >= 0.5f, n + 1.0f, n); /* floor(scaled + 0.5) without the sum's rounding */
    vf f = scaled - n, p = zm_splat(1.535336188319500e-4f);
    p = zm_fma(p, f, zm_splat(1.339887440266574e-3f));
    p = zm_fma(p, f, zm_splat(9.618437357674640e-3f));
    p = zm_fma(p, f, zm_splat(5.550332471162809e-2f));
    p = zm_fma(p, f, zm_splat(2.402264791363012e-1f));
    p = zm_fma(p, f, zm_splat(6.931472028550421e-1f));
    p = zm_fma(p, f, zm_splat(1));
    vi is_ordinary = (x <= 88.0f) & (x >= -88.0f);
    vf power = (vf)((__builtin_convertvector(zm_select(is_ordinary, n, zm_splat(0)), vi) + 127) << 23) * p;
    power = zm_select(x > 88.0f, zm_splat(ZM_INFINITY), zm_select(x < -88.0f, zm_splat(0), power));
    return zm_select(zm_isnan(x), x, power);
}
ZM_FN vf zm_mlx_sigmoid_of(vf a, vf power) {
    vf tail = 1.0f / (1.0f + power);
    return zm_select(a < 0.0f, tail, 1.0f - tail);
}
ZM_FN vf zm_mlx_sigmoid(vf a) { return zm_mlx_sigmoid_of(a, zm_mlx_exp(zm_abs(a))); }
/* The kernel says which is meant by zm_stored and zm_stored_sigmoid. */
ZM_FN vf zm_stored_float32(vf a) { return a; }
ZM_FN vf zm_stored_float16(vf a) { return zm_widen_float16(zm_narrow_float16(a)); }
ZM_FN vf zm_stored_bfloat16(vf a) { return zm_widen_bfloat16(zm_narrow_bfloat16(a)); }
#define ZM_STORED_SIGMOID(storage)                                                             \
    ZM_FN vf zm_stored_sigmoid_##storage(vf a) {                                               \
        vf power = zm_stored_##storage(zm_mlx_exp(zm_abs(a)));                                 \
        return zm_stored_##storage(zm_mlx_sigmoid_of(a, power));                               \
    }
ZM_STORED_SIGMOID(float32)
ZM_STORED_SIGMOID(float16)
ZM_STORED_SIGMOID(bfloat16)

/* The sum of e^(value - largest), lane by lane, and of blocks before. What the shorter exponential is wrong by grows
 * with the distance from the largest, and what it stands for falls faster. A NaN makes the sum one. */
typedef struct zm_exps {
    vf largest, sum, older_largest, older_sum;
} zm_exps;
ZM_FN zm_exps zm_no_exps(void) {
    vf least = zm_splat(-0x1.fffffep127f); /* so that the distance of -inf is -inf */
    return (zm_exps){least, zm_splat(0), least, zm_splat(0)};
}
ZM_FN vf zm_scale_exps(zm_exps *to, vf largest) { /* what their sum is then multiplied with */
    vf before = to->largest;
    to->largest = ZM_MOST(largest, before);
    return zm_narrow_exp(before - to->largest);
}
ZM_FN vf zm_exps_pair(vf a, vf b, vf largest) { return zm_narrow_exp(a - largest) + zm_narrow_exp(b - largest); }
/* Of n vectors: 8, or as few as come alone. */
ZM_FN void zm_add_exps(zm_exps *to, const vf *v, int n) {
    if (n == 8) {
        vf low = ZM_MOST(ZM_MOST(v[0], v[1]), ZM_MOST(v[2], v[3]));
        vf high = ZM_MOST(ZM_MOST(v[4], v[5]), ZM_MOST(v[6], v[7]));
        vf scale = zm_scale_exps(to, ZM_MOST(low, high)), top = to->largest;
        vf first = zm_exps_pair(v[0], v[1], top) + zm_exps_pair(v[2], v[3], top);
        vf second = zm_exps_pair(v[4], v[5], top) + zm_exps_pair(v[6], v[7], top);
        to->sum = zm_mad(to->sum, scale, first + second);
        return;
    }
    for (int i = 0; i < n; i++) {
        vf scale = zm_scale_exps(to, v[i]);
        to->sum = zm_mad(to->sum, scale, zm_narrow_exp(v[i] - to->largest));
    }
}
ZM_FN void zm_flush_exps(zm_exps *of) {
    of->older_sum = zm_mad(of->older_sum, zm_narrow_exp(of->older_largest - of->largest), of->sum);
    of->older_largest = of->largest;
    of->sum = zm_splat(0);
}
ZM_FN vf zm_exps_result(zm_exps *of, zm_index columns) {
    zm_flush_exps(of);
    vf largest = zm_splat(zm_max(of->largest));
    float sum = zm_sum(of->older_sum * zm_narrow_exp(of->largest - largest));
    return zm_splat(sum == 0 && columns > 0 ? ZM_NAN : sum); /* all are -inf */
}
