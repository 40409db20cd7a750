/* SPDX-License-Identifier: MIT */
#include "zmlx/catalog_bench.h"

#include <stdlib.h>
#include <string.h>

#include "base/random.h"
#include "bench/host_graph.h"
#include "kernels/compose.h"

/* Both sides. Their inputs are those of the kernel, then, for a gradient, cotangents. */
typedef struct subject {
    const zm_kernel_entry *entry;
    zmlx_kernel *kernel;
    const zmlx_catalog_bench *bench;
    zmlx_catalog_value values[ZM_SIGNATURE_MAX_NUMBERS];
    zm_numbers numbers;
    mlx_stream stream;
    zmlx_error failure;
} subject;

enum { MAX_ARRAYS = ZM_SIGNATURE_MAX_INPUTS + ZM_SIGNATURE_MAX_OUTPUTS };

static int take(mlx_array *arrays, const mlx_vector_array from, size_t count) {
    for (size_t i = 0; i < count; i++)
        if (mlx_vector_array_get(&arrays[i], from, i)) return 1;
    return 0;
}

static void free_all(mlx_array *arrays, size_t count) {
    for (size_t i = 0; i < count; i++) mlx_array_free(arrays[i]);
}

static int give(mlx_vector_array *results, const mlx_array *arrays, size_t count) {
    mlx_vector_array made = mlx_vector_array_new();
    int failed = 0;
    for (size_t i = 0; i < count && !failed; i++)
        if (arrays[i].ctx) failed = mlx_vector_array_append_value(made, arrays[i]);
    if (!failed) failed = mlx_vector_array_set(results, made);
    mlx_vector_array_free(made);
    return failed;
}

static int apply_kernel(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    const zmlx_catalog_entry *entry = &self->entry->entry;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    bool gradient = self->bench->gradient;
    size_t n_out = gradient ? entry->n_inputs : entry->n_outputs;
    int failed = take(in, inputs, mlx_vector_array_size(inputs));
    if (!failed && gradient)
        failed = zmlx_catalog_apply_gradient(entry->name, out, in, entry->n_inputs, in + entry->n_inputs, self->values,
                                             self->stream, &self->failure) != ZMLX_OK;
    else if (!failed)
        failed = zmlx_catalog_apply(entry->name, out, in, entry->n_inputs, self->values, self->stream, &self->failure) != ZMLX_OK;
    if (!failed) failed = give(results, out, n_out);
    free_all(in, MAX_ARRAYS);
    free_all(out, MAX_ARRAYS);
    return failed;
}

static int apply_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    mlx_array in[MAX_ARRAYS] = {{NULL}}, out[MAX_ARRAYS] = {{NULL}};
    size_t n_inputs = self->entry->entry.n_inputs;
    int failed = take(in, inputs, n_inputs);
    zm_scope scope;
    zm_scope_begin(&scope, self->stream);
    if (!failed) zm_host_graph(&scope, out, self->kernel, in, &self->numbers);
    if (!failed && !zm_scope_failed(&scope)) failed = give(results, out, self->entry->entry.n_outputs);
    failed |= zm_scope_end(&scope, &self->failure) != ZMLX_OK;
    free_all(in, n_inputs);
    return failed;
}

static int differentiate_host(mlx_vector_array *results, const mlx_vector_array inputs, void *context) {
    subject *self = context;
    size_t n_inputs = self->entry->entry.n_inputs, n_outputs = self->entry->entry.n_outputs;
    mlx_array in[MAX_ARRAYS] = {{NULL}};
    int failed = take(in, inputs, n_inputs + n_outputs);
    mlx_vector_array primals = mlx_vector_array_new_data(in, n_inputs), values = mlx_vector_array_new(),
                     cotangents = mlx_vector_array_new_data(in + n_inputs, n_outputs);
    mlx_closure function = mlx_closure_new_func_payload(apply_host, self, NULL);
    if (!failed) failed = mlx_vjp(&values, results, function, primals, cotangents);
    mlx_closure_free(function);
    mlx_vector_array_free(primals);
    mlx_vector_array_free(cotangents);
    mlx_vector_array_free(values);
    free_all(in, MAX_ARRAYS);
    return failed;
}

/* Between -2 and 2; of whole numbers 0 and 1. */
static zmlx_status random_array(mlx_array *array, const int *shape, int n_dims, mlx_dtype dtype, bool whole, uint64_t seed,
                                mlx_stream stream, zmlx_error *error) {
    size_t size = 1;
    for (int i = 0; i < n_dims; i++) size *= (size_t)shape[i];
    float *values = malloc((size + 1) * sizeof *values);
    if (!values) return zm_fail_memory(error);
    for (size_t i = 0; i < size; i++) {
        uint64_t word = zm_splitmix64(seed, i);
        values[i] = whole ? (float)(word % 2) : (float)(word >> 40) * 0x1p-22f - 2;
    }
    zm_scope scope;
    zm_scope_begin(&scope, stream);
    zm_scope_keep(&scope, array, zm_astype(&scope, zm_from_data(&scope, values, shape, n_dims, MLX_FLOAT32), dtype));
    zmlx_status status = zm_scope_end(&scope, error);
    if (!status && mlx_array_eval(*array)) status = zm_mlx_fail(error, "random input");
    free(values);
    return status;
}

static mlx_dtype type_of(const subject *self, zm_role role) {
    switch (role) {
    case ZM_ROLE_DATA:
    case ZM_ROLE_PARAMETER: return self->bench->has_dtype ? self->bench->dtype : MLX_FLOAT32;
    case ZM_ROLE_STATE: return MLX_FLOAT32;
    case ZM_ROLE_INDEX:
    case ZM_ROLE_WORD: return MLX_UINT32;
    default: return MLX_UINT8;
    }
}

static zmlx_status make_inputs(mlx_array *inputs, const subject *self, const int *shape, int n_dims, zmlx_error *error) {
    const zm_signature *signature = &self->entry->signature;
    const char *name = self->entry->entry.name;
    zm_sizes sizes = {0};
    for (int i = 0; i < signature->n_numbers; i++)
        if (signature->kinds[i] == ZM_NUMBER_INT || signature->kinds[i] == ZM_NUMBER_BOOL)
            zm_sizes_set(&sizes, signature->numbers[i].name, (int64_t)self->values[i].number);
    ZM_TRY(zm_pattern_meet(&sizes, &signature->input_patterns[0], shape, n_dims, name, signature->inputs[0].name, error));
    for (int i = 0; i < signature->n_inputs + signature->n_outputs; i++) {
        bool is_input = i < signature->n_inputs;
        int place = is_input ? i : i - signature->n_inputs, own[ZM_SIGNATURE_MAX_DIMS], n_own;
        const zm_pattern *pattern = is_input ? &signature->input_patterns[place] : &signature->output_patterns[place];
        if (!is_input && !self->bench->gradient) break;
        if (!zm_pattern_shape(own, &n_own, pattern, &sizes))
            return zm_fail(error, ZMLX_ERROR_ARGUMENT, name, "%s: its shape does not follow from that of %s",
                           is_input ? signature->inputs[place].name : signature->outputs[place].name, signature->inputs[0].name);
        zm_role role = is_input ? signature->roles[place] : ZM_ROLE_DATA;
        bool whole = role != ZM_ROLE_DATA && role != ZM_ROLE_PARAMETER && role != ZM_ROLE_STATE;
        ZM_TRY(random_array(&inputs[i], own, n_own, type_of(self, role), whole, (uint64_t)i, self->stream, error));
    }
    return ZMLX_OK;
}

static zmlx_status prepare(subject *self, const char *name, zmlx_error *error) {
    self->entry = name && zmlx_catalog_find(name) ? zm_catalog_lookup(name) : NULL;
    if (!self->entry) return zm_fail(error, ZMLX_ERROR_ARGUMENT, name ? name : "name", "there is no kernel of this name");
    if (!self->entry->row->body)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "is composed of several kernels: there is nothing to compare it with");
    if (self->bench->gradient && self->entry->row->no_gradient)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name, "has no gradient: %s", self->entry->row->no_gradient);
    if (self->bench->values)
        memcpy(self->values, self->bench->values, self->entry->entry.n_numbers * sizeof *self->values);
    else
        zmlx_catalog_presets(self->values, &self->entry->entry);
    self->numbers = zm_catalog_numbers(self->entry, self->values);
    return zm_catalog_kernel(&self->kernel, self->entry, error);
}

zmlx_status zmlx_bench_catalog(zmlx_comparison *comparison, const char *name, const int *shape, int n_dims,
                               const zmlx_catalog_bench *bench, mlx_stream stream, const zmlx_bench_options *options,
                               zmlx_error *error) {
    static const zmlx_catalog_bench defaults;
    subject self = {.bench = bench ? bench : &defaults, .stream = stream};
    mlx_array inputs[MAX_ARRAYS] = {{NULL}};
    zm_error_clear(error);
    *comparison = (zmlx_comparison){0};
    if (self.bench->baseline == ZMLX_BENCH_NONE)
        return zm_fail(error, ZMLX_ERROR_UNSUPPORTED, name ? name : "name", "needs a baseline: ask for MLX or compiled MLX");
    ZM_TRY(prepare(&self, name, error));
    zmlx_status status = make_inputs(inputs, &self, shape, n_dims, error);
    if (!status) {
        size_t count = self.entry->entry.n_inputs + (self.bench->gradient ? self.entry->entry.n_outputs : 0);
        mlx_vector_array arrays = mlx_vector_array_new_data(inputs, count);
        mlx_closure host = mlx_closure_new_func_payload(self.bench->gradient ? differentiate_host : apply_host, &self, NULL);
        mlx_closure candidate = mlx_closure_new_func_payload(apply_kernel, &self, NULL), compiled = mlx_closure_new();
        bool compiles = self.bench->baseline == ZMLX_BENCH_MLX_COMPILED;
        if (compiles && mlx_compile(&compiled, host, false)) status = zm_mlx_fail(error, name);
        if (!status) status = zmlx_bench_compare(comparison, compiles ? compiled : host, candidate, arrays, options, error);
        if (status && self.failure.code) { /* what the function said, not that it failed */
            if (error) *error = self.failure;
            status = self.failure.code;
        }
        mlx_closure_free(compiled);
        mlx_closure_free(host);
        mlx_closure_free(candidate);
        mlx_vector_array_free(arrays);
    }
    free_all(inputs, MAX_ARRAYS);
    return status;
}
