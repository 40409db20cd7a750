/* SPDX-License-Identifier: MIT */
/* Weights as inputs of a node, and the node's activations in float32. */
#ifndef ZM_FUSED_OPERAND_H
#define ZM_FUSED_OPERAND_H

#include "fused/cpu/level.h"
#include "fused/fused.h"

enum { ZM_MAX_INPUTS = 48 };

/* The inputs of a node while it is made. */
typedef struct zm_inputs {
    mlx_array arrays[ZM_MAX_INPUTS]; /* borrowed */
    int count;
} zm_inputs;

/* A weight whose arrays are inputs of a node: the format now, the places of the data later. */
typedef struct zm_operand {
    zm_matrix matrix;                     /* pointers are NULL */
    int weight, scales, biases, bias, edges; /* indices of inputs; -1: none */
} zm_operand;

int zm_inputs_add(zm_inputs *inputs, mlx_array array);

/* Checks the weight and the shapes of all its arrays against its fields and adds them to inputs. name: for
 * the error, e.g. "gate projection". */
zmlx_status zm_operand_new(zm_operand *operand, zm_inputs *inputs, const zm_weight *weight, const char *name,
                           zmlx_error *error);
/* The matrix with its data. */
zm_matrix zm_operand_matrix(const zm_operand *operand, const zm_view *inputs);

/* Checks that x is (..., in_features) of a type the nodes take. */
zmlx_status zm_check_activations(mlx_array x, size_t in_features, const char *name, zmlx_error *error);
/* False for what is no float type. */
bool zm_storage_of(zm_storage *storage, mlx_dtype dtype);
/* x's shape and type with another last dimension. */
zm_node_output zm_output_like(mlx_array x, size_t out_features);

/* Rows of x; 0 when it is empty. */
static inline size_t zm_token_count(mlx_array x, size_t in_features) {
    return mlx_array_size(x) / in_features;
}

/* The view's numbers in float32: its own data, or widened into scratch. */
const float *zm_read_floats(const zm_cpu_level *level, const zm_view *view, float *scratch);
/* The same, always copied. */
void zm_copy_floats(const zm_cpu_level *level, const zm_view *view, float *copy);
/* Where a node computes its result, and its rounding to the output's type. */
float *zm_result_floats(const zm_view *output, float *scratch);
void zm_round_floats(const zm_view *output, const float *values);
/* Writes values computed elsewhere, rounded to the output's type. */
void zm_store_floats(const zm_view *output, const float *values);

/* Scratch memory of a node: places are asked for while it is made, then reserved in the pool's memory. */
typedef struct zm_workspace {
    zm_scratch *scratch; /* the pool's */
    size_t size; /* floats */
    bool overflow;
} zm_workspace;

/* The place of count * size floats, aligned to 64 bytes. */
size_t zm_workspace_add(zm_workspace *workspace, size_t count, size_t size);
zmlx_status zm_workspace_reserve(zm_workspace *workspace, zm_pool *pool, zmlx_error *error);
/* Around an evaluation, which may be inside that of another node. */
float *zm_workspace_open(const zm_workspace *workspace);
void zm_workspace_close(const zm_workspace *workspace);

#endif
