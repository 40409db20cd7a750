/* SPDX-License-Identifier: MIT */
/* The first kernels of a user, values and gradients against MLX's own operations. */
#include "kernel_testing.h"

typedef mlx_array (*formula)(zm_scope *scope, mlx_array x);

static mlx_array exp_of(zm_scope *scope, mlx_array x) { return zm_exp(scope, x); }

static mlx_array silu_of(zm_scope *scope, mlx_array x) { return zm_multiply(scope, x, zm_sigmoid(scope, x)); }

/* log(1 + exp x) through log-sum-exp of (0, x). */
static mlx_array softplus_of(zm_scope *scope, mlx_array x) {
    mlx_array both[2] = {zm_multiply(scope, x, zm_scalar_like(scope, 0, x)), x};
    return zm_logsumexp(scope, zm_stack(scope, both, 2, -1), -1, false);
}

static mlx_array mish_of(zm_scope *scope, mlx_array x) {
    return zm_multiply(scope, x, zm_tanh(scope, softplus_of(scope, x)));
}

static mlx_array row_sum_of(zm_scope *scope, mlx_array x) { return zm_sum(scope, x, -1, false); }

static mlx_array softmax_of(zm_scope *scope, mlx_array x) { return zm_softmax(scope, x, -1, true); }

/* What both sides of a gradient are asked for: sum(weights * f(x)). */
typedef struct question {
    zmlx_kernel *kernel; /* NULL: the formula */
    formula of_mlx;
    mlx_array weights;
} question;

static int answer(mlx_vector_array *results, const mlx_vector_array inputs, void *payload) {
    const question *asked = payload;
    mlx_array x = {NULL}, result = {NULL};
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    if (mlx_vector_array_get(&x, inputs, 0)) return 1;
    zm_scope_own(&scope, x);
    mlx_array y = asked->kernel ? apply_one(&scope, asked->kernel, x) : asked->of_mlx(&scope, x);
    mlx_array weighted = zm_multiply(&scope, y, asked->weights);
    zm_scope_keep(&scope, &result, zm_sum(&scope, zm_flatten(&scope, weighted, 0, -1), 0, false));
    int failed = zm_scope_end(&scope, NULL) || mlx_vector_array_set_value(results, result);
    mlx_array_free(result);
    return failed;
}

static mlx_array gradient_of(zm_scope *scope, question asked, mlx_array x) {
    mlx_closure function = mlx_closure_new_func_payload(answer, &asked, NULL);
    mlx_closure_value_and_grad with_gradient = mlx_closure_value_and_grad_new();
    mlx_vector_array inputs = mlx_vector_array_new_value(x), values = {NULL}, gradients = {NULL};
    mlx_array gradient = {NULL};
    assert_int_equal(mlx_value_and_grad(&with_gradient, function, (int[]){0}, 1), 0);
    assert_int_equal(mlx_closure_value_and_grad_apply(&values, &gradients, with_gradient, inputs), 0);
    assert_int_equal(mlx_vector_array_get(&gradient, gradients, 0), 0);
    mlx_vector_array_free(values);
    mlx_vector_array_free(gradients);
    mlx_vector_array_free(inputs);
    mlx_closure_value_and_grad_free(with_gradient);
    mlx_closure_free(function);
    return zm_scope_own(scope, gradient);
}

/* Values and gradients in all three types. MLX rounds after each of its operations, so half types are compared with the
 * float32 formula, within one rounding: 2^-11 and 2^-8 relative, and the same in the gradient. */
static void compare(zmlx_kernel *kernel, formula of_mlx, const int *shape, int n_dims) {
    static const struct {
        mlx_dtype dtype;
        double tolerance;
    } types[] = {{MLX_FLOAT32, 2e-6}, {MLX_FLOAT16, 6e-4}, {MLX_BFLOAT16, 5e-3}};
    for (int i = 0; i < COUNT(types); i++) {
        zm_scope scope;
        zm_scope_begin(&scope, stream);
        mlx_array x = numbers(&scope, shape, n_dims, 7, types[i].dtype), wide = zm_astype(&scope, x, MLX_FLOAT32);
        mlx_array expected = of_mlx(&scope, wide), y = apply_one(&scope, kernel, x);
        assert_int_equal(mlx_array_dtype(y), types[i].dtype);
        expect_close(&scope, y, expected, types[i].tolerance);
        mlx_array weights = zm_exp(&scope, zm_multiply(&scope, expected, zm_scalar(&scope, -0.25, MLX_FLOAT32)));
        mlx_array gradient = gradient_of(&scope, (question){kernel, NULL, zm_astype(&scope, weights, types[i].dtype)},
                                         x);
        mlx_array reference = gradient_of(&scope, (question){NULL, of_mlx, weights}, wide);
        assert_int_equal(mlx_array_dtype(gradient), types[i].dtype);
        expect_close(&scope, gradient, reference, 3 * types[i].tolerance); /* the weights are rounded, too */
        end_well(&scope);
    }
    zmlx_kernel_free(kernel);
}

static void fast_exp(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    OK(zmlx_elementwise(&kernel, "fast_exp", "metal::exp(x)", NULL, &failure));
    compare(kernel, exp_of, SHAPE(5, 33));
}

static void mish(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    OK(zmlx_elementwise(&kernel, "mish", "x * tanh(log(1 + exp(x)))", NULL, &failure));
    compare(kernel, mish_of, SHAPE(2, 3, 17));
}

static void silu_with_its_own_gradient(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    zmlx_elementwise_options options = {.gradient = "g * (s + x * s * ((T)1 - s))",
                                        .gradient_prelude = "T s = kk_sigmoid(x);",
                                        .input_only = true};
    double worst;
    OK(zmlx_elementwise(&kernel, "silu", "kk_silu(x)", &options, &failure));
    OK(zmlx_kernel_check_gradient(&worst, kernel, &failure));
    compare(kernel, silu_of, SHAPE(1000));
}

static void row_sum(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    OK(zmlx_reduce(&kernel, "row_sum", "0.0f", "acc + v", NULL, &failure));
    compare(kernel, row_sum_of, SHAPE(3, 129));
}

static void my_softmax(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    zmlx_pass pass1 = {"-INFINITY", "max(acc1, x)", "max(a, b)"};
    zmlx_pass pass2 = {"0.0f", "acc2 + exp(x - s1)", "a + b"};
    OK(zmlx_map_reduce(&kernel, "my_softmax", &pass1, &pass2, "exp(x - s1) / s2", NULL, &failure));
    compare(kernel, softmax_of, SHAPE(7, 100));
}

/* A wrong gradient is seen, by the check and by the comparison with MLX. */
static void wrong_gradient(void **state) {
    (void)state;
    zmlx_kernel *kernel;
    zmlx_elementwise_options options = {.gradient = "g * y * 1.01"};
    double worst;
    OK(zmlx_elementwise(&kernel, "wrong", "exp(x)", &options, &failure));
    EXPECT_ERROR(ZMLX_ERROR_ARGUMENT, zmlx_kernel_check_gradient(&worst, kernel, &failure), "differs", "wrong");
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    mlx_array x = numbers(&scope, SHAPE(16), 3, MLX_FLOAT32), one = zm_scalar(&scope, 1, MLX_FLOAT32);
    mlx_array difference = zm_subtract(&scope, gradient_of(&scope, (question){kernel, NULL, one}, x),
                                       gradient_of(&scope, (question){NULL, exp_of, one}, x));
    float largest;
    mlx_array maximum = zm_max(&scope, difference, 0, false);
    assert_int_equal(mlx_array_item_float32(&largest, maximum), 0);
    assert_true(largest > 1e-3f);
    end_well(&scope);
    zmlx_kernel_free(kernel);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fast_exp),   cmocka_unit_test(mish),       cmocka_unit_test(silu_with_its_own_gradient),
        cmocka_unit_test(row_sum),    cmocka_unit_test(my_softmax), cmocka_unit_test(wrong_gradient),
    };
    return cmocka_run_group_tests(tests, open_kernels, close_kernels);
}
