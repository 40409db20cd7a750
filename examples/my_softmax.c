/* SPDX-License-Identifier: MIT */
/* Two reductions over a row and what to write from them; the text is the same for every device. */
#include "example.h"

#include <string.h>

int main(void) {
    mlx_stream stream = mlx_default_cpu_stream_new();
    const float values[] = {1, 2, 3, 4, 0, 0, 0, 0};
    mlx_array x = mlx_array_new_data(values, (const int[]){2, 4}, 2, MLX_FLOAT32), y = mlx_array_new();

    zmlx_pass largest = {.init = "-INFINITY", .update = "max(acc1, x)", .reduce = "max(a, b)"};
    zmlx_pass total = {.init = "0.0f", .update = "acc2 + exp(x - s1)", .reduce = "a + b"};
    zmlx_kernel *softmax;
    CHECK(zmlx_map_reduce(&softmax, "my_softmax", &largest, &total, "exp(x - s1) / s2", NULL, &error));
    CHECK(zmlx_kernel_apply(softmax, &y, &x, 1, stream, &error));
    show("softmax(x)", y);

    char *source;
    CHECK(zmlx_kernel_emit(&source, softmax, "metal", MLX_FLOAT16, &error));
    printf("its Metal source has a kernel function: %s\n", strstr(source, "[[kernel]]") ? "yes" : "no");

    free(source);
    zmlx_kernel_free(softmax);
    mlx_array_free(x);
    mlx_array_free(y);
    mlx_stream_free(stream);
}
