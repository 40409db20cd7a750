/* SPDX-License-Identifier: MIT */
/* A reduction along the last dimension: what to start from and what to do with each element. */
#include "example.h"

int main(void) {
    mlx_stream stream = mlx_default_cpu_stream_new();
    const float values[] = {1, 2, 3, 4, 10, 20, 30, 40};
    mlx_array x = mlx_array_new_data(values, (const int[]){2, 4}, 2, MLX_FLOAT32);
    mlx_array sum = mlx_array_new(), spread = mlx_array_new();

    zmlx_kernel *row_sum, *deviation;
    CHECK(zmlx_reduce(&row_sum, "row_sum", "0.0f", "acc + v", NULL, &error));
    CHECK(zmlx_kernel_apply(row_sum, &sum, &x, 1, stream, &error));
    show("sum of each row", sum);

    /* Row functions are part of the language, so whole formulas over rows fit in one kernel. */
    const char *text = "T d = x - row_mean(x); sqrt(row_mean(d * d))";
    CHECK(zmlx_map(&deviation, "deviation", &text, 1, NULL, &error));
    CHECK(zmlx_kernel_apply(deviation, &spread, &x, 1, stream, &error));
    show("standard deviation", spread);

    zmlx_kernel_free(row_sum);
    zmlx_kernel_free(deviation);
    mlx_array_free(x);
    mlx_array_free(sum);
    mlx_array_free(spread);
    mlx_stream_free(stream);
}
