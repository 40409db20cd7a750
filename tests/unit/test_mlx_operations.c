/* SPDX-License-Identifier: MIT */
/* Reductions, selection, products and layers against float64 references. */
#include "mlx_testing.h"

#include <stdlib.h>

enum { ROWS = 3, COLUMNS = 5, CELLS = ROWS * COLUMNS };

static double table[CELLS];

static void fill_table(void) { fill(table, CELLS, 7); }

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void test_reductions(void **state) {
    (void)state;
    fill_table();
    double sums[ROWS] = {0}, largest[COLUMNS], where[ROWS] = {0}, logs[ROWS] = {0}, shares[CELLS];
    for (int j = 0; j < COLUMNS; j++) largest[j] = -INFINITY;
    for (int i = 0; i < CELLS; i++) {
        int row = i / COLUMNS, column = i % COLUMNS;
        sums[row] += table[i];
        largest[column] = fmax(largest[column], table[i]);
        if (table[i] > table[row * COLUMNS + (int)where[row]]) where[row] = column;
        logs[row] += exp(table[i]);
    }
    for (int i = 0; i < CELLS; i++) shares[i] = exp(table[i]) / logs[i / COLUMNS];
    for (int i = 0; i < ROWS; i++) logs[i] = log(logs[i]);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, table, SHAPE(ROWS, COLUMNS));
    mlx_array sum = zm_sum(&scope, x, -1, true);
    expect_shape(sum, SHAPE(ROWS, 1));
    expect_values(&scope, sum, sums, ROWS, 1e-6);
    mlx_array max = zm_max(&scope, x, 0, false);
    expect_shape(max, SHAPE(COLUMNS));
    expect_values(&scope, max, largest, COLUMNS, 0);
    mlx_array argmax = zm_argmax(&scope, x, 1, false);
    assert_int_equal(mlx_array_dtype(argmax), MLX_UINT32);
    expect_values(&scope, argmax, where, ROWS, 0);
    expect_values(&scope, zm_logsumexp(&scope, x, 1, false), logs, ROWS, 1e-6);
    expect_values(&scope, zm_softmax(&scope, x, 1, false), shares, CELLS, 1e-6);
    mlx_array rounded = zm_astype(&scope, x, MLX_BFLOAT16);
    expect_values(&scope, zm_softmax(&scope, rounded, 1, true), shares, CELLS, 0.02);
    end_well(&scope);
}

static void test_cumsum(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, (const double[]){1, 2, 4, 8}, SHAPE(4));
    expect_values(&scope, zm_cumsum(&scope, x, 0, false, true), VALUES(1, 3, 7, 15), 0);
    expect_values(&scope, zm_cumsum(&scope, x, 0, false, false), VALUES(0, 1, 3, 7), 0);
    expect_values(&scope, zm_cumsum(&scope, x, -1, true, true), VALUES(15, 14, 12, 8), 0);
    expect_values(&scope, zm_cumsum(&scope, x, -1, true, false), VALUES(14, 12, 8, 0), 0);
    end_well(&scope);
}

static void test_order(void **state) {
    (void)state;
    fill_table();
    double sorted[CELLS];
    memcpy(sorted, table, sizeof table);
    for (int i = 0; i < ROWS; i++) qsort(sorted + i * COLUMNS, COLUMNS, sizeof *sorted, compare);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, table, SHAPE(ROWS, COLUMNS));
    expect_values(&scope, zm_sort(&scope, x, 1), sorted, CELLS, 0);
    mlx_array order = zm_argsort(&scope, x, 1);
    expect_values(&scope, zm_take_along_axis(&scope, x, order, 1), sorted, CELLS, 0);
    /* A partition at 2: the two smallest first, in any order. */
    mlx_array parts = zm_take_along_axis(&scope, x, zm_argpartition(&scope, x, 2, 1), 1);
    double low[ROWS], third[ROWS];
    for (int i = 0; i < ROWS; i++) {
        low[i] = sorted[i * COLUMNS + 1];
        third[i] = sorted[i * COLUMNS + 2];
    }
    mlx_array smallest = zm_slice_axis(&scope, parts, 1, 0, 2, 1);
    expect_values(&scope, zm_max(&scope, smallest, 1, false), low, ROWS, 0);
    expect_values(&scope, zm_slice_axis(&scope, parts, 1, 2, 3, 1), third, ROWS, 0);
    end_well(&scope);
}

static void test_selection(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_reshape2(&scope, zm_arange(&scope, 0, 6, 1, MLX_FLOAT32), 3, 2);
    mlx_array rows = zm_from_data(&scope, (const uint32_t[]){2, 0, 2}, SHAPE(3), MLX_UINT32);
    expect_values(&scope, zm_take(&scope, x, rows, 0), VALUES(4, 5, 0, 1, 4, 5), 0);
    mlx_array cells = zm_from_data(&scope, (const int32_t[]){1, 0, 1}, SHAPE(3, 1), MLX_INT32);
    expect_values(&scope, zm_take_along_axis(&scope, x, cells, 1), VALUES(1, 2, 5), 0);
    mlx_array minus = zm_scalar(&scope, -1, MLX_FLOAT32);
    expect_values(&scope, zm_put_along_axis(&scope, x, cells, minus, 1), VALUES(0, -1, -1, 3, 4, -1), 0);
    expect_values(&scope, zm_scatter_add_rows(&scope, x, rows, x), VALUES(2, 4, 2, 3, 8, 11), 0);
    end_well(&scope);
}

/* result (m, n) = a (m, k) times the transposed b (n, k). */
static void product(double *result, const double *a, const double *b, int m, int n, int k) {
    for (int i = 0; i < m * n; i++) {
        result[i] = 0;
        for (int l = 0; l < k; l++) result[i] += a[i / n * k + l] * b[i % n * k + l];
    }
}

static void test_matmul(void **state) {
    (void)state;
    double a[2 * 4], b[3 * 4], expected[6], c[3] = {1, -2, 3};
    fill(a, 8, 3);
    fill(b, 12, 4);
    product(expected, a, b, 2, 3, 4);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, a, SHAPE(2, 4));
    mlx_array w = zm_swapaxes(&scope, floats(&scope, b, SHAPE(3, 4)), 0, 1);
    expect_values(&scope, zm_matmul(&scope, x, w), expected, 6, 1e-6);
    for (int i = 0; i < 6; i++) expected[i] += c[i % 3];
    expect_values(&scope, zm_addmm(&scope, floats(&scope, c, SHAPE(3)), x, w), expected, 6, 1e-6);
    end_well(&scope);
}

static void test_gather_mm(void **state) {
    (void)state;
    enum { EXPERTS = 3, IN = 4, OUT = 2 };
    double a[2 * IN], b[EXPERTS * OUT * IN], expected[2 * OUT];
    const uint32_t chosen[2] = {2, 0};
    fill(a, COUNT(a), 5);
    fill(b, COUNT(b), 6);
    for (int i = 0; i < 2; i++) product(expected + i * OUT, a + i * IN, b + chosen[i] * OUT * IN, 1, OUT, IN);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array w = zm_swapaxes(&scope, floats(&scope, b, SHAPE(EXPERTS, OUT, IN)), 1, 2);
    mlx_array indices = zm_from_data(&scope, chosen, SHAPE(2), MLX_UINT32);
    mlx_array x = floats(&scope, a, SHAPE(2, 1, IN));
    expect_values(&scope, zm_gather_mm(&scope, x, w, indices, false), expected, COUNT(expected), 1e-6);
    end_well(&scope);
}

enum { PACKED_OUT = 2, PACKED_IN = 64, GROUP = 32, EXPERTS = 2 };

typedef struct packed {
    uint32_t words[EXPERTS * PACKED_OUT * PACKED_IN / 8];
    double scales[EXPERTS * PACKED_OUT * PACKED_IN / GROUP], biases[EXPERTS * PACKED_OUT * PACKED_IN / GROUP];
    double values[EXPERTS * PACKED_OUT * PACKED_IN];
} packed;

/* 4-bit codes, the first of a word in its lowest bits; value = code * scale + bias of its group. */
static void make_packed(packed *weight) {
    memset(weight, 0, sizeof *weight);
    fill(weight->scales, COUNT(weight->scales), 8);
    fill(weight->biases, COUNT(weight->biases), 9);
    for (int i = 0; i < COUNT(weight->values); i++) {
        uint32_t code = (uint32_t)(i * 7 + i / 5) % 16;
        weight->words[i / 8] |= code << (i % 8 * 4);
        weight->values[i] = code * weight->scales[i / GROUP] + weight->biases[i / GROUP];
    }
}

static void test_quantized(void **state) {
    (void)state;
    static packed weight;
    make_packed(&weight);
    const zm_quantization affine = {GROUP, 4, "affine"};
    double a[2 * PACKED_IN], expected[2 * PACKED_OUT];
    fill(a, COUNT(a), 10);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array words =
        zm_from_data(&scope, weight.words, SHAPE(EXPERTS, PACKED_OUT, PACKED_IN / 8), MLX_UINT32);
    mlx_array scales = floats(&scope, weight.scales, SHAPE(EXPERTS, PACKED_OUT, PACKED_IN / GROUP));
    mlx_array biases = floats(&scope, weight.biases, SHAPE(EXPERTS, PACKED_OUT, PACKED_IN / GROUP));
    mlx_array dense = zm_dequantize(&scope, words, scales, biases, affine);
    expect_values(&scope, dense, weight.values, COUNT(weight.values), 1e-6);

    mlx_array x = floats(&scope, a, SHAPE(2, PACKED_IN)), first[3] = {words, scales, biases};
    for (int i = 0; i < 3; i++) first[i] = zm_squeeze(&scope, zm_slice_axis(&scope, first[i], 0, 0, 1, 1), 0);
    product(expected, a, weight.values, 2, PACKED_OUT, PACKED_IN);
    expect_values(&scope, zm_quantized_matmul(&scope, x, first[0], first[1], first[2], affine), expected,
                  COUNT(expected), 1e-5);

    double back[2 * PACKED_OUT], turned[2 * PACKED_IN] = {0};
    fill(back, COUNT(back), 13);
    for (int i = 0; i < 2 * PACKED_OUT; i++)
        for (int j = 0; j < PACKED_IN; j++)
            turned[i / PACKED_OUT * PACKED_IN + j] += back[i] * weight.values[i % PACKED_OUT * PACKED_IN + j];
    mlx_array y = floats(&scope, back, SHAPE(2, PACKED_OUT));
    expect_values(&scope, zm_quantized_matmul_plain(&scope, y, first[0], first[1], first[2], affine), turned,
                  COUNT(turned), 1e-5);

    const uint32_t chosen[2] = {1, 0};
    for (int i = 0; i < 2; i++)
        product(expected + i * PACKED_OUT, a + i * PACKED_IN,
                weight.values + chosen[i] * PACKED_OUT * PACKED_IN, 1, PACKED_OUT, PACKED_IN);
    mlx_array indices = zm_from_data(&scope, chosen, SHAPE(2), MLX_UINT32);
    x = zm_reshape3(&scope, x, 2, 1, PACKED_IN);
    expect_values(&scope, zm_gather_qmm(&scope, x, words, scales, biases, indices, affine, false), expected,
                  COUNT(expected), 1e-5);
    end_well(&scope);
}

/* Whole numbers from -8 to 7 are codes of 4 bits exactly: quantising loses nothing. */
static void test_quantize(void **state) {
    (void)state;
    const zm_quantization affine = {GROUP, 4, "affine"};
    double values[2 * GROUP];
    for (int i = 0; i < 2 * GROUP; i++) values[i] = i * 5 % 16 - 8;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array parts[3];
    zm_quantize(&scope, parts, floats(&scope, values, SHAPE(2, GROUP)), affine);
    expect_shape(parts[0], SHAPE(2, GROUP / 8));
    expect_shape(parts[1], SHAPE(2, 1));
    expect_shape(parts[2], SHAPE(2, 1));
    expect_values(&scope, zm_dequantize(&scope, parts[0], parts[1], parts[2], affine), values, COUNT(values), 1e-6);
    end_well(&scope);

    zm_scope_begin(&scope, stream);
    zm_quantize(&scope, parts, floats(&scope, values, SHAPE(2 * GROUP)), affine);
    for (int i = 0; i < 3; i++) assert_false(zm_is_set(parts[i]));
    assert_int_equal(zm_scope_end(&scope, NULL), ZMLX_ERROR_MLX);
}

static void test_from_fp8(void **state) {
    (void)state;
    const uint8_t bytes[] = {0x38, 0xb8, 0x40, 0x7e, 0x01, 0x00, 0x3c};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_from_fp8(&scope, zm_from_data(&scope, bytes, SHAPE(7), MLX_UINT8), MLX_BFLOAT16);
    assert_int_equal(mlx_array_dtype(x), MLX_BFLOAT16);
    expect_values(&scope, x, VALUES(1, -1, 2, 448, 1.0 / 512, 0, 1.5), 0);
    end_well(&scope);
}

/* Depthwise: y[t][c] = sum over k of x[t + k][c] * w[c][k]. */
static void test_conv1d(void **state) {
    (void)state;
    enum { STEPS = 5, CHANNELS = 2, KERNEL = 3, OUT = STEPS - KERNEL + 1 };
    double x[STEPS * CHANNELS], w[CHANNELS * KERNEL], expected[OUT * CHANNELS] = {0};
    fill(x, COUNT(x), 11);
    fill(w, COUNT(w), 12);
    for (int i = 0; i < OUT * CHANNELS; i++)
        for (int k = 0; k < KERNEL; k++) expected[i] += x[i + k * CHANNELS] * w[i % CHANNELS * KERNEL + k];
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array input = floats(&scope, x, SHAPE(1, STEPS, CHANNELS));
    mlx_array weight = floats(&scope, w, SHAPE(CHANNELS, KERNEL, 1));
    expect_values(&scope, zm_conv1d(&scope, input, weight, CHANNELS), expected, COUNT(expected), 1e-6);
    end_well(&scope);
}

static void test_rms_norm(void **state) {
    (void)state;
    fill_table();
    const double weight[COLUMNS] = {1, 2, -1, 0.5, 3}, eps = 0.125;
    double expected[CELLS];
    for (int i = 0; i < CELLS; i++) {
        double mean = 0;
        for (int j = 0; j < COLUMNS; j++) mean += pow(table[i / COLUMNS * COLUMNS + j], 2) / COLUMNS;
        expected[i] = table[i] / sqrt(mean + eps) * weight[i % COLUMNS];
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = floats(&scope, table, SHAPE(ROWS, COLUMNS)), w = floats(&scope, weight, SHAPE(COLUMNS));
    expect_values(&scope, zm_rms_norm(&scope, x, w, (float)eps), expected, CELLS, 1e-6);
    end_well(&scope);
}

/* Pairs (i, i + half), or (2i, 2i + 1) where traditional, turned by position / frequency i. */
static void rotate(double *x, int steps, int dims, bool traditional, int offset, const double *frequencies) {
    int half = dims / 2;
    for (int i = 0; i < steps * half; i++) {
        int pair = i % half;
        double *row = x + i / half * dims, angle = (offset + i / half) / frequencies[pair];
        double *first = row + (traditional ? 2 * pair : pair), *second = first + (traditional ? 1 : half);
        double a = *first, b = *second;
        *first = a * cos(angle) - b * sin(angle);
        *second = a * sin(angle) + b * cos(angle);
    }
}

static void test_rope(void **state) {
    (void)state;
    enum { STEPS = 3, DIMS = 8 };
    const double given[DIMS / 2] = {1, 3, 10, 50};
    for (int k = 0; k < 4; k++) {
        bool traditional = k % 2, with_base = k < 2;
        double x[STEPS * DIMS], frequencies[DIMS / 2];
        fill(x, COUNT(x), 13);
        for (int i = 0; i < DIMS / 2; i++) frequencies[i] = with_base ? pow(100, 2.0 * i / DIMS) : given[i];
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array input = floats(&scope, x, SHAPE(1, 1, STEPS, DIMS));
        mlx_array freqs = with_base ? none : floats(&scope, given, SHAPE(DIMS / 2));
        rotate(x, STEPS, DIMS, traditional, 4, frequencies);
        mlx_array turned = zm_rope(&scope, input, DIMS, traditional, with_base ? 100 : 0, 1, 4, freqs);
        expect_values(&scope, turned, x, COUNT(x), 1e-5);
        end_well(&scope);
    }
}

enum { HEADS = 4, KV_HEADS = 2, QUERIES = 3, KEYS = 5, HEAD = 4 };

/* allowed[q][k]; a sink is one more logit without a value. */
static void attend(double *out, const double *q, const double *k, const double *v, double scale,
                   const bool *allowed, const double *sinks) {
    for (int row = 0; row < HEADS * QUERIES; row++) {
        int head = row / QUERIES, kv = head / (HEADS / KV_HEADS);
        double weights[KEYS], sum = sinks ? exp(sinks[head]) : 0;
        for (int j = 0; j < KEYS; j++) {
            double score = 0;
            for (int d = 0; d < HEAD; d++) score += q[row * HEAD + d] * k[(kv * KEYS + j) * HEAD + d];
            weights[j] = allowed[row % QUERIES * KEYS + j] ? exp(score * scale) : 0;
            sum += weights[j];
        }
        for (int d = 0; d < HEAD; d++) {
            double *cell = &out[row * HEAD + d];
            *cell = 0;
            for (int j = 0; j < KEYS; j++) *cell += weights[j] / sum * v[(kv * KEYS + j) * HEAD + d];
        }
    }
}

static void test_attention(void **state) {
    (void)state;
    double q[HEADS * QUERIES * HEAD], k[KV_HEADS * KEYS * HEAD], v[KV_HEADS * KEYS * HEAD], out[COUNT(q)];
    const double sinks[HEADS] = {0, 1, -1, 0.5};
    fill(q, COUNT(q), 14);
    fill(k, COUNT(k), 15);
    fill(v, COUNT(v), 16);
    for (int kind = 0; kind < 4; kind++) { /* none, causal, array, array with sinks */
        bool allowed[QUERIES * KEYS];
        for (int i = 0; i < QUERIES * KEYS; i++)
            allowed[i] = kind == 0 || (kind == 1 ? i % KEYS <= i / KEYS + KEYS - QUERIES : i % 4 != 1);
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array mask = kind < 2 ? none : zm_from_data(&scope, allowed, SHAPE(QUERIES, KEYS), MLX_BOOL);
        mlx_array sink = kind < 3 ? none : floats(&scope, sinks, SHAPE(HEADS));
        const char *mode = kind == 1 ? "causal" : kind == 2 ? "array" : "";
        mlx_array queries = floats(&scope, q, SHAPE(1, HEADS, QUERIES, HEAD));
        mlx_array keys = floats(&scope, k, SHAPE(1, KV_HEADS, KEYS, HEAD));
        mlx_array values = floats(&scope, v, SHAPE(1, KV_HEADS, KEYS, HEAD));
        mlx_array result =
            zm_scaled_dot_product_attention(&scope, queries, keys, values, 0.5f, mode, mask, sink);
        attend(out, q, k, v, 0.5, allowed, kind == 3 ? sinks : NULL);
        expect_values(&scope, result, out, COUNT(out), 1e-5);
        end_well(&scope);
    }
}

/* Frequencies of 4096 samples, five standard deviations; the same key gives the same samples. */
static void test_categorical(void **state) {
    (void)state;
    enum { SAMPLES = 4096 };
    const double shares[3] = {0.5, 0.25, 0.25};
    double logits[3];
    for (int i = 0; i < 3; i++) logits[i] = log(shares[i]);
    mlx_array samples[2] = {{NULL}, {NULL}};
    for (int k = 0; k < 2; k++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array key = {NULL}, rows = {NULL};
        assert_int_equal(mlx_random_key(&key, 17), 0);
        zm_scope_own(&scope, key);
        mlx_array row = floats(&scope, logits, SHAPE(3));
        assert_int_equal(mlx_broadcast_to(&rows, row, SHAPE(SAMPLES, 3), stream), 0);
        zm_scope_own(&scope, rows);
        zm_scope_keep(&scope, &samples[k], zm_categorical(&scope, rows, -1, key));
        end_well(&scope);
        assert_int_equal(mlx_array_eval(samples[k]), 0);
    }
    const uint32_t *drawn = mlx_array_data_uint32(samples[0]);
    assert_memory_equal(drawn, mlx_array_data_uint32(samples[1]), SAMPLES * sizeof *drawn);
    int counts[3] = {0};
    for (int i = 0; i < SAMPLES; i++) {
        assert_true(drawn[i] < 3);
        counts[drawn[i]]++;
    }
    for (int i = 0; i < 3; i++)
        assert_true(fabs(counts[i] - shares[i] * SAMPLES) < 5 * sqrt(SAMPLES * shares[i] * (1 - shares[i])));
    mlx_array_free(samples[0]);
    mlx_array_free(samples[1]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reductions), cmocka_unit_test(test_cumsum),
        cmocka_unit_test(test_order),      cmocka_unit_test(test_selection),
        cmocka_unit_test(test_matmul),     cmocka_unit_test(test_gather_mm),
        cmocka_unit_test(test_quantized),  cmocka_unit_test(test_quantize),
        cmocka_unit_test(test_from_fp8),    cmocka_unit_test(test_conv1d),
        cmocka_unit_test(test_rms_norm),   cmocka_unit_test(test_rope),
        cmocka_unit_test(test_attention),  cmocka_unit_test(test_categorical),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
