/* SPDX-License-Identifier: MIT */
/* Kernels of the catalogue on codes, bits and indices: known values, both ways of unpacking, what is refused. */
#include "base/limits.h"
#include "kernels/indexing/indexing.h"
#include "kernels/unpack.h"
#include "mlx_testing.h"
#include "zmlx/kernels.h"

static zmlx_error failure;
#define OK(expression)                                                                          \
    do {                                                                                        \
        if ((expression) != ZMLX_OK) fail_msg("%s: %s: %s", #expression, failure.where, failure.message); \
    } while (0)

static mlx_array bytes_of(zm_scope *scope, const uint8_t *bytes, int count) {
    return zm_from_data(scope, bytes, &count, 1, MLX_UINT8);
}
#define BYTES(scope, ...) bytes_of(scope, (const uint8_t[]){__VA_ARGS__}, (int)sizeof((const uint8_t[]){__VA_ARGS__}))

static void test_known_values(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, one = zm_scalar(&scope, 1, MLX_FLOAT32), two = zm_scalar(&scope, 2, MLX_FLOAT32);
    mlx_array e4m3 = BYTES(&scope, 0x38, 0x7e, 0x01, 0x81), e5m2 = BYTES(&scope, 0x3c, 0x7b, 0x7c, 0xfc);
    OK(zmlx_dequantize_fp8(&y, e4m3, one, "e4m3", MLX_FLOAT32, stream, &failure));
    expect_values(&scope, y, VALUES(1, 448, 0x1p-9, -0x1p-9), 0);
    OK(zmlx_dequantize_fp8(&y, e5m2, one, "e5m2", MLX_FLOAT32, stream, &failure));
    expect_values(&scope, y, VALUES(1, 57344, INFINITY, -INFINITY), 0);
    mlx_array packed = BYTES(&scope, 0xf0, 0x78);
    OK(zmlx_dequantize_int4(&y, packed, two, true, MLX_FLOAT16, stream, &failure));
    assert_int_equal(mlx_array_dtype(y), MLX_FLOAT16);
    expect_values(&scope, y, VALUES(0, -2, -16, 14), 0);
    OK(zmlx_dequantize_nf4(&y, packed, one, MLX_FLOAT32, stream, &failure));
    expect_values(&scope, y, VALUES(-1, 1, 0.07958029955625534, 0), 1e-7);
    mlx_array code = BYTES(&scope, 1), v1 = zm_reshape(&scope, two, SHAPE(1));
    mlx_array v2 = zm_from_data(&scope, (const float[]){3}, SHAPE(1), MLX_FLOAT32);
    OK(zmlx_fused_swiglu_quant(&y, code, v1, code, v2, 128, MLX_FLOAT32, stream, &failure));
    expect_values(&scope, y, VALUES(5.2847825), 1e-6);
    uint32_t stream_of_3[3] = {0x1f58d1, 0, 0};
    mlx_array w = zm_from_data(&scope, stream_of_3, SHAPE(3), MLX_UINT32), ones = zm_reshape(&scope, one, SHAPE(1));
    mlx_array zeros = zm_zeros(&scope, SHAPE(1), MLX_FLOAT32);
    OK(zmlx_dequantize_affine_packed(&y, w, ones, zeros, 3, 32, MLX_FLOAT32, stream, &failure));
    expect_values(&scope, zm_slice_axis(&scope, y, 0, 0, 8, 1), VALUES(1, 2, 3, 4, 5, 6, 7, 0), 0);
    mlx_array_free(y);
    end_well(&scope);
}

/* Every width, lengths that are and are not whole groups of 8 codes. */
static void test_both_ways_of_unpacking(void **state) {
    (void)state;
    static const int widths[] = {1, 2, 3, 4, 5, 6};
    uint8_t bytes[600];
    for (int i = 0; i < 600; i++) bytes[i] = (uint8_t)(i * 37 + i / 7);
    for (int k = 0; k < COUNT(widths); k++)
        for (int count = 15; count <= 600; count += 585) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_catalog_call call = {.scope = &scope, .where = "test"};
            mlx_array packed = bytes_of(&scope, bytes, count),
                      want = zm_unpack_codes_composed(&call, packed, widths[k]);
            double expected[4800];
            int n = count * 8 / widths[k];
            for (int i = 0; i < n; i++) {
                expected[i] = 0;
                for (int bit = 0; bit < widths[k]; bit++) {
                    int at = i * widths[k] + bit;
                    expected[i] += (bytes[at / 8] >> at % 8 & 1) << bit;
                }
            }
            expect_values(&scope, want, expected, n, 0);
            expect_values(&scope, zm_unpack_codes(&call, packed, widths[k]), expected, n, 0);
            end_well(&scope);
        }
}

static void test_bits(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array packed = {NULL}, y = {NULL};
    mlx_array x = zm_from_data(&scope, (const int32_t[]){1, 0, 0, -5, 0, 0, 0, 9, 0, 1, 0, 0, 0, 0, 0, 0}, SHAPE(16),
                               MLX_INT32);
    mlx_array shape = zm_from_data(&scope, (const int64_t[]){2, 4, 2}, SHAPE(3), MLX_INT64);
    mlx_array wrong = zm_from_data(&scope, (const int64_t[]){2, 4, 3}, SHAPE(3), MLX_INT64);
    OK(zmlx_pack_bits(&packed, x, stream, &failure));
    expect_values(&scope, packed, VALUES(0x89, 2), 0);
    OK(zmlx_unpack_bits(&y, packed, shape, stream, &failure));
    expect_shape(y, SHAPE(2, 4, 2));
    expect_values(&scope, y, VALUES(1, 0, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0), 0);
    expect_argument_error(zmlx_unpack_bits(&y, packed, wrong, stream, &failure), &failure,
                          "zmlx_unpack_bits: original_shape: makes 24 elements, x has 16 bits");
    expect_argument_error(zmlx_pack_bits(&y, zm_slice_axis(&scope, x, 0, 0, 13, 1), stream, &failure), &failure,
                          "zmlx_pack_bits: x: expected shape (8*N,), got (13,)");
    mlx_array_free(packed);
    mlx_array_free(y);
    end_well(&scope);
}

static void test_refusals(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, x = zm_zeros(&scope, SHAPE(3, 5), MLX_UINT8),
              scales = zm_zeros(&scope, SHAPE(2), MLX_FLOAT32);
    mlx_array words = zm_zeros(&scope, SHAPE(3, 8), MLX_UINT32), groups = zm_zeros(&scope, SHAPE(3, 2), MLX_FLOAT16);
    mlx_array index = zm_from_data(&scope, (const int32_t[]){0, 2, -1}, SHAPE(3), MLX_INT32),
              rows = zm_zeros(&scope, SHAPE(3, 2), MLX_FLOAT32);
    expect_argument_error(zmlx_dequantize_int8(&y, x, scales, MLX_FLOAT32, stream, &failure), &failure,
                          "zmlx_dequantize_int8: scale: expected one element, got shape (2,)");
    expect_argument_error(zmlx_dequantize_int8(&y, words, scales, MLX_FLOAT32, stream, &failure), &failure,
                          "zmlx_dequantize_int8: x: expected uint8 or int8, got uint32");
    expect_argument_error(zmlx_dequantize_blockwise(&y, x, scales, 4, 8, MLX_FLOAT32, stream, &failure), &failure,
                          "zmlx_dequantize_blockwise: scales: expected shape (4,), got (2,)");
    expect_argument_error(zmlx_dequantize_blockwise(&y, x, scales, 8, 5, MLX_FLOAT32, stream, &failure), &failure,
                          "zmlx_dequantize_blockwise: scales: expected shape (3,), got (2,)");
    expect_argument_error(zmlx_dequantize_blockwise(&y, x, scales, 12, 5, MLX_FLOAT32, stream, &failure), &failure,
                          "zmlx_dequantize_blockwise: bits: expected 4 or 8, got 5");
    expect_argument_error(
        zmlx_dequantize_affine_packed(&y, words, groups, groups, 4, 64, MLX_FLOAT32, stream, &failure), &failure,
        "zmlx_dequantize_affine_packed: w: 8 words a row are not the 128 codes of 4 bits that 2 groups of 64 have");
    expect_argument_error(
        zmlx_dequantize_affine_packed(&y, words, groups, groups, 7, 64, MLX_FLOAT32, stream, &failure), &failure,
        "zmlx_dequantize_affine_packed: bits: expected 2, 3, 4, 5, 6 or 8, got 7");
    expect_argument_error(zmlx_dequantize_fp8(&y, x, zm_scalar(&scope, 1, MLX_FLOAT32), "e3m4", MLX_FLOAT32, stream,
                                              &failure),
                          &failure, "dequantize_fp8: variant: expected choice e4m3|e5m2, got e3m4");
    expect_argument_error(zmlx_catalog_apply("dequantize_fp8", &y, (mlx_array[]){x, zm_scalar(&scope, 1, MLX_FLOAT32)},
                                             2, (zmlx_catalog_value[]){{2, 0}, {MLX_FLOAT32, 0}}, stream, &failure),
                          &failure, "zmlx_dequantize_fp8: variant: expected a choice in e4m3|e5m2, got 2");
    expect_argument_error(zmlx_fused_gather_add(&y, rows, index, zm_zeros(&scope, SHAPE(3, 4), MLX_FLOAT32), stream,
                                                &failure),
                          &failure, "zmlx_fused_gather_add: other: expected shape (3, 2), got (3, 4)");
    zmlx_catalog_check_indices(true);
    expect_argument_error(zmlx_fused_gather_add(&y, rows, index, rows, stream, &failure), &failure,
                          "zmlx_fused_gather_add: indices: element 2 is negative or too large; N is 3");
    zmlx_catalog_check_indices(false);
    assert_null(y.ctx);
    end_well(&scope);
}

/* Sizes whose products pass 64 bits and would come out right modulo 2^64. */
static void test_sizes_that_overflow(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, no_words = zm_zeros(&scope, SHAPE(1, 0), MLX_UINT32),
              scales = zm_zeros(&scope, SHAPE(1, 8), MLX_FLOAT32), words = zm_zeros(&scope, SHAPE(1, 128), MLX_UINT32),
              scale = zm_zeros(&scope, SHAPE(1, 1), MLX_FLOAT32);
    zmlx_catalog_value numbers[] = {{4, 0}, {0x1p60, 0}, {MLX_FLOAT32, 0}};
    expect_argument_error(zmlx_catalog_apply("dequantize_affine_packed", &y, (mlx_array[]){no_words, scales, scales}, 3,
                                             numbers, stream, &failure),
                          &failure,
                          "zmlx_dequantize_affine_packed: w: 0 words a row are not the 9223372036854775808 codes of "
                          "4 bits that 8 groups of 1152921504606846976 have");
    numbers[0].number = 8;
    numbers[1].number = 0x1p61 + 512;
    expect_argument_error(zmlx_catalog_apply("dequantize_affine_packed", &y, (mlx_array[]){words, scale, scale}, 3,
                                             numbers, stream, &failure),
                          &failure,
                          "zmlx_dequantize_affine_packed: w: 128 words a row are not the 2305843009213694464 codes of "
                          "8 bits that 1 groups of 2305843009213694464 have");
    assert_null(y.ctx);
    end_well(&scope);
}

/* Groups of a code each, more than an int counts; never evaluated. */
static void test_many_groups(void **state) {
    (void)state;
    uint64_t memory = zm_memory_bytes();
    if (memory && memory < 5000000000) skip();
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, zero = zm_zeros(&scope, SHAPE(1), MLX_UINT32);
    mlx_array words = zm_broadcast_to(&scope, zero, SHAPE(1 << 16, 1 << 11)),
              groups = zm_broadcast_to(&scope, zm_astype(&scope, zero, MLX_FLOAT32), SHAPE(1 << 16, 1 << 15));
    OK(zmlx_dequantize_affine_packed(&y, words, groups, groups, 2, 1, MLX_BFLOAT16, stream, &failure));
    expect_shape(y, SHAPE(1 << 16, 1 << 15));
    mlx_array_free(y);
    end_well(&scope);
}

/* Many updates of one row: the same bits by rows, by columns and in one thread, as sums in order have. */
static void test_scatter_adds_in_order(void **state) {
    (void)state;
    enum { UPDATES = 300, COLUMNS = 4096 };
    zm_scope scope;
    zm_scope_begin(&scope, host_stream);
    float *values = malloc(UPDATES * COLUMNS * sizeof *values);
    uint32_t indices[UPDATES], seed = 5;
    assert_non_null(values);
    for (int i = 0; i < UPDATES * COLUMNS; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)seed * 0x1p-20f;
    }
    for (int i = 0; i < UPDATES; i++) indices[i] = (uint32_t)i % 3;
    mlx_array index = zm_from_data(&scope, indices, SHAPE(UPDATES), MLX_UINT32), y = {NULL};
    mlx_array updates = zm_from_data(&scope, values, SHAPE(UPDATES, COLUMNS), MLX_FLOAT32);
    OK(zmlx_fused_scatter_add(&y, index, updates, 3, MLX_FLOAT32, host_stream, &failure));
    assert_int_equal(mlx_array_eval(y), 0);
    for (int column = 0; column < COLUMNS; column++)
        for (int row = 0; row < 3; row++) {
            float sum = 0;
            for (int i = row; i < UPDATES; i += 3) sum += values[i * COLUMNS + column];
            assert_true(mlx_array_data_float32(y)[row * COLUMNS + column] == sum);
        }
    mlx_array_free(y);
    free(values);
    end_well(&scope);
}

/* More codes than an int counts: never evaluated, so that they take no memory, which is asked for all the same. */
static void test_many_codes(void **state) {
    (void)state;
    uint64_t memory = zm_memory_bytes();
    if (memory && memory < 5000000000) skip();
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, code = zm_zeros(&scope, SHAPE(1), MLX_UINT8), scale = zm_zeros(&scope, SHAPE(1), MLX_FLOAT32);
    mlx_array even = zm_broadcast_to(&scope, code, SHAPE(1 << 15, 1 << 16)),
              packed = zm_broadcast_to(&scope, code, SHAPE(1 << 15, 1 << 15)),
              odd = zm_broadcast_to(&scope, code, SHAPE(32769, 65535)),
              few = zm_broadcast_to(&scope, code, SHAPE(1600000000));
    mlx_array scales = zm_broadcast_to(&scope, scale, SHAPE(1 << 24));
    OK(zmlx_dequantize_blockwise(&y, even, scales, 128, 8, MLX_BFLOAT16, stream, &failure));
    expect_shape(y, SHAPE(1 << 15, 1 << 16));
    OK(zmlx_dequantize_blockwise(&y, packed, scales, 128, 4, MLX_BFLOAT16, stream, &failure));
    expect_shape(y, SHAPE(1 << 15, 1 << 16));
    scales = zm_broadcast_to(&scope, scale, SHAPE(32769));
    OK(zmlx_fused_swiglu_quant(&y, odd, scales, odd, scales, 65535, MLX_BFLOAT16, stream, &failure));
    expect_shape(y, SHAPE(32769, 65535));
    mlx_array_free(y);
    y = (mlx_array){NULL};
    scales = zm_broadcast_to(&scope, scale, SHAPE(16777472));
    expect_argument_error(
        zmlx_dequantize_blockwise(&y, odd, scales, 128, 8, MLX_BFLOAT16, stream, &failure), &failure,
        "zmlx_dequantize_blockwise: x: 2147516415 codes, filled up to blocks of 128, are more than 2^31 - 1");
    scales = zm_broadcast_to(&scope, scale, SHAPE(2));
    expect_argument_error(
        zmlx_fused_swiglu_quant(&y, few, scales, few, scales, 1500000000, MLX_BFLOAT16, stream, &failure), &failure,
        "zmlx_fused_swiglu_quant: x1: 1600000000 codes, filled up to blocks of 1500000000, are more than 2^31 - 1");
    expect_argument_error(zmlx_catalog_apply("dequantize_blockwise", &y, (mlx_array[]){even, scale}, 2,
                                             (zmlx_catalog_value[]){{0x1p32, 0}, {8, 0}, {MLX_BFLOAT16, 0}}, stream,
                                             &failure),
                          &failure, "zmlx_dequantize_blockwise: x: a block of 2147483648 codes is more than 2^31 - 1");
    assert_null(y.ctx);
    end_well(&scope);
    zm_catalog_call call = {.scope = &scope, .where = "test"};
    zm_scope_begin(&scope, stream);
    code = zm_zeros(&scope, SHAPE(1), MLX_UINT8);
    zm_unpack_codes_composed(&call, zm_broadcast_to(&scope, code, SHAPE(1 << 15, 1 << 16)), 4);
    expect_argument_error(zm_scope_end(&scope, &failure), &failure,
                          "test: 2147483648 bytes are more than this device unpacks at once");
}

/* What a GPU computes by MLX's operations, here on the CPU: as the nodes, out-of-range indices included. */
static void test_indexing_composed(void **state) {
    (void)state;
    double src[5 * 3], other[6 * 3], sums[4 * 3] = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    fill(src, 15, 1);
    fill(other, 18, 2);
    const int32_t places[6] = {4, 0, -1, 3, 5, 3};
    mlx_array table = zm_astype(&scope, floats(&scope, src, SHAPE(5, 3)), MLX_BFLOAT16);
    mlx_array inputs[] = {table, zm_from_data(&scope, places, SHAPE(2, 3), MLX_INT32),
                          zm_astype(&scope, floats(&scope, other, SHAPE(2, 3, 3)), MLX_BFLOAT16)};
    zm_catalog_call call;
    OK(zm_call_prepare(&call, zm_catalog_lookup("fused_gather_add"), &scope, inputs, NULL, &failure));
    zm_gather_add_composed(&call);
    mlx_array y = {NULL};
    OK(zmlx_fused_gather_add(&y, inputs[0], inputs[1], inputs[2], stream, &failure));
    for (int i = 0; i < 2; i++) {
        mlx_array a = zm_slice_axis(&scope, zm_reshape2(&scope, i ? y : call.outputs[0], 6, 3), 0, 0, 2, 1);
        mlx_array b = zm_slice_axis(&scope, zm_reshape2(&scope, i ? call.outputs[0] : y, 6, 3), 0, 0, 2, 1);
        mlx_array difference = zm_subtract(&scope, a, b);
        expect_values(&scope, difference, VALUES(0, 0, 0, 0, 0, 0), 0);
        mlx_array bad = zm_slice_axis(&scope, zm_reshape2(&scope, i ? y : call.outputs[0], 6, 3), 0, 2, 5, 2);
        mlx_array is_number = zm_greater_equal(&scope, zm_multiply(&scope, bad, bad),
                                               zm_scalar(&scope, 0, MLX_BFLOAT16));
        expect_values(&scope, is_number, VALUES(0, 0, 0, 0, 0, 0), 0);
    }
    mlx_array updates[] = {inputs[1], floats(&scope, other, SHAPE(2, 3, 3))};
    zmlx_catalog_value rows[] = {{4, 0}, {MLX_FLOAT32, 0}};
    OK(zm_call_prepare(&call, zm_catalog_lookup("fused_scatter_add"), &scope, updates, rows, &failure));
    zm_scatter_add_composed(&call);
    OK(zmlx_fused_scatter_add(&y, updates[0], updates[1], 4, MLX_FLOAT32, stream, &failure));
    for (int i = 0; i < 18; i++)
        if (places[i / 3] >= 0 && places[i / 3] < 4) sums[places[i / 3] * 3 + i % 3] += other[i];
    expect_values(&scope, call.outputs[0], sums, 12, 1e-6);
    expect_values(&scope, y, sums, 12, 1e-6);
    mlx_array_free(y);
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_values),
        cmocka_unit_test(test_both_ways_of_unpacking),
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_sizes_that_overflow),
        cmocka_unit_test(test_many_codes),
        cmocka_unit_test(test_many_groups),
        cmocka_unit_test(test_scatter_adds_in_order),
        cmocka_unit_test(test_indexing_composed),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
