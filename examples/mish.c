/* SPDX-License-Identifier: MIT */
/* The gradient of an expression is derived: mish inside MLX's value_and_grad. */
#include "example.h"

static zmlx_kernel *mish;
static mlx_stream stream;

/* x -> sum of mish(x). */
static int loss(mlx_vector_array *results, const mlx_vector_array inputs) {
    mlx_array x = mlx_array_new(), y = mlx_array_new(), total = mlx_array_new();
    int failed = mlx_vector_array_get(&x, inputs, 0) || zmlx_kernel_apply(mish, &y, &x, 1, stream, &error) ||
                 mlx_sum_axis(&total, y, 0, false, stream) || mlx_vector_array_set_value(results, total);
    mlx_array_free(x);
    mlx_array_free(y);
    mlx_array_free(total);
    return failed;
}

int main(void) {
    stream = mlx_default_cpu_stream_new();
    const float values[] = {-3, -1, 0, 1, 3};
    mlx_array x = mlx_array_new_data(values, (const int[]){5}, 1, MLX_FLOAT32), slope = mlx_array_new();
    CHECK(zmlx_elementwise(&mish, "mish", "x * tanh(log(1 + exp(x)))", NULL, &error));

    mlx_closure function = mlx_closure_new_func(loss);
    mlx_closure_value_and_grad both = mlx_closure_value_and_grad_new();
    mlx_vector_array inputs = mlx_vector_array_new_value(x);
    mlx_vector_array value = mlx_vector_array_new(), gradient = mlx_vector_array_new();
    CHECK(mlx_value_and_grad(&both, function, (const int[]){0}, 1));
    CHECK(mlx_closure_value_and_grad_apply(&value, &gradient, both, inputs));
    CHECK(mlx_vector_array_get(&slope, gradient, 0));
    show("mish'(x)", slope);

    mlx_vector_array_free(inputs);
    mlx_vector_array_free(value);
    mlx_vector_array_free(gradient);
    mlx_closure_value_and_grad_free(both);
    mlx_closure_free(function);
    mlx_array_free(slope);
    mlx_array_free(x);
    zmlx_kernel_free(mish);
    mlx_stream_free(stream);
}
