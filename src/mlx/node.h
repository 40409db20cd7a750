/* SPDX-License-Identifier: MIT */
/* A fused operation as an ordinary lazy node of MLX's graph.
 *
 * A zm_node_class is a constant record of C functions; zm_node_apply makes a node of it. The node is
 * evaluated by MLX on the node's stream, after its inputs, like any other operation: it works under
 * eval, async_eval and streams. A transformation without a function here (vjp, jvp, vmap, evaluation on
 * a GPU) is refused with an error that names the class. */
#ifndef ZM_MLX_NODE_H
#define ZM_MLX_NODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/c/mlx.h"
#include "zmlx/status.h"

/* An evaluated array as a node function sees it. Inputs are row-contiguous (a strided input is copied
 * by the node first); outputs are freshly allocated and row-contiguous. */
typedef struct zm_view {
    void *data; /* read only for inputs */
    const int *shape;
    int n_dims;
    mlx_dtype dtype;
    size_t size; /* elements */
} zm_view;

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

    /* Whether two states compute the same function; lets MLX merge and cache. NULL: only a state and
     * itself are equal. */
    bool (*equal)(const void *state_a, const void *state_b);

    void (*free_state)(void *state); /* NULL: nothing to free. May run on the stream's thread. */
} zm_node_class;

enum { ZM_NODE_MAX_DIMS = 8 };

typedef struct zm_node_output {
    int shape[ZM_NODE_MAX_DIMS];
    int n_dims;
    mlx_dtype dtype;
} zm_node_output;

/* Makes the node and sets outputs[0..n_outputs) to its (lazy) results, each owned by the caller.
 * The node takes state over, also on failure; node_class must live as long as the node. */
zmlx_status zm_node_apply(mlx_array *outputs, const zm_node_output *specs, int n_outputs,
                          const zm_node_class *node_class, void *state, const mlx_array *inputs,
                          int n_inputs, mlx_stream stream, zmlx_error *error);

#endif
