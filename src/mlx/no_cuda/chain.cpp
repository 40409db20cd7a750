/* SPDX-License-Identifier: MIT */
/* Chains where MLX has no CUDA. */
extern "C" {
#include "base/error.h"
#include "mlx/chain.h"
}

bool zm_chain_available(void) { return false; }

zmlx_status zm_cuda_module_load(zm_cuda_module **module, const char *, zmlx_error *error) {
    *module = nullptr;
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "CUDA", "this MLX was built without it");
}

void *zm_cuda_module_kernel(zm_cuda_module *, const char *, int) { return nullptr; }
int zm_cuda_kernel_registers(void *) { return 0; }

zm_chain *zm_chain_new(const char *) { return nullptr; }
void zm_chain_free(zm_chain *) {}
int zm_chain_input(zm_chain *, mlx_array) { return -1; }
int zm_chain_constant(zm_chain *, mlx_array) { return -1; }
int zm_chain_temporary(zm_chain *, size_t) { return -1; }
int zm_chain_output(zm_chain *, const zm_node_output *) { return -1; }
int zm_chain_overwrite(zm_chain *, mlx_array) { return -1; }
void zm_chain_launch(zm_chain *, const zm_chain_launch_record *) {}
int zm_chain_launches(const zm_chain *) { return 0; }

zmlx_status zm_chain_apply(mlx_array *, zm_chain *, mlx_stream, zmlx_error *error) {
    return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, "CUDA", "this MLX was built without it");
}
