/* SPDX-License-Identifier: MIT */
/* Rows of tables against MLX's take and dequantize, bit by bit. */
#include "fused_node_testing.h"

static mlx_array ids_of(zm_scope *scope, const int32_t *ids, const int *shape, int n_dims) {
    return zm_from_data(scope, ids, shape, n_dims, MLX_INT32);
}

static mlx_array expected_rows(zm_scope *scope, mlx_array ids, const zm_weight *table) {
    mlx_array scales = zm_astype(scope, zm_take(scope, table->scales, ids, 0), MLX_FLOAT32);
    mlx_array biases = zm_astype(scope, zm_take(scope, table->biases, ids, 0), MLX_FLOAT32);
    return zm_dequantize(scope, zm_take(scope, table->weight, ids, 0), scales, biases, table->quantization);
}

static void rows_are_those_of_mlx(void **state) {
    (void)state;
    static const int widths[] = {2, 3, 4, 5, 6, 8}, group_sizes[] = {32, 64, 128};
    static const int32_t ids[] = {0, 36, 5, 5, -1, -37, 17, 1};
    for (int w = 0; w < 6; w++)
        for (int g = 0; g < 6; g++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            zm_weight table = random_weight(&scope, 0, 37, 256,
                                            (zm_quantization){group_sizes[g % 3], widths[w], "affine"},
                                            g < 3 ? MLX_FLOAT32 : MLX_BFLOAT16);
            assert_true(zm_fused_embedding_supported(&table));
            mlx_array one = ids_of(&scope, ids + 1, (const int[]){1, 1}, 2),
                      some = ids_of(&scope, ids, (const int[]){2, 4}, 2);
            expect_same(&scope, zm_fused_embedding(&scope, one, &table), expected_rows(&scope, one, &table), 0);
            expect_same(&scope, zm_fused_embedding(&scope, some, &table), expected_rows(&scope, some, &table), 0);
            end_well(&scope);
        }
}

static void missing_rows_are_not_numbers(void **state) {
    (void)state;
    static const int32_t ids[] = {37, -38, INT32_MAX, INT32_MIN};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_weight table = random_weight(&scope, 0, 37, 64, (zm_quantization){64, 4, "affine"}, MLX_FLOAT32);
    double *y = numbers(&scope, zm_fused_embedding(&scope, ids_of(&scope, ids, (const int[]){4}, 1), &table));
    for (int i = 0; i < 4 * 64; i++) assert_true(isnan(y[i]));
    free(y);
    end_well(&scope);
}

static void wrong_arguments_are_refused(void **state) {
    (void)state;
    static const int32_t ids[] = {1};
    for (int wrong = 0; wrong < 4; wrong++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        zm_quantization quantization = {64, 4, "affine"};
        mlx_array id = ids_of(&scope, ids, (const int[]){1}, 1);
        zm_weight table = random_weight(&scope, wrong == 3 ? 2 : 0, 37, 64, quantization,
                                        wrong == 1 ? MLX_FLOAT16 : MLX_FLOAT32);
        if (wrong == 0) id = zm_astype(&scope, id, MLX_FLOAT32);
        if (wrong == 2) table.scales = table.biases = id;
        assert_int_equal(zm_fused_embedding_supported(&table), wrong == 0 || wrong == 3);
        assert_false(zm_is_set(zm_fused_embedding(&scope, id, &table)));
        zmlx_error error;
        assert_int_not_equal(zm_scope_end(&scope, &error), ZMLX_OK);
        assert_string_equal(error.where, "zmlx.embedding");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_those_of_mlx),
        cmocka_unit_test(missing_rows_are_not_numbers),
        cmocka_unit_test(wrong_arguments_are_refused),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
