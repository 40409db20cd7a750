/* SPDX-License-Identifier: MIT */
/* The products of every format at every level of instruction set this machine has. */
#include "product_testing.h"

enum { MAX_TOKENS = 43, SLICES = 267 }; /* more than two slices of a product of many */

static const size_t token_counts[] = {1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 15, MAX_TOKENS};

/* One row of weights for all tokens: value = part + bias. */
typedef struct weight_row {
    double *parts, *biases;
} weight_row;

static weight_row read_row(const zm_matrix *matrix, size_t row) {
    size_t size = matrix->in_features;
    weight_row result = {.parts = allocate(2 * size * sizeof(double))};
    result.biases = result.parts + size;
    for (size_t i = 0; i < size; i++) weight_value(matrix, row, i, &result.parts[i], &result.biases[i]);
    return result;
}

/* What rounding a row's activations to bytes may add. The step of a group is its largest magnitude / 127, an error is
 * evenly spread over a step, and many of them make a normal distribution: six of its deviations. */
static double int8_bound(const zm_matrix *matrix, const weight_row *row, const float *x) {
    double variance = 0;
    size_t group_size = (size_t)matrix->group_size;
    if (precision != ZM_PRECISION_INT8 || !group_size) return 0;
    for (size_t first = 0; first < matrix->in_features; first += group_size) {
        double squares = 0, largest = 0;
        for (size_t i = first; i < first + group_size; i++) {
            double value = row->parts[i] + row->biases[i];
            squares += value * value;
            largest = fmax(largest, fabs((double)x[i]));
        }
        variance += squares * (largest / 127) * (largest / 127) / 12;
    }
    return 6 * sqrt(variance);
}

static bool is_right(const zm_matrix *matrix, const weight_row *row, const float *x, float y) {
    double sum = 0, size = 0;
    for (size_t i = 0; i < matrix->in_features; i++) {
        double part = row->parts[i] * (double)x[i], bias = row->biases[i] * (double)x[i];
        sum += part + bias;
        size += fabs(part) + fabs(bias);
    }
    return fabs((double)y - sum) <= product_bound(matrix->in_features, size) + int8_bound(matrix, row, x);
}

/* Number of results outside the bound. */
static size_t count_wrong(const zm_matrix *matrix, const float *x, size_t n_tokens, size_t expert,
                          const float *y) {
    size_t wrong = 0, out = matrix->out_features;
    for (size_t i = 0; i < out; i++) {
        weight_row row = read_row(matrix, expert * out + i);
        for (size_t t = 0; t < n_tokens; t++)
            wrong += !is_right(matrix, &row, x + t * matrix->in_features, y[t * out + i]);
        free(row.parts);
    }
    return wrong;
}

static void check_tokens(const zm_cpu_level *level, const zm_matrix *matrix, const float *x) {
    size_t out = matrix->out_features;
    float *one_by_one = allocate(MAX_TOKENS * out * sizeof *one_by_one);
    for (size_t t = 0; t < MAX_TOKENS; t++) {
        float *y = multiply(level, matrix, x + t * matrix->in_features, 1, 1, out);
        memcpy(one_by_one + t * out, y, out * sizeof *y);
        free(y);
    }
    if (count_wrong(matrix, x, MAX_TOKENS, 1, one_by_one))
        fail_msg("%s: kind %d bits %d group %d storage %d in %zu out %zu", level->name, (int)matrix->kind,
                 matrix->bits, matrix->group_size, (int)matrix->storage, matrix->in_features, out);
    for (size_t i = 0; i < sizeof token_counts / sizeof token_counts[0]; i++) {
        for (size_t split = 1; split <= out; split += 3) {
            float *y = multiply(level, matrix, x, token_counts[i], 1, split);
            assert_memory_equal(y, one_by_one, token_counts[i] * out * sizeof *y);
            free(y);
        }
    }
    free(one_by_one);
}

static void check_format(zm_matrix_kind kind, int bits, int group_size, zm_storage storage) {
    size_t eleven = 11 * (size_t)(group_size ? group_size : ZM_MATRIX_UNIT); /* ends inside a vector of words */
    size_t sizes[][2] = {{384, 7}, {128, 1}, {2432, 5}, {eleven, 3}};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        zm_matrix matrix = {.kind = kind, .storage = storage, .bits = bits, .group_size = group_size,
                            .in_features = sizes[s][0], .out_features = sizes[s][1], .n_experts = 2};
        fill_matrix(&matrix);
        float *x = random_floats(MAX_TOKENS * matrix.in_features);
        for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++)
            if (computes(*level)) check_tokens(*level, &matrix, x);
        free(x);
        free_matrix(&matrix);
    }
}

/* Tokens of all slices have the bits that they have alone. */
static void check_slices(const zm_cpu_level *level, zm_matrix_kind kind, int bits, int group_size) {
    zm_matrix matrix = {.kind = kind, .storage = ZM_STORAGE_BFLOAT16, .bits = bits, .group_size = group_size,
                        .in_features = 20 * (size_t)group_size, .out_features = 35, .n_experts = 1};
    fill_matrix(&matrix);
    float *x = random_floats(SLICES * matrix.in_features);
    float *all = multiply(level, &matrix, x, SLICES, 0, 35);
    for (size_t t = 0; t < SLICES; t++) {
        float *y = multiply(level, &matrix, x + t * matrix.in_features, 1, 0, 35);
        assert_memory_equal(all + t * 35, y, 35 * sizeof *y);
        free(y);
    }
    free(all);
    free(x);
    free_matrix(&matrix);
}

static void slices_do_not_change_the_bits(void **state) {
    (void)state;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        for (precision = ZM_PRECISION_FLOAT32; precision <= ZM_PRECISION_INT8; precision++) {
            if (!computes(*level)) continue;
            check_slices(*level, ZM_MATRIX_AFFINE, 4, 64);
            check_slices(*level, ZM_MATRIX_AFFINE, 5, 32);
            check_slices(*level, ZM_MATRIX_AFFINE, 8, 128);
            check_slices(*level, ZM_MATRIX_MXFP4, 4, 32);
        }
    }
    precision = ZM_PRECISION_FLOAT32;
}

static void affine_products_are_right(void **state) {
    (void)state;
    static const int bits[] = {2, 3, 4, 5, 6, 8};
    for (size_t b = 0; b < sizeof bits / sizeof bits[0]; b++)
        for (int group_size = 32; group_size <= 128; group_size *= 2)
            for (int storage = 0; storage < 3; storage++)
                check_format(ZM_MATRIX_AFFINE, bits[b], group_size, (zm_storage)storage);
}

static void mxfp4_products_are_right(void **state) {
    (void)state;
    check_format(ZM_MATRIX_MXFP4, 4, 32, ZM_STORAGE_FLOAT32);
}

static void int8_products_are_right(void **state) {
    precision = ZM_PRECISION_INT8;
    affine_products_are_right(state);
    mxfp4_products_are_right(state);
    precision = ZM_PRECISION_FLOAT32;
}

/* Rounding to bytes shows: the results are not those of float32, and not within its bound. */
static void int8_products_are_approximate(void **state) {
    (void)state;
    zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = 4, .group_size = 64, .in_features = 1024,
                        .out_features = 40, .n_experts = 2};
    fill_matrix(&matrix);
    float *x = random_floats(matrix.in_features);
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        precision = ZM_PRECISION_INT8;
        bool int8 = computes(*level);
        float *y = (*level)->supported() ? multiply(*level, &matrix, x, 1, 1, 40) : NULL;
        precision = ZM_PRECISION_FLOAT32;
        if (y) assert_true(int8 ? count_wrong(&matrix, x, 1, 1, y) > 20 : count_wrong(&matrix, x, 1, 1, y) == 0);
        free(y);
    }
    free(x);
    free_matrix(&matrix);
}

/* The smallest and the largest codes with activations that are all at the end of their range, of either sign: every
 * number on the way is whole and below 2^24, so the sums are exact. */
static void check_largest_sums(zm_matrix matrix, unsigned char codes, float value, float x_value) {
    fill_matrix(&matrix);
    memset((unsigned char *)(uintptr_t)matrix.weight, codes, 40 * zm_matrix_row_bytes(&matrix));
    for (size_t i = 0; i < 40 * zm_matrix_groups(&matrix); i++) {
        if (matrix.kind == ZM_MATRIX_MXFP4) ((unsigned char *)(uintptr_t)matrix.scales)[i] = 127;
        else store_value((unsigned char *)(uintptr_t)matrix.scales, ZM_STORAGE_FLOAT32, i, 1);
        if (matrix.kind == ZM_MATRIX_AFFINE) store_value((unsigned char *)(uintptr_t)matrix.biases, 0, i, -3);
    }
    float *x = allocate(4 * 512 * sizeof *x);
    for (size_t i = 0; i < 4 * 512; i++) x[i] = x_value;
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        for (size_t n_tokens = 1; computes(*level) && n_tokens <= 4; n_tokens += 3) {
            float *y = multiply(*level, &matrix, x, n_tokens, 0, 40);
            for (size_t i = 0; i < n_tokens * 40; i++)
                if (y[i] != 512 * value * x_value)
                    fail_msg("%s: kind %d bits %d", (*level)->name, (int)matrix.kind, matrix.bits);
            free(y);
        }
    }
    free(x);
    free_matrix(&matrix);
}

static void the_largest_sums_are_right(void **state) {
    (void)state;
    static const int bits[] = {2, 3, 4, 5, 6, 8};
    precision = ZM_PRECISION_INT8;
    for (float x = -127; x <= 127; x += 254) {
        for (size_t i = 0; i < sizeof bits / sizeof bits[0]; i++) {
            zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = bits[i], .group_size = 128, .in_features = 512,
                                .out_features = 40, .n_experts = 1};
            check_largest_sums(matrix, 0xff, (float)((1 << bits[i]) - 1 - 3), x);
            check_largest_sums(matrix, 0, -3, x);
        }
        zm_matrix matrix = {.kind = ZM_MATRIX_MXFP4, .bits = 4, .group_size = 32, .in_features = 512,
                            .out_features = 40, .n_experts = 1};
        check_largest_sums(matrix, 0x77, 6, x);
        check_largest_sums(matrix, 0xff, -6, x);
    }
    precision = ZM_PRECISION_FLOAT32;
}

/* One activation of each group a thousand times the others, and all of them of very different sizes. */
static void sizes_of_activations_do_not_matter(void **state) {
    (void)state;
    static const int exponents[] = {-100, -60, -20, 0, 20, 30};
    for (int kind = ZM_MATRIX_AFFINE; kind <= ZM_MATRIX_MXFP4; kind++) {
        zm_matrix matrix = {.kind = (zm_matrix_kind)kind, .bits = 4, .group_size = 32, .in_features = 768,
                            .out_features = 3, .n_experts = 2};
        fill_matrix(&matrix);
        float *x = random_floats(6 * matrix.in_features);
        for (size_t i = 0; i < 6 * matrix.in_features; i++)
            x[i] = ldexpf(i % 32 == 7 ? 1000 * x[i] : x[i], exponents[i / matrix.in_features]);
        for (precision = ZM_PRECISION_FLOAT32; precision <= ZM_PRECISION_INT8; precision++) {
            for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
                if (!computes(*level)) continue;
                float *y = multiply(*level, &matrix, x, 6, 1, 3);
                if (count_wrong(&matrix, x, 6, 1, y))
                    fail_msg("%s: kind %d precision %d", (*level)->name, kind, (int)precision);
                free(y);
            }
        }
        precision = ZM_PRECISION_FLOAT32;
        free(x);
        free_matrix(&matrix);
    }
}

static void dense_products_are_right(void **state) {
    (void)state;
    for (int storage = 0; storage < 3; storage++) check_format(ZM_MATRIX_DENSE, 0, 0, (zm_storage)storage);
}

/* A changed scale of one group: by one per cent where the activations are floats, else twice as large. */
static void check_wrong_scale(zm_precision chosen) {
    precision = chosen;
    for (int kind = ZM_MATRIX_AFFINE; kind <= ZM_MATRIX_MXFP4; kind++) {
        zm_matrix matrix = {.kind = (zm_matrix_kind)kind, .bits = 4, .group_size = 32, .in_features = 1024,
                            .out_features = 3, .n_experts = 2};
        fill_matrix(&matrix);
        unsigned char *scales = (unsigned char *)(uintptr_t)matrix.scales;
        unsigned char *biases = (unsigned char *)(uintptr_t)matrix.biases;
        for (size_t i = 0; i < 6 * 32; i++) {
            if (kind == ZM_MATRIX_MXFP4) scales[i] = 120;
            else store_value(scales, ZM_STORAGE_FLOAT32, i, 0.01f), store_value(biases, 0, i, -0.08f);
        }
        float *x = random_floats(2 * matrix.in_features);
        float *y = multiply(zm_fused_level_for(precision), &matrix, x, 2, 1, 4);
        assert_int_equal(count_wrong(&matrix, x, 2, 1, y), 0);
        size_t changed = (matrix.out_features + 1) * 32 + 17; /* row 1 of expert 1, group 17 */
        if (kind == ZM_MATRIX_MXFP4) scales[changed]++;
        else store_value(scales, ZM_STORAGE_FLOAT32, changed, precision == ZM_PRECISION_INT8 ? 0.02f : 0.0101f);
        assert_int_equal(count_wrong(&matrix, x, 2, 1, y), 2);
        free(x);
        free(y);
        free_matrix(&matrix);
    }
}

static void a_wrong_scale_is_noticed(void **state) {
    (void)state;
    check_wrong_scale(ZM_PRECISION_FLOAT32);
    if (zm_fused_level_for(ZM_PRECISION_INT8)->int8) check_wrong_scale(ZM_PRECISION_INT8);
    precision = ZM_PRECISION_FLOAT32;
}

static void a_bias_is_added_after_the_sum(void **state) {
    (void)state;
    for (int storage = 0; storage < 3; storage++) {
        zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = 4, .group_size = 64, .in_features = 128,
                            .out_features = 6, .n_experts = 3, .bias_storage = (zm_storage)storage};
        fill_matrix(&matrix);
        float *x = random_floats(3 * 128);
        unsigned char *bias = allocate(18 * zm_storage_size((zm_storage)storage));
        for (size_t i = 0; i < 18; i++) store_value(bias, (zm_storage)storage, i, 1e3f * random_float());
        for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
            if (!(*level)->supported()) continue;
            matrix.bias = NULL;
            float *plain = multiply(*level, &matrix, x, 3, 2, 6);
            matrix.bias = bias;
            float *biased = multiply(*level, &matrix, x, 3, 2, 6);
            for (size_t i = 0; i < 18; i++) {
                float expected = plain[i] + (float)stored_value(bias, (zm_storage)storage, 12 + i % 6);
                assert_true(biased[i] == expected);
            }
            free(plain);
            free(biased);
        }
        free(bias);
        free(x);
        free_matrix(&matrix);
    }
}

static void threads_do_not_change_the_bits(void **state) {
    (void)state;
    zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = 4, .group_size = 64, .in_features = 512,
                        .out_features = 1003, .n_experts = 1, .storage = ZM_STORAGE_BFLOAT16};
    fill_matrix(&matrix);
    float *x = random_floats(3 * 512);
    float *expected = multiply(zm_fused_best_level(), &matrix, x, 3, 0, 1003);
    float *y = allocate(3 * 1003 * sizeof *y);
    for (int n_threads = 1; n_threads <= 4; n_threads++) {
        zm_pool *pool;
        assert_int_equal(zm_pool_new(&pool, n_threads, NULL), ZMLX_OK);
        zm_engine engine = zm_engine_new((zm_compute){.pool = pool});
        zm_prepared prepared = zm_prepared_new(engine, &matrix);
        prepared.data = allocate(3 * prepared.stride * sizeof(float));
        for (size_t n_tokens = 1; n_tokens <= 3; n_tokens++) {
            memset(y, 0xff, 3 * 1003 * sizeof *y);
            zm_prepare(engine, &prepared, x, n_tokens);
            zm_product_run(engine, &matrix, &prepared, n_tokens, y);
            assert_memory_equal(y, expected, n_tokens * 1003 * sizeof *y);
        }
        free(prepared.data);
        zm_pool_free(pool);
    }
    free(y);
    free(expected);
    free(x);
    free_matrix(&matrix);
}

/* Not a number and infinity stay in the rows and tokens that hold them. */
static void special_values_do_not_spread(void **state) {
    (void)state;
    zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = 4, .group_size = 64, .in_features = 256,
                        .out_features = 5, .n_experts = 2};
    fill_matrix(&matrix);
    float *x = random_floats(3 * 256);
    x[256 + 7] = NAN;
    for (size_t i = 0; i < 4; i++)
        store_value((unsigned char *)(uintptr_t)matrix.biases, ZM_STORAGE_FLOAT32, (5 + 2) * 4 + i, INFINITY);
    for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
        if (!(*level)->supported()) continue;
        float *y = multiply(*level, &matrix, x, 3, 1, 5);
        for (size_t i = 0; i < 15; i++) assert_int_equal(isfinite(y[i]) != 0, i / 5 != 1 && i % 5 != 2);
        free(y);
    }
    free(x);
    free_matrix(&matrix);
}

/* An infinite activation makes all results of its token infinite or NaN (in whole numbers NaN), and no other. */
static void infinities_are_not_lost(void **state) {
    (void)state;
    zm_matrix matrix = {.kind = ZM_MATRIX_AFFINE, .bits = 4, .group_size = 64, .in_features = 256, .out_features = 5,
                        .n_experts = 1};
    fill_matrix(&matrix);
    float *x = random_floats(3 * 256);
    for (precision = ZM_PRECISION_FLOAT32; precision <= ZM_PRECISION_INT8; precision++)
        for (const zm_cpu_level *const *level = zm_fused_levels(); *level; level++) {
            if (!computes(*level)) continue;
            float finite = x[256 + 70];
            float *before = multiply(*level, &matrix, x, 3, 0, 5);
            x[256 + 70] = -INFINITY;
            float *y = multiply(*level, &matrix, x, 3, 0, 5);
            for (size_t i = 5; i < 10; i++) assert_true(precision == ZM_PRECISION_INT8 ? isnan(y[i]) : !isfinite(y[i]));
            assert_memory_equal(y, before, 5 * sizeof *y);
            assert_memory_equal(y + 10, before + 10, 5 * sizeof *y);
            x[256 + 70] = finite;
            free(before);
            free(y);
        }
    precision = ZM_PRECISION_FLOAT32;
    free(x);
    free_matrix(&matrix);
}

static bool yes(void) { return true; }
static bool no(void) { return false; }

/* A level above without int8 does not hide one that has it, nor does one that the machine lacks. */
static void int8_has_a_level_of_its_own(void **state) {
    (void)state;
    const zm_cpu_level plain = {.supported = yes}, bytes = {.supported = yes, .int8 = true}, wide = {.supported = yes},
                       best = {.supported = yes, .int8 = true}, absent = {.supported = no, .int8 = true};
    const zm_cpu_level *const hidden[] = {&plain, &bytes, &wide, &absent, NULL};
    const zm_cpu_level *const all[] = {&plain, &bytes, &wide, &best, NULL};
    const zm_cpu_level *const none[] = {&plain, &absent, &wide, NULL};
    assert_ptr_equal(zm_fused_level_among(hidden, ZM_PRECISION_INT8), &bytes);
    assert_ptr_equal(zm_fused_level_among(hidden, ZM_PRECISION_FLOAT32), &wide);
    assert_ptr_equal(zm_fused_level_among(all, ZM_PRECISION_INT8), &best);
    assert_ptr_equal(zm_fused_level_among(all, ZM_PRECISION_FLOAT32), &best);
    assert_ptr_equal(zm_fused_level_among(none, ZM_PRECISION_INT8), &wide);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(affine_products_are_right),      cmocka_unit_test(mxfp4_products_are_right),
        cmocka_unit_test(dense_products_are_right),       cmocka_unit_test(a_wrong_scale_is_noticed),
        cmocka_unit_test(a_bias_is_added_after_the_sum),  cmocka_unit_test(threads_do_not_change_the_bits),
        cmocka_unit_test(special_values_do_not_spread),   cmocka_unit_test(int8_products_are_right),
        cmocka_unit_test(int8_products_are_approximate),  cmocka_unit_test(sizes_of_activations_do_not_matter),
        cmocka_unit_test(the_largest_sums_are_right),     cmocka_unit_test(int8_has_a_level_of_its_own),
        cmocka_unit_test(slices_do_not_change_the_bits),  cmocka_unit_test(infinities_are_not_lost),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
