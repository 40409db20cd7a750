/* SPDX-License-Identifier: MIT */
/* Kernels at the edges of what they take: names that derivatives use too, integer results, shared numbers. */
#include "kernel_testing.h"

#include "base/text.h"
#include "zmlx/arrays.h"
#include "zmlx/kernel_bench.h"

enum { COUNT_IN = 31 /* and a cotangent: as many inputs as a kernel has */ };
static zmlx_kernel *tested;
static const zmlx_kernel_numbers *given;

/* All outputs of `tested`. */
static int tested_function(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array in[COUNT_IN] = {{NULL}}, out[COUNT_IN] = {{NULL}};
    zmlx_kernel_info info;
    int failed = zmlx_kernel_get_info(&info, tested, &failure) != ZMLX_OK;
    for (size_t i = 0; i < info.n_inputs; i++) failed = failed || mlx_vector_array_get(&in[i], inputs, i);
    failed = failed || zmlx_kernel_apply_with(tested, out, in, info.n_inputs, given, stream, &failure);
    if (!failed) {
        mlx_vector_array made = mlx_vector_array_new_data(out, info.n_outputs);
        failed = mlx_vector_array_set(results, made);
        mlx_vector_array_free(made);
    }
    for (int i = 0; i < COUNT_IN; i++) {
        mlx_array_free(in[i]);
        mlx_array_free(out[i]);
    }
    return failed;
}

static mlx_array element_of(zm_scope *scope, mlx_vector_array vector, size_t index) {
    mlx_array array = {NULL};
    assert_int_equal(mlx_vector_array_get(&array, vector, index), 0);
    return zm_scope_own(scope, array);
}

/* The tangent of a product of two inputs, and both gradients, whatever the inputs and the output are called. */
static void expect_product(const char *first, const char *second, const char *output) {
    const char *names[] = {first, second}, *outputs[] = {output};
    char text[80];
    snprintf(text, sizeof text, "%s * %s", first, second);
    const char *expression = text;
    zmlx_map_options options = {.inputs = names, .n_inputs = 2, .outputs = outputs};
    OK(zmlx_map(&tested, "product", &expression, 1, &options, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[2], t[2], g = numbers(&scope, SHAPE(9), 5, MLX_FLOAT32);
    for (uint32_t i = 0; i < 2; i++) {
        in[i] = numbers(&scope, SHAPE(9), 1 + i, MLX_FLOAT32);
        t[i] = numbers(&scope, SHAPE(9), 3 + i, MLX_FLOAT32);
    }
    mlx_closure function = mlx_closure_new_func(tested_function);
    mlx_vector_array inputs = mlx_vector_array_new_data(in, 2), directions = mlx_vector_array_new_data(t, 2);
    mlx_vector_array values = {NULL}, gradients = {NULL}, tangents = {NULL}, cotangents = mlx_vector_array_new_value(g);
    assert_int_equal(mlx_jvp(&values, &tangents, function, inputs, directions), 0);
    expect_close(&scope, element_of(&scope, tangents, 0),
                 zm_add(&scope, zm_multiply(&scope, in[0], t[1]), zm_multiply(&scope, in[1], t[0])), 1e-6);
    assert_int_equal(mlx_vjp(&values, &gradients, function, inputs, cotangents), 0);
    for (size_t i = 0; i < 2; i++)
        expect_close(&scope, element_of(&scope, gradients, i), zm_multiply(&scope, g, in[1 - i]), 1e-6);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(tangents);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(directions);
    mlx_vector_array_free(inputs);
    mlx_closure_free(function);
    zmlx_kernel_free(tested);
    end_well(&scope);
}

static void names_that_derivatives_use(void **state) {
    (void)state;
    expect_product("x", "t_x", "y");
    expect_product("t_x", "x", "t_t_x");
    expect_product("x", "d_x", "y");
    expect_product("x", "cot_y", "y");
    expect_product("x", "w", "d_x");
    expect_product("x", "w", "t_x");
    expect_product("d_x", "d_d_x", "cot_y");
    expect_product("cot_y", "cot_y_", "y");
}

/* The first output has a cotangent; that of a column's number is zero. */
static void results_that_are_integers(void **state) {
    (void)state;
    static const char *const texts[] = {"row_max(x)", "row_argmax(x)"};
    OK(zmlx_map(&tested, "maximum", texts, 2, NULL, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    const float values[] = {1, 5, 2, 7, 3, 4}, expected[] = {0, 2, 0, 3, 0, 0}, upper[] = {2, 3};
    mlx_array x = zm_from_data(&scope, values, SHAPE(2, 3), MLX_FLOAT32);
    mlx_array g[2] = {zm_from_data(&scope, upper, SHAPE(2), MLX_FLOAT32), {NULL}};
    mlx_array out[2] = {{NULL}, {NULL}};
    OK(zmlx_kernel_apply(tested, out, &x, 1, stream, &failure));
    g[1] = zm_zeros(&scope, SHAPE(2), mlx_array_dtype(out[1]));
    mlx_closure function = mlx_closure_new_func(tested_function);
    mlx_vector_array inputs = mlx_vector_array_new_value(x), results = {NULL}, gradients = {NULL};
    mlx_vector_array cotangents = mlx_vector_array_new_data(g, 2);
    assert_int_equal(mlx_vjp(&results, &gradients, function, inputs, cotangents), 0);
    expect_close(&scope, element_of(&scope, gradients, 0), zm_from_data(&scope, expected, SHAPE(2, 3), MLX_FLOAT32), 0);
    mlx_array gradient = {NULL};
    OK(zmlx_kernel_apply_gradient(tested, &gradient, &x, 1, g, 2, NULL, stream, &failure));
    expect_close(&scope, zm_scope_own(&scope, gradient), zm_from_data(&scope, expected, SHAPE(2, 3), MLX_FLOAT32), 0);
    assert_int_equal(mlx_jvp(&results, &gradients, function, inputs, inputs), 0);
    expect_close(&scope, element_of(&scope, gradients, 0),
                 zm_from_data(&scope, (const float[]){5, 7}, SHAPE(2), MLX_FLOAT32), 0);
    expect_close(&scope, zm_astype(&scope, element_of(&scope, gradients, 1), MLX_FLOAT32),
                 zm_zeros(&scope, SHAPE(2), MLX_FLOAT32), 0);
    mlx_array_free(out[0]);
    mlx_array_free(out[1]);
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(results);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(cotangents);
    mlx_closure_free(function);
    zmlx_kernel_free(tested);
    end_well(&scope);
}

/* mlx_compile merges equal applications: those of other numbers are not. */
static int both_scales(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = {NULL}, y[3] = {{NULL}};
    const float scales[] = {2, 3, 2};
    int failed = mlx_vector_array_get(&x, inputs, 0);
    for (int i = 0; i < 3; i++)
        failed = failed ||
                 zmlx_kernel_apply_with(tested, &y[i], &x, 1, &(zmlx_kernel_numbers){.parameters = &scales[i]}, stream,
                                        &failure);
    mlx_vector_array made = mlx_vector_array_new_data(y, 3);
    failed = failed || mlx_vector_array_set(results, made);
    mlx_vector_array_free(made);
    for (int i = 0; i < 3; i++) mlx_array_free(y[i]);
    mlx_array_free(x);
    return failed;
}

static void compiled_with_several_numbers(void **state) {
    (void)state;
    const char *text = "x * p", *parameter = "p";
    OK(zmlx_map(&tested, "scale", &text, 1, &(zmlx_map_options){.parameters = &parameter, .n_parameters = 1},
                &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(6), 2, MLX_FLOAT32);
    mlx_closure function = mlx_closure_new_func(both_scales), compiled = mlx_closure_new();
    assert_int_equal(mlx_compile(&compiled, function, false), 0);
    mlx_vector_array inputs = mlx_vector_array_new_value(x), results = {NULL};
    for (int pass = 0; pass < 2; pass++) {
        assert_int_equal(mlx_closure_apply(&results, compiled, inputs), 0);
        for (size_t i = 0; i < 3; i++)
            expect_close(&scope, element_of(&scope, results, i),
                         zm_multiply(&scope, x, zm_scalar(&scope, i == 1 ? 3 : 2, MLX_FLOAT32)), 1e-6);
    }
    mlx_vector_array_free(inputs);
    mlx_vector_array_free(results);
    mlx_closure_free(compiled);
    mlx_closure_free(function);
    zmlx_kernel_free(tested);
    end_well(&scope);
}

/* Applications on two streams that feed each other, evaluated at the same time after the kernel was freed. */
static void two_streams(void **state) {
    (void)state;
    enum { N_CHAINS = 8 };
    const char *text = "exp(x - row_max(x)) / row_sum(exp(x - row_max(x)))";
    mlx_stream streams[2];
    mlx_array ends[N_CHAINS];
    mlx_vector_array all = mlx_vector_array_new();
    OK(zmlx_map(&tested, "softmax", &text, 1, NULL, &failure));
    for (int i = 0; i < 2; i++) OK(zmlx_stream_new(&streams[i], MLX_CPU, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(50, 3000), 1, MLX_FLOAT32);
    for (int i = 0; i < N_CHAINS; i++) {
        mlx_array middle = {NULL}, end = {NULL};
        OK(zmlx_kernel_apply(tested, &middle, &x, 1, streams[i % 2], &failure));
        OK(zmlx_kernel_apply(tested, &end, &middle, 1, streams[(i + 1) % 2], &failure));
        mlx_array_free(middle);
        ends[i] = zm_scope_own(&scope, end);
        assert_int_equal(mlx_vector_array_append_value(all, end), 0);
    }
    zmlx_kernel_free(tested);
    assert_int_equal(mlx_async_eval(all), 0);
    mlx_vector_array_free(all);
    mlx_array expected = zm_softmax(&scope, zm_softmax(&scope, x, -1, true), -1, true);
    for (int i = 0; i < N_CHAINS; i++) expect_close(&scope, ends[i], expected, 1e-6);
    end_well(&scope);
    for (int i = 0; i < 2; i++) zmlx_stream_free(streams[i]);
}

/* What MLX has not is refused by name. */
static void benchmark_of_random_numbers(void **state) {
    (void)state;
    const char *text = "random(s) * x", *seed = "s";
    uint64_t number = 3;
    zmlx_comparison comparison;
    OK(zmlx_map(&tested, "noise", &text, 1, &(zmlx_map_options){.seeds = &seed, .n_seeds = 1}, &failure));
    EXPECT_ERROR(ZMLX_ERROR_UNSUPPORTED,
                 zmlx_bench_kernel(&comparison, tested, (const int[]){8}, 1, MLX_FLOAT32,
                                   &(zmlx_kernel_numbers){.seeds = &number}, ZMLX_BENCH_MLX, stream, NULL, &failure),
                 "random");
    zmlx_kernel_free(tested);
    OK(zmlx_elementwise(&tested, "e", "exp(x)", NULL, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT,
                 zmlx_bench_kernel(&comparison, tested, (const int[]){1 << 30, 1 << 30}, 2, MLX_BFLOAT16, NULL,
                                   ZMLX_BENCH_MLX, stream, NULL, &failure),
                 "shape", "inputs and a result of 4611686018.4 GB are more than");
    zmlx_kernel_free(tested);
}

/* Counts without names, and a target that is missing. */
static void missing_texts(void **state) {
    (void)state;
    const char *text = "x + 1";
    char *source;
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT,
                 zmlx_map(&tested, NULL, &text, 1, &(zmlx_map_options){.n_parameters = 1}, &failure), "parameters",
                 "missing");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_map(&tested, NULL, &text, 1, &(zmlx_map_options){.n_seeds = 1}, &failure),
                 "seeds", "missing");
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT,
                 zmlx_map(&tested, NULL, &text, 1, &(zmlx_map_options){.n_parameters = 2, .n_seeds = SIZE_MAX},
                          &failure),
                 "at most", "16 parameters and seeds together");
    OK(zmlx_map(&tested, NULL, &text, 1, NULL, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_emit(&source, tested, NULL, MLX_FLOAT32, &failure), "target");
    assert_null(source);
    zmlx_kernel_free(tested);
}

/* Asking again takes no more memory. */
static void names_are_listed_once(void **state) {
    (void)state;
    const char *text = "random(s) < p ? 0 : x * w", *parameter = "p", *seed = "s";
    zmlx_kernel_info info[2];
    OK(zmlx_map(&tested, NULL, &text, 1,
                &(zmlx_map_options){.parameters = &parameter, .n_parameters = 1, .seeds = &seed, .n_seeds = 1},
                &failure));
    for (int i = 0; i < 2; i++) OK(zmlx_kernel_get_info(&info[i], tested, &failure));
    assert_int_equal(info[1].n_inputs, 2);
    assert_string_equal(info[1].inputs[1], "w");
    assert_string_equal(info[1].outputs[0], "y");
    assert_string_equal(info[1].parameters[0], "p");
    assert_string_equal(info[1].seeds[0], "s");
    assert_true(info[0].inputs == info[1].inputs && info[0].seeds == info[1].seeds);
    zmlx_kernel_free(tested);
}

/* y = 1 x0^2 + 2 x1^2 + ...: more gradients than a kernel has outputs, by both ways to them. */
static void gradients_of_many_inputs(void **state) {
    (void)state;
    zm_text text = {0};
    for (int i = 0; i < COUNT_IN; i++) zm_text_printf(&text, "%s%d * x%d * x%d", i ? " + " : "", i + 1, i, i);
    const char *expression = zm_text_string(&text);
    OK(zmlx_map(&tested, "many", &expression, 1, NULL, &failure));
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array in[COUNT_IN], made[COUNT_IN] = {{NULL}}, g = numbers(&scope, SHAPE(9), 50, MLX_FLOAT32);
    for (uint32_t i = 0; i < COUNT_IN; i++) in[i] = numbers(&scope, SHAPE(9), i, MLX_FLOAT32);
    mlx_closure function = mlx_closure_new_func(tested_function);
    mlx_vector_array inputs = mlx_vector_array_new_data(in, COUNT_IN), cotangents = mlx_vector_array_new_value(g);
    mlx_vector_array values = {NULL}, gradients = {NULL};
    assert_int_equal(mlx_vjp(&values, &gradients, function, inputs, cotangents), 0);
    OK(zmlx_kernel_apply_gradient(tested, made, in, COUNT_IN, &g, 1, NULL, stream, &failure));
    for (size_t i = 0; i < COUNT_IN; i++) {
        mlx_array slope = zm_scalar(&scope, 2.0 * (double)(i + 1), MLX_FLOAT32);
        mlx_array expected = zm_multiply(&scope, g, zm_multiply(&scope, slope, in[i]));
        expect_close(&scope, element_of(&scope, gradients, i), expected, 1e-6);
        expect_close(&scope, zm_scope_own(&scope, made[i]), expected, 1e-6);
    }
    zmlx_kernel *gradient;
    EXPECT_ERROR(ZMLX_ERROR_UNSUPPORTED, zmlx_kernel_gradient(&gradient, tested, &failure), "many", "31 outputs", "16");
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(inputs);
    mlx_closure_free(function);
    zmlx_kernel_free(tested);
    zm_text_free(&text);
    end_well(&scope);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_that_derivatives_use),    cmocka_unit_test(results_that_are_integers),
        cmocka_unit_test(compiled_with_several_numbers), cmocka_unit_test(benchmark_of_random_numbers),
        cmocka_unit_test(missing_texts),                 cmocka_unit_test(names_are_listed_once),
        cmocka_unit_test(two_streams),                   cmocka_unit_test(gradients_of_many_inputs),
    };
    return cmocka_run_group_tests(tests, open_kernels, close_kernels);
}
