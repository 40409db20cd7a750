/* SPDX-License-Identifier: MIT */
/* Profiles whose values on a GPU come from MLX's own fused operations. Their gradients are the kernel's: on CUDA MLX's
 * gradient of layer_norm is far from the formula for rows of 31, and that of no rows at all is a failed launch. */
#include "kernels/compose.h"
#include "zmlx/catalog.h"

typedef struct profile {
    const zm_kernel_entry *entry;
    zm_compose *make;
    bool is_given[ZM_SIGNATURE_MAX_INPUTS];
    zmlx_catalog_value values[ZM_SIGNATURE_MAX_NUMBERS];
} profile;

/* The given inputs at their places in the signature. */
static void place_inputs(mlx_array *all, const profile *self, const mlx_array *given) {
    for (int i = 0; i < ZM_SIGNATURE_MAX_INPUTS; i++) all[i] = self->is_given[i] ? *given++ : (mlx_array){NULL};
}

static zmlx_status differentiate(const void *context, mlx_array *gradients, const mlx_array *inputs, int n_inputs,
                                 const mlx_array *cotangents, int n_outputs, mlx_stream stream, zmlx_error *error) {
    (void)n_inputs;
    (void)n_outputs;
    const profile *self = context;
    mlx_array all[ZM_SIGNATURE_MAX_INPUTS], found[ZM_SIGNATURE_MAX_INPUTS] = {{NULL}};
    place_inputs(all, self, inputs);
    zmlx_status status =
        zmlx_catalog_apply_gradient(self->entry->row->profile_of, found, all, self->entry->entry.n_inputs, cotangents,
                                    self->values, stream, error);
    for (int i = 0; i < ZM_SIGNATURE_MAX_INPUTS; i++)
        if (self->is_given[i]) *gradients++ = found[i];
    return status;
}

static zmlx_status evaluate(const void *context, mlx_array *outputs, const mlx_array *inputs, int n_inputs,
                            mlx_stream stream, zmlx_error *error) {
    (void)n_inputs;
    const profile *self = context;
    mlx_array all[ZM_SIGNATURE_MAX_INPUTS];
    zm_scope scope;
    zm_catalog_call call;
    place_inputs(all, self, inputs);
    zm_scope_begin(&scope, stream);
    zmlx_status status = zm_call_prepare(&call, self->entry, &scope, all, self->values, error);
    if (!status) self->make(&call);
    for (int i = 0; i < self->entry->signature.n_outputs && !status; i++)
        zm_scope_keep(&scope, &outputs[i], call.outputs[i]);
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

void zm_call_profile(zm_catalog_call *call, zm_compose *make) {
    const zm_signature *signature = &call->entry->signature;
    profile self = {.entry = call->entry, .make = make};
    mlx_array given[ZM_SIGNATURE_MAX_INPUTS];
    int n_given = 0;
    for (int i = 0; i < signature->n_inputs; i++) {
        self.is_given[i] = call->inputs[i].ctx != NULL;
        if (self.is_given[i]) given[n_given++] = call->inputs[i];
    }
    for (int i = 0; i < signature->n_numbers; i++) self.values[i] = call->values[i];
    make(call);
    zm_call_set_gradient(call, given, n_given, differentiate, evaluate, &self, sizeof self);
}
