/* SPDX-License-Identifier: MIT */
/* A kernel as the runtime sees it: its representation, what was compiled from it, what was derived from it. */
#ifndef ZM_RUNTIME_KERNEL_H
#define ZM_RUNTIME_KERNEL_H

#include <pthread.h>
#include <stdatomic.h>

#include "emit/c/abi.h"
#include "emit/emit.h"
#include "mlx/gpu.h"
#include "mlx/node.h"
#include "runtime/shape.h"
#include "zmlx/kernel.h"
#include "zmlx/kernel_tools.h"

/* What the text of a variant depends on besides types; see zm_emit_request. */
typedef struct zm_layout_choice {
    bool joins_outputs;
    uint32_t summed_outputs;
} zm_layout_choice;

/* One compilation: for a device and the storage types of all inputs and outputs. */
typedef struct zm_variant {
    struct zm_variant *next;
    zm_gpu_kind gpu; /* ZM_GPU_NONE: for the CPU */
    zm_layout_choice choice; /* joins_outputs: on a GPU only */
    zm_storage storages[ZM_IR_MAX_INPUTS + ZM_IR_MAX_OUTPUTS]; /* inputs, then outputs */
    zm_c_kernel *function; /* CPU */
    int scratch_rows;
    char *code, *header; /* Metal, owned, see zm_gpu_launch */
    size_t code_size;
    struct zm_programs *programs; /* CUDA, owned */
    const char *input_names[ZM_IR_MAX_INPUTS + 1], *output_names[ZM_IR_MAX_OUTPUTS]; /* Metal, static */
} zm_variant;

/* Where an input of a derived kernel comes from. */
typedef enum zm_origin_kind {
    ZM_ORIGIN_PRIMAL,
    ZM_ORIGIN_RESULT,
    ZM_ORIGIN_COTANGENT,
    ZM_ORIGIN_TANGENT
} zm_origin_kind;
typedef struct zm_origin {
    zm_origin_kind kind;
    int index;
} zm_origin;

typedef enum zm_derivation { ZM_DERIVATION_VJP, ZM_DERIVATION_JVP } zm_derivation;

typedef struct zm_derived {
    struct zm_derived *next;
    zm_derivation derivation;
    uint64_t inputs; /* bit i: input i is wanted (VJP) or has a tangent (JVP) */
    bool use_results;
    zmlx_kernel *kernel;
    zm_origin origins[ZM_IR_MAX_INPUTS];
    int gradient_outputs[ZM_IR_MAX_INPUTS]; /* VJP: output number that is the gradient of input i, or -1 */
} zm_derived;

struct zmlx_kernel {
    atomic_int n_references;
    zm_ir *forward;  /* owned */
    zm_ir *gradient; /* owned: the caller's own, see zm_lower_gradient; NULL: derived */
    zm_ir *differentiated; /* owned: derivatives are those of this one, with the same inputs and outputs; NULL: of
                              forward */
    char *symbol;    /* a valid identifier made of the name */
    char *label;     /* shown by MLX and in errors */
    zm_node_class node_class;
    /* Not 0: gradients are made for these inputs or for all floats, whatever subset is asked for, and those of other
     * inputs in float32 before they are summed, so that few kernels serve all calls. */
    uint64_t data_inputs;
    uint64_t constant_inputs; /* likewise: floats that nobody differentiates by */
    uint64_t vector_inputs; /* where data_inputs is not 0: those of one row or one element, whatever their shape */
    pthread_mutex_t lock; /* of what follows */
    zm_variant *variants;
    zm_derived *derived;
    zmlx_kernel_info info; /* name NULL: not asked for yet */
};

/* Takes forward and gradient (may be NULL) over, also on failure. */
zmlx_status zm_kernel_new(zmlx_kernel **kernel, zm_ir *forward, zm_ir *gradient, zmlx_error *error);
zmlx_kernel *zm_kernel_retain(zmlx_kernel *kernel);

/* The variant for these types, for the CPU compiled if need be; borrowed from kernel. */
zmlx_status zm_kernel_variant(const zm_variant **variant, zmlx_kernel *kernel, zm_gpu_kind gpu,
                              const zm_layout_choice *choice, const zm_storage *storages, zmlx_error *error);
/* CUDA: the cubin of a part (emit/gpu/gpu.h), compiled if need be. The first one asked for starts the others. */
zmlx_status zm_variant_cubin(const zm_text **cubin, const zm_variant *variant, int part, zmlx_error *error);
void zm_variant_free(zm_variant *variant);

/* The gradient or tangent kernel; borrowed from kernel. use_results: saved outputs are exact, so they may stand in. */
zmlx_status zm_kernel_derive(const zm_derived **derived, zmlx_kernel *kernel, zm_derivation derivation,
                             uint64_t inputs, bool use_results, zmlx_error *error);

/* Whether the gradient of an input, an output of the gradient's representation, is summed over rows where it is
 * computed (summed_outputs of zm_call); of a kernel without data_inputs: where shapes call for it. */
bool zm_kernel_sums_gradient(const zmlx_kernel *kernel, const zm_ir *gradient, int input, int output);

/* Bit i: input i is of floats and no constant. */
uint64_t zm_kernel_float_inputs(const zmlx_kernel *kernel);

/* A number for each parameter of the representation, by its place in ir->parameters. */
typedef struct zm_numbers {
    float parameters[ZM_IR_MAX_PARAMETERS];
    uint64_t seeds[ZM_IR_MAX_PARAMETERS];
} zm_numbers;

/* The public form, checked. */
zmlx_status zm_numbers_from(zm_numbers *numbers, const zmlx_kernel *kernel, const zmlx_kernel_numbers *given,
                            zmlx_error *error);

typedef struct zm_call {
    const mlx_array *inputs;      /* as many as the representation has */
    const zm_shape *shape;        /* NULL: what the inputs broadcast to */
    const mlx_dtype *output_types; /* NULL: that of the first input */
    const zm_numbers *numbers;
    /* Not on Metal: inputs[i] is twice as wide and halves[i] says which half is meant: ZM_LAYOUT_HALF, for the second
     * with ZM_LAYOUT_SECOND; NULL or 0: all. shape is then given, and no input but those of one row broadcasts. */
    const int32_t *halves;
    bool joins_outputs; /* likewise: two outputs of one type are the halves of outputs[0] */
    /* Bit i: output i, of elements, becomes sums over rows, float32 (parts, columns): the sum over rows is that of the
     * parts. For a kernel with row operations. Derivatives take the cotangents of all parts to be the same. */
    uint32_t summed_outputs;
} zm_call;

/* Makes the lazy results, each the caller's: outputs[i] must be empty. */
zmlx_status zm_kernel_call(zmlx_kernel *kernel, mlx_array *outputs, const zm_call *call, mlx_stream stream,
                           zmlx_error *error);

/* Types and shapes of the inputs; sets what they broadcast to. */
zmlx_status zm_kernel_check_inputs(zm_shape *shape, const zmlx_kernel *kernel, const mlx_array *inputs,
                                   zmlx_error *error);

/* Gradients of the inputs named in argument_numbers for a call of this shape; each the caller's. use_results: results
 * are given and exact. */
zmlx_status zm_kernel_call_vjp(mlx_array *gradients, zmlx_kernel *kernel, const zm_shape *shape,
                               const zm_numbers *numbers, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, const mlx_array *cotangents, const mlx_array *results,
                               bool use_results, mlx_stream stream, zmlx_error *error);

/* The state of a node: what zm_kernel_call decided. */
typedef struct zm_application {
    zmlx_kernel *kernel; /* a reference */
    const zm_variant *variant;
    zm_shape shape;
    zm_extent extent;
    zm_numbers numbers;
    float *scratch; /* owned; for each worker */
    size_t scratch_floats; /* of one worker */
    int n_workers;
    bool stream_stores, joins_outputs;
    uint32_t summed_outputs;
} zm_application;

/* Functions of the node class (evaluate.c, transform.c). */
void zm_application_evaluate(const void *state, const zm_view *inputs, int n_inputs, zm_view *outputs, int n_outputs);
zmlx_status zm_application_launch(const void *state, zm_gpu_launch *launch, const zm_view *inputs, int n_inputs,
                                  const zm_view *outputs, int n_outputs, zmlx_error *error);
/* On a GPU: whether the arrays and the second halves of their rows begin at a multiple of 16 bytes. */
bool zm_application_is_aligned(const zm_application *application, const zm_view *inputs, int n_inputs);
/* Parts of its sums over rows; they depend on shape and types alone. */
int64_t zm_application_sum_rows(const zm_application *application);
/* The words of emit/gpu/gpu.h; returns their number. */
int zm_application_words(uint32_t words[ZM_GPU_MAX_SCALARS], const zm_application *application);
/* Workers and scratch; on a GPU the program. */
zmlx_status zm_application_prepare(zm_application *application, zmlx_error *error);
zmlx_status zm_application_vjp(const void *state, mlx_array *gradients, const int *argument_numbers, int n_arguments,
                               const mlx_array *primals, int n_primals, const mlx_array *cotangents,
                               const mlx_array *results, int n_results, mlx_stream stream, zmlx_error *error);
zmlx_status zm_application_jvp(const void *state, mlx_array *result_tangents, int n_results,
                               const int *argument_numbers, int n_arguments, const mlx_array *primals, int n_primals,
                               const mlx_array *tangents, mlx_stream stream, zmlx_error *error);
zmlx_status zm_application_vmap(const void *state, mlx_array *results, int *result_axes, int n_results,
                                const mlx_array *inputs, const int *axes, int n_inputs, mlx_stream stream,
                                zmlx_error *error);

#endif
