/* SPDX-License-Identifier: MIT */
/* The conversions against their definition: value of every code in float64, and rounding to the nearest
 * code with ties to the even one, found by search. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "base/half.h"

typedef struct half_format {
    int exponent_bits, mantissa_bits;
    float (*widen)(uint16_t);
    uint16_t (*narrow)(float);
} half_format;

static const half_format formats[] = {{5, 10, zm_float16_to_float, zm_float16_from_float},
                                      {8, 7, zm_bfloat16_to_float, zm_bfloat16_from_float}};

static double value_of(const half_format *format, unsigned code) {
    unsigned mantissa = code & ((1u << format->mantissa_bits) - 1);
    unsigned exponent = (code >> format->mantissa_bits) & ((1u << format->exponent_bits) - 1);
    int bias = (1 << (format->exponent_bits - 1)) - 1;
    double sign = code & 0x8000u ? -1 : 1;
    if (exponent == (1u << format->exponent_bits) - 1)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    double fraction = ldexp((double)mantissa, -format->mantissa_bits);
    if (exponent == 0) return sign * ldexp(fraction, 1 - bias);
    return sign * ldexp(1 + fraction, (int)exponent - bias);
}

static void every_code_has_its_value(void **state) {
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        for (unsigned code = 0; code < 0x10000u; code++) {
            double expected = value_of(&formats[f], code);
            float actual = formats[f].widen((uint16_t)code);
            if (isnan(expected)) {
                assert_true(isnan(actual));
            } else {
                assert_true((double)actual == expected);
                assert_int_equal(signbit(actual) != 0, code >> 15);
                assert_int_equal(formats[f].narrow(actual), code);
            }
        }
    }
}

/* The nearest code of a positive number; codes of positive numbers are in the order of their values, and
 * the code of infinity stands for the value one step past the largest. */
static unsigned nearest(const half_format *format, double value) {
    unsigned infinity = ((1u << format->exponent_bits) - 1) << format->mantissa_bits;
    unsigned low = 0, high = infinity;
    while (high - low > 1) {
        unsigned middle = (low + high) / 2;
        if (value_of(format, middle) <= value) low = middle;
        else high = middle;
    }
    double below = value_of(format, low);
    double above = high == infinity ? 2 * below - value_of(format, low - 1) : value_of(format, high);
    if (value - below < above - value) return low;
    if (value - below > above - value) return high;
    return low & 1 ? high : low;
}

static void check_narrow(const half_format *format, float value) {
    unsigned expected = isinf(value) ? nearest(format, 1e300) : nearest(format, (double)value);
    assert_int_equal(format->narrow(value), expected);
    assert_int_equal(format->narrow(-value), expected | 0x8000u);
}

static void numbers_round_to_the_nearest_even_code(void **state) {
    (void)state;
    for (size_t f = 0; f < 2; f++) {
        for (unsigned code = 0; code < 0x7f80u; code++) {
            double low = value_of(&formats[f], code), high = value_of(&formats[f], code + 1);
            if (isinf(low) || isnan(low) || isnan(high)) continue;
            float middle = isinf(high) ? (float)low : (float)((low + high) / 2);
            check_narrow(&formats[f], middle);
            check_narrow(&formats[f], nextafterf(middle, 0));
            check_narrow(&formats[f], nextafterf(middle, INFINITY));
        }
        uint32_t bits = 1;
        for (int i = 0; i < 200000; i++) {
            bits = bits * 1664525u + 1013904223u;
            uint32_t positive = (bits ^ (bits >> 15)) & 0x7fffffffu;
            if (positive < 0x7f800000u) check_narrow(&formats[f], zm_float_from_bits(positive));
        }
        check_narrow(&formats[f], INFINITY);
        check_narrow(&formats[f], 65504.0f);
        check_narrow(&formats[f], 65519.996f);
        check_narrow(&formats[f], 65520.0f);
        check_narrow(&formats[f], 0x1p-25f);
        check_narrow(&formats[f], 0x1.8p-149f);
    }
}

static void nan_stays_nan(void **state) {
    (void)state;
    static const uint32_t payloads[] = {0x7f800001u, 0x7fc00000u, 0x7fffffffu, 0xff800001u, 0xffffffffu};
    for (size_t f = 0; f < 2; f++)
        for (size_t i = 0; i < sizeof payloads / sizeof payloads[0]; i++)
            assert_true(isnan(formats[f].widen(formats[f].narrow(zm_float_from_bits(payloads[i])))));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_has_its_value),
        cmocka_unit_test(numbers_round_to_the_nearest_even_code),
        cmocka_unit_test(nan_stays_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
