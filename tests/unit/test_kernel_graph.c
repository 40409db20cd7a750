/* SPDX-License-Identifier: MIT */
/* A kernel under every transformation of MLX, and how often it is compiled. */
#include "kernel_testing.h"

#include <math.h>

static zmlx_kernel *cube, *norm; /* x * x * x; x / sqrt(mean(x^2) + eps) * w */

static int open_both(void **state) {
    static const char *const names[] = {"x", "w"}, *const eps = "eps";
    const char *text = "x * rsqrt(row_mean(x * x) + eps) * w";
    zmlx_map_options options = {.inputs = names, .n_inputs = 2, .parameters = &eps, .n_parameters = 1};
    if (open_kernels(state)) return 1;
    OK(zmlx_elementwise(&cube, "cube", "x * x * x", NULL, &failure));
    OK(zmlx_map(&norm, "norm", &text, 1, &options, &failure));
    return 0;
}

static int close_both(void **state) {
    zmlx_kernel_free(cube);
    zmlx_kernel_free(norm);
    return close_kernels(state);
}

static int cube_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = {NULL}, y = {NULL};
    int failed = mlx_vector_array_get(&x, inputs, 0) || zmlx_kernel_apply(cube, &y, &x, 1, stream, &failure) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(x);
    mlx_array_free(y);
    return failed;
}

static int norm_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[2] = {{NULL}, {NULL}}, y = {NULL};
    zmlx_kernel_numbers eps = {.parameters = (const float[]){1e-3f}};
    int failed = mlx_vector_array_get(&in[0], inputs, 0) || mlx_vector_array_get(&in[1], inputs, 1) ||
                 zmlx_kernel_apply_with(norm, &y, in, 2, &eps, stream, &failure) ||
                 mlx_vector_array_set_value(results, y);
    mlx_array_free(in[0]);
    mlx_array_free(in[1]);
    mlx_array_free(y);
    return failed;
}

/* The gradient of cube as a function of x: vjp with ones. */
static int slope_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = {NULL}, ones = {NULL};
    mlx_vector_array cotangents = mlx_vector_array_new(), values = {NULL}, gradients = {NULL};
    mlx_closure function = mlx_closure_new_func(cube_function);
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    int failed = mlx_vector_array_get(&x, inputs, 0);
    zm_scope_keep(&scope, &ones,
                  zm_exp(&scope, zm_zeros(&scope, mlx_array_shape(x), (int)mlx_array_ndim(x), MLX_FLOAT32)));
    failed = failed || mlx_vector_array_append_value(cotangents, ones) ||
             mlx_vjp(&values, &gradients, function, inputs, cotangents) || mlx_vector_array_set(results, gradients);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(function);
    mlx_array_free(x);
    mlx_array_free(ones);
    return zm_scope_end(&scope, NULL) || failed;
}

static void derivatives_of_every_order(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(40), 5, MLX_FLOAT32), one = zm_scalar(&scope, 1, MLX_FLOAT32);
    mlx_closure slope = mlx_closure_new_func(slope_function);
    mlx_vector_array inputs = mlx_vector_array_new_value(x), values = {NULL}, gradients = {NULL}, tangents = {NULL};
    mlx_vector_array cotangents = mlx_vector_array_new_value(zm_broadcast_to(&scope, one, SHAPE(40)));
    assert_int_equal(mlx_vjp(&values, &gradients, slope, inputs, cotangents), 0);
    mlx_array three = zm_scalar(&scope, 3, MLX_FLOAT32), six = zm_scalar(&scope, 6, MLX_FLOAT32);
    expect_close(&scope, take(&scope, values, 0), zm_multiply(&scope, three, zm_multiply(&scope, x, x)), 1e-6);
    expect_close(&scope, take(&scope, gradients, 0), zm_multiply(&scope, six, x), 1e-6);
    assert_int_equal(mlx_jvp(&values, &tangents, slope, inputs, cotangents), 0); /* forward over reverse */
    expect_close(&scope, take(&scope, tangents, 0), zm_multiply(&scope, six, x), 1e-6);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(tangents);
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(slope);
    end_well(&scope);
}

/* The tangent and the cotangent see the same derivative: <g, J t> = <J' g, t>; w is (D,), so its gradient is summed. */
static void forward_agrees_with_reverse(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[2] = {numbers(&scope, SHAPE(4, 3, 33), 1, MLX_FLOAT32), numbers(&scope, SHAPE(33), 2, MLX_FLOAT32)};
    mlx_array t[2] = {numbers(&scope, SHAPE(4, 3, 33), 3, MLX_FLOAT32), numbers(&scope, SHAPE(33), 4, MLX_FLOAT32)};
    mlx_array g = numbers(&scope, SHAPE(4, 3, 33), 5, MLX_FLOAT32);
    mlx_closure function = mlx_closure_new_func(norm_function);
    mlx_vector_array inputs = mlx_vector_array_new_data(in, 2), directions = mlx_vector_array_new_data(t, 2);
    mlx_vector_array values = {NULL}, gradients = {NULL}, tangents = {NULL}, cotangents = mlx_vector_array_new_value(g);
    assert_int_equal(mlx_vjp(&values, &gradients, function, inputs, cotangents), 0);
    assert_int_equal(mlx_jvp(&values, &tangents, function, inputs, directions), 0);
    mlx_array forward = zm_multiply(&scope, g, take(&scope, tangents, 0)), reverse[2];
    for (size_t i = 0; i < 2; i++) {
        mlx_array gradient = take(&scope, gradients, i);
        expect_shape(gradient, mlx_array_shape(in[i]), (int)mlx_array_ndim(in[i]));
        reverse[i] = zm_sum(&scope, zm_flatten(&scope, zm_multiply(&scope, gradient, t[i]), 0, -1), 0, false);
    }
    expect_close(&scope, zm_add(&scope, reverse[0], reverse[1]),
                 zm_sum(&scope, zm_flatten(&scope, forward, 0, -1), 0, false), 1e-5);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(tangents);
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(directions);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(function);
    end_well(&scope);
}

static mlx_array norm_of(zm_scope *scope, mlx_array x, mlx_array w) {
    mlx_array in[2] = {x, w}, y = {NULL};
    zmlx_kernel_numbers eps = {.parameters = (const float[]){1e-3f}};
    OK(zmlx_kernel_apply_with(norm, &y, in, 2, &eps, stream, &failure));
    return zm_scope_own(scope, y);
}

/* A batch axis in any place equals a loop over it; the other input has none. */
static void batches(void **state) {
    (void)state;
    for (int axis = 0; axis < 3; axis++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, SHAPE(3, 5, 4), 1, MLX_FLOAT32);
        int length = zm_dim(x, axis == 2 ? 1 : 2), batch = zm_dim(x, axis);
        mlx_array w = numbers(&scope, &length, 1, 2, MLX_FLOAT32);
        mlx_array mapped;
        assert_true(
            map_batch(&scope, &mapped, 1, norm_function, (const mlx_array[]){x, w}, (const int[]){axis, -1}, 2));
        mlx_array rows[8];
        for (int i = 0; i < batch; i++)
            rows[i] = norm_of(&scope, zm_squeeze(&scope, zm_slice_axis(&scope, x, axis, i, i + 1, 1), axis), w);
        expect_close(&scope, mapped, zm_stack(&scope, rows, (size_t)batch, 0), 1e-6);
        end_well(&scope);
    }
}

static void compiled_and_asynchronous(void **state) {
    (void)state;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(3, 7), 9, MLX_FLOAT32);
    mlx_closure function = mlx_closure_new_func(cube_function), compiled = mlx_closure_new();
    assert_int_equal(mlx_compile(&compiled, function, false), 0);
    mlx_vector_array inputs = mlx_vector_array_new_value(x), results = {NULL};
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(mlx_closure_apply(&results, compiled, inputs), 0);
        assert_int_equal(mlx_async_eval(results), 0);
        expect_close(&scope, take(&scope, results, 0), zm_multiply(&scope, x, zm_multiply(&scope, x, x)), 1e-6);
    }
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(results);
    mlx_closure_free(compiled);
    mlx_closure_free(function);
    end_well(&scope);
}

/* A graph outlives its kernel. */
static void freed_before_evaluation(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    OK(zmlx_elementwise(&kernel, "short lived", "x + 1", NULL, &failure));
    mlx_array x = numbers(&scope, SHAPE(9), 1, MLX_FLOAT32), y = apply_one(&scope, kernel, x);
    zmlx_kernel_free(kernel);
    expect_close(&scope, y, zm_add(&scope, x, zm_scalar(&scope, 1, MLX_FLOAT32)), 1e-6);
    end_well(&scope);
}

/* One compilation serves all shapes, broadcasts, layouts, parameters and seeds; each type has its own. */
static void compiles_once(void **state) {
    (void)state;
    static const char *const names[] = {"x", "w"}, *const p = "p", *const seed = "seed";
    const char *text = "random(seed) < p ? 0 : x * rsqrt(row_mean(x * x) + p) * w";
    zmlx_map_options options = {.inputs = names, .n_inputs = 2, .parameters = &p, .n_parameters = 1, .seeds = &seed,
                                .n_seeds = 1};
    zmlx_kernel *kernel;
    OK(zmlx_map(&kernel, "dropped norm", &text, 1, &options, &failure));
    static const int shapes[][3] = {{1, 1, 1}, {2, 3, 5}, {4, 1, 1024}, {1, 7, 64}, {0, 3, 4}};
    uint64_t before = zmlx_kernel_get_counts().compiled;
    for (int i = 0; i < COUNT(shapes); i++) {
        for (uint64_t number = 1; number < 4; number++) {
            zm_scope scope;
            zm_scope_begin(&scope, stream);
            mlx_array in[2] = {numbers(&scope, shapes[i], 3, 1, MLX_FLOAT32),
                               number == 1 ? numbers(&scope, &shapes[i][2], 1, 2, MLX_FLOAT32)
                                           : zm_scalar(&scope, 2, MLX_FLOAT32)};
            float parameter = 0.125f * (float)number;
            mlx_array y = {NULL};
            OK(zmlx_kernel_apply_with(kernel, &y, in, 2, &(zmlx_kernel_numbers){&parameter, &number}, stream,
                                      &failure));
            assert_int_equal(mlx_array_eval(y), 0);
            mlx_array_free(y);
            end_well(&scope);
        }
    }
    assert_int_equal(zmlx_kernel_get_counts().compiled - before, 1);
    zmlx_kernel_free(kernel);
    OK(zmlx_map(&kernel, "dropped norm", &text, 1, &options, &failure)); /* the same text again */
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[2] = {numbers(&scope, SHAPE(2, 2), 1, MLX_FLOAT32), zm_scalar(&scope, 2, MLX_FLOAT32)}, y = {NULL};
    zmlx_kernel_numbers given = {(const float[]){0.5f}, (const uint64_t[]){7}};
    OK(zmlx_kernel_apply_with(kernel, &y, in, 2, &given, stream, &failure));
    assert_int_equal(zmlx_kernel_get_counts().compiled - before, 1);
    mlx_array_free(y);
    in[0] = zm_astype(&scope, in[0], MLX_FLOAT16);
    y = (mlx_array){NULL};
    OK(zmlx_kernel_apply_with(kernel, &y, in, 2, &given, stream, &failure));
    assert_int_equal(zmlx_kernel_get_counts().compiled - before, 2);
    mlx_array_free(y);
    end_well(&scope);
    zmlx_kernel_free(kernel);
}

/* Inside value_and_grad the whole gradient is one kernel: no operation of MLX but the seed of ones. */
static void one_gradient_kernel(void **state) {
    (void)state;
    uint64_t before = zmlx_kernel_get_counts().compiled;
    zmlx_kernel *kernel, *gradient;
    zmlx_kernel_info info;
    OK(zmlx_elementwise(&kernel, "long", "tanh(exp(-x * x) + sigmoid(3 * x)) * x", NULL, &failure));
    OK(zmlx_kernel_gradient(&gradient, kernel, &failure));
    OK(zmlx_kernel_get_info(&info, gradient, &failure));
    assert_int_equal(info.n_inputs, 2);
    assert_string_equal(info.inputs[0], "x");
    assert_string_equal(info.inputs[1], "cot_y");
    assert_int_equal(info.n_outputs, 1);
    assert_string_equal(info.outputs[0], "d_x");
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[2] = {numbers(&scope, SHAPE(50), 1, MLX_FLOAT32), numbers(&scope, SHAPE(50), 2, MLX_FLOAT32)};
    mlx_array direct = apply_to(&scope, gradient, in, 2), through = {NULL};
    OK(zmlx_kernel_apply_gradient(kernel, &through, in, 1, &in[1], 1, NULL, stream, &failure));
    expect_close(&scope, zm_scope_own(&scope, through), direct, 0);
    assert_int_equal(zmlx_kernel_get_counts().compiled - before, 1); /* the forward kernel was not needed */
    end_well(&scope);
    zmlx_kernel_free(gradient);
    zmlx_kernel_free(kernel);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(derivatives_of_every_order), cmocka_unit_test(forward_agrees_with_reverse),
        cmocka_unit_test(batches),                    cmocka_unit_test(compiled_and_asynchronous),
        cmocka_unit_test(freed_before_evaluation),    cmocka_unit_test(compiles_once),
        cmocka_unit_test(one_gradient_kernel),
    };
    return cmocka_run_group_tests(tests, open_both, close_both);
}
