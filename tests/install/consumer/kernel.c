/* SPDX-License-Identifier: MIT */
/* A program of a user without mlx-c: an expression becomes an operation on its arrays. The argument is a folder for
 * compiled kernels. */
#include <math.h>
#include <stdio.h>
#include <zmlx/zmlx.h>

static zmlx_error error;

static int fail(const char *what) {
    fprintf(stderr, "%s: %s: %s\n", what, error.where, error.message);
    return 1;
}

int main(int argc, char **argv) {
    const float values[] = {-1, 0, 0.5f, 2};
    mlx_array x = mlx_array_new_data(values, (const int[]){4}, 1, MLX_FLOAT32), y = mlx_array_new();
    mlx_stream stream = mlx_default_cpu_stream_new();
    zmlx_kernel *kernel;
    if (argc != 2 || zmlx_kernel_set_cache(argv[1], NULL, &error)) return fail("cache");
    if (zmlx_elementwise(&kernel, "mish", "x * tanh(log(1 + exp(x)))", NULL, &error)) return fail("kernel");
    if (zmlx_kernel_apply(kernel, &y, &x, 1, stream, &error)) return fail("apply");
    zmlx_kernel_free(kernel);
    if (mlx_array_eval(y)) return fail("evaluation");
    for (int i = 0; i < 4; i++) {
        double expected = values[i] * tanh(log(1 + exp((double)values[i]))), made = mlx_array_data_float32(y)[i];
        if (!(fabs(made - expected) < 1e-6)) return fprintf(stderr, "%g instead of %g\n", made, expected), 1;
    }
    printf("zmlx %s: a kernel on the CPU\n", zmlx_version());
    mlx_array_free(x);
    mlx_array_free(y);
    mlx_stream_free(stream);
    return 0;
}
