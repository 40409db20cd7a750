/* SPDX-License-Identifier: MIT */
/* Rows that are expressions: their kernels, and calls of them. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ir/lower.h"
#include "kernels/compose.h"

enum { MAX_ROWS = 512 };

/* By the number of the entry; kept for the life of the process. */
static struct {
    pthread_mutex_t lock;
    zmlx_kernel *kernels[MAX_ROWS], *replaced[MAX_ROWS];
} made = {.lock = PTHREAD_MUTEX_INITIALIZER};

static const char *const signed_suffix = "_is_signed"; /* of a code's name: 1 for int8 */

static zm_type type_of(zm_role role) {
    return role == ZM_ROLE_DATA || zm_role_is_parameter(role) || role == ZM_ROLE_STATE ? ZM_TYPE_FLOAT : ZM_TYPE_UINT;
}

/* One a row: as the first input without its last dimension. */
static zm_level level_of(const zm_signature *signature, int i) {
    const zm_pattern *first = &signature->input_patterns[0], *own = &signature->input_patterns[i];
    return first->has_rest && first->n_dims == 1 && own->has_rest && !own->n_dims ? ZM_LEVEL_ROW : ZM_LEVEL_ELEMENT;
}

/* Of one row or one element: the same for all rows. */
static bool is_vector(const zm_pattern *pattern) {
    return pattern->is_one ||
           (!pattern->has_rest && !pattern->is_second_rest && !pattern->broadcasts && pattern->n_dims == 1);
}

bool zm_parameters_are_vectors(const zm_kernel_entry *entry) {
    bool has_any = false;
    for (int i = 0; i < entry->signature.n_inputs; i++) {
        if (!zm_role_is_parameter(entry->signature.roles[i])) continue;
        if (!is_vector(&entry->signature.input_patterns[i])) return false;
        has_any = true;
    }
    return has_any;
}

/* The CPU's kernels are compiled for float32 alone where parameters are so short. */
static bool widens_vectors(const zm_scope *scope, const zm_kernel_entry *entry) {
    return zm_scope_is_on_cpu(scope) && zm_parameters_are_vectors(entry);
}

typedef struct texts {
    const char *inputs[ZM_SIGNATURE_MAX_INPUTS], *outputs[ZM_SIGNATURE_MAX_OUTPUTS];
    zm_type types[ZM_SIGNATURE_MAX_INPUTS], output_types[ZM_SIGNATURE_MAX_OUTPUTS];
    zm_level levels[ZM_SIGNATURE_MAX_INPUTS];
    const char *parameters[ZM_IR_MAX_PARAMETERS], *seeds[ZM_IR_MAX_PARAMETERS];
    char signs[ZM_SIGNATURE_MAX_INPUTS][80];
} texts;

static zm_map_text describe(texts *self, const zm_kernel_entry *entry, const char *const *body) {
    const zm_signature *signature = &entry->signature;
    zm_map_text text = {.name = entry->row->name,
                        .outputs = body,
                        .n_outputs = 1,
                        .input_names = self->inputs,
                        .n_inputs = signature->n_inputs,
                        .input_types = self->types,
                        .input_levels = self->levels,
                        .output_types = self->output_types,
                        .parameter_names = self->parameters,
                        .seed_names = self->seeds,
                        .header = entry->row->header};
    for (int i = 0; i < signature->n_outputs; i++) {
        self->outputs[i] = signature->outputs[i].name;
        self->output_types[i] = !strncmp(signature->outputs[i].type, "uint", 4) ? ZM_TYPE_UINT : ZM_TYPE_FLOAT;
    }
    if (signature->n_outputs == 1) text.output_names = self->outputs;
    for (int i = 0; i < signature->n_numbers; i++) {
        if (signature->kinds[i] == ZM_NUMBER_SEED)
            self->seeds[text.n_seeds++] = signature->numbers[i].name;
        else if (signature->kinds[i] != ZM_NUMBER_DTYPE)
            self->parameters[text.n_parameters++] = signature->numbers[i].name;
    }
    for (int i = 0; i < signature->n_inputs; i++) {
        self->inputs[i] = signature->inputs[i].name;
        self->types[i] = type_of(signature->roles[i]);
        self->levels[i] = level_of(signature, i);
        if (signature->roles[i] != ZM_ROLE_CODE) continue;
        snprintf(self->signs[i], sizeof self->signs[i], "%.60s%s", signature->inputs[i].name, signed_suffix);
        self->parameters[text.n_parameters++] = self->signs[i];
    }
    return text;
}

static zmlx_status check_outputs(const zm_ir *ir, const zm_signature *signature, zmlx_error *error) {
    bool same = ir->n_outputs == signature->n_outputs;
    for (int i = 0; same && i < ir->n_outputs; i++) {
        const zm_pattern *first = &signature->input_patterns[0], *own = &signature->output_patterns[i];
        bool is_row = first->has_rest && first->n_dims == 1 && own->has_rest && !own->n_dims;
        same = !strcmp(ir->outputs[i].name, signature->outputs[i].name) &&
               (ir->outputs[i].level == ZM_LEVEL_ROW) == is_row;
    }
    return same ? ZMLX_OK : zm_fail(error, ZMLX_ERROR_FORMAT, ir->name, "its body and signature have other outputs");
}

/* What the derivatives of a profile are of. */
static zmlx_status lower_plain(zm_ir **plain, const zm_kernel_entry *entry, zmlx_error *error) {
    const zm_kernel_entry *base = zm_catalog_lookup(entry->row->profile_of);
    texts names;
    zm_map_text map = describe(&names, base, &base->row->body);
    return zm_lower_map(plain, &map, error);
}

/* Whether no result is rounded to what the caller's data is, so that a gradient may use them. */
static bool gives_float32(const zm_signature *signature) {
    for (int i = 0; i < signature->n_outputs; i++)
        if (strcmp(signature->outputs[i].type, "float32")) return false;
    return true;
}

static zmlx_status finish(zmlx_kernel **kernel, zm_ir *forward, const zm_kernel_entry *entry, bool has_gradient,
                          zmlx_error *error) {
    zm_ir *gradient = NULL, *plain = NULL;
    zmlx_status status = check_outputs(forward, &entry->signature, error);
    if (!status && has_gradient && entry->row->gradients[0])
        status = zm_lower_gradient(&gradient, forward, entry->row->gradients, NULL, entry->row->header,
                                   gives_float32(&entry->signature), error);
    if (!status && entry->row->profile_of) status = lower_plain(&plain, entry, error);
    if (status) {
        zm_ir_free(gradient);
        zm_ir_free(forward);
        return status;
    }
    status = zm_kernel_new(kernel, forward, gradient, error);
    if (status) zm_ir_free(plain);
    ZM_TRY(status);
    (*kernel)->differentiated = plain;
    for (int i = 0; i < entry->signature.n_inputs; i++)
        if (entry->signature.roles[i] == ZM_ROLE_DATA || entry->signature.roles[i] == ZM_ROLE_STATE)
            (*kernel)->data_inputs |= (uint64_t)1 << i;
        else if (is_vector(&entry->signature.input_patterns[i]))
            (*kernel)->vector_inputs |= (uint64_t)1 << i;
    for (int i = 0; i < entry->signature.n_inputs; i++)
        if (entry->signature.roles[i] == ZM_ROLE_CONSTANT) (*kernel)->constant_inputs |= (uint64_t)1 << i;
    if (!(*kernel)->data_inputs) (*kernel)->data_inputs = (uint64_t)1 << 63; /* no input: all are summed */
    if (!entry->row->no_gradient) return ZMLX_OK;
    (*kernel)->node_class.vjp = NULL; /* refused by name */
    (*kernel)->node_class.jvp = NULL;
    return ZMLX_OK;
}

zmlx_status zm_catalog_kernel_new(zmlx_kernel **kernel, const zm_kernel_entry *entry, const char *body,
                                  zmlx_error *error) {
    texts names;
    zm_ir *forward;
    *kernel = NULL;
    if (!entry->row->body)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, entry->entry.name, "is composed of several kernels");
    const char *text = body ? body : entry->row->body;
    zm_map_text map = describe(&names, entry, &text);
    ZM_TRY(zm_lower_map(&forward, &map, error));
    return finish(kernel, forward, entry, !body, error);
}

/* Another name of a kernel has that kernel's place. */
static int place_of(const zm_kernel_entry *entry) {
    const zm_kernel_entry *other;
    for (int i = 0; (other = zm_catalog_at(i)); i++)
        if (other->row == entry->row) return i;
    return 0;
}

zmlx_status zm_catalog_kernel(zmlx_kernel **kernel, const zm_kernel_entry *entry, zmlx_error *error) {
    int place = place_of(entry);
    zmlx_status status = ZMLX_OK;
    pthread_mutex_lock(&made.lock);
    if (!made.kernels[place]) status = zm_catalog_kernel_new(&made.kernels[place], entry, NULL, error);
    *kernel = made.replaced[place] ? made.replaced[place] : made.kernels[place];
    pthread_mutex_unlock(&made.lock);
    return status;
}

void zm_catalog_kernel_replace(const zm_kernel_entry *entry, zmlx_kernel *kernel) {
    int place = place_of(entry);
    pthread_mutex_lock(&made.lock);
    zmlx_kernel_free(made.replaced[place]);
    made.replaced[place] = kernel;
    pthread_mutex_unlock(&made.lock);
}

static int find_input(const zm_signature *signature, const char *sign) {
    for (int i = 0; i < signature->n_inputs; i++) {
        size_t size = strlen(signature->inputs[i].name);
        if (!strncmp(sign, signature->inputs[i].name, size) && !strcmp(sign + size, signed_suffix)) return i;
    }
    return -1;
}

static zm_numbers collect_numbers(const zm_ir *ir, const zm_signature *signature, const zmlx_catalog_value *values,
                                  const bool *is_signed) {
    zm_numbers numbers = {0};
    for (int i = 0; i < ir->n_parameters; i++) {
        for (int j = 0; j < signature->n_numbers; j++) {
            if (strcmp(ir->parameters[i].name, signature->numbers[j].name)) continue;
            numbers.parameters[i] = ir->parameters[i].is_seed ? 0 : (float)values[j].number;
            numbers.seeds[i] = ir->parameters[i].is_seed ? values[j].seed : 0;
        }
        int coded = find_input(signature, ir->parameters[i].name);
        if (coded >= 0 && is_signed) numbers.parameters[i] = is_signed[coded];
    }
    return numbers;
}

zm_numbers zm_catalog_numbers(const zm_kernel_entry *entry, const zmlx_catalog_value *values) {
    zmlx_kernel *kernel;
    if (zm_catalog_kernel(&kernel, entry, NULL)) return (zm_numbers){0};
    return collect_numbers(kernel->forward, &entry->signature, values, NULL);
}

/* How a result is stored by the kernel: one type serves all results whose type the caller chooses. */
static mlx_dtype stored_type(const char *declared, mlx_dtype wanted, mlx_dtype data_type) {
    if (!strcmp(declared, "any") || wanted == MLX_UINT32 || wanted == MLX_UINT8) return wanted;
    return !declared[0] && wanted == data_type ? wanted : MLX_FLOAT32;
}

static void apply(zm_scope *scope, mlx_array *results, zmlx_kernel *kernel, const zm_kernel_entry *entry,
                  const mlx_array *inputs, const zm_numbers *numbers, const mlx_dtype *types, mlx_dtype data_type) {
    mlx_dtype stored[ZM_SIGNATURE_MAX_OUTPUTS];
    mlx_array made_now[ZM_IR_MAX_OUTPUTS] = {{NULL}};
    zmlx_error error;
    if (zm_scope_failed(scope)) return;
    for (int i = 0; i < entry->signature.n_outputs; i++)
        stored[i] = stored_type(entry->signature.outputs[i].type, types[i], data_type);
    zm_call call = {.inputs = inputs, .numbers = numbers, .output_types = stored};
    if (zm_kernel_call(kernel, made_now, &call, scope->stream, &error)) {
        zm_scope_fail(scope, error.code, error.where, "%s", error.message);
        return;
    }
    for (int i = 0; i < entry->signature.n_outputs; i++) {
        results[i] = zm_scope_own(scope, made_now[i]);
        if (mlx_array_dtype(results[i]) != types[i]) results[i] = zm_astype(scope, results[i], types[i]);
    }
}

/* The arrays that an expression's kernel takes: optional ones filled in, parameters of one type. */
static void choose_inputs(mlx_array *chosen, const zm_catalog_call *call) {
    const zm_signature *signature = &call->entry->signature;
    bool widens = zm_parameters_are_float32(call) || widens_vectors(call->scope, call->entry);
    for (int i = 0; i < signature->n_inputs; i++) {
        bool is_parameter = zm_role_is_parameter(signature->roles[i]);
        mlx_dtype dtype = is_parameter && widens ? MLX_FLOAT32 : call->data_type;
        chosen[i] = call->inputs[i];
        if (!chosen[i].ctx)
            chosen[i] = zm_scalar(call->scope, (double)signature->absent[i], dtype);
        else if (is_parameter && mlx_array_dtype(chosen[i]) != dtype)
            chosen[i] = zm_astype(call->scope, chosen[i], dtype);
    }
}

void zm_call_expression(zm_catalog_call *call) {
    mlx_array chosen[ZM_SIGNATURE_MAX_INPUTS];
    zmlx_kernel *kernel;
    zmlx_error error;
    if (zm_catalog_kernel(&kernel, call->entry, &error)) {
        zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
        return;
    }
    choose_inputs(chosen, call);
    zm_numbers numbers = collect_numbers(kernel->forward, &call->entry->signature, call->values, call->is_signed);
    apply(call->scope, call->outputs, kernel, call->entry, chosen, &numbers, call->output_types, call->data_type);
}

void zm_call_part(zm_catalog_call *call, mlx_array *results, const char *name, const mlx_array *inputs,
                  const zmlx_catalog_value *values, const mlx_dtype *types) {
    const zm_kernel_entry *entry = zm_catalog_lookup(name);
    zmlx_catalog_value presets[ZM_SIGNATURE_MAX_NUMBERS];
    mlx_dtype chosen[ZM_SIGNATURE_MAX_OUTPUTS], data_type = MLX_FLOAT32;
    zmlx_kernel *kernel;
    zmlx_error error;
    if (zm_scope_failed(call->scope)) return;
    if (!entry) {
        zm_scope_fail(call->scope, ZMLX_ERROR_ARGUMENT, call->where, "there is no kernel %s", name);
        return;
    }
    if (zm_catalog_kernel(&kernel, entry, &error)) {
        zm_scope_fail(call->scope, error.code, error.where, "%s", error.message);
        return;
    }
    zmlx_catalog_presets(presets, &entry->entry);
    for (int i = entry->signature.n_inputs - 1; i >= 0; i--)
        if (entry->signature.roles[i] == ZM_ROLE_DATA) data_type = mlx_array_dtype(inputs[i]);
    for (int i = 0; i < entry->signature.n_outputs; i++) chosen[i] = types ? types[i] : data_type;
    mlx_array widened[ZM_SIGNATURE_MAX_INPUTS];
    for (int i = 0; i < entry->signature.n_inputs; i++) {
        bool is_parameter = zm_role_is_parameter(entry->signature.roles[i]);
        widened[i] = is_parameter && widens_vectors(call->scope, entry) ? zm_astype(call->scope, inputs[i], MLX_FLOAT32)
                                                                        : inputs[i];
    }
    zm_numbers numbers = collect_numbers(kernel->forward, &entry->signature, values ? values : presets, NULL);
    apply(call->scope, results, kernel, entry, widened, &numbers, chosen, data_type);
}
