/* SPDX-License-Identifier: MIT */
/* One expression becomes an operation: compiled when first applied, taken from the cache afterwards. */
#include "example.h"

int main(void) {
    mlx_stream stream = mlx_default_cpu_stream_new();
    const float values[] = {-1, 0, 0.5f, 1, 2};
    mlx_array x = mlx_array_new_data(values, (const int[]){5}, 1, MLX_FLOAT32), y = mlx_array_new();

    zmlx_kernel *fast_exp;
    CHECK(zmlx_elementwise(&fast_exp, "fast_exp", "metal::exp(x)", NULL, &error));
    CHECK(zmlx_kernel_apply(fast_exp, &y, &x, 1, stream, &error));
    show("exp(x)", y);

    zmlx_kernel_free(fast_exp);
    mlx_array_free(x);
    mlx_array_free(y);
    mlx_stream_free(stream);
}
