/* SPDX-License-Identifier: MIT */
/* Several CUDA kernels, one behind the other, as one lazy node of MLX's graph.
 *
 *     zm_chain *chain = zm_chain_new("zmlx.decode");
 *     int x = zm_chain_input(chain, array);               // lazy
 *     int w = zm_chain_constant(chain, weight);           // evaluated
 *     int h = zm_chain_temporary(chain, bytes);
 *     int y = zm_chain_output(chain, &spec);
 *     zm_chain_launch(chain, &launch);                    // as often as needed; each names the above
 *     zm_chain_apply(outputs, chain, stream, error);      // takes the chain over
 *
 * A constant is taken by its address: its array must stay until the node was evaluated and has run. A weight of a
 * model does, and hundreds of them cost nothing that way.
 *
 * Kernels run in the order given, behind everything evaluated before them on the stream, each with programmatic
 * dependent launch behind the one before: a kernel may read what that one wrote only after griddepcontrol.wait, and
 * must execute griddepcontrol.launch_dependents only after its own wait: then everything older is complete when a
 * kernel begins. Earlier it may only where the next kernel reads nothing before its own wait that was written behind
 * the last kernel which did wait first: of several tokens in a chain, nothing of its own token. All this goes for the
 * kernels of a chain right behind those of another, too.
 * The first failure is kept and reported by zm_chain_apply. */
#ifndef ZM_MLX_CHAIN_H
#define ZM_MLX_CHAIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "mlx/node.h"

/* A loaded cubin, for the life of the process. */
typedef struct zm_cuda_module zm_cuda_module;

/* Whether this MLX runs on CUDA, on a GPU with programmatic dependent launch: compute capability 9.0 or later. */
bool zm_chain_available(void);
/* code is copied by the driver. */
zmlx_status zm_cuda_module_load(zm_cuda_module **module, const char *code, zmlx_error *error);
/* The kernel of that name, allowed shared_bytes of dynamic shared memory, or what its own leaves of a block's; NULL:
 * there is none. */
void *zm_cuda_module_kernel(zm_cuda_module *module, const char *symbol, int shared_bytes);
/* Registers of one of its threads; 0: unknown. */
int zm_cuda_kernel_registers(void *kernel);

enum { ZM_CHAIN_MAX_ARGUMENTS = 24, ZM_CHAIN_MAX_OUTPUTS = 256 };

/* One argument of a kernel: an array's address (place of zm_chain_input and its like), NULL, or a number. */
typedef struct zm_chain_argument {
    enum { ZM_ARGUMENT_ARRAY, ZM_ARGUMENT_NULL, ZM_ARGUMENT_WORD } kind;
    int place;
    uint32_t word;
} zm_chain_argument;

typedef struct zm_chain_launch_record {
    void *kernel; /* zm_cuda_module_kernel */
    int grid, block, shared_bytes;
    zm_chain_argument arguments[ZM_CHAIN_MAX_ARGUMENTS];
    int n_arguments;
} zm_chain_launch_record;

typedef struct zm_chain zm_chain;

zm_chain *zm_chain_new(const char *name /* static */); /* NULL: out of memory */
void zm_chain_free(zm_chain *chain);                   /* one that was not applied; NULL is fine */
int zm_chain_input(zm_chain *chain, mlx_array array);
int zm_chain_constant(zm_chain *chain, mlx_array array);
int zm_chain_temporary(zm_chain *chain, size_t bytes);
int zm_chain_output(zm_chain *chain, const zm_node_output *spec);
/* A lazy array that kernels write into; the next output is the array after that, in the same memory. Nobody may
 * read the array as it was once the chain has run. */
int zm_chain_overwrite(zm_chain *chain, mlx_array array);
void zm_chain_launch(zm_chain *chain, const zm_chain_launch_record *launch);
int zm_chain_launches(const zm_chain *chain);
/* outputs: one for each zm_chain_output and zm_chain_overwrite, in order, owned by the caller; empty after a
 * failure. */
zmlx_status zm_chain_apply(mlx_array *outputs, zm_chain *chain, mlx_stream stream, zmlx_error *error);

#endif
