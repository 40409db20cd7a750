/* SPDX-License-Identifier: MIT */
/* Applying a kernel by its name, its gradient, its source. */
#include <stdlib.h>
#include <string.h>

#include "kernels/compose.h"
#include "mlx/streams.h"
#include "zmlx/kernel_tools.h"

static zmlx_status find(const zm_kernel_entry **entry, const char *name, zmlx_error *error) {
    *entry = name ? zm_catalog_lookup(name) : NULL;
    if (*entry && !(*entry)->row->is_part) return ZMLX_OK;
    return zm_fail(error, ZMLX_ERROR_ARGUMENT, name ? name : "name",
                   "there is no kernel of this name; see zmlx kernels");
}

/* 0-d data: the last dimension that it was given goes again. */
static void drop_dimension(zm_catalog_call *call) {
    for (int i = 0; i < call->entry->signature.n_outputs; i++) {
        const zm_pattern *pattern = &call->entry->signature.output_patterns[i];
        if (call->outputs[i].ctx && pattern->has_rest && pattern->n_dims == 1 && zm_dim(call->outputs[i], -1) == 1)
            call->outputs[i] = zm_squeeze(call->scope, call->outputs[i], -1);
    }
}

static zmlx_status call_entry(const zm_kernel_entry *entry, mlx_array *outputs, const mlx_array *inputs,
                              const zmlx_catalog_value *values, mlx_stream stream, zmlx_error *error) {
    zmlx_catalog_value presets[ZM_SIGNATURE_MAX_NUMBERS];
    zm_catalog_call call;
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zmlx_catalog_presets(presets, &entry->entry);
    zmlx_status status = zm_call_prepare(&call, entry, &scope, inputs, values ? values : presets, error);
    if (!status) {
        if (entry->row->compose)
            entry->row->compose(&call);
        else
            zm_call_expression(&call);
        if (call.is_scalar) drop_dimension(&call);
        for (int i = 0; i < entry->signature.n_outputs; i++) zm_scope_keep(&scope, &outputs[i], call.outputs[i]);
    }
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    return status ? status : graph;
}

void zm_call_set_gradient(zm_catalog_call *call, const mlx_array *inputs, int n_inputs, zm_custom_gradient *gradient,
                          zm_custom_value *value, const void *context, size_t size) {
    mlx_array made[ZM_SIGNATURE_MAX_OUTPUTS] = {{NULL}};
    int n_outputs = call->entry->signature.n_outputs;
    zmlx_error error;
    if (zm_scope_failed(call->scope)) return;
    for (int i = 0; i < n_outputs; i++) mlx_array_set(&made[i], call->outputs[i]);
    if (zm_custom_vjp(made, n_outputs, inputs, n_inputs, call->where, gradient, value, context, size,
                      call->scope->stream, &error))
        zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
    for (int i = 0; i < n_outputs; i++) call->outputs[i] = zm_scope_own(call->scope, made[i]);
}

zmlx_status zmlx_catalog_apply(const char *name, mlx_array *outputs, const mlx_array *inputs, size_t n_inputs,
                               const zmlx_catalog_value *values, mlx_stream stream, zmlx_error *error) {
    const zm_kernel_entry *entry;
    zm_error_clear(error);
    ZM_TRY(find(&entry, name, error));
    if (n_inputs != entry->entry.n_inputs)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "expected %zu inputs, got %zu", entry->entry.n_inputs,
                       n_inputs);
    if (!outputs || (!inputs && n_inputs)) return zm_fail_null(error, outputs ? "inputs" : "outputs");
    return call_entry(entry, outputs, inputs, values, stream, error);
}

/* The function that MLX differentiates: of the inputs that are floats, giving the outputs that are. */
typedef struct differentiated {
    const zm_kernel_entry *entry;
    const mlx_array *inputs;
    const zmlx_catalog_value *values;
    mlx_stream stream;
    zmlx_error error;
} differentiated;

static bool has_gradient(mlx_array array) {
    if (!array.ctx) return false;
    mlx_dtype dtype = mlx_array_dtype(array);
    return dtype == MLX_FLOAT32 || dtype == MLX_FLOAT16 || dtype == MLX_BFLOAT16;
}

/* Constants have none, whatever their type. */
static bool input_has_gradient(const differentiated *self, int i) {
    return self->entry->signature.roles[i] != ZM_ROLE_CONSTANT && has_gradient(self->inputs[i]);
}

static int call_differentiated(mlx_vector_array *results, const mlx_vector_array primals, void *payload) {
    differentiated *self = payload;
    mlx_array inputs[ZM_SIGNATURE_MAX_INPUTS] = {{NULL}}, outputs[ZM_SIGNATURE_MAX_OUTPUTS] = {{NULL}};
    size_t n_primals = 0;
    int failed = 0;
    for (int i = 0; i < self->entry->signature.n_inputs && !failed; i++) {
        if (input_has_gradient(self, i)) failed = mlx_vector_array_get(&inputs[i], primals, n_primals++);
        else if (self->inputs[i].ctx) failed = mlx_array_set(&inputs[i], self->inputs[i]);
    }
    if (!failed) failed = call_entry(self->entry, outputs, inputs, self->values, self->stream, &self->error) != ZMLX_OK;
    mlx_vector_array made = mlx_vector_array_new();
    for (int i = 0; i < self->entry->signature.n_outputs && !failed; i++)
        if (has_gradient(outputs[i])) failed = mlx_vector_array_append_value(made, outputs[i]);
    if (!failed) failed = mlx_vector_array_set(results, made);
    mlx_vector_array_free(made);
    for (int i = 0; i < ZM_SIGNATURE_MAX_INPUTS; i++) mlx_array_free(inputs[i]);
    for (int i = 0; i < ZM_SIGNATURE_MAX_OUTPUTS; i++) mlx_array_free(outputs[i]);
    return failed;
}

/* Cotangents of the float outputs, zeros where none is given; checked against the outputs. */
static zmlx_status collect_cotangents(mlx_vector_array list, differentiated *self, const mlx_array *cotangents,
                                      zmlx_error *error) {
    mlx_array outputs[ZM_SIGNATURE_MAX_OUTPUTS] = {{NULL}};
    zm_scope scope;
    zmlx_status status = call_entry(self->entry, outputs, self->inputs, self->values, self->stream, error);
    zm_scope_begin(&scope, self->stream);
    for (int i = 0; i < self->entry->signature.n_outputs && !status; i++) {
        if (!has_gradient(outputs[i])) continue;
        const char *name = self->entry->signature.outputs[i].name;
        int n_dims = (int)mlx_array_ndim(outputs[i]);
        mlx_array cotangent = cotangents[i];
        if (!cotangent.ctx)
            cotangent = zm_zeros(&scope, mlx_array_shape(outputs[i]), n_dims, mlx_array_dtype(outputs[i]));
        if (zm_scope_failed(&scope)) break;
        if ((int)mlx_array_ndim(cotangent) != n_dims ||
            (n_dims && memcmp(mlx_array_shape(cotangent), mlx_array_shape(outputs[i]), (size_t)n_dims * sizeof(int)))) {
            char want[128], got[128];
            zm_shape_describe(want, mlx_array_shape(outputs[i]), n_dims);
            zm_shape_describe(got, mlx_array_shape(cotangent), (int)mlx_array_ndim(cotangent));
            status = zm_fail(error, ZMLX_ERROR_ARGUMENT, self->entry->entry.name,
                             "cotangent of %s: expected shape %s, got %s", name, want, got);
            break;
        }
        cotangent = zm_astype(&scope, cotangent, mlx_array_dtype(outputs[i]));
        if (mlx_vector_array_append_value(list, cotangent)) status = zm_mlx_fail(error, self->entry->entry.name);
    }
    zmlx_status graph = zm_scope_end(&scope, status ? NULL : error);
    for (int i = 0; i < ZM_SIGNATURE_MAX_OUTPUTS; i++) mlx_array_free(outputs[i]);
    return status ? status : graph;
}

static zmlx_status differentiate(mlx_array *gradients, differentiated *self, const mlx_array *cotangents,
                                 zmlx_error *error) {
    mlx_vector_array primals = mlx_vector_array_new(), list = mlx_vector_array_new(), results = mlx_vector_array_new(),
                     found = mlx_vector_array_new();
    mlx_closure function = mlx_closure_new_func_payload(call_differentiated, self, NULL);
    zmlx_status status = collect_cotangents(list, self, cotangents, error);
    for (int i = 0; i < self->entry->signature.n_inputs && !status; i++)
        if (input_has_gradient(self, i) && mlx_vector_array_append_value(primals, self->inputs[i]))
            status = zm_mlx_fail(error, self->entry->entry.name);
    mlx_stream before = zm_default_stream_begin(self->stream);
    if (!status && mlx_vjp(&results, &found, function, primals, list)) {
        status = self->error.code ? self->error.code : zm_mlx_fail(error, self->entry->entry.name);
        if (self->error.code && error) *error = self->error;
    }
    zm_default_stream_end(before);
    size_t n_found = 0;
    for (int i = 0; i < self->entry->signature.n_inputs && !status; i++) {
        if (input_has_gradient(self, i)) {
            if (mlx_vector_array_get(&gradients[i], found, n_found++))
                status = zm_mlx_fail(error, self->entry->entry.name);
        } else {
            mlx_array_free(gradients[i]);
            gradients[i] = (mlx_array){NULL};
        }
    }
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(list);
    mlx_vector_array_free(results);
    mlx_vector_array_free(found);
    return status;
}

zmlx_status zmlx_catalog_apply_gradient(const char *name, mlx_array *gradients, const mlx_array *inputs,
                                        size_t n_inputs, const mlx_array *cotangents, const zmlx_catalog_value *values,
                                        mlx_stream stream, zmlx_error *error) {
    const zm_kernel_entry *entry;
    zm_error_clear(error);
    ZM_TRY(find(&entry, name, error));
    if (n_inputs != entry->entry.n_inputs)
        return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "expected %zu inputs, got %zu", entry->entry.n_inputs,
                       n_inputs);
    if (entry->row->no_gradient)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "has no gradient: %s", entry->row->no_gradient);
    if (!gradients || !inputs || !cotangents)
        return zm_fail_null(error, !gradients ? "gradients" : !inputs ? "inputs" : "cotangents");
    differentiated self = {.entry = entry, .inputs = inputs, .values = values, .stream = stream};
    return differentiate(gradients, &self, cotangents, error);
}

static zmlx_status emit_entry(zm_text *all, const zm_kernel_entry *entry, const char *target, mlx_dtype dtype,
                              bool gradient, zmlx_error *error) {
    zmlx_kernel *kernel, *derived = NULL;
    char *text = NULL;
    ZM_TRY(zm_catalog_kernel(&kernel, entry, error));
    if (gradient) ZM_TRY(zmlx_kernel_gradient(&derived, kernel, error));
    zmlx_status status = zmlx_kernel_emit(&text, derived ? derived : kernel, target, dtype, error);
    if (!status) zm_text_append_string(all, text);
    free(text);
    zmlx_kernel_free(derived);
    return status;
}

/* Whether word is one of words, which spaces separate. */
static bool has_word(const char *words, const char *word) {
    size_t size = strlen(word);
    for (const char *found = words; (found = strstr(found, word)); found++)
        if ((found == words || found[-1] == ' ') && (!found[size] || found[size] == ' ')) return true;
    return false;
}

zmlx_status zmlx_catalog_emit(char **text, const char *name, const char *target, mlx_dtype dtype, bool gradient,
                              zmlx_error *error) {
    const zm_kernel_entry *entry;
    zm_text all = {0};
    zmlx_status status = ZMLX_OK;
    zm_error_clear(error);
    *text = NULL;
    ZM_TRY(find(&entry, name, error));
    if (gradient && entry->row->no_gradient)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "has no gradient: %s", entry->row->no_gradient);
    if (entry->row->body) {
        status = emit_entry(&all, entry, target, dtype, gradient, error);
    } else {
        const char *parts = entry->row->parts ? entry->row->parts : "";
        for (int i = 0; zm_catalog_at(i) && !status; i++)
            if (has_word(parts, zm_catalog_at(i)->entry.name))
                status = emit_entry(&all, zm_catalog_at(i), target, dtype, gradient, error);
        if (!status && !all.size)
            status = zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name,
                             "has no source of its own: it is made of MLX's operations");
    }
    *text = status ? NULL : zm_text_take(&all);
    if (!status && !*text) status = zm_fail_memory(error);
    zm_text_free(&all);
    return status;
}
