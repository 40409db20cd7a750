/* SPDX-License-Identifier: MIT */
/* Gradient and tangent kernels: made when first asked for, kept with their kernel. */
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"
#include "runtime/kernel.h"

/* Inputs and outputs of a kernel have distinct names. */
static bool find_origin(zm_origin *origin, const zm_ir *forward, const char *name) {
    for (int i = 0; i < forward->n_inputs; i++)
        if (!strcmp(name, forward->inputs[i].name)) {
            *origin = (zm_origin){ZM_ORIGIN_PRIMAL, i};
            return true;
        }
    for (int i = 0; i < forward->n_outputs; i++)
        if (!strcmp(name, forward->outputs[i].name)) {
            *origin = (zm_origin){ZM_ORIGIN_RESULT, i};
            return true;
        }
    return false;
}

/* A tangent's inputs are those of the kernel, then the tangents given. */
static void trace_jvp(zm_derived *derived, const zm_ir *forward) {
    int place = 0;
    for (int i = 0; i < forward->n_inputs; i++) derived->origins[place++] = (zm_origin){ZM_ORIGIN_PRIMAL, i};
    for (int i = 0; i < forward->n_inputs; i++)
        if (derived->inputs >> i & 1) derived->origins[place++] = (zm_origin){ZM_ORIGIN_TANGENT, i};
}

/* A gradient's first inputs have the names of what they are, its last are the cotangents of all outputs; its outputs
 * are the gradients wanted, or all given ones. Both in order, for names may end in more underscores than usual. */
static zmlx_status trace_vjp(zm_derived *derived, const zm_ir *forward, bool has_all, zmlx_error *error) {
    const zm_ir *ir = derived->kernel->forward;
    int n_named = ir->n_inputs - forward->n_outputs, output = 0;
    for (int i = 0; i < ir->n_inputs; i++) {
        if (i >= n_named)
            derived->origins[i] = (zm_origin){ZM_ORIGIN_COTANGENT, i - n_named};
        else if (!find_origin(&derived->origins[i], forward, ir->inputs[i].name))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, forward->name, "input %s of its gradient is of no known kind",
                           ir->inputs[i].name);
    }
    for (int i = 0; i < forward->n_inputs; i++)
        derived->gradient_outputs[i] = has_all || (derived->inputs >> i & 1) ? output++ : -1;
    return ZMLX_OK;
}

/* Inputs of one kind with the same gradient share an output. */
static void merge_outputs(zm_derived *derived, const zmlx_kernel *kernel) {
    zm_ir *ir = derived->kernel->forward;
    int *outputs = derived->gradient_outputs, places[ZM_IR_MAX_OUTPUTS], n_kept = 0;
    for (int output = 0; output < ir->n_outputs; output++) places[output] = -1;
    for (int i = 0; i < kernel->forward->n_inputs; i++)
        for (int j = 0; j < i && outputs[i] >= 0; j++)
            if (outputs[j] >= 0 && ir->outputs[outputs[j]].value == ir->outputs[outputs[i]].value &&
                (kernel->data_inputs >> i & 1) == (kernel->data_inputs >> j & 1) &&
                (kernel->vector_inputs >> i & 1) == (kernel->vector_inputs >> j & 1)) {
                outputs[i] = outputs[j];
                break;
            }
    for (int i = 0; i < kernel->forward->n_inputs; i++)
        if (outputs[i] >= 0) places[outputs[i]] = 0;
    for (int output = 0; output < ir->n_outputs; output++)
        if (places[output] == 0) {
            ir->outputs[n_kept] = ir->outputs[output];
            places[output] = n_kept++;
        }
    ir->n_outputs = n_kept;
    for (int i = 0; i < kernel->forward->n_inputs; i++)
        if (outputs[i] >= 0) outputs[i] = places[outputs[i]];
}

static zmlx_status make_representation(zm_ir **made, const zmlx_kernel *kernel, const zm_derived *derived,
                                       zmlx_error *error) {
    const zm_ir *forward = kernel->differentiated ? kernel->differentiated : kernel->forward;
    bool chosen[ZM_IR_MAX_INPUTS];
    for (int i = 0; i < forward->n_inputs; i++) chosen[i] = derived->inputs >> i & 1;
    if (derived->derivation == ZM_DERIVATION_JVP) return zm_ir_jvp(made, forward, chosen, error);
    if (kernel->gradient) return zm_ir_simplify(made, kernel->gradient, error); /* a copy */
    return zm_ir_vjp(made, forward, chosen, derived->use_results, error);
}

static zmlx_status make(zm_derived **made, zmlx_kernel *kernel, const zm_derived *wanted, zmlx_error *error) {
    zm_derived *derived = malloc(sizeof *derived);
    zm_ir *ir = NULL;
    if (!derived) return zm_fail_memory(error);
    *derived = *wanted;
    zmlx_status status = make_representation(&ir, kernel, derived, error);
    if (!status) status = zm_kernel_new(&derived->kernel, ir, NULL, error);
    if (!status && derived->derivation == ZM_DERIVATION_JVP)
        trace_jvp(derived, kernel->forward);
    else if (!status)
        status = trace_vjp(derived, kernel->forward, kernel->gradient, error);
    if (!status && derived->derivation == ZM_DERIVATION_VJP && kernel->data_inputs) merge_outputs(derived, kernel);
    if (status) {
        zmlx_kernel_free(derived->kernel);
        free(derived);
        return status;
    }
    derived->next = kernel->derived;
    *made = kernel->derived = derived;
    return ZMLX_OK;
}

uint64_t zm_kernel_float_inputs(const zmlx_kernel *kernel) {
    uint64_t mask = 0;
    for (int i = 0; i < kernel->forward->n_inputs; i++)
        if (kernel->forward->inputs[i].type == ZM_TYPE_FLOAT) mask |= (uint64_t)1 << i;
    return mask & ~kernel->constant_inputs;
}

zmlx_status zm_kernel_derive(const zm_derived **derived, zmlx_kernel *kernel, zm_derivation derivation,
                             uint64_t inputs, bool use_results, zmlx_error *error) {
    zm_derived wanted = {.derivation = derivation, .inputs = inputs, .use_results = use_results};
    if (derivation == ZM_DERIVATION_JVP || kernel->gradient || kernel->differentiated) wanted.use_results = false;
    if (derivation == ZM_DERIVATION_VJP && kernel->gradient)
        wanted.inputs = 0; /* it has all */
    else if (derivation == ZM_DERIVATION_VJP && kernel->data_inputs)
        wanted.inputs |= inputs & ~kernel->data_inputs ? zm_kernel_float_inputs(kernel) : kernel->data_inputs;
    zmlx_status status = ZMLX_OK;
    pthread_mutex_lock(&kernel->lock);
    zm_derived *known = kernel->derived;
    while (known && (known->derivation != wanted.derivation || known->inputs != wanted.inputs ||
                     known->use_results != wanted.use_results))
        known = known->next;
    if (!known) status = make(&known, kernel, &wanted, error);
    pthread_mutex_unlock(&kernel->lock);
    *derived = status ? NULL : known;
    return status;
}
