/* SPDX-License-Identifier: MIT */
/* The statistics of dropout's masks over 10^7 elements. Bounds are in standard deviations of what independent draws
 * give: the largest of 400 correlations is expected at 3.0, and beyond 5.5 once in 10^5 runs. */
#include "mlx_testing.h"
#include "zmlx/catalog.h"
#include "zmlx/kernels.h"

enum { N = 10000000, CELL = 100, N_WORDS = (N + 63) / 64, N_LAGS = 400 };
static const double bound = 5.5;

/* A bit an element, set where it is kept; words of zeros behind. */
typedef struct mask {
    uint64_t *words;
    double kept; /* share */
} mask;

static mlx_array x; /* ones */

static int make_ones(void **state) {
    mlx_array one = mlx_array_new_float32(1);
    if (open_stream(state)) return 1;
    x = mlx_array_new();
    int failed = mlx_broadcast_to(&x, one, (const int[]){N}, 1, stream) || mlx_array_eval(x);
    mlx_array_free(one);
    return failed;
}

static int free_ones(void **state) {
    mlx_array_free(x);
    return close_stream(state);
}

static mask draw(double p, uint64_t seed) {
    zmlx_error error;
    mlx_array y = {NULL};
    assert_int_equal(zmlx_dropout(&y, x, (float)p, seed, stream, &error), ZMLX_OK);
    assert_int_equal(mlx_array_eval(y), 0);
    const float *values = mlx_array_data_float32(y);
    mask made = {calloc(N_WORDS + N_LAGS / 64 + 2, sizeof(uint64_t)), 0};
    int64_t n_kept = 0;
    assert_non_null(made.words);
    for (int i = 0; i < N; i++) {
        assert_true(values[i] == 0 || fabs((double)values[i] * (1 - p) - 1) < 1e-6);
        n_kept += values[i] != 0;
        made.words[i / 64] |= (uint64_t)(values[i] != 0) << i % 64;
    }
    made.kept = (double)n_kept / N;
    mlx_array_free(y);
    return made;
}

/* Of element i of a with element i + lag of b, in standard deviations. */
static double correlation(const mask *a, const mask *b, int lag) {
    int64_t both = 0, n = N - lag;
    for (int64_t word = 0; word * 64 < n; word++) {
        int64_t from = word + lag / 64;
        int bits = lag % 64;
        uint64_t later = bits ? b->words[from] >> bits | b->words[from + 1] << (64 - bits) : b->words[from];
        both += __builtin_popcountll(a->words[word] & later);
    }
    double covariance = (double)both / (double)n - a->kept * b->kept;
    return covariance / sqrt(a->kept * (1 - a->kept) * b->kept * (1 - b->kept)) * sqrt((double)n);
}

/* Kept elements in cells of 100 against the binomial's mean and variance: chi-square less its freedom, in its
 * deviations. */
static double chi_square(const mask *of, double keep) {
    double chi = 0, freedom = N / CELL;
    for (int cell = 0; cell < N / CELL; cell++) {
        uint64_t n_kept = 0;
        for (int i = cell * CELL; i < (cell + 1) * CELL; i++) n_kept += of->words[i / 64] >> i % 64 & 1;
        chi += ((double)n_kept - CELL * keep) * ((double)n_kept - CELL * keep) / (CELL * keep * (1 - keep));
    }
    return (chi - freedom) / sqrt(2 * freedom);
}

static void test_masks(void **state) {
    (void)state;
    static const double shares[] = {0.1, 0.5, 0.9};
    for (int i = 0; i < COUNT(shares); i++) {
        double keep = 1 - (double)(float)shares[i], largest = 0;
        mask drawn = draw(shares[i], 99);
        double rate = (drawn.kept - keep) / sqrt(keep * (1 - keep) / N), chi = chi_square(&drawn, keep);
        for (int lag = 1; lag <= N_LAGS; lag++) largest = fmax(largest, fabs(correlation(&drawn, &drawn, lag)));
        print_message(
            "p %.1f: kept %.6f (%+.2f deviations), chi-square of cells of %d %+.2f, lags 1 to %d at most %.2f\n",
            shares[i], drawn.kept, rate, CELL, chi, N_LAGS, largest);
        assert_true(fabs(rate) < bound && fabs(chi) < bound && largest < bound);
        free(drawn.words);
    }
}

static void test_seeds_are_independent(void **state) {
    (void)state;
    static const uint64_t seeds[] = {0, 1, 2, UINT64_C(1) << 32, UINT64_MAX};
    mask masks[COUNT(seeds)];
    double largest = 0;
    for (int i = 0; i < COUNT(seeds); i++) masks[i] = draw(0.5, seeds[i]);
    for (int i = 0; i < COUNT(seeds); i++)
        for (int j = 0; j < i; j++)
            for (int lag = 0; lag < 64; lag++) largest = fmax(largest, fabs(correlation(&masks[i], &masks[j], lag)));
    print_message("%d seeds, pairs at 64 distances: correlations of at most %.2f deviations\n", COUNT(seeds), largest);
    assert_true(largest < bound);
    for (int i = 0; i < COUNT(seeds); i++) free(masks[i].words);
}

/* Of ones for ones: both are the mask times the scale. */
static void test_gradients_have_the_same_mask(void **state) {
    (void)state;
    static const double shares[] = {0.1, 0.5, 0.9};
    for (int i = 0; i < COUNT(shares); i++) {
        zmlx_error error;
        mlx_array y = {NULL}, gradient = {NULL};
        const zmlx_catalog_value values[] = {{shares[i], 0}, {0, 99}};
        assert_int_equal(zmlx_dropout(&y, x, (float)shares[i], 99, stream, &error), ZMLX_OK);
        assert_int_equal(zmlx_catalog_apply_gradient("dropout", &gradient, &x, 1, &x, values, stream, &error), ZMLX_OK);
        assert_int_equal(mlx_array_eval(y) + mlx_array_eval(gradient), 0);
        assert_memory_equal(mlx_array_data_float32(y), mlx_array_data_float32(gradient), N * sizeof(float));
        mlx_array_free(y);
        mlx_array_free(gradient);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_masks),
        cmocka_unit_test(test_seeds_are_independent),
        cmocka_unit_test(test_gradients_have_the_same_mask),
    };
    return cmocka_run_group_tests(tests, make_ones, free_ones);
}
