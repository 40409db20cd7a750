/* SPDX-License-Identifier: MIT */
/* Composed kernels and their gradients over dimensions of no elements and over arrays of no dimension, where MLX's own
 * operations divide by zero or have no gradient. */
#include "mlx_testing.h"
#include "zmlx/catalog.h"

enum { MOST = 16 };

/* Inputs of zeros. */
#define FLOATS(...) zm_zeros(&scope, SHAPE(__VA_ARGS__), MLX_FLOAT32)
#define WORDS(...) zm_zeros(&scope, SHAPE(__VA_ARGS__), MLX_UINT32)

static zmlx_error error;
static zm_scope scope;

/* Applies the kernel and its gradient for cotangents like the outputs; all are evaluated. The first output's shape is
 * SHAPE(...); gradients have their inputs' shapes, and are zeros where every input is. */
static void expect_zeros(const char *name, const mlx_array *inputs, const int *shape, int n_dims) {
    const zmlx_catalog_entry *entry = zmlx_catalog_find(name);
    mlx_array outputs[MOST] = {{NULL}}, gradients[MOST] = {{NULL}}, cotangents[MOST] = {{NULL}};
    assert_false(zm_scope_failed(&scope));
    assert_non_null(entry);
    if (zmlx_catalog_apply(name, outputs, inputs, entry->n_inputs, NULL, stream, &error))
        fail_msg("%s: %s", error.where, error.message);
    for (size_t i = 0; i < entry->n_outputs; i++) assert_int_equal(mlx_array_eval(outputs[i]), 0);
    assert_int_equal(mlx_array_ndim(outputs[0]), n_dims);
    if (n_dims) assert_memory_equal(mlx_array_shape(outputs[0]), shape, (size_t)n_dims * sizeof *shape);
    cotangents[0] = outputs[0];
    if (zmlx_catalog_apply_gradient(name, gradients, inputs, entry->n_inputs, cotangents, NULL, stream, &error))
        fail_msg("%s, gradient: %s", error.where, error.message);
    for (size_t i = 0; i < entry->n_inputs; i++) {
        if (!gradients[i].ctx) continue;
        assert_int_equal(mlx_array_size(gradients[i]), mlx_array_size(inputs[i]));
        assert_int_equal(mlx_array_eval(gradients[i]), 0);
        for (size_t j = 0; j < mlx_array_size(gradients[i]); j++)
            assert_true(mlx_array_data_float32(gradients[i])[j] == 0);
    }
    for (size_t i = 0; i < entry->n_outputs; i++) mlx_array_free(outputs[i]);
    for (size_t i = 0; i < entry->n_inputs; i++) mlx_array_free(gradients[i]);
}

static int begin(void **state) {
    (void)state;
    zm_scope_begin(&scope, stream);
    return 0;
}

static int end(void **state) {
    (void)state;
    return zm_scope_end(&scope, &error) != ZMLX_OK;
}

static void test_no_rows(void **state) {
    (void)state;
    expect_zeros("router_argpartition_logits_topk", (mlx_array[]){FLOATS(4, 0, 64)}, SHAPE(4, 0, 2));
    expect_zeros("gather_qmm_combine",
                 (mlx_array[]){FLOATS(4, 0, 3, 8), FLOATS(5, 8, 6), FLOATS(4, 0, 3), WORDS(4, 0, 3)}, SHAPE(4, 0, 6));
    mlx_array scales = FLOATS(5, 6, 1), words = WORDS(5, 6, 8); /* batch positions of no rows */
    expect_zeros("gather_qmm_swiglu",
                 (mlx_array[]){FLOATS(3, 0, 64), words, scales, scales, words, scales, scales, none, WORDS(3)},
                 SHAPE(3, 0, 6));
}

static void test_nothing_to_sum(void **state) {
    (void)state;
    expect_zeros("gather_qmm_combine", (mlx_array[]){FLOATS(3, 2, 0), FLOATS(5, 0, 6), FLOATS(3, 2), WORDS(3, 2)},
                 SHAPE(3, 6));
    mlx_array scales = FLOATS(5, 6, 0), words = WORDS(5, 6, 0);
    expect_zeros("gather_qmm_swiglu",
                 (mlx_array[]){FLOATS(3, 1, 0), words, scales, scales, words, scales, scales, none, WORDS(3)},
                 SHAPE(3, 1, 6));
}

static void test_no_dimension(void **state) {
    (void)state;
    mlx_array scales = FLOATS(5, 6, 1), words = WORDS(5, 6, 8);
    expect_zeros("gather_qmm_swiglu",
                 (mlx_array[]){FLOATS(3, 1, 64), words, scales, scales, words, scales, scales, WORDS(), WORDS()},
                 SHAPE(1, 6));
    expect_zeros("moe_dispatch", (mlx_array[]){FLOATS(33), WORDS()}, SHAPE(1, 33));
}

static void test_indices_that_broadcast(void **state) {
    (void)state;
    mlx_array scales = FLOATS(5, 6, 1), words = WORDS(5, 6, 8), x = FLOATS(3, 1, 64);
    expect_zeros("gather_qmm_swiglu",
                 (mlx_array[]){x, words, scales, scales, words, scales, scales, WORDS(2, 1), WORDS(4)},
                 SHAPE(2, 4, 1, 6));
    expect_zeros("gather_qmm_swiglu",
                 (mlx_array[]){x, words, scales, scales, words, scales, scales, WORDS(), WORDS(2, 4)},
                 SHAPE(2, 4, 1, 6));
}

static void test_indices_that_do_not_broadcast(void **state) {
    (void)state;
    mlx_array scales = FLOATS(5, 6, 1), words = WORDS(5, 6, 8), y = {NULL};
    const mlx_array inputs[] = {FLOATS(3, 1, 64), words, scales, scales, words, scales, scales, WORDS(2, 3), none};
    assert_int_equal(zmlx_catalog_apply("gather_qmm_swiglu", &y, inputs, COUNT(inputs), NULL, stream, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_non_null(strstr(error.message, "lhs_indices (2, 3) and rhs_indices (5,) do not broadcast"));
    const mlx_array both[] = {FLOATS(3, 1, 64), words, scales, scales, words, scales, scales, WORDS(2, 3), WORDS(5)};
    assert_int_equal(zmlx_catalog_apply("gather_qmm_swiglu", &y, both, COUNT(both), NULL, stream, &error),
                     ZMLX_ERROR_ARGUMENT);
    assert_string_equal(error.message, "rhs_indices: expected a shape that broadcasts with (2, 3), got (5,)");
}

static void test_convolutions_of_no_taps(void **state) {
    (void)state;
    static const char *const names[] = {"fused_conv1d_silu", "fused_conv1d_silu_mlx"};
    for (int i = 0; i < COUNT(names); i++) {
        mlx_array made[2] = {{NULL}};
        assert_int_equal(zmlx_catalog_apply(names[i], made, (mlx_array[]){FLOATS(1, 5, 4), FLOATS(4, 0)}, 2, NULL,
                                            stream, &error),
                         ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.message, "weight: KS is 0; it must be at least 1");
        assert_int_equal(zmlx_catalog_apply(names[i], made, (mlx_array[]){FLOATS(1, 1, 4), FLOATS(4, 3)}, 2, NULL,
                                            stream, &error),
                         ZMLX_ERROR_ARGUMENT);
        assert_string_equal(error.message, "conv_input: expected at least KS - 1 = 2 steps, got 1");
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_no_rows, begin, end),
        cmocka_unit_test_setup_teardown(test_nothing_to_sum, begin, end),
        cmocka_unit_test_setup_teardown(test_no_dimension, begin, end),
        cmocka_unit_test_setup_teardown(test_indices_that_broadcast, begin, end),
        cmocka_unit_test_setup_teardown(test_indices_that_do_not_broadcast, begin, end),
        cmocka_unit_test_setup_teardown(test_convolutions_of_no_taps, begin, end),
    };
    return cmocka_run_group_tests(tests, open_stream, close_stream);
}
