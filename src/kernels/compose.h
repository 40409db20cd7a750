/* SPDX-License-Identifier: MIT */
/* Calls of catalogue kernels: what a composed row's function sees.
 *
 *     void zm_compose_linear(zm_catalog_call *call) {
 *         mlx_array z = zm_matmul(call->scope, call->inputs[0], zm_swapaxes(call->scope, call->inputs[1], -1, -2));
 *         zm_call_part(call, call->outputs, "linear_end", (mlx_array[]){z, call->inputs[2]}, NULL, call->output_types);
 *     }
 *
 * It sets call->outputs to arrays of the scope; a failure is kept in the scope. Shapes, types and numbers have been
 * checked against the signature. */
#ifndef ZM_KERNELS_COMPOSE_H
#define ZM_KERNELS_COMPOSE_H

#include "kernels/catalog.h"
#include "mlx/custom.h"
#include "mlx/scope.h"
#include "runtime/kernel.h"

typedef struct zm_catalog_call {
    const zm_kernel_entry *entry;
    char where[80]; /* "zmlx_rmsnorm" */
    zm_scope *scope;
    mlx_array inputs[ZM_SIGNATURE_MAX_INPUTS]; /* indices as uint32 (2^32 - 1: out of range), flags as bool; empty: left
                                                  out */
    bool is_signed[ZM_SIGNATURE_MAX_INPUTS];   /* codes: int8, given as uint8 */
    const zmlx_catalog_value *values;          /* one a number */
    zm_sizes sizes;
    mlx_dtype data_type; /* of the data inputs; float32 without any */
    mlx_dtype output_types[ZM_SIGNATURE_MAX_OUTPUTS];
    bool is_scalar; /* 0-d data was made (1,) */
    mlx_array outputs[ZM_SIGNATURE_MAX_OUTPUTS];
} zm_catalog_call;

/* A size of the signature by its name. */
int zm_call_size(const zm_catalog_call *call, const char *name);

/* Sets results to those of another row, an expression, on arrays that fit it; values as zmlx_catalog_apply takes them
 * (NULL: presets), types of the outputs (NULL: that of the first data input). */
void zm_call_part(zm_catalog_call *call, mlx_array *results, const char *name, const mlx_array *inputs,
                  const zmlx_catalog_value *values, const mlx_dtype *types);

/* Sets outputs to those of the expression row itself. */
void zm_call_expression(zm_catalog_call *call);

/* Gives all outputs, made from these inputs, a gradient of their own (mlx/custom.h). */
void zm_call_set_gradient(zm_catalog_call *call, const mlx_array *inputs, int n_inputs, zm_custom_gradient *gradient,
                          zm_custom_value *value, const void *context, size_t size);
/* Sets outputs to what make sets, with the gradient of the kernel that the row is a profile of. */
void zm_call_profile(zm_catalog_call *call, zm_compose *make);

/* Values as the signature has them, so that whole numbers can be cast; limits that are sizes where these are known. */
zmlx_status zm_catalog_check_numbers(const zm_signature *signature, const zmlx_catalog_value *values,
                                     const zm_sizes *sizes, const char *where, zmlx_error *error);
/* Checks inputs and values and fills the call; scope has begun. */
zmlx_status zm_call_prepare(zm_catalog_call *call, const zm_kernel_entry *entry, zm_scope *scope,
                            const mlx_array *inputs, const zmlx_catalog_value *values, zmlx_error *error);

/* On the CPU: an error that names `what` where these bytes are more than the machine's memory, which the system would
 * promise all the same and then end the process. */
zmlx_status zm_call_check_memory(const zm_catalog_call *call, const char *what, double bytes, zmlx_error *error);

/* The kernel of an expression row, made when first asked for; borrowed. */
zmlx_status zm_catalog_kernel(zmlx_kernel **kernel, const zm_kernel_entry *entry, zmlx_error *error);
/* The same, the caller's (zmlx_kernel_free). body NULL: the row's. */
zmlx_status zm_catalog_kernel_new(zmlx_kernel **kernel, const zm_kernel_entry *entry, const char *body,
                                  zmlx_error *error);
/* The numbers of an expression's kernel; no code is signed. */
zm_numbers zm_catalog_numbers(const zm_kernel_entry *entry, const zmlx_catalog_value *values);
/* Replaces the kernel of a row, taken over, for tests that break it; NULL puts it back. */
void zm_catalog_kernel_replace(const zm_kernel_entry *entry, zmlx_kernel *kernel);

/* Whether it has parameters and all are of one row or one element. */
bool zm_parameters_are_vectors(const zm_kernel_entry *entry);

/* The types of parameters that kernels are called with: all as the data or all float32; on the CPU vectors are always
 * float32. */
bool zm_parameters_are_float32(const zm_catalog_call *call);

#endif
