/* SPDX-License-Identifier: MIT */
/* Gradient and tangent kernels: made when first asked for, kept with their kernel. */
#include <stdlib.h>
#include <string.h>

#include "ir/passes.h"
#include "runtime/kernel.h"

static bool has_prefix(const char *name, const char *prefix, const char *rest) {
    size_t length = strlen(prefix);
    return !strncmp(name, prefix, length) && !strcmp(name + length, rest);
}

/* Names are distinct within a kernel, so the first match is the only one. */
static bool find_origin(zm_origin *origin, const zm_ir *forward, const char *name, zm_derivation derivation) {
    for (int i = 0; i < forward->n_inputs; i++) {
        bool is_primal = !strcmp(name, forward->inputs[i].name);
        if (!is_primal && (derivation == ZM_DERIVATION_VJP || !has_prefix(name, "t_", forward->inputs[i].name))) continue;
        *origin = (zm_origin){is_primal ? ZM_ORIGIN_PRIMAL : ZM_ORIGIN_TANGENT, i};
        return true;
    }
    for (int i = 0; i < forward->n_outputs; i++)
        if (!strcmp(name, forward->outputs[i].name)) {
            *origin = (zm_origin){ZM_ORIGIN_RESULT, i};
            return true;
        }
    return false;
}

/* A gradient's last inputs are the cotangents of all outputs, in order. */
static zmlx_status trace(zm_derived *derived, const zm_ir *forward, zmlx_error *error) {
    const zm_ir *ir = derived->kernel->forward;
    int n_named = ir->n_inputs - (derived->derivation == ZM_DERIVATION_VJP ? forward->n_outputs : 0);
    for (int i = 0; i < ir->n_inputs; i++) {
        if (i >= n_named)
            derived->origins[i] = (zm_origin){ZM_ORIGIN_COTANGENT, i - n_named};
        else if (!find_origin(&derived->origins[i], forward, ir->inputs[i].name, derived->derivation))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, forward->name, "input %s of its derivative is of no known kind",
                           ir->inputs[i].name);
    }
    for (int i = 0; i < forward->n_inputs; i++) {
        derived->gradient_outputs[i] = -1;
        for (int j = 0; j < ir->n_outputs; j++)
            if (has_prefix(ir->outputs[j].name, "d_", forward->inputs[i].name)) derived->gradient_outputs[i] = j;
    }
    return ZMLX_OK;
}

static zmlx_status make_representation(zm_ir **made, const zmlx_kernel *kernel, const zm_derived *derived,
                                       zmlx_error *error) {
    const zm_ir *forward = kernel->forward;
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
    if (!status) status = trace(derived, kernel->forward, error);
    if (status) {
        zmlx_kernel_free(derived->kernel);
        free(derived);
        return status;
    }
    derived->next = kernel->derived;
    *made = kernel->derived = derived;
    return ZMLX_OK;
}

zmlx_status zm_kernel_derive(const zm_derived **derived, zmlx_kernel *kernel, zm_derivation derivation,
                             uint64_t inputs, bool use_results, zmlx_error *error) {
    zm_derived wanted = {.derivation = derivation, .inputs = inputs, .use_results = use_results};
    if (derivation == ZM_DERIVATION_JVP || kernel->gradient) wanted.use_results = false;
    if (derivation == ZM_DERIVATION_VJP && kernel->gradient) wanted.inputs = 0; /* it has all */
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
