/* SPDX-License-Identifier: MIT */
#include <stdlib.h>
#include <string.h>

#include "bench/host_graph.h"
#include "bench/sides.h"

/* Both sides of zmlx_bench_kernel. */
typedef struct subject {
    zmlx_kernel *kernel;
    const zmlx_kernel_numbers *numbers;
    zm_numbers host_numbers;
    mlx_stream stream;
    zmlx_error failure;
} subject;

static int apply_kernel(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zm_ir *ir = self->kernel->forward;
    mlx_array in[ZM_IR_MAX_INPUTS] = {{NULL}}, out[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    size_t n_inputs = (size_t)ir->n_inputs, n_outputs = (size_t)ir->n_outputs;
    int failed = zm_sides_take(in, inputs, n_inputs) ||
                 zmlx_kernel_apply_with(self->kernel, out, in, n_inputs, self->numbers, self->stream, &self->failure);
    if (!failed) failed = zm_sides_give(results, out, n_outputs);
    zm_sides_free(in, n_inputs);
    zm_sides_free(out, n_outputs);
    return failed;
}

static int apply_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zm_ir *ir = self->kernel->forward;
    mlx_array in[ZM_IR_MAX_INPUTS] = {{NULL}}, out[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    int failed = zm_sides_take(in, inputs, (size_t)ir->n_inputs);
    zm_scope scope;
    zm_scope_begin(&scope, self->stream);
    if (!failed) zm_host_graph(&scope, out, self->kernel, in, &self->host_numbers);
    if (!failed && !zm_scope_failed(&scope)) failed = zm_sides_give(results, out, (size_t)ir->n_outputs);
    failed |= zm_scope_end(&scope, &self->failure) != ZMLX_OK;
    zm_sides_free(in, (size_t)ir->n_inputs);
    return failed;
}

zmlx_status zmlx_bench_kernel(zmlx_comparison *comparison, zmlx_kernel *kernel, const int *shape, int n_dims,
                              mlx_dtype dtype, const zmlx_kernel_numbers *numbers, zmlx_bench_baseline baseline,
                              mlx_stream stream, const zmlx_bench_options *options, zmlx_error *error) {
    subject self = {.kernel = kernel, .numbers = numbers, .stream = stream};
    mlx_array inputs[ZM_CONTEST_SETS * ZM_IR_MAX_INPUTS] = {{NULL}};
    zm_error_clear(error);
    *comparison = (zmlx_comparison){0};
    if (!kernel) return zm_fail_null(error, "kernel");
    size_t n_inputs = (size_t)kernel->forward->n_inputs;
    size_t n_arrays = (size_t)zm_sides_sets(stream) * n_inputs;
    double bytes = 0;
    ZM_TRY(zm_sides_check_shape(&bytes, n_arrays, "shape", shape, n_dims, dtype, stream, error));
    ZM_TRY(zm_numbers_from(&self.host_numbers, kernel, numbers, error));
    zmlx_status status = ZMLX_OK;
    for (size_t i = 0; i < n_arrays && !status; i++)
        status = zm_sides_random(&inputs[i], shape, n_dims, dtype, 0, i, stream, error);
    if (!status)
        status = zm_sides_run(comparison, apply_host, apply_kernel, &self, baseline, inputs, n_inputs, stream, options,
                              &self.failure, error);
    zm_sides_free(inputs, n_arrays);
    return status;
}
