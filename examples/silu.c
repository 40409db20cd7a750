/* SPDX-License-Identifier: MIT */
/* A gradient of one's own instead of the derived one, and the check that it is right. */
#include "example.h"

int main(void) {
    mlx_stream stream = mlx_default_cpu_stream_new();
    const float values[] = {-2, -0.5f, 0, 0.5f, 2}, ones[] = {1, 1, 1, 1, 1};
    mlx_array x = mlx_array_new_data(values, (const int[]){5}, 1, MLX_FLOAT32);
    mlx_array cotangent = mlx_array_new_data(ones, (const int[]){5}, 1, MLX_FLOAT32);
    mlx_array y = mlx_array_new(), slope = mlx_array_new();

    zmlx_elementwise_options options = {
        .gradient = "g * (s + x * s * ((T)1 - s))",
        .gradient_prelude = "T s = kk_sigmoid(x);",
        .input_only = true,
    };
    zmlx_kernel *silu;
    double worst;
    CHECK(zmlx_elementwise(&silu, "silu", "kk_silu(x)", &options, &error));
    CHECK(zmlx_kernel_check_gradient(&worst, silu, &error));
    printf("largest difference from the derived gradient below 1e-12: %s\n", worst < 1e-12 ? "yes" : "no");

    CHECK(zmlx_kernel_apply(silu, &y, &x, 1, stream, &error));
    CHECK(zmlx_kernel_apply_gradient(silu, &slope, &x, 1, &cotangent, 1, NULL, stream, &error));
    show("silu(x)", y);
    show("silu'(x)", slope);

    zmlx_kernel_free(silu);
    mlx_array_free(x);
    mlx_array_free(cotangent);
    mlx_array_free(y);
    mlx_array_free(slope);
    mlx_stream_free(stream);
}
