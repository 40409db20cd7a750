/* SPDX-License-Identifier: MIT */
/* A fused operation as an ordinary lazy node of MLX's graph.
 *
 * A zm_node_class is a constant record of C functions; zm_node_apply makes a node of it. The node is
 * evaluated by MLX on the node's stream, after its inputs, like any other operation: it works under
 * eval, async_eval, compile and streams. A transformation without a function here (vjp, jvp, vmap, evaluation on
 * a GPU) is refused with an error that names the class. */
#ifndef ZM_MLX_NODE_H
#define ZM_MLX_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

enum { ZM_GPU_MAX_SCALARS = 128 };

/* An evaluated array as a node function sees it. Inputs are row-contiguous (a strided input is copied
 * by the node first); outputs are freshly allocated and row-contiguous. */
typedef struct zm_view {
    void *data; /* read only for inputs */
    const int *shape;
    int n_dims;
    mlx_dtype dtype;
    size_t size;   /* elements */
    size_t offset; /* on a GPU: bytes from the start of its buffer, which is aligned for every access */
} zm_view;

/* The view of an array that is evaluated and row-contiguous, valid as long as the array lives; false: it is not. */
bool zm_view_of(zm_view *view, mlx_array array);
/* Differs for arrays that live at the same time; a handle that was given another array has another one. */
uintptr_t zm_array_id(mlx_array array);

/* A compiled kernel to launch on a GPU through MLX. grid counts threads in all, block those of a block. Pointers are
 * borrowed and live as long as the node's state; a cubin stays for the life of the process, as launches are known by
 * its address. */
typedef struct zm_gpu_launch {
    const char *name;   /* CUDA: the symbol; Metal: a valid identifier */
    const char *code;   /* CUDA: a cubin; Metal: the body's text */
    size_t code_size;
    const char *header; /* Metal: the text before the kernel; NULL with CUDA */
    const char *const *input_names, *const *output_names; /* Metal: as the body names them */
    int64_t grid;
    int block, shared_bytes;
    bool often; /* CUDA: hundreds of launches follow each other, so that the host's time counts. Outputs then come from
                   a pool that keeps their memory (mlx/cuda/pool.hpp); grid / block must be below 2^31 */
    uint32_t scalars[ZM_GPU_MAX_SCALARS]; /* CUDA: 32-bit words after the arrays. Metal has none: there the node's
                                             last input is an array of them */
    int n_scalars;
} zm_gpu_launch;

typedef struct zm_node_class {
    const char *name; /* shown by MLX and in errors, e.g. "zmlx.moe_mlp" */

    /* Computes outputs from inputs on the CPU. Runs on the stream's thread, so it must not touch MLX.
     * state is the node's own. */
    void (*evaluate_cpu)(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs,
                         int n_outputs);

    /* Gradients of the inputs named in argument_numbers: fills gradients[i] (new arrays, owned by the
     * caller). primals, cotangents and results are borrowed. NULL: refused by name. */
    zmlx_status (*vjp)(const void *state, mlx_array *gradients, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals,
                       const mlx_array *cotangents, const mlx_array *results, int n_results,
                       mlx_stream stream, zmlx_error *error);

    /* Tangents of all outputs from those of the inputs in argument_numbers: fills result_tangents[0..n_results). */
    zmlx_status (*jvp)(const void *state, mlx_array *result_tangents, int n_results, const int *argument_numbers,
                       int n_arguments, const mlx_array *primals, int n_primals, const mlx_array *tangents,
                       mlx_stream stream, zmlx_error *error);

    /* The node over a batch: axes[i] is the batch axis of inputs[i], or -1. Fills results and their batch axes. */
    zmlx_status (*vmap)(const void *state, mlx_array *results, int *result_axes, int n_results,
                        const mlx_array *inputs, const int *axes, int n_inputs, mlx_stream stream,
                        zmlx_error *error);

    /* How a GPU computes outputs from inputs (views without data; of outputs and copies, offset is 0): sets *launch.
     * Only called on a GPU's stream, for outputs that are not empty. Inputs are row-contiguous (a strided one is copied
     * first). */
    zmlx_status (*launch_gpu)(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                              const zm_view *outputs, int n_outputs, zmlx_error *error);

    /* Whether two states compute the same function; lets MLX merge and cache. NULL: only a state and
     * itself are equal. */
    bool (*equal)(const void *state_a, const void *state_b);

    void (*free_state)(void *state); /* NULL: nothing to free. May run on the stream's thread. */
} zm_node_class;

enum { ZM_NODE_MAX_DIMS = 8, ZM_REPLACES_ANY = -1 };

typedef struct zm_node_output {
    int shape[ZM_NODE_MAX_DIMS];
    int n_dims;
    mlx_dtype dtype;
    /* 0: a new buffer. i > 0 (on the CPU only): input i goes on as this output, of the same shape and type and in the
     * same buffer, which the function finds as it is. It must only write elements that nobody reads through
     * the input, or through what the input continues, after this node. */
    int continues;
    /* i > 0, on the CPU: where nobody else needs input i - 1, of the same shape and type, this output takes over its
     * buffer, which the function sees by their equal data; else, and by 0, it has a new one. ZM_REPLACES_ANY: any input
     * that is so. */
    int replaces;
} zm_node_output;

/* Shaped and typed like a. Of more dimensions than a node has, as batches of batches make them, only their number is
 * kept: such an output is refused when the node is made. */
zm_node_output zm_output_as(mlx_array a);

/* Makes the node and sets outputs[0..n_outputs) to its (lazy) results, each owned by the caller.
 * The node takes state over, also on failure; node_class must live as long as the node. */
zmlx_status zm_node_apply(mlx_array *outputs, const zm_node_output *specs, int n_outputs,
                          const zm_node_class *node_class, void *state, const mlx_array *inputs,
                          int n_inputs, mlx_stream stream, zmlx_error *error);

#endif
