/* SPDX-License-Identifier: MIT */
#include "variants.h"

#include <string.h>

typedef struct visit_state {
    variant_visitor *visit;
    void *context;
    const zm_kernel_entry *entry;
    zmlx_kernel *kernel;
    zm_storage data, parameter, any; /* of this variant */
    zm_storage inputs[ZM_IR_MAX_INPUTS], outputs[ZM_IR_MAX_OUTPUTS];
    zmlx_error *error;
} visit_state;

static zm_storage input_storage(const visit_state *self, int i) {
    switch (self->entry->signature.roles[i]) {
    case ZM_ROLE_DATA: return self->data;
    case ZM_ROLE_CONSTANT:
    case ZM_ROLE_PARAMETER: return self->parameter;
    case ZM_ROLE_STATE: return ZM_STORAGE_FLOAT32;
    case ZM_ROLE_INDEX:
    case ZM_ROLE_WORD: return ZM_STORAGE_UINT32;
    default: return ZM_STORAGE_UINT8;
    }
}

static zm_storage output_storage(const visit_state *self, int i) {
    const char *type = self->entry->signature.outputs[i].type;
    if (!type[0]) return self->data;
    if (!strcmp(type, "any")) return self->any;
    if (!strcmp(type, "uint32")) return ZM_STORAGE_UINT32;
    return strcmp(type, "uint8") ? ZM_STORAGE_FLOAT32 : ZM_STORAGE_UINT8;
}

static zmlx_status visit_gradient(const visit_state *self, uint64_t inputs) {
    const zm_ir *forward = self->kernel->forward;
    const zm_derived *derived;
    bool exact = true;
    for (int i = 0; i < forward->n_outputs; i++) exact &= self->outputs[i] == ZM_STORAGE_FLOAT32;
    ZM_TRY(zm_kernel_derive(&derived, self->kernel, ZM_DERIVATION_VJP, inputs, exact, self->error));
    const zm_ir *ir = derived->kernel->forward;
    zm_storage in[ZM_IR_MAX_INPUTS], out[ZM_IR_MAX_OUTPUTS];
    for (int i = 0; i < ir->n_inputs; i++) {
        int from = derived->origins[i].index;
        in[i] = derived->origins[i].kind == ZM_ORIGIN_PRIMAL ? self->inputs[from] : self->outputs[from];
    }
    for (int i = 0; i < forward->n_inputs; i++)
        if (derived->gradient_outputs[i] >= 0)
            out[derived->gradient_outputs[i]] =
                self->kernel->data_inputs >> i & 1 ? self->inputs[i] : ZM_STORAGE_FLOAT32;
    uint32_t summed = 0;
    for (int i = 0; i < forward->n_inputs; i++)
        if (derived->gradient_outputs[i] >= 0 &&
            zm_kernel_sums_gradient(self->kernel, ir, i, derived->gradient_outputs[i]))
            summed |= (uint32_t)1 << derived->gradient_outputs[i];
    zm_emit_request request = {ir, in, out, derived->kernel->symbol, false, summed};
    return self->visit(self->context, self->entry, &request, self->error);
}

static zmlx_status visit_types(visit_state *self) {
    const zm_ir *ir = self->kernel->forward;
    for (int i = 0; i < ir->n_inputs; i++) self->inputs[i] = input_storage(self, i);
    for (int i = 0; i < ir->n_outputs; i++) self->outputs[i] = output_storage(self, i);
    zm_emit_request request = {ir, self->inputs, self->outputs, self->kernel->symbol, false, 0};
    ZM_TRY(self->visit(self->context, self->entry, &request, self->error));
    if (self->entry->row->no_gradient) return ZMLX_OK;
    uint64_t floats = zm_kernel_float_inputs(self->kernel);
    return floats ? visit_gradient(self, floats) : ZMLX_OK;
}

static bool has_role(const zm_kernel_entry *entry, zm_role role) {
    for (int i = 0; i < entry->signature.n_inputs; i++)
        if (entry->signature.roles[i] == role) return true;
    return false;
}

static zmlx_status visit_entry(visit_state *self) {
    static const zm_storage types[] = {ZM_STORAGE_FLOAT32, ZM_STORAGE_FLOAT16, ZM_STORAGE_BFLOAT16};
    bool has_data = has_role(self->entry, ZM_ROLE_DATA),
         has_parameters = has_role(self->entry, ZM_ROLE_PARAMETER) || has_role(self->entry, ZM_ROLE_CONSTANT);
    bool has_any = false;
    for (int i = 0; i < self->entry->signature.n_outputs; i++)
        has_any |= !strcmp(self->entry->signature.outputs[i].type, "any");
    for (int i = 0; i < 3; i++) {
        if (i && !has_data && !has_any) break;
        self->data = has_any ? ZM_STORAGE_FLOAT32 : types[i];
        self->any = types[i];
        for (int wide = 0; wide < (has_parameters ? 2 : 1); wide++) {
            self->parameter = wide ? ZM_STORAGE_FLOAT32 : self->data;
            bool is_widened = !wide && zm_parameters_are_vectors(self->entry); /* on the CPU */
            if (self->data == ZM_STORAGE_FLOAT32 ? !wide : !is_widened) ZM_TRY(visit_types(self));
        }
    }
    return ZMLX_OK;
}

zmlx_status visit_variants(variant_visitor *visit, void *context, zmlx_error *error) {
    visit_state self = {.visit = visit, .context = context, .error = error};
    ZM_TRY(zm_catalog_check(error));
    for (int i = 0; (self.entry = zm_catalog_at(i)); i++) {
        if (self.entry->entry.same_as || !self.entry->row->body) continue;
        ZM_TRY(zm_catalog_kernel_new(&self.kernel, self.entry, NULL, error));
        zmlx_status status = visit_entry(&self);
        zmlx_kernel_free(self.kernel);
        ZM_TRY(status);
    }
    return ZMLX_OK;
}
