/* SPDX-License-Identifier: MIT */
/* Composed kernels beside MLX's operation of the same meaning, bits that are defined, and what is refused. */
#include "base/half.h"
#include "kernels/compose.h"
#include "mlx_testing.h"
#include "zmlx/kernels.h"

static mlx_array random_floats(zm_scope *scope, uint32_t seed, const int *shape, int n_dims) {
    double values[512];
    fill(values, 512, seed);
    return floats(scope, values, shape, n_dims);
}

static mlx_array words(zm_scope *scope, const uint32_t *values, const int *shape, int n_dims) {
    return zm_from_data(scope, values, shape, n_dims, MLX_UINT32);
}

/* Elements of a in order, as float64. */
static void read(double *values, zm_scope *scope, mlx_array a) {
    mlx_array packed = zm_contiguous(scope, zm_astype(scope, a, MLX_FLOAT32));
    assert_false(zm_scope_failed(scope));
    assert_int_equal(mlx_array_eval(packed), 0);
    for (size_t i = 0; i < mlx_array_size(packed); i++) values[i] = (double)mlx_array_data_float32(packed)[i];
}

/* The blocks in order, both lengths whole: mx.fast.scaled_dot_product_attention on the same numbers. */
static void test_paged_attention_is_attention(void **state) {
    (void)state;
    enum { B = 2, H = 4, HKV = 2, K = 8, MB = 2, BS = 4, T = MB * BS };
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array q = random_floats(&scope, 1, SHAPE(B, H, K)), keys = random_floats(&scope, 2, SHAPE(B * MB, BS, HKV, K));
    mlx_array values = random_floats(&scope, 3, SHAPE(B * MB, BS, HKV, K)), y = {NULL};
    mlx_array table = words(&scope, (const uint32_t[]){0, 1, 2, 3}, SHAPE(B, MB)),
              lengths = words(&scope, (const uint32_t[]){T, T}, SHAPE(B));
    if (zmlx_paged_attention(&y, q, keys, values, table, lengths, 0, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    y = zm_scope_own(&scope, y);
    mlx_array rows = zm_swapaxes(&scope, zm_reshape4(&scope, keys, B, T, HKV, K), 1, 2);
    mlx_array all = zm_swapaxes(&scope, zm_reshape4(&scope, values, B, T, HKV, K), 1, 2);
    mlx_array stock = zm_scaled_dot_product_attention(&scope, zm_reshape4(&scope, q, B, H, 1, K), rows, all,
                                                      1 / sqrtf(K), "", none, none);
    double ours[B * H * K], theirs[B * H * K];
    read(ours, &scope, y);
    read(theirs, &scope, stock);
    for (int i = 0; i < B * H * K; i++) assert_true(fabs(ours[i] - theirs[i]) < 2e-6); /* 16 ulp of numbers below 2 */
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* A tile of scores, masked and weighed, is the same attention again. */
static void test_scores_and_softmax_are_attention(void **state) {
    (void)state;
    enum { M = 6, N = 9, K = 8 };
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array q = random_floats(&scope, 4, SHAPE(1, 1, M, K)), k = random_floats(&scope, 5, SHAPE(1, 1, N, K));
    mlx_array v = random_floats(&scope, 6, SHAPE(1, 1, N, K)), scores = {NULL}, weights = {NULL};
    mlx_array mask = zm_less(&scope, zm_arange(&scope, 0, N, 1, MLX_FLOAT32),
                             zm_expand_dims(&scope, zm_arange(&scope, 2, M + 2, 1, MLX_FLOAT32), 1));
    assert_int_equal(zmlx_attention_tile_proto(&scores, q, k, stream, &error), ZMLX_OK);
    if (zmlx_scale_mask_softmax(&weights, scores, mask, 0.25f, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    mlx_array y = zm_matmul(&scope, zm_scope_own(&scope, weights), v);
    zm_scope_own(&scope, scores);
    mlx_array stock = zm_scaled_dot_product_attention(&scope, q, k, v, 0.25f, "", mask, none);
    double ours[M * K], theirs[M * K];
    read(ours, &scope, y);
    read(theirs, &scope, stock);
    for (int i = 0; i < M * K; i++) assert_true(fabs(ours[i] - theirs[i]) < 4e-6);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* acc = rnd(acc + rnd(rnd(w) y)), one step after the other. */
static void test_combine_exact_bits(void **state) {
    (void)state;
    enum { K = 7, D = 33 };
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = zm_astype(&scope, random_floats(&scope, 8, SHAPE(K, D)), MLX_BFLOAT16),
              w = random_floats(&scope, 9, SHAPE(K)), z = {NULL};
    w = zm_multiply(&scope, w, zm_scalar(&scope, 0.37, MLX_FLOAT32)); /* no longer a bfloat16 */
    if (zmlx_moe_combine_exact(&z, y, w, stream, &error)) fail_msg("%s: %s", error.where, error.message);
    double got[D], values[K * D], weights[K];
    read(got, &scope, zm_scope_own(&scope, z));
    read(values, &scope, y);
    read(weights, &scope, w);
    for (int i = 0; i < D; i++) {
        float sum = 0;
        for (int k = 0; k < K; k++) {
            float rounded = zm_bfloat16_to_float(zm_bfloat16_from_float((float)weights[k]));
            float product = zm_bfloat16_to_float(zm_bfloat16_from_float(rounded * (float)values[k * D + i]));
            sum = zm_bfloat16_to_float(zm_bfloat16_from_float(sum + product));
        }
        assert_true(got[i] == (double)sum);
    }
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* Equal logits: the lower indices first, but for argpartition's order. */
static void test_ties(void **state) {
    (void)state;
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = zm_zeros(&scope, SHAPE(64), MLX_FLOAT32), w = {NULL}, i = {NULL};
    double found[2];
    assert_int_equal(zmlx_top2_gating_softmax(&w, &i, x, MLX_FLOAT32, stream, &error), ZMLX_OK);
    read(found, &scope, i);
    assert_true(found[0] == 0 && found[1] == 1);
    read(found, &scope, w);
    assert_true(found[0] == 0.5 && found[1] == 0.5);
    assert_int_equal(zmlx_router_argpartition_logits_topk(&w, &i, x, 2, MLX_FLOAT32, stream, &error), ZMLX_OK);
    read(found, &scope, i);
    assert_true(found[0] == 62 && found[1] == 63);
    mlx_array_free(w);
    mlx_array_free(i);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* One row of cosines and sines: no offset; the same as position 0 of a table. */
static void test_decode_row(void **state) {
    (void)state;
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array nope = random_floats(&scope, 1, SHAPE(1, 2, 1, 3)), rope = random_floats(&scope, 2, SHAPE(1, 2, 1, 4));
    mlx_array kv_nope = random_floats(&scope, 3, SHAPE(1, 1, 1, 3)),
              k_rope = random_floats(&scope, 4, SHAPE(1, 1, 1, 4));
    mlx_array c = random_floats(&scope, 5, SHAPE(1, 2)), s = random_floats(&scope, 6, SHAPE(1, 2));
    mlx_array row_c = zm_reshape(&scope, c, SHAPE(2)), row_s = zm_reshape(&scope, s, SHAPE(2)),
              zero = zm_scalar(&scope, 0, MLX_INT32);
    mlx_array q[2] = {{NULL}, {NULL}}, k[2] = {{NULL}, {NULL}};
    assert_int_equal(
        zmlx_rope_concat_qk_decode(&q[0], &k[0], nope, rope, kv_nope, k_rope, c, s, zero, stream, &error),
        ZMLX_OK);
    if (zmlx_rope_concat_qk_decode(&q[1], &k[1], nope, rope, kv_nope, k_rope, row_c, row_s, none, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    double first[14], second[14];
    read(first, &scope, zm_scope_own(&scope, q[0]));
    read(second, &scope, zm_scope_own(&scope, q[1]));
    assert_memory_equal(first, second, sizeof first);
    mlx_array unused[2] = {zm_scope_own(&scope, k[0]), zm_scope_own(&scope, k[1])};
    expect_argument_error(zmlx_rope_concat_qk_decode(&unused[0], &unused[1], nope, rope, kv_nope, k_rope, c, s, none,
                                                     stream, &error),
                          &error,
                          "zmlx_rope_concat_qk_decode: offset: must be given where cos has rows of positions");
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* The least number of a type has no absolute value in it. */
static void test_least_offset(void **state) {
    (void)state;
    static const mlx_dtype types[] = {MLX_INT8, MLX_INT16, MLX_INT32, MLX_INT64};
    zmlx_error error = {0};
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = random_floats(&scope, 1, SHAPE(1, 1, 1, 2)), table = random_floats(&scope, 2, SHAPE(3, 1));
        mlx_array offset = zm_scalar(&scope, -ldexp(1, 8 * (1 << i) - 1), types[i]);
        mlx_array q = {NULL}, k = {NULL};
        if (zmlx_rope_concat_qk_decode(&q, &k, x, x, x, x, table, table, offset, stream, &error))
            fail_msg("%s: %s", error.where, error.message);
        double found[4];
        read(found, &scope, zm_scope_own(&scope, q));
        assert_true(isfinite(found[0]) && isnan(found[2]) && isnan(found[3]));
        zm_scope_own(&scope, k);
        assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
    }
}

static int rope_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[3] = {{NULL}, {NULL}, {NULL}}, y = {NULL};
    int failed = 0;
    for (size_t i = 0; i < 3 && !failed; i++) failed = mlx_vector_array_get(&in[i], inputs, i);
    if (!failed) failed = zmlx_apply_rope(&y, in[0], in[1], in[2], stream, NULL) != ZMLX_OK;
    if (!failed) failed = mlx_vector_array_set_value(results, y);
    for (int i = 0; i < 3; i++) mlx_array_free(in[i]);
    mlx_array_free(y);
    return failed;
}

/* rope over a batch whose axis in x, cosines and sines is axes[i], -1 for none; an empty array where it is refused. */
static mlx_array batched_rope(zm_scope *scope, const mlx_array *inputs, const int *axes) {
    mlx_array y;
    return map_batch(scope, &y, 1, rope_function, inputs, axes, 3) ? y : none;
}

/* A batch in any of the arrays is a loop over it; one dimension too many is refused. */
static void test_rope_batches(void **state) {
    (void)state;
    enum { B = 3, H = 2, S = 5, N = 4, SIZE = H * S * 2 * N };
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    for (int batched = 1; batched < 8; batched++) {
        mlx_array inputs[3];
        int axes[3];
        for (int i = 0; i < 3; i++) {
            bool has = batched >> i & 1;
            axes[i] = has ? 1 : -1;
            inputs[i] = i ? random_floats(&scope, 20u + (uint32_t)i, has ? (const int[]){S, B, N} : (const int[]){S, N},
                                          has ? 3 : 2)
                          : random_floats(&scope, 20, has ? (const int[]){H, B, S, 2 * N} : (const int[]){H, S, 2 * N},
                                          has ? 4 : 3);
        }
        mlx_array all = batched_rope(&scope, inputs, axes);
        assert_non_null(all.ctx);
        expect_shape(all, SHAPE(B, H, S, 2 * N));
        double ours[B * SIZE], theirs[SIZE];
        read(ours, &scope, all);
        for (int b = 0; b < B; b++) {
            mlx_array own[3], y = {NULL};
            for (int i = 0; i < 3; i++)
                own[i] = axes[i] < 0 ? inputs[i]
                                     : zm_squeeze(&scope, zm_slice_axis(&scope, inputs[i], 1, b, b + 1, 1), 1);
            assert_int_equal(zmlx_apply_rope(&y, own[0], own[1], own[2], stream, &error), ZMLX_OK);
            read(theirs, &scope, zm_scope_own(&scope, y));
            for (int i = 0; i < SIZE; i++) assert_true(ours[b * SIZE + i] == theirs[i]);
        }
    }
    mlx_array deep[] = {zm_zeros(&scope, SHAPE(2, 1, 1, 1, 1, 1, 1, S, 2 * N), MLX_FLOAT32),
                        zm_zeros(&scope, SHAPE(S, N), MLX_FLOAT32), zm_zeros(&scope, SHAPE(S, N), MLX_FLOAT32)};
    assert_null(batched_rope(&scope, deep, (const int[]){0, -1, -1}).ctx);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

/* Every index that is read: offsets of either sign, positions of x. */
static void test_checked_indices(void **state) {
    (void)state;
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y[2] = {{NULL}, {NULL}}, x = random_floats(&scope, 1, SHAPE(1, 1, 1, 2)),
              table = random_floats(&scope, 2, SHAPE(3, 1));
    zmlx_catalog_check_indices(true);
    for (int i = 0; i < 2; i++)
        expect_argument_error(zmlx_rope_concat_qk_decode(&y[0], &y[1], x, x, x, x, table, table,
                                                         zm_scalar(&scope, i ? -3 : 3, MLX_INT32), stream, &error),
                              &error, "zmlx_rope_concat_qk_decode: offset: element 0 is out of range; S is 3");
    zmlx_status status = zmlx_rope_concat_qk_decode(&y[0], &y[1], x, x, x, x, table, table,
                                                    zm_scalar(&scope, -2, MLX_INT32), stream, &error);
    mlx_array rows = zm_zeros(&scope, SHAPE(2, 1, 64), MLX_FLOAT32), w = zm_zeros(&scope, SHAPE(3, 1, 8), MLX_UINT32),
              scales = zm_zeros(&scope, SHAPE(3, 1, 1), MLX_FLOAT32),
              index = words(&scope, (uint32_t[]){1, 2}, SHAPE(2));
    expect_argument_error(zmlx_gather_qmm_swiglu(&y[0], rows, w, scales, scales, w, scales, scales, index, index, true,
                                                 64, 4, stream, &error),
                          &error, "zmlx_gather_qmm_swiglu: lhs_indices: element 1 is out of range; ROWS is 2");
    zmlx_catalog_check_indices(false);
    assert_int_equal(status, ZMLX_OK);
    for (int i = 0; i < 2; i++) mlx_array_free(y[i]);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

static void test_refusals(void **state) {
    (void)state;
    zmlx_error error = {0};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array y = {NULL}, i = {NULL}, x = zm_zeros(&scope, SHAPE(2, 3, 4, 8), MLX_FLOAT32),
              c = zm_zeros(&scope, SHAPE(3, 4), MLX_FLOAT32);
    mlx_array short_c = zm_zeros(&scope, SHAPE(3, 3), MLX_FLOAT32), logits = zm_zeros(&scope, SHAPE(2, 8), MLX_FLOAT32);
    mlx_array bias = zm_zeros(&scope, SHAPE(8), MLX_FLOAT32), targets = zm_zeros(&scope, SHAPE(2), MLX_FLOAT32);
    expect_argument_error(zmlx_apply_gqa_rope(&y, x, c, c, 3, stream, &error), &error,
                          "zmlx_apply_gqa_rope: n_kv_heads: expected a divisor of H (4), got 3");
    expect_argument_error(zmlx_apply_gqa_rope(&y, x, short_c, c, 2, stream, &error), &error,
                          "zmlx_apply_gqa_rope: cos: expected shape (3, 4), got (3, 3)");
    expect_argument_error(zmlx_deepseek_router_topk_sigmoid(&y, &i, logits, bias, 2, 3, 1, true, 0, 1, MLX_FLOAT32,
                                                            stream, &error),
                          &error, "zmlx_deepseek_router_topk_sigmoid: n_group: expected a divisor of D (8), got 3");
    expect_argument_error(zmlx_softmax_cross_entropy(&y, logits, targets, MLX_FLOAT32, stream, &error), &error,
                          "zmlx_softmax_cross_entropy: targets: expected an integer type, got float32");
    assert_null(y.ctx);
    assert_int_equal(zm_scope_end(&scope, &error), ZMLX_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_paged_attention_is_attention), cmocka_unit_test(test_scores_and_softmax_are_attention),
        cmocka_unit_test(test_combine_exact_bits),           cmocka_unit_test(test_ties),
        cmocka_unit_test(test_decode_row),                   cmocka_unit_test(test_least_offset),
        cmocka_unit_test(test_rope_batches),                 cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_checked_indices),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
