/* SPDX-License-Identifier: MIT */
/* The prelude of C kernels at every width this processor has: functions against the float64 formulas of ops.def,
 * memory against base/half.h and plain loops, random numbers against Philox word by word. */
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/half.h"
#include "base/random.h"
#include "emit/c/abi.h"
#include "ir/ir.h"
#include "prelude_level.h"
#include "sanitized.h"

#if SANITIZED || !defined(__OPTIMIZE__)
enum { STRIDE = 99991, PAIRS = 1 << 14 };
#else
enum { STRIDE = 997, PAIRS = 1 << 18 };
#endif
enum { BLOCK = 1024, WIDEST = 16, MAX_LEVELS = 4 };

static const prelude_level *levels[MAX_LEVELS];
static int n_levels;

static void find_levels(void) {
    levels[n_levels++] = &prelude_baseline;
#if defined(__x86_64__)
    unsigned eax, ebx, ecx, edx;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __get_cpuid(1, &eax, &ebx, &ecx, &edx) &&
        (ecx & bit_F16C))
        levels[n_levels++] = &prelude_avx2;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
        levels[n_levels++] = &prelude_avx512;
    enum { BF16 = 1 << 5 };
    if (levels[n_levels - 1] == &prelude_avx512 && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) && (eax & BF16))
        levels[n_levels++] = &prelude_avx512bf16;
#endif
}

static prelude_function *find_operation(const prelude_level *level, const char *name) {
    for (const prelude_operation *operation = level->operations; operation->name; operation++)
        if (strcmp(operation->name, name) == 0) return operation->run;
    fail_msg("%s: no function zm_%s", level->name, name);
    return NULL;
}

/* Distance from the exact value in units of the last place of the float nearest to it; a value that is not the
 * right infinity, NaN or sign of zero is infinitely far. */
static double distance(float got, double exact) {
    if (isnan(exact) || isnan(got)) return isnan(exact) && isnan(got) ? 0 : (double)INFINITY;
    if (isinf(exact)) return (double)got == exact ? 0 : (double)INFINITY;
    if (exact == 0) return got == 0 && !signbit(got) == !signbit(exact) ? 0 : (double)INFINITY;
    int exponent;
    frexp(exact, &exponent);
    double unit = ldexp(1, exponent - 24 < -149 ? -149 : exponent > 128 ? 104 : exponent - 24);
    double value = isinf(got) ? copysign(0x1p128, (double)got) : (double)got; /* counts as the next float would */
    if (isinf(got) && fabs(exact) >= 0x1p128) return !signbit(got) == !signbit(exact) ? 0 : (double)INFINITY;
    return fabs(value - exact) / unit;
}

/* In units of the last place; 0.5 is correctly rounded. */
static double allowed(zm_op op) {
    switch (op) {
    case ZM_OP_ABS:
    case ZM_OP_COPYSIGN:
    case ZM_OP_MIN:
    case ZM_OP_MAX:
    case ZM_OP_FMOD:
    case ZM_OP_FLOOR:
    case ZM_OP_CEIL:
    case ZM_OP_TRUNC:
    case ZM_OP_ROUND:
    case ZM_OP_RINT: return 0;
    case ZM_OP_FMA:
    case ZM_OP_SQRT: return 0.5 + 1e-6;
    case ZM_OP_POW:
    case ZM_OP_CBRT: return 0.6;
    case ZM_OP_EXP:
    case ZM_OP_EXP2:
    case ZM_OP_LOG:
    case ZM_OP_LOG1P: return 1.2;
    case ZM_OP_EXP10:
    case ZM_OP_EXPM1:
    case ZM_OP_LOG2:
    case ZM_OP_LOG10:
    case ZM_OP_SIN:
    case ZM_OP_COS:
    case ZM_OP_TANH:
    case ZM_OP_ERF: return 2;
    default: return 4;
    }
}

/* What takes MLX's steps is no better than they are: unit/kernel_profiles. */
static bool is_float_call(zm_op op) {
    return zm_op_get(op)->form == ZM_FORM_CALL && zm_op_get(op)->rule == ZM_RULE_FLOAT && !zm_op_rounds_as_mlx(op);
}

/* zm_<name> is op to `most` units. */
static void check_function(const char *name, zm_op op, double most, float values[3][BLOCK], int n) {
    static float got[BLOCK];
    double exact[BLOCK];
    for (int i = 0; i < n; i++)
        exact[i] = zm_op_evaluate(op, (double)values[0][i], (double)values[1][i], (double)values[2][i]);
    for (int l = 0; l < n_levels; l++) {
        find_operation(levels[l], name)(values[0], values[1], values[2], got, BLOCK);
        for (int i = 0; i < n; i++) {
            double by = distance(got[i], exact[i]);
            if (!(by <= most))
                fail_msg("%s: zm_%s(%a, %a, %a) is %a, %g units from %a", levels[l]->name, name,
                         (double)values[0][i], (double)values[1][i], (double)values[2][i], (double)got[i], by,
                         exact[i]);
        }
    }
}

static void check_block(zm_op op, float values[3][BLOCK], int n) {
    check_function(zm_op_get(op)->name, op, allowed(op), values, n);
}

static const float hard_values[] = {
    0.0f,       1.0f,       2.0f,           3.0f,     0.5f,   1.5f,      2.5f,    0x1.fffffep-2f,    0x1p-149f,
    0x1p-126f,  INFINITY,   NAN,            0x1p23f,  0x1p24f, 0x1p25f,  1e10f,   0x1.fffffep+127f,  0x1.000001p23f,
    88.72283f,  88.72284f,  0x1.fffffep22f, 103.97f,  104.0f, 127.99999f, 128.0f, 149.0f,            150.0f,
    38.53184f,  45.2f,      89.41f,         89.42f,   1e5f,   1.0001e5f, 10.05f,  10.06f,            1e30f};
enum { N_HARD = sizeof hard_values / sizeof *hard_values };

static float hard_value(unsigned i) { return i % 2 ? -hard_values[i / 2 % N_HARD] : hard_values[i / 2 % N_HARD]; }

/* Of one operand, at floats of all sizes. */
static void check_everywhere(const char *name, zm_op op, double most) {
    static float values[3][BLOCK];
    for (unsigned i = 0; i < BLOCK; i++) values[0][i] = hard_value(i);
    check_function(name, op, most, values, BLOCK);
    for (uint64_t bits = (uint64_t)op; bits < (uint64_t)1 << 32;) {
        int n = 0;
        for (; n < BLOCK && bits < (uint64_t)1 << 32; n++, bits += STRIDE)
            values[0][n] = zm_float_from_bits((uint32_t)bits);
        check_function(name, op, most, values, n);
    }
}

static void one_operand(void **state) {
    (void)state;
    for (int op = 0; op < ZM_OP_COUNT; op++)
        if (is_float_call((zm_op)op) && zm_op_get((zm_op)op)->arity == 1)
            check_everywhere(zm_op_get((zm_op)op)->name, (zm_op)op, allowed((zm_op)op));
}

/* What kernels of half types call: |x| is at most 104 where the result is no limit. */
static void half_accuracy(void **state) {
    (void)state;
    check_everywhere("narrow_exp", ZM_OP_EXP, 128);
    check_everywhere("narrow_sigmoid", ZM_OP_SIGMOID, 128);
}

/* What takes MLX's steps has the same bits at every level: unit/kernel_profiles compares one of them with MLX. */
static void steps_of_mlx(void **state) {
    (void)state;
    static const char *const names[] = {"mlx_sigmoid", "stored_float16", "stored_bfloat16", "stored_sigmoid_float16",
                                        "stored_sigmoid_bfloat16"};
    static float values[BLOCK], first[BLOCK], got[BLOCK];
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32;) {
        for (int i = 0; i < BLOCK; i++, bits += STRIDE) values[i] = zm_float_from_bits((uint32_t)bits);
        for (size_t k = 0; k < sizeof names / sizeof *names; k++)
            for (int l = 0; l < n_levels; l++) {
                find_operation(levels[l], names[k])(values, values, values, l ? got : first, BLOCK);
                for (int i = 0; i < BLOCK && l; i++)
                    if (memcmp(&got[i], &first[i], sizeof got[i]) && !(isnan(got[i]) && isnan(first[i])))
                        fail_msg("zm_%s(%a) is %a for %s, %a for %s", names[k], (double)values[i], (double)got[i],
                                 levels[l]->name, (double)first[i], levels[0]->name);
            }
    }
}

/* Any bits, hard values, values of ordinary size, whole numbers, a near 1 or near a multiple of b. */
static void fill_pair(float values[3][BLOCK], int i, uint64_t number) {
    uint32_t words[4];
    for (int k = 0; k < 4; k++) words[k] = (uint32_t)zm_splitmix64(number, (uint64_t)k);
    float scale = ldexpf(1, (int)(words[2] >> 8) % 32 - 24);
    for (int k = 0; k < 3; k++) {
        values[k][i] = zm_float_from_bits(words[k]);
        if (words[3] % 8 == 0) values[k][i] = hard_value(words[k]);
        if (words[3] % 8 >= 3) values[k][i] = (float)(int32_t)words[k] * scale * (k ? 1 : 0x1p-16f);
    }
    switch (words[3] % 8) {
    case 1: values[words[2] % 2][i] = hard_value(words[1]); break;
    case 4: values[0][i] = rintf(values[0][i]), values[1][i] = rintf(values[1][i] * 0x1p-8f); break;
    case 5: values[0][i] = 1 + (float)(int32_t)words[0] * 0x1p-36f; break;
    case 6: values[0][i] = values[1][i] * (float)(words[0] % 1000); break;
    default: break;
    }
}

static void several_operands(void **state) {
    (void)state;
    static float values[3][BLOCK];
    for (int op = 0; op < ZM_OP_COUNT; op++) {
        if (!is_float_call((zm_op)op) || zm_op_get((zm_op)op)->arity < 2) continue;
        for (int n = 0; n < PAIRS; n += BLOCK) {
            for (int i = 0; i < BLOCK; i++) {
                fill_pair(values, i, (uint64_t)(n + i));
                bool is_extreme = op == ZM_OP_MIN || op == ZM_OP_MAX; /* of -0 and 0 either may come */
                if (is_extreme && values[0][i] == 0 && values[1][i] == 0) values[1][i] = values[0][i];
            }
            check_block((zm_op)op, values, BLOCK);
        }
    }
    for (unsigned a = 0; a < 2 * N_HARD; a++) {
        for (unsigned b = 0; b < BLOCK; b++) values[0][b] = hard_value(a), values[1][b] = hard_value(b);
        check_block(ZM_OP_POW, values, BLOCK);
        check_block(ZM_OP_ATAN2, values, BLOCK);
        check_block(ZM_OP_FMOD, values, BLOCK);
    }
}

static void tests_and_logic(void **state) {
    (void)state;
    static float values[3][BLOCK], got[BLOCK];
    for (unsigned i = 0; i < BLOCK; i++) {
        values[0][i] = hard_value(i);
        values[1][i] = hard_value(i / (2 * N_HARD) + i % 3);
        values[2][i] = -7;
    }
    for (int op = 0; op < ZM_OP_COUNT; op++) {
        zm_rule rule = zm_op_get((zm_op)op)->rule;
        bool is_test = rule == ZM_RULE_TEST, is_logic = rule == ZM_RULE_LOGIC, is_select = rule == ZM_RULE_SELECT;
        if (!is_test && !is_logic && !is_select && op != ZM_OP_FROM_BOOL) continue;
        for (int l = 0; l < n_levels; l++) {
            find_operation(levels[l], zm_op_get((zm_op)op)->name)(values[0], values[1], values[2], got, BLOCK);
            for (int i = 0; i < BLOCK; i++) {
                double a = is_test ? (double)values[0][i] : values[0][i] != 0;
                double b = is_select ? (double)values[1][i] : values[1][i] != 0;
                assert_true(distance(got[i], zm_op_evaluate((zm_op)op, a, b, -7)) == 0);
            }
        }
    }
}

static void uints_and_floats(void **state) {
    (void)state;
    static const uint32_t hard[] = {0,          1,          0xffffff,   0x1000001,  0x1000003, 0x7fffffff,
                                    0x80000000, 0x80000081, 0xffffff7f, 0xffffff80, 0xffffffff};
    static float values[BLOCK], got[BLOCK];
    for (int n = 0; n < 64; n++) {
        for (int l = 0; l < n_levels; l++) {
            for (unsigned i = 0; i < BLOCK; i++) {
                uint32_t word = (uint32_t)zm_splitmix64((uint64_t)n, i) >> (i % 32);
                if (n == 0) word = hard[i % (sizeof hard / sizeof *hard)];
                values[i] = zm_float_from_bits(word);
            }
            find_operation(levels[l], "from_uint")(values, values, values, got, BLOCK);
            for (int i = 0; i < BLOCK; i++) assert_true(got[i] == (float)zm_float_bits(values[i]));

            for (unsigned i = 0; i < BLOCK; i++)
                values[i] = n == 0 ? hard_value(i) : (float)(int64_t)zm_splitmix64((uint64_t)n, i) * 0x1p-30f;
            find_operation(levels[l], "to_uint")(values, values, values, got, BLOCK);
            for (int i = 0; i < BLOCK; i++)
                assert_true((double)zm_float_bits(got[i]) == zm_op_evaluate(ZM_OP_TO_UINT, (double)values[i], 0, 0));
        }
    }
}

/* The element's code for a value's 32 bits, and back. */
static uint32_t narrow(const char *storage, uint32_t bits) {
    if (strcmp(storage, "float16") == 0) return zm_float16_from_float(zm_float_from_bits(bits));
    if (strcmp(storage, "bfloat16") == 0) return zm_bfloat16_from_float(zm_float_from_bits(bits));
    return strcmp(storage, "uint8") == 0 ? bits & 0xffu : bits;
}

static uint32_t widen(const char *storage, uint32_t code) {
    if (strcmp(storage, "float16") == 0) return zm_float_bits(zm_float16_to_float((uint16_t)code));
    if (strcmp(storage, "bfloat16") == 0) return zm_float_bits(zm_bfloat16_to_float((uint16_t)code));
    return code;
}

static bool is_same(const char *storage, uint32_t got, uint32_t expected) { /* a loaded NaN may become quiet */
    bool is_float16 = strcmp(storage, "float16") == 0;
    return got == expected || (is_float16 && isnan(zm_float_from_bits(got)) && isnan(zm_float_from_bits(expected)));
}

static void check_rounding(const prelude_level *level, const prelude_memory *memory) {
    uint32_t values[WIDEST];
    unsigned char stored[4 * WIDEST], expected[4 * WIDEST];
    for (uint64_t bits = 0; bits < (uint64_t)1 << 32; bits += (uint64_t)level->width * (STRIDE / 4)) {
        for (int i = 0; i < level->width; i++) {
            values[i] = (uint32_t)bits + (uint32_t)i * (STRIDE / 4);
            uint32_t code = narrow(memory->name, values[i]);
            memcpy(expected + i * memory->bytes, &code, (size_t)memory->bytes);
        }
        memory->store(stored, 0, values);
        assert_memory_equal(stored, expected, (size_t)(level->width * memory->bytes));
    }
    int n_codes = memory->bytes == 1 ? 0x100 : 0x10000;
    for (int first = 0; first < n_codes; first += level->width) {
        for (int i = 0; i < level->width; i++) {
            uint32_t code = (uint32_t)(first + i);
            memcpy(stored + i * memory->bytes, &code, (size_t)memory->bytes);
        }
        memory->load(stored, 0, values);
        for (int i = 0; i < level->width; i++)
            assert_true(is_same(memory->name, values[i], widen(memory->name, (uint32_t)(first + i))));
    }
}

static void rounding_of_storage(void **state) {
    (void)state;
    for (int l = 0; l < n_levels; l++)
        for (const prelude_memory *memory = levels[l]->memories; memory->name; memory++)
            check_rounding(levels[l], memory);
}

/* count elements from an odd address in memory that ends behind them; index 3 is the first. */
static void check_part(const prelude_level *level, const prelude_memory *memory, int count) {
    size_t size = (size_t)memory->bytes, bytes = (size_t)count * size;
    unsigned char *block = malloc(1 + 3 * size + bytes);
    assert_non_null(block);
    unsigned char *base = block + 1, *first = base + 3 * size;
    uint32_t values[WIDEST], loaded[WIDEST], codes[WIDEST] = {0};
    for (int i = 0; i < level->width; i++) {
        values[i] = zm_float_bits((float)(i + 1) * 1.37f);
        codes[i] = narrow(memory->name, values[i]);
    }
    memset(block, 0xa5, 1 + 3 * size);
    if (count < level->width) memory->store_part(base, 3, values, count);
    else memory->store(base, 3, values);
    for (size_t i = 0; i < 1 + 3 * size; i++) assert_int_equal(block[i], 0xa5);
    for (int i = 0; i < count; i++) assert_memory_equal(first + (size_t)i * size, &codes[i], size);
    if (count < level->width) memory->load_part(base, 3, count, loaded);
    else memory->load(base, 3, loaded);
    for (int i = 0; i < level->width; i++)
        assert_int_equal(loaded[i], i < count ? widen(memory->name, codes[i]) : 0);
    memory->load_one(base, 2 + count, loaded);
    for (int i = 0; i < level->width; i++) assert_int_equal(loaded[i], widen(memory->name, codes[count - 1]));
    memory->store_one(base, 2 + count, &values[0]);
    assert_memory_equal(first + (size_t)(count - 1) * size, &codes[0], size);
    free(block);
}

static void parts_of_vectors(void **state) {
    (void)state;
    for (int l = 0; l < n_levels; l++)
        for (const prelude_memory *memory = levels[l]->memories; memory->name; memory++)
            for (int count = 1; count <= levels[l]->width; count++) check_part(levels[l], memory, count);
}

static void streams(void **state) {
    (void)state;
    for (int l = 0; l < n_levels; l++) {
        for (const prelude_memory *memory = levels[l]->memories; memory->name; memory++) {
            _Alignas(64) unsigned char streamed[3 * 64] = {0}, stored[3 * 64] = {0};
            uint32_t values[WIDEST];
            for (int i = 0; i < WIDEST; i++) values[i] = zm_float_bits((float)i - 3.3f);
            memory->stream(streamed, levels[l]->width, values);
            memory->store(stored, levels[l]->width, values);
            assert_memory_equal(streamed, stored, sizeof stored);
        }
    }
}

static void over_the_lanes(void **state) {
    (void)state;
    for (int l = 0; l < n_levels; l++) {
        for (uint64_t trial = 0; trial < 1000; trial++) {
            float values[WIDEST], sums[WIDEST], products[WIDEST], top = -INFINITY, bottom = INFINITY;
            for (int i = 0; i < levels[l]->width; i++) {
                values[i] = (float)(int64_t)zm_splitmix64(trial, (uint64_t)i) * 0x1p-62f;
                sums[i] = products[i] = values[i];
                top = fmaxf(top, values[i]), bottom = fminf(bottom, values[i]);
            }
            for (int half = levels[l]->width / 2; half > 0; half /= 2)
                for (int i = 0; i < half; i++) sums[i] += sums[i + half], products[i] *= products[i + half];
            assert_true(levels[l]->sum(values) == sums[0] && levels[l]->prod(values) == products[0]);
            assert_true(levels[l]->largest(values) == top && levels[l]->smallest(values) == bottom);
            values[trial % (uint64_t)levels[l]->width] = NAN;
            assert_true(isnan(levels[l]->largest(values)) && isnan(levels[l]->smallest(values)));
        }
        for (int count = 0; count <= levels[l]->width; count++) {
            float lanes[WIDEST];
            levels[l]->first_lanes(count, lanes);
            for (int i = 0; i < levels[l]->width; i++) assert_true(lanes[i] == (i < count ? 1 : 0));
        }
    }
}

static uint32_t philox_word(uint64_t seed, uint64_t index) {
    uint32_t words[4] = {(uint32_t)(index / 4), (uint32_t)(index / 4 >> 32), 0, 0};
    uint32_t key[2] = {(uint32_t)seed, (uint32_t)(seed >> 32)};
    for (int round = 0; round < 10; round++) {
        uint64_t first = (uint64_t)words[0] * 0xd2511f53u, second = (uint64_t)words[2] * 0xcd9e8d57u;
        uint32_t next[4] = {(uint32_t)(second >> 32) ^ words[1] ^ key[0], (uint32_t)second,
                            (uint32_t)(first >> 32) ^ words[3] ^ key[1], (uint32_t)first};
        memcpy(words, next, sizeof words);
        key[0] += 0x9e3779b9u;
        key[1] += 0xbb67ae85u;
    }
    return words[index % 4];
}

static void random_numbers(void **state) {
    (void)state;
    /* the author's published words for key 0, counter 0 */
    static const uint32_t published[] = {0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u};
    for (uint64_t i = 0; i < 4; i++) assert_int_equal(philox_word(0, i), published[i]);
    for (int l = 0; l < n_levels; l++) {
        for (uint64_t trial = 0; trial < 3000; trial++) {
            uint64_t seed = trial < 100 ? trial : zm_splitmix64(trial, 0);
            uint64_t index = trial < 100 ? trial : zm_splitmix64(trial, 1) >> (trial % 64);
            if (trial % 7 == 0) index = ((uint64_t)1 << 34) - 1 - trial % 20;
            if (trial % 3 == 0) index -= index % 4;
            if (index > UINT64_MAX - 4 * WIDEST) index = 5;
            float values[7 * WIDEST], *at = values;
            levels[l]->random(seed, index, values);
            for (int n = 1; n <= 4; n *= 2)
                for (int i = 0; i < n * levels[l]->width; i++)
                    assert_true(*at++ == (float)(philox_word(seed, index + (uint64_t)i) >> 8) * 0x1p-24f);
        }
    }
}

static void call_has_one_form(void **state) {
    (void)state;
    assert_int_equal(prelude_baseline.call_bytes, sizeof(zm_c_call));
    assert_int_equal(prelude_baseline.call_last, offsetof(zm_c_call, stream_stores));
}

int main(void) {
    find_levels();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_operand),
        cmocka_unit_test(half_accuracy),
        cmocka_unit_test(steps_of_mlx),
        cmocka_unit_test(several_operands),
        cmocka_unit_test(tests_and_logic),
        cmocka_unit_test(uints_and_floats),
        cmocka_unit_test(rounding_of_storage),
        cmocka_unit_test(parts_of_vectors),
        cmocka_unit_test(streams),
        cmocka_unit_test(over_the_lanes),
        cmocka_unit_test(random_numbers),
        cmocka_unit_test(call_has_one_form),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
