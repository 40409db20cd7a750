/* SPDX-License-Identifier: MIT */
/* Activations of a type that is not the model's (an mxfp4 embedding gives bfloat16 in a float32 model) take
 * the unpatched operations, bit for bit: MLX promotes them step by step. */
#include "module_testing.h"
#include "zmlx/patch.h"

static zm_module *const *patched_kinds(size_t *count) {
    static zm_module *modules[5];
    modules[0] = &tree.swiglu->base;
    modules[1] = &tree.moe[0]->base;
    modules[2] = &tree.conv->base;
    modules[3] = &tree.norm->base;
    modules[4] = &tree.head->base;
    *count = 5;
    return modules;
}

/* The output for a bfloat16 input; *dtype is its type. The caller frees. */
static float *output_of_bfloat16(zm_module *module, mlx_dtype *dtype, size_t *count) {
    const int shape[3] = {1, 2, HIDDEN};
    zm_call call = {.mask = {.mode = ""}};
    zm_scope scope;
    zm_scope_begin(&scope, model.stream);
    mlx_array x = zm_astype(&scope, zm_scope_own(&scope, random_array(shape, 3, 5, 1.5f)), MLX_BFLOAT16);
    mlx_array y = zm_module_call(module, &scope, x, &call), wide = {0};
    *dtype = zm_is_set(y) ? mlx_array_dtype(y) : MLX_BOOL;
    zm_scope_keep(&scope, &wide, zm_contiguous(&scope, zm_astype(&scope, y, MLX_FLOAT32)));
    end_scope(&scope);
    assert_int_equal(mlx_array_eval(wide), 0);
    *count = mlx_array_size(wide);
    float *copy = malloc(*count * sizeof *copy);
    assert_non_null(copy);
    memcpy(copy, mlx_array_data_float32(wide), *count * sizeof *copy);
    mlx_array_free(wide);
    return copy;
}

static void test_another_type_is_left_alone(void **state) {
    (void)state;
    size_t n_modules, count;
    zm_module *const *modules = patched_kinds(&n_modules);
    for (size_t i = 0; i < n_modules; i++) {
        mlx_dtype expected_dtype, dtype;
        float *expected = output_of_bfloat16(modules[i], &expected_dtype, &count);
        const zmlx_patch_report *report;
        assert_int_equal(zmlx_patch(&report, &model, NULL, NULL), ZMLX_OK);
        assert_non_null(modules[i]->patch_state);
        float *actual = output_of_bfloat16(modules[i], &dtype, &count);
        zmlx_unpatch(&model);
        assert_int_equal(dtype, expected_dtype);
        assert_memory_equal(actual, expected, count * sizeof *actual);
        free(expected);
        free(actual);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_another_type_is_left_alone, open_tree, close_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
